"""Notebooks between their two forms: source files with marker lines, and Jupyter documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from local_workspace.errors import invalid

_COMMENTS: Mapping[str, str] = {"PYTHON": "#", "SQL": "--", "SCALA": "//", "R": "#"}
MARKERS = {language: f"{mark} Databricks notebook source" for language, mark in _COMMENTS.items()}
_NBFORMAT = 4


def to_jupyter(source: str, language: str) -> bytes:
    """A notebook's source as a Jupyter document. A `%md` cell becomes Markdown."""
    mark = _COMMENTS[language]
    body = source.removeprefix(MARKERS[language]).lstrip("\n")
    cells = [
        _cell(text.strip("\n"), f"{mark} MAGIC ") for text in body.split(f"\n{mark} COMMAND ----------\n")
    ]
    document = {
        "cells": cells if body.strip() else [],
        "metadata": {"language_info": {"name": language.lower()}},
        "nbformat": _NBFORMAT,
        "nbformat_minor": 0,
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def _cell(text: str, magic: str) -> dict[str, Any]:
    if text.startswith(magic.rstrip()):
        lines = text.splitlines()
        text = "\n".join(line.removeprefix(magic.rstrip()).removeprefix(" ") for line in lines)
    if text.startswith("%md"):
        return {
            "cell_type": "markdown",
            "metadata": {},
            "source": _lines(text.removeprefix("%md").lstrip(" \n")),
        }
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": _lines(text),
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def from_jupyter(content: bytes) -> tuple[str, bytes]:
    """The language and the source of a Jupyter document. Raises ApiError (400)."""
    try:
        document = json.loads(content)
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]]
        metadata = document.get("metadata") or {}
        name = (metadata.get("language_info") or metadata.get("kernelspec") or {}).get("name") or "python"
    except (ValueError, KeyError, TypeError, AttributeError):
        raise invalid("The content is not a Jupyter notebook of version 4") from None
    language = next((item for item in _COMMENTS if str(name).upper().startswith(item)), "PYTHON")
    mark = _COMMENTS[language]
    texts = []
    for kind, text in cells:
        if kind == "markdown" or text.startswith("%"):
            text = f"%md\n{text}" if kind == "markdown" else text
            text = "\n".join(f"{mark} MAGIC {line}".rstrip() for line in text.splitlines())
        texts.append(text.rstrip("\n"))
    return language, f"\n\n{mark} COMMAND ----------\n\n".join(
        [f"{MARKERS[language]}\n{'' if not texts else texts[0]}", *texts[1:]]
    ).encode()
