"""The gate's verdict: a value and not an exception, so that the CLI, workflows and pods can store and compare it."""

from __future__ import annotations

import hashlib
from typing import Any

from cleanroom.documents.query import PostFilter, PreCondition
from cleanroom.models import CamelModel


class Position(CamelModel):
    """Line and column in a segment, counted from 1."""

    line: int
    column: int


class Reason(CamelModel):
    """A reason for a refusal. ``code`` is stable; ``segment`` is the index of the segment as given, counted from 0."""

    code: str
    message: str
    segment: int | None = None
    position: Position | None = None


class Warning(CamelModel):
    """Something in an allowed query that an owner should look at before approving it. ``code`` is stable."""

    code: str
    message: str


class SourceUse(CamelModel):
    """An input column and how the query uses it: clauses (``join``, ``filter``, ``group``, ``output``, ...) and aggregates, sorted."""

    view: str
    column: str
    uses: tuple[str, ...]


class OutputLineage(CamelModel):
    """An output column and the input columns that its values are derived from."""

    name: str
    type: str
    sources: tuple[SourceUse, ...]


class AppliedFloor(CamelModel):
    """The floor that the rewritten query enforces for a view: at least ``min_group_size`` distinct ``identity_column`` per result row."""

    view: str
    owner: str | None = None
    identity_column: str
    min_group_size: int


class Lineage(CamelModel):
    """Column lineage of a query, in a deterministic order."""

    inputs: tuple[SourceUse, ...] = ()
    outputs: tuple[OutputLineage, ...] = ()
    floors: tuple[AppliedFloor, ...] = ()


class OutputColumn(CamelModel):
    """A column of the result.

    ``type`` is a field type of dataset documents, or one of ``float decimal smallint tinyint array interval null``.
    """

    name: str
    type: str


class RewrittenSegment(CamelModel):
    """A segment as it runs. ``sql`` is the gate's rendering; ``view`` is the temporary view that it creates, if any."""

    execution_sequence: int
    sql: str
    view: str | None = None
    pre_conditions: tuple[PreCondition, ...] = ()
    post_filters: tuple[PostFilter, ...] = ()


class GateVerdict(CamelModel):
    """The verdict on a query. ``rewritten`` and ``lineage`` are empty if the query is refused, and ``output`` if it could not be read.

    ``required_columns`` names the columns to load for each view: those that the query may read, and the identity columns of the
    floors even if the query may not read them.
    """

    allowed: bool
    reasons: tuple[Reason, ...] = ()
    lineage: Lineage | None = None
    rewritten: tuple[RewrittenSegment, ...] = ()
    output: tuple[OutputColumn, ...] = ()
    required_columns: dict[str, tuple[str, ...]] = {}
    warnings: tuple[Warning, ...] = ()
    card: str = ""

    @property
    def sql(self) -> str:
        """All rewritten segments in execution order, separated by ``;``."""
        return ";\n".join(segment.sql for segment in self.rewritten)

    @property
    def card_digest(self) -> str:
        """SHA-256 of the card, in hex."""
        return hashlib.sha256(self.card.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that ``cleanroom query lint --output json`` prints. Its ``rewritten`` is the text of all segments."""
        data = self.model_dump(mode="json", by_alias=True)
        data["segments"] = data.pop("rewritten")
        data["rewritten"] = self.sql if self.allowed else None
        return data
