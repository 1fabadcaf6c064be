from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.runs.capsule.capsule import merge_failures
from databricks_rlm_agent.runs.capsule.packing import (
    ITEM_CHARS,
    NEWEST,
    CapsuleItem,
    EarlierItems,
    Part,
    failure_key,
    keep,
    merge_items,
    pack,
    printable,
    shorten,
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
    item = CapsuleItem(text=text, kind=text).shortened()
    assert len(item.text) <= ITEM_CHARS
    assert len(item.kind) <= 80
    assert item.text.isprintable() or "\\u" in ascii(item.text)
    assert len(json.dumps(item.text, ensure_ascii=False)) <= 2 * ITEM_CHARS + 2
    assert item.shortened() == item


@given(ITEMS, ITEMS)
def test_merging_loses_no_count_and_no_words(old: list[CapsuleItem], new: list[CapsuleItem]) -> None:
    known = merge_items([], old)
    both = merge_items(known, new)
    assert total(both) == total(old) + total(new)
    assert {item.identity for item in both} == {item.identity for item in [*old, *new]}
    assert len({item.identity for item in both}) == len(both)
    if new:
        assert both[-1].identity == new[-1].identity


@given(ITEMS, st.integers(0, 12), st.integers(0, 4))
def test_what_goes_is_counted_and_the_newest_stay(items: list[CapsuleItem], limit: int, first: int) -> None:
    kept, dropped = keep(items, fits=lambda rest: len(rest) <= limit, first=first, merge=merge_failures)
    assert len(kept) <= limit
    assert total(kept) + total(dropped) == total(items)
    newest = [item.text for item in items[len(items) - min(NEWEST, max(0, limit - first)) :]]
    assert [item.text for item in kept][len(kept) - len(newest) :] == newest
    if len(items) <= limit:
        assert (kept, dropped) == (items, [])


@given(ITEMS)
def test_earlier_items_count_and_span_what_was_condensed(items: list[CapsuleItem]) -> None:
    earlier = EarlierItems()
    for item in items:
        earlier = earlier.with_item(item, heads=3)
    assert earlier.count == total(items)
    assert len(earlier.heads) == min(3, len(items))
    if items:
        numbers = [item.iter_n for item in items if item.iter_n]
        assert (earlier.since, earlier.until) == (min(numbers), max(numbers))


@given(st.lists(st.integers(0, 400), max_size=6), st.integers(0, 900))
def test_parts_shrink_together_until_the_whole_fits(sizes: list[int], budget: int) -> None:
    parts = {
        str(n): Part(chars=300, fit=lambda chars, size=size: "x" * min(size, chars), least=20 * (n == 0))
        for n, size in enumerate(sizes)
    }
    packed = pack(parts, join=dict, fits=lambda whole: sum(map(len, whole.values())) <= budget)
    assert list(packed) == list(parts)
    least = sum(min(size, max(15, 20 * (n == 0))) for n, size in enumerate(sizes))
    assert sum(map(len, packed.values())) <= max(budget, least)
    if sum(min(size, 300) for size in sizes) <= budget:
        assert [len(part) for part in packed.values()] == [min(size, 300) for size in sizes]


@given(st.integers(0, 1_000))
def test_texts_are_no_shorter_than_they_must_be(chars: int) -> None:
    assert len(shorten(lambda limit: "x" * limit, fits=lambda text: len(text) <= chars)) <= max(40, chars)
    assert shorten(lambda limit: limit, fits=lambda _: True) == 600


def test_names_and_numbers_make_a_difference_and_letters_do_not() -> None:
    def same(one: str, other: str) -> bool:
        return CapsuleItem(text=one).identity == CapsuleItem(text=other).identity

    assert same("The total is 5.", "total  is 5")
    assert not same("the total is 5", "the total is 6")
    assert not same("use main.a.t", "use main.a.u")
    assert not same("t is reliable", "t is not reliable")
    assert not same("b before a", "a before b")
    assert failure_key("E", "at line 3") == failure_key("E", "At  line 44")


@given(ANY)
def test_printable_text_keeps_its_lines(text: str) -> None:
    assert printable(text).count("\n") == text.count("\n")
    assert len(printable(text)) == len(text)
