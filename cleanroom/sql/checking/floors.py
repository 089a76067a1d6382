"""The text that enforces a privacy floor in a SELECT which releases aggregates.

It consists of conditions of HAVING, which count the persons of a group and those who contribute to each aggregate, and of
LEFT ANTI JOINs with subqueries, which name the groups that must not be shown: those in which one person dominates a sum, and those
that differ from another group by a few persons.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.context import Context
from cleanroom.sql.model import ProtectedInput, ReleasedAggregate, Value
from cleanroom.sql.precedence import SUM
from cleanroom.sql.privacy import aggregates, rows
from cleanroom.sql.privacy.release import FloorCondition, floor_conditions
from cleanroom.sql.rendering import parenthesised, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.vocabulary import FUNCTIONS

_SUMS = ("SUM", "TRY_SUM", "AVG", "MEAN", "TRY_AVG")
"""Aggregates to which a zero contributes nothing, and in which one person may dominate."""


def enforce_floor(ctx: Context, keys: Sequence[str], source: tuple[str, str]) -> tuple[list[str], str]:
    """Conditions of HAVING, and joins that end the FROM clause. Records the release.

    Args:
        ctx: Context of the SELECT.
        keys: Texts of its group keys.
        source: Its FROM and WHERE clauses.
    """
    scope, catalog = ctx.scope, ctx.rules.catalog
    floor = rows.strictest_floor(scope.protected, catalog)
    aggregates.check_moments(scope.released, floor, catalog)
    always, optional = _optional(scope)
    conditions = [_condition(item) for item in floor_conditions(always, scope.divisions, floor)]
    conditions += [
        f"COUNT(DISTINCT {person}) FILTER(WHERE {found} IS {word}NULL) NOT BETWEEN 1 AND {floor - 1}"
        for person, found in optional
        for word in ("NOT ", "")
        if floor > 1
    ]
    persons = _persons(scope)
    conditions += [f"COUNT(DISTINCT {person}) FILTER(WHERE {test}" for person in persons for test in _contributions(scope, floor, catalog)]
    number = ctx.findings.release(scope.protected, floor)
    scope.releases |= {(number, item.view) for item in scope.protected}
    share = min(view.max_share_percent for item in scope.protected if (view := catalog.view(item.view)) is not None)
    joins = [_dominated(index, keys, person, source, share, scope, catalog) for index, person in enumerate(persons)]
    if keys and (scope.overlapping or (scope.multiplied and not _reads_one_relation(scope))):
        joins += [_overlapping(index, keys, person, source, floor) for index, person in enumerate(persons)]
    return list(dict.fromkeys(conditions)), "".join(joins)


def _persons(scope: Scope) -> list[str]:
    """One reference for each kind of person in the rows: inputs that are joined on their identities share one."""
    found: dict[str, ProtectedInput] = {}
    for item in scope.protected:
        key = scope.equal.person(item.reference)
        if key not in found or (found[key].outer_join_marker and not item.outer_join_marker):
            found[key] = item
    return list(dict.fromkeys(item.reference for item in found.values()))


def _optional(scope: Scope) -> tuple[list[ProtectedInput], list[tuple[str, str]]]:
    """Inputs whose persons are in every group, and the others: those that an outer join adds, if the groups say whether it found them.

    For the others, the result contains the reference of the person and that of the optional identity.
    """
    required = {scope.equal.person(item.reference): item.reference for item in scope.protected if not item.outer_join_marker}
    grouped_by = {marker for key in scope.keys if not key.exposed for marker in key.outer_join_markers}
    optional = [item for item in scope.protected if item.outer_join_marker in grouped_by and scope.equal.person(item.reference) in required]
    always = [item for item in scope.protected if item not in optional]
    return always, [(required[scope.equal.person(item.reference)], item.reference) for item in optional]


def _reads_one_relation(scope: Scope) -> bool:
    """Whether the groups and the aggregates read one relation only, so that each of its rows is in one group."""
    values = [*scope.keys, *(arg for item in scope.released for arg in item.args)]
    return len({source for value in values for source in value.sources}) <= 1


def _condition(condition: FloorCondition) -> str:
    if not condition.part:
        return f"COUNT(DISTINCT {condition.identity}) >= {condition.floor}"
    tests = " AND ".join(f"{text} IS {'' if true else 'NOT '}TRUE" for branch in condition.part for text, true in branch)
    count = f"COUNT(DISTINCT {condition.identity}) FILTER(WHERE {tests})"
    return f"{count} NOT BETWEEN 1 AND {condition.floor - 1}" if condition.or_empty else f"{count} >= {condition.floor}"


def _contributions(scope: Scope, floor: int, catalog: Catalog) -> list[str]:
    """Conditions on the persons who contribute to each aggregate, without the count before FILTER."""
    found: dict[str, None] = {}
    by_argument: dict[str, set[str]] = {}
    for item in scope.released:
        for arg in item.args:
            by_argument.setdefault(arg.sql, set()).add(item.name)
    for item in scope.released:
        for arg in item.args:
            if not arg.sources or (FUNCTIONS[item.name].disclosure == "condition") or arg.identity or aggregates.is_flag(arg, catalog):
                continue
            text = parenthesised(arg, SUM)
            where = f"({item.where}) IS TRUE AND " if item.where else ""
            test = f"{text} <> 0" if item.name in _SUMS else f"{text} IS NOT NULL"
            empty = bool(item.where) or arg.sql.startswith(("CASE ", "IF("))
            enough = f"NOT BETWEEN 1 AND {floor - 1}" if empty else f">= {floor}"
            if not empty or floor > 1:
                found[f"{where}{test}) {enough}"] = None
            # COUNT(x), an aggregate of two columns, or two aggregates of x show how many values are NULL.
            if (
                floor > 1
                and not empty
                and (FUNCTIONS[item.name].disclosure == "count" or len(item.args) > 1 or len(by_argument[arg.sql]) > 1)
            ):
                found[f"{text} IS NULL) NOT BETWEEN 1 AND {floor - 1}"] = None
    return list(found)


def _dominated(index: int, keys: Sequence[str], person: str, source: tuple[str, str], share: int, scope: Scope, catalog: Catalog) -> str:
    """A join that removes the groups in which one person has more than ``share`` percent of a sum."""
    sums = list(dict.fromkeys(_summand(item) for item in scope.released if _is_measured(item, catalog)))
    if not sums or share >= 100:
        return ""
    columns = [*_aliased(keys), f"{person} AS `__cr_p`"]
    columns += [f"SUM(ABS({text})) AS `__cr_s{number}`" for number, text in enumerate(sums)]
    groups = ", ".join([*keys, person])
    inner = "SELECT\n  " + ",\n  ".join(columns) + "".join(source) + f"\nGROUP BY {groups}"
    shown = [f"`__cr_d`.`__cr_k{number}` AS `__cr_k{number}`" for number in range(len(keys))] or ["1 AS `__cr_k0`"]
    group = "\nGROUP BY " + ", ".join(f"`__cr_d`.`__cr_k{number}`" for number in range(len(keys))) if keys else ""
    tests = " OR ".join(f"100 * MAX(`__cr_d`.`__cr_s{number}`) > {share} * SUM(`__cr_d`.`__cr_s{number}`)" for number in range(len(sums)))
    tests = f"({tests})" if len(sums) > 1 else tests
    text = "SELECT\n  " + ",\n  ".join(shown) + f"\nFROM {subquery(inner)} AS `__cr_d`{group}\nHAVING {tests}"
    return _anti_join(text, f"__cr_dominated{index}", keys)


def _is_measured(item: ReleasedAggregate, catalog: Catalog) -> bool:
    return item.name in _SUMS and any(
        aggregates.protected_columns(arg, catalog) and not aggregates.is_flag(arg, catalog) for arg in item.args
    )


def _summand(item: ReleasedAggregate) -> str:
    return f"CASE WHEN {item.where} THEN {item.args[0].sql} END" if item.where else item.args[0].sql


def _overlapping(index: int, keys: Sequence[str], person: str, source: tuple[str, str], floor: int) -> str:
    """A join that removes every group whose persons differ from those of another group by one to ``floor - 1`` persons."""
    if floor <= 1:
        return ""
    count = len(keys)
    pairs = "SELECT DISTINCT\n  " + ",\n  ".join([*_aliased(keys), f"{person} AS `__cr_p`"]) + "".join(source)
    columns = [f"`__cr_g`.`__cr_k{number}` AS `__cr_k{number}`" for number in range(count)]
    partition = ", ".join(f"`__cr_g`.`__cr_k{number}`" for number in range(count))
    size = f"COUNT(`__cr_g`.`__cr_p`) OVER (PARTITION BY {partition}) AS `__cr_n`"
    sized = "SELECT\n  " + ",\n  ".join([*columns, "`__cr_g`.`__cr_p` AS `__cr_p`", size]) + f"\nFROM {subquery(pairs)} AS `__cr_g`"
    groups = [f"`__cr_{side}`.`{name}`" for side in "ab" for name in (*(f"__cr_k{number}" for number in range(count)), "__cr_n")]
    text = (
        "SELECT\n  " + ",\n  ".join(f"`__cr_a`.`__cr_k{number}` AS `__cr_k{number}`" for number in range(count))
        + f"\nFROM {subquery(sized)} AS `__cr_a`\nJOIN {subquery(sized)} AS `__cr_b` ON `__cr_a`.`__cr_p` = `__cr_b`.`__cr_p`"
        + f"\nWHERE `__cr_a`.`__cr_n` >= {floor} AND `__cr_b`.`__cr_n` >= {floor}\nGROUP BY " + ", ".join(groups)
        + f"\nHAVING (`__cr_a`.`__cr_n` - COUNT(*) BETWEEN 1 AND {floor - 1} OR `__cr_b`.`__cr_n` - COUNT(*) BETWEEN 1 AND {floor - 1})"
    )  # fmt: skip
    return _anti_join(text, f"__cr_overlapping{index}", keys)


def _aliased(keys: Sequence[str]) -> list[str]:
    return [f"{key} AS `__cr_k{number}`" for number, key in enumerate(keys)]


def _anti_join(text: str, alias: str, keys: Sequence[str]) -> str:
    conditions = [f"{key} <=> `{alias}`.`__cr_k{number}`" for number, key in enumerate(keys)] or ["TRUE"]
    return f"\nLEFT ANTI JOIN {subquery(text)} AS `{alias}` ON {' AND '.join(conditions)}"


def operands(keys: Sequence[Value]) -> list[str]:
    """Texts of group keys that a comparison can take as operands."""
    return list(dict.fromkeys(parenthesised(key, SUM) for key in keys))
