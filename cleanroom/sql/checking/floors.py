"""The text that enforces a privacy floor in a SELECT which releases aggregates.

It reads the groups of :mod:`cleanroom.sql.privacy.groups`, whose conditions count the persons of a group and those who contribute to
each aggregate, and limit the part of one person in a sum.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cached_property

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.checking.parts import Parts, filtered, form_of, product, values_of_persons
from cleanroom.sql.checking.shared_rows import SharedRows
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, SUM, ProtectedInput, ReleasedAggregate, Value
from cleanroom.sql.privacy import aggregates, rows
from cleanroom.sql.privacy.groups import GROUPS, LateRelation, Numbers, PersonGroups, joined, presence
from cleanroom.sql.privacy.joins import decided_by
from cleanroom.sql.privacy.release import FloorCondition, counted_persons, floor_conditions, test_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import columns_in, conjunction, parenthesised, qualified
from cleanroom.sql.scope import Scope
from cleanroom.sql.vocabulary import FUNCTIONS, NUMERIC

_WHOLE_NUMBERS = frozenset({"long", "integer", "smallint", "tinyint"})
_COLUMN = re.compile("`[^`]*`[.]`[^`]*`")
_VALUES = "__cr_v"
"""Alias of the aggregates that are not computed from the rows per person."""
_TOKENS = r"'(?:[^'\\]|\\.)*'|`[^`]*`(?:\.`[^`]*`)?"
"""Literals and names, in which nothing is replaced."""
_ATOM = r"(?<![\w`.]){}(?![\w`.]| OVER| FILTER| WITHIN| IGNORE)"
_WHOLE = r"(?<![\w`.])(?<!IN )\({0}\)|(?:(?<=\()|(?<=, )|(?<=BY )){0}(?=\)|,|$| ASC| DESC| NULLS)"
"""An expression with operators, where it is a complete operand."""


class ReleasedGroups:
    """The groups that a SELECT may show.

    Attributes:
        values: Expressions over the rows of a group that are not computed from the rows per person, and their names.
        conditions: Conditions on them: enough different values.
    """

    def __init__(self, kinds: list[PersonGroups], floor: int, keys: Sequence[Value], scope: Scope) -> None:
        """Create the groups, given those with the conditions on each kind of person, the strictest floor and the group keys."""
        self.values: dict[str, str] = {}
        self.conditions: list[str] = []
        self._kinds, self._floor, self._keys = kinds, floor, keys
        self._unmerged: list[ReleasedAggregate] = []
        self._joined = list(_joined_by_identity(scope, kinds[0].person))
        self._names = dict(zip((key.sql for key in keys), kinds[0].columns(), strict=True))

    def merge(self, released: Iterable[ReleasedAggregate], is_person: Callable[[str], bool]) -> None:
        """Compute the aggregates of the SELECT from the rows per person if that is possible, and otherwise from the rows."""
        for item in released:
            merged = self._kinds[0].merge(item, is_person)
            if merged is None:
                self._unmerged.append(item)
            self._names[item.sql] = merged or self._value(item.sql)

    def compare(self, kinds: Iterable[PersonGroups], number: int) -> None:
        """Compare the groups of some kinds of persons, who may be in several of them; ``number`` is that of the release."""
        texts = [*self._kinds[0].compared]
        for item in self._unmerged:
            if not (item.distinct or item.name in ("SUM", "TRY_SUM", "APPROX_COUNT_DISTINCT")):
                raise Refusal(
                    "FanOutOverFloor",
                    f"{item.name} over rows that a join, a union or a window may put into several groups is not compared in these groups; "
                    "write AVG, STDDEV or CORR of numbers that are not DECIMAL, or aggregate per person first",
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
        left = [name for name in pattern.findall(found) if _COLUMN.fullmatch(name) and name not in names.values()]
        if not left and "SELECT" not in text:
            return found
        if " OVER (" in text or text.startswith("\n"):
            raise Refusal(
                "NotGrouped",
                "ORDER BY, QUALIFY and window functions over groups under a privacy floor read group keys, aggregates and output columns; "
                "give the expression an alias, and use that",
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
        for index, overlapping in enumerate(groups.overlapping(self._floor) for groups in self._kinds if groups.table):
            text += joined("LEFT ANTI JOIN", overlapping, f"__cr_overlapping{index}", columns)
        return text + (joined("JOIN", first.values(self.values), _VALUES, columns) if self.values else "")


def released_groups(ctx: Context, keys: Sequence[Value], source: tuple[str, str]) -> ReleasedGroups:
    """The groups that a SELECT may show. Records the release.

    Args:
        ctx: Context of the SELECT.
        keys: Its group keys.
        source: Its FROM and WHERE clauses.
    """
    scope, catalog = ctx.scope, ctx.catalog
    keys = list({key.sql: key for key in keys}.values())
    texts = [key.sql for key in keys]
    floor = rows.strictest_floor(scope.protected, catalog)
    few = f"NOT BETWEEN 1 AND {floor - 1}"
    aggregates.check_moments(scope.released, floor, catalog)
    share = min(view.max_share_percent for item in scope.protected if (view := catalog.view(item.view)) is not None)
    tests, repeated = counted_persons(scope) if floor > 1 else ([], False)
    persons_of = _persons(scope)
    for text in _counted(scope) if tests or repeated else ():
        persons_of.setdefault(scope.equal.person(text), text)
    partial = {item.reference for item in scope.protected if item.partial}
    kinds = {
        kind: PersonGroups(GROUPS + f"_{number}" * bool(number), texts, person, source, partial=person in partial)
        for number, (kind, person) in enumerate(persons_of.items())
    }
    differences, unshared = _differences(scope, ctx) if floor > 1 else ([], [])
    parts = Parts(ctx, floor)
    always, optional = _optional(scope)
    for condition in floor_conditions(always, scope.divisions, floor):
        _require(condition, kinds[scope.equal.person(condition.identity)], scope)
    for item in optional:
        for word in ("NOT ", "") if floor > 1 else ():
            kinds[scope.equal.person(item.reference)].require(f"{item.reference} IS {word}NULL", few)
    for groups in kinds.values():
        groups.require_persons(f">= {floor}")
        for released in scope.released if share < 100 else ():
            for summand in _summands(released, ctx):
                groups.require_share(summand, share)
        _require_contributors(groups, scope, floor, ctx)
        for term, where in _terms(scope, catalog):
            if share < 100 and len(term) == 1:
                groups.require_share(term[0], share)
            if where or len(term) > 1:
                groups.require(f"{where}{' AND '.join(f'{column} <> 0' for column in term)}", few)
            else:
                groups.require_contributors(term[0], few, f"{term[0]} <> 0")
        groups.require_counted(tests, repeated, few)
        groups.require_differences(differences, few)
        for test in unshared:
            groups.require(test, few)
        parts.require(groups, share, few)
    number = ctx.findings.release(scope.protected, floor)
    scope.releases |= {(number, item.view) for item in scope.protected}
    overlap = bool(keys) and floor > 1 and (scope.overlapping or scope.multiplied)
    kind, first = next(iter(kinds.items()))
    persons = {item.reference for item in scope.protected if scope.equal.person(item.reference) == kind}

    def is_person(text: str) -> bool:
        return text in persons or scope.equal.representative(text) == scope.equal.representative(first.person)

    found = ReleasedGroups(list(kinds.values()), floor, keys, scope)
    found.merge(scope.released, is_person)
    shared = [groups for groups in kinds.values() if overlap and not _is_in_one_group(groups, keys, scope)]
    if shared:
        found.compare(shared, number)
    SharedRows(ctx, floor).require(kinds.values(), share, few)
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


def _require(condition: FloorCondition, groups: PersonGroups, scope: Scope) -> None:
    floor, reference = condition.floor, condition.identity
    same = scope.equal.representative(reference) == scope.equal.representative(groups.person)
    tests = [test_of(branch) for branch in condition.part]
    if not same:
        tests.append(f"{reference} IS NOT NULL")
    if tests:
        groups.require(" AND ".join(tests), f"NOT BETWEEN 1 AND {floor - 1}" if condition.or_empty else f">= {floor}")
    else:
        groups.require_persons(f">= {floor}")


def _optional(scope: Scope) -> tuple[list[ProtectedInput], list[ProtectedInput]]:
    """Inputs whose persons are in every group, and the others: those that an outer join adds, if the groups say whether it found them."""
    required = {scope.equal.person(item.reference) for item in scope.protected if not item.outer_join_marker}
    grouped_by = {marker for key in scope.keys if not key.exposed for marker in key.outer_join_markers}
    optional = [item for item in scope.protected if item.outer_join_marker in grouped_by and scope.equal.person(item.reference) in required]
    return [item for item in scope.protected if item not in optional], optional


def _require_contributors(groups: PersonGroups, scope: Scope, floor: int, ctx: Context) -> None:
    """Require contributors to each aggregate."""
    for item in scope.released:
        args, mixture = values_of_persons(item, ctx), FUNCTIONS[item.name].disclosure == "mixture"
        if not args or FUNCTIONS[item.name].disclosure == "condition":
            continue
        texts = [parenthesised(arg, SUM) for arg in args]
        empty = bool(item.where) or any(arg.sql.startswith(("CASE ", "IF(")) for arg in args)
        enough = f"NOT BETWEEN 1 AND {floor - 1}" if empty else f">= {floor}"
        test = " AND ".join(f"{text} <> 0" if mixture else f"{text} IS NOT NULL" for text in texts)
        test = f"({item.where}) IS TRUE AND {test}" if item.where else test
        if mixture and (not empty or floor > 1):
            groups.require_contributors(filtered(texts[0] if len(args) == 1 else product(*args), item), enough, test)
        elif not empty or floor > 1:
            groups.require(test, enough)


def _terms(scope: Scope, catalog: Catalog) -> Iterator[tuple[tuple[str, ...], str]]:
    """Columns of aggregated sums of several terms, and pairs of them, with the condition of FILTER before AND.

    Aggregates of other terms could take the sum apart, so that the floor applies to each column and to each product.
    """
    columns = scope.columns
    for item in scope.released:
        where = f"({item.where}) IS TRUE AND " if item.where else ""
        for arg in item.args:
            if FUNCTIONS[item.name].disclosure != "mixture" or not arg.mixed:
                continue
            names = dict.fromkeys(columns_in(arg.sql))
            read = [name for name in names if name in columns and aggregates.protected_columns(columns[name], catalog)]
            derived = next((columns[name].name for name in read if columns[name].mixed), None)
            if derived is not None:
                raise Refusal(
                    "ConditionalAggregate",
                    f"{item.name} of {derived}, a sum of several terms that another SELECT computes: write the sum inside "
                    f"{item.name}(…), or aggregate its terms one by one",
                )
            read = [name for name in read if columns[name].type in NUMERIC]
            yield from (((name,), where) for name in read)
            if (arg.degree or 1) > 1:
                yield from ((pair, where) for pair in itertools.combinations(read, 2))


def _differences(scope: Scope, ctx: Context) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of sums and counts of which the result may show the difference, and tests of the rows that two counts do not share.

    The sums are those of columns and products; factors and constants do not matter. A moment contains the squares and products of its
    arguments. Two sums of one column, and a sum with a constant, show how many rows have a value.
    """
    numbers = scope.numbers
    names = [frozenset(columns_in(" ".join(arg.sql for arg in item.args))) for item in scope.released]
    forms: dict[tuple[frozenset[str], str], set[tuple[str, ...]]] = {}
    for read, item in zip(names, scope.released, strict=True):
        forms.setdefault((read, item.where), set()).add((item.name, *(arg.sql for arg in item.args)))
    sums, conditions, present = dict[Numbers, None](), dict[str, None](), dict[str, None]()
    args_summed, counts_rows, moment = set(), False, False
    for read, item in zip(names, scope.released, strict=True):
        kind, args = FUNCTIONS[item.name].disclosure, values_of_persons(item, ctx)
        if kind == "condition" or not any(arg.sources for arg in item.args):
            counts_rows = True
            if presence(item):
                conditions[presence(item)] = None
        elif kind == "count" and args:
            counts_rows = True
            present[presence(item)] = None
        elif kind == "mixture" and args:
            args_summed |= {(arg.sql, item.where) for arg in args}
            sums |= dict.fromkeys(part for arg in args for part in _parts(arg, item, numbers))
            if aggregates.POWERS.get(item.name) == aggregates.MAX_POWER:
                sums |= {Numbers(text, where=item.where): None for text in _squares(args)}
                moment = True
            several = len(args) > 1 or any(arg.mixed for arg in args)
            if several and len(read) > 1:
                present |= {f"{name} IS NOT NULL": None for name in sorted(read)}
            elif several or len(forms[read, item.where]) > 1:
                present[presence(item)] = None
            counts_rows = counts_rows or several or item.name not in ("SUM", "TRY_SUM")
    _check_scaled((part.text for part in sums), numbers, len(args_summed), ctx)
    released = {item.sql for item in scope.released}
    pairs = [_totals(one, two, released) for one, two in itertools.combinations(sums, 2) if moment or len(args_summed) > 1]
    for part in sums if counts_rows else ():
        if part.text in numbers and _counts(numbers[part.text], ctx):
            pairs.append((f"COUNT_IF({part.text} <> 0)", part.aggregate("COUNT")))
        elif " * " not in part.text:
            exact = part.total in released or part.type == "decimal"
            pairs.append((part.total if exact else part.aggregate("SUM"), part.aggregate("COUNT")))
    pairs += [(_count_of(test), "COUNT(*)") for test in present if counts_rows]
    both = itertools.chain(itertools.combinations(present, 2), itertools.product(present, conditions))
    caps = dict.fromkeys(cap for item in scope.released for arg in item.args for cap in sorted(arg.caps))
    return pairs, [*(f"({one}) <> ({two})" for one, two in both), *caps]


