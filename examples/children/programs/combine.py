# Put the children's answers together.
answers = [rlm.inputs[name].value for name in ("ewr", "jfk", "lga")]
rows = [(a["airport"], a["flights"], a["worst"], a["delay"], len(a["bad"])) for a in answers]
table = rlm.table("airport_months")
columns = "airport STRING, flights BIGINT, worst_month BIGINT, delay DOUBLE, bad_months BIGINT"
spark.createDataFrame(rows, columns).write.mode("overwrite").saveAsTable(table)
worst = max(answers, key=lambda a: (len(a["bad"]), a["delay"]))
rlm.finish({**worst, "bad": len(worst["bad"]), "all": sum(a["flights"] for a in answers)})
print(rows)
