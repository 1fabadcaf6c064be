"""The commands that the documents print: ``python -m tools.docs_commands [--run]``.

Without ``--run`` they are only read: does the make target exist, does the command line parse, is the module
there? With it, those that need nothing but this machine are also carried out, in an empty folder beside a
local workspace; addresses, tokens and models take the places of those that are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PROGRAM = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?(make|rlm-agent|python3?|rlm-[a-z-]+) ")
_PLACEHOLDER = re.compile(r"…|\.\.\.|^\[|\]$|<[^>]+>")
_OPERATORS = {"|", ">", ">>", "&&", ";", "&", "||", "<"}
_RUN_LIMIT_S = 300.0
_RUN_ID = "example"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One printed command; ``words`` begin with the program and end before a redirection."""

    place: str
    text: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """``make``, ``python``, ``rlm-agent`` and the like."""
        return Path(self.words[0]).name

    @property
    def complete(self) -> bool:
        """Whether it can be typed as it is printed."""
        return not any(_PLACEHOLDER.search(word) for word in self.words)

    @property
    def sketched(self) -> bool:
        """Whether parts of it are left out, and not only values."""
        return any("…" in word or word.startswith("[") for word in self.words)


def pages() -> list[Path]:
    """Return the documents whose commands are held."""
    more = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "localworkspace" / "README.md",
        *sorted(more),
    ]


