"""GROUP BY, ORDER BY and LIMIT."""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.sql.checking.aggregates import direction
from cleanroom.sql.checking.columns import Item, Output
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.privacy.release import check_group_keys
from cleanroom.sql.privacy.rows import is_per_person
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote
from cleanroom.sql.text.remedies import outside_language
from cleanroom.sql.text.tokens import NUMBER, Tokens


def group_by(ctx: Context, items: Sequence[Item]) -> None:
    """Read GROUP BY and fill in the groups of the scope. HAVING without GROUP BY has one group."""
    scope, text = ctx.scope, ctx.text
    # The last word of an item is its alias, or names a column, which is looked up first.
    scope.aliases = {text.values[item.end - 1].lower(): item.place for item in items if item.column is None and item.end > item.place + 1}
    if not text.accept("GROUP"):
        if text.kinds[text.at] == "HAVING":
            scope.group_keys = set()
        return
    text.expect("BY")
    if text.kinds[text.at] == "ALL":
        raise outside_language("ClauseNotAllowed: GROUP BY ALL; name the keys", text.position())
    keys = [_group_key(ctx, items)]
    while text.accept(","):
        keys.append(_group_key(ctx, items))
    scope.keys = keys
    scope.group_text = "\nGROUP BY " + ", ".join(key.sql for key in keys)
    scope.group_keys = {key.sql for key in keys}
    if not scope.protected:
        check_condition(keys, ctx.catalog, "GROUP BY")
        return
    scope.per_person = is_per_person(scope.protected, keys, scope.equal)
    scope.plain_group_keys = [key.sql for key in keys if key.plain]
    if not scope.per_person:
        check_group_keys(keys, ctx.catalog)


def _group_key(ctx: Context, items: Sequence[Item]) -> Value:
    text = ctx.text
    with text.located(text.at):
        ordinal = _ordinal(text)
        if ordinal:
            item = items[_index(ordinal, len(items), "GROUP BY")]
            here, text.at = text.at, item.place
            value = item.column or ctx.expression()
            text.at = here
            ctx.findings.expand(len(value.sql))
        else:
            value = ctx.expression()
        if value.sql.isdecimal() or (not value.origins and not value.sources and value.degree == 0):
            raise Refusal("ClauseNotAllowed", "GROUP BY a constant has no meaning")
    return value


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
    text, parts = ctx.text, list[str]()
    if not text.accept("ORDER"):
        return ""
    text.expect("BY")
    while not parts or text.accept(","):
        with text.located(text.at):
            key, value = _sort_key(ctx, outputs)
            # The order of the rows, and which of them LIMIT shows, tell the values by which they are sorted.
            check_condition([value], ctx.catalog, "ORDER BY")
        parts.append(key + direction(text))
    return "\nORDER BY " + ", ".join(parts)


def _sort_key(ctx: Context, outputs: Sequence[Output]) -> tuple[str, Value]:
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
