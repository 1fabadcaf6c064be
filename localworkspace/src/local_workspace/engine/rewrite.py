"""Databricks SQL for Sail: one parse by sqlglot, an ordered list of transforms, one generation.

`TRANSFORMS` is the list. Only a statement with one of their constructs is parsed at all, and of CREATE and
INSERT only the query; the rest goes to Sail as it was written. So do statements that sqlglot cannot parse:
Sail says what is wrong with them. Where Sail would answer wrongly, the statement is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp, parse_one

from .errors import unsupported
from .names import quote
from .selects import Columns, ancestors, plain_selects, sql_of, unpushed_lambdas
from .statements import Statement, chain_at, parsed, spliced, unquote_string

# Words and symbols of which a statement must have one before a closer look is taken; `:` is a JSON path.
_ALONE = {"QUALIFY", "PIVOT", "CHARINDEX", "DECODE", "CONV", "->", ":"}
_WORDS = _ALONE | {"ALL", "ANY", "SOME", "EXCEPT", "REPLACE", "IN", "USING"}
_QUERY = {"SELECT", "WITH", "FROM", "VALUES", "TABLE", "("}
_CHANGES = {"UPDATE", "DELETE", "MERGE"}


def rewritten(statement: Statement, columns: Columns, *, filtered: bool = False) -> Statement:
    """Return the statement as Sail takes it; the very same if there is nothing to rewrite.

    `filtered` if other queries will filter its rows, as those of a view. Raises `EngineError`
    UNSUPPORTED_FEATURE for what Sail would answer wrongly.
    """
    words = {token.upper for token in statement.tokens}
    _refuse(statement, words)
    if "IDENTIFIER" in words:
        statement = _identifiers(statement)
    if statement.starts("WITH") and "INSERT" in words:
        statement = _with_after_insert(statement)
    span = _query(statement) if words & _WORDS and _needs_rewrite(statement) else None
    if span is None:
        return statement
    before = statement.source(*span)
    filtered = filtered or any(statement.starts("VIEW", at=at) for at in range(1, 6))
    after = rewritten_query(before, columns, filtered=filtered)
    if after == before:
        return statement
    tail = statement.source(span[1]) if span[1] < len(statement.tokens) else ""
    return Statement.parse(f"{statement.text[: statement.tokens[span[0]].start]}{after} {tail}")


def rewritten_query(text: str, columns: Columns, *, filtered: bool = False) -> str:
    """Return a query as Sail takes it; `filtered` if other queries will filter its rows."""
    tree = parsed(text)
    if tree is None or isinstance(tree, exp.Command):
        return text
    original = tree.copy()
    for transform in TRANSFORMS:
        tree = transform(tree, columns)
    tree = unpushed_lambdas(tree, filtered=filtered)
    quantified = any(
        isinstance(each.expression, (exp.Any, exp.All)) for each in tree.find_all(exp.Like, exp.ILike)
    )
    if (
        tree == original
        and not quantified
        and not tree.find(exp.DecodeCase, exp.JSONExtract, exp.StrPosition)
    ):
        return text
    return sql_of(tree)


# --- names in capitals

_BEFORE_TABLE = {"FROM", "JOIN", "INTO", "OVERWRITE", "TABLE", "UPDATE", "USING"}


def folded_names(statement: Statement, is_table: Callable[[tuple[str, ...]], bool]) -> Statement:
    """Return the statement with the names of tables, CTEs and `T.*` spelled as Sail knows them.

    Names of these are the same in capitals on Databricks; Sail does not find them, and takes `T.*` for no
    columns at all. `is_table` tells whether the parts of a name name a table or view of the catalog.
    """
    tokens = statement.tokens
    ctes = {
        tokens[at].name.lower(): tokens[at].name
        for at in range(1, len(tokens) - 2)
        if tokens[at].is_name and statement.starts("AS", "(", at=at + 1)
    }
    for at in range(len(tokens) - 1, 0, -1):
        if not tokens[at].is_name or tokens[at - 1].upper not in _BEFORE_TABLE:
            continue
        parts, end = chain_at(tokens, at)
        known = tuple(part.lower() for part in parts)
        if len(parts) == 1 and known[0] in ctes:
            known = (ctes[known[0]],)
        elif known == parts or not is_table(parts):
            continue
        if known != parts:
            statement = statement.without(at, end, ".".join(map(quote, known)))
    return _folded_stars(statement)


def _folded_stars(statement: Statement) -> Statement:
    tokens = statement.tokens
    stars = [
        at for at in range(len(tokens) - 2) if statement.starts(".", "*", at=at + 1) and tokens[at].is_name
    ]
    if not stars:
        return statement
    following = [each.text for each in tokens[1:]] + [""]
    names = {
        token.name for token, after in zip(tokens, following, strict=True) if token.is_name and after != "."
    }
    for at in reversed(stars):
        name = tokens[at].name
        known = next((each for each in sorted(names) if each.lower() == name.lower()), name)
        if name not in names and known != name:
            statement = statement.without(at, at + 1, quote(known))
    return statement


# --- refusals


def _refuse(statement: Statement, words: set[str]) -> None:
    """Refuse by name what Sail would call a syntax error or a table that is not there."""
    if "|>" in words:
        raise unsupported("The pipe syntax (|>)")
    if "RECURSIVE" in words and any(
        statement.starts("WITH", "RECURSIVE", at=at) for at in range(len(statement.tokens))
    ):
        raise unsupported("A recursive CTE (WITH RECURSIVE)")


# --- which part of a statement


def _needs_rewrite(statement: Statement) -> bool:
    """Tell by its tokens whether a statement may have to be rewritten: this is asked of every statement."""
    tokens = statement.tokens
    for at, token in enumerate(tokens):
        word = token.upper
        if word not in _WORDS:
            continue
        before = tokens[at - 1].upper if at else ""
        after = [each.upper for each in tokens[at + 1 : at + 3]]
        if (
            word in _ALONE
            or (word == "ALL" and before == "BY")
            or (word in {"ANY", "ALL", "SOME"} and before in {"LIKE", "ILIKE"})
            or (word in {"EXCEPT", "REPLACE"} and before == "*" and after[:1] == ["("])
            or (word == "IN" and after[:1] == ["("] and after[1:] in (["SELECT"], ["WITH"]))
            or (word == "USING" and after[:1] == ["("] and not _QUERY & set(after[1:]))
        ):
            return True
    return False


def _query(statement: Statement) -> tuple[int, int] | None:
    """Return the first token of the statement's query and the one after it; all of UPDATE, DELETE, MERGE."""
    if statement.tokens[0].upper in _CHANGES:
        return 0, len(statement.tokens)
    at = statement.find("SELECT", "WITH")
    if at is not None:
        return at, len(statement.tokens)
    for index in range(len(statement.tokens) - 1):
        if statement.tokens[index].text == "(" and statement.tokens[index + 1].upper in {"SELECT", "WITH"}:
            return index + 1, statement.closing(index)
    return None


