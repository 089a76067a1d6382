"""What people write: the YAML of a dataset and of a query, validated on the way in with errors that name the member.

A query file may hold its SQL inline (``sql:``), as segments (``segments:``) or by reference (``sqlFile:``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cleanroom.documents.base import OurModel
from cleanroom.documents.dataset import EncryptionMode, FieldType, Format, ManifestRule, PrivacyFloors
from cleanroom.documents.query import InputDataset, PostFilter, PreCondition, QuerySegment, QuerySegments, RunParameters
from cleanroom.documents.yaml_files import load_yaml, read_text
from cleanroom.identifiers import HexDigest, Name, canonical_json, sha256_hex


class BlobStoreSpec(OurModel):
    """A container of the storage account that the profile names."""

    kind: Literal["azure-blob"]
    container: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")
    subdirectory: str = ""


class S3StoreSpec(OurModel):
    """A bucket; the endpoint and region are the profile's unless given here."""

    kind: Literal["aws-s3"]
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    subdirectory: str = ""
    connection_secret: str = Field(min_length=1)
    """Reference, never the secret: ``secret:NAME`` of the profile, ``file:PATH`` or ``env:NAME``; its value is
    ``{"awsAccessKeyId","awsSecretAccessKey"}``."""

    @model_validator(mode="after")
    def _reference(self) -> S3StoreSpec:
        if not self.connection_secret.startswith(("secret:", "file:", "env:")):
            raise ValueError("connectionSecret must be a reference, secret:NAME, file:PATH or env:NAME; never the secret itself")
        return self


class DatasetSpec(OurModel):
    """A dataset as its owner describes it."""

    name: Name
    format: Format
    columns: dict[str, FieldType] = Field(alias="schema", min_length=1)
    access: Literal["read", "write"] = "read"
    allowed_columns: tuple[str, ...] | None = None
    """Columns that queries may read (inputs) or that a result may have (outputs); every column when absent."""
    privacy: PrivacyFloors = PrivacyFloors()
    partitioned_by: Literal["day"] | None = None
    csv_header: bool = True
    encryption: EncryptionMode = "CSE"
    manifest: ManifestRule | None = None
    """Whether rows may be read without the list that `cleanroom dataset upload` leaves; an input dataset requires it when absent."""
    manifest_digest: HexDigest | None = None
    """Which list, where ``manifest`` is ``pinned``; `cleanroom dataset publish` takes it from the store when absent."""
    store: Annotated[BlobStoreSpec | S3StoreSpec, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _known_columns(self) -> DatasetSpec:
        if unknown := [name for name in self.allowed_columns or () if name not in self.columns]:
            raise ValueError(f"allowedColumns names {', '.join(unknown)}, which schema does not have")
        return self

    @model_validator(mode="after")
    def _pinned_rows(self) -> DatasetSpec:
        if self.manifest_digest is not None and self.manifest != "pinned":
            raise ValueError("manifestDigest goes with manifest: pinned")
        if self.manifest == "pinned" and (self.encryption != "CSE" or self.access != "read"):
            # Where the store encrypts, nothing but the store's word ties the bytes that are read to the list.
            raise ValueError("manifest: pinned is for datasets that are read and sealed by their owner (access: read, encryption: CSE)")
        return self

    def manifest_rule(self) -> ManifestRule | None:
        """What the document says; None for an output, which nobody reads through it."""
        return (self.manifest or "required") if self.access == "read" else self.manifest

    def digest(self) -> str:
        """What the owner's authorisation covers."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True)))


class QuerySpec(OurModel):
    """A query as its author describes it."""

    name: Name
    inputs: dict[str, Name] = Field(min_length=1, max_length=20)
    """View name to dataset."""
    output: Name
    segments: tuple[QuerySegment, ...] = ()
    sql: str | None = None
    sql_file: str | None = None
    pre_conditions: tuple[PreCondition, ...] | None = None
    post_filters: tuple[PostFilter, ...] | None = None
    parameters: RunParameters = RunParameters()

    @model_validator(mode="after")
    def _one_source(self) -> QuerySpec:
        given = [bool(self.segments), self.sql is not None, self.sql_file is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of sql, sqlFile and segments")
        if self.segments and (self.pre_conditions or self.post_filters):
            raise ValueError("preConditions and postFilters belong into the segments where segments are given")
        return self

    def to_segments(self) -> QuerySegments:
        """The segments in upstream's form; ``sqlFile`` must have been read in by :func:`load_query_spec`."""
        if self.segments:
            return QuerySegments(segments=self.segments)
        assert self.sql is not None
        one = QuerySegment(execution_sequence=1, data=self.sql, pre_conditions=self.pre_conditions, post_filters=self.post_filters)
        return QuerySegments(segments=(one,))

    def input_datasets(self) -> tuple[InputDataset, ...]:
        return tuple(InputDataset(specification=dataset, view=view) for view, dataset in self.inputs.items())

    def digest(self) -> str:
        """What the author's authorisation covers."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True)))


def load_dataset_spec(path: Path) -> DatasetSpec:
    """Read a dataset's YAML.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``YamlMalformed`` (line and column), ``DatasetSpecInvalid`` (member and rule).
    """
    return load_yaml(DatasetSpec, path, "DatasetSpecInvalid")


def load_query_spec(path: Path) -> QuerySpec:
    """Read a query's YAML; ``sqlFile`` is read in, relative to the YAML's folder.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``YamlMalformed``, ``QuerySpecInvalid``.
    """
    spec = load_yaml(QuerySpec, path, "QuerySpecInvalid")
    if spec.sql_file is None:
        return spec
    text = read_text(path.parent / spec.sql_file)
    return spec.model_copy(update={"sql": text, "sql_file": None})
