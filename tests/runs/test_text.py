from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.values import clip, storable

ANY_TEXT = st.text(st.characters(), max_size=400)  # lone surrogates included
MARK = re.compile(r" \[…([\d,]+) characters left out…\] ")


@given(ANY_TEXT, st.integers(1, 60), st.integers(40, 3_000))
def test_never_longer_than_the_limit(text: str, times: int, limit: int) -> None:
    clipped = clip(text * times, limit)
    assert len(clipped) <= limit
    clipped.encode("utf-8")  # can be stored


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_short_text_is_left_alone(text: str) -> None:
    assert clip(text, 40) == text


@given(st.integers(41, 200_000), st.integers(40, 3_000))
def test_the_mark_tells_the_truth_and_head_and_tail_are_kept(length: int, limit: int) -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    clipped = clip(text, limit)
    found = MARK.search(clipped)
    if length <= limit:
        assert found is None
        return
    assert found is not None
    head, tail = clipped[: found.start()], clipped[found.end() :]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert int(found[1].replace(",", "")) == length - len(head) - len(tail)


def test_the_smallest_limit_and_a_very_long_text() -> None:
    assert len(clip("x" * 20_000_000, 40)) <= 40


@given(ANY_TEXT)
def test_storable_changes_surrogates_only(text: str) -> None:
    assert storable(text) == re.sub("[\ud800-\udfff]", "?", text)
