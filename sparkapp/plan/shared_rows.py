"""What the conditions of a release require of the rows that two columns share: those which COVAR, CORR and REGR read."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import FOUND, Floors, Test, filtered, is_true, product_of, row_text
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
        pairs, sums = set(), []
        for index in (0, 1):
            text = self.texts[index]
            found = self._found(text, self.values[1 - index], floors, canonical)
            squares = [product_of((text, text))] if self.squares else []
            mine = [filtered(f"{one}{found}", self.where) for one in (text, *squares)]
            if text in self.protected and any(floors.shares.get(one, 100) > share for one in mine):
                raise refused("PlanFloorMissing", "no condition limits the part of one person in the rows that two values share")
            counted = Test([f"{text}{found}{FOUND}", *is_true(self.where)])
            pairs |= {frozenset({filtered(text, self.where), mine[0]}), frozenset({mine[0], row_text(counted)})}
            sums += mine
        if self.squares:
            sums.append(filtered(product_of(self.texts), self.where))
        pairs |= {frozenset(pair) for pair in itertools.combinations(sums, 2)}
        if not pairs <= floors.differences:
            raise refused("PlanFloorMissing", "the persons for whom two sums of the rows that two values share differ are not counted")

    def _found(self, text: str, other: Node, floors: Floors, canonical: Canonical) -> str:
        """The condition that the ``other`` value is not NULL: with a cast if the query contains it, and not Spark alone."""
        values = [other, *(other.children if other.kind == "Cast" else ())]
        conditions = [f" WHERE {canonical.text(Node('IsNotNull', value.package, {'child': 0}, [value]))}" for value in values]
        known = frozenset[str]().union(*floors.differences)
        return next((one for one in conditions if filtered(f"{text}{one}", self.where) in known), conditions[-1])
