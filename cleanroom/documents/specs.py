"""The YAML files of datasets and queries that users write.

A query file contains its SQL inline (``sql``), as segments (``segments``), or by reference (``sqlFile``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from cleanroom.documents.base import OurModel
from cleanroom.documents.dataset import (
    MAX_COLUMNS,
    CsvDialect,
    DatasetSchema,
    EncryptionMode,
    FieldType,
    Format,
    ManifestRule,
    PrivacyFloors,
    SchemaField,
    policy_problems,
)
from cleanroom.documents.dataset_rules import (
    bucket_problem,
    column_problems,
    container_problem,
    reference_problem,
    repeated,
    subdirectory_problem,
)
from cleanroom.documents.query import (
    InputDataset,
    PostFilter,
    PreCondition,
    QuerySegment,
    QuerySegments,
    RunParameters,
    require_one_view_each,
)
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name, canonical_json, sha256_hex


def _checked(rule: Callable[[str], str | None]) -> AfterValidator:
    """Return a validator of a text from a function that returns its problem."""

    def check(value: str) -> str:
        if problem := rule(value):
            raise ValueError(problem)
        return value

    return AfterValidator(check)


Subdirectory = Annotated[str, _checked(subdirectory_problem)]


class BlobStoreSpec(OurModel):
    """A container in the storage account of the profile."""

    kind: Literal["azure-blob"]
    """Kind of the store. The profile's `azure.storage_account_url` is its account."""
    container: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$"), _checked(container_problem)]
    """Name of the container. `dataset upload` creates it."""
    subdirectory: Subdirectory = ""
    """Folder of the rows within the container. Each dataset has its own."""


