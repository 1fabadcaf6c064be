# How long is the chronicle, and where are the entries that are worth a question?
import re

text = rlm.inputs["chronicle"]
wanted = re.compile(r"\b(press|safe)\b")
by_chunk = [len(wanted.findall(chunk)) for chunk in text.chunks(1_000_000)]
entries = [found.text for found in text.grep(wanted)]
rlm.vars["entries"] = sorted(set(entries))
rlm.metric("bytes", text.size)
rlm.metric("entries", len(entries))
print(f"{text.size:,} bytes; {len(entries)} entries of press or safe, at most {max(by_chunk)} in a million")
print(text.head(200))
