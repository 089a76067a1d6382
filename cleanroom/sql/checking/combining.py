"""Values that are computed from other values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from sqlglot import exp

from cleanroom.sql.checking.nodes import position_of
from cleanroom.sql.model import Origin, Value
from cleanroom.sql.privacy.exposure import identity_misuse


def combine(
    sql: str,
    type: str,
    precedence: int,
    parts: Iterable[Value],
    node: exp.Expr,
    *,
    degree: int | None = None,
    identity: bool = False,
    scale: float = math.inf,
) -> Value:
    """A value computed from ``parts``.

    Args:
        sql: Rendered text.
        type: Type of the result.
        precedence: Precedence of the outermost operator.
        parts: Operands.
        node: The expression, for the position of a refusal.
        degree: Degree of the result, unless all parts are constants.
        identity: Identities may be operands; the result is then an identity as well.
        scale: Scale of the result.
    """
    out = Value(sql, type, precedence, scale)
    constant = True
    for part in parts:
        if part.identity:
            if not identity:
                refusal = identity_misuse(part.name)
                refusal.position = position_of(node)
                raise refusal
            out.identity = True
        constant = constant and part.degree == 0
        if part.origins:
            out.origins = out.origins | part.origins if out.origins else part.origins
        if part.exposed:
            out.exposed = out.exposed | part.exposed if out.exposed else part.exposed
        if part.sources:
            out.sources = out.sources | part.sources if out.sources else part.sources
        if part.outer_join_markers:
            out.outer_join_markers = out.outer_join_markers | part.outer_join_markers
        out.ungrouped = out.ungrouped or part.ungrouped
        out.aggregated = out.aggregated or part.aggregated
        out.windowed = out.windowed or part.windowed
        out.transformed = out.transformed or part.transformed
        out.mixed = out.mixed or part.mixed
        out.filled = out.filled or part.filled
        out.made_by_text = out.made_by_text or part.made_by_text
    out.degree = 0 if constant else degree
    if out.origins:
        out.origins = _computed(out.origins)
    return out


@lru_cache(maxsize=4096)
def _computed(origins: frozenset[Origin]) -> frozenset[Origin]:
    return frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in origins])
