"""The policy for generated code: a seat belt against mistakes, not a sandbox (docs/guardrails.md). Pure.

What holds against intent is what the catalog grants to the identity of Job B. This judges a program before it
runs, so that a mistake goes back to the model, with the reason and with what to do instead.
"""

from __future__ import annotations

import ast
import posixpath
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from fnmatch import fnmatchcase
from typing import Any

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.policy.code import Program
from databricks_rlm_agent.policy.effects import (
    EffectKind,
    FullName,
    ProgramEffect,
    WorkflowEffects,
    dotted,
    full_name,
    may_be,
    may_be_same,
    workflow_effects,
)
from databricks_rlm_agent.policy.literals import PossibleTexts
from databricks_rlm_agent.runs.actions import Action, RunPython, RunSqlWorkflow
from databricks_rlm_agent.sqlflow.run.delta_record import RUNS, STEPS
from executor_harness.protocol import RESERVED_FILES

DEV = "DEV"
GATED: Mapping[str, frozenset[str]] = {DEV: frozenset(), "PROD": frozenset()}
"""By mode: tools that are neither offered to the model nor answered. Unknown modes are as PROD."""


@dataclass(frozen=True, kw_only=True)
class PolicyFinding:
    """A rule's finding about a tool or an action: refused, or allowed and noted (``refused`` False).

    ``reason`` goes back to the model: what is wrong, and what to do instead.
    """

    rule: str
    reason: str
    refused: bool = True


def lenient(mode: str) -> bool:
    """Return whether a mode allows what cannot be decided: only DEV does, so a misspelt mode is strict."""
    return mode.strip().upper() == DEV


def gated_in(mode: str, gated: Mapping[str, frozenset[str]] = GATED) -> Collection[str]:
    """The names of tools and actions that a mode goes without."""
    return gated.get(DEV if lenient(mode) else "PROD", frozenset())


def gate(tool: str, mode: str, gated: Mapping[str, frozenset[str]] = GATED) -> PolicyFinding | None:
    """The refusal of a tool that the mode goes without; None for any other."""
    reason = f"{tool} is not to be used in mode {mode[:40]}. Use another tool or action."
    return PolicyFinding(rule="tool", reason=reason) if tool in gated_in(mode, gated) else None


LEDGER = frozenset(
    {
        *("run_state", "execution_requests", "execution_results", "run_events", "model_calls"),
        *("intake_watermarks", "schema_migrations", RUNS, STEPS),
    }
)
"""Our own tables, which generated code may read and never write. ``work_items`` belongs to its users."""
_SYSTEM_CATALOGS = {"system", "samples"}
_SYSTEM_SCHEMA = "information_schema"