class S3StoreSpec(OurModel):
    """A bucket at the endpoint and in the region of the profile."""

    kind: Literal["aws-s3"]
    """Kind of the store. The profile's `s3.endpoint_url` and `s3.region` are its address."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"), _checked(bucket_problem)]
    """Name of the bucket. `dataset upload` creates it if the key may."""
    subdirectory: Subdirectory = ""
    """Folder of the rows within the bucket. Each dataset has its own."""
    connection_secret: Annotated[str, _checked(reference_problem)]
    """Reference to the secret: ``secret:NAME`` in the profile, ``file:PATH`` or ``env:NAME``. The secret is a JSON object
    ``{"awsAccessKeyId", "awsSecretAccessKey"}``."""


class DatasetSpec(OurModel):
    """A dataset as its owner writes it."""

    name: Name
    """Name of the dataset in the collaboration."""
    format: Format
    """Format of its files."""
    columns: dict[str, FieldType] = Field(alias="schema", min_length=1)
    """Type of each column, in the order of the file. ``integer`` has 32 bits, ``long`` has 64, ``number`` is a double. Every column may
    be null. At most 500 columns, of printable ASCII names that differ by more than case."""
    access: Literal["read", "write"] = "read"
    """``read``: an input. ``write``: an output, which receives the results of queries."""
    allowed_columns: tuple[str, ...] | None = None
    """Columns that queries may read, or that a result may have if the dataset is an output. Default: all columns."""
    privacy: PrivacyFloors = PrivacyFloors()
    """The privacy floor, see below. Default: no floor."""
    partitioned_by: Literal["day"] | None = None
    """``day``: files are in folders ``yyyy-MM-dd``, and a run may select a range of days. Default: a run reads all files."""
    unique_columns: tuple[str, ...] | None = None
    """Columns whose values occur together in one row at most, such as an identity of which each person has one row."""
    csv_header: bool = True
    """Whether CSV files begin with a header line. Without one, the order of ``schema`` identifies the columns."""
    csv_dialect: CsvDialect | None = None
    """How CSV files deviate from RFC 4180, for inputs only. Default: they do not."""
    encryption: EncryptionMode = "CSE"
    """``CSE``: files are encrypted on the owner's machine. ``CPK``: the store encrypts with a key that each request contains. ``SSE``: the
    store encrypts with its own key, so its operator can read the rows."""
    manifest: ManifestRule | None = None
    """Whether rows need the manifest that `cleanroom dataset upload` writes. Default: ``required`` for inputs."""
    manifest_digest: HexDigest | None = None
    """Digest of the manifest if it is ``pinned``. Default: `cleanroom dataset publish` reads it from the store."""
    store: Annotated[BlobStoreSpec | S3StoreSpec, Field(discriminator="kind")]
    """Where the rows are, see below."""

    @model_validator(mode="after")
    def _rules(self) -> DatasetSpec:
        if problems := [*self._column_problems(), *self._manifest_problems()]:
            raise ValueError("; ".join(problems))
        return self

    def _column_problems(self) -> list[str]:
        problems = column_problems(self.columns)
        if len(self.columns) > MAX_COLUMNS:
            problems.append(f"schema has {len(self.columns)} columns; the maximum is {MAX_COLUMNS}")
        if self.csv_dialect is not None and self.format != "csv":
            problems.append(f"csvDialect needs format: csv, not {self.format}")
        if self.unique_columns == ():
            problems.append("uniqueColumns must name at least one column; leave it out if no columns are unique")
        if problems:
            return problems
        if self.allowed_columns == ():
            problems.append("allowedColumns must name at least one column; leave it out to allow all columns")
        lists = {"allowedColumns": self.allowed_columns}
        return problems + policy_problems(self.dataset_schema(), lists, self.privacy, self.access, privacy="privacy")

    def _manifest_problems(self) -> list[str]:
        problems = []
        if self.manifest_digest is not None and self.manifest != "pinned":
            problems.append("manifestDigest needs manifest: pinned")
        if self.manifest == "pinned" and (self.encryption != "CSE" or self.access != "read"):
            # If the store encrypts, only the store connects the bytes that are read to the manifest.
            problems.append("manifest: pinned needs access: read and encryption: CSE")
        return problems

    def dataset_schema(self) -> DatasetSchema:
        """Return the schema of the dataset document."""
        return DatasetSchema(
            format=self.format,
            fields=tuple(SchemaField(field_name=name, field_type=kind) for name, kind in self.columns.items()),
            partitioned_by=self.partitioned_by,
            csv_header=self.csv_header and self.format == "csv",
            csv_dialect=self.csv_dialect,
            unique_columns=self.unique_columns,
        )

    def manifest_rule(self) -> ManifestRule | None:
        """Return the rule for the dataset document; None for an output, unless the owner set one."""
        return (self.manifest or "required") if self.access == "read" else self.manifest

    def digest(self) -> str:
        """Return the digest that the owner's authorisation covers."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True)))


VIEW_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
MAX_QUERY_SPEC = 256 * 1024
"""Longest specification of a query in bytes of JSON. It is in messages whose size Temporal limits."""


