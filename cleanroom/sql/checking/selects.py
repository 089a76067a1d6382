"""SELECT: its clauses in the order in which they apply, and the text that runs; GROUP BY, ORDER BY and LIMIT."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from cleanroom.sql.checking.aggregates import direction
from cleanroom.sql.checking.columns import Item, Output, check_grouped, output_values, select_items
from cleanroom.sql.checking.expressions import condition
from cleanroom.sql.checking.floors import ReleasedGroups, released_groups
from cleanroom.sql.checking.relations import Source, conjuncts, from_clause, written_out
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery, ProtectedInput, Release, Value
from cleanroom.sql.privacy import exposure, rows
from cleanroom.sql.privacy.joins import Attached, attach
from cleanroom.sql.privacy.release import output_field, releases_groups
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import GROUPS, HIDDEN_COLUMN, conjunction, qualified, quote
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.remedies import outside_language
from cleanroom.sql.text.tokens import NUMBER, SET_OPERATORS, TEXT, Tokens

_AFTER_ITEMS = (",", "FROM", "WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT", *SET_OPERATORS, ")")


class _Clauses(NamedTuple):
    """The checked clauses of a SELECT, rendered except for its output columns and its GROUP BY."""

    source: tuple[str, str]
    outputs: list[Output]
    distinct: bool
    having: list[str]
    qualify: str
    order: str


def select(ctx: Context, parent: Scope | None, hidden: bool, prefix: str, *, alone: bool) -> CheckedQuery:
    """Read one SELECT, after the rendered WITH clause ``prefix``; see :meth:`Context.query <cleanroom.sql.context.Context.query>`.

    It is ``alone`` if it is not a part of a set operation, to which ORDER BY and LIMIT would belong.
    """
    text, scope = ctx.text, Scope(parent)
    ctx = ctx.for_select(scope)
    clauses = _clauses(ctx, alone)
    limited = limit(text) if alone else ""
    values = [value for _, value in clauses.outputs]
    if clauses.distinct:  # equal values count once: how many rows there are tells the values
        exposure.check_condition(exposure.comparable(values, ctx.catalog), ctx.catalog, "DISTINCT")
    groups: ReleasedGroups | None = None
    protected = list[ProtectedInput]()
    if releases_groups(scope, values, distinct=clauses.distinct):
        groups = released_groups(ctx, clauses.source)
    else:
        protected = rows.remaining_inputs(scope, values)
    check_limit(clauses.order, limited, protected, scope.releases, ctx)
    rows.check_exploded(scope)
    if groups is not None and groups.tables:
        prefix = f"{prefix.rstrip() + ', ' if prefix else 'WITH '}{', '.join(groups.tables)}\n"
    sql = _render(clauses, protected if hidden else [], scope, groups)
    fields = [output_field(name, value, protected=bool(scope.protected)) for name, value in clauses.outputs]
    several = bool(protected) and not scope.one_row_each
    carried = [item._replace(reference=f"{HIDDEN_COLUMN}{index}") for index, item in enumerate(protected)]
    return CheckedQuery(
        prefix + sql + limited,
        fields,
        carried,
        scope.releases,
        scope.views,
        _unique_on(clauses, scope),
        several and (scope.overlapping or scope.multiplied),
        several and (scope.repeats or scope.multiplied),
        several and scope.chooses,
    )


def _unique_on(clauses: _Clauses, scope: Scope) -> frozenset[str] | None:
    """Output columns whose values occur together once: the group keys, or all columns of DISTINCT."""
    if clauses.distinct:
        return frozenset([name.lower() for name, _ in clauses.outputs])
    if scope.group_keys is None:
        return None
    names = {value.sql: name.lower() for name, value in clauses.outputs}
    keys = {*scope.group_keys.values()}
    return frozenset([names[key] for key in keys]) if keys <= names.keys() else None


def _clauses(ctx: Context, alone: bool) -> _Clauses:
    """Read the clauses, and check them in the order in which they apply to the rows: FROM comes before the SELECT list."""
    text = ctx.text
    start = text.at
    joined: Source = from_clause(ctx.in_clause("join")) if text.kinds[text.at] == "FROM" else []
    text.expect("SELECT")
    distinct = text.accept("DISTINCT")
    if text.kinds[text.at] == "ON":
        how = "ClauseNotAllowed: DISTINCT ON; write QUALIFY ROW_NUMBER() OVER (PARTITION BY …) = 1"
        raise outside_language(how, text.position())
    places = [text.at]
    for place in text.places(len(text.kinds), *_AFTER_ITEMS, ""):
        if text.kinds[place] == ",":
            places.append(place + 1)
        elif text.kinds[place - 1 : place + 1] != ["DISTINCT", "FROM"] or place == places[0]:  # IS NOT DISTINCT FROM
            break
    text.at = place
    if text.kinds[start] != "FROM":
        joined = from_clause(ctx.in_clause("join"))
    source = _rows(joined, ctx)
    items = select_items([*places, place + 1], ctx)
    group_by(ctx.in_clause("group"), items)
    rest = text.at
    if text.continues(rest) or text.kinds[rest] == ",":
        raise text.unexpected()
    outputs = output_values(items, ctx.in_clause("output", aggregates=True))
    text.at = rest
    having = _having(ctx)
    qualify = _qualify(ctx)
    order = order_by(ctx.in_clause("sort", aggregates=True), outputs) if alone else ""
    check_grouped(items, outputs, ctx)
    return _Clauses(source, outputs, distinct, having, qualify, order)


def _render(clauses: _Clauses, carried: list[ProtectedInput], scope: Scope, groups: ReleasedGroups | None) -> str:
    """The text of a SELECT without LIMIT. It reads ``groups`` if it releases aggregates.

    Hidden columns carry the identities of the inputs ``carried``.
    """
    columns = [f"{value.sql} AS {quote(name)}" for name, value in clauses.outputs]
    columns += [f"{item.reference} AS {quote(f'{HIDDEN_COLUMN}{index}')}" for index, item in enumerate(carried)]
    grouped = f"\nGROUP BY {', '.join(key.sql for key in scope.keys)}" if scope.keys else ""
    source, word = ("".join(clauses.source) + grouped, "HAVING") if groups is None else (groups.source, "WHERE")
    having = f"\n{word} {' AND '.join(clauses.having)}" if clauses.having else ""
    select = "SELECT DISTINCT" if clauses.distinct else "SELECT"
    return f"{select}\n  " + ",\n  ".join(columns) + source + having + clauses.qualify + clauses.order


def _rows(joined: Source, ctx: Context) -> tuple[str, str]:
    """FROM and WHERE, rendered. Afterwards the scope knows which rows are protected and that the query has not copied any."""
    scope, where = ctx.scope, ""
    if _begins("WHERE", ctx):
        where = "\nWHERE " + conjunction(conjuncts(ctx.in_clause("filter")))
    rows.check_inputs(scope)
    missing = rows.unfiltered_identities(scope)
    if missing:  # a floor cannot count a row without an identity
        where += f"{' AND ' if where else f'{chr(10)}WHERE '}{' AND '.join(f'{text} IS NOT NULL' for text in missing)}"
    candidates = [item for item in scope.relations.values() if item.alias not in scope.exploded]
    attached = attach(candidates, scope.protected, scope.equal.found)
    scope.repeated, scope.chooses = attached.repeated, scope.chooses or attached.chosen
    _warn_of_joins(attached, ctx)
    return written_out(joined, attached.enforce), where


def _begins(word: str, ctx: Context) -> bool:
    """Read the word with which a clause begins, if it is next."""
    text = ctx.text
    if not text.accept(word):
        return False
    word_alone = text.kinds[text.at] == "(" and text.closing[text.at] == text.at + 2 and text.kinds[text.at + 1] not in (NUMBER, TEXT)
    if word_alone and not text.continues(text.at + 3):
        how = f"{word} (…) around one word: leave the parentheses out"  # Spark reads it as an alias with a list of columns
        raise Refusal("ParenthesesNeeded", how, text.position())
    return True


def _having(ctx: Context) -> list[str]:
    if not _begins("HAVING", ctx):
        return []
    start = ctx.text.at
    value = condition(ctx.in_clause("filter", aggregates=True))
    with ctx.text.located(start):
        conditions = value.parts if value.operator == "AND" else (value,)
        for part in conditions:
            if part.semi_join is not None:
                rows.check_no_rows(part.semi_join.protected)
            if part.ungrouped:
                raise Refusal("NotGrouped", "HAVING may read group keys and aggregates only")
            exposure.check_condition([part], ctx.catalog)
            if ctx.scope.per_person:
                exposure.choose_rows([part], ctx.scope, ctx.catalog)
    return [conjunction([part]) for part in conditions]


def _qualify(ctx: Context) -> str:
    if not _begins("QUALIFY", ctx):
        return ""
    start = ctx.text.at
    value = ctx.in_clause("filter", aggregates=True)._replace(in_qualify=True).expression()
    with ctx.text.located(start):
        exposure.check_condition([value], ctx.catalog)
        if ctx.scope.group_keys is None or ctx.scope.per_person:
            exposure.choose_rows(value.parts if value.operator == "AND" else [value], ctx.scope, ctx.catalog)
        if not value.windowed:
            raise Refusal("ClauseNotAllowed", "QUALIFY needs a window function; use WHERE or HAVING")
        if ctx.scope.group_keys is not None and value.ungrouped:
            raise Refusal("NotGrouped", "QUALIFY may read group keys, aggregates and windows over them only")
    return "\nQUALIFY " + conjunction([value])


def _warn_of_joins(attached: Attached, ctx: Context) -> None:
    """Record joins of protected rows that are not on an identity, or leave out rows."""
    scope = ctx.scope
    names = {relation.alias: relation.written_alias for relation in scope.relations.values()}
    for alias in dict.fromkeys([*attached.by_other_columns, *attached.enforce]):
        other, key = alias in attached.by_other_columns, ", ".join(attached.enforce.get(alias, ())).replace("`", "")
        how = "other columns than the identity" if other else "the identity"
        left_out = f"; its rows whose {key} is not unique are left out" if key else ""
        ctx.findings.warn("JoinNotOnIdentity" if other else "JoinLeavesOutRows", f"{names[alias]} is joined by {how}{left_out}")


# -- GROUP BY, ORDER BY, LIMIT ----------------------------------------------------------------------------------------


def group_by(ctx: Context, items: Sequence[Item]) -> None:
    """Read GROUP BY and fill in the groups of the scope. HAVING without GROUP BY has one group."""
    scope, text = ctx.scope, ctx.text
    # The last word of an item is its alias, or names a column, which is looked up first.
    scope.aliases = {text.values[item.end - 1].lower(): item.place for item in items if item.column is None and item.end > item.place + 1}
    if not text.accept("GROUP"):
        if text.kinds[text.at] == "HAVING":
            scope.group_keys = {}
        return
    text.expect("BY")
    if text.kinds[text.at] == "ALL":
        raise outside_language("ClauseNotAllowed: GROUP BY ALL; name the keys", text.position())
    found = text.listed(lambda: _group_key(ctx, items))
    places = {key.sql: place for key, place in found}
    scope.keys = keys = list({key.sql: key for key, _ in found}.values())
    scope.per_person = rows.is_per_person(scope.protected, keys, scope.equal)
    after = [qualified(GROUPS, f"__cr_k{index}") if scope.aggregates_persons else key.sql for index, key in enumerate(keys)]
    scope.group_keys = dict(zip((key.sql for key in keys), after, strict=True))
    rest = text.at  # a key may contain another one
    for key in sorted((key for key in keys if scope.aggregates_persons and not key.plain), key=lambda key: len(key.sql)):
        text.at = places[key.sql]
        scope.group_keys.setdefault(ctx.expression().sql, scope.group_keys[key.sql])
    text.at = rest
    if not scope.protected:
        exposure.check_condition(keys, ctx.catalog, "GROUP BY")
        return
    if not scope.per_person:
        exposure.choose_rows(keys, scope, ctx.catalog)
    if scope.per_person:  # how many rows a person has tells the values by which they are divided
        exposure.check_condition(exposure.comparable(keys, ctx.catalog), ctx.catalog, "GROUP BY")
    else:
        exposure.check_exposed([pair for key in keys for pair in key.exposed], "grouping by", ctx.catalog)


def _group_key(ctx: Context, items: Sequence[Item]) -> tuple[Value, int]:
    """A key, and the index of its first token; -1 for a column of ``*``."""
    text = ctx.text
    place = text.at
    with text.located(text.at):
        ordinal = _ordinal(text)
        if ordinal:
            item = items[_index(ordinal, len(items), "GROUP BY")]
            here, text.at, place = text.at, item.place, -1 if item.column else item.place
            value = item.column or ctx.expression()
            text.at = here
            ctx.findings.expand(len(value.sql))
        else:
            value = ctx.expression()
        if value.sql.isdecimal() or (not value.origins and not value.sources and value.degree == 0):
            raise Refusal("ClauseNotAllowed", "GROUP BY a constant has no meaning")
    return value, place


def _ordinal(text: Tokens) -> str:
    """Read the number of an output column that stands alone; empty if the key is something else."""
    if text.kinds[text.at] != NUMBER or not text.values[text.at].isdecimal() or text.continues(text.at + 1):
        return ""
    text.at += 1
    return text.values[text.at - 1]


def _index(ordinal: str, count: int, clause: str) -> int:
    """Index of the column that an ordinal of GROUP BY or ORDER BY means."""
    if not 1 <= int(ordinal) <= count:
        raise Refusal("ClauseNotAllowed", f"{clause} {ordinal}: the SELECT has {count} columns")
    return int(ordinal) - 1


def order_by(ctx: Context, outputs: Sequence[Output]) -> str:
    """Read ORDER BY, and return the rendered clause or nothing. It may name the output columns ``outputs``."""
    if not ctx.text.accept("ORDER"):
        return ""
    ctx.text.expect("BY")
    return "\nORDER BY " + ", ".join(ctx.text.listed(lambda: _sort_key(ctx, outputs) + direction(ctx.text)))


def _sort_key(ctx: Context, outputs: Sequence[Output]) -> str:
    with ctx.text.located(ctx.text.at):
        key, value = _sorted_by(ctx, outputs)
        # The order of the rows, and which of them LIMIT shows, tell the values by which they are sorted.
        exposure.check_condition([value], ctx.catalog, "ORDER BY")
    return key


def _sorted_by(ctx: Context, outputs: Sequence[Output]) -> tuple[str, Value]:
    text = ctx.text
    if ordinal := _ordinal(text):
        return ordinal, outputs[_index(ordinal, len(outputs), "ORDER BY")][1]
    if text.is_name(text.at) and not text.continues(text.at + 1):
        for name, value in reversed(outputs):
            if name.lower() == text.values[text.at].lower():
                text.at += 1
                return quote(name), value
    value = ctx.expression()
    if ctx.scope.group_keys is not None and value.ungrouped:
        raise Refusal("NotGrouped", "ORDER BY may read group keys and aggregates only")
    return next((quote(name) for name, output in reversed(outputs) if output.sql == value.sql), value.sql), value


def limit(text: Tokens) -> str:
    """Read LIMIT, and return the rendered clause or nothing."""
    if not text.accept("LIMIT"):
        return ""
    if text.kinds[text.at] != NUMBER or not text.values[text.at].isdecimal():
        raise Refusal("ClauseNotAllowed", "LIMIT takes a whole number", text.position())
    text.at += 1
    return f"\nLIMIT {text.values[text.at - 1]}"


def check_limit(order: str, limited: str, protected: Sequence[ProtectedInput], releases: Collection[Release], ctx: Context) -> None:
    """Refuse LIMIT that chooses some of the rows ``protected``, and record that it shows some groups of ``releases``."""
    rows.check_limit(protected, bool(limited))
    if releases and order and limited:
        ctx.findings.warn("OrderWithLimit", "ORDER BY with LIMIT shows only the first or last groups")
