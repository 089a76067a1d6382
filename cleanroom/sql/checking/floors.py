"""The text that enforces a privacy floor in a SELECT which releases aggregates.

It reads the groups of :mod:`cleanroom.sql.privacy.groups`, whose conditions count the persons of a group and those who contribute to
each aggregate, and limit the part of one person in a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cleanroom.sql.context import Context
from cleanroom.sql.model import ProtectedInput, ReleasedAggregate, Value
from cleanroom.sql.precedence import SUM
from cleanroom.sql.privacy import aggregates, rows
from cleanroom.sql.privacy.groups import GROUPS, PersonGroups, joined
from cleanroom.sql.privacy.release import FloorCondition, floor_conditions
from cleanroom.sql.rendering import parenthesised
from cleanroom.sql.scope import Scope
from cleanroom.sql.vocabulary import FUNCTIONS

_SUMS = ("SUM", "TRY_SUM", "AVG", "MEAN", "TRY_AVG")
"""Aggregates to which a zero contributes nothing, and in which one person may dominate."""


class ReleasedGroups(NamedTuple):
    """The groups that a SELECT may show.

    Attributes:
        kinds: The groups with the conditions on each kind of person.
        floor: The strictest floor.
        keys: The group keys.
        merged: All aggregates are columns of the first groups.
    """

    kinds: list[PersonGroups]
    floor: int
    keys: Sequence[Value]
    merged: bool

    def with_clause(self, prefix: str) -> str:
        """The WITH clause ``prefix``, extended by the rows per person if they are read several times."""
        tables = [f"`{groups.table}` AS {groups.rows()}" for groups in self.kinds if groups.table]
        if not tables:
            return prefix
        return f"{prefix.rstrip() + ', ' if prefix else 'WITH '}{', '.join(tables)}\n"

    def replaced(self, texts: Sequence[str]) -> list[str] | None:
        """``texts`` of the SELECT in terms of the groups; None if the SELECT must read its rows."""
        replaced = [self.kinds[0].replaced(text, self.keys) for text in texts] if self.merged else [None]
        return None if None in replaced else [text for text in replaced if text is not None]

    def source(self) -> str:
        """FROM clause of a SELECT that reads the groups."""
        first, *others = self.kinds
        columns = first.columns()
        semi = "".join(groups.semi_join(columns) for groups in others)
        return f"\nFROM {first.sql()} AS `{first.alias}`{semi}{self._anti_joins(columns)}"

    def guards(self) -> str:
        """Joins that end the FROM clause of a SELECT that reads its rows."""
        self.kinds[0].forget_merged()
        return "".join(groups.semi_join(self.kinds[0].keys) for groups in self.kinds) + self._anti_joins(self.kinds[0].keys)

    def _anti_joins(self, keys: Sequence[str]) -> str:
        texts = [groups.overlapping(self.floor) for groups in self.kinds if groups.table]
        return "".join(joined("LEFT ANTI JOIN", text, f"__cr_overlapping{index}", keys) for index, text in enumerate(texts))


def released_groups(ctx: Context, keys: Sequence[Value], source: tuple[str, str]) -> ReleasedGroups:
    """The groups that a SELECT may show. Records the release.

    Args:
        ctx: Context of the SELECT.
        keys: Its group keys.
        source: Its FROM and WHERE clauses.
    """
    scope, catalog = ctx.scope, ctx.rules.catalog
    keys = list({key.sql: key for key in keys}.values())
    texts = [parenthesised(key, SUM) for key in keys]
    floor = rows.strictest_floor(scope.protected, catalog)
    aggregates.check_moments(scope.released, floor, catalog)
    share = min(view.max_share_percent for item in scope.protected if (view := catalog.view(item.view)) is not None)
    kinds = {
        kind: PersonGroups(GROUPS + f"_{number}" * bool(number), texts, person, source)
        for number, (kind, person) in enumerate(_persons(scope).items())
    }
    always, optional = _optional(scope)
    for condition in floor_conditions(always, scope.divisions, floor):
        _require(condition, kinds[scope.equal.person(condition.identity)], scope)
    for item in optional:
        for word in ("NOT ", "") if floor > 1 else ():
            kinds[scope.equal.person(item.reference)].require(f"{item.reference} IS {word}NULL", f"NOT BETWEEN 1 AND {floor - 1}")
    for groups in kinds.values():
        groups.require_persons(f">= {floor}")
        for test, enough in _contributions(scope, floor, ctx):
            groups.require(test, enough)
        for released in scope.released if share < 100 else ():
            if _is_measured(released, ctx):
                groups.require_share(_summand(released), share)
    number = ctx.findings.release(scope.protected, floor)
    scope.releases |= {(number, item.view) for item in scope.protected}
    overlap = bool(keys) and floor > 1 and (scope.overlapping or (scope.multiplied and not _reads_one_relation(scope)))
    kind, first = next(iter(kinds.items()))
    persons = {item.reference for item in scope.protected if scope.equal.person(item.reference) == kind}

    def is_person(text: str) -> bool:
        return text in persons or scope.equal.representative(text) == scope.equal.representative(first.person)

    for groups in kinds.values() if overlap else ():
        groups.table = f"__cr_rows{number}{groups.alias.removeprefix(GROUPS)}"
    return ReleasedGroups(list(kinds.values()), floor, keys, first.merge(scope.released, is_person))


def _persons(scope: Scope) -> dict[str, str]:
    """For each kind of person in the rows, the text that reads the identity: inputs that are joined on their identities share one."""
    found: dict[str, list[ProtectedInput]] = {}
    for item in scope.protected:
        found.setdefault(scope.equal.person(item.reference), []).append(item)
    persons = {}
    for kind, items in found.items():
        certain = [item.reference for item in items if not item.outer_join_marker]
        every = list(dict.fromkeys(certain[:1] or [item.reference for item in items]))
        persons[kind] = every[0] if len(every) == 1 else f"COALESCE({', '.join(every)})"
    return persons


def _require(condition: FloorCondition, groups: PersonGroups, scope: Scope) -> None:
    floor, reference = condition.floor, condition.identity
    if condition.part:
        tests = " AND ".join(f"{text} IS {'' if true else 'NOT '}TRUE" for branch in condition.part for text, true in branch)
        groups.require(tests, f"NOT BETWEEN 1 AND {floor - 1}" if condition.or_empty else f">= {floor}", reference)
    elif scope.equal.representative(reference) == scope.equal.representative(groups.person):
        groups.require_persons(f">= {floor}")
    else:
        groups.require(f"{reference} IS NOT NULL", f">= {floor}", reference)


def _optional(scope: Scope) -> tuple[list[ProtectedInput], list[ProtectedInput]]:
    """Inputs whose persons are in every group, and the others: those that an outer join adds, if the groups say whether it found them."""
    required = {scope.equal.person(item.reference) for item in scope.protected if not item.outer_join_marker}
    grouped_by = {marker for key in scope.keys if not key.exposed for marker in key.outer_join_markers}
    optional = [item for item in scope.protected if item.outer_join_marker in grouped_by and scope.equal.person(item.reference) in required]
    return [item for item in scope.protected if item not in optional], optional


def _reads_one_relation(scope: Scope) -> bool:
    """Whether the groups and the aggregates read one relation only, so that each of its rows is in one group."""
    values = [*scope.keys, *(arg for item in scope.released for arg in item.args)]
    return len({source for value in values for source in value.sources}) <= 1


def _contributions(scope: Scope, floor: int, ctx: Context) -> Iterator[tuple[str, str]]:
    """For each aggregate, conditions that the rows of its contributors meet, and how many contributors there must be."""
    by_argument: dict[str, set[str]] = {}
    for item in scope.released:
        for arg in item.args:
            by_argument.setdefault(arg.sql, set()).add(item.name)
    for item in scope.released:
        disclosure = FUNCTIONS[item.name].disclosure
        for arg in item.args:
            if not arg.sources or disclosure == "condition" or arg.identity or aggregates.is_flag(arg, ctx.rules.catalog):
                continue
            text = parenthesised(arg, SUM)
            where = f"({item.where}) IS TRUE AND " if item.where else ""
            test = f"{text} <> 0" if item.name in _SUMS else f"{text} IS NOT NULL"
            empty = bool(item.where) or arg.sql.startswith(("CASE ", "IF("))
            if not empty or floor > 1:
                yield where + test, f"NOT BETWEEN 1 AND {floor - 1}" if empty else f">= {floor}"
            # COUNT(x), an aggregate of two columns, or two aggregates of x show how many values are NULL.
            if floor > 1 and not empty and (disclosure == "count" or len(item.args) > 1 or len(by_argument[arg.sql]) > 1):
                yield f"{text} IS NULL", f"NOT BETWEEN 1 AND {floor - 1}"


def _is_measured(item: ReleasedAggregate, ctx: Context) -> bool:
    catalog = ctx.rules.catalog
    return item.name in _SUMS and any(
        aggregates.protected_columns(arg, catalog) and not aggregates.is_flag(arg, catalog) for arg in item.args
    )


def _summand(item: ReleasedAggregate) -> str:
    return f"CASE WHEN {item.where} THEN {item.args[0].sql} END" if item.where else item.args[0].sql