class QuerySpec(OurModel):
    """A query as its author writes it."""

    name: Name
    """Name of the query in the collaboration."""
    inputs: dict[str, Name] = Field(min_length=1, max_length=200)
    """Dataset of each view. The SQL uses the names of the views: letters, digits and underscores."""
    output: Name
    """Output dataset, with ``access: write``. Its owner receives the result."""
    segments: tuple[QuerySegment, ...] = ()
    """Several statements, of which the last one produces the result. In place of ``sql`` and ``sqlFile``."""
    sql: str | None = None
    """The SQL text. In place of ``sqlFile`` and ``segments``."""
    sql_file: str | None = None
    """File with the SQL text, relative to this file. In place of ``sql`` and ``segments``."""
    pre_conditions: tuple[PreCondition, ...] | None = None
    """Conditions for a run, see below. With ``segments``, they are inside of a segment."""
    post_filters: tuple[PostFilter, ...] | None = None
    """Conditions for the rows of the result, see below. With ``segments``, they are inside of the last segment."""
    parameters: RunParameters = RunParameters()
    """The days that a run may select, see below. Default: a run selects no days."""

    @model_validator(mode="after")
    def _usable(self) -> QuerySpec:
        if problems := [*self._source_problems(), *self._view_problems()]:
            raise ValueError("; ".join(problems))
        return self

    def _source_problems(self) -> list[str]:
        given = [bool(self.segments), self.sql is not None, self.sql_file is not None]
        if sum(given) != 1:
            return ["set exactly one of sql, sqlFile and segments"]
        if self.segments and (self.pre_conditions or self.post_filters):
            return ["preConditions and postFilters must be inside of the segments"]
        if self.sql is not None and not self.sql.strip():
            return ["sql is empty"]
        if self.sql_file is None:
            try:
                self.to_segments()
            except ValidationError as error:
                return [describe_validation(error)]
        return []

    def _view_problems(self) -> list[str]:
        wrong = [view for view in self.inputs if not VIEW_NAME.fullmatch(view)]
        problems = [f"inputs: view {view[:80]!r} must have 1 to 64 letters, digits and underscores" for view in wrong]
        if twice := repeated(self.inputs):
            problems.append(f"inputs: view names must be unique, ignoring case; rename one of: {', '.join(twice)}")
        try:
            require_one_view_each(self.inputs.values())
        except ValueError as error:
            problems.append(str(error))
        if self.output in self.inputs.values():
            problems.append(f"output: {self.output} is also an input; a dataset is read or written")
        return problems

    @model_validator(mode="after")
    def _bounded(self) -> QuerySpec:
        size = len(self.model_dump_json().encode())
        if size > MAX_QUERY_SPEC:
            raise ValueError(f"the specification has {size} bytes, the maximum is {MAX_QUERY_SPEC}")
        return self

    def to_segments(self) -> QuerySegments:
        """Return the segments for the query document. :func:`load_query_spec` has replaced ``sqlFile`` by its content."""
        if self.segments:
            return QuerySegments(segments=self.segments)
        assert self.sql is not None
        one = QuerySegment(execution_sequence=1, data=self.sql, pre_conditions=self.pre_conditions, post_filters=self.post_filters)
        return QuerySegments(segments=(one,))

    def input_datasets(self) -> tuple[InputDataset, ...]:
        """Return the inputs for the query document."""
        return tuple(InputDataset(specification=dataset, view=view) for view, dataset in self.inputs.items())

    def digest(self) -> str:
        """Return the digest that the author's authorisation covers."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True)))


def load_dataset_spec(path: Path) -> DatasetSpec:
    """Load the YAML file of a dataset.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``YamlMalformed`` with line and column, ``DatasetSpecInvalid`` with member and rule.
    """
    # Imported on use: the YAML parser takes a third of the start of a command that has no file to read.
    from cleanroom.documents.yaml_files import load_yaml

    try:
        return load_yaml(DatasetSpec, path, "DatasetSpecInvalid")
    except InvalidInput as error:
        raise _of_other_kind(error, path, "DatasetSpecInvalid", "dataset", "query", QuerySpec) from error


def load_query_spec(path: Path) -> QuerySpec:
    """Load the YAML file of a query, and its SQL file from a path relative to the YAML file.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``YamlMalformed``, ``QuerySpecInvalid``.
    """
    from cleanroom.documents.yaml_files import load_yaml, read_text

    try:
        spec = load_yaml(QuerySpec, path, "QuerySpecInvalid")
    except InvalidInput as error:
        raise _of_other_kind(error, path, "QuerySpecInvalid", "query", "dataset", DatasetSpec) from error
    if spec.sql_file is None:
        return spec
    text = read_text(path.parent / spec.sql_file)
    try:
        return QuerySpec.model_validate(spec.model_dump() | {"sql": text, "sql_file": None})
    except ValidationError as error:
        raise InvalidInput("QuerySpecInvalid", f"{path}: {describe_validation(error)}.") from error


def _of_other_kind(error: InvalidInput, path: Path, code: str, kind: str, other: str, model: type[BaseModel]) -> InvalidInput:
    """Return the error for a file that is a valid one of the other kind, or ``error``."""
    from cleanroom.documents.yaml_files import load_yaml

    if error.code != code:
        return error
    try:
        load_yaml(model, path, code)
    except InvalidInput:
        return error
    return InvalidInput(
        code, f"{path}: is the file of a {other}, and this command reads that of a {kind}.", hint=f"Name the {kind}'s file."
    )
