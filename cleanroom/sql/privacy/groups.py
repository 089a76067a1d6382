"""The subquery that computes the groups of a release: rows, then one row per group and person, then one row per group.

Every condition of a floor is about persons, so that it is a condition on the rows per person: how many there are, how many of them
contribute to an aggregate, and how much the largest of them has of a sum. The aggregates of the query are computed from the same rows:
a sum is the sum of the persons' sums. Where a person may be in several groups, a LEFT ANTI JOIN removes the groups that differ from
another one by a few persons. It reads the rows per person a second time, as a common table expression.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cleanroom.sql.model import ReleasedAggregate
from cleanroom.sql.privacy.release import presence
from cleanroom.sql.rendering import columns_in, subquery

_PERSONS = "__cr_r"
_WINDOW = "__cr_w"
_MOMENTS = {
    **dict.fromkeys(("STDDEV", "STDDEV_SAMP", "STD"), "SQRT(GREATEST({moment}, 0) / {freedom})"),
    **dict.fromkeys(("VARIANCE", "VAR_SAMP"), "GREATEST({moment}, 0) / {freedom}"),
    "VAR_POP": "GREATEST({moment}, 0) / {number}",
    "STDDEV_POP": "SQRT(GREATEST({moment}, 0) / {number})",
}
"""Moments that are computed from those of the persons."""


class LateRelation(NamedTuple):
    """A relation that is joined by the identity."""

    alias: str
    text: str  # the join
    column: str  # text of its column that equals the identity


class Numbers(NamedTuple):
    """Values that aggregates read."""

    text: str
    type: str = "number"
    where: str = ""  # condition of FILTER

    def aggregate(self, name: str) -> str:
        """An aggregate of the values as doubles: a sum of whole numbers fails if it is large."""
        text = self.text if self.type == "number" or name == "COUNT" else f"CAST({self.text} AS DOUBLE)"
        return f"{name}({text})" + (f" FILTER(WHERE {self.where})" if self.where else "")


class PersonGroups:
    """The groups of a release, and what is known about the persons of one kind in each of them.

    Attributes:
        alias: Alias of the groups.
        keys: Texts of the group keys.
        person: Text that reads the identity.
        partial: Rows of a UNION are among the rows, which are about no person of this kind.
        floor: The strictest floor.
        source: FROM and WHERE clauses of the rows.
        table: Name of the common table expression with the rows per person, whose groups are compared; empty if they are read once.
        compared: What an aggregate adds up for each person, which is compared in the groups.
        conditions: Conditions that a group must meet to be shown, in the order of the query.
    """

    def __init__(self, alias: str, keys: Sequence[str], person: str, source: Sequence[str], *, partial: bool, floor: int) -> None:
        self.alias, self.keys, self.person, self.source, self.partial, self.floor = alias, keys, person, source, partial, floor
        self.table = ""
        self.compared: dict[str, None] = {}
        self.conditions: dict[str, None] = {}
        self._per_person: dict[str, str] = {}
        self._shares: dict[tuple[str, str], str] = {}
        self._aggregates: list[str] = []
        self._deviations: dict[str, str] = {}
        self._late_joins: dict[str, str] = {}
        self._late_keys: list[str] = []

    def require_persons(self) -> None:
        """Require enough distinct persons."""
        self.conditions[f"COUNT(`{_PERSONS}`.`__cr_p`) >= {self.floor}"] = None

    def require_share(self, summand: str, where: str, percent: int, square: str) -> None:
        """Require that no person has more than ``percent`` of the sum of absolute values in the rows that meet a condition.

        They are added as doubles, because a sum of whole numbers fails if it is large, and the failure would show that. The difference
        is not a number if a person has an infinite value. Squares are their own absolute values; ``square`` is their sum, or empty.
        """
        about = " AND ".join(text for text in (where, f"{self.person} IS NOT NULL" if self.partial else "") if text)
        absolute = Numbers(f"ABS(CAST({summand} AS DOUBLE))", where=about).aggregate("SUM")
        column = self._sum(square) if square and not self.partial else self._column(f"COALESCE({absolute}, 0)")
        self._shares[summand, where] = column
        self.conditions[f"MAX({column}) - {percent / 100} * SUM({column}) <= 0"] = None

    def require_contributors(self, summand: str, where: str, total: str, *, none: bool) -> None:
        """Require that enough distinct persons contribute to ``total``, the sum of ``summand``, or ``none``."""
        share = self._shares.get((summand, where))
        self._require(f"{share} > 0" if share else f"{self._sum(total)} <> 0", none)

    def require(self, test: str, *, none: bool = True) -> None:
        """Require that enough distinct persons have a row that meets ``test``, or ``none``."""
        if not none or self.floor > 1:
            self._require(self._column(f"BOOL_OR({test})"), none)

    def require_differences(self, pairs: Iterable[tuple[str, str]], share: int = 100) -> None:
        """Require that the persons for whom two aggregates differ are none or enough, and that none has more than ``share`` percent.

        Each person adds the difference of both to the difference of those of the group, so that the others do not matter.
        """
        for one, two in map(self._pair, pairs if self.floor > 1 else ()):
            self._require(f"{one} <> {two}")
            if share < 100:
                difference = f"ABS(CAST({one} - {two} AS DOUBLE))"
                if self.partial:
                    difference = f"IF(`{_PERSONS}`.`__cr_p` IS NULL, 0, {difference})"
                self.conditions[f"MAX({difference}) - {share / 100} * SUM({difference}) <= 0"] = None

    def require_means(self, pairs: Iterable[tuple[tuple[str, str], tuple[str, str]]]) -> None:
        """The same for the persons who have other sums or other numbers of values, given pairs of both: a mean contains both."""
        for sums, counts in pairs if self.floor > 1 else ():
            self._require(" OR ".join(" <> ".join(self._pair(pair)) for pair in (sums, counts)))

    def _pair(self, pair: tuple[str, str]) -> list[str]:
        """What two aggregates add up for a person, in an order that does not depend on theirs."""
        return sorted(map(self._sum, pair))

    def _sum(self, text: str) -> str:
        """What an aggregate adds up for a person."""
        return f"COALESCE({self._column(text)}, 0)"

    def require_counted(self, tests: Iterable[str], repeated: bool) -> None:
        """Require that persons whom differences of counts of persons show are none or enough.

        Args:
            tests: Tests of rows, which are not NULL. Those are counted who have no such row, who meet none or two, or one of two.
            repeated: Those are counted who have several rows.
        """
        if repeated:
            self._require(f"{self._column('COUNT(*)')} > 1")
        columns = [self._column(f"BOOL_OR({test})") for test in tests]
        for column in columns:
            self._require(f"NOT {column}")
        if len(columns) > 1:
            self._require(" AND ".join(f"NOT {column}" for column in columns))
        for one, two in itertools.combinations(columns, 2):
            for test in (f"{one} AND {two}", f"{one} AND NOT {two}", f"NOT {one} AND {two}"):
                self._require(test)

    def _require(self, test: str, none: bool = True) -> None:
        enough = f"NOT BETWEEN 1 AND {self.floor - 1}" if none else f">= {self.floor}"
        if not none or self.floor > 1:
            self.conditions[f"COUNT(`{_PERSONS}`.`__cr_p`) FILTER(WHERE {test}) {enough}"] = None

    def merge(self, item: ReleasedAggregate) -> None:
        """Compute an aggregate of the query from the rows per person."""
        self._aggregates.append(self._merged(item))

    def _merged(self, item: ReleasedAggregate) -> str:
        if item.persons:
            test = presence(item)
            return f"COUNT(`{_PERSONS}`.`__cr_p`)" + (f" FILTER(WHERE {self._compared(f'BOOL_OR({test})')})" if test else "")
        if item.arg is None or item.name in ("COUNT", "COUNT_IF", "SUM"):
            return f"SUM({self._compared(item.sql)})"
        numbers = Numbers(item.arg.sql, item.arg.type, item.where)
        if item.name in _MOMENTS:
            return self._moment(item.name, numbers)
        total, count = self._compared(numbers.aggregate("SUM")), self._compared(numbers.aggregate("COUNT"))
        return f"SUM({total}) / NULLIF(SUM({count}), 0)"

    def _moment(self, name: str, numbers: Numbers) -> str:
        """A moment from the numbers, means and moments of the persons.

        The means of persons are compared with the largest of them first, because their squares may have no digits left for it.
        """
        inner, largest, total, number = (self._column(numbers.aggregate(name)) for name in ("VAR_POP", "MAX", "SUM", "COUNT"))
        self.compared |= dict.fromkeys(numbers.aggregate(name) for name in ("VAR_POP", "SUM", "COUNT"))
        mean = f"CASE WHEN {inner} = 0 THEN {largest} ELSE {total} / NULLIF({number}, 0) END".replace(_PERSONS, _WINDOW)
        keys = ", ".join(self._keys(_WINDOW))
        text = f"{mean} - MAX({mean}) OVER ({f'PARTITION BY {keys}' if keys else ''})"
        deviation = f"`{_PERSONS}`.`{self._deviations.setdefault(text, f'__cr_d{len(self._deviations)}')}`"
        moment = f"SUM({number} * {inner} + {number} * {deviation} * {deviation})"
        moment += f" - SUM({number} * {deviation}) * SUM({number} * {deviation}) / NULLIF(SUM({number}), 0)"
        freedom = f"NULLIF(GREATEST(SUM({number}) - 1, 0), 0)"
        return _MOMENTS[name].format(moment=moment, number=f"NULLIF(SUM({number}), 0)", freedom=freedom)

    def _compared(self, text: str) -> str:
        """The same column, which is compared in groups that may share persons."""
        self.compared[text] = None
        return self._column(text)

    def _column(self, text: str) -> str:
        """The column of the rows per person that contains ``text``."""
        return f"`{_PERSONS}`.`{self._per_person.setdefault(text, f'__cr_c{len(self._per_person)}')}`"

    def join_later(self, relations: Iterable[LateRelation]) -> None:
        """Join relations with the rows per person, which are fewer than the rows, if nothing but group keys reads them."""
        source, where = self.source
        for alias, text, column in relations:
            rest = source.replace(text, "", 1)
            late = [key for key in self.keys if {name.split("`")[1] for name in columns_in(key)} == {alias}]
            read = [rest, where, self.person, *self._per_person, *(key for key in self.keys if key not in late)]
            if rest != source and not any(f"`{alias}`." in part for part in read):
                source = rest
                self._late_keys += late
                self._late_joins[text] = f"{text[: text.rindex(' ON ')]} ON `__cr_q`.`__cr_p` = {column}"
        self.source = source, where

    def rows(self) -> str:
        """The subquery that computes the rows per person."""
        rows = self._joined_rows()
        if not self._deviations:
            return rows
        names = [*(f"__cr_k{number}" for number in range(len(self.keys))), "__cr_p", *self._per_person.values()]
        columns = [f"`{_WINDOW}`.`{name}` AS `{name}`" for name in names]
        columns += [f"{text} AS `{name}`" for text, name in self._deviations.items()]
        return subquery(f"{_select(columns)}\nFROM {rows} AS `{_WINDOW}`")

    def _joined_rows(self) -> str:
        keys = dict(zip(aliased(self.keys), self.keys, strict=True))
        early = {text: key for text, key in keys.items() if key not in self._late_keys}
        inner = [*early, f"{self.person} AS `__cr_p`", *(f"{text} AS `{name}`" for text, name in self._per_person.items())]
        rows = subquery(_select(inner) + "".join(self.source) + f"\nGROUP BY {', '.join([*early.values(), self.person])}")
        if not self._late_joins:
            return rows
        names = [*(f"__cr_k{number}" for number, key in enumerate(self.keys) if key not in self._late_keys), "__cr_p"]
        outer = [*(text for text in keys if text not in early), *(f"`__cr_q`.`{name}` AS `{name}`" for name in names)]
        outer += [f"{_again(text)}(`__cr_q`.`{name}`) AS `{name}`" for text, name in self._per_person.items()]
        group = ", ".join([*self._late_keys, *(f"`__cr_q`.`{name}`" for name in names)])
        return subquery(f"{_select(outer)}\nFROM {rows} AS `__cr_q`{''.join(self._late_joins.values())}\nGROUP BY {group}")

    def sql(self) -> str:
        """The subquery that computes the groups."""
        keys = self._keys(_PERSONS)
        shown = [*aliased(keys), *(f"{text} AS `__cr_a{index}`" for index, text in enumerate(self._aggregates))] or ["TRUE AS `__cr_k0`"]
        group = f"\nGROUP BY {', '.join(keys)}" if keys else ""
        source = f"`{self.table}`" if self.table else self.rows()
        return subquery(f"{_select(shown)}\nFROM {source} AS `{_PERSONS}`{group}\nHAVING {' AND '.join(self.conditions)}")

    def compare(self, table: str, texts: Iterable[str]) -> None:
        """Compare the groups, whose rows per person are in ``table``, by their persons and by each of ``texts``.

        A person for whom an aggregate adds up something else in another group is a difference. Each of ``texts`` is compared alone: another
        one may be different for all persons.
        """
        self.table = table
        self.compared = dict.fromkeys(texts)
        for text in self.compared:
            self._column(text)

    def overlapping(self) -> str:
        """A subquery with the keys of every group that differs from another group for fewer persons than the floor."""
        values = [self._per_person[text] for text in self.compared]
        size = f"{_select([*aliased(self._keys('__cr_s')), 'COUNT(`__cr_s`.`__cr_p`) AS `__cr_n`'])}\nFROM `{self.table}` AS `__cr_s`"
        size += f"\nGROUP BY {', '.join(self._keys('__cr_s'))}\nHAVING COUNT(`__cr_s`.`__cr_p`) >= {self.floor}"
        columns = [*aliased(self._keys("__cr_o")), "`__cr_o`.`__cr_p` AS `__cr_p`", "`__cr_n`.`__cr_n` AS `__cr_n`"]
        columns += [f"COALESCE(CAST(`__cr_o`.`{name}` AS DOUBLE), 0) AS `{name}`" for name in values]
        sized = f"{_select(columns)}\nFROM `{self.table}` AS `__cr_o`"
        sized = subquery(sized + joined("JOIN", subquery(size), "__cr_n", self._keys("__cr_o")))
        # The order in which a sum is computed may differ.
        same = [f"COUNT_IF(ABS(`__cr_a`.`{name}` - `__cr_b`.`{name}`) <= 1E-12 * ABS(`__cr_b`.`{name}`))" for name in values]
        sizes = ["`__cr_a`.`__cr_n`", "`__cr_b`.`__cr_n`"]
        few = [f"{size} - {common} BETWEEN 1 AND {self.floor - 1}" for common in ("COUNT(*)", *same) for size in sizes]
        text = _select(aliased(self._keys("__cr_a")))
        text += f"\nFROM {sized} AS `__cr_a`\nJOIN {sized} AS `__cr_b` ON `__cr_a`.`__cr_p` = `__cr_b`.`__cr_p`"
        text += "\nGROUP BY " + ", ".join([*self._keys("__cr_a"), *self._keys("__cr_b"), *sizes])
        text += f"\nHAVING ({' OR '.join(few)})"
        return subquery(text)

    def semi_join(self, keys: Iterable[str]) -> str:
        """A join that keeps the rows whose ``keys`` are those of a group that may be shown."""
        return joined("LEFT SEMI JOIN", self.sql(), self.alias, keys)

    def columns(self) -> list[str]:
        """The group keys as columns of the groups."""
        return self._keys(self.alias)

    def _keys(self, alias: str) -> list[str]:
        return [f"`{alias}`.`__cr_k{number}`" for number in range(len(self.keys))]


def _again(text: str) -> str:
    """The aggregate that combines the results of ``text`` for parts of the rows."""
    name = text[: text.index("(")]
    return {**dict.fromkeys(("COALESCE", "COUNT", "COUNT_IF"), "SUM"), "VAR_POP": "MAX"}.get(name, name)


def _select(columns: Iterable[str]) -> str:
    return "SELECT\n  " + ",\n  ".join(columns)


def aliased(keys: Sequence[str]) -> list[str]:
    """The group keys as output columns of a subquery."""
    return [f"{key} AS `__cr_k{number}`" for number, key in enumerate(keys)]


def joined(word: str, text: str, alias: str, keys: Iterable[str]) -> str:
    """A join with a subquery whose group keys equal ``keys``."""
    conditions = [f"{key} <=> `{alias}`.`__cr_k{number}`" for number, key in enumerate(keys)] or ["TRUE"]
    return f"\n{word} {text} AS `{alias}` ON {' AND '.join(conditions)}"
