"""Plain values come back equal, of equal types, whatever they are."""

from __future__ import annotations

import json
import math
import string
from collections import Counter, OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_harness.rlm import plain

text = st.text(max_size=8) | st.text(
    st.characters(codec=None) | st.sampled_from(["\ud800", "\udc00"]), max_size=4
)
zones = st.none() | st.sampled_from(
    [
        UTC,
        ZoneInfo("Europe/Berlin"),
        ZoneInfo("UTC"),
        timezone(timedelta(0), "UTC+0"),
        timezone(timedelta(hours=-5, microseconds=3)),
        timezone(timedelta(hours=1), "CET"),
        timezone(timedelta(minutes=330)),
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([1 << 63, -(1 << 63), -(1 << 63) - 1, -(1 << 70)])
    | st.floats()
    | st.sampled_from([-0.0, 5e-324, 1e308])
    | text
    | st.binary(max_size=9)
    | st.decimals()
    | st.sampled_from([Decimal("sNaN"), Decimal("-0"), Decimal("1E+99999"), Decimal("1.10")])
    | st.dates()
    | st.builds(
        lambda at, fold, zone: at.replace(fold=fold, tzinfo=zone), st.datetimes(), st.integers(0, 1), zones
    )
    | st.builds(
        lambda at, fold, zone: at.replace(fold=fold, tzinfo=zone), st.times(), st.integers(0, 1), zones
    )
    | st.timedeltas()
)
keys = st.recursive(
    st.integers() | text | st.booleans() | st.none() | st.binary(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$tuple", "$", "$int", "a"]), inner, max_size=2)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=15,
)  # fmt: skip


def zone_of(zone: tzinfo | None) -> Any:
    return (type(zone), repr(zone))


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return all(map(same, a, b)) and len(a) == len(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, set | frozenset):
        return {(type(item), repr(item)) for item in a} == {(type(item), repr(item)) for item in b} or a == b
    if isinstance(a, datetime | time):
        naive = (a.replace(tzinfo=None), a.fold) == (b.replace(tzinfo=None), b.fold)
        return naive and zone_of(a.tzinfo) == zone_of(b.tzinfo)
    return bool(a == b)


@given(values)
def test_values_come_back_the_same(value: Any) -> None:
    encoded = plain.dumps(value)
    assert encoded.isascii()
    found = plain.loads(encoded)
    assert same(found, value)
    assert plain.dumps(found) == encoded


@given(st.lists(st.text(string.ascii_letters, max_size=3), max_size=8))
def test_equal_sets_are_the_same_text(items: list[str]) -> None:
    assert plain.dumps(set(items)) == plain.dumps(dict.fromkeys(reversed(items)).keys() | set())


@pytest.mark.parametrize(
    "value",
    [
        numpy.float64("nan"), numpy.int8(-3), numpy.bool_(True),
        numpy.datetime64("2024-01-02T03:04:05", "ns"), numpy.timedelta64(3, "h"), numpy.complex64(1 + 2j),
        numpy.float32(0.1),
    ],
)  # fmt: skip
def test_scalars_of_numpy(value: Any) -> None:
    found = plain.loads(plain.dumps({"a": [value]}))["a"][0]
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert found == value or (found != found and value != value)


Point = namedtuple("Point", "x y")


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    "value",
    [
        object(), print, Point(1, 2), Counter("aab"), OrderedDict(a=1), Level.LOW, Fraction(1, 2), 1j,
        range(3), bytearray(b"a"), Path("/a"), pandas.Timestamp("2024-01-01"), pandas.NaT, numpy.array([1]),
        numpy.array(1), numpy.str_("a"), {"a": numpy.array([1])}, iter([]), ValueError("x"), int, ...,
        memoryview(b"a"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_by_its_type(value: Any) -> None:
    for given_ in (value, [value], {"k": (value,)}):
        with pytest.raises(plain.NotPlainError) as refused:
            plain.dumps(given_)
        assert type(value).__name__ in str(refused.value) or "ndarray" in str(refused.value)


class Odd(tzinfo):
    def utcoffset(self, _at: datetime | None) -> timedelta:
        return timedelta(0)


def test_odd_zones_and_depths_are_refused() -> None:
    with pytest.raises(plain.NotPlainError, match="a time zone is kept if"):
        plain.dumps(datetime(2024, 1, 1, tzinfo=Odd()))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(plain.NotPlainError, match="nested more than 100 deep, or within itself"):
        plain.dumps(loop)
    deep: Any = ()
    for _ in range(plain.MAX_DEPTH - 2):
        deep = {(1,): deep}
    assert plain.loads(plain.dumps(deep)) == deep


def test_numbers_of_any_length() -> None:
    assert plain.loads(plain.dumps([1 << 20_000])) == [1 << 20_000]


def test_dates_are_not_taken_for_each_other() -> None:
    assert json.loads(plain.dumps([date(2024, 1, 2), datetime(2024, 1, 2)])) == [  # noqa: DTZ001 -- a naive one
        {"$date": "2024-01-02"}, {"$datetime": ["2024-01-02T00:00:00", 0, None]}
    ]  # fmt: skip
