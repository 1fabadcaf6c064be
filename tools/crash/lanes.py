"""Run many cases on several workspaces at the same time, and draw a sample of them."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

QUICK_CASES = 3  # of each section, with --quick


class HasSection(Protocol):
    """A case that is to be run."""

    @property
    def section(self) -> str:
        """The section of the report that it belongs to."""


T = TypeVar("T", bound=HasSection)
Result = TypeVar("Result")
Workspace = TypeVar("Workspace")


def sample(cases: Sequence[T], count: int = QUICK_CASES) -> list[T]:
    """Return at most ``count`` cases of each section, spread evenly over it."""
    chosen: list[T] = []
    for section in dict.fromkeys(case.section for case in cases):
        members = [case for case in cases if case.section == section]
        number = min(count, len(members))
        chosen += [members[index * len(members) // number] for index in range(number)]
    return chosen


def run_in_lanes(
    cases: Sequence[T],
    lanes: int,
    open_workspace: Callable[[int], AbstractContextManager[Workspace]],
    run_case: Callable[[Workspace, T, int], Result],
) -> list[Result]:
    """Run all cases, each lane on a workspace of its own; return the results in the order of the cases.

    Raise what opening a workspace raised, when the other lanes are done.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(cases)):
        waiting.put(index)
    results: dict[int, Result] = {}

    def lane(number: int) -> None:
        with open_workspace(number) as workspace:
            while True:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                results[index] = run_case(workspace, cases[index], index)

    with ThreadPoolExecutor(lanes) as pool:
        for running in [pool.submit(lane, number) for number in range(lanes)]:
            running.result()
    return [results[index] for index in range(len(cases))]


def progress(text: str) -> None:
    """Print a line for the person who waits."""
    print(text, file=sys.stderr, flush=True)
