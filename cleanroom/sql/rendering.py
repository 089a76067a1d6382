"""Text of the rewritten query: names, literals and parentheses."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cleanroom.sql.model import PREDICATE, Value

HIDDEN_COLUMN = "__cr_id_"
"""Prefix of the columns that carry identities through subqueries. The lexer rejects such names in an author's text."""
GROUPS = "__cr_g"
"""Alias of the groups of a release."""

_COLUMN = re.compile(r"'(?:[^'\\]|\\.)*'|(`[^`]*`[.]`[^`]*`)")
"""A literal, which may look like a column, or a column."""


def columns_in(text: str) -> list[str]:
    """The columns that a rendered expression names."""
    return [name for name in _COLUMN.findall(text) if name]


def quote(name: str) -> str:
    """``name`` as a quoted identifier. Names are checked to contain no backtick."""
    return f"`{name}`"


def qualified(alias: str, name: str) -> str:
    """Reference to the column ``name`` of the relation ``alias``."""
    return f"`{alias}`.`{name}`"


def text_literal(value: str) -> str:
    """``value`` as a Spark string literal."""
    out = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return f"'{out}'"


def parenthesised(value: Value, least: int) -> str:
    """The text of ``value``, in parentheses if its precedence is lower than ``least``."""
    return value.sql if value.precedence >= least else f"({value.sql})"


def conjunction(parts: Iterable[Value]) -> str:
    """``parts`` joined by AND."""
    return " AND ".join(parenthesised(part, PREDICATE) for part in parts)


def indent(text: str) -> str:
    """``text`` indented by two spaces. Rendered literals contain no line break."""
    return text.replace("\n", "\n  ")


def subquery(text: str) -> str:
    """``text`` in parentheses, on separate lines."""
    return f"(\n  {indent(text)}\n)"
