"""Relations of a FROM clause, joins, LATERAL VIEW, and the conditions that make columns equal.

A relation is a view of the catalogue, an earlier temporary view or common table expression of the same query, or a subquery. A name with
several parts is never a relation: in Spark it could read a file (``csv.`/path```) or another catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from cleanroom.sql.catalog import View
from cleanroom.sql.checking.columns import alias_of, check_column_name, check_distinct_columns, column_names, unique_alias
from cleanroom.sql.checking.expressions import condition
from cleanroom.sql.checking.values import combine
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, PREDICATE, ROWS, CheckedQuery, Equality, ProtectedInput, Relation, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.exposure import check_condition, choose_rows
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import conjunction, qualified, quote, subquery
from cleanroom.sql.text.remedies import outside_language, suggestion
from cleanroom.sql.vocabulary import FUNCTIONS

_EXPANSION_PER_COLUMN = 8
"""Characters that each column of a relation counts for; see :data:`cleanroom.sql.context.MAX_EXPANSION`."""
_JOINS = {
    "JOIN": "JOIN", "INNER JOIN": "JOIN", ",": "CROSS JOIN", "CROSS JOIN": "CROSS JOIN", "LEFT JOIN": "LEFT JOIN",
    "LEFT OUTER JOIN": "LEFT JOIN", "RIGHT JOIN": "RIGHT JOIN", "RIGHT OUTER JOIN": "RIGHT JOIN", "FULL JOIN": "FULL JOIN",
    "FULL OUTER JOIN": "FULL JOIN", "LEFT SEMI JOIN": "LEFT SEMI JOIN", "SEMI JOIN": "LEFT SEMI JOIN", "LEFT ANTI JOIN": "LEFT ANTI JOIN",
    "ANTI JOIN": "LEFT ANTI JOIN",
}  # fmt: skip
"""Keywords of the rendered join, by those of the author."""
_SPLIT = re.compile(r"SPLIT\(`[^`]*`[.]`[^`]*`, '(?:[^'\\]|\\.)*'\)")
"""The parts of a column."""
_JOIN_WORDS = {word for words in _JOINS for word in words.split()}


def _relation(ctx: Context) -> Relation:
    """Read a relation and add it to the scope."""
    text, scope = ctx.text, ctx.scope
    with text.located(text.at):
        if text.kinds[text.at] == "(":
            return _derived_table(ctx)
        if text.kinds[text.at] == "LATERAL":
            how = "LATERAL is not allowed in FROM; a query in FROM stands in parentheses and has an alias, and LATERAL VIEW follows it"
            raise Refusal("RelationNotAllowed", how)
        name = text.name()
        if text.accept("."):
            how = "a relation is one plain name; files, formats and catalogues cannot be read"
            raise Refusal("MultiPartName", f"{f'{name}.{text.values[text.at]}'[:120]!r}: {how}", text.position())
        if text.kinds[text.at] == "(":
            raise Refusal(
                "TableFunctionNotAllowed",
                "a table function (range, unnest …) is not allowed as a relation; write LATERAL VIEW EXPLODE(array) t AS column",
            )
        written = text.alias()
        if text.kinds[text.at] == "(":
            raise Refusal("ClauseNotAllowed", "column aliases after the name of a relation are not allowed")
        query, view = ctx.relations.get(name.lower()), ctx.catalog.view(name)
        if query is not None:
            relation = _add_query(alias_of(scope, written, name), query, ctx)
        elif view is not None:
            relation, name = _add_query(alias_of(scope, written, view.name), _rows_of(view), ctx), view.name
            relation.view, relation.forbidden = name, frozenset([column.name.lower() for column in view.columns]) - relation.columns.keys()
            ctx.findings.uses.setdefault((name.lower(), ROWS), set()).add("rows")
        else:
            known = sorted([view.name for view in ctx.catalog.views] + list(ctx.relations))
            hint = suggestion(name, known, otherwise=f"the query may read {', '.join(known)}")
            raise text.construct(text.at - 1) or Refusal("UnknownRelation", f"unknown view {name[:120]!r}: {hint}")
        relation.text = f"{quote(name)} AS {quote(relation.alias)}"
        return relation


def _derived_table(ctx: Context) -> Relation:
    """``(SELECT ...) AS t``. It may read columns of enclosing queries, but not of its neighbours in FROM."""
    text, scope = ctx.text, ctx.scope
    if not text.begins_query(text.at + 1) and text.kinds[text.at + 1] != "(":
        how = "a join in parentheses, or a name, is not allowed in FROM; write it without them, or as a subquery with an alias"
        raise text.construct(text.at + 1) or Refusal("RelationNotAllowed", how)
    text.at += 1
    query = ctx.query(scope.parent, True)
    text.expect(")")
    written = text.alias()
    if columns := column_names(text):
        query = renamed(query, columns)
    relation = _add_query(alias_of(scope, written, "subquery"), query, ctx)
    relation.text = f"{subquery(query.sql)} AS {quote(relation.alias)}"
    return relation


def _rows_of(view: View) -> CheckedQuery:
    """The rows of an input view. Each is about the persons that its identity columns name."""
    identities = view.identity_columns if view.min_group_size > 0 else ()
    key, fields = view.name.lower(), list[Value]()
    for column in view.visible():
        name = column.name.lower()
        field = Value("", column.type, degree=1, origins=frozenset([(key, name, "value")]), exposed=frozenset([(key, name)]), plain=True)
        field.name, field.identity, field.day = column.name, name in identities, column.type in ("date", "timestamp")
        fields.append(field)
    exact = {column.name.lower(): column.name for column in view.columns}
    protected = [ProtectedInput(key, name, exact[name]) for name in identities]
    return CheckedQuery("", fields, protected, views=frozenset([key]), unique_on=view.unique_on)


def _add_query(written: str, query: CheckedQuery, ctx: Context) -> Relation:
    """Add the rows of a view or a checked query to the scope."""
    scope = ctx.scope
    alias = unique_alias(written, scope)
    ctx.findings.expand(_EXPANSION_PER_COLUMN * len(query.fields))
    source = frozenset([alias])
    columns = {field.name.lower(): field.as_column(qualified(alias, field.name), field.name, source) for field in query.fields}
    relation = Relation(alias, written, columns, unique_on=query.unique_on)
    scope.add(relation)
    for item in query.protected:
        # The column that shows the identity, if the query has one, so that it can be joined on and grouped by.
        column = item.reference if item.output_position is None else query.fields[item.output_position].name
        scope.protected.append(ProtectedInput(item.view, item.identity_column, qualified(alias, column), partial=item.partial))
    scope.overlapping = scope.overlapping or query.overlapping
    scope.repeats, scope.chooses = scope.repeats or query.repeats, scope.chooses or query.chooses
    scope.releases |= query.releases
    scope.views |= query.views
    return relation


def renamed(query: CheckedQuery, names: list[str]) -> CheckedQuery:
    """``query`` with other column names."""
    if len(names) != len(query.fields):
        raise Refusal("ClauseNotAllowed", f"{len(names)} column names for {len(query.fields)} columns")
    check_distinct_columns(query, "the query")
    columns = [(field.name, name) for field, name in zip(query.fields, names, strict=True)]
    columns += [(item.reference, item.reference) for item in query.protected]
    items = ",\n  ".join(f"`renamed`.{quote(old)} AS {quote(new)}" for old, new in columns)
    fields = [field.copy() for field in query.fields]
    for field, name in zip(fields, names, strict=True):
        field.name = name
    new_names = {old.lower(): new.lower() for old, new in columns}
    unique_on = None if query.unique_on is None else frozenset([new_names[name] for name in query.unique_on])
    return replace(query, sql=f"SELECT\n  {items}\nFROM {subquery(query.sql)} AS `renamed`", fields=fields, unique_on=unique_on)


Source = list[str | Relation]
"""A FROM clause: its text, with the relations in their places until the checks know whether their rows must be made unique."""


def from_clause(ctx: Context) -> Source:
    """Read the FROM clause of a SELECT with its joins and lateral views, or nothing. Fills in the scope."""
    text = ctx.text
    if not text.accept("FROM"):
        return []
    source: Source = ["\nFROM ", _relation(ctx)]
    while text.kinds[text.at] in _JOIN_WORDS:
        with text.located(text.at):
            end = text.at + 1
            while text.kinds[end - 1] not in ("JOIN", ",") and text.kinds[end] in _JOIN_WORDS:
                end += 1
            words = " ".join(text.kinds[text.at : end])
            if words not in _JOINS:
                raise Refusal("JoinNotAllowed", f"{words} is not in the language of queries; write JOIN … ON or LEFT JOIN … ON")
            text.at = end
            source += _join(_JOINS[words], ctx)
    while text.accept("LATERAL"):
        with text.located(text.at - 1):
            source.append(_lateral_view(ctx))
    return source


def written_out(source: Source, enforce: Mapping[str, Sequence[str]]) -> str:
    """The text of a FROM clause. The rows of the relations in ``enforce`` are made unique on the given columns."""
    for relation in source:
        if isinstance(relation, Relation) and (key := enforce.get(relation.alias)):
            shown = ",\n  ".join(f"{qualified(relation.alias, value.name)} AS {quote(value.name)}" for value in relation.columns.values())
            inner = f"SELECT\n  {shown}\nFROM {relation.text}\nQUALIFY COUNT(*) OVER (PARTITION BY {', '.join(key)}) = 1"
            relation.text = f"{subquery(inner)} AS {quote(relation.alias)}"
    return "".join(part if isinstance(part, str) else part.text for part in source)


def _join(word: str, ctx: Context) -> Source:
    """Read the rest of a join of the kind ``word``."""
    scope, text = ctx.scope, ctx.text
    left, left_protected, visible = list(scope.relations.values()), len(scope.protected), scope.visible
    right, found = _relation(ctx), scope.equal.found
    joined = _Joined(word, right.alias)
    first = len(found)
    using, conditions, merged = list[str](), list[Value](), list[Value]()
    if word != "CROSS JOIN" and text.accept("USING"):
        if text.kinds[text.at : text.at + 2] == ["(", ")"]:
            raise Refusal("Unparsable", "USING names the columns that both sides have")
        using = column_names(text)
        for name in using:
            equality, value = _using(name, visible, right, joined, ctx)
            conditions.append(equality)
            merged.append(value)
    elif word != "CROSS JOIN" and text.accept("ON"):
        conditions = conjuncts(ctx, joined)
    if not conditions and word != "CROSS JOIN":
        if text.continues(text.at):
            raise text.unexpected()
        raise outside_language(f"ExpressionNotAllowed: a {word} without ON; write ON or USING, or CROSS JOIN", text.position())
    optional = frozenset[str]()
    if word in ("LEFT JOIN", "RIGHT JOIN"):
        optional = frozenset([right.alias] if word == "LEFT JOIN" else [relation.alias for relation in left])
        found[first:] = [equality._replace(restricts=optional) for equality in found[first:]]
        # Whether a row has columns of the optional side, or NULL, depends on the columns of both sides.
        scope.chooses = scope.chooses or sum(not condition.sources <= optional for condition in conditions) > 1
    _protect_rows(word, left, left_protected, right, conditions, ctx)
    if word in ("LEFT SEMI JOIN", "LEFT ANTI JOIN"):
        del scope.relations[right.written_alias.lower()]
    else:
        visible = [*visible, *right.columns.values()]
    names = {name.lower() for name in using}
    scope.show([*merged, *(value for value in visible if value.name.lower() not in names)])
    on = conjunction(conditions)
    if scope.protected and word in ("LEFT JOIN", "RIGHT JOIN"):
        compared = [value for pair in found[first:] for value in (pair.first, pair.second)]
        on += "".join(f" AND {text} IS NOT NULL" for text in rows.optional_identities(scope, optional, compared))
    if word == "JOIN":
        scope.joins[right.alias] = conditions
    return [f"\n{word} ", right, f" ON {on}" if on else ""]


def _protect_rows(
    word: str, left: Sequence[Relation], left_protected: int, right: Relation, conditions: Sequence[Value], ctx: Context
) -> None:
    """Apply the privacy rules to a join; ``left_protected`` of the scope's protected inputs are on its left side."""
    scope = ctx.scope
    optional = [right] if word == "LEFT JOIN" else left if word == "RIGHT JOIN" else []
    values = [value for relation in optional for value in relation.columns.values()]
    for value in values:
        value.made_by_text = True
    if not scope.protected:
        return
    texts = {condition.sql for condition in conditions}
    pairs = [(found.first, found.second) for found in scope.equal.found if found.plain]
    pairs = [pair for pair in pairs if f"{pair[0].sql} = {pair[1].sql}" in texts]
    sides = scope.protected[:left_protected], scope.protected[left_protected:]
    scope.protected, marker = rows.join_rows(word, *sides, pairs, [relation.alias for relation in optional])
    for value in values if marker else ():
        value.outer_join_markers |= {marker}