def _totals(one: Numbers, two: Numbers, released: Set[str]) -> tuple[str, str]:
    """The sums of two values, which are equal if the values are: exact for two decimals, and for whole numbers whose sums are released."""
    types = {one.type, two.type}
    if types == {"decimal"} or ({one.total, two.total} <= released and types <= _WHOLE_NUMBERS):
        return one.total, two.total
    return one.aggregate("SUM"), two.aggregate("SUM")


def _count_of(test: str) -> str:
    column = test.removesuffix(" IS NOT NULL")
    return f"COUNT({column})" if _COLUMN.fullmatch(column) else f"COUNT_IF({test})"


def _counts(value: Value, ctx: Context) -> bool:
    """Whether a value is how many rows or values a person has."""
    return value.made_by_text and not aggregates.protected_columns(value, ctx.catalog)


def _check_scaled(sums: Iterable[str], numbers: dict[str, Value], several: int, ctx: Context) -> None:
    """Refuse sums of several values, one of which an earlier step has scaled."""
    known = [numbers[text] for text in sums if text in numbers and aggregates.protected_columns(numbers[text], ctx.catalog)]
    scaled = next((value for value in known if value.mixed or value.scale != 1), None)
    if several > 1 and scaled is not None:
        raise Refusal(
            "ConditionalAggregate",
            f"an earlier step multiplies {scaled.name} by a constant or adds to it: next to sums of other values, which could "
            "differ from it for one person, multiply the result instead",
        )


