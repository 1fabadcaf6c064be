"""The deliveries of four systems: Parquet files for the workflow, and the truth, which it never reads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.identity_unification.people import EMAIL, NAMESPACES, PHONE, SEED, SOURCES, People
from examples.identity_unification.texts import clean, name_of, written

if TYPE_CHECKING:
    import pyarrow as pa

_IDS = {"crm": "C", "web": "V", "app": "I", "support": "T"}
_SINCE = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp())
_SPAN_S = 3 * 365 * 86_400
_CITIES = ("Köln", "São Paulo", "Łódź", "N'Djamena", "San José", "東京", None)
_SUBJECTS = (
    "Where is my order; it was due on Monday?",
    'The app says "try again"; I did',
    "It's broken -- again",
    "/* refund */ please",
    "Grüße; und danke",
)


@dataclass(frozen=True, kw_only=True)
class Landing:
    """Tables by source; ``truth`` (record_key, person) and ``edges`` (record_key, namespace, value)."""

    tables: dict[str, pa.Table]
    truth: pa.Table
    edges: pa.Table

    def write(self, folder: Path) -> list[Path]:
        """Write ``<folder>/<source>/part-0.parquet``; the files."""
        from pyarrow import parquet

        paths = []
        for source, table in self.tables.items():
            path = folder / source / "part-0.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
            paths.append(path)
        return paths


def landing(people: People, seed: int = SEED) -> Landing:
    """The deliveries of all systems."""
    import pyarrow as pa

    chance = random.Random(seed)
    keys, tables = [""] * len(people.person), dict[str, pa.Table]()
    for number, source in enumerate(SOURCES):
        records = (people.source == number).nonzero()[0].tolist()
        rows = _Rows(people, records, chance, source)
        tables[source] = rows.table()
        for record, name in zip(records, rows.ids, strict=True):
            keys[record] = f"{source}:{name}"
    found, namespaces = (people.places >= 0).nonzero()
    edges = pa.table(
        {
            "record_key": [keys[record] for record in found.tolist()],
            "namespace": [NAMESPACES[namespace] for namespace in namespaces.tolist()],
            "value": [
                clean(namespace, number)
                for namespace, number in zip(
                    namespaces.tolist(), people.places[found, namespaces].tolist(), strict=True
                )
            ],
        }
    )
    return Landing(tables=tables, truth=pa.table({"record_key": keys, "person": people.person}), edges=edges)


class _Rows:
    """The rows of one source."""

    def __init__(self, people: People, records: list[int], chance: random.Random, source: str) -> None:
        self.ids = [f"{_IDS[source]}{number:07d}" for number in range(len(records))]
        self._chance, self._source = chance, source
        self._persons: list[int] = people.person[records].tolist()
        self._places: list[list[int]] = people.places[records].tolist()

    def table(self) -> pa.Table:
        """All of them."""
        makers = {"crm": self._crm, "web": self._web, "app": self._app, "support": self._support}
        table: pa.Table = makers[self._source]()
        return table

    def _crm(self) -> pa.Table:
        """Some customers are exported twice: once as they were, with an address that nobody has any more."""
        import pyarrow as pa

        seen = self._seen()
        columns: dict[str, Any] = {
            "customer_id": self.ids,
            "full_name": self._names(),
            **self._identifiers("email", "phone", "loyalty_id"),
            "city": self._chosen(_CITIES),
        }
        now = pa.table({**columns, "updated_at": _times(seen)})
        twice = self._chance.sample(range(len(seen)), len(seen) // 50)
        old = now.take(pa.array(twice, pa.int64()))
        stale = pa.array([f"old.{number % 7}@example.org" for number in twice], pa.string())
        old = old.set_column(old.schema.get_field_index("email"), "email", stale)
        before = _times([seen[number] - 86_400 for number in twice])
        old = old.set_column(old.schema.get_field_index("updated_at"), "updated_at", before)
        return pa.concat_tables([now, old])

    def _web(self) -> pa.Table:
        import pyarrow as pa

        return pa.table(
            {
                "visitor_id": self.ids,
                **self._identifiers("email", "device_id", "loyalty_id"),
                "page_views": pa.array([self._chance.randrange(1, 200) for _ in self.ids], pa.int32()),
                "last_seen_at": _times(self._seen()),
            }
        )

    def _app(self) -> pa.Table:
        import pyarrow as pa

        return pa.table(
            {
                "install_id": self.ids,
                "display_name": self._names(),
                **self._identifiers("email", "phone", "device_id"),
                "platform": self._chosen(("ios", "android")),
                "installed_at": _times(self._seen()),
            }
        )

    def _support(self) -> pa.Table:
        import pyarrow as pa

        contact = pa.struct([("kind", pa.string()), ("value", pa.string())])
        return pa.table(
            {
                "ticket_id": self.ids,
                "caller_name": self._names(),
                "contacts": pa.array([self._contacts(places) for places in self._places], pa.list_(contact)),
                "subject": self._chosen(_SUBJECTS),
                "opened_at": _times(self._seen()),
            }
        )

    def _contacts(self, places: list[int]) -> list[dict[str, str | None]] | None:
        """How a caller may be reached; some things are written down twice, and some are of no use."""
        kinds = {EMAIL: ("mail", "e-mail"), PHONE: ("tel", "phone")}
        found = [
            {"kind": self._chance.choice(kinds[namespace]), "value": written(namespace, number, self._chance)}
            for namespace in (EMAIL, PHONE)
            if (number := places[namespace]) != -1
            for _ in range(1 + (self._chance.random() < 0.1))
        ]
        if self._chance.random() < 0.1:
            found.append({"kind": "fax", "value": "0221 / 4711; office hours only"})
        return found or None

    def _identifiers(self, *names: str) -> dict[str, pa.Array]:
        import pyarrow as pa

        return {
            name: pa.array([written(at, places[at], self._chance) for places in self._places], pa.string())
            for name, at in ((name, NAMESPACES.index(name)) for name in names)
        }

    def _names(self) -> pa.Array:
        import pyarrow as pa

        return pa.array([name_of(person, self._chance) for person in self._persons], pa.string())

    def _chosen(self, values: tuple[str | None, ...]) -> pa.Array:
        import pyarrow as pa

        return pa.array(self._chance.choices(values, k=len(self.ids)), pa.string())

    def _seen(self) -> list[int]:
        return [_SINCE + self._chance.randrange(_SPAN_S) for _ in self.ids]


def _times(seconds: list[int]) -> pa.Array:
    import pyarrow as pa

    return pa.array([second * 1_000_000 for second in seconds], pa.timestamp("us", "UTC"))
