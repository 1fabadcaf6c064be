"""The texts that an expression of a program may stand for, found without running it. Pure.

Follows names through assignments, loops over literal lists and calls of the program's own functions
(domain/bindings.py); puts together what f-strings, ``+``, ``%`` and ``format`` put together. What cannot be
followed is UNKNOWN.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product

from databricks_rlm_agent.domain.policy.bindings import Node, bindings
from databricks_rlm_agent.domain.policy.deeds import UNKNOWN

_MOST = 16  # texts of one expression
_DEPTH = 20
_FUEL = 50_000  # steps in one program: a text that takes more is UNKNOWN
_CHARS = 100_000
_SAME = {"strip", "lstrip", "rstrip", "expanduser", "resolve", "as_posix", "absolute"}
_WRAPPERS = {"str", "dedent", "Path", "PurePosixPath", "cleandoc"}
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}:!]*)[^{}]*\}")
_PERCENT = re.compile(r"%%|%(?:\(\w*\))?[-#0 +]*[\d.*]*[a-zA-Z]")


class Texts:
    """What expressions of one program may stand for. ``inputs`` are what handles of ``rlm.inputs`` say, by
    name; ``schema`` and ``folder`` are where ``rlm.table`` and ``rlm.path`` put what has no place.
    """

    def __init__(self, tree: ast.AST, *, inputs: Mapping[str, str], schema: str, folder: str) -> None:
        self._inputs, self._schema, self._folder = inputs, schema, folder
        self._bound = bindings(tree)
        self._fuel = _FUEL

    def of(self, node: Node, depth: int = 0) -> list[str]:
        """All texts that ``node`` may be, at least one."""
        self._fuel -= 1
        if node is None or depth > _DEPTH or self._fuel < 0:
            return [UNKNOWN]
        found = dict.fromkeys(text[:_CHARS] for text in islice(self._read(node, depth + 1), _MOST + 1))
        texts = list(found)
        return [*texts[: _MOST - 1], UNKNOWN] if len(texts) > _MOST else texts or [UNKNOWN]

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
        for chosen in islice(product(*(self.of(part, depth) for part in parts)), _MOST + 1):
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
            case ast.Attribute(value=value, attr=name) if name in _SAME:
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
