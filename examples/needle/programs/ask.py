# Let the sub-model read each entry, and add up what it says.
from collections import Counter

entries = rlm.vars["entries"]
press = [entry for entry in entries if "press" in entry]
safe = [entry for entry in entries if "safe" in entry]
stop = {
    "type": "object",
    "properties": {"hours": {"type": "string"}, "cause": {"type": "string"}},
    "required": ["hours", "cause"],
}
said = rlm.llm_query_batched(
    [f"How long did the press stand still (hours, 0 if it did not), and why? {entry}" for entry in press],
    schema=stop,
)
numbers = rlm.llm_query_batched(
    [f"What opens the safe? Say 'unknown' if this does not tell: {entry}" for entry in safe]
)
hours = Counter()
for answer in said:
    hours[answer["cause"]] += int(answer["hours"])
del hours["none"]
(cause, most), stops = hours.most_common(1)[0], sum(answer["hours"] != "0" for answer in said)
opens = [answer for answer in numbers if answer != "unknown"]
rows = [(name, lost) for name, lost in sorted(hours.items())]
table = rlm.table("press_stops")
spark.createDataFrame(rows, "cause STRING, hours BIGINT").write.mode("overwrite").saveAsTable(table)
rlm.finish({"safe": opens[0], "stops": stops, "hours": sum(hours.values()), "cause": cause, "most": most})
print(rows, opens)