def _with_after_insert(statement: Statement) -> Statement:
    """Rewrite `WITH q AS (…) INSERT INTO t SELECT …` as `INSERT INTO t WITH q AS (…) SELECT …`."""
    insert = statement.find("INSERT", "SELECT")
    query = None if insert is None else statement.find("SELECT", start=insert)
    if insert is None or query in {None, insert}:
        return statement
    clause = statement.source(0, insert)
    return Statement.parse(f"{statement.source(insert, query)} {clause} {statement.source(query or 0)}")


def _identifiers(statement: Statement) -> Statement:
    """Rewrite `IDENTIFIER('a' || '.b')` as `a.b`, where its strings are written out."""
    tokens = statement.tokens
    places = []
    for index, token in enumerate(tokens[:-3]):
        if token.upper != "IDENTIFIER" or tokens[index + 1].text != "(":
            continue
        end = statement.closing(index + 1)
        parts = [each for each in tokens[index + 2 : end] if each.text not in {"||", "(", ")"}]
        if parts and end < len(tokens) and all(each.kind == "string" for each in parts):
            name = "".join(unquote_string(each.text) for each in parts)
            places.append((token.start, tokens[end].end, name))
    return Statement.parse(spliced(statement.text, places)) if places else statement


# --- transforms


def _numbers_in_conv(tree: Any, _columns: Columns) -> Any:
    """`conv(n, 10, 16)` with `n` as text: Sail takes no BIGINT there."""
    for call in list(tree.find_all(exp.Anonymous)):
        if call.name.lower() == "conv" and call.expressions and not call.expressions[0].is_string:
            call.expressions[0].replace(exp.cast(call.expressions[0].copy(), "string"))
    return tree


