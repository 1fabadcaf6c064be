"""Paths of Volumes in a statement, as folders under the root."""

from __future__ import annotations

from .bounds import is_path
from .catalog import CatalogTree
from .literals import string_literal
from .names import quote
from .statements import Statement, Token, unquote_string


def map_paths(statement: Statement, tree: CatalogTree) -> str:
    """Return the statement's text with `/Volumes/…` paths mapped to the folder under the root.

    Only where a path must stand: a text that happens to be a path is somebody's data.
    """
    text = statement.text
    if "/Volumes/" not in text:
        return text
    pieces: list[str] = []
    last = 0
    for index, token in enumerate(statement.tokens):
        mapped = _mapped(statement.tokens, index, tree)
        if mapped is not None:
            pieces += [text[last : token.start], mapped]
            last = token.end
    return "".join([*pieces, text[last:]])


def _mapped(tokens: list[Token], index: int, tree: CatalogTree) -> str | None:
    token = tokens[index]
    if "/Volumes/" not in token.text or not is_path(tokens, index):
        return None
    if token.kind == "quoted":
        return quote(tree.local_path(token.name))
    return string_literal(tree.local_path(unquote_string(token.text)))
