"""Values that are computed from several others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from cleanroom.sql.model import Origin, Value
from cleanroom.sql.privacy.exposure import identity_misuse
from cleanroom.sql.privacy.rows import check_no_rows


def combine(
    sql: str,
    type: str,
    precedence: int,
    parts: Iterable[Value],
    *,
    degree: int | None = None,
    identity: bool = False,
    scale: float = math.inf,
) -> Value:
    """A value computed from ``parts``; ``degree`` is its degree unless all are constants.

    If ``identity``, identities may be operands, and the result is then an identity as well.
    """
    out = Value(sql, type, precedence, scale)
    constant = True
    for part in parts:
        if part.identity:
            if not identity:
                raise identity_misuse(part.name)
            out.identity = True
        if part.semi_join is not None:
            check_no_rows(part.semi_join.protected)
        constant = constant and part.degree == 0
        if part.origins:
            out.origins = out.origins | part.origins if out.origins else part.origins
        if part.exposed:
            out.exposed = out.exposed | part.exposed if out.exposed else part.exposed
        if part.sources:
            out.sources = out.sources | part.sources if out.sources else part.sources
        if part.outer_join_markers:
            out.outer_join_markers = out.outer_join_markers | part.outer_join_markers
        if part.ungrouped:
            out.ungrouped = True
        if part.aggregated:
            out.aggregated = True
        if part.windowed:
            out.windowed = True
        if part.transformed or part.mixed or part.filled or part.made_by_text or part.whole:
            for fact in ("transformed", "mixed", "filled", "made_by_text", "whole"):
                setattr(out, fact, getattr(out, fact) or getattr(part, fact))
    out.degree = 0 if constant else degree
    if out.origins:
        out.origins = _computed(out.origins)
    return out


@lru_cache(maxsize=4096)
def _computed(origins: frozenset[Origin]) -> frozenset[Origin]:
    return frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in origins])
