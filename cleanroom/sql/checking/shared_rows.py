"""Conditions on the rows that two columns share: those which COVAR, CORR and REGR read.

A row without one of the values does not matter to them, so that one person may dominate a column in the shared rows only, and two sums
may differ there for a few persons only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from cleanroom.sql.checking.parts import product, values_of_persons
from cleanroom.sql.context import Context
from cleanroom.sql.model import SUM, ReleasedAggregate, Value
from cleanroom.sql.privacy import aggregates
from cleanroom.sql.privacy.groups import PersonGroups
from cleanroom.sql.rendering import parenthesised
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
        where = f" FILTER(WHERE {item.where})" if item.where else ""
        sums = []
        for arg, other in ((one, two), (two, one)):
            condition = f"CASE WHEN {parenthesised(other, SUM)} IS NOT NULL THEN"
            value, square = f"{condition} {arg.sql} END", f"{condition} {product(arg, arg)} END"
            squares = [square] if aggregates.POWERS.get(item.name) == aggregates.MAX_POWER else []
            if aggregates.protected_columns(arg, ctx.catalog):
                shares = (f"CASE WHEN {item.where} THEN {text} END" if item.where else text for text in (value, *squares))
                self.shares |= dict.fromkeys(shares)
            double = value if arg.type == "number" else f"CAST({value} AS DOUBLE)"
            whole = arg.sql if arg.type == "number" else f"CAST({arg.sql} AS DOUBLE)"
            self.differences |= {
                (f"SUM({whole}){where}", f"SUM({double}){where}"): None,
                (f"SUM({double}){where}", f"COUNT({value}){where}"): None,
            }
            sums += [f"SUM({text}){where}" for text in (double, *squares)]
        if len(sums) > 2:
            sums.append(f"SUM({product(one, two)}){where}")
        self.differences |= dict.fromkeys(itertools.combinations(sums, 2))

    def require(self, kinds: Iterable[PersonGroups], share: int, few: str) -> None:
        """Add the conditions to those on each kind of person; ``share`` is the largest part of one, ``few`` is ``NOT BETWEEN 1 AND 4``."""
        for groups in kinds:
            for summand in self.shares if share < 100 else ():
                groups.require_share(summand, share)
            groups.require_differences(self.differences, few)
