"""The effects of a Python program, as far as its text shows. Pure: the program is parsed, never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from databricks_rlm_agent.policy.effects import EffectKind, ProgramEffect, effects_of_sql, is_statement, known
from databricks_rlm_agent.policy.literals import PossibleTexts
from databricks_rlm_agent.sqltext.names import UNKNOWN
from executor_harness.redaction import names_a_secret

_DELTA_CHANGES = {"delete", "update", "merge", "restoreToVersion", "restoreToTimestamp", "vacuum", "optimize"}
_CALL_CHARS = 5_000
_COMMAND_CHARS = 4_000  # that are looked at
_SQL = {"sql", "execute", "executemany"}
# Methods that write a table, and the name of the argument that says which.
TABLE_WRITERS = {
    **dict.fromkeys(("insertInto", "toTable", "createTable", "createExternalTable"), "tableName"),
    "saveAsTable": "name",
    "writeTo": "table",
}
_PUT, _REMOVE = EffectKind.PUT_FILE, EffectKind.REMOVE_FILE
_FILE_CALLS = {
    "os.remove os.unlink os.rmdir os.removedirs shutil.rmtree dbutils.fs.rm": ((_REMOVE, 0),),
    "os.rename os.replace os.renames shutil.move dbutils.fs.mv": ((_REMOVE, 0), (_PUT, 1)),
    "shutil.copy shutil.copy2 shutil.copyfile shutil.copytree dbutils.fs.cp": ((_PUT, 1),),
    "os.makedirs os.mkdir dbutils.fs.put dbutils.fs.mkdirs numpy.save numpy.savez np.save": ((_PUT, 0),),
}
FILE_CALLS: dict[str, tuple[tuple[EffectKind, int], ...]] = {
    name: effects for names, effects in _FILE_CALLS.items() for name in names.split()
}
"""Functions by full name: what each does to its arguments, by their places."""
PATH_METHODS = {
    **dict.fromkeys(("write_text", "write_bytes", "mkdir", "touch"), _PUT),
    **dict.fromkeys(("unlink", "rmdir"), _REMOVE),
}
"""Methods of a path; on anything else the effect has no target in a Volume."""
# Methods of DataFrame writers (after ``.write``) and of pandas (``to_…``).
FRAME_FILES = re.compile(
    r"parquet|csv|json|orc|text|save|start|to_(?:csv|parquet|json|pickle|excel|feather|hdf|orc|html)"
)
SHELLS = re.compile(
    r"os\.(?:system|popen|exec\w+|spawn\w+|posix_spawnp?)|pty\.spawn"
    r"|subprocess\.(?:run|call|check_call|check_output|Popen|getoutput|getstatusoutput)"
    r"|asyncio\.create_subprocess_(?:exec|shell)"
)
EVALUATORS = {"exec", "eval"}
# Functions whose arguments are messages or patterns, which are not executed.
MESSAGE_FUNCTIONS = {
    *("print", "log", "info", "warning", "error", "debug", "exception", "llm_query", "llm_query_batched"),
    *("metric", "finish", "ValueError", "RuntimeError", "Exception", "AssertionError"),
    *("compile", "search", "match", "fullmatch", "findall", "sub", "split", "contains", "startswith"),
}
ENVIRONMENT = {f"os.{name}" for name in ("environ", "environb", "getenv")}
SECRET_FILES = re.compile(r"/proc/\w+/environ|\.databrickscfg|\.netrc|\.aws/credentials|\.ssh/")


class Program:
    """A program and what it does. ``texts`` gives the texts that an expression may have."""

    def __init__(self, tree: ast.Module, texts: PossibleTexts) -> None:
        self._texts = texts
        self._nodes = list(ast.walk(tree))
        self._imported = dict(_imports(self._nodes))
        self._parents = {id(child): node for node in self._nodes for child in ast.iter_child_nodes(node)}
        self._methods = {node.attr for node in self._nodes if isinstance(node, ast.Attribute)}
        self._empties = any(
            isinstance(node, ast.Call)
            and not (node.args or node.keywords)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "delete"
            for node in self._nodes
        )
        self._runs_unknown_sql = False

    def effects(self) -> list[ProgramEffect]:
        """All effects, by line."""
        found = [effect for node in self._nodes for effect in self._of(node)]
        if self._runs_unknown_sql:
            found += self._other_statements()
        return sorted(found, key=lambda effect: effect.line)

    def _of(self, node: ast.AST) -> Iterator[ProgramEffect]:
        if isinstance(node, ast.Call):
            name = self._dotted(node.func)
            for read in (self._sql, self._tables, self._files, self._shell):
                yield from read(node, name)
        elif isinstance(node, ast.Attribute | ast.Name):
            yield from self._secret(node)
            if isinstance(node, ast.Attribute) and node.attr == "sql" and not self._is_called(node):
                self._runs_unknown_sql = self._runs_unknown_sql or ast.unparse(node.value).endswith("spark")

    def _sql(self, call: ast.Call, _name: str) -> Iterator[ProgramEffect]:
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in _SQL:
            return
        given = _argument(call, 0, "sqlQuery", "query")
        for text in self._texts.of(given) if given is not None else ():
            if text != UNKNOWN:
                yield from effects_of_sql(text, line=call.lineno)
            elif call.func.attr == "sql":
                self._runs_unknown_sql = True
                what = "SQL that is put together at run time"
                yield ProgramEffect(kind=EffectKind.UNCLEAR, what=what, line=call.lineno)

    def _other_statements(self) -> Iterator[ProgramEffect]:
        """Effects of all SQL texts in a program: the SQL that could not be followed may be one of them."""
        for node in self._nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_statement(node.value):
                around = self._parents.get(id(node))
                function = self._dotted(around.func) if isinstance(around, ast.Call) else ""
                message = function.rpartition(".")[2] in MESSAGE_FUNCTIONS
                if not message and not isinstance(around, ast.Expr):  # an expression alone is a docstring
                    found = effects_of_sql(node.value, line=node.lineno)
                    yield from (effect for effect in found if effect.kind is not EffectKind.UNCLEAR)

    def _tables(self, call: ast.Call, name: str) -> Iterator[ProgramEffect]:
        method = name.rpartition(".")[2]
        if method in TABLE_WRITERS and isinstance(call.func, ast.Attribute):
            kind = EffectKind.CREATE if self._makes_anew(call, method) else EffectKind.WRITE
            yield from self._each(kind, method, _argument(call, 0, TABLE_WRITERS[method]), call.lineno)
        elif name.endswith("DeltaTable.forName") and self._methods & _DELTA_CHANGES:
            kind, what = EffectKind.WRITE, "DeltaTable"
            if self._empties:
                kind, what = EffectKind.DESTROY, "DeltaTable.delete() without a condition"
            yield from self._each(kind, what, _argument(call, 1, "tableOrViewName"), call.lineno)
        elif name.endswith("DeltaTable.forPath") and self._methods & _DELTA_CHANGES:
            yield from self._each(EffectKind.PUT_FILE, "DeltaTable", _argument(call, 1, "path"), call.lineno)
        elif name.endswith(("catalog.setCurrentDatabase", "catalog.setCurrentCatalog")):
            for text in self._texts.of(_argument(call, 0, "dbName", "catalogName")):
                target = (*known(text).split("."), *(["default"] if name.endswith("Catalog") else []))
                yield ProgramEffect(kind=EffectKind.USE, what=method, target=target, line=call.lineno)

    def _makes_anew(self, call: ast.Call, method: str) -> bool:
        """Return whether a writer's table is new, or replaced as a whole."""
        if method == "saveAsTable":
            return "append" not in ast.unparse(call)[:_CALL_CHARS]
        node: ast.AST | None = call
        after = set()
        while isinstance(node, ast.Call | ast.Attribute):  # writeTo(…).using(…).createOrReplace()
            after |= {node.attr} if isinstance(node, ast.Attribute) else set()
            node = self._parents.get(id(node))
        return method == "writeTo" and bool(after & {"create", "replace", "createOrReplace"})

    def _each(self, kind: EffectKind, what: str, given: ast.AST | None, line: int) -> Iterator[ProgramEffect]:
        for text in self._texts.of(given):
            text = known(text).replace("`", "").strip()
            parts = [text] if kind in {EffectKind.PUT_FILE, EffectKind.REMOVE_FILE} else text.split(".")
            yield ProgramEffect(kind=kind, what=what, target=tuple(parts), line=line)

    def _files(self, call: ast.Call, name: str) -> Iterator[ProgramEffect]:
        method = name.rpartition(".")[2]
        for kind, place in FILE_CALLS.get(name.removeprefix("builtins."), ()):
            yield from self._each(kind, name, _argument(call, place), call.lineno)
        if name in {"open", "io.open"} or (method == "open" and isinstance(call.func, ast.Attribute)):
            bound = name not in {"open", "io.open"}  # Path(…).open(mode)
            base = call.func.value if bound and isinstance(call.func, ast.Attribute) else _argument(call, 0)
            modes = self._texts.of(_argument(call, 0 if bound else 1, "mode") or ast.Constant("r"))
            if any(set(mode) & set("wax+") for mode in modes if mode != UNKNOWN):
                yield from self._each(EffectKind.PUT_FILE, "open for writing", base, call.lineno)
            yield from self._secret_file(base, call.lineno)
        elif isinstance(call.func, ast.Attribute) and method in PATH_METHODS:
            yield from self._each(PATH_METHODS[method], method, call.func.value, call.lineno)
        elif (
            isinstance(call.func, ast.Attribute) and FRAME_FILES.fullmatch(method) and self._writes(call.func)
        ):
            yield from self._each(EffectKind.PUT_FILE, method, _argument(call, 0, "path"), call.lineno)

    def _writes(self, method: ast.Attribute) -> bool:
        """Return whether a method writes: ``to_csv`` does; ``csv`` does after ``.write``."""
        if method.attr.startswith("to_"):
            return True
        node: ast.AST = method.value
        while isinstance(node, ast.Attribute | ast.Call):
            if isinstance(node, ast.Attribute) and node.attr in {"write", "writeStream"}:
                return True
            node = node.func if isinstance(node, ast.Call) else node.value
        return False

    def _shell(self, call: ast.Call, name: str) -> Iterator[ProgramEffect]:
        if SHELLS.fullmatch(name):
            for command in self._command(_argument(call, 0, "args", "cmd", "command")):
                short = known(command)[:_COMMAND_CHARS]
                yield ProgramEffect(kind=EffectKind.SHELL, what=name, target=(short,), line=call.lineno)
        elif name in EVALUATORS:
            what = f"{name}() of a program's text"
            yield ProgramEffect(kind=EffectKind.UNCLEAR, what=what, line=call.lineno)

    def _command(self, given: ast.AST | None) -> list[str]:
        if isinstance(given, ast.List | ast.Tuple):
            return [" ".join(self._texts.of(part)[0] for part in given.elts)]
        return self._texts.of(given)

    def _secret(self, node: ast.Attribute | ast.Name) -> Iterator[ProgramEffect]:
        name = self._dotted(node)
        if name == "dbutils.secrets" or (isinstance(node, ast.Attribute) and node.attr == "apiToken"):
            yield ProgramEffect(kind=EffectKind.SECRET, what=name, line=node.lineno)
        elif name in ENVIRONMENT and isinstance(node.ctx, ast.Load):
            yield from self._environment(node, name)

    def _environment(self, node: ast.Attribute | ast.Name, name: str) -> Iterator[ProgramEffect]:
        around = self._parents.get(id(node))
        key: ast.AST | None = None
        match around:
            case ast.Subscript(value=value, slice=key, ctx=ast.Load()) if value is node:
                pass
            case ast.Call(func=function, args=[key, *_]) if function is node:  # of getenv
                pass
            case ast.Attribute(attr="get" | "pop" | "setdefault"):
                call = self._parents.get(id(around))
                key = call.args[0] if isinstance(call, ast.Call) and call.args else None
            case ast.Attribute(attr="items" | "values") | ast.Call() | ast.FormattedValue():
                yield ProgramEffect(kind=EffectKind.SECRET, what=f"all of {name}", line=node.lineno)
        for text in self._texts.of(key) if key is not None else ():
            if text != UNKNOWN and names_a_secret(text):
                what = f"{name} {known(text)[:80]!r}"
                yield ProgramEffect(kind=EffectKind.SECRET, what=what, line=node.lineno)

    def _secret_file(self, path: ast.AST | None, line: int) -> Iterator[ProgramEffect]:
        for text in self._texts.of(path):
            if SECRET_FILES.search(text):
                yield ProgramEffect(kind=EffectKind.SECRET, what=known(text)[:80], line=line)

    def _is_called(self, node: ast.AST) -> bool:
        around = self._parents.get(id(node))
        return isinstance(around, ast.Call) and around.func is node

    def _dotted(self, node: ast.AST) -> str:
        """``a.b.c`` with the name under which it was imported; what is not a name is ``?``."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        match node:
            case ast.Name(id=name):
                parts.append(self._imported.get(name, name))
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as name), *_],
            ):
                parts.append(name)
            case _:
                parts.append("?")
        return ".".join(reversed(parts))


def _imports(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((each.asname, each.name) for each in node.names if each.asname)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((each.asname or each.name, f"{node.module}.{each.name}") for each in node.names)


def _argument(call: ast.Call, place: int, *names: str) -> ast.AST | None:
    if place < len(call.args):
        return call.args[place]
    return next((word.value for word in call.keywords if word.arg in names), None)