def _pivot_columns(tree: Any, _columns: Columns) -> Any:
    """`PIVOT (… FOR m IN (…))` as `PIVOT (… FOR (m) IN (…))`."""
    for pivot in tree.find_all(exp.Pivot):
        for field in pivot.args.get("fields") or ():
            if isinstance(field, exp.In) and isinstance(field.this, exp.Column):
                field.set("this", exp.paren(field.this, copy=True))
    return tree


def _membership(tree: Any, _columns: Columns) -> Any:
    """`x IN (SELECT …)` as CASE over EXISTS, where Sail would not answer it rightly.

    Sail has it in WHERE, where true and not true are all that counts. Under a NOT, NULL counts (`3 NOT IN
    (1, NULL)`): Sail minds that of a NOT IN that stands alone, and elsewhere takes rows that it must not.
    In a list of columns and in CASE, it has no IN with a subquery.
    """
    found = [each for each in tree.find_all(exp.In) if each.args.get("query") and _is_wrong(each)]
    for node in sorted(found, key=lambda each: each.depth, reverse=True):  # inner ones first
        query = _subquery(node)
        if isinstance(node.this, exp.Tuple) or _outer_names(query):
            raise unsupported(f"{sql_of(node)[:200]}, whose result may be NULL here,")
        item = sql_of(node.this)
        rows = f"SELECT 1 FROM ({sql_of(query)}) AS _q(_c)"  # noqa: S608 - as it was
        case = (
            f"CASE WHEN EXISTS ({rows} WHERE _q._c = ({item})) THEN true "
            f"WHEN ({item}) IS NULL AND EXISTS ({rows}) THEN NULL "
            f"WHEN EXISTS ({rows} WHERE _q._c IS NULL) THEN NULL ELSE false END"
        )
        node.replace(parse_one(case, dialect="databricks"))
    return tree


def _is_wrong(node: Any) -> bool:
    """Tell whether Sail would not answer an IN with a subquery rightly where it stands."""
    if node.parent_select is None or node.this.find(exp.AggFunc, exp.Window):
        return False  # an UPDATE or DELETE becomes a MERGE, with a query of its own
    negated = False
    among = isinstance(node.this, exp.Tuple)  # which Sail takes for one value
    for above in ancestors(node):
        if isinstance(above, exp.Not):
            if negated:
                return True
            negated = True
        elif isinstance(above, exp.Or):
            among = True
        elif isinstance(above, exp.Where):
            alone = isinstance(node.parent, exp.Not) and not among
            return negated and not (alone and not _outer_names(_subquery(node)))
        elif isinstance(above, (exp.Having, exp.Join, exp.Qualify)):
            return False
        elif not isinstance(above, (exp.And, exp.Paren)):
            return True
    return False


def _subquery(node: Any) -> Any:
    found = node.args["query"]
    return found.this if isinstance(found, exp.Subquery) else found


def _outer_names(query: Any) -> set[str]:
    """Return the tables around a subquery that it names."""
    own = {each.alias_or_name.lower() for each in query.find_all(exp.Table, exp.Subquery, exp.Lateral)}
    own |= {each.name.lower() for each in query.find_all(exp.TableAlias)}
    columns = ([part.name.lower() for part in each.parts[:-1]] for each in query.find_all(exp.Column))
    return {parts[0] for parts in columns if parts and not own & set(parts)}


TRANSFORMS: tuple[Callable[[Any, Columns], Any], ...] = (
    _numbers_in_conv,
    _pivot_columns,
    _membership,
    plain_selects,
)
