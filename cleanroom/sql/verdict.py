"""What the gate answers: a value, not an exception, so that a person, a workflow and the pod can all read the same verdict."""

from __future__ import annotations

import hashlib
from typing import Any

from cleanroom.documents.query import PostFilter, PreCondition
from cleanroom.models import CamelModel


class Position(CamelModel):
    """Where in the segment, counted from 1."""

    line: int
    column: int


class Reason(CamelModel):
    """One reason for a refusal. ``code`` is stable; ``segment`` is the index in the order given, from 0."""

    code: str
    message: str
    segment: int | None = None
    position: Position | None = None


class SourceUse(CamelModel):
    """An input column and the ways in which the query uses it (``join filter group sum count … output``, sorted)."""

    view: str
    column: str
    uses: tuple[str, ...]


class OutputLineage(CamelModel):
    """An output column and the input columns that its values come from."""

    name: str
    type: str
    sources: tuple[SourceUse, ...]


class AppliedFloor(CamelModel):
    """The floor that the rewrite enforces for one view: at least ``min_group_size`` distinct ``identity_column`` a row."""

    view: str
    owner: str | None = None
    identity_column: str
    min_group_size: int


class Lineage(CamelModel):
    """Column lineage of the whole query, in a deterministic order."""

    inputs: tuple[SourceUse, ...] = ()
    outputs: tuple[OutputLineage, ...] = ()
    floors: tuple[AppliedFloor, ...] = ()


class OutputColumn(CamelModel):
    """``type``: a field type of the documents, or ``float decimal smallint tinyint array interval null`` where Spark gives one of those."""

    name: str
    type: str


class RewrittenSegment(CamelModel):
    """A segment as it runs: ``sql`` is the gate's own rendering; ``view`` is the temporary view that it makes, if it makes one."""

    execution_sequence: int
    sql: str
    view: str | None = None
    pre_conditions: tuple[PreCondition, ...] = ()
    post_filters: tuple[PostFilter, ...] = ()


class GateVerdict(CamelModel):
    """The verdict over one query. ``rewritten``, ``lineage`` and ``output`` are empty where it is refused.

    ``required_columns``: for each view, the columns that must be loaded: the allowed ones, and the identity columns of its
    floors even where the query itself may not read them.
    """

    allowed: bool
    reasons: tuple[Reason, ...] = ()
    lineage: Lineage | None = None
    rewritten: tuple[RewrittenSegment, ...] = ()
    output: tuple[OutputColumn, ...] = ()
    required_columns: dict[str, tuple[str, ...]] = {}
    card: str = ""

    @property
    def sql(self) -> str:
        """All rewritten segments in execution order, separated by ``;``."""
        return ";\n".join(segment.sql for segment in self.rewritten)

    @property
    def card_digest(self) -> str:
        """SHA-256 of the card, hex: may be part of what an approver signs."""
        return hashlib.sha256(self.card.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What ``cleanroom query lint --output json`` prints: ``{allowed, reasons, lineage, rewritten, …}``; ``rewritten`` is one text."""
        data = self.model_dump(mode="json", by_alias=True)
        data["segments"] = data.pop("rewritten")
        data["rewritten"] = self.sql if self.allowed else None
        return data
