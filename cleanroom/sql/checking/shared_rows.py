"""Conditions on the rows that two columns share: those which COVAR, CORR and REGR read.

A row without one of the values does not matter to them, so that one person may dominate a column in the shared rows only, and two sums
may differ there for a few persons only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from cleanroom.sql.checking.parts import filtered, product, values_of_persons
from cleanroom.sql.context import Context
from cleanroom.sql.model import ReleasedAggregate, Value
from cleanroom.sql.privacy import aggregates
from cleanroom.sql.privacy.groups import Numbers, PersonGroups, beside
from cleanroom.sql.vocabulary import FUNCTIONS


class SharedRows:
    """What the aggregates of a SELECT show of the rows that two columns share.

    Attributes:
        shares: Values of persons and their squares, of which one person may not have too much.
        differences: Pairs of sums and counts.
    """

    def __init__(self, ctx: Context, floor: int) -> None:
        self.shares: dict[str, None] = {}
        self.differences: dict[tuple[str, str], None] = {}
        for item in ctx.scope.released if floor > 1 else ():
            args = values_of_persons(item, ctx) if FUNCTIONS[item.name].disclosure == "mixture" else []
            if len(args) == 2 and args[0].sql != args[1].sql:
                self._read(item, args[0], args[1], ctx)

    def _read(self, item: ReleasedAggregate, one: Value, two: Value, ctx: Context) -> None:
        squares, sums = aggregates.POWERS.get(item.name) == aggregates.MAX_POWER, []
        for arg, other in ((one, two), (two, one)):
            every, shared = (Numbers(text, arg.type, item.where) for text in (arg.sql, beside(other, arg.sql)))
            mine = [shared, *([Numbers(beside(other, product(arg, arg)), where=item.where)] if squares else [])]
            if aggregates.protected_columns(arg, ctx.catalog):
                self.shares |= dict.fromkeys(filtered(numbers.text, item) for numbers in mine)
            total = shared.aggregate("SUM")
            self.differences |= {(every.aggregate("SUM"), total): None, (total, shared.aggregate("COUNT")): None}
            sums += [numbers.aggregate("SUM") for numbers in mine]
        if squares:
            sums.append(Numbers(product(one, two), where=item.where).total)
        self.differences |= dict.fromkeys(itertools.combinations(sums, 2))

    def require(self, kinds: Iterable[PersonGroups], share: int, few: str) -> None:
        """Add the conditions to those on each kind of person; ``share`` is the largest part of one, ``few`` is ``NOT BETWEEN 1 AND 4``."""
        for groups in kinds:
            for summand in self.shares if share < 100 else ():
                groups.require_share(summand, share)
            groups.require_differences(self.differences, few)
