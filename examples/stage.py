"""How an example runs: a local workspace, the real command line, and a check of what came of it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent import logs
from databricks_rlm_agent.app import App
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.settings import from_environment

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person may choose: the folder of the workspace, seconds that a sub-model's answer takes, and
    megabytes of text where the example makes some."""

    folder: Path
    latency_s: float
    megabytes: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """A task, what its models say (a script), further arguments of ``rlm-agent run``, what is to be there
    before, and what must be true afterwards: ``check`` gives what is wrong, in sentences."""

    name: str
    task: str
    script: Document
    arguments: Sequence[str]
    load: Callable[[App], None]
    check: Callable[[App, Document], list[str]]


def main(build: Callable[[Options], Example], arguments: Sequence[str] | None = None) -> int:
    """Run an example; the exit code is 0 if the run succeeded and everything is as it must be."""
    parsed = _parse(arguments)
    logs.configure(level=logging.WARNING, format="text", vendors=False)
    folder = Path(parsed.root or tempfile.mkdtemp(prefix="rlm-example-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    example = build(Options(folder=folder, latency_s=parsed.latency, megabytes=parsed.megabytes))
    script = folder / f"{example.name}_script.json"
    script.write_text(json.dumps(example.script, indent=1), encoding="utf-8")
    options = WorkspaceOptions(root=folder / "workspace", model=f"scripted:{script}")
    with spawn(options) as workspace, closing(app_of(workspace.info)) as app:
        app.init()
        example.load(app)
        begun = time.monotonic()
        document = _run(example, script, options.root, quiet=parsed.json)
        seconds = time.monotonic() - begun
        problems = _problems(example, app, document)
    _report(example, document, problems, seconds=seconds, root=options.root, as_json=parsed.json)
    return 1 if problems else 0


def app_of(info: WorkspaceInfo) -> App:
    """The control plane's parts, for a workspace."""
    settings = from_environment({"RLM_WAREHOUSE_HTTP_PATH": info.http_path})
    return App(settings=settings, environ={}, host=info.host, token=info.token)


def program(module: str, name: str) -> str:
    """The text of a program that lies beside a module (give its ``__file__``)."""
    return (Path(module).parent / "programs" / name).read_text(encoding="utf-8")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A reply of a scripted model: a call of one of its tools."""
    return {"call": name, "args": arguments}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", metavar="DIR", help="keep everything in DIR (default: a temporary folder)")
    parser.add_argument(
        "--latency", type=float, default=0.5, metavar="S", help="seconds that a sub-model takes (0.5)"
    )
    parser.add_argument(
        "--megabytes", type=float, default=50.0, metavar="N", help="size of a generated text (50)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser.parse_args(arguments)


def _run(example: Example, script: Path, root: Path, *, quiet: bool) -> Document:
    """The command that a person would give, and the document about its run."""
    run_id = f"{example.name}-{secrets.token_hex(4)}"
    words = ["run", example.task, "--run-id", run_id, "--model", f"scripted:{script}", *example.arguments]
    if not quiet:
        print(f"rlm-agent {shlex.join(words)} --root {root}\n", flush=True)
    _command([*words, "--root", str(root)], quiet=quiet)
    shown = _command(["show", run_id, "--root", str(root), "--json"], quiet=True)
    document: Document = json.loads(shown)
    return document


def _command(words: Sequence[str], *, quiet: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "databricks_rlm_agent.cli.main", *words],
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None,
        env=os.environ,
        text=True,
        check=False,
    )
    if done.returncode > 1:  # 1: the run failed, which the document will tell
        raise SystemExit(f"rlm-agent {words[0]} ended with exit code {done.returncode}. {done.stderr or ''}")
    return done.stdout or ""


def _problems(example: Example, app: App, document: Document) -> list[str]:
    if document["state"] != "SUCCEEDED":
        return [f"The run ended {document['state']}: {document['reason'] or document['question']}"]
    try:
        return example.check(app, document)
    except RlmError as error:
        return [str(error)]


def _report(
    example: Example,
    document: Document,
    problems: Sequence[str],
    *,
    seconds: float,
    root: Path,
    as_json: bool,
) -> None:
    kept = ("run_id", "state", "answer", "iterations", "tables", "usage", "sub_usage", "children")
    told = {name: document[name] for name in kept} | {
        "example": example.name,
        "as_expected": not problems,
        "problems": list(problems),
        "seconds": round(seconds, 1),
        "workspace_root": str(root),
    }
    if as_json:
        print(json.dumps(told, ensure_ascii=False, default=str))
        return
    sub = document["sub_usage"]
    print(
        f"\n{seconds:.1f} s, {document['usage']['calls']} calls of the planner, {sub['calls']} of the "
        f"sub-model ({sub['input_tokens'] + sub['output_tokens']:,} tokens). Everything is in {root}."
    )
    print("\n".join(f"WRONG: {problem}" for problem in problems) or "All is as it must be.")
