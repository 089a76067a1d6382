"""The query document: the exact SQL, the exact datasets, and everything else that an approval covers.

Shape: spec/execute.md A8 (``application.query`` is base64 of the segments' JSON). Ours is ``approval``: the versions and
digests of every dataset document at the time of the proposal, the run parameters that are allowed and the proposer. The
digest that approvers sign is :func:`cleanroom.identifiers.document_digest` of the whole document, so all of this is covered.
"""

from __future__ import annotations

import base64
import json
from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from cleanroom.documents.base import OurModel, WireModel
from cleanroom.documents.validation import parse_document
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name

QUERY_LABELS = {"type": "spark-application"}
MAX_SQL_BYTES = 256 * 1024


class PreCondition(WireModel):
    view_name: str
    min_row_count: int = Field(ge=0)


class PostFilter(WireModel):
    column_name: str
    value: int = Field(ge=0)


class QuerySegment(WireModel):
    execution_sequence: int = Field(ge=1)
    data: str = Field(min_length=1)
    """SQL of the segment, exactly as written."""
    pre_conditions: tuple[PreCondition, ...] | None = None
    post_filters: tuple[PostFilter, ...] | None = None


class QuerySegments(WireModel):
    segments: tuple[QuerySegment, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _last_is_one(self) -> QuerySegments:
        last = max(segment.execution_sequence for segment in self.segments)
        if sum(segment.execution_sequence == last for segment in self.segments) != 1:
            raise ValueError("the highest executionSequence must have exactly one segment: its rows are the result")
        if sum(len(segment.data.encode()) for segment in self.segments) > MAX_SQL_BYTES:
            raise ValueError(f"the SQL of all segments together is over {MAX_SQL_BYTES} bytes")
        return self


class InputDataset(WireModel):
    specification: Name
    """Document id of the dataset."""
    view: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")


class PinnedDocument(OurModel):
    """One dataset document as it stood when the query was proposed."""

    id: Name
    version: str
    digest: HexDigest
    owner_id: str
    """``proposerId`` of the dataset document: its owner in governance."""


class RunParameters(OurModel):
    """Bounds within which a run may choose; part of what is approved (T11). Where there are bounds, a run must name days within them."""

    date_range: bool = False
    earliest: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    latest: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")

    @model_validator(mode="after")
    def _bounds(self) -> RunParameters:
        for what, day in (("earliest", self.earliest), ("latest", self.latest)):
            try:
                date.fromisoformat(day or "2000-01-01")
            except ValueError:
                raise ValueError(f"{what} {day!r} is not a day of the calendar") from None
        if (self.earliest or self.latest) and not self.date_range:
            raise ValueError("earliest and latest bound a date range: dateRange must be true")
        if self.earliest and self.latest and self.earliest > self.latest:
            raise ValueError(f"earliest {self.earliest} is after latest {self.latest}")
        return self


class ApprovalScope(OurModel):
    """Ours: what makes the digest of this document cover more than the SQL."""

    collaboration: str
    proposer_id: str
    datasets: tuple[PinnedDocument, ...]
    """Inputs in order, then the output dataset."""
    parameters: RunParameters = RunParameters()


class Application(WireModel):
    application_type: Literal["Spark-SQL"] = "Spark-SQL"
    input_dataset: tuple[InputDataset, ...] = Field(min_length=1, max_length=20)
    output_dataset: InputDataset
    query: str

    def segments(self) -> QuerySegments:
        """The decoded segments.

        Raises:
            InvalidInput: ``InvalidQueryFormat``.
        """
        try:
            text = base64.b64decode(self.query, validate=True).decode("utf-8")
        except ValueError as error:
            raise InvalidInput("InvalidQueryFormat", "application.query: not base64 of UTF-8 JSON.", cause=str(error)) from error
        return parse_document(QuerySegments, text, code="InvalidQueryFormat", what="application.query")


class QueryDocument(WireModel):
    """What an analyst proposes and every dataset owner approves."""

    name: Name
    application: Application
    approval: ApprovalScope | None = None
    """None only in documents made by other tools; such a document is never run by us."""

    @model_validator(mode="after")
    def _unique_views(self) -> QueryDocument:
        views = [item.view.lower() for item in self.application.input_dataset]
        if len(set(views)) != len(views):
            raise ValueError("application.inputDataset: view names must be unique (without regard to case)")
        return self

    def to_data(self) -> str:
        """The document as the ``data`` string that governance holds."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False)


def encode_segments(segments: QuerySegments) -> str:
    """base64 of the segments' JSON, as ``application.query`` wants it."""
    text = json.dumps(segments.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def parse_query(data: str, *, document_id: str) -> QueryDocument:
    """Read a query document's ``data``.

    Raises:
        InvalidInput: ``QueryDocumentInvalid``.
    """
    return parse_document(QueryDocument, data, code="QueryDocumentInvalid", what=f"query {document_id}")
