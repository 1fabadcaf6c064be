"""HTML and SVG from values. All text is escaped: what others have written cannot become markup. Pure."""

from __future__ import annotations

from html import escape

_EMPTY = {"meta", "rect", "line", "path", "circle", "br", "wbr"}


class Markup(str):
    """Text that is markup already. Only made here and of constants."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. ``class_`` is ``class``, and ``_`` in a name of an attribute ``-``; None leaves it out."""
    told = "".join(
        f' {key.strip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY and not children:
        return Markup(f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """Children one after another; lists are taken apart, None is nothing."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, list | tuple):
            parts.append(str(joined(*child)))
        elif child is not None:
            parts.append(escape(_text(child)))
    return Markup("".join(parts))


def _text(value: object) -> str:
    """Without characters that no XML may have; a number without digits that nobody sees."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
