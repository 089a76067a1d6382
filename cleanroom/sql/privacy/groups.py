"""The subquery that computes the groups of a release: rows, then one row per group and person, then one row per group.

The rows are read once. Every condition of a floor is about persons, so that it is a condition on the rows per person: how many there
are, how many of them contribute to an aggregate, and how much the largest of them has of a sum. Most aggregates of the query are
computed from the same rows: a sum is the sum of the persons' sums. If all of them are, the query reads the groups; otherwise it reads
its rows again, and a LEFT SEMI JOIN with the groups leaves out those that must not be shown. Where a person may be in several groups,
a LEFT ANTI JOIN removes the groups that differ from another one by a few persons. It reads the rows per person a second time, as a
common table expression.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence

from cleanroom.sql.model import ATOM, SUM, ReleasedAggregate, Value
from cleanroom.sql.rendering import parenthesised, subquery

GROUPS = "__cr_g"
"""Alias of the groups of a release."""
_PERSONS = "__cr_r"
_TOKENS = r"|'(?:[^'\\]|\\.)*'|`[^`]*`(?:\.`[^`]*`)?"
"""Literals and names, in which nothing is replaced."""


class PersonGroups:
    """The groups of a release, and what is known about the persons of one kind in each of them.

    Attributes:
        alias: Alias of the groups.
        keys: Texts of the group keys.
        person: Text that reads the identity.
        source: FROM and WHERE clauses of the rows.
        table: Name of the common table expression with the rows per person; empty if they are read once.
        conditions: Conditions that a group must meet to be shown, in the order of the query.
    """

    def __init__(self, alias: str, keys: Sequence[str], person: str, source: Sequence[str]) -> None:
        self.alias, self.keys, self.person, self.source = alias, keys, person, source
        self.table = ""
        self.conditions: dict[str, None] = {}
        self._per_person: dict[str, str] = {}
        self._shares: dict[str, str] = {}
        self._required = 0
        self._merged: dict[str, str] = {}
        self._columns: dict[str, str] = {}

    def require_persons(self, enough: str) -> None:
        """Require ``enough`` (``>= 5``) distinct persons."""
        self.conditions[f"COUNT(`{_PERSONS}`.`__cr_p`) {enough}"] = None

    def require_share(self, summand: str, percent: int) -> None:
        """Require that no person has more than ``percent`` of the sum of absolute values."""
        column = self._shares[summand] = self._column(f"COALESCE(SUM(ABS({summand})), 0)")
        self.conditions[f"100 * MAX({column}) <= {percent} * SUM({column})"] = None

    def require_contributors(self, summand: str, enough: str) -> None:
        """Require that ``summand`` is neither NULL nor 0 for ``enough`` distinct persons."""
        if summand in self._shares:
            self._require(f"{self._shares[summand]} > 0", enough)
        else:
            self.require(f"{summand} <> 0", enough)

    def require(self, test: str, enough: str) -> None:
        """Require that ``enough`` distinct persons have a row that meets ``test``."""
        self._require(self._column(f"BOOL_OR({test})"), enough)

    def require_counted(self, tests: Iterable[str], repeated: bool, few: str) -> None:
        """Require that persons whom differences of counts of persons show are not ``few``.

        Args:
            tests: Tests of rows, which are not NULL. Those are counted who have no such row, who meet two tests, or one of two.
            repeated: Those are counted who have several rows.
            few: ``NOT BETWEEN 1 AND 4``.
        """
        if repeated:
            self._require(f"{self._column('COUNT(*)')} > 1", few)
        columns = [self._column(f"BOOL_OR({test})") for test in tests]
        for column in columns:
            self._require(f"NOT {column}", few)
        for one, two in itertools.combinations(columns, 2):
            for test in (f"{one} AND {two}", f"{one} AND NOT {two}", f"NOT {one} AND {two}"):
                self._require(test, few)

    def _require(self, test: str, enough: str) -> None:
        self.conditions[f"COUNT(`{_PERSONS}`.`__cr_p`) FILTER(WHERE {test}) {enough}"] = None

    def merge(self, released: Iterable[ReleasedAggregate], is_person: Callable[[str], bool]) -> bool:
        """Compute the aggregates of the query from the rows per person, and return whether that is possible.

        Args:
            released: The aggregates.
            is_person: Whether a text reads the identity.
        """
        self._required = len(self._per_person)
        for item in released:
            text = self._merge(item, is_person)
            if text is None:
                return False
            self._columns.setdefault(text, f"__cr_a{len(self._columns)}")
            self._merged[item.sql] = f"`{self.alias}`.`{self._columns[text]}`"
        return True

    def forget_merged(self) -> None:
        """Compute no aggregates of the query, because it reads its rows again."""
        self._columns.clear()
        self._per_person = dict(list(self._per_person.items())[: self._required])

    def _merge(self, item: ReleasedAggregate, is_person: Callable[[str], bool]) -> str | None:
        where = f" FILTER(WHERE {item.where})" if item.where else ""
        arg = item.args[0] if item.args else None
        if item.name == "COUNT" and item.distinct:
            if arg is None or len(item.args) > 1 or not is_person(arg.sql):
                return None
            if not where and not arg.outer_join_markers:
                return f"COUNT(`{_PERSONS}`.`__cr_p`)"
            return f"COUNT(`{_PERSONS}`.`__cr_p`) FILTER(WHERE {self._column(f'BOOL_OR({presence(item)})')})"
        if item.distinct or (arg is not None and arg.type == "decimal"):
            return None
        if item.name in ("COUNT", "COUNT_IF", "SUM"):
            return f"SUM({self._column(item.sql)})"
        if item.name in ("MIN", "MAX"):
            return f"{item.name}({self._column(item.sql)})"
        if item.name in ("AVG", "MEAN") and arg is not None:
            number = arg.sql if arg.type == "number" else f"CAST({arg.sql} AS DOUBLE)"
            total, count = self._column(f"SUM({number}){where}"), self._column(f"COUNT({arg.sql}){where}")
            return f"SUM({total}) / NULLIF(SUM({count}), 0)"
        return None

    def _column(self, text: str) -> str:
        """The column of the rows per person that contains ``text``."""
        return f"`{_PERSONS}`.`{self._per_person.setdefault(text, f'__cr_c{len(self._per_person)}')}`"

    def replaced(self, text: str, keys: Sequence[Value]) -> str | None:
        """``text`` of the query with the columns of the groups in place of its group keys and merged aggregates.

        Returns:
            None if something else of the rows remains.
        """
        names = {key.sql: f"`{self.alias}`.`__cr_k{self.keys.index(key.sql)}`" for key in keys}
        if text in names:
            return names[text]
        if "SELECT" in text:
            return None
        names = {key.sql: names[key.sql] for key in keys if key.precedence == ATOM} | self._merged
        parts = "|".join(re.escape(part) for part in sorted(names, key=len, reverse=True))
        found = rf"(?<![\w`.])(?:{parts})(?![\w`.]| OVER| FILTER| WITHIN| IGNORE)" if parts else "(?!)"
        unknown = False

        def replace(match: re.Match[str]) -> str:
            nonlocal unknown
            part = match.group()
            unknown = unknown or (part not in names and part.startswith("`") and "`.`" in part)
            return names.get(part, part)

        text = re.sub(found + _TOKENS, replace, text)
        return None if unknown else text

    def rows(self) -> str:
        """The subquery that computes the rows per person."""
        inner = [*aliased(self.keys), f"{self.person} AS `__cr_p`", *(f"{text} AS `{name}`" for text, name in self._per_person.items())]
        return subquery(_select(inner) + "".join(self.source) + f"\nGROUP BY {', '.join([*self.keys, self.person])}")

    def sql(self) -> str:
        """The subquery that computes the groups."""
        keys = self._keys(_PERSONS)
        shown = [*aliased(keys), *(f"{text} AS `{name}`" for text, name in self._columns.items())] or ["TRUE AS `__cr_k0`"]
        group = f"\nGROUP BY {', '.join(keys)}" if keys else ""
        source = f"`{self.table}`" if self.table else self.rows()
        return subquery(f"{_select(shown)}\nFROM {source} AS `{_PERSONS}`{group}\nHAVING {' AND '.join(self.conditions)}")

    def overlapping(self, floor: int) -> str:
        """A subquery with the keys of every group whose persons differ from those of another group by one to ``floor - 1`` persons."""
        size = f"{_select([*aliased(self._keys('__cr_s')), 'COUNT(`__cr_s`.`__cr_p`) AS `__cr_n`'])}\nFROM `{self.table}` AS `__cr_s`"
        size += f"\nGROUP BY {', '.join(self._keys('__cr_s'))}\nHAVING COUNT(`__cr_s`.`__cr_p`) >= {floor}"
        columns = [*aliased(self._keys("__cr_o")), "`__cr_o`.`__cr_p` AS `__cr_p`", "`__cr_n`.`__cr_n` AS `__cr_n`"]
        sized = f"{_select(columns)}\nFROM `{self.table}` AS `__cr_o`"
        sized = subquery(sized + joined("JOIN", subquery(size), "__cr_n", self._keys("__cr_o")))
        sizes = ["`__cr_a`.`__cr_n`", "`__cr_b`.`__cr_n`"]
        text = _select(aliased(self._keys("__cr_a")))
        text += f"\nFROM {sized} AS `__cr_a`\nJOIN {sized} AS `__cr_b` ON `__cr_a`.`__cr_p` = `__cr_b`.`__cr_p`"
        text += "\nGROUP BY " + ", ".join([*self._keys("__cr_a"), *self._keys("__cr_b"), *sizes])
        text += "\nHAVING (" + " OR ".join(f"{size} - COUNT(*) BETWEEN 1 AND {floor - 1}" for size in sizes) + ")"
        return subquery(text)

    def semi_join(self, keys: Iterable[str]) -> str:
        """A join that keeps the rows whose ``keys`` are those of a group that may be shown."""
        return joined("LEFT SEMI JOIN", self.sql(), self.alias, keys)

    def columns(self) -> list[str]:
        """The group keys as columns of the groups."""
        return self._keys(self.alias)

    def _keys(self, alias: str) -> list[str]:
        return [f"`{alias}`.`__cr_k{number}`" for number in range(len(self.keys))]


def presence(item: ReleasedAggregate) -> str:
    """The condition under which a row counts for COUNT(…) or COUNT_IF(…)."""
    found = [f"({item.where}) IS TRUE"] if item.where else []
    for arg in item.args:
        found.append(f"({arg.sql}) IS TRUE" if item.name == "COUNT_IF" else f"{parenthesised(arg, SUM)} IS NOT NULL")
    return " AND ".join(found)


def _select(columns: Iterable[str]) -> str:
    return "SELECT\n  " + ",\n  ".join(columns)


def aliased(keys: Sequence[str]) -> list[str]:
    """The group keys as output columns of a subquery."""
    return [f"{key} AS `__cr_k{number}`" for number, key in enumerate(keys)]


def joined(word: str, text: str, alias: str, keys: Iterable[str]) -> str:
    """A join with a subquery whose group keys equal ``keys``."""
    conditions = [f"{key} <=> `{alias}`.`__cr_k{number}`" for number, key in enumerate(keys)] or ["TRUE"]
    return f"\n{word} {text} AS `{alias}` ON {' AND '.join(conditions)}"
