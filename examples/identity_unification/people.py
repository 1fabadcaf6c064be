"""Persons and their records in four systems, the same for the same seed: who shares what, as numbers.

Identifiers are numbers here; ``texts`` writes them as people do. What joins records is known by construction:
the persons are the truth that a unification has to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

SOURCES = ("crm", "web", "app", "support")
NAMESPACES = ("email", "phone", "device_id", "loyalty_id")
EMAIL, PHONE, DEVICE, LOYALTY = range(4)
# Which identifiers a source has a place for, in the order of NAMESPACES.
PLACES = ((1, 1, 0, 1), (1, 0, 1, 1), (1, 1, 1, 0), (1, 1, 0, 0))
# Who is shared by more records than this joins nobody; as in 01_rules.sql.
LIMITS = (50, 20, 5, 200)
NONE = -1
LEAST = 200
SEED = 20_261_122
_GROUP = 20  # records with one e-mail in a giant
_REACH = (
    8  # a group of a giant hangs on one of so many before it: no phone is shared by more than that and one
)


@dataclass(frozen=True, kw_only=True)
class People:
    """``person`` and ``source`` of each record, and the identifier in each place.

    In ``places``, a row per record and a column per namespace, a number from 0 on is an identifier that
    joins, NONE is an empty place, and what is below belongs to so many that it must join nobody.
    """

    person: Ints
    source: Ints
    places: Ints

    @property
    def edges(self) -> int:
        """How many identifiers that join the records have, in all."""
        return int((self.places >= 0).sum())

    @property
    def persons(self) -> int:
        """How many persons there are."""
        return int(self.person.max()) + 1


def people(edges: int, seed: int = SEED) -> People:
    """Persons whose records have exactly ``edges`` identifiers that join; raise ValueError below LEAST.

    Most have a few records around one identifier (a star). Some are chains, where each record shares
    something with the next one only, up to 600 long; some are giants of thousands; many have one record.
    """
    import numpy as np

    if edges < LEAST:
        raise ValueError(f"{edges} edges are too few: {LEAST} are the least.")
    maker = _Maker(np.random.default_rng(seed))
    for _ in range(3 if edges >= 10_000 else 1):
        maker.giant(max(2, edges // 80 // _GROUP))
    maker.chains(_chain_lengths(maker.chance, edges))
    maker.stars(int(0.8 * edges))
    maker.singles(edges // 8)
    maker.crowds(DEVICE, count=1 + edges // 20_000)
    maker.crowds(PHONE, count=1 + edges // 100_000)
    maker.fill(edges)
    return maker.shuffled()


def _chain_lengths(chance: np.random.Generator, edges: int) -> Ints:
    """Lengths of chains: one as long as can be, short ones, and some of hundreds where there is room."""
    import numpy as np

    longest = min(600, max(20, edges // 20))
    short = chance.integers(3, 41, size=edges // 600)
    long = chance.integers(100, longest + 1, size=edges // 50_000)
    return np.concatenate(([longest], short, long)).astype(np.int64)


class _Maker:
    """Collects records; ``places`` are filled as the shapes need it."""

    def __init__(self, chance: np.random.Generator) -> None:
        import numpy as np

        self.chance = chance
        self._persons = self._numbers = 0
        self._has = np.array(PLACES, dtype=bool)
        self._person: Ints = np.zeros(0, dtype=np.int64)
        self._source: Ints = np.zeros(0, dtype=np.int64)
        self._places: Ints = np.zeros((0, 4), dtype=np.int64)

    def giant(self, groups: int) -> None:
        """One person: groups of records with one e-mail each, and a phone that leads from group to group."""
        import numpy as np

        group = np.repeat(np.arange(groups), _GROUP)
        source = self._of((EMAIL, PHONE), len(group))
        places = self._empty(len(group))
        places[:, EMAIL] = self._take(groups)[group]
        phones, leaders = self._take(groups), np.arange(groups) * _GROUP
        places[leaders, PHONE] = phones
        later = np.arange(1, groups)
        before = later - 1 - self.chance.integers(0, np.minimum(later, _REACH))
        places[leaders[1:] + 1, PHONE] = phones[before]
        self._add(np.zeros(len(group), dtype=np.int64), source, places)

    def chains(self, lengths: Ints) -> None:
        """A person each: a record shares its e-mail with one neighbour and something else with the other."""
        import numpy as np

        for other in (PHONE, DEVICE, LOYALTY):
            mine = lengths[other - 1 :: 3]
            if not len(mine):
                continue
            person = np.repeat(np.arange(len(mine)), mine)
            at = np.arange(len(person)) - np.repeat(np.cumsum(mine) - mine, mine)
            places = self._empty(len(person))
            ones = np.flatnonzero(at < mine[person] - 1)
            namespace, shared = np.where(at[ones] % 2 == 0, EMAIL, other), self._take(len(ones))
            places[ones, namespace] = shared
            places[ones + 1, namespace] = shared
            self._add(person, self._of((EMAIL, other), len(person)), places)

    def stars(self, edges: int) -> None:
        """Persons of 2 to 12 records around one identifier, until there are so many edges."""
        import numpy as np

        wanted = edges - self.edges
        sizes = np.minimum(1 + self.chance.geometric(0.35, size=wanted // 2 + 1), 12)
        for centre, share in ((EMAIL, 0.6), (PHONE, 0.2), (LOYALTY, 0.2)):
            few = sizes[: int(share * len(sizes))]
            person = np.repeat(np.arange(len(few)), few)
            source = self._of((centre,), len(person))
            places = self._empty(len(person))
            for namespace, likely in ((PHONE, 0.5), (LOYALTY, 0.4)):
                some = self._room(source, namespace) & (self.chance.random(len(person)) < likely)
                places[some, namespace] = self._take(len(few))[person[some]]
            some = self._room(source, DEVICE) & (self.chance.random(len(person)) < 0.6)
            places[some, DEVICE] = self._take(int(some.sum()))
            places[:, centre] = self._take(len(few))[person]
            last = _fitting(person, places, int(share * wanted))
            self._add(person[:last], source[:last], places[:last])

    def singles(self, count: int) -> None:
        """Persons of one record, with nothing yet."""
        import numpy as np

        self._add(np.arange(count), self.chance.integers(0, 4, size=count), self._empty(count))

    def crowds(self, namespace: int, *, count: int) -> None:
        """Identifiers of more records than may share one: the tablet in a shop, the phone of a front desk."""
        free = self.chance.permutation(self._free()[:, namespace].nonzero()[0])
        for number in range(count):
            size = int(self.chance.integers(LIMITS[namespace] + 1, LIMITS[namespace] * 4))
            if len(free) < size:
                size = LIMITS[namespace] + 1
            if len(free) < size:
                return
            self._places[free[:size], namespace] = NONE - 1 - number
            free = free[size:]

    def fill(self, edges: int) -> None:
        """Give records identifiers that they share with nobody, until there are so many edges."""
        free = self.chance.permutation(self._free().ravel().nonzero()[0])[: edges - self.edges]
        self._places.ravel()[free] = self._take(len(free))
        if self.edges != edges:
            raise ValueError(f"{edges} edges cannot be made: there is room for {self.edges}.")

    def shuffled(self) -> People:
        """What has been made, in no order."""
        order = self.chance.permutation(len(self._person))
        return People(
            person=self._person[order], source=self._source[order], places=self._places[order].copy()
        )

    @property
    def edges(self) -> int:
        """How many there are so far."""
        return int((self._places >= 0).sum())

    def _take(self, count: int) -> Ints:
        """New identifiers."""
        import numpy as np

        self._numbers += count
        return np.arange(self._numbers - count, self._numbers)

    def _of(self, namespaces: tuple[int, ...], count: int) -> Ints:
        """Sources by chance, of those that have a place for all of these."""
        import numpy as np

        able = np.flatnonzero(self._has[:, list(namespaces)].all(axis=1))
        return able[self.chance.integers(0, len(able), size=count)]

    def _room(self, source: Ints, namespace: int) -> Any:
        return self._has[source, namespace]

    def _empty(self, count: int) -> Ints:
        import numpy as np

        return np.full((count, 4), NONE, dtype=np.int64)

    def _free(self) -> Any:
        return self._has[self._source] & (self._places == NONE)

    def _add(self, person: Ints, source: Ints, places: Ints) -> None:
        import numpy as np

        self._person = np.concatenate((self._person, person + self._persons))
        self._source = np.concatenate((self._source, source))
        self._places = np.concatenate((self._places, places))
        self._persons = int(self._person.max()) + 1 if len(self._person) else 0


def _fitting(person: Ints, places: Ints, edges: int) -> int:
    """How many records, of whole persons, have at most so many edges."""
    import numpy as np

    upto = np.cumsum((places >= 0).sum(axis=1))
    record = int(np.searchsorted(upto, edges, side="right"))
    return record if record == len(person) else int(np.searchsorted(person, person[record]))
