"""What the conditions of a release require of the rows that two columns share: those which COVAR, CORR and REGR read."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import FOUND, TRUE, Floors, Test, row_text
from sparkapp.plan.tree import Node, refused


class SharedRows(NamedTuple):
    """The rows that two values share.

    Attributes:
        values: The values, with casts that Spark adds to numbers.
        texts: Their texts.
        protected: Those that show values of persons.
        where: Text of the condition of FILTER.
        squares: Their squares and product are summed as well.
    """

    values: Sequence[Node]
    texts: Sequence[str]
    protected: Collection[str]
    where: str
    squares: bool

    def require(self, floors: Floors, share: int, canonical: Canonical) -> None:
        """Require that no person dominates a value in these rows, and that two sums are equal for all persons or differ for enough.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        filter = f" WHERE {self.where}" if self.where else ""
        pairs, sums = set(), []
        for index in (0, 1):
            text = self.texts[index]
            found = self._found(text, filter, self.values[1 - index], floors, canonical)
            mine = [f"{text}{found}{filter}"] + ([f"{_product(text, text)}{found}{filter}"] if self.squares else [])
            if text in self.protected and any(floors.shares.get(one, 100) > share for one in mine):
                raise refused("PlanFloorMissing", "no condition limits the part of one person in the rows that two values share")
            counted = Test([f"{text}{found}{FOUND}", *([f"{self.where}{TRUE}"] if self.where else [])])
            pairs |= {frozenset({f"{text}{filter}", mine[0]}), frozenset({mine[0], row_text(counted)})}
            sums += mine
        if self.squares:
            sums.append(f"{_product(*self.texts)}{filter}")
        pairs |= {frozenset(pair) for pair in itertools.combinations(sums, 2)}
        if not pairs <= floors.differences:
            raise refused("PlanFloorMissing", "the persons for whom two sums of the rows that two values share differ are not counted")

    @staticmethod
    def _found(text: str, filter: str, other: Node, floors: Floors, canonical: Canonical) -> str:
        """The condition that the ``other`` value is not NULL: with a cast if the query contains it, and not Spark alone."""
        values = [other, *(other.children if other.kind == "Cast" else ())]
        conditions = [f" WHERE {canonical.text(Node('IsNotNull', value.package, {'child': 0}, [value]))}" for value in values]
        known = frozenset[str]().union(*floors.differences)
        return next((one for one in conditions if f"{text}{one}{filter}" in known), conditions[-1])


def _product(one: str, two: str) -> str:
    return " * ".join(sorted([*one.split(" * "), *two.split(" * ")]))