def _parts(arg: Value, item: ReleasedAggregate, numbers: dict[str, Value]) -> list[Numbers]:
    """Columns and products that an argument consists of; the argument itself if it has a condition or is not a number."""
    names = columns_in(arg.sql)
    columns = sorted(numbers.keys() & names)
    parts = [Numbers(form_of(name, arg), type=numbers[name].type) for name in columns]
    if item.where or arg.sql.startswith(("CASE ", "IF(")) or not numbers.keys() >= set(names):
        return [Numbers(arg.sql, arg.type, item.where), *parts]
    products = [product(numbers[one], numbers[two]) for one, two in itertools.combinations(columns, 2)] if (arg.degree or 1) > 1 else []
    return [*(parts if arg.mixed or not products else ()), *map(Numbers, products)]


def _squares(args: Sequence[Value]) -> list[str]:
    return [product(one, two) for one, two in itertools.combinations_with_replacement(args, 2)]


def _summands(item: ReleasedAggregate, ctx: Context) -> list[str]:
    """The values whose sum one person may dominate."""
    catalog = ctx.catalog
    if FUNCTIONS[item.name].disclosure != "mixture":
        return []
    args = [arg for arg in item.args if aggregates.protected_columns(arg, catalog) and not aggregates.is_flag(arg, catalog)]
    squares = _squares(args) if aggregates.POWERS.get(item.name) == aggregates.MAX_POWER else []
    return [filtered(text, item) for text in (*(parenthesised(arg, SUM) for arg in args), *squares)]
