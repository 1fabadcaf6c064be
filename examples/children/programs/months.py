# Departures of one airport by month.
airport = rlm.inputs["airport"].text()
months = rlm.inputs["flights"].df().where(f"origin = '{airport}' AND dep_delay IS NOT NULL")
months = months.groupBy("month").agg({"dep_delay": "avg", "*": "count"}).orderBy("month").collect()
rlm.vars["months"] = [[row["month"], round(row["avg(dep_delay)"], 1), row["count(1)"]] for row in months]
print(airport, rlm.vars["months"])
