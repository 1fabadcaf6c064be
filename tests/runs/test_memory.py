from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.runs.capsule.packing import (
    ITEM_CHARS,
    NEWEST,
    CapsuleItem,
    Gist,
    failure_key,
    merged,
    settled,
    visible,
)

ANY = st.text(st.characters(), max_size=30).flatmap(lambda text: st.integers(1, 60).map(lambda n: text * n))
ITEMS = st.lists(
    st.builds(
        CapsuleItem,
        text=st.sampled_from("abcdefghijklmnop"),
        iter_n=st.integers(1, 9),
        count=st.integers(1, 3),
        kind=st.sampled_from(["", "KeyError", "ValueError"]),
    ),
    max_size=30,
)


def total(items: list[CapsuleItem]) -> int:
    return sum(item.count for item in items)


@given(ANY)
def test_an_item_is_one_visible_line_of_a_fixed_length(text: str) -> None:
    item = CapsuleItem(text=text, kind=text).bounded()
    assert len(item.text) <= ITEM_CHARS
    assert len(item.kind) <= 80
    assert item.text.isprintable() or "\\u" in ascii(item.text)
    assert len(json.dumps(item.text, ensure_ascii=False)) <= 2 * ITEM_CHARS + 2
    assert item.bounded() == item


@given(ITEMS, ITEMS)
def test_merging_loses_no_count_and_no_words(old: list[CapsuleItem], new: list[CapsuleItem]) -> None:
    known = merged([], old)
    both = merged(known, new)
    assert total(both) == total(old) + total(new)
    assert {item.same for item in both} == {item.same for item in [*old, *new]}
    assert len({item.same for item in both}) == len(both)
    if new:
        assert both[-1].same == new[-1].same


@given(ITEMS, st.integers(0, 12), st.integers(0, 4))
def test_what_goes_is_counted_and_the_newest_stay(items: list[CapsuleItem], limit: int, first: int) -> None:
    kept, gone = settled(items, fits=lambda rest: len(rest) <= limit, rank=lambda _: 0, first=first)
    assert len(kept) <= limit
    assert total(kept) + total(gone) == total(items)
    newest = [item.text for item in items[len(items) - min(NEWEST, max(0, limit - first)) :]]
    assert [item.text for item in kept][len(kept) - len(newest) :] == newest
    if len(items) <= limit:
        assert (kept, gone) == (items, [])


@given(ITEMS)
def test_a_gist_counts_and_spans_what_it_absorbed(items: list[CapsuleItem]) -> None:
    gist = Gist()
    for item in items:
        gist = gist.absorb(item, heads=3)
    assert gist.count == total(items)
    assert len(gist.heads) == min(3, len(items))
    if items:
        numbers = [item.iter_n for item in items if item.iter_n]
        assert (gist.since, gist.until) == (min(numbers), max(numbers))


def test_names_and_numbers_make_a_difference_and_letters_do_not() -> None:
    def same(one: str, other: str) -> bool:
        return CapsuleItem(text=one).same == CapsuleItem(text=other).same

    assert same("The total is 5.", "total  is 5")
    assert not same("the total is 5", "the total is 6")
    assert not same("use main.a.t", "use main.a.u")
    assert not same("t is reliable", "t is not reliable")
    assert not same("b before a", "a before b")
    assert failure_key("E", "at line 3") == failure_key("E", "At  line 44")


@given(ANY)
def test_visible_text_keeps_its_lines(text: str) -> None:
    assert visible(text).count("\n") == text.count("\n")
    assert len(visible(text)) == len(text)