def _using(name: str, left: Sequence[Value], right: Relation, joined: _Joined, ctx: Context) -> tuple[Value, Value]:
    """Condition of a column of USING, and the merged column."""
    key = name.lower()
    found = [value for value in left if value.name.lower() == key]
    if len(found) != 1:
        code = "AmbiguousColumn" if found else "UnknownColumn"
        raise Refusal(code, f"USING ({name[:80]}): the left side has {len(found)} such columns")
    if key not in right.columns:
        raise Refusal("UnknownColumn", f"USING ({name[:80]}): {right.alias} has no such column")
    first, second = found[0], right.columns[key]
    out = combine(f"{first.sql} = {second.sql}", "boolean", PREDICATE, [first, second], identity=True)
    out.identity = False
    check_condition([out], ctx.catalog, f"USING ({name[:80]})", joins_persons=first.identity or second.identity)
    _record_equality(first, second, ctx, joined)
    if not (first.plain and second.plain):
        choose_rows([out], ctx.scope, ctx.catalog)
    ctx.record(first)
    ctx.record(second)
    if joined.word != "FULL JOIN":
        return out, second if joined.word == "RIGHT JOIN" else first
    value = combine(f"COALESCE({first.sql}, {second.sql})", first.type, ATOM, [first, second], identity=True)
    value.name = first.name
    return out, value


