"""What generated code may do: a seat belt against mistakes, not a sandbox (docs/guardrails.md). Pure.

The wall is what the catalog grants to the identity of Job B. This looks at a program before it runs, so that
a mistake goes back to the model that made it, with the reason and with what to do instead.
"""

from __future__ import annotations

import ast
import posixpath
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.policy.code import Program
from databricks_rlm_agent.policy.effects import DESTRUCTIVE, TELLING, EffectKind, ProgramEffect
from databricks_rlm_agent.policy.literals import Texts
from databricks_rlm_agent.policy.rules import (
    Name,
    PolicyFinding,
    Reach,
    Targets,
    full_name,
    lenient,
    may_be_same,
    shown,
)
from databricks_rlm_agent.policy.sql import effects_of_sql
from databricks_rlm_agent.runs.actions import Action, RunPython, RunSqlWorkflow
from databricks_rlm_agent.sqlflow.handover import source_of
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from executor_harness.protocol import RESERVED_FILES


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A workflow as the policy looks at it. ``made`` are the tables that it leaves, of whichever file: it may
    drop them as well. Every file begins in ``place`` (catalog, schema).
    """

    place: tuple[str, str]
    made: frozenset[Name]
    files: tuple[tuple[str, tuple[ProgramEffect, ...]], ...]


def judged(action: RunSqlWorkflow, namespace: Namespace) -> Judged:
    """The deeds of a workflow whose texts are whole; raise UsageError for one that cannot be planned."""
    place = ((action.catalog or namespace.catalog).lower(), (action.schema or namespace.schema).lower())
    plan = plan_of(source_of(action.files, variables=action.variables, catalog=place[0], schema=place[1]))
    files = {file.name: file for step in plan.steps for file in step.files}
    return Judged(
        place=place,
        made=frozenset(_made(plan)),
        files=tuple(
            (
                name,
                tuple(
                    deed
                    for statement in file.statements
                    for deed in effects_of_sql(statement.text, line=statement.line)
                ),
            )
            for name, file in files.items()
        ),
    )


def _made(plan: Plan) -> Iterator[Name]:
    for step in plan.steps:
        statements = [statement for file in step.files for statement in file.statements]
        for name in (*step.makes, *(name for statement in statements for name in statement.makes)):
            if len(name) == 3:
                yield (name[0], name[1], name[2])


_SHOWN = 160
_DELETE_ADVICE = (
    "Only what this run has made may go: use CREATE OR REPLACE TABLE, a WHERE that says which rows, or `ask`."
)
_WRITE_OWN = "Report by rlm.finish and rlm.log, and keep data in a table of your own."
_NO_KEYS = "Secrets are not for programs: ask models by rlm.llm_query, and `ask` for any other access."


@dataclass(frozen=True, kw_only=True)
class ProgramPolicy:
    """The rules for one run in its mode.

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
        """What is found about an action: its first refusal, else what could not be told and is let pass."""
        if not isinstance(action, RunPython | RunSqlWorkflow):
            return None
        try:
            if isinstance(action, RunSqlWorkflow):
                findings = list(self._of_workflow(judged(action, self.namespace)))
            else:
                findings = list(_Judgement(self, self._deeds(action)).findings())
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = f"The program cannot be read ({type(error).__name__}). Write it more simply."
            return PolicyFinding(rule="unclear", reason=reason)
        refused = [finding for finding in findings if finding.refused]
        return next(iter(refused or findings), None)

    def _of_workflow(self, workflow: Judged) -> Iterator[PolicyFinding]:
        """Its record is kept in its schema; every file has a session of its own."""
        record = ProgramEffect(
            kind=EffectKind.MAKE_SCHEMA, what="The workflow's schema", target=workflow.place
        )
        yield from _Judgement(self, [record]).findings()
        for name, effects in workflow.files:
            told = _Judgement(self, list(effects), here=workflow.place, made=workflow.made).findings()
            yield from (replace(finding, reason=f"{name}: {finding.reason}") for finding in told)

    def _deeds(self, action: RunPython) -> list[ProgramEffect]:
        with warnings.catch_warnings():  # an odd escape such as "\d" is the program's affair
            warnings.simplefilter("ignore")
            tree = ast.parse(action.code)
        handles = {**self.inputs, **action.inputs}
        texts = Texts(
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


class _Judgement:
    """The rules on one program's deeds. ``here`` is the catalog and schema that its session begins in, where
    they are known; ``made`` what others of the same action make.
    """

    def __init__(
        self,
        policy: ProgramPolicy,
        effects: list[ProgramEffect],
        *,
        here: tuple[str, str] = ("", ""),
        made: frozenset[Name] = frozenset(),
    ) -> None:
        self._policy, self._deeds = policy, effects
        self._lenient = lenient(policy.mode)
        self._targets = Targets.of(policy.mode, policy.namespace, policy.write_targets)
        self._here = here  # until a USE says it
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
            EffectKind.SECRET: self._secret,
            EffectKind.UNCLEAR: lambda deed: self._doubt(deed, deed.what),
        }

    def findings(self) -> Iterator[PolicyFinding]:
        """What the rules say of each deed, in the order of the program."""
        # Dropping what the same program makes anew is what CREATE OR REPLACE does.
        self._made |= {self._name(deed) for deed in self._deeds if deed.kind is EffectKind.CREATE}
        for deed in self._deeds:
            if deed.kind is EffectKind.USE:
                self._here = full_name((*deed.target, "-"), self._here)[:2]
            elif finding := self._rules[deed.kind](deed):
                yield finding

    def _name(self, deed: ProgramEffect) -> Name:
        return full_name(deed.target, self._here)

    def _write(self, deed: ProgramEffect) -> PolicyFinding | None:
        name = self._name(deed)
        return self._placed(deed, self._targets.table(name), shown(name))

    def _placed(self, deed: ProgramEffect, reach: Reach, name: str) -> PolicyFinding | None:
        if reach is Reach.LEDGER:
            return _refused(
                "own tables",
                deed,
                f"writes to {name}, where runs are on record",
                _WRITE_OWN,
            )
        if reach is Reach.OUTSIDE:
            advice = f"It may write to: {self._targets}."
            return _refused("write target", deed, f"writes to {name}", advice)
        return self._doubt(deed, f"writes to {name}") if reach is Reach.UNCLEAR else None

    def _destroy(self, deed: ProgramEffect) -> PolicyFinding | None:
        name = self._name(deed)
        written = self._placed(deed, self._targets.table(name), shown(name))
        if (written is not None and written.refused) or name in self._made:
            return written
        if "*" in name[2] or any(may_be_same(name, made) for made in self._made):
            return self._doubt(deed, f"{deed.what} on {shown(name)}")
        return _refused("destructive", deed, f"{deed.what} on {shown(name)}", _DELETE_ADVICE)

    def _make_schema(self, deed: ProgramEffect) -> PolicyFinding | None:
        catalog, schema = self._schema_of(deed)
        return self._placed(deed, self._targets.schema(catalog, schema), ".".join(deed.target))

    def _schema_of(self, deed: ProgramEffect) -> tuple[str, str]:
        """The schema that a statement on a schema, catalog or volume is about."""
        parts = tuple(part.lower() for part in deed.target)
        if deed.what.endswith("CATALOG"):
            return parts[0], "-"
        return full_name(parts if deed.what.endswith("VOLUME") else (*parts, "-"), self._here)[:2]

    def _drop_schema(self, deed: ProgramEffect) -> PolicyFinding | None:
        made = {
            self._schema_of(each)
            for each in self._deeds
            if each.kind is EffectKind.MAKE_SCHEMA and each.what.startswith("CREATE")
        }
        place = self._schema_of(deed)
        own = (self._policy.namespace.catalog.lower(), self._policy.namespace.schema.lower(), "")
        if (
            self._lenient
            and place in made
            and not may_be_same((*place, ""), own)
            and "VOLUME" not in deed.what
        ):
            return None
        return _refused("destructive", deed, f"{deed.what} {'.'.join(deed.target)}", _DELETE_ADVICE)

    def _put_file(self, deed: ProgramEffect) -> PolicyFinding | None:
        path = _in_volumes(deed.target[0])
        if path is None:  # a local file, or who knows: what Job B keeps is only in Volumes
            return None
        if self._is_ours(path):
            return _refused("own files", deed, f"writes {path}", "Write to rlm.path('NAME'), or elsewhere.")
        parts = path.split("/")
        catalog, schema = (*(part.lower() for part in parts[2:4]), "*", "*")[:2]
        return self._placed(deed, self._targets.schema(catalog, schema), path)

    def _remove_file(self, deed: ProgramEffect) -> PolicyFinding | None:
        path = _in_volumes(deed.target[0])
        own = self._policy.namespace.run_dir(self._policy.run_id)
        if path is None or path in self._policy.files:
            return None
        if path.startswith(f"{own}/") and not self._is_ours(path):
            return None
        return _refused("destructive", deed, f"removes {path}", f"What may go is in {own}.")

    def _is_ours(self, path: str) -> bool:
        """Whether a path is of the harness, of the shared code, of another run, or what Job B keeps."""
        root, own = self._policy.namespace.volume_root, self._policy.namespace.run_dir(self._policy.run_id)
        if path.startswith(f"{own}/"):
            return posixpath.basename(path) in RESERVED_FILES
        kept = (f"{root}/harness", f"{root}/company_codebase", f"{root}/scratchpad")
        return any(f"{path}/".startswith(f"{folder}/") for folder in kept) and path != own

    def _shell(self, deed: ProgramEffect) -> PolicyFinding | None:
        command = deed.target[0]
        if TELLING.search(command):
            return _refused("secret", deed, f"runs {command!r}", _NO_KEYS)
        if DESTRUCTIVE.search(command):
            return _refused("shell", deed, f"runs {command!r}", "Use Python on the files of this run.")
        if not self._lenient:
            advice = "In mode PROD programs start no others: do it in Python."
            return _refused("shell", deed, f"calls {deed.what}", advice)
        return self._doubt(deed, f"runs {command!r}") if "*" in command else None

    def _secret(self, deed: ProgramEffect) -> PolicyFinding | None:
        return _refused("secret", deed, f"reads {deed.what}", _NO_KEYS)

    def _doubt(self, deed: ProgramEffect, done: str) -> PolicyFinding:
        """What depends on what the program finds when it runs: let pass in DEV, refused elsewhere."""
        return PolicyFinding(
            rule="unclear",
            reason=_sentence(
                deed, done, "What that is cannot be told before it runs: write SQL and full names out."
            ),
            refused=not self._lenient,
        )


def _refused(rule: str, deed: ProgramEffect, done: str, advice: str) -> PolicyFinding:
    return PolicyFinding(rule=rule, reason=_sentence(deed, done, advice))


def _sentence(deed: ProgramEffect, done: str, advice: str) -> str:
    short = done if len(done) <= _SHOWN else f"{done[:_SHOWN]}…"
    what = "" if deed.what in done else f" ({deed.what[:80]})"
    return f"Line {deed.line}{what}: {short}. {advice}"


def _in_volumes(path: str) -> str | None:
    """The normal form of a path in a Volume; None for any other."""
    for prefix in ("dbfs:", "/dbfs", "file:"):
        path = path.removeprefix(prefix)
    path = posixpath.normpath(re.sub(r"^/+", "/", path))
    return path if path.startswith("/Volumes/") else None
