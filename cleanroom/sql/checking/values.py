"""Values that are computed from several others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from cleanroom.sql.model import NUMERIC_FACTS, Origin, Value
from cleanroom.sql.privacy.exposure import identity_misuse
from cleanroom.sql.privacy.rows import check_no_rows

_INHERITED = ("ungrouped", "aggregated", "windowed", *NUMERIC_FACTS)


def combine(
    sql: str,
    type: str,
    precedence: int,
    parts: Iterable[Value],
    *,
    degree: int | None = None,
    identity: bool = False,
    rows: bool = False,
) -> Value:
    """A value computed from ``parts``; ``degree`` is its degree unless all are constants.

    If ``identity``, identities may be operands, and the result is then an identity as well. If ``rows``, conditions on rows of persons
    may be, and the result is then such a condition.
    """
    out = Value(sql, type, precedence)
    constant, steps, read = True, set[str](), set[frozenset[str]]()
    for part in parts:
        if part.identity:
            if not identity:
                raise identity_misuse(part.name)
            out.identity = True
        if part.semi_join is not None:
            if not rows:
                check_no_rows(part.semi_join.protected)
            out.semi_join = out.semi_join or part.semi_join
        constant = constant and part.degree == 0
        out.origins |= part.origins
        out.exposed |= part.exposed
        out.sources |= part.sources
        if part.columns:
            out.columns |= part.columns
            out.mixed = max(out.mixed, part.mixed)
            read.add(part.columns)
        out.outer_join_markers |= part.outer_join_markers
        out.caps |= part.caps
        steps.add(part.step)
        for fact in _INHERITED:
            if getattr(part, fact):
                setattr(out, fact, True)
    if len(read) > 1:
        out.mixed = 2
    out.degree, out.step = 0 if constant else degree, " ".join(sorted(steps - {""}))
    if out.origins:
        out.origins = _computed(out.origins)
    return out


def compared(out: Value, parts: Iterable[Value]) -> Value:
    """``out``, which compares ``parts``, and combines them in no other way if they are dates, or the same column of two relations."""
    columns = [part for part in parts if part.columns]
    if all(part.day for part in columns) or {part.exposed if part.plain else None for part in columns} == {columns[0].exposed}:
        out.mixed = max([min(out.mixed, 1), *(part.mixed for part in columns)])
    return out


@lru_cache(maxsize=4096)
def _computed(origins: frozenset[Origin]) -> frozenset[Origin]:
    return frozenset([(view, column, "computed" if how == "value" else how) for view, column, how in origins])