# -- conditions -------------------------------------------------------------------------------------------------------


class _Joined(NamedTuple):
    """A join, whose conditions make columns equal."""

    word: str
    right: str  # alias of the relation on its right side

    def makes_equal(self, first: Value, second: Value) -> bool:
        """Whether an equality among its conditions holds where both columns are present.

        An outer join keeps rows of its other side that do not meet its conditions. A semi join or an anti join keeps no columns of its
        right side, and a FULL JOIN keeps the rows of both sides.
        """
        sides = [value.sources == {self.right} for value in (first, second)]
        return self.word == "JOIN" or (self.word in ("LEFT JOIN", "RIGHT JOIN") and any(sides))


def conjuncts(ctx: Context, joined: _Joined | None = None) -> list[Value]:
    """Read the conditions of a join, or else of WHERE, and record which columns they make equal."""
    start = ctx.text.at
    whole = condition(ctx)
    if ctx.text.continues(ctx.text.at):
        raise ctx.text.unexpected()
    parts = list(whole.parts) if whole.operator == "AND" else [whole]
    with ctx.text.located(start):
        for part in parts:
            joins_persons = False
            if part.semi_join is not None:
                rows.semi_join(part.semi_join, ctx.scope, joined is None or joined.word == "JOIN")
            elif part.operator == "=":
                first, second = part.parts
                rows.check_identities(first, second)
                joins_persons = first.identity or second.identity
                _record_equality(first, second, ctx, joined)
            check_condition([part], ctx.catalog, joins_persons=joins_persons)
            if not (part.operator == "=" and all(side.plain for side in part.parts) and rows.joins_relations(*part.parts)):
                choose_rows([part], ctx.scope, ctx.catalog)
    return parts


