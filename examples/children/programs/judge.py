# What would a traveller say of each month?
airport = rlm.inputs["airport"].text()
months = rlm.vars["months"]
words = rlm.llm_query_batched(
    [
        f"Departures from {airport} in month {month} were {delay} minutes late on average. "
        "In one word, how was it for travellers: calm, busy or bad?"
        for month, delay, _ in months
    ]
)
worst = max(months, key=lambda month: month[1])
bad = [month for (month, _, _), word in zip(months, words, strict=True) if word == "bad"]
flights = sum(count for _, _, count in months)
rlm.finish({"airport": airport, "worst": worst[0], "delay": worst[1], "bad": bad, "flights": flights})
print(dict(zip([month for month, _, _ in months], words, strict=True)))
