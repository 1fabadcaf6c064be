"""What other people's clients can do with a local workspace: ``python -m tools.clients [NAME …] [--write]``.

Each client runs in its own environment, `.venv-clients/NAME`, unmodified, against a workspace of its own. The
figures are compared with `docs/coverage.md`: the exit code is 1 where one is lower. ``--write`` renews
that paper, for the clients that ran. `suite` runs a client's own tests (`suites.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_workspace import Spawned, WorkspaceOptions, spawn

from tools.clients import suites

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "docs" / "coverage.md"
_LIMIT_S = 900
_ROW = re.compile(r"\| (?P<name>[\w-]+) \|.*\| (?P<right>\d+) of (?P<all>\d+) \|")


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client; ``packages`` are those that the paper names, with their pinned versions."""

    title: str
    packages: tuple[str, ...]


CLIENTS: Mapping[str, Client] = {
    "lsql": Client(
        title="lsql; statements, jobs, dbutils, files of the SDK",
        packages=("databricks-labs-lsql", "databricks-sdk"),
    ),
    "sqlalchemy": Client(
        title="SQLAlchemy's dialect, with pandas",
        packages=("databricks-sqlalchemy", "databricks-sql-connector"),
    ),
    "dbt": Client(
        title="dbt: seed, table, view, incremental, snapshot, tests, docs, everything twice",
        packages=("dbt-databricks", "dbt-core"),
    ),
    "airflow": Client(
        title="Airflow's provider: hooks, operators, a sensor",
        packages=("apache-airflow-providers-databricks", "apache-airflow"),
    ),
    "dagster": Client(
        title="dagster Pipes, classic and serverless", packages=("dagster-databricks", "dagster-pipes")
    ),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The problem of each check of one client, empty where it is right."""

    problems: Mapping[str, str]

    @property
    def right(self) -> int:
        """The number of checks without a problem."""
        return sum(not problem for problem in self.problems.values())


def run_client(name: str) -> Result:
    """Run one client's checks against a workspace of its own."""
    python = ROOT / ".venv-clients" / name / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing: run make setup-clients")
    with tempfile.TemporaryDirectory(prefix=f"clients-{name}-") as text:
        folder = Path(text)
        with spawn(WorkspaceOptions(root=folder / "ws", tls=True)) as workspace:
            return _checked(name, python, workspace, folder)


def _checked(name: str, python: Path, workspace: Spawned, folder: Path) -> Result:
    (Path(workspace.info.root) / "Volumes/main/default/clients").mkdir(parents=True)
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("DATABRICKS_", "RLM_", "ADK_"))
    }
    env |= {
        "DATABRICKS_HOST": workspace.info.host,
        "DATABRICKS_TOKEN": workspace.info.token,
        "SSL_CERT_FILE": workspace.info.ca_file,
        "REQUESTS_CA_BUNDLE": workspace.info.ca_file,
        "CLIENT_HTTP_PATH": workspace.info.http_path,
        "CLIENT_FOLDER": str(folder),
        "HOME": str(folder),  # nothing of the user's own configuration
    }
    command = [str(python), "-B", str(Path(__file__).with_name(f"use_{name}.py"))]
    done = subprocess.run(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=_LIMIT_S, check=False
    )
    # Some clients still log when they exit.
    found = [line for line in done.stdout.splitlines() if line.startswith('[{"check"')]
    if found:
        return Result(problems={item["check"]: item["problem"] for item in json.loads(found[-1])})
    print(done.stdout[-4000:])
    return Result(problems={"the script": f"ended with exit code {done.returncode} and no result"})


def known() -> dict[str, tuple[int, int]]:
    """Return the figures on paper: how many checks are right, of how many."""
    text = PAPER.read_text() if PAPER.exists() else ""
    return {match["name"]: (int(match["right"]), int(match["all"])) for match in _ROW.finditer(text)}


def lower(results: Mapping[str, Result], on_paper: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return what to say of each client that can do less than is on paper."""
    return [
        f"{name}: {result.right} of {len(result.problems)} are right, {on_paper[name][0]} in docs/coverage.md"
        for name, result in results.items()
        if name in on_paper and result.right < on_paper[name][0]
    ]


def paper(results: Mapping[str, Result], before: str) -> str:
    """Return the paper with these results; of other clients it says what it said `before`."""
    rows, wrong = [], []
    for name in CLIENTS:
        if name in results:
            rows.append(_row(name, results[name]))
            found = [(check, problem) for check, problem in results[name].problems.items() if problem]
            wrong += [f"- {name}, {check}: {problem}" for check, problem in found]
        else:
            rows += [line for line in before.splitlines() if line.startswith(f"| {name} |")]
            wrong += [line for line in before.splitlines() if line.startswith(f"- {name}, ")]
    return "\n".join([*_HEAD, *rows, "", "## What is not right", "", *(wrong or ["Nothing."])]) + "\n"


def _row(name: str, result: Result) -> str:
    pins = (ROOT / f"constraints-clients-{name}.txt").read_text()
    versions = [
        f"{package} {match[1]}"
        for package in CLIENTS[name].packages
        if (match := re.search(rf"^{package}==([\w.]+)", pins, re.MULTILINE))
    ]
    total = f"{result.right} of {len(result.problems)}"
    return f"| {name} | {CLIENTS[name].title} | {', '.join(versions)} | {total} |"


_HEAD = (
    "# What other people's clients can do",
    "",
    "Generated by `make clients-write`; `make clients` runs the same and fails where a figure is lower.",
    "Each client is unmodified, in an environment of its own, pinned in `constraints-clients-*.txt`; the",
    "checks are in `tools/clients/`. They talk to a workspace with `--tls`, on the quick engine.",
    "",
    "| client | what | versions | right |",
    "|---|---|---|---:|",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run clients and compare, or write the paper; or, after `suite`, a client's own tests."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["suite"]:
        return suites.main(given[1:])
    parser = argparse.ArgumentParser(prog="python -m tools.clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLIENTS)}; default all")
    parser.add_argument("--write", action="store_true", help="write docs/coverage.md, for these clients")
    options = parser.parse_args(given)
    if unknown := sorted(set(options.names) - set(CLIENTS)):
        parser.error(f"there is no client {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    results = {}
    for name in options.names or CLIENTS:
        print(f"== {name}", flush=True)
        results[name] = run_client(name)
        for check, problem in results[name].problems.items():
            print(f"{'✗' if problem else '✓'} {check}{': ' if problem else ''}{problem}")
        print(f"{name}: {results[name].right} of {len(results[name].problems)}", flush=True)
    if options.write:
        PAPER.write_text(paper(results, PAPER.read_text() if PAPER.exists() else ""))
        return 0
    problems = lower(results, known())
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
