"""What a metric is: its name, its meaning, its series, and the cells that they are counted in.

It must not know which metrics there are, or how they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

Merge = Callable[[Sequence[int]], float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `cells` has the first cell of each series, by the values of its labels.

    A series is one cell; of a histogram, one for each bucket, one for what is above the last of
    `bounds`, and one for the sum. `unit`: so many in a cell are one of what the name says. Of a
    gauge every worker has its own value, and `merge` makes one of them; a worker's dies with it,
    unless it `outlives` it.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    cells: Mapping[tuple[str, ...], int]
    unit: int = 1
    bounds: tuple[int, ...] = ()
    merge: Merge = sum
    outlives: bool = False

    def cell(self, *labels: str) -> int:
        """The first cell of a series."""
        return self.cells[labels]


@dataclass(slots=True)
class Plan:
    """Gives each family its cells, in the order in which they are named; `size` is how many."""

    families: list[Family] = field(default_factory=list)
    size: int = 0

    def counter(self, name: str, meaning: str, **labels: Sequence[str]) -> Family:
        return self._add(Family(name, "counter", meaning, tuple(labels), self._cells(1, labels)))

    def gauge(self, name: str, meaning: str, *, merge: Merge, outlives: bool = False) -> Family:
        cells = self._cells(1, {})
        return self._add(Family(name, "gauge", meaning, (), cells, merge=merge, outlives=outlives))

    def histogram(
        self,
        name: str,
        meaning: str,
        *,
        unit: int,
        bounds: Sequence[int],
        **labels: Sequence[str],
    ) -> Family:
        cells = self._cells(len(bounds) + 2, labels)
        return self._add(
            Family(name, "histogram", meaning, tuple(labels), cells, unit, tuple(bounds))
        )

    def _cells(self, each: int, labels: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], int]:
        cells = {}
        for values in product(*labels.values()):
            cells[values] = self.size
            self.size += each
        return cells

    def _add(self, family: Family) -> Family:
        self.families.append(family)
        return family
