"""Paths of Volumes in a statement, as folders under the root."""

from __future__ import annotations

from .catalog import CatalogTree
from .literals import string_literal
from .names import quote
from .statements import Statement, Token, unquote_string

_PATH_FORMATS = {"delta", "parquet", "csv", "json", "text", "avro", "binaryfile", "orc"}
_PATH_CALLS = {"READ_FILES", "PATH"}


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
    before = tokens[index - 1] if index else None
    further = tokens[index - 2] if index > 1 else None
    if before is None or "/Volumes/" not in token.text:
        return None
    if token.kind == "quoted" and before.text == "." and further and further.name.lower() in _PATH_FORMATS:
        return quote(tree.local_path(token.name))
    if token.kind == "string" and (
        before.upper == "LOCATION" or (before.text == "(" and further and further.upper in _PATH_CALLS)
    ):
        return string_literal(tree.local_path(unquote_string(token.text)))
    return None