def _record_equality(first: Value, second: Value, ctx: Context, joined: _Joined | None) -> None:
    """Record that two columns of different relations are equal in every row, or where both are present."""
    if rows.joins_relations(first, second) and (joined is None or joined.makes_equal(first, second)):
        ctx.scope.equal.record(Equality(first, second, in_every_row=joined is None or joined.word == "JOIN"))


# -- LATERAL VIEW -----------------------------------------------------------------------------------------------------


def _lateral_view(ctx: Context) -> str:
    """Read ``VIEW explode(array) t AS column`` after LATERAL."""
    text, scope = ctx.text, ctx.scope
    text.expect("VIEW")
    outer = "OUTER " if text.accept("OUTER") else ""
    name = text.kinds[text.at]
    if name not in FUNCTIONS or FUNCTIONS[name].kind != "generator":
        raise Refusal("RelationNotAllowed", "only LATERAL VIEW explode(…) and posexplode(…) are allowed")
    text.at += 1
    text.expect("(")
    value = ctx.in_clause("explode").expression()
    if text.kinds[text.at] == ",":
        raise Refusal("WrongArguments", f"{name} takes one array")
    text.expect(")")
    if value.type != "array":
        raise Refusal("TypeNotAllowed", f"{name} needs an array (split, collect_list, array …), not {value.type}")
    check_condition([value], ctx.catalog, name)
    if scope.protected:
        stored = [column.sql for column in scope.visible if column.plain and _SPLIT.fullmatch(value.sql) and column.sql in value.sql]
        rows.check_array(stored)
    alias = text.name() if text.is_alias(text.at) else "exploded"
    text.accept("AS")
    columns = text.listed(text.name)
    expected = 2 if name.startswith("POS") else 1
    if len(columns) != expected:
        raise Refusal("ClauseNotAllowed", f"LATERAL VIEW {name.lower()}(…) needs AS with {expected} column name(s)")
    written = alias_of(scope, alias, "exploded")
    relation = Relation(unique_alias(written, scope), written, {})
    for column in columns:
        check_column_name(column)
        kind = "integer" if expected == 2 and not relation.columns else "string"
        exploded = combine(qualified(relation.alias, column), kind, ATOM, [value])
        exploded.name, exploded.plain, exploded.ungrouped = column, True, True
        exploded.sources, exploded.degree = frozenset([relation.alias]), 1
        relation.columns[column.lower()] = exploded
    scope.add(relation)
    if scope.protected:
        scope.exploded.add(relation.alias)
        scope.overlapping = True
    return f"\nLATERAL VIEW {outer}{name}({value.sql}) {quote(relation.alias)} AS {', '.join(map(quote, columns))}"
