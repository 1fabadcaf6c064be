"""Handles on long texts say the same as the whole text in a `str`, and read no more than they need."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_harness.rlm import text as texts
from executor_harness.rlm.inputs import File, Text

# Characters of one to four bytes, line ends of both kinds, lead and continuation bytes without their others
PARTS = ["a", "b", "ä", "€", "\U0001f600", "\n", "\r\n", "\r", " ", "ab", "\u2028", "\ufeff"]
STRAY = [b"\xff", b"\xe2\x82", b"\x80", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
raw = st.lists(
    st.sampled_from([part.encode() for part in PARTS] + STRAY) | st.binary(max_size=3), max_size=60
).map(b"".join)
bounds = st.integers(-90, 90) | st.none()


def ends(text: str) -> list[str]:
    """The lines of a text, by definition."""
    *lines, last = text.split("\n")
    return [line.removesuffix("\r") for line in lines] + ([last] if last else [])


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "text"


def file_of(place: Path, data: bytes, block: int) -> File:
    place.write_bytes(data)
    file = File(path=str(place))
    object.__setattr__(file, "_index", texts.CharIndex(place, block))
    return file


@given(data=raw, block=st.integers(1, 9), start=bounds, stop=bounds, again=bounds)
def test_slices_and_lengths_are_those_of_the_text(
    place: Path, data: bytes, block: int, start: int | None, stop: int | None, again: int | None
) -> None:
    file, text = file_of(place, data, block), data.decode("utf-8", "replace")
    assert file[start:stop] == text[start:stop]
    assert file[again:] == text[again:]
    assert len(file) == len(text)
    assert file[stop:start] == text[stop:start]
    assert bool(file) == bool(text)
    assert file.text() == text


@given(data=raw, block=st.integers(1, 9))
def test_every_character_by_its_position(place: Path, data: bytes, block: int) -> None:
    file, text = file_of(place, data, block), data.decode("utf-8", "replace")
    assert [file[at] for at in range(len(text))] == list(text)
    assert [file[-at] for at in range(1, len(text) + 1)] == [text[-at] for at in range(1, len(text) + 1)]
    for wrong in (len(text), -len(text) - 1):
        with pytest.raises(IndexError):
            _ = file[wrong]


@given(data=raw, count=st.integers(0, 70))
def test_head_and_tail(place: Path, data: bytes, count: int) -> None:
    file, text = file_of(place, data, 4), data.decode("utf-8", "replace")
    plain = Text(text)
    assert file.head(count) == plain.head(count) == text[:count]
    assert file.tail(count) == plain.tail(count) == (text[-count:] if count else "")


@given(data=raw, block=st.integers(1, 9))
def test_lines(place: Path, data: bytes, block: int) -> None:
    text = data.decode("utf-8", "replace")
    place.write_bytes(data)
    assert "".join(texts.pieces(place, block)) == text
    file = File(path=str(place))
    assert list(file.lines()) == list(file) == list(Text(text).lines()) == ends(text)
    assert "".join(file.lines(keepends=True)) == text


@given(data=raw, size=st.integers(1, 20), overlap=st.integers(0, 19))
def test_chunks(place: Path, data: bytes, size: int, overlap: int) -> None:
    text = data.decode("utf-8", "replace")
    place.write_bytes(data)
    file = File(path=str(place))
    if overlap >= size:
        with pytest.raises(ValueError, match="must be above overlap"):
            file.chunks(size, overlap)
        return
    step = size - overlap
    expected = [text[at : at + size] for at in range(0, max(0, len(text) - overlap), step)] or (
        [text] if text else []
    )
    assert list(file.chunks(size, overlap)) == list(Text(text).chunks(size, overlap)) == expected


PATTERNS = ["a", "b$", "^a", "^$", "a.?b", "[^a]", r"\bab", "(a)|(b)", "ä+", "", "a*", r"(?<=a)b", r"\s", "A"]


def found_by(pattern: re.Pattern[str], text: str) -> list[tuple[int, int, int, str]]:
    """What there is to find, line by line, by definition."""
    found, at = [], 0
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        content = line.removesuffix("\r") if number < len(lines) else line
        found += [(number, at + m.start(), at + m.end(), m[0]) for m in pattern.finditer(content)]
        at += len(line) + 1
    return found


@given(
    data=raw,
    pattern=st.sampled_from(PATTERNS),
    ignore_case=st.booleans(),
    limit=st.none() | st.integers(0, 4),
)
def test_grep(place: Path, data: bytes, pattern: str, ignore_case: bool, limit: int | None) -> None:
    text = data.decode("utf-8", "replace")
    place.write_bytes(data)
    file = File(path=str(place))
    matches = list(file.grep(pattern, ignore_case=ignore_case, limit=limit))
    expected = found_by(re.compile(pattern, re.IGNORECASE if ignore_case else 0), text)[:limit]
    assert [(m.line, m.start, m.end, m.match) for m in matches] == expected
    assert all(file[m.start : m.end] == m.match and m.path == file.path for m in matches)
    again = Text(text).grep(re.compile(pattern), ignore_case=ignore_case, limit=limit)
    assert [(m.line, m.start, m.end, m.match) for m in again] == expected


short = [pattern for pattern in PATTERNS if pattern not in {"ä+", "a*"}]  # found within the overlap


@given(
    text=st.text(st.sampled_from("aabAä \r\n"), max_size=200),
    pattern=st.sampled_from(short),
    cuts=st.integers(1, 40),
    size=st.integers(12, 24),
)
def test_windows_of_long_lines_find_the_same(text: str, pattern: str, cuts: int, size: int) -> None:
    window = texts.Window(size=size, overlap=4, context=2)
    pieces = [text[at : at + cuts] for at in range(0, len(text), cuts)]
    matches = texts.search(pieces, re.compile(pattern), window=window)
    assert [(m.line, m.start, m.end, m.match) for m in matches] == found_by(re.compile(pattern), text)


@given(
    text=st.text(st.sampled_from("aab\r\n"), max_size=200), first=st.integers(1, 40), second=st.integers(1, 9)
)
def test_what_is_found_does_not_depend_on_the_pieces(text: str, first: int, second: int) -> None:
    window = texts.Window(size=14, overlap=4, context=2)

    def found(cuts: int) -> list[Any]:
        pieces = [text[at : at + cuts] for at in range(0, len(text), cuts)]
        return list(texts.search(pieces, re.compile("a+b*"), window=window))

    assert found(first) == found(second)


def test_a_match_shows_its_surroundings(place: Path) -> None:
    place.write_text("x" * 5000 + "needle" + "y" * 5000 + "\nshort needle\n")
    long, brief = File(path=str(place)).grep("(nee)dle")
    assert (len(long.text), long.groups, "xneedley" in long.text) == (texts.SHOWN_CHARS, ("nee",), True)
    assert (brief.line, brief.text) == (2, "short needle")


def test_a_line_of_millions_of_characters_is_not_held(place: Path) -> None:
    place.write_bytes(b"0123456789abcdef" * 300_000 + b"needle" + b"-" * 3_000_000)
    window = texts.Window()
    scan = texts._Scan(re.compile("needle"), "", window)
    held, found = 0, []
    for piece in texts.pieces(place, 32 * 1024):
        found += list(scan.feed(piece))
        held = max(held, len(scan._held))
    assert [match.start for match in found] == [4_800_000]
    assert held <= 2 * window.size


@pytest.mark.parametrize("needle", ["", "a", "äb", "a" * 30, "\r\n", "b\na"])
@given(data=raw)
def test_contains(place: Path, data: bytes, needle: str) -> None:
    place.write_bytes(data)
    assert (needle in File(path=str(place))) == (needle in data.decode("utf-8", "replace"))


def test_a_file_that_is_replaced_is_read_anew(place: Path) -> None:
    file = file_of(place, b"abc" * 10, 4)
    assert len(file) == 30
    place.write_bytes("ä".encode() * 50)
    assert (len(file), file[40:45]) == (50, "äääää")


def test_only_as_much_is_indexed_as_is_asked_for(place: Path) -> None:
    place.write_bytes(b"ab" * 500_000)
    file = File(path=str(place))
    assert file[10:14] == "abab"
    assert file._index._bytes[-1] == texts.BLOCK_BYTES
    assert not file._index._complete


def test_what_is_refused(place: Path) -> None:
    place.write_text("a")
    file = File(path=str(place), _label="input 'a'")
    with pytest.raises(ValueError, match="no step"):
        _ = file[::2]
    with pytest.raises(ValueError, match="not a regular expression"):
        file.grep("(")
    with pytest.raises(TypeError, match="must be a text"):
        file.grep(b"a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not negative"):
        file.head(-1)
    with pytest.raises(ValueError, match="input 'a' is an input, to be read only"):
        file.open("w")
    with pytest.raises(TypeError):
        _ = 1 in file
    with pytest.raises(ValueError):
        texts.Window(size=10, overlap=8, context=2)
