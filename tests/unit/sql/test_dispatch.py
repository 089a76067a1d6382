"""The allowlist of syntax nodes: an addition to it is deliberate."""

from __future__ import annotations

import pytest
from sqlglot import exp

from cleanroom.sql.checking.nodes import EXPRESSIONS, QUERIES, RELATIONS, checks_expression

ALLOWED = """
    Add And Anonymous Between BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Boolean Bracket Case Cast Column Concat CurrentDate
    CurrentTimestamp DPipe Div EQ Escape Exists Extract Filter GT GTE ILike IgnoreNulls In IntDiv Interval Is LT LTE Like Literal Mod
    Mul NEQ Neg Not Null NullSafeEQ NullSafeNEQ Or Overlay Paren RawString RegexpLike RespectNulls StrPosition Sub Subquery Substring
    Trim TryCast Window WithinGroup
"""


def test_only_these_kinds_of_nodes_are_allowed() -> None:
    assert {kind.__name__ for kind in EXPRESSIONS} == set(ALLOWED.split())
    assert set(RELATIONS) == {exp.Table, exp.Subquery, exp.Values, exp.Pivot}
    assert set(QUERIES) == {exp.Select, exp.Union, exp.Intersect, exp.Except, exp.Subquery, exp.Query}


def test_two_checks_of_one_kind_are_an_error() -> None:
    before = EXPRESSIONS[exp.Case]
    with pytest.raises(ValueError, match="two checks are registered for Case"):
        checks_expression(exp.Case)(before)
    assert EXPRESSIONS[exp.Case] is before
