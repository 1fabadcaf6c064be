"""Prompts from rows: a template as expressions of Spark, so that no row has to leave the engine.

The key of a prompt (`chat.key_of`) is an expression too: look-ups of answers are joins. It spells JSON as
`protocol.canonical_json` does; a test holds the two in step.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from executor_harness import protocol
from executor_harness.models import chat
from executor_harness.models.chat import Options

_SENTINEL = "<rlm:prompt:8d1f4c>"  # stands for the prompt where the rest of its key is spelt out
_STRUCTURED = frozenset({"array", "map", "struct", "variant"})


def parse(template: str, columns: Sequence[str]) -> list[tuple[str, str | None]]:
    """A template as pairs of a literal text and the column that follows it (None: none).

    Raises ValueError for what is not a plain `{column}`, for a column that is not there, and without any.
    """
    hint = "rlm.llm_map: a template names columns as {column}; write {{ and }} for braces"
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{hint}: {error}") from None
    parts: list[tuple[str, str | None]] = []
    for literal, name, spec, conversion in found:
        if name is not None and (spec or conversion or name not in columns):
            known = ", ".join(columns)
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(f"{hint}: {{{shown}}} is no column; the columns are: {known}")
        parts.append((literal, name))
    if not any(name is not None for _, name in parts):
        raise ValueError(f"{hint}: it names none, so every row would ask the same; use rlm.llm_query")
    return parts


def prompt(df: Any, parts: Sequence[tuple[str, str | None]]) -> Any:
    """The prompt of each row, as a column; NULL where one of its columns is. Structures go as JSON."""
    from pyspark.sql import functions as F  # noqa: N812 -- everybody's name for it

    kinds = {field.name: field.dataType.typeName() for field in df.schema.fields}
    pieces = []
    for literal, name in parts:
        if literal:
            pieces.append(F.lit(literal))
        if name is not None:
            column = F.col(f"`{name.replace('`', '``')}`")
            pieces.append(F.to_json(column) if kinds[name] in _STRUCTURED else column.cast("string"))
    return F.concat(*pieces)


def key(prompt: Any, options: Options) -> Any:
    """`chat.key_of` of each prompt, as a column; NULL for NULL."""
    from pyspark.sql import functions as F  # noqa: N812 -- as above

    messages = chat.messages_of(_SENTINEL, options)
    whole = [options.model, messages, options.schema, options.temperature, options.max_tokens]
    before, after = protocol.canonical_json(whole).split(_SENTINEL)
    return F.sha2(F.concat(F.lit(before), _escaped(prompt), F.lit(after)), 256)


def _escaped(column: Any) -> Any:
    """A text as within the quotes of JSON: backslash first, then what needs one."""
    from pyspark.sql import functions as F  # noqa: N812 -- as above

    for character in ["\\", '"', *map(chr, range(0x20))]:
        spelt = protocol.canonical_json(character)[1:-1]
        column = F.replace(column, F.lit(character), F.lit(spelt))
    return column
