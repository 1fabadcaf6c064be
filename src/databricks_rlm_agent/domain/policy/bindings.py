"""What the names of a program are bound to, found without running it. Pure.

A name counts wherever it stands: that scopes are not told apart only adds to what it may be.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator

Node = ast.AST | None
Bound = dict[str, list[Node]]
_SAME_ITEMS = {"sorted", "list", "tuple", "set", "reversed", "iter"}
_GROWING = {"append", "add", "extend", "insert", "update"}


def bindings(tree: ast.AST) -> Bound:
    """By name: every expression that it is bound to; None for one that cannot be followed."""
    bound: Bound = defaultdict(list)
    nodes = list(ast.walk(tree))
    for node in nodes:
        _assigned(bound, node)
    _parameters(bound, nodes)
    grown = _grown(nodes)
    for node in nodes:  # last: over what they loop is assigned by now
        if isinstance(node, ast.For | ast.comprehension):
            for item in [*_items(node.iter, bound, grown)] or [None]:
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


def _grown(nodes: Iterable[ast.AST]) -> dict[str, list[Node]]:
    """By name of a list: what is added to it later."""
    grown: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in _GROWING:
                whole = method in {"append", "add"} and len(node.args) == 1
                grown[name].append(node.args[0] if whole else None)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                grown[name].append(None)
    return grown


def _items(node: ast.AST, bound: Bound, grown: dict[str, list[Node]]) -> Iterator[Node]:
    """What a loop over an expression takes one by one; None for what cannot be followed."""
    match node:
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            yield from (None if isinstance(item, ast.Starred) else item for item in items)
        case ast.Dict(keys=keys):
            yield from keys
        case ast.Name(id=name):
            for value in bound.get(name, [None]):
                literal = isinstance(value, ast.List | ast.Tuple | ast.Set | ast.Dict)
                yield from _items(value, bound, grown) if value is not None and literal else [None]
            yield from grown[name]
        case ast.Call(func=ast.Name(id="enumerate"), args=[items, *_]):
            for item in _items(items, bound, grown):
                yield ast.Tuple(elts=[ast.Constant(value=...), item]) if isinstance(item, ast.expr) else None
        case ast.Call(func=ast.Name(id=name), args=[items, *_]) if name in _SAME_ITEMS:
            yield from _items(items, bound, grown)
        case ast.Call(func=ast.Attribute(value=table, attr="items" | "values" | "keys" as part), args=[]):
            yield from _entries(table, part, bound, grown)
        case _:
            yield None


def _entries(node: ast.AST, part: str, bound: Bound, grown: dict[str, list[Node]]) -> Iterator[Node]:
    tables: list[Node] = [node]
    if isinstance(node, ast.Name):
        tables = [*bound.get(node.id, [None]), *grown[node.id]]
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
