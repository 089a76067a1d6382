"""Checks of the syntax tree: names, types and the owners' rules, and the rewritten text.

Each function renders its node from the checked parts and never copies the author's text. Operands get parentheses wherever SQL dialects
disagree on precedence, so that Spark cannot read a different tree than the one that was checked.

The functions are registered by the type of the node in the tables of :mod:`cleanroom.sql.checking.nodes`, and recursion goes through
these tables. Importing this package registers all of them. They share no state except the :class:`~cleanroom.sql.context.Context`
that they receive. Privacy rules are in :mod:`cleanroom.sql.privacy`.
"""

from cleanroom.sql.checking import aggregates, columns, expressions, queries, relations, selects

__all__ = ["aggregates", "columns", "expressions", "queries", "relations", "selects"]
