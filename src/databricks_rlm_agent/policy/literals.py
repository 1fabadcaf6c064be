"""The texts that an expression of a program may have, found without running it. Pure.

Names are followed through assignments, loops over literal lists and calls of the program's own functions;
f-strings, ``+``, ``%`` and ``format`` are put together. What cannot be followed is UNKNOWN.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product

from databricks_rlm_agent.sqltext.names import UNKNOWN

Node = ast.AST | None
Bound = dict[str, list[Node]]
_SAME_ELEMENTS = {"sorted", "list", "tuple", "set", "reversed", "iter"}
_ADDING = {"append", "add", "extend", "insert", "update"}


def bindings(tree: ast.AST) -> Bound:
    """By name: every expression that it is bound to; None stands for one that cannot be followed."""
    bound: Bound = defaultdict(list)
    nodes = list(ast.walk(tree))
    for node in nodes:
        _assigned(bound, node)
    _parameters(bound, nodes)
    added = _added(nodes)
    for node in nodes:  # last, when the names that are looped over are bound
        if isinstance(node, ast.For | ast.comprehension):
            for item in [*_elements(node.iter, bound, added)] or [None]:
                _bind(bound, node.target, item)
    return bound


def _assigned(bound: Bound, node: ast.AST) -> None:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _bind(bound, target, value)
        case ast.AnnAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
            _bind(bound, target, value)
        case ast.AugAssign(target=target) | ast.withitem(optional_vars=ast.AST() as target):
            _bind(bound, target, None)


def _bind(bound: Bound, target: ast.AST, value: Node) -> None:
    if isinstance(target, ast.Name):
        bound[target.id].append(value)
    elif isinstance(target, ast.Tuple | ast.List):
        parts: list[Node] = [None] * len(target.elts)
        if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(parts):
            parts = list(value.elts)
        for each, part in zip(target.elts, parts, strict=True):
            _bind(bound, each, part)
    elif isinstance(target, ast.Starred):
        _bind(bound, target.value, None)


def _added(nodes: Iterable[ast.AST]) -> dict[str, list[Node]]:
    """By name of a list: what is added to it later."""
    added: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in _ADDING:
                whole = method in {"append", "add"} and len(node.args) == 1
                added[name].append(node.args[0] if whole else None)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                added[name].append(None)
    return added


def _elements(node: ast.AST, bound: Bound, added: dict[str, list[Node]]) -> Iterator[Node]:
    """Yield the elements of an expression that is looped over; None for one that cannot be followed."""
    match node:
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            yield from (None if isinstance(item, ast.Starred) else item for item in items)
        case ast.Dict(keys=keys):
            yield from keys
        case ast.Name(id=name):
            for value in bound.get(name, [None]):
                literal = isinstance(value, ast.List | ast.Tuple | ast.Set | ast.Dict)
                yield from _elements(value, bound, added) if value is not None and literal else [None]
            yield from added[name]
        case ast.Call(func=ast.Name(id="enumerate"), args=[items, *_]):
            for item in _elements(items, bound, added):
                yield ast.Tuple(elts=[ast.Constant(value=...), item]) if isinstance(item, ast.expr) else None
        case ast.Call(func=ast.Name(id=name), args=[items, *_]) if name in _SAME_ELEMENTS:
            yield from _elements(items, bound, added)
        case ast.Call(func=ast.Attribute(value=table, attr="items" | "values" | "keys" as part), args=[]):
            yield from _entries(table, part, bound, added)
        case _:
            yield None


def _entries(node: ast.AST, part: str, bound: Bound, added: dict[str, list[Node]]) -> Iterator[Node]:
    tables: list[Node] = [node]
    if isinstance(node, ast.Name):
        tables = [*bound.get(node.id, [None]), *added[node.id]]
    for table in tables:
        if not isinstance(table, ast.Dict):
            yield None
            continue
        for key, value in zip(table.keys, table.values, strict=True):
            pair = ast.Tuple(elts=[key, value]) if key is not None else None
            yield {"items": pair, "keys": key, "values": value}[part]


def _parameters(bound: Bound, nodes: list[ast.AST]) -> None:
    """Bind the parameters of the program's own functions to what they are called with."""
    functions = {node.name: node.args for node in nodes if isinstance(node, ast.FunctionDef)}
    called: dict[int, str] = {}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            called[id(node.func)] = node.func.id
            names = [each.arg for each in functions[node.func.id].args]
            for name, value in zip(names, node.args, strict=False):
                bound[name].append(None if isinstance(value, ast.Starred) else value)
            for word in node.keywords:
                bound[word.arg or ""].append(word.value)
    for arguments in functions.values():
        for each, default in zip(reversed(arguments.args), reversed(arguments.defaults), strict=False):
            bound[each.arg].append(default)
    handed = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}
    unknown = [args for name, args in functions.items() if name in handed or name not in called.values()]
    unknown += [node.args for node in nodes if isinstance(node, ast.Lambda | ast.AsyncFunctionDef)]
    for arguments in unknown:
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            bound[each.arg].append(None)


_MAX_TEXTS = 16  # of one expression
_MAX_DEPTH = 20
_STEPS = 50_000  # for one program: a text that takes more is UNKNOWN
_MAX_CHARS = 100_000
_SAME_TEXT = {"strip", "lstrip", "rstrip", "expanduser", "resolve", "as_posix", "absolute"}
_WRAPPERS = {"str", "dedent", "Path", "PurePosixPath", "cleandoc"}
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}:!]*)[^{}]*\}")
_PERCENT = re.compile(r"%%|%(?:\(\w*\))?[-#0 +]*[\d.*]*[a-zA-Z]")