class WriteAccess(StrEnum):
    """The access that generated code has to a name."""

    ALLOWED = auto()
    OUTSIDE = auto()
    UNCLEAR = auto()  # it depends on what is not known
    LEDGER = auto()


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The schemas that generated code may write to in a mode; ``patterns`` are of ``catalog.schema``."""

    namespace: Namespace
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, mode: str, namespace: Namespace, chosen: tuple[str, ...] | None) -> Targets:
        """The ``chosen`` patterns; by default everything in DEV, else our schema and its scratch schema."""
        own = f"{namespace.catalog}.{namespace.schema}"
        default = ("*",) if lenient(mode) else (own, namespace.scratch_schema)
        patterns = default if chosen is None else chosen
        return cls(namespace=namespace, patterns=tuple(pattern.strip().lower() for pattern in patterns))

    def table(self, name: FullName) -> WriteAccess:
        """Return the access to a table."""
        ours = (self.namespace.catalog.lower(), self.namespace.schema.lower())
        if all(map(may_be, name[:2], ours)):
            if name[2] in LEDGER:
                return WriteAccess.LEDGER
            if any(may_be(name[2], table) for table in LEDGER):
                return WriteAccess.UNCLEAR
        return self.schema(name[0], name[1])

    def schema(self, catalog: str, schema: str) -> WriteAccess:
        """Return the access to everything in a schema."""
        if catalog in _SYSTEM_CATALOGS or schema == _SYSTEM_SCHEMA:
            return WriteAccess.OUTSIDE
        pairs = [[*pattern.split("."), "*"][:2] for pattern in self.patterns]
        if any(_covers(one, catalog) and _covers(two, schema) for one, two in pairs):
            # An unknown catalog may be a system catalog.
            return WriteAccess.UNCLEAR if "*" in catalog else WriteAccess.ALLOWED
        if any(may_be(catalog, one) and may_be(schema, two) for one, two in pairs):
            return WriteAccess.UNCLEAR
        return WriteAccess.OUTSIDE

    def __str__(self) -> str:
        return ", ".join(self.patterns)


def _covers(pattern: str, name: str) -> bool:
    """Return whether a pattern matches whatever a name turns out to be."""
    return pattern == "*" or fnmatchcase(name, pattern)


# What no command may do: destroy what the run has not made, run what comes from the network, reveal secrets.
DESTRUCTIVE = re.compile(
    r"\brm\s+(?:-[-\w=]+\s+)*-(?:-recursive|-force|\w*[rRf])|\bmkfs\b|\bdd\b[^|;]*\bof=/|\bshred\b|>\s*/dev/sd"
    r"|\b(?:curl|wget)\b[^;]*\|\s*(?:sudo\s+)?\w*sh\b|\b(?:shutdown|reboot|poweroff|halt)\b|:\(\)\s*\{"
    r"|\bkill(?:all)?\s+-9\s+-?1\b|\bchmod\s+(?:-\w+\s+)*777\s+/|\bfind\b.*\s-delete\b"
)
REVEALING = re.compile(r"\bprintenv\b|(?:^|[;&|(]\s*)(?:env|set|export)\s*(?:$|[;&|>])|/proc/\w+/environ")
_SHOWN = 160
_DELETE_ADVICE = (
    "Only tables of this run may be emptied or dropped: use CREATE OR REPLACE TABLE, a WHERE, or `ask`."
)
_OWN_TABLE = "Report with rlm.finish and rlm.log, and keep data in a table of your own."
_NO_KEYS = "Programs get no secrets: ask models with rlm.llm_query, and `ask` for any other access."


@dataclass(frozen=True, kw_only=True)
class ProgramPolicy:
    """The policy for one run in its mode.

    ``write_targets`` are ``catalog.schema``, ``catalog.*`` or ``*``; None: as the mode says. ``tables`` and
    ``files`` are what the run has made, by full name and path; ``inputs`` its handles.
    """

    mode: str
    namespace: Namespace
    run_id: str
    write_targets: tuple[str, ...] | None = None
    tables: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, action: Action) -> PolicyFinding | None:
        """Return the first refusal of an action, or else the first finding that is only noted."""
        if not isinstance(action, RunPython | RunSqlWorkflow):
            return None
        try:
            if isinstance(action, RunSqlWorkflow):
                findings = list(self._judge_workflow(workflow_effects(action, self.namespace)))
            else:
                findings = list(_Rules(self, self._program_effects(action)).findings())
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = f"The program cannot be read ({type(error).__name__}). Write it more simply."
            return PolicyFinding(rule="unclear", reason=reason)
        return next((each for each in findings if each.refused), next(iter(findings), None))

    def _judge_workflow(self, workflow: WorkflowEffects) -> Iterator[PolicyFinding]:
        """Its record is kept in its schema; every file has a session of its own."""
        what = "The workflow's schema"
        record = ProgramEffect(kind=EffectKind.MAKE_SCHEMA, what=what, target=workflow.place)
        yield from _Rules(self, [record]).findings()
        for name, effects in workflow.files.items():
            findings = _Rules(self, effects, place=workflow.place, made=workflow.made).findings()
            yield from (replace(finding, reason=f"{name}: {finding.reason}") for finding in findings)

    def _program_effects(self, action: RunPython) -> list[ProgramEffect]:
        with warnings.catch_warnings():  # an odd escape such as "\d" is the program's affair
            warnings.simplefilter("ignore")
            tree = ast.parse(action.code)
        handles = {**self.inputs, **action.inputs}
        texts = PossibleTexts(
            tree,
            inputs={
                name: str(handle.get("name") or handle.get("path") or "")
                for name, handle in handles.items()
                if isinstance(handle, dict) and handle.get("kind") != "text"
            },
            schema=f"{self.namespace.catalog}.{self.namespace.schema}",
            folder=self.namespace.run_dir(self.run_id),
        )
        return Program(tree, texts).effects()


class _Rules:
    """The rules for one program's effects. ``place`` is the catalog and schema that its session begins in, if
    they are known; ``made`` is what other files of the same action make.
    """

    def __init__(
        self,
        policy: ProgramPolicy,
        effects: list[ProgramEffect],
        *,
        place: tuple[str, str] = ("", ""),
        made: frozenset[FullName] = frozenset(),
    ) -> None:
        self._policy, self._effects = policy, effects
        self._lenient = lenient(policy.mode)
        self._targets = Targets.of(policy.mode, policy.namespace, policy.write_targets)
        self._place = place  # until a USE changes it
        self._made = {full_name(tuple(name.split(".")), ("", "")) for name in policy.tables} | made
        self._rules: dict[EffectKind, Callable[[ProgramEffect], PolicyFinding | None]] = {
            EffectKind.WRITE: self._write,
            EffectKind.CREATE: self._write,
            EffectKind.DESTROY: self._destroy,
            EffectKind.GRANT: self._destroy,
            EffectKind.MAKE_SCHEMA: self._make_schema,
            EffectKind.DROP_SCHEMA: self._drop_schema,
            EffectKind.PUT_FILE: self._put_file,
            EffectKind.REMOVE_FILE: self._remove_file,
            EffectKind.SHELL: self._shell,
            EffectKind.SECRET: lambda effect: _refused("secret", effect, f"reads {effect.what}", _NO_KEYS),
            EffectKind.UNCLEAR: lambda effect: self._unclear(effect, effect.what),
        }

    def findings(self) -> Iterator[PolicyFinding]:
        """Yield the findings, in the order of the program."""
        # Dropping what the same program makes anew is what CREATE OR REPLACE does.
        self._made |= {self._name(effect) for effect in self._effects if effect.kind is EffectKind.CREATE}
        for effect in self._effects:
            if effect.kind is EffectKind.USE:
                self._place = full_name((*effect.target, "-"), self._place)[:2]
            elif finding := self._rules[effect.kind](effect):
                yield finding

    def _name(self, effect: ProgramEffect) -> FullName:
        return full_name(effect.target, self._place)

    def _write(self, effect: ProgramEffect) -> PolicyFinding | None:
        name = self._name(effect)
        return self._write_to(effect, self._targets.table(name), dotted(name))

    def _write_to(self, effect: ProgramEffect, access: WriteAccess, name: str) -> PolicyFinding | None:
        if access is WriteAccess.LEDGER:
            done = f"writes to {name}, where runs are recorded"
            return _refused("own tables", effect, done, _OWN_TABLE)
        if access is WriteAccess.OUTSIDE:
            advice = f"It may write to: {self._targets}."
            return _refused("write target", effect, f"writes to {name}", advice)
        return self._unclear(effect, f"writes to {name}") if access is WriteAccess.UNCLEAR else None

    def _destroy(self, effect: ProgramEffect) -> PolicyFinding | None:
        name = self._name(effect)
        written = self._write_to(effect, self._targets.table(name), dotted(name))
        if (written is not None and written.refused) or name in self._made:
            return written
        if "*" in name[2] or any(may_be_same(name, made) for made in self._made):
            return self._unclear(effect, f"{effect.what} on {dotted(name)}")
        return _refused("destructive", effect, f"{effect.what} on {dotted(name)}", _DELETE_ADVICE)

    def _make_schema(self, effect: ProgramEffect) -> PolicyFinding | None:
        catalog, schema = self._schema_of(effect)
        return self._write_to(effect, self._targets.schema(catalog, schema), ".".join(effect.target))

    def _schema_of(self, effect: ProgramEffect) -> tuple[str, str]:
        """The schema that a statement on a schema, catalog or volume is about."""
        parts = tuple(part.lower() for part in effect.target)
        if effect.what.endswith("CATALOG"):
            return parts[0], "-"
        return full_name(parts if effect.what.endswith("VOLUME") else (*parts, "-"), self._place)[:2]

    def _drop_schema(self, effect: ProgramEffect) -> PolicyFinding | None:
        made = {
            self._schema_of(each)
            for each in self._effects
            if each.kind is EffectKind.MAKE_SCHEMA and each.what.startswith("CREATE")
        }
        place, namespace = self._schema_of(effect), self._policy.namespace
        is_own = may_be_same((*place, ""), (namespace.catalog.lower(), namespace.schema.lower(), ""))
        if self._lenient and place in made and not is_own and "VOLUME" not in effect.what:
            return None
        return _refused("destructive", effect, f"{effect.what} {'.'.join(effect.target)}", _DELETE_ADVICE)

    def _put_file(self, effect: ProgramEffect) -> PolicyFinding | None:
        path = _in_volumes(effect.target[0])
        if path is None:  # a local file, or not known: what Job B keeps is only in Volumes
            return None
        if self._is_ours(path):
            return _refused("own files", effect, f"writes {path}", "Write to rlm.path('NAME'), or elsewhere.")
        parts = path.split("/")
        catalog, schema = (*(part.lower() for part in parts[2:4]), "*", "*")[:2]
        return self._write_to(effect, self._targets.schema(catalog, schema), path)

    def _remove_file(self, effect: ProgramEffect) -> PolicyFinding | None:
        path = _in_volumes(effect.target[0])
        own = self._policy.namespace.run_dir(self._policy.run_id)
        if path is None or path in self._policy.files:
            return None
        if path.startswith(f"{own}/") and not self._is_ours(path):
            return None
        return _refused("destructive", effect, f"removes {path}", f"Only files in {own} may be removed.")

    def _is_ours(self, path: str) -> bool:
        """Return whether a path belongs to the harness, shared code, another run, or Job B's own files."""
        root, own = self._policy.namespace.volume_root, self._policy.namespace.run_dir(self._policy.run_id)
        if path.startswith(f"{own}/"):
            return posixpath.basename(path) in RESERVED_FILES
        kept = (f"{root}/harness", f"{root}/company_codebase", f"{root}/scratchpad")
        return any(f"{path}/".startswith(f"{folder}/") for folder in kept) and path != own

    def _shell(self, effect: ProgramEffect) -> PolicyFinding | None:
        command = effect.target[0]
        if REVEALING.search(command):
            return _refused("secret", effect, f"runs {command!r}", _NO_KEYS)
        if DESTRUCTIVE.search(command):
            return _refused("shell", effect, f"runs {command!r}", "Use Python on the files of this run.")
        if not self._lenient:
            advice = "In mode PROD a program may not start other programs: do it in Python."
            return _refused("shell", effect, f"calls {effect.what}", advice)
        return self._unclear(effect, f"runs {command!r}") if "*" in command else None

    def _unclear(self, effect: ProgramEffect, done: str) -> PolicyFinding:
        """The finding for what is known only when the program runs: noted in DEV, refused elsewhere."""
        advice = "That is not known before the program runs: write SQL and full names out."
        return replace(_refused("unclear", effect, done, advice), refused=not self._lenient)


def _refused(rule: str, effect: ProgramEffect, done: str, advice: str) -> PolicyFinding:
    short = done if len(done) <= _SHOWN else f"{done[:_SHOWN]}…"
    what = "" if effect.what in done else f" ({effect.what[:80]})"
    return PolicyFinding(rule=rule, reason=f"Line {effect.line}{what}: {short}. {advice}")


def _in_volumes(path: str) -> str | None:
    """The normal form of a path in a Volume; None for any other."""
    for prefix in ("dbfs:", "/dbfs", "file:"):
        path = path.removeprefix(prefix)
    path = posixpath.normpath(re.sub(r"^/+", "/", path))
    return path if path.startswith("/Volumes/") else None
