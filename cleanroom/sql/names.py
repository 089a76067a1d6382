"""Names: which input column a name means, and what an author may call things."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlglot import exp

from cleanroom.sql.catalog import COLUMN_NAME, RELATION_NAME, Catalog
from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.functions import Functions
from cleanroom.sql.lexical import Refusal, strip_invisible
from cleanroom.sql.values import ATOM, Result, Scope, Value, quote

MAX_EXPANSION = 1024 * 1024
"""Characters that relations, aliases, ordinals, ``*`` and named windows of one query may stand for, each time that they are written out."""
MAX_REASONS = 50


class Names(Functions):
    """Mixin of the checker: aliases and columns."""

    catalog: Catalog
    expansion: int
    """Characters of :data:`MAX_EXPANSION` that are used up."""
    in_qualify: bool
    withheld: frozenset[tuple[str, str]]
    """View and column (lower case) of what no result may show, except identities, which have rules of their own."""
    trusted: bool
    """Reading the gate's own rendering: every column, no owner's rule."""
    uses: dict[tuple[str, str], set[str]]

    def expand(self, size: int, node: exp.Expr | None) -> None:
        """Counts what a short text stands for: without a limit, ``a + a AS b, b + b AS c, …`` doubles with every item."""
        self.expansion += size
        if self.expansion > MAX_EXPANSION:
            raise Refusal(
                "QueryTooLarge",
                f"the relations, aliases, ordinals, * and named windows of this query stand for more than {MAX_EXPANSION} characters; "
                "compute each part once, in a common table expression",
                position_of(node),
            )

    def _alias(self, node: exp.Expr, scope: Scope, fallback: str) -> str:
        alias = node.args.get("alias")
        if alias is not None:
            only(alias, "this", "columns")
        name = alias.name if alias is not None and alias.this is not None else fallback
        self.check_relation_name(name, node)
        if name.lower() in scope.sources:
            if alias is None and fallback in ("subquery", "values"):
                while name.lower() in scope.sources:
                    name += "_"
            else:
                raise Refusal("DuplicateAlias", f"two relations in one FROM are called {name}; give each its own alias", position_of(node))
        return name

    def _unique(self, name: str, scope: Scope) -> str:
        """``name``, or a variation that no enclosing SELECT uses: a reference then means one relation, whoever reads it."""
        taken = {source.alias.lower() for level in scope.chain() for source in level.sources.values()}
        unique, number = name, 2
        while unique.lower() in taken:
            unique, number = f"{name}_{number}", number + 1
        return unique

    def _alias_columns(self, node: exp.Expr) -> list[str]:
        alias = node.args.get("alias")
        names = [column.name for column in (alias.args.get("columns") or [])] if alias is not None else []
        for name in names:
            self.check_column_name(name, node)
        if len({name.lower() for name in names}) != len(names):
            raise Refusal("DuplicateColumn", "two columns have the same alias", position_of(node))
        return names

    def is_protected(self, name: str) -> bool:
        view = self.catalog.view(name)
        return view is not None and view.min_group_size > 0

    def check_unique(self, result: Result, what: str, node: exp.Expr) -> None:
        seen: set[str] = {field.name.lower() for field in result.fields}
        if len(seen) == len(result.fields):
            return
        seen.clear()
        for field in result.fields:
            if field.name.lower() in seen:
                raise Refusal("DuplicateColumn", f"{what} has two columns called {field.name}; alias one of them", position_of(node))
            seen.add(field.name.lower())

    def check_relation_name(self, name: str, node: exp.Expr) -> None:
        if not RELATION_NAME.fullmatch(name):
            raise Refusal("NameNotAllowed", f"{strip_invisible(name)[:120]!r} is not a plain name (letters, digits, _)", position_of(node))

    def check_column_name(self, name: str, node: exp.Expr) -> None:
        if not ((name.isidentifier() and name.isascii() and len(name) <= 128) or COLUMN_NAME.fullmatch(name)):
            raise Refusal(
                "NameNotAllowed",
                f"{strip_invisible(name)[:120]!r} is not a name that a column may have (printable ASCII)",
                position_of(node),
            )

    def record(self, value: Value) -> None:
        if self.trusted:
            return
        uses, context = self.uses, self.context
        for view, column, _ in value.origins:
            key = (view, column)
            if key in uses:
                uses[key].add(context)
            else:
                uses[key] = {context}

    def tie(self, node: exp.Expr, condition: Value, scope: Scope) -> None:
        """Remembers that ``condition`` compares columns of several relations, where one of them must not be shown."""
        if self.withheld and len(condition.sources) > 1 and not self.withheld.isdisjoint(condition.exposed):
            names = [(part.name, part.table or None) for part in node.find_all(exp.Column) if isinstance(part.this, exp.Identifier)]
            scope.ties.append(tuple(value for name, table in names if (value := self._lookup(name, table, scope, node)) is not None))

    def spread_ties(self, scope: Scope) -> None:
        """After FROM and WHERE: a column that is compared with a withheld one would show its values under another name."""
        aliases = frozenset(source.alias for source in scope.sources.values())
        ties_of: dict[int, list[int]] = {}
        for index, tie in enumerate(scope.ties):
            for value in tie:
                ties_of.setdefault(id(value), []).append(index)
        waiting = dict.fromkeys(range(len(scope.ties)))
        while waiting:
            tie = scope.ties[waiting.popitem()[0]]
            for value in tie:
                other = self._withheld_by(tie, value)
                if value.sources <= aliases and not other <= value.exposed:
                    value.exposed = value.exposed | other
                    waiting.update(dict.fromkeys(ties_of[id(value)]))

    def _withheld_by(self, tie: tuple[Value, ...], value: Value) -> frozenset[tuple[str, str]]:
        return frozenset(pair for other in tie if other.sources != value.sources for pair in other.exposed if pair in self.withheld)

    def column(self, node: exp.Expr, scope: Scope) -> Value:
        """The input column that a name means: the innermost SELECT that knows it, and an earlier alias of the same SELECT last."""
        only(node, "this", "table")
        identifier, table = node.this, node.args.get("table")
        if not isinstance(identifier, exp.Identifier):
            raise Refusal("ExpressionNotAllowed", "* is allowed only as an item of a SELECT and in COUNT(*)", position_of(node))
        name = str(identifier.args["this"])
        if table is not None and (source := scope.sources.get(table.args["this"].lower())) and (known := source.fields.get(name.lower())):
            return self._read(known, scope, scope)
        for level in scope.chain():
            found = self._lookup(name, table.name if table is not None else None, level, node)
            if found is not None:
                return self._read(found, scope, level)
            if level is scope and table is None and name.lower() in scope.aliases:
                return self.alias_value(name, scope, node)
        raise self._unknown(name, table.name if table is not None else None, scope, node)

    def alias_target(self, node: exp.Expr, scope: Scope) -> exp.Expr | None:
        plain = isinstance(node, exp.Column) and not node.args.get("table") and isinstance(node.this, exp.Identifier)
        if not plain or self.in_qualify or node.name.lower() not in scope.aliases:
            return None
        return scope.aliases[node.name.lower()] if self._lookup(node.name, None, scope, node) is None else None

    @contextmanager
    def without_alias(self, node: exp.Expr, scope: Scope) -> Iterator[exp.Expr]:
        """What the alias ``node`` stands for; inside, the name does not mean itself."""
        target = scope.aliases.pop(node.name.lower())
        try:
            yield target
        finally:
            scope.aliases[node.name.lower()] = target

    def alias_value(self, name: str, scope: Scope, node: exp.Expr) -> Value:
        """An alias of the same SELECT, as the expression that it stands for."""
        saved, self.in_qualify = self.in_qualify, False
        try:
            with self.without_alias(node, scope) as target:
                value = self.value(target, scope)
        finally:
            self.in_qualify = saved
        self.expand(len(value.sql), node)
        if self.in_qualify:  # Spark computes the SELECT list first
            value.sql, value.level = quote(name), ATOM
        return value

    def _read(self, found: Value, scope: Scope, level: Scope) -> Value:
        if not self.trusted:
            self.record(found)
        if level is not scope:
            for inner in scope.chain():
                if inner is level:
                    break
                inner.outer_reads.append(found)
        grouped = level.group_keys is not None and found.sql in level.group_keys
        if not grouped:
            return found
        out = Value.of_column(found.sql, found.type, found.name, found.sources, found.origins, found.exposed, found.degree)
        out.level, out.raw, out.joinable, out.free = found.level, found.raw, found.raw, False
        out.identity, out.matched, out.weight = found.identity, found.matched, found.weight
        return out

    def _lookup(self, name: str, table: str | None, scope: Scope, node: exp.Expr) -> Value | None:
        key = name.lower()
        if table is not None:
            source = scope.sources.get(table.lower()) or next(
                (s for s in scope.sources.values() if s.written.lower() == table.lower()), None
            )
            return source.fields.get(key) if source is not None else None
        if key in scope.merged:
            return scope.merged[key]
        found = [source.fields[key] for source in scope.sources.values() if key in source.fields]
        if len(found) > 1:
            raise Refusal(
                "AmbiguousColumn", f"{strip_invisible(name)[:80]} is in several relations; write alias.{name[:80]}", position_of(node)
            )
        return found[0] if found else None

    def _unknown(self, name: str, table: str | None, scope: Scope, node: exp.Expr) -> Refusal:
        shown = strip_invisible(name)[:120]
        for level in scope.chain():
            for source in level.sources.values():
                if (table is None or source.written.lower() == table.lower()) and name.lower() in source.hidden:
                    allowed = ", ".join(value.name for value in source.fields.values())
                    close = difflib.get_close_matches(name.lower(), list(source.fields), 1)
                    hint = f"did you mean {close[0]}? " if close else ""
                    return Refusal(
                        "ColumnNotAllowed",
                        f"the owner of {source.view} does not allow the column {shown!r}; {hint}allowed: {allowed}",
                        position_of(node),
                    )
        names = [value.name for level in scope.chain() for source in level.sources.values() for value in source.fields.values()]
        close = difflib.get_close_matches(name, names, 1)
        if table is not None and not any(table.lower() in level.sources for level in scope.chain()):
            return Refusal("UnknownRelation", f"there is no relation {strip_invisible(table)[:120]!r} here", position_of(node))
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(set(names))[:20])}"
        return Refusal("UnknownColumn", f"there is no column {shown!r}: {hint}", position_of(node))
