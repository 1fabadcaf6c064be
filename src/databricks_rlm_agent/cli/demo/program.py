# The weather table calls it `visib`. Departures that never happened have no delay and are left out.
POOR = "w.visib < 3 OR w.precip > 0"
joined = f"""
    FROM {rlm.inputs["flights"].name} f
    JOIN {rlm.inputs["weather"].name} w ON f.origin = w.origin AND f.time_hour = w.time_hour
    JOIN {rlm.inputs["airlines"].name} a ON f.carrier = a.carrier
    JOIN {rlm.inputs["airports"].name} p ON f.origin = p.faa
    WHERE f.dep_delay IS NOT NULL AND w.visib IS NOT NULL AND w.precip IS NOT NULL
"""
measures = f"""
    count(CASE WHEN {POOR} THEN 1 END) AS poor_departures,
    count(CASE WHEN NOT ({POOR}) THEN 1 END) AS fair_departures,
    round(avg(CASE WHEN {POOR} THEN f.dep_delay END), 1) AS poor_delay,
    round(avg(CASE WHEN NOT ({POOR}) THEN f.dep_delay END), 1) AS fair_delay
"""
target = "main.nycflights13.weather_delays"
spark.sql(f"SELECT a.name AS airline, {measures} {joined} GROUP BY a.name").write.format("delta").mode(
    "overwrite"
).saveAsTable(target)
rlm.table(target)

worst = spark.sql(f"""
    SELECT *, round(poor_delay - fair_delay, 1) AS extra FROM {target}
    WHERE poor_departures >= 500 ORDER BY extra DESC, airline
""").toPandas()
airport = (
    spark.sql(f"SELECT p.name AS airport, {measures} {joined} GROUP BY p.name ORDER BY poor_delay DESC")
    .toPandas()
    .iloc[0]
)
overall = spark.sql(f"SELECT {measures} {joined}").toPandas().iloc[0]
print(worst.to_string(index=False))
rlm.metric("departures_compared", int(overall.poor_departures + overall.fair_departures))
rlm.finish(
    {
        "departures": int(overall.poor_departures + overall.fair_departures),
        "poor_delay": float(overall.poor_delay),
        "fair_delay": float(overall.fair_delay),
        "airline": worst.iloc[0].airline,
        "airline_poor": float(worst.iloc[0].poor_delay),
        "airline_fair": float(worst.iloc[0].fair_delay),
        "steadiest": worst.iloc[-1].airline,
        "steadiest_extra": float(worst.iloc[-1].extra),
        "airport": airport.airport,
        "airport_poor": float(airport.poor_delay),
    }
)
