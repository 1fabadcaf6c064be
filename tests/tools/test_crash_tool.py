"""The crash matrices' own parts: a sample of the cases, and lanes that lose none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tools.crash.__main__ import main
from tools.crash.lanes import run_in_lanes, sample


@dataclass(frozen=True)
class Case:
    section: str
    number: int


CASES = [Case(section, number) for section in ("a", "b") for number in range(10)] + [Case("c", 0)]


def test_a_sample_has_every_section_and_is_spread_over_it() -> None:
    assert [(case.section, case.number) for case in sample(CASES, 3)] == [
        *[("a", 0), ("a", 3), ("a", 6)],
        *[("b", 0), ("b", 3), ("b", 6)],
        ("c", 0),
    ]


def test_lanes_return_every_result_in_order() -> None:
    lanes: set[int] = set()

    @contextlib.contextmanager
    def lane(number: int) -> Iterator[int]:
        lanes.add(number)
        yield number

    results = run_in_lanes(CASES, 3, lane, lambda _, case, index: (case, index))
    assert results == [(case, index) for index, case in enumerate(CASES)]
    assert lanes == {0, 1, 2}


def test_a_lane_without_a_workspace_is_an_error_and_not_a_smaller_matrix() -> None:
    @contextlib.contextmanager
    def lane(number: int) -> Iterator[int]:
        if number == 1:
            raise OSError("no workspace")
        yield number

    with pytest.raises(OSError, match="no workspace"):
        run_in_lanes(CASES, 2, lane, lambda _, case, __: case)


def test_an_unknown_matrix_is_wrong_usage() -> None:
    assert main(["no-such-matrix"]) == 2
    assert main([]) == 2
