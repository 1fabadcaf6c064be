"""Proves that every record is with its person, without the SQL: by networkx over the edges, and the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# As in 01_rules.sql and 03_edges.sql.
PRIORITY = {"loyalty_id": 1, "email": 2, "phone": 3, "device_id": 4, "record": 9}

Node = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The figures of what was compared, and the faults, in sentences."""

    edges: int
    records: int
    persons: int
    components: int
    largest: int
    problems: tuple[str, ...]


def prove(tables: Path, truth: pa.Table, edges: pa.Table) -> Proof:
    """Compare the tables in a schema's folder with networkx and with the truth."""
    found = {name: read(tables / name) for name in ("edges", "identity_graph", "identity_lookup")}
    by_networkx = canonical_ids(_pairs(found["edges"]), truth["record_key"].to_pylist())
    graph = found["identity_graph"]
    by_sql: dict[Node, str] = dict(
        zip(_nodes(graph["namespace"], graph["value"]), graph["canonical_id"].to_pylist(), strict=True)
    )
    lookup = dict(_columns(found["identity_lookup"], "record_key", "canonical_id"))
    persons = dict(_columns(truth, "record_key", "person"))
    problems = [
        *_edges_differ(found["edges"], edges),
        *_ids_differ(by_sql, by_networkx, rows=graph.num_rows),
        *_partitions_differ(lookup, persons, rows=found["identity_lookup"].num_rows),
    ]
    sizes: dict[str, int] = {}
    for name in lookup.values():
        sizes[name] = sizes.get(name, 0) + 1
    return Proof(
        edges=found["edges"].num_rows,
        records=len(lookup),
        persons=len(set(persons.values())),
        components=len(set(by_networkx.values())),
        largest=max(sizes.values(), default=0),
        problems=tuple(problems),
    )


def read(folder: Path) -> pa.Table:
    """Read a Delta table from its files, not through the warehouse."""
    from deltalake import DeltaTable

    table: pa.Table = DeltaTable(str(folder)).to_pyarrow_table()
    return table


def canonical_ids(edges: Iterable[tuple[Node, Node]], records: Iterable[str]) -> dict[Node, str]:
    """Return the canonical id of every node by networkx: a hash of the component's best identifier."""
    import networkx

    graph: Any = networkx.Graph()
    graph.add_nodes_from(("record", record) for record in records)
    graph.add_edges_from(edges)
    ids: dict[Node, str] = {}
    for component in networkx.connected_components(graph):
        name = canonical_id(component)
        ids |= dict.fromkeys(component, name)
    return ids


def canonical_id(component: Iterable[Node]) -> str:
    """Return the id that 05_canonicalize.sql computes."""
    namespace, value = min(component, key=lambda node: (PRIORITY[node[0]], *node))
    return "P" + hashlib.sha256(f"{namespace}|{value}".encode()).hexdigest()[:20].upper()


def _pairs(edges: pa.Table) -> Iterator[tuple[Node, Node]]:
    records = zip(["record"] * edges.num_rows, edges["record_key"].to_pylist(), strict=True)
    return zip(records, _nodes(edges["namespace"], edges["value"]), strict=True)


def _nodes(namespaces: Any, values: Any) -> Iterator[Node]:
    return zip(namespaces.to_pylist(), values.to_pylist(), strict=True)


def _columns(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _edges_differ(found: pa.Table, wanted: pa.Table) -> Iterator[str]:
    """Cleaning: the edges are those that were generated."""
    names = ("record_key", "namespace", "value")
    ones, others = set(_columns(found, *names)), set(_columns(wanted, *names))
    if len(ones) != found.num_rows:
        yield f"The table of edges has {found.num_rows - len(ones):,} rows twice."
    if ones != others:
        yield (
            f"{len(ones - others):,} edges are too many and {len(others - ones):,} are missing, "
            f"such as {min(ones ^ others)}."
        )


def _ids_differ(found: Mapping[Node, str], wanted: Mapping[Node, str], *, rows: int) -> Iterator[str]:
    """Components: every node has the canonical id that networkx gives it."""
    if rows != len(found):
        yield f"identity_graph has {rows - len(found):,} nodes twice."
    if found.keys() != wanted.keys():
        yield (
            f"identity_graph has {len(found.keys() - wanted.keys()):,} nodes too many and lacks "
            f"{len(wanted.keys() - found.keys()):,}."
        )
    wrong = [node for node in found.keys() & wanted.keys() if found[node] != wanted[node]]
    if wrong:
        node = min(wrong)
        yield (
            f"{len(wrong):,} nodes have another canonical id than by networkx, such as {node}: "
            f"{found[node]}, not {wanted[node]}."
        )


def _partitions_differ(found: Mapping[str, str], persons: Mapping[str, int], *, rows: int) -> Iterator[str]:
    """The truth: two records have one canonical id if, and only if, they are of one person."""
    if rows != len(found) or found.keys() != persons.keys():
        yield f"identity_lookup has {rows:,} rows for {len(persons):,} records."
        return
    pairs = {(found[record], person) for record, person in persons.items()}
    joined = len(pairs) - len({name for name, _ in pairs})
    torn = len(pairs) - len({person for _, person in pairs})
    if joined:
        yield f"{joined:,} persons share a canonical id with another one."
    if torn:
        yield f"{torn:,} canonical ids are those of a person who has another one."
