"""Conditions on the persons in each part into which the conditions of a SELECT divide a group.

Sums of some rows, and sums with factors that a CASE chooses, can be combined to the sum of one part: ``SUM(x) - SUM(x) FILTER (WHERE a)
- SUM(x) FILTER (WHERE b)``. Each part therefore meets the conditions of the whole group: enough persons contribute to each column, or
none, no person dominates it, and two columns are equal for all persons, or different for enough.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from cleanroom.sql.context import Context
from cleanroom.sql.model import ReleasedAggregate, Value
from cleanroom.sql.privacy import aggregates
from cleanroom.sql.privacy.groups import PersonGroups
from cleanroom.sql.privacy.release import parts_of, test_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import columns_in
from cleanroom.sql.vocabulary import FUNCTIONS

_FORMS = re.compile(r"(?:LEAST|B?ROUND|LN|LOG10|LOG2|LOG1P|COALESCE|NVL|IFNULL)\([^()']*\)")


class Parts:
    """The parts, and what the aggregates show of each of them; nothing if they cannot be combined.

    Attributes:
        tests: The conditions on the rows of each part.
        sums: Columns and products of persons that the aggregates add up.
        differences: Tests of rows for which two values that they add up differ.
    """

    def __init__(self, ctx: Context, floor: int) -> None:
        scope = ctx.scope
        items = [item for item in scope.released if not any(arg.identity for arg in item.args)]
        self.tests: list[str] = []
        self.sums: dict[str, None] = {}
        self.differences: dict[str, None] = {}
        if floor > 1 and scope.divisions and not _has_one_selector(items):
            self.tests = [" AND ".join(map(test_of, part)) for part in itertools.product(*map(parts_of, scope.divisions))]
            for item in items:
                _require_one_column(item)
            self._read(items, ctx)

    def _read(self, items: Sequence[ReleasedAggregate], ctx: Context) -> None:
        numbers = ctx.scope.numbers
        summed, present, counts_rows = dict[str, None](), dict[str, None](), False
        for item in items:
            kind, args = FUNCTIONS[item.name].disclosure, values_of_persons(item, ctx)
            if kind == "count" and args:
                present |= dict.fromkeys(name for arg in args for name in results_in(arg.sql))
            self.differences |= dict.fromkeys(cap for arg in args for cap in sorted(arg.caps))
            counts_rows = counts_rows or kind != "mixture" or item.name not in ("SUM", "TRY_SUM") or any(arg.mixed for arg in args)
            power = aggregates.POWERS.get(item.name, 1) if kind == "mixture" else 0
            for arg in args if power else ():
                for names in _summands(arg, power, numbers):
                    text = form_of(names[0], arg) if len(names) == 1 else product(*(numbers[name] for name in names))
                    summed[text] = None
                    if any(aggregates.protected_columns(numbers[name], ctx.catalog) for name in names):
                        self.sums[text] = None
        if counts_rows:
            present |= dict.fromkeys(name for text in summed for name in columns_in(text))
            self.differences |= {f"{text} <> 1": None for text in self.sums if " * " not in text}
        for name in present:
            self.differences |= {f"{name} IS NOT NULL": None, f"NOT ({name} IS NOT NULL)": None}
        self.differences |= {f"({one} IS NOT NULL) <> ({two} IS NOT NULL)": None for one, two in itertools.combinations(present, 2)}
        self.differences |= {f"COALESCE({one}, 0) <> COALESCE({two}, 0)": None for one, two in itertools.combinations(summed, 2)}

    def require(self, groups: PersonGroups, share: int, few: str) -> None:
        """Add the conditions to those of ``groups``; ``share`` is the largest part of one person, ``few`` is ``NOT BETWEEN 1 AND 4``."""
        for test in self.tests:
            for text in self.sums:
                summand = f"CASE WHEN {test} THEN {text} END"
                if share < 100:
                    groups.require_share(summand, share)
                groups.require_contributors(summand, few, f"{test} AND {text} <> 0")
            for difference in self.differences:
                groups.require(f"{test} AND {difference}", few)


def _require_one_column(item: ReleasedAggregate) -> None:
    """Refuse an aggregate that reads the rows which two columns share: the conditions are on all rows of a part."""
    if FUNCTIONS[item.name].disclosure == "mixture" and len({arg.sql for arg in item.args}) > 1:
        raise Refusal(
            "ConditionalAggregate",
            f"{item.name} of two columns next to aggregates with other conditions; give all aggregates of the SELECT the same condition, "
            "or write it in a query of its own",
        )


def _has_one_selector(items: Sequence[ReleasedAggregate]) -> bool:
    """Whether all aggregates read the same rows of a group."""
    selectors = set()
    for item in items:
        counted = FUNCTIONS[item.name].disclosure == "condition"
        chosen = {item.args[0].sql} if counted else {arg.selector for arg in item.args}
        if not counted and any(not arg.selector and _chooses(arg.sql) for arg in item.args):
            return False
        selectors.add((item.where, *sorted(chosen or {""})))
    return len(selectors) < 2


def _chooses(text: str) -> bool:
    return "CASE " in text or "IF(" in text


def results_in(text: str) -> list[str]:
    """The columns of an expression without those of the conditions of CASE."""
    names = []
    for part in f" THEN {text}".split(" WHEN "):
        names += columns_in(part.partition(" THEN ")[2])
    return names


def form_of(name: str, arg: Value) -> str:
    """The column ``name``, or the function of it whose values an aggregate of ``arg`` adds up."""
    calls = _FORMS.findall(arg.sql) if arg.transformed or arg.filled else []
    return next((call for call in calls if columns_in(call) == [name]), name)


def _summands(arg: Value, power: int, numbers: Mapping[str, Value]) -> Iterator[tuple[str, ...]]:
    """Columns and pairs of columns whose values or products an aggregate of ``arg`` adds up."""
    names = sorted(numbers.keys() & results_in(arg.sql))
    pairs = itertools.combinations_with_replacement(names, 2) if power > 1 else itertools.combinations(names, 2)
    yield from ((name,) for name in names)
    if (arg.degree or 1) * power > 1:
        yield from pairs


def values_of_persons(item: ReleasedAggregate, ctx: Context) -> list[Value]:
    """Arguments that are values of persons."""
    return [arg for arg in item.args if arg.sources and not arg.identity and not aggregates.is_flag(arg, ctx.catalog)]


def filtered(text: str, item: ReleasedAggregate) -> str:
    """A value that is NULL in the rows which FILTER leaves out."""
    return f"CASE WHEN {item.where} THEN {text} END" if item.where else text


def product(one: Value, two: Value) -> str:
    """The product as a double: that of two whole numbers may overflow."""
    factors = (value.sql if value.plain and value.type == "number" else f"CAST({value.sql} AS DOUBLE)" for value in (one, two))
    return " * ".join(factors)
