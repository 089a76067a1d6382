"""The text that enforces a privacy floor in a SELECT which releases aggregates.

It reads the groups of :mod:`cleanroom.sql.privacy.groups`, whose conditions count the persons of a group and those who contribute to
each aggregate, and limit the part of one person in a sum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from cleanroom.sql.checking.sums import Sums
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, ProtectedInput, ReleasedAggregate, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.groups import GROUPS, LateRelation, PersonGroups, joined
from cleanroom.sql.privacy.joins import decided_by
from cleanroom.sql.privacy.release import counted_parts, counted_persons, parts_of, test_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import columns_in, conjunction, qualified
from cleanroom.sql.scope import Scope

_COLUMN = re.compile("`[^`]*`[.]`[^`]*`")
_VALUES = "__cr_v"
"""Alias of the aggregates that are not computed from the rows per person."""
_TOKENS = r"'(?:[^'\\]|\\.)*'|`[^`]*`(?:\.`[^`]*`)?|\(\n(?:  .*\n)+\)"
"""Literals, names and subqueries, in which nothing is replaced."""
_ATOM = r"(?<![\w`.]){}(?![\w`.]| OVER| FILTER| WITHIN| IGNORE)"
_WHOLE = r"(?<![\w`.])(?<!IN )\({0}\)|(?:(?<=\()|(?<=, )|(?<=BY )){0}(?=\)|,|$| ASC| DESC| NULLS)"
"""An expression with operators, where it is a complete operand."""


class ReleasedGroups:
    """The groups that a SELECT may show.

    Attributes:
        values: Expressions over the rows of a group that are not computed from the rows per person, and their names.
        conditions: Conditions on them: enough different values.
    """

    def __init__(self, kinds: list[PersonGroups], keys: Sequence[Value], scope: Scope) -> None:
        """Create the groups, given those with the conditions on each kind of person, and the group keys."""
        self.values: dict[str, str] = {}
        self.conditions: list[str] = []
        self._kinds, self._keys, self._aliases = kinds, keys, set(scope.aliases_in_from)
        self._unmerged: list[ReleasedAggregate] = []
        self._aggregates: list[str] = []
        self._joined = list(_joined_by_identity(scope, kinds[0].person))
        self._names = dict(zip((key.sql for key in keys), kinds[0].columns(), strict=True))

    def merge(self, released: Iterable[ReleasedAggregate], is_person: Callable[[str], bool]) -> None:
        """Compute the aggregates of the SELECT from the rows per person if that is possible, and otherwise from the rows."""
        for item in released:
            merged = self._kinds[0].merge(item, is_person)
            if merged is None:
                self._unmerged.append(item)
            self._names[item.sql] = merged or self._value(item.sql)
            self._aggregates.append(item.sql)

    def compare(self, kinds: Iterable[PersonGroups], number: int) -> None:
        """Compare the groups of some kinds of persons, who may be in several of them; ``number`` is that of the release."""
        texts = [*self._kinds[0].compared]
        for item in self._unmerged:
            if not (item.distinct or item.name in ("SUM", "TRY_SUM", "APPROX_COUNT_DISTINCT")):
                raise Refusal(
                    "FanOutOverFloor",
                    f"{item.name} over rows that a join, a union or a window may put into several groups is not compared in these groups; "
                    "write AVG or STDDEV of numbers that are not DECIMAL, or aggregate per person first",
                )
            texts.append(item.sql)
        for groups in kinds:
            groups.compare(f"__cr_rows{number}{groups.alias.removeprefix(GROUPS)}", texts)

    def _value(self, text: str) -> str:
        return qualified(_VALUES, self.values.setdefault(text, f"__cr_v{len(self.values)}"))

    def with_clause(self, prefix: str) -> str:
        """The WITH clause ``prefix``, extended by the rows per person if they are read several times."""
        tables = [f"`{groups.table}` AS {groups.rows()}" for groups in self._kinds if groups.table]
        if not tables:
            return prefix
        return f"{prefix.rstrip() + ', ' if prefix else 'WITH '}{', '.join(tables)}\n"

    def replaced(self, text: str) -> str:
        """``text`` of the SELECT with columns of the groups in place of its group keys and aggregates."""
        if text in self._names:
            return self._names[text]
        if "(" not in text and "`.`" not in text:
            return text  # output columns only
        names, pattern = self._replacements
        found = pattern.sub(lambda match: names.get(match[0], match[0]), text)
        left = [name for token in pattern.findall(found) for name in columns_in(token) if name.split("`")[1] in self._aliases]
        if not left:
            return found
        if " OVER (" in text or text.startswith("\n"):
            raise Refusal(
                "NotGrouped",
                "ORDER BY, QUALIFY and window functions over groups under a privacy floor read group keys, aggregates and output columns; "
                "give the expression an alias, and use that",
            )
        if any(name in text for name in self._aggregates):  # it would be computed for each group, and fail for one that is not shown
            raise Refusal(
                "NotGrouped",
                f"an expression combines an aggregate with {left[0].replace('`', '')}, which is inside of a group key or a subquery; "
                "compute it in a SELECT around this one",
            )
        return self._value(text)

    @cached_property
    def _replacements(self) -> tuple[dict[str, str], re.Pattern[str]]:
        """What replaces keys and aggregates, and a pattern that finds them, literals and names."""
        whole = {key.sql for key in self._keys if key.precedence < ATOM}
        longest = sorted(self._names, key=len, reverse=True)
        parts = [(_WHOLE if name in whole else _ATOM).format(re.escape(name)) for name in longest]
        return self._names | {f"({name})": self._names[name] for name in whole}, re.compile("|".join([*parts, _TOKENS]))

    def source(self) -> str:
        """FROM clause of a SELECT that reads the groups."""
        first, *others = self._kinds
        if not (others or self.values):
            first.join_later(self._joined)
        columns = first.columns()
        text = f"\nFROM {first.sql()} AS `{first.alias}`" + "".join(groups.semi_join(columns) for groups in others)
        for index, overlapping in enumerate(groups.overlapping() for groups in self._kinds if groups.table):
            text += joined("LEFT ANTI JOIN", overlapping, f"__cr_overlapping{index}", columns)
        return text + (joined("JOIN", first.values(self.values), _VALUES, columns) if self.values else "")


def released_groups(ctx: Context, source: tuple[str, str]) -> ReleasedGroups:
    """The groups that a SELECT may show. Records the release.

    Args:
        ctx: Context of the SELECT.
        source: Its FROM and WHERE clauses.
    """
    scope, catalog = ctx.scope, ctx.catalog
    keys = list({key.sql: key for key in scope.keys}.values())
    texts = [key.sql for key in keys]
    floor = rows.strictest_floor(scope.protected, catalog)
    share = min(view.max_share_percent for item in scope.protected if (view := catalog.view(item.view)) is not None)
    sums = Sums(ctx, floor)
    tests, repeated = counted_persons(scope, catalog) if floor > 1 else ([], False)
    persons_of = _persons(scope)
    for text in _counted(scope) if tests or repeated else ():
        persons_of.setdefault(scope.equal.person(text), text)
    partial = {item.reference for item in scope.protected if item.partial}
    kinds = {
        kind: PersonGroups(GROUPS + f"_{number}" * bool(number), texts, person, source, partial=person in partial, floor=floor)
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
    for item in optional:
        for word in ("NOT ", ""):
            kinds[scope.equal.person(item.reference)].require(f"{item.reference} IS {word}NULL")
    for groups in kinds.values():
        sums.require(groups, share, parts_of(scope.divisions))
        groups.require_counted(tests, repeated)
    number = ctx.findings.release(scope.protected, floor)
    scope.releases |= {(number, item.view) for item in scope.protected}
    overlap = bool(keys) and floor > 1 and (scope.overlapping or scope.multiplied)
    kind, first = next(iter(kinds.items()))
    persons = {item.reference for item in scope.protected if scope.equal.person(item.reference) == kind}

    def is_person(text: str) -> bool:
        return text in persons or scope.equal.representative(text) == scope.equal.representative(first.person)

    found = ReleasedGroups(list(kinds.values()), keys, scope)
    found.merge(scope.released, is_person)
    shared = [groups for groups in kinds.values() if overlap and not _is_in_one_group(groups, keys, scope)]
    if shared:
        found.compare(shared, number)
    counts = [item for item in scope.released if item.distinct or item.name == "APPROX_COUNT_DISTINCT"]
    distinct = dict.fromkeys(item.sql for item in counts if not any(arg.identity for arg in item.args))
    found.conditions = [f"{found.replaced(text)} >= {floor}" for text in distinct]
    return found


def _is_in_one_group(groups: PersonGroups, keys: Iterable[Value], scope: Scope) -> bool:
    """Whether each person is in one group, because the identity decides the group keys."""
    decided = decided_by(groups.person, scope.relations.values(), scope.equal)
    return all(key.sources <= decided and not key.outer_join_markers and "SELECT" not in key.sql for key in keys)


def _persons(scope: Scope) -> dict[str, str]:
    """For each kind of person in the rows, the text that reads the identity: inputs that are joined on their identities share one."""
    found: dict[str, list[ProtectedInput]] = {}
    for item in scope.protected:
        found.setdefault(scope.equal.person(item.reference), []).append(item)
    persons = {}
    for kind, items in found.items():
        certain = [item.reference for item in sorted(items, key=lambda item: item.partial) if not item.outer_join_marker]
        every = list(dict.fromkeys(certain[:1] or [item.reference for item in items]))
        persons[kind] = every[0] if len(every) == 1 else f"COALESCE({', '.join(every)})"
    return persons


def _joined_by_identity(scope: Scope, person: str) -> Iterator[LateRelation]:
    """Relations that are joined by the identity alone."""
    for relation in scope.relations.values():
        conditions = scope.joins.get(relation.alias, [])
        for name, value in relation.columns.items() if len(conditions) == 1 else ():
            if conditions[0].sql in (f"{person} = {value.sql}", f"{value.sql} = {person}"):
                text = f"\nJOIN {relation.text} ON {conjunction(conditions)}"
                yield LateRelation(relation.alias, text, value.sql, relation.unique_on == frozenset([name]))


def _counted(scope: Scope) -> list[str]:
    """The identities that aggregates count. That of a UNION is one of several views."""
    identities = {text for text, value in scope.columns.items() if value.identity}
    return [text for item in scope.released for arg in item.args for text in columns_in(arg.sql) if text in identities]


def _optional(scope: Scope) -> tuple[list[ProtectedInput], list[ProtectedInput]]:
    """Inputs whose persons are in every group, and the others: those that an outer join adds, if the groups say whether it found them."""
    required = {scope.equal.person(item.reference) for item in scope.protected if not item.outer_join_marker}
    grouped_by = {marker for key in scope.keys if not key.exposed for marker in key.outer_join_markers}
    optional = [item for item in scope.protected if item.outer_join_marker in grouped_by and scope.equal.person(item.reference) in required]
    return [item for item in scope.protected if item not in optional], optional
