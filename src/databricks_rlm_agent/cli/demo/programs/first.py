# Average departure delay of each airline in poor and in fair weather.
poor = "w.visibility < 3 OR w.precip > 0"
delays = spark.sql(f"""
    SELECT f.carrier, avg(CASE WHEN {poor} THEN f.dep_delay END) AS poor_delay
    FROM {rlm.inputs["flights"].name} f
    JOIN {rlm.inputs["weather"].name} w ON f.origin = w.origin AND f.time_hour = w.time_hour
    GROUP BY f.carrier
""")
delays.show()
