# One question for each kind of plane; planes that give the same question share its answer.
QUESTION = (
    "Which class of aircraft is this? {manufacturer} {model}, {type}, {seats} seats, {engines} engines "
    "({engine}). Answer with one of: helicopter, propeller, regional jet, narrow-body jet, wide-body jet."
)
planes = rlm.inputs["planes"].df()
answered = rlm.llm_map(planes, QUESTION, "class")
table = rlm.table("planes_classified")
answered.write.mode("overwrite").saveAsTable(table)
counts = {
    row["class"]: row["planes"]
    for row in spark.sql(
        f"SELECT class, count(*) AS planes FROM {table} GROUP BY class ORDER BY planes DESC"
    ).collect()
}
rlm.metric("planes", sum(counts.values()))
rlm.finish({"planes": sum(counts.values()), "counts": counts, "wide": counts["wide-body jet"]})
print(counts)
