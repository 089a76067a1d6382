"""The query document: the SQL, the datasets, and everything else that an approval covers.

The format is that of the Azure clean room tools (https://github.com/Azure/azure-cleanroom): ``application.query`` is base64 of the
segments' JSON. This project adds ``approval``: the versions and digests of the dataset documents, the allowed run parameters, and
the proposer. Approvers sign :func:`cleanroom.identifiers.document_digest` of the whole document, so an approval covers all of it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import date
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cleanroom.documents.base import OurModel, WireModel
from cleanroom.documents.dataset_rules import repeated
from cleanroom.documents.validation import parse_document
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name

QUERY_LABELS = {"type": "spark-application"}
MAX_SQL_BYTES = 256 * 1024


class PreCondition(WireModel):
    """Minimum number of rows of a view, checked before a segment runs."""

    view_name: str
    """A view of the query."""
    min_row_count: int = Field(ge=0)
    """The run fails if the view has fewer rows."""


class PostFilter(WireModel):
    """Minimum value of a result column. Rows below it are dropped."""

    column_name: str
    """A numeric column of the result, in its exact spelling."""
    value: int = Field(ge=0)
    """Rows in which the column is below this number are dropped."""


class QuerySegment(WireModel):
    """One statement of a query."""

    execution_sequence: int = Field(ge=1)
    """Segments run in ascending order. Exactly one has the highest number."""
    data: str = Field(min_length=1)
    """The SQL as its author wrote it."""
    pre_conditions: tuple[PreCondition, ...] | None = None
    """Conditions that hold before the segment runs."""
    post_filters: tuple[PostFilter, ...] | None = None
    """Conditions for the rows of the result."""


class QuerySegments(WireModel):
    """The statements of a query. The segment with the highest sequence number produces the result."""

    segments: tuple[QuerySegment, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _last_is_one(self) -> QuerySegments:
        last = max(segment.execution_sequence for segment in self.segments)
        if sum(segment.execution_sequence == last for segment in self.segments) != 1:
            raise ValueError("exactly one segment must have the highest executionSequence: its rows are the result")
        if sum(len(segment.data.encode()) for segment in self.segments) > MAX_SQL_BYTES:
            raise ValueError(f"the SQL of all segments is longer than {MAX_SQL_BYTES} bytes")
        return self


def require_one_view_each(datasets: Iterable[str]) -> None:
    """Require that no dataset is an input twice: the privacy floors combine the aggregations of one view, and not of two.

    Raises:
        ValueError: A dataset has two views.
    """
    if twice := repeated(datasets):
        raise ValueError(f"inputs: {', '.join(twice)} has two views; keep one, and give it aliases in the SQL (FROM view a JOIN view b)")


class InputDataset(WireModel):
    """A dataset, and the view name under which the SQL uses it."""

    specification: Name
    """Document ID of the dataset."""
    view: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")


class PinnedDocument(OurModel):
    """Version and digest of a dataset document when the query document was generated."""

    id: Name
    version: str
    digest: HexDigest
    owner_id: str
    """User ID of the owner: ``proposerId`` of the dataset document in governance."""


class RunParameters(OurModel):
    """The date ranges that a run may select. If there are bounds, a run must select days within them."""

    date_range: bool = False
    """Whether `cleanroom run start` may select days of inputs with ``partitionedBy: day``."""
    earliest: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """First day that a run may read. With a bound, every run must name its days."""
    latest: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """Last day that a run may read."""

    @field_validator("earliest", "latest", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        # YAML reads 2013-01-31 without quotes as a date.
        return value.isoformat() if type(value) is date else value

    @model_validator(mode="after")
    def _bounds(self) -> RunParameters:
        for what, day in (("earliest", self.earliest), ("latest", self.latest)):
            try:
                date.fromisoformat(day or "2000-01-01")
            except ValueError:
                raise ValueError(f"{what} {day!r} is not a valid date") from None
        if (self.earliest or self.latest) and not self.date_range:
            raise ValueError("earliest and latest need dateRange: true")
        if self.earliest and self.latest and self.earliest > self.latest:
            raise ValueError(f"earliest {self.earliest} is after latest {self.latest}")
        return self


class ApprovalScope(OurModel):
    """What an approval covers besides SQL and dataset names. An addition of this project."""

    collaboration: str
    proposer_id: str
    datasets: tuple[PinnedDocument, ...]
    """Inputs in order, then the output dataset."""
    parameters: RunParameters = RunParameters()


class Application(WireModel):
    """Datasets and SQL of a query."""

    application_type: Literal["Spark-SQL"] = "Spark-SQL"
    input_dataset: tuple[InputDataset, ...] = Field(min_length=1, max_length=200)
    output_dataset: InputDataset
    query: str

    def segments(self) -> QuerySegments:
        """Decode ``query``.

        Raises:
            InvalidInput: ``InvalidQueryFormat``.
        """
        try:
            text = base64.b64decode(self.query, validate=True).decode("utf-8")
        except ValueError as error:
            raise InvalidInput("InvalidQueryFormat", "application.query: not base64 of UTF-8 JSON.", cause=str(error)) from error
        return parse_document(QuerySegments, text, code="InvalidQueryFormat", what="application.query")


class QueryDocument(WireModel):
    """The document that a proposer proposes and that the owners of all its datasets approve."""

    name: Name
    application: Application
    approval: ApprovalScope | None = None
    """None only in documents of other tools. The clean room does not run these."""

    @model_validator(mode="after")
    def _unique_inputs(self) -> QueryDocument:
        views = [item.view.lower() for item in self.application.input_dataset]
        if len(set(views)) != len(views):
            raise ValueError("application.inputDataset: view names must be unique, ignoring case")
        require_one_view_each(item.specification for item in self.application.input_dataset)
        return self

    def to_data(self) -> str:
        """Return the document as the ``data`` string in governance."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False)


def encode_segments(segments: QuerySegments) -> str:
    """Encode segments as the value of ``application.query``."""
    text = json.dumps(segments.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def parse_query(data: str, *, document_id: str) -> QueryDocument:
    """Parse the ``data`` string of a query document.

    Raises:
        InvalidInput: ``QueryDocumentInvalid``.
    """
    return parse_document(QueryDocument, data, code="QueryDocumentInvalid", what=f"query {document_id}")
