"""The text that enforces a privacy floor in a SELECT which releases aggregates.

It reads the groups of :mod:`cleanroom.sql.privacy.groups`, whose conditions count the persons of a group and those who contribute to
each aggregate, and limit the part of one person in a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cleanroom.sql.checking.sums import Sums
from cleanroom.sql.context import Context
from cleanroom.sql.model import ProtectedInput, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.groups import LateRelation, PersonGroups, joined
from cleanroom.sql.privacy.joins import decided_by
from cleanroom.sql.privacy.release import counted_parts, counted_persons, parts_of, test_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import GROUPS, conjunction
from cleanroom.sql.scope import Scope


class ReleasedGroups(NamedTuple):
    """The groups that a SELECT may show."""

    source: str  # FROM clause of a SELECT that reads them
    tables: list[str]  # common table expressions that it reads


def released_groups(ctx: Context, source: tuple[str, str]) -> ReleasedGroups:
    """The groups that a SELECT may show. Records the release.

    Args:
        ctx: Context of the SELECT.
        source: Its FROM and WHERE clauses.
    """
    scope, catalog = ctx.scope, ctx.catalog
    texts = [key.sql for key in scope.keys]
    floor = rows.strictest_floor(scope.protected, catalog)
    summed = [item.value for item in scope.released.values() if item.value is not None and not item.value.identity]
    if scope.chooses and any(scope.repeats or value.sources & scope.repeated for value in summed):
        raise Refusal(
            "FanOutOverFloor",
            "a condition or a group key combines several columns, and a join repeats the aggregated rows: sums of several groups could be "
            "combined to the value of one person; write one condition for each column, joined by AND, group by the columns themselves, or "
            "aggregate each dataset per person first",
        )
    share = min(view.max_share_percent for item in scope.protected if (view := catalog.view(item.view)) is not None)
    sums = Sums(ctx, floor)
    tests, repeated = counted_persons(scope) if floor > 1 else ([], False)
    persons_of = _persons(scope)
    union = next(iter(persons_of)) not in {scope.equal.person(item.reference) for item in scope.protected}
    partial = {item.reference for item in scope.protected if item.partial}
    kinds = {
        kind: PersonGroups(GROUPS + f"_{number}" * bool(number), texts, person, source, partial=union or person in partial, floor=floor)
        for number, (kind, person) in enumerate(persons_of.items())
    }
    always, optional = _optional(scope)
    for groups in kinds.values():
        groups.require_persons()
    for item, part in counted_parts(always, scope.divisions, floor):
        groups, representative = kinds[scope.equal.person(item.reference)], scope.equal.representative
        needed = [test_of(part)] if part else []
        if representative(item.reference) != representative(groups.person):
            needed.append(f"{item.reference} IS NOT NULL")
        if needed:
            groups.require(" AND ".join(needed), none=bool(part) and not any(scope.divisions.values()))
    first, *others = kinds.values()
    for part in parts_of(scope.divisions) if union else ():
        first.require(test_of(part), none=not any(scope.divisions.values()))
    for item in optional:
        for word in ("NOT ", ""):
            kinds[scope.equal.person(item.reference)].require(f"{item.reference} IS {word}NULL")
    for groups in kinds.values():
        sums.require(groups, share, parts_of(scope.divisions))
        groups.require_counted(tests, repeated)
    number = ctx.findings.release(scope.protected, floor)
    scope.releases |= {(number, item.view) for item in scope.protected}
    overlap = bool(texts) and floor > 1 and (scope.overlapping or scope.multiplied)
    for aggregate in scope.released.values():
        first.merge(aggregate)
    shared = [groups for groups in kinds.values() if overlap and not _is_in_one_group(groups, scope.keys, scope)]
    for groups in shared:
        groups.compare(f"__cr_rows{number}{groups.alias.removeprefix(GROUPS)}", [*first.compared])
    if not others:
        first.join_later(_joined_by_identity(scope, first.person))
    columns = first.columns()
    text = f"\nFROM {first.sql()} AS `{first.alias}`" + "".join(groups.semi_join(columns) for groups in others)
    for index, groups in enumerate(shared):
        text += joined("LEFT ANTI JOIN", groups.overlapping(), f"__cr_overlapping{index}", columns)
    return ReleasedGroups(text, [f"`{groups.table}` AS {groups.rows()}" for groups in shared])


def _is_in_one_group(groups: PersonGroups, keys: Iterable[Value], scope: Scope) -> bool:
    """Whether each person is in one group, because the identity decides the group keys."""
    decided = decided_by(groups.person, scope.relations.values(), scope.equal)
    return all(key.sources <= decided and not key.outer_join_markers and "SELECT" not in key.sql for key in keys)


def _persons(scope: Scope) -> dict[str, str]:
    """For each kind of person in the rows, the text that reads the identity: inputs that are joined on their identities share one.

    The persons whom aggregates count come first. Those of a UNION are of several views.
    """
    found: dict[str, list[ProtectedInput]] = {}
    for item in scope.protected:
        found.setdefault(scope.equal.person(item.reference), []).append(item)
    persons = {}
    for kind, items in found.items():
        certain = [item.reference for item in sorted(items, key=lambda item: item.partial) if not item.outer_join_marker]
        every = list(dict.fromkeys(certain[:1] or [item.reference for item in items]))
        persons[kind] = every[0] if len(every) == 1 else f"COALESCE({', '.join(every)})"
    counted = dict.fromkeys(item.value.sql for item in scope.released.values() if item.persons and item.value is not None)
    first = {scope.equal.person(text): text for text in counted}
    if len(first) > 1:
        raise Refusal("DistinctOverFloor", "the SELECT counts persons by several identities, which no join makes equal; count one of them")
    return {kind: persons.get(kind, text) for kind, text in first.items()} | persons


def _joined_by_identity(scope: Scope, person: str) -> Iterator[LateRelation]:
    """Relations that are joined by the identity alone."""
    for relation in scope.relations.values():
        conditions = scope.joins.get(relation.alias, [])
        for value in relation.columns.values() if len(conditions) == 1 else ():
            if conditions[0].sql in (f"{person} = {value.sql}", f"{value.sql} = {person}"):
                text = f"\nJOIN {relation.text} ON {conjunction(conditions)}"
                yield LateRelation(relation.alias, text, value.sql)


def _optional(scope: Scope) -> tuple[list[ProtectedInput], list[ProtectedInput]]:
    """Inputs whose persons are in every group, and the others: those that an outer join adds, if the groups say whether it found them."""
    required = {scope.equal.person(item.reference) for item in scope.protected if not item.outer_join_marker}
    grouped_by = {marker for key in scope.keys if not key.exposed for marker in key.outer_join_markers}
    optional = [item for item in scope.protected if item.outer_join_marker in grouped_by and scope.equal.person(item.reference) in required]
    return [item for item in scope.protected if item not in optional], optional
