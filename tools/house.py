"""Count the code base: ``python tools/house.py [--json] [--run] [CHECKOUT-OR-COMMIT …]``.

Prints one column for each directory or commit that is given (default: this checkout), as a Markdown table or
as JSON. The static figures need nothing but the standard library; ``--run`` also carries out one scripted run
on a local workspace and needs the project's environment.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Below a checkout: where packages that are shipped have their parent folder.
SOURCE_ROOTS = ("localworkspace/src", "src", ".")
SKIPPED = {"tests", "benchmarks", "examples", "docs", "tools", "build", "dist", "node_modules"}
FIGURES = {
    "lines": "lines",
    "modules": "modules",
    "one_importer": "modules with one importer",
    "over_400": "modules of more than 400 lines",
    "classes_twice": "public classes named twice in a package",
    "import_circles": "import circles",
    "entered": "modules that one run enters in the agent",
    "executor_entered": "modules that its program loads in the executor",
    "puts": "PUTs to publish the executor",
}


@dataclass(frozen=True, kw_only=True)
class Module:
    """One source file: ``name`` as it is imported; ``tree`` is parsed."""

    name: str
    path: Path
    lines: int
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether it is an ``__init__.py``."""
        return self.path.name == "__init__.py"

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def modules_of(root: Path) -> dict[str, Module]:
    """Return the modules of a checkout that are shipped, by name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if SKIPPED & set(parts) or any(part.startswith(".") for part in parts):
            continue
        base = next(base for base in SOURCE_ROOTS if path.is_relative_to(root / base))
        names = list(path.relative_to(root / base).with_suffix("").parts)
        if names[-1] == "__init__":
            names.pop()
        text = path.read_text(encoding="utf-8")
        name = ".".join(names)
        found[name] = Module(name=name, path=path, lines=len(text.splitlines()), tree=ast.parse(text))
    return found


def imports_of(module: Module, known: Mapping[str, Module]) -> set[str]:
    """Return the known modules that a module imports anywhere: in functions and for type checking too."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.package.split(".")
                parents = parts[: len(parts) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            members = {f"{base}.{alias.name}" for alias in node.names}
            found |= members & known.keys()
            if members - known.keys():  # a name that the module itself defines
                found.add(base)
    return (found & known.keys()) - {module.name}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (Tarjan's components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


@dataclass(frozen=True, kw_only=True)
class House:
    """What was counted in one checkout, with names, so that a limit that is broken can be explained."""

    lines: int
    modules: Sequence[str]
    one_importer: Sequence[str]
    over_400: Sequence[str]
    classes_twice: Mapping[str, Sequence[str]]
    import_circles: Sequence[Sequence[str]]

    def figures(self) -> dict[str, int]:
        """Return the numbers, by the keys of ``FIGURES``."""
        return {
            "lines": self.lines,
            "modules": len(self.modules),
            "one_importer": len(self.one_importer),
            "over_400": len(self.over_400),
            "classes_twice": len(self.classes_twice),
            "import_circles": len(self.import_circles),
        }


def count(root: Path) -> House:
    """Count a checkout. ``__init__.py`` counts for lines only, not as a module."""
    known = modules_of(root)
    importers: dict[str, set[str]] = defaultdict(set)
    classes: dict[str, list[str]] = defaultdict(list)
    graph: dict[str, set[str]] = {}
    for module in known.values():
        graph[module.name] = imports_of(module, known)
        for name in graph[module.name]:
            importers[name].add(module.name)
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[f"{module.name.partition('.')[0]}: {node.name}"].append(module.name)
    real = [name for name, module in known.items() if not module.is_package]
    return House(
        lines=sum(module.lines for module in known.values()),
        modules=real,
        one_importer=[name for name in real if len(importers[name]) == 1],
        over_400=[name for name, module in known.items() if module.lines > 400],
        classes_twice={name: places for name, places in classes.items() if len(places) > 1},
        import_circles=circles(graph),
    )


# Runs the command line in this process and notes which of our files have a function called. Bodies of modules
# and classes, which are not optimized code, do not count: importing is not entering.
_TRACED_RUN = """
import inspect, json, sys, threading
entered = set()
def note(frame, event, _):
    if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        entered.add(frame.f_code.co_filename)
from databricks_rlm_agent.cli.main import main
threading.setprofile(note)
sys.setprofile(note)
try:
    code = main(json.loads(sys.argv[1]))
except SystemExit as stop:
    code = stop.code
sys.setprofile(None)
threading.setprofile(None)
ours = sorted(name for name in entered if "/databricks_rlm_agent/" in name)
print(json.dumps({"code": code, "entered": ours}), file=sys.stderr)
"""
_PROGRAM = (
    "import sys\n"
    "rlm.finish({'modules': sorted(n for n in sys.modules if n.partition('.')[0] == 'executor_harness')})\n"
)


def run_figures(root: Path) -> dict[str, int]:
    """Carry out one scripted run with the code of a checkout; return its three figures.

    Entered are the modules of the command line and the control plane in which a function is called; of the
    executor, those that are loaded when the program ends.
    """
    paths = [str(root / base) for base in ("localworkspace/src", "src", ".")]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="house-") as folder:
        environ = kept | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": folder}
        command = [sys.executable, "-m", "databricks_rlm_agent.cli.main", "workspace", "start"]
        workspace = subprocess.Popen(
            [*command, "--root", f"{folder}/root", "--json", "--allow-faults"],
            env=environ,
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert workspace.stdout is not None
            info = json.loads(workspace.stdout.readline())
            environ |= {"DATABRICKS_HOST": info["host"], "DATABRICKS_TOKEN": info["token"]}
            environ |= {"RLM_WAREHOUSE_HTTP_PATH": info["http_path"]}
            agent = [sys.executable, "-m", "databricks_rlm_agent.cli.main", "init"]
            subprocess.run(agent, env=environ, cwd=folder, check=True, capture_output=True)
            puts = _harness_puts(info)
            entered, in_executor = _traced_run(Path(folder), environ)
        finally:
            workspace.terminate()
            workspace.wait(60)
    return {"entered": entered, "executor_entered": in_executor, "puts": puts}


def _harness_puts(info: Mapping[str, Any]) -> int:
    from urllib.request import Request, urlopen

    headers = {"Authorization": f"Bearer {info['token']}"}
    with urlopen(Request(f"{info['host']}/_local/requests", headers=headers)) as reply:
        log = json.load(reply)["requests"]
    return sum(entry["method"] == "PUT" and "/harness/" in entry["path"] for entry in log)


def _traced_run(folder: Path, environ: Mapping[str, str]) -> tuple[int, int]:
    step = [{"call": "run_python", "args": {"code": _PROGRAM, "purpose": "count"}}]
    answer = [{"call": "finish", "args": {"answer": "{{value.modules}}", "evidence": "the value"}}]
    script = folder / "script.json"
    script.write_text(json.dumps({"planner": [step, answer]}))
    arguments = json.dumps(["run", "Count.", "--model", f"scripted:{script}", "--json"])
    command = [sys.executable, "-c", _TRACED_RUN, arguments]
    done = subprocess.run(command, env=dict(environ), cwd=folder, capture_output=True, text=True, check=False)
    last = json.loads(done.stderr.splitlines()[-1])
    if last["code"] not in {0, None}:
        raise RuntimeError(f"The run ended with {last['code']}: {done.stderr[-2000:]}")
    document = json.loads(done.stdout)
    answer_text = document.get("answer") or document.get("run", {}).get("answer") or ""
    return len(last["entered"]), answer_text.count("executor_harness")


def checkout_of(name: str, folder: Path) -> Path:
    """Return a directory as it is; of a commit, extract the files below ``folder``."""
    if Path(name).is_dir():
        return Path(name).resolve()
    archive = folder / f"{name.replace('/', '-')}.tar"
    subprocess.run(["git", "-C", str(ROOT), "archive", "-o", str(archive), name], check=True)
    target = archive.with_suffix("")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target


def table(columns: Mapping[str, Mapping[str, int]]) -> str:
    """Return the figures as a Markdown table, a column for each checkout."""
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for key, text in FIGURES.items():
        if any(key in figures for figures in columns.values()):
            cells = [f"{figures[key]:,}" if key in figures else "" for figures in columns.values()]
            lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", metavar="CHECKOUT-OR-COMMIT", help="default: this checkout")
    parser.add_argument(
        "--json", action="store_true", help="one JSON document, with the names behind figures"
    )
    parser.add_argument("--run", action="store_true", help="also carry out one scripted run and count in it")
    options = parser.parse_args(argv)
    columns: dict[str, dict[str, int]] = {}
    houses = {}
    with tempfile.TemporaryDirectory(prefix="house-") as folder:
        for name in options.checkouts or [str(ROOT)]:
            root = checkout_of(name, Path(folder))
            label = "this checkout" if root == ROOT else name
            houses[label] = house = count(root)
            columns[label] = house.figures() | (run_figures(root) if options.run else {})
    if options.json:
        details = {
            label: {
                "one_importer": house.one_importer,
                "over_400": house.over_400,
                "classes_twice": house.classes_twice,
                "import_circles": house.import_circles,
            }
            for label, house in houses.items()
        }
        print(json.dumps({label: columns[label] | {"names": details[label]} for label in columns}, indent=1))
    else:
        print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
