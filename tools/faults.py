"""The register of faults that real use found, held by tests: ``python -m tools.faults [ID …] [--json]``.

A test that holds a line is marked ``@pytest.mark.fault("A1")``. This command runs them, those of the
reference engine in its own environment, and prints line by line whether the right value is there. The exit
code is 1 if a line has no test or a test of it fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[1]
SPARK_PYTHON = ROOT / ".venv-spark" / "bin" / "python"

REGISTER: Mapping[str, str] = {
    "A1": "a dead or hung engine is replaced, or the server ends with a word",
    "A2": "a full disk never ends a scheduler or worker thread; the run ends",
    "A3": "model calls that nobody made never end a run",
    "A4": "an outage of the model provider leaves the run where it is",
    "A5": "a model that refuses the key ends the run at once, with the reason",
    "A6": "a lone surrogate loses neither value nor variables",
    "A7": "a lone surrogate in a tool's argument does not end the run",
    "A8": "decimals stay exact in the final value",
    "A9": "an answer with {{value}} and no value is refused",
    "A10": "usage is right where providers count reasoning differently",
    "A11": "a program that cannot be compiled as it will be run costs no job",
    "A12": "a program that damages its process is told the true reason",
    "A13": "a result that is no regular file is neither read nor written through",
    "A14": "a job run that was deleted is LOST and tried again",
    "A15": "a missing table and a damaged harness are seen and repaired",
    "A16": "a damaged row is shown as such, the others as usual",
    "A17": "an empty token file or a zeroed state file is said, with what to do",
    "A18": "a platform that goes away makes the attempt LOST, however it ended",
    "A19": "a daemon ends with its job",
    "A20": "a statement ends with its client",
    "A21": "run works its own run's family only",
    "A22": "a look at a slow table has a limit and does not hold the tick's connection",
    "A23": "one step's error takes nothing else along; no thread dies in silence",
    "A24": "an answer given on the command line is an event",
    "A25": "an interrupted run names the command that goes on with it",
    "A26": "a mistyped schema or root creates nothing",
    "B1": "both ports of the engine ask for a credential",
    "B2": "a job cannot read the keys of who started the server",
    "B3": "a secret fetched by a program is masked in every output",
    "B4": "data in a prompt cannot pretend to be instructions",
    "B5": "secrets are masked in JSON, repr, URL, base64 and hex form",
    "B6": "SQL reads and writes nothing outside of the root",
    "B7": "over-long names, deep JSON and malformed Thrift get a 4xx of one line",
    "C1": "an overflow of integers is an error",
    "C2": "a dynamic partition overwrite keeps the other partitions",
    "C3": "a column list finds names with capitals",
    "C4": "identity columns are filled",
    "C5": "session_configuration and statement_timeout have effect",
    "C6": "varchar(n) refuses a longer text",
    "C7": "DESCRIBE … AS JSON returns a document",
    "C8": "COMMENT ON COLUMN has effect",
    "C9": "QUALIFY keeps names and functions",
    "C10": "SHOW TABLE EXTENDED lists the tables of other sessions",
    "C11": "Statement Execution describes types as Databricks does",
    "C12": "libraries and environment dependencies are there or are refused",
    "C13": "dynamic values of job parameters are filled in",
    "C14": "what REST accepts has effect",
    "C15": "the reference engine is right where the quick one is not",
    "D1": "a session opens with a schema that does not exist yet",
    "D2": "parameters in backquotes",
    "D3": "information_schema",
    "D4": "jobs see /Volumes, /Workspace and databricks.sdk.runtime",
    "D5": "names of Volumes and schemas in any case of letters",
    "D6": "dbfs, clusters, serving endpoints, SCIM lists, repair history",
    "D7": "SET NOT NULL, INSERT REPLACE ON and BY NAME",
    "D8": "complex types as text for clients without Arrow's",
    "D9": "a table property that is not supported is ignored or refused whole",
    "D10": "current_user() is the user of SCIM",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the register: how many tests hold it, and which of them failed."""

    passed: int = 0
    failed: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Return whether a test ran and none failed."""
        return self.passed > 0 and not self.failed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fault ID``: this module is also the plugin of the test run that it starts."""
    parser.addoption("--fault", action="append", default=[], help="only tests of this line of the register")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the wanted lines, and have the report name each test's lines."""
    wanted = set(config.getoption("--fault"))
    for item in list(items):
        faults = {str(name) for marker in item.iter_markers("fault") for name in marker.args}
        if unknown := faults - set(REGISTER):
            raise ValueError(f"{item.nodeid}: the register has no line {', '.join(sorted(unknown))}")
        item.user_properties += [("fault", fault) for fault in sorted(faults)]
        if wanted and not wanted & faults:
            items.remove(item)


def skip_reference_engine(items: Sequence[pytest.Item]) -> None:
    """Skip the tests marked ``reference_engine`` in an environment without Spark."""
    from local_workspace.options import installed_engine

    marked = [item for item in items if item.get_closest_marker("reference_engine")]
    if marked and installed_engine() != "spark":
        import pytest

        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs Spark: make faults or make test-spark"))


def read_report(report: str) -> dict[str, Line]:
    """Return the lines of a JUnit report in which each test names its faults as properties."""
    lines: dict[str, Line] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        if case.find("skipped") is not None:
            continue
        for item in case.iter("property"):
            if item.get("name") == "fault":
                line = lines.get(fault := str(item.get("value")), Line())
                name = f"{case.get('classname')}::{case.get('name')}"
                failed = (*line.failed, name) if bad else line.failed
                lines[fault] = Line(passed=line.passed + (not bad), failed=failed)
    return lines


def _run_tests(python: Path, expression: str, faults: Sequence[str], *more: str) -> dict[str, Line]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        only = [f"--fault={fault}" for fault in faults]
        command = [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "tools.faults",
            "-m",
            expression,
            f"--junitxml={report}",
        ]
        subprocess.run([*command, *only, *more], cwd=ROOT, check=False)
        return read_report(report.read_text()) if report.exists() else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests of the register and print each line's state."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="ID", help="lines of the register; default all")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.faults) - set(REGISTER)):
        parser.error(f"there is no line {', '.join(unknown)}")
    lines = _run_tests(Path(sys.executable), "fault and not reference_engine", options.faults)
    if SPARK_PYTHON.exists():
        # In one process: each would start a Spark of its own.
        found = _run_tests(SPARK_PYTHON, "fault and reference_engine", options.faults, "-n0")
        for fault, line in found.items():
            other = lines.get(fault, Line())
            lines[fault] = Line(passed=other.passed + line.passed, failed=(*other.failed, *line.failed))
    else:
        print("The tests of the reference engine were left out: run make setup-spark first.", file=sys.stderr)
    wanted = [fault for fault in REGISTER if not options.faults or fault in options.faults]
    if options.json:
        rows = {fault: vars(lines.get(fault, Line())) | {"right": REGISTER[fault]} for fault in wanted}
        print(json.dumps(rows, indent=2))
    else:
        for fault in wanted:
            line = lines.get(fault, Line())
            mark = "✓" if line.holds else "✗"
            said = (
                f"{len(line.failed)} failed"
                if line.failed
                else f"{line.passed} tests"
                if line.passed
                else "no test"
            )
            print(f"{mark} {fault:4}{REGISTER[fault]}  ({said})")
    return 0 if all(lines.get(fault, Line()).holds for fault in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