class PossibleTexts:
    """The texts that expressions of one program may have. ``inputs`` are the tables or paths of
    ``rlm.inputs``, by name; ``schema`` and ``folder`` complete what ``rlm.table`` and ``rlm.path`` get.
    """

    def __init__(self, tree: ast.AST, *, inputs: Mapping[str, str], schema: str, folder: str) -> None:
        self._inputs, self._schema, self._folder = inputs, schema, folder
        self._bound = bindings(tree)
        self._steps_left = _STEPS

    def of(self, node: Node, depth: int = 0) -> list[str]:
        """All texts that ``node`` may be, at least one."""
        self._steps_left -= 1
        if node is None or depth > _MAX_DEPTH or self._steps_left < 0:
            return [UNKNOWN]
        found = dict.fromkeys(
            text[:_MAX_CHARS] for text in islice(self._read(node, depth + 1), _MAX_TEXTS + 1)
        )
        texts = list(found)
        return [*texts[: _MAX_TEXTS - 1], UNKNOWN] if len(texts) > _MAX_TEXTS else texts or [UNKNOWN]

    def _read(self, node: ast.AST, depth: int) -> Iterator[str]:
        match node:
            case ast.Constant(value=str() | int() | float() as value):
                yield str(value)
            case ast.JoinedStr(values=parts):
                yield from self._joined(parts, depth)
            case ast.BinOp():
                yield from self._operated(node, depth)
            case ast.Name(id=name):
                yield from self._any_of(self._bound.get(name, [None]), depth)
            case ast.IfExp(body=one, orelse=other):
                yield from self._any_of([one, other], depth)
            case ast.BoolOp(values=values):
                yield from self._any_of(values, depth)
            case (
                ast.NamedExpr(value=inner) | ast.FormattedValue(value=inner, conversion=-1, format_spec=None)
            ):
                yield from self.of(inner, depth)
            case ast.Subscript() | ast.Attribute():
                yield from self._looked_up(node, depth)
            case ast.Call():
                yield from self._called(node, depth)
            case _:
                yield UNKNOWN

    def _any_of(self, nodes: Iterable[Node], depth: int) -> Iterator[str]:
        for node in nodes:
            yield from self.of(node, depth)

    def _operated(self, node: ast.BinOp, depth: int) -> Iterator[str]:
        match node.op:
            case ast.Add():
                yield from self._joined([node.left, node.right], depth)
            case ast.Div():  # of paths
                yield from self._joined([node.left, ast.Constant("/"), node.right], depth)
            case ast.Mod():
                for text in self.of(node.left, depth):
                    yield _PERCENT.sub(lambda found: "%" if found[0] == "%%" else UNKNOWN, text)
            case _:
                yield UNKNOWN

    def _joined(self, parts: Iterable[ast.AST], depth: int) -> Iterator[str]:
        for chosen in islice(product(*(self.of(part, depth) for part in parts)), _MAX_TEXTS + 1):
            yield "".join(chosen)

    def _looked_up(self, node: ast.Subscript | ast.Attribute, depth: int) -> Iterator[str]:
        match node:
            case ast.Attribute(value=ast.Subscript(value=value, slice=ast.Constant(value=str() as name))) if (
                ast.unparse(value) == "rlm.inputs"
            ):
                yield self._inputs.get(name, UNKNOWN)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)):
                for bound in self._bound.get(name, [None]):
                    items = zip(bound.keys, bound.values, strict=True) if isinstance(bound, ast.Dict) else []
                    fits = [each for at, each in items if isinstance(at, ast.Constant) and at.value == key]
                    yield from self.of(fits[0] if fits else None, depth)
            case _:
                yield UNKNOWN

    def _called(self, node: ast.Call, depth: int) -> Iterator[str]:
        first = node.args[0] if node.args else None
        match node.func:
            case ast.Attribute(value=ast.Name(id="rlm"), attr="table"):
                for text in self.of(first, depth):
                    yield ".".join([*self._schema.split("."), text][min(2, text.count(".")) :])
            case ast.Attribute(value=ast.Name(id="rlm"), attr="path"):
                for text in self.of(first, depth):
                    yield text if text.startswith(("/", UNKNOWN)) else f"{self._folder}/{text}"
            case ast.Attribute(attr="join", value=ast.Attribute(attr="path")):
                parts = [part for each in node.args for part in (ast.Constant("/"), each)]
                yield from self._joined(parts[1:], depth)
            case ast.Attribute(value=value, attr=name) if name in _SAME_TEXT:
                yield from (text.strip() for text in self.of(value, depth))
            case ast.Attribute(value=value, attr="format"):
                yield from self._formatted(value, node, depth)
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in _WRAPPERS:
                yield from self.of(first, depth)
            case _:
                yield UNKNOWN

    def _formatted(self, template: ast.AST, call: ast.Call, depth: int) -> Iterator[str]:
        named = {word.arg: word.value for word in call.keywords if word.arg}
        for text in self.of(template, depth):
            count = iter(range(len(call.args)))

            def value(found: re.Match[str], count: Iterator[int] = count) -> str:
                if found[1] is None:
                    return found[0][0]
                place = next(count, -1) if not found[1] else int(found[1]) if found[1].isdecimal() else -1
                given = call.args[place] if 0 <= place < len(call.args) else named.get(found[1])
                texts = self.of(given, depth)
                return texts[0] if len(texts) == 1 else UNKNOWN

            yield _FIELD.sub(value, text)
