"""Clients' own tests against a local workspace: ``python -m tools.clients suite NAME CHECKOUT [--python P]``.

The suite lies in a checkout beside the project and runs unmodified, in the interpreter that has the client
and what its tests need. It gets a workspace of its own, on the engine of the interpreter that runs this
command. The figures are per file; ``--at-least N`` makes the exit code 1 where fewer tests pass.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Xml
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn
from local_workspace.options import USER, installed_engine

_HERE = Path(__file__).parent
# The processes of one file end after so long, whatever its tests wait for.
_FILE_LIMIT_S = 3600
_OTHERS = re.compile(r"DATABRICKS_|RLM_|ADK_|SUITE_|PYTEST_")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite: its test files below the checkout, and how its tests are told where the workspace is.

    `variables` are patterns with {host} (a URL), {name}, {port}, {token}, {http_path}, {ca_file}, {user}, and
    {ca_bundle}: the usual authorities too. `plugin` is a module of this folder that pytest loads, in the
    client's environment. `marks` selects tests, as pytest's -m. `volumes` and `jobs` are made first.
    """

    title: str
    files: str
    variables: Mapping[str, str]
    tls: bool = False
    plugin: str = ""
    marks: str = ""
    volumes: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()


SUITES: Mapping[str, Suite] = {
    "connector": Suite(
        title="databricks-sql-python, tests/e2e",
        files="tests/e2e/test_*.py",
        variables={
            "DATABRICKS_SERVER_HOSTNAME": "{name}",
            "DATABRICKS_HTTP_PATH": "{http_path}",
            "DATABRICKS_TOKEN": "{token}",
            "DATABRICKS_CATALOG": "main",
            "DATABRICKS_SCHEMA": "default",
            "DATABRICKS_USER": "{user}",
            "SSL_CERT_FILE": "{ca_file}",
            "REQUESTS_CA_BUNDLE": "{ca_file}",
            "SUITE_PORT": "{port}",
            "SUITE_CA_FILE": "{ca_file}",
        },
        tls=True,
        plugin="suite_connector",
        volumes=("main/default/e2etests",),
    ),
    "sdk": Suite(
        title="databricks-sdk-py, tests/integration",
        files="tests/integration/test_*.py",
        variables={
            "CLOUD_ENV": "local",
            "DATABRICKS_HOST": "{host}",
            "DATABRICKS_TOKEN": "{token}",
            "REQUESTS_CA_BUNDLE": "{ca_bundle}",
            "TEST_ACCOUNT_ID": "00000000-0000-4000-8000-000000000001",
            "TEST_DATABRICKS_CLIENT_ID": "{user}",
            "TEST_DATABRICKS_CLIENT_SECRET": "{token}",
            "TEST_DEFAULT_CLUSTER_ID": "local",
            "TEST_DEFAULT_WAREHOUSE_ID": "local",
            "TEST_ENVIRONMENT_TYPE": "UC_WORKSPACE",
            "TEST_INSTANCE_POOL_ID": "local",
            "TEST_METASTORE_ID": "local",
            "TEST_WORKSPACE_ID": "1",
            "THIS_WORKSPACE_ID": "1",
            "UNIFIED_HOST": "{host}",
        },
        tls=True,
        marks="not benchmark",
        jobs=("a job to be listed",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The tests of one file; `problems` has the first line of each that failed or could not be set up."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    errors: int = 0
    problems: Mapping[str, str] = field(default_factory=dict)


def environment(suite: Suite, info: WorkspaceInfo, ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a suite: `ours` without what may name another workspace."""
    address = urlsplit(info.host)
    known = {
        "host": info.host,
        "name": address.hostname or "",
        "port": str(address.port),
        "token": info.token,
        "http_path": info.http_path,
        "ca_file": info.ca_file,
        "ca_bundle": str(Path(info.ca_file).with_name("ca-bundle.pem")),
        "user": USER,
    }
    env = {name: value for name, value in ours.items() if not _OTHERS.match(name)}
    return env | {name: pattern.format(**known) for name, pattern in suite.variables.items()}


def outcome(report: str) -> Outcome:
    """Read a report of pytest (junitxml)."""
    counts = {"passed": 0, "failure": 0, "error": 0, "skipped": 0}
    problems = {}
    for case in Xml.fromstring(report).iter("testcase"):
        kinds = [kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None]
        counts[kinds[0] if kinds else "passed"] += 1
        if kinds and kinds[0] != "skipped":
            found = case.find(kinds[0])
            text = found.get("message", "") if found is not None else ""
            problems[str(case.get("name"))] = next(iter(text.splitlines()), "")[:200]
    return Outcome(
        passed=counts["passed"],
        failed=counts["failure"],
        skipped=counts["skipped"],
        errors=counts["error"],
        problems=problems,
    )


def table(found: Mapping[str, Outcome]) -> str:
    """Return the figures as text, a line per file and one for all."""
    names = ("passed", "failed", "errors", "skipped")
    rows = [(file, *(getattr(each, name) for name in names)) for file, each in found.items()]
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, 5))))
    head = ("file", *names)
    return "\n".join(f"{row[0]:<32}" + "".join(f"{value:>9}" for value in row[1:]) for row in [head, *rows])


def run(
    suite: Suite, checkout: Path, python: Path, *, only: str, limit_s: int, tests: str = ""
) -> dict[str, Outcome]:
    """Run the files of a suite with `only` in their names, a process each, against one new workspace.

    `tests` is an expression by which pytest selects tests.
    """
    files = [file for file in sorted(checkout.glob(suite.files)) if only in file.name]
    if not files:
        raise SystemExit(
            f"{checkout} has no {suite.files} with {only!r} in its name: is it the right checkout?"
        )
    found = {}
    with tempfile.TemporaryDirectory(prefix="suite-") as text:
        folder = Path(text)
        for volume in suite.volumes:
            (folder / "ws/Volumes" / volume).mkdir(parents=True)
        with spawn(WorkspaceOptions(root=folder / "ws", tls=suite.tls)) as workspace:
            env = environment(suite, workspace.info, os.environ)
            env["PYTHONPATH"] = str(_HERE)
            for name in suite.jobs:
                _make_job(workspace.info, name)
            for file in files:
                print(f"== {file.name}", file=sys.stderr, flush=True)
                found[file.name] = _run_file(
                    suite,
                    checkout,
                    file,
                    [str(python), "-B", "-m", "pytest", f"--timeout={limit_s}", "-k", tests],
                    env,
                    folder,
                )
    return found


def _make_job(info: WorkspaceInfo, name: str) -> None:
    answer = requests.post(
        f"{info.host}/api/2.2/jobs/create",
        json={"name": name},
        headers={"Authorization": f"Bearer {info.token}"},
        verify=info.ca_file or True,
        timeout=60,
    )
    answer.raise_for_status()


def _run_file(
    suite: Suite, checkout: Path, file: Path, pytest: list[str], env: dict[str, str], folder: Path
) -> Outcome:
    report = folder / f"{file.stem}.xml"
    plugins = ["-p", "no:cacheprovider", *(["-p", suite.plugin] if suite.plugin else [])]
    command = [*pytest, *plugins, "-q", "--tb=line", "--show-capture=no"]
    command += ["-m", suite.marks, f"--rootdir={checkout}", f"--junitxml={report}", str(file)]
    # From a folder of its own: some suites write logs where they run.
    try:
        done = subprocess.run(
            command, env=env, cwd=folder, stdout=sys.stderr, timeout=_FILE_LIMIT_S, check=False
        )
        code = f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        code = f"nothing within {_FILE_LIMIT_S} s"
    if report.exists():
        return outcome(report.read_text(encoding="utf-8"))
    return Outcome(errors=1, problems={file.name: f"pytest left no report: {code}"})


def main(argv: Sequence[str]) -> int:
    """Run one suite and print its figures; return 1 where fewer tests pass than are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tools.clients suite", description=__doc__)
    parser.add_argument("name", choices=sorted(SUITES))
    parser.add_argument("checkout", type=Path, help="the client's repository")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="has the client, pytest, pytest-timeout"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="files with this in their names")
    parser.add_argument("-k", dest="tests", default="", metavar="EXPRESSION", help="tests, as for pytest -k")
    parser.add_argument("--timeout", type=int, default=300, metavar="S", help="seconds for a test (300)")
    parser.add_argument("--at-least", type=int, default=0, metavar="N", help="how many tests must pass")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    suite = SUITES[options.name]
    checkout = options.checkout.resolve()
    found = run(
        suite,
        checkout,
        options.python.absolute(),
        only=options.only,
        limit_s=options.timeout,
        tests=options.tests,
    )
    passed = sum(each.passed for each in found.values())
    if options.json:
        files = {name: asdict(each) for name, each in found.items()}
        print(
            json.dumps(
                {"suite": options.name, "engine": installed_engine(), "passed": passed, "files": files}
            )
        )
    else:
        print(f"{suite.title}, on {installed_engine()}\n{table(found)}")
        for file, each in found.items():
            print(
                "".join(f"- {file}, {test}: {problem}\n" for test, problem in each.problems.items()), end=""
            )
    return 0 if passed >= options.at_least else 1
