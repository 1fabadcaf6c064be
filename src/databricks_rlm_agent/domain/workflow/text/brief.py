"""Statements that carry their data with them, short enough for a parser. Pure.

A parser needs about a second for 20,000 rows written out; which tables are read hangs on none of them.
"""

from __future__ import annotations

import re

LONG = 20_000  # characters up to which parsing is quick
STRING = r"(?:'(?:[^'\\]|\\.|'')*+'|\"(?:[^\"\\]|\\.|\"\")*+\")"
_LITERAL = rf"(?:(?:timestamp |date |r |x )?{STRING}|(?:[-+] )?\d[\w.]*+|(?:null|true|false|default)\b)"
_LISTED = re.compile(rf"(?<=[(,] ){_LITERAL}(?= [,)])", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(rf"(?<![\w.`]){_LITERAL}", re.IGNORECASE | re.DOTALL)
_LIST = re.compile(r"(?<=[(,] )0(?: , 0){10,}+")
# What stands in parentheses, with calls in it up to so many deep; and the same again.
_CALL = r"[^()]*+"
for _ in range(6):
    _CALL = rf"[^()]*+(?:\({_CALL}\)[^()]*+)*+"
_REPEATED = re.compile(rf"(\({_CALL}\))(?: , \1)++")
# SELECT 1 , 'a' UNION ALL SELECT 1 , 'a' …
_UNITED = re.compile(r"(\bselect [^()]{1,2000}?)(?: union all \1(?= union all|$| \)))++", re.IGNORECASE)


def brief(plain: str, *, long: int = LONG) -> str:
    """A statement, single spaces between its words, that reads and writes the same tables.

    Lists of literals become one literal, and rows that then are alike one row. Short ones stay as they are.
    """
    if len(plain) <= long:
        return plain
    text = _LIST.sub("0 , 0", _LISTED.sub("0", plain))
    text = _ALONE.sub(_alike, text)
    return _UNITED.sub(r"\1", _REPEATED.sub(r"\1", text))


def _alike(found: re.Match[str]) -> str:
    """Another literal of that kind, the same for all; of words there are few."""
    kind, quote, _ = found[0].partition(found[0][-1] if found[0][-1] in "'\"" else "'")
    return f"{kind}''" if quote else "0" if found[0][0] in "+-0123456789" else found[0]