def code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of code blocks, fenced or indented, with their numbers; continued lines are joined."""
    fenced, joined, first = False, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            first = first or number
            if line.rstrip().endswith("\\"):
                joined += line.strip()[:-1]
                continue
            yield first, joined + line.strip()
        joined, first = "", 0


def commands_of(page: Path) -> Iterator[Command]:
    """Yield the commands that a page prints."""
    for number, line in code_lines(page.read_text(encoding="utf-8")):
        if not _PROGRAM.match(f"{line} ") or "─" in line:  # that is a picture
            continue
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:  # a quotation mark that is left open in prose
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        end = next((index for index, word in enumerate(words) if word in _OPERATORS), len(words))
        place = f"{page.relative_to(ROOT)}:{number}"
        yield Command(place=place, text=line, words=tuple(words[:end]))


def problem_of(command: Command) -> str | None:
    """Return why a command cannot be right, or None."""
    match command.program:
        case "make":
            return _make_problem(command.words[1:])
        case "rlm-agent":
            return _agent_problem(command)
        case "python" | "python3":
            return _python_problem(command.words[1:])
        case _:
            return None if shutil.which(command.program, path=_path()) else f"there is no {command.program}"


def _make_problem(words: Sequence[str]) -> str | None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    unknown = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
    return f"no target {unknown}" if unknown else None


def _agent_problem(command: Command) -> str | None:
    from databricks_rlm_agent.cli.arguments import parser

    errors = io.StringIO()
    words = [word for word in command.words[1:] if "…" not in word and not word.startswith("[")]
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            parser("0").parse_args(words)
    except SystemExit as stop:
        left_out = command.sketched and "required" in errors.getvalue()
        return errors.getvalue().strip().splitlines()[-1] if stop.code and not left_out else None
    return None


def _python_problem(words: Sequence[str]) -> str | None:
    if words and words[0] == "-m":
        name = words[1] if len(words) > 1 else ""
        known = importlib.util.find_spec(name) if name else None
        return None if known else f"no module {name!r}"
    script = next((word for word in words if word.endswith(".py")), None)
    return f"no file {script}" if script and not (ROOT / script).is_file() else None


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def all_commands() -> list[Command]:
    """Return all commands of all pages, in their order."""
    return [command for page in pages() for command in commands_of(page)]


class Sandbox:
    """A folder with a local workspace, what the documents' examples name, and a scripted model."""

    def __init__(self, folder: Path, info: Mapping[str, str]) -> None:
        self.folder = folder
        script = folder / "script.json"
        answer = [{"call": "finish", "args": {"answer": "Done.", "evidence": "none"}}]
        script.write_text(json.dumps({"planner": [answer]}), encoding="utf-8")
        self._model = f"scripted:{script}"
        self._http_path = info["http_path"]
        self._host = info["host"]
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        self.environ = kept | {
            "PATH": _path(),
            "DATABRICKS_HOST": info["host"],
            "DATABRICKS_TOKEN": info["token"],
            "RLM_WAREHOUSE_HTTP_PATH": info["http_path"],
            "RLM_MODEL": self._model,
        }
        flow = folder / "flows" / "identity"
        flow.mkdir(parents=True)
        (folder / "flows" / "workflow.yml").write_text("", encoding="utf-8")
        for number, name in ((3, "ids"), (4, "edges"), (5, "canonicalize"), (10, "report")):
            text = f"CREATE OR REPLACE TABLE {name} AS SELECT {number} AS n;\n"
            (flow / f"{number:02d}_{name}.sql").write_text(text, encoding="utf-8")

    def words(self, command: Command) -> list[str] | None:
        """Return a command as it can be carried out here, or None."""
        # Those of examples/ need the data that `make examples` makes.
        needs_data = any(word.startswith("examples/") for word in command.words)
        if command.program != "rlm-agent" or not command.complete or needs_data:
            return None
        places = {"HOST": self._host, "PATH": self._http_path, "/sql/1.0/warehouses/ID": self._http_path}
        places["RUN"] = _RUN_ID
        words = [places.get(word, word) for word in command.words]
        if "--model" in words:
            words[words.index("--model") + 1] = self._model
        if "--server-hostname" in words:
            words += ["--access-token", self.environ["DATABRICKS_TOKEN"]]
        # What the example brings along is not there: its own rows are not needed to see that it runs.
        for option in ("--input", "--check"):
            while option in words:
                index = words.index(option)
                del words[index : index + 2]
        return words

    def run(self, words: Sequence[str]) -> str | None:
        """Run a command; return what is wrong if it is not understood, breaks, or takes too long."""
        try:
            done = subprocess.run(
                words,
                cwd=self.folder,
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=_RUN_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end within {_RUN_LIMIT_S:g} s"
        if done.returncode == 0:
            return None
        return f"exit code {done.returncode}: {(done.stdout + done.stderr)[-600:]}"


def _options(commands: Sequence[Command], option: str) -> Iterator[str]:
    for command in commands:
        yield from (value for name, value in itertools.pairwise(command.words) if name == option)


def run_all(commands: Sequence[Command]) -> dict[str, str]:
    """Carry out what can be; return the problems by place."""
    from local_workspace import WorkspaceOptions, spawn

    problems = {}
    with tempfile.TemporaryDirectory(prefix="docs-") as name, contextlib.ExitStack() as stack:
        spawned = stack.enter_context(spawn(WorkspaceOptions(root=Path(name) / "workspace")))
        info = {"host": spawned.info.host, "token": spawned.info.token, "http_path": spawned.info.http_path}
        sandbox = Sandbox(Path(name), info)
        from databricks.sdk import WorkspaceClient

        client = WorkspaceClient(host=info["host"], token=info["token"])
        for schema in sorted(set(_options(commands, "--schema"))):
            client.schemas.create(schema, "main")
        for given in (["init"], ["submit", "An example.", "--run-id", _RUN_ID]):
            if problem := sandbox.run(["rlm-agent", *given]):
                problems[f"rlm-agent {given[0]}"] = problem
        for command in commands:
            words = sandbox.words(command)
            if words is None:
                continue
            print(f"{command.place}: {shlex.join(words)[:120]}", flush=True)
            if problem := sandbox.run(words):
                problems[command.place] = problem
                print(f"   {problem}", flush=True)
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Check all commands; return 1 if one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs_commands", description=__doc__)
    parser.add_argument("--run", action="store_true", help="carry out what needs nothing but this machine")
    options = parser.parse_args(argv)
    commands = all_commands()
    problems = {command.place: problem for command in commands if (problem := problem_of(command))}
    if options.run and not problems:
        problems = run_all(commands)
    for place, problem in problems.items():
        print(f"{place}: {problem}", file=sys.stderr)
    print(f"{len(commands)} commands, {len(problems)} wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
