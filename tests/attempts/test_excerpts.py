from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.attempts.excerpts import MAX_REGIONS, REGION_BYTES, Region, chosen, regions

LINES = ["all is well", "ValueError: no", "WARN slow", "x" * 700, "ERROR here", "terror", "", "é" * 90]
CONTENT = st.lists(st.sampled_from(LINES), max_size=60).map(lambda lines: "\n".join(lines).encode())


def cut(content: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(content)) for place in places} | {len(content)})
    return [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(CONTENT, st.lists(st.integers(0, 9_000), max_size=6))
def test_regions_do_not_depend_on_how_the_file_comes(content: bytes, places: list[int]) -> None:
    found = regions(cut(content, places))
    assert [region.offset for region in found] == [region.offset for region in regions([content])]
    assert len(found) <= MAX_REGIONS
    for region in found:
        assert len(region.text.encode()) <= 3 * REGION_BYTES
    for one, next_one in pairwise(found):
        assert one.offset + REGION_BYTES <= next_one.offset + 150  # a region begins before its word
    signs = any(word in content for word in (b"ValueError", b"WARN", b"ERROR"))
    assert bool(found) == signs


def test_the_first_errors_and_the_last_are_kept() -> None:
    content = b"".join(b"Error number %03d\n" % n + b"." * 1_000 for n in range(100))
    texts = [region.text for region in regions([content])]
    assert [number for number in range(100) if any(f"number {number:03d}" in text for text in texts)] == [
        *(0, 1, 2),
        *(97, 98, 99),
    ]


@given(
    st.integers(0, 10**8),
    st.lists(st.integers(0, 10**8), max_size=6),
    st.integers(0, 9),
    st.integers(1, 20_000),
)
def test_chunks_are_few_apart_and_within_the_file(
    size: int, offsets: list[int], count: int, length: int
) -> None:
    known = [Region(offset=min(offset, size), text="e") for offset in offsets]
    places = chosen(size, known, count=count, length=length)
    assert len(places) <= count
    assert places == sorted(set(places))
    assert all(0 <= place < size for place in places)
    if count and size > count * length:
        assert count < 3 or (places[0], places[-1]) == (0, size - length)
        assert all(b - a >= length for a, b in pairwise(places))
    elif count and size:
        assert places == list(range(0, size, length))[: len(places)] or count == 1


def test_errors_come_before_samples() -> None:
    places = chosen(1_000_000, [Region(offset=333_333, text="e")], count=3, length=1_000)
    assert places == [0, 332_833, 999_000]


def test_a_single_chunk_is_not_spent_on_an_end() -> None:
    assert chosen(1_000_000, [], count=1, length=1_000) == [499_500]
    assert chosen(1_000_000, [Region(offset=9_000, text="e")], count=1, length=1_000) == [8_500]
