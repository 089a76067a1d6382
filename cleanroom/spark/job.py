"""The job configuration: everything that a run's pods need, and that they are measured against. It holds references, never secrets.

The clean room builds it from governance's documents. The Spark service turns it into pod policies and a
SparkApplication. The pods receive it as the measured environment variable ``JOB_CONFIG`` (base64 of canonical
JSON). It contains the run ID, the parameters and the digests of the documents, so each run has its own pod policies
and its own grants.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from cleanroom.documents.dataset import CsvDialect, EncryptionMode, FieldType, Format, ManifestRule, PrivacyFloors
from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment, require_one_view_each
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name, RunSize, canonical_json, sha256_hex
from cleanroom.models import CamelModel
from cleanroom.spark.packing import PREFIX, pack, unpack

JOB_CONFIG_VARIABLE = "JOB_CONFIG"
PLAIN_CHARACTERS = 48_000
"""Longest ``JOB_CONFIG`` that is not packed. Most jobs are shorter, and everybody can read them in the pod's specification."""


class JobSegment(CamelModel):
    """A segment after the query gate: ``sql`` is the gate's rendering, ``source_digest`` the digest of the whole approved text."""

    execution_sequence: int
    sql: str
    source_digest: HexDigest
    pre_conditions: tuple[PreCondition, ...] = ()
    post_filters: tuple[PostFilter, ...] = ()


class BlobAccess(CamelModel):
    """Access to Azure Blob Storage as the owner's managed identity, with an ID token that governance issues to the attested pod."""

    kind: Literal["azure-blob"] = "azure-blob"
    account_url: str
    container: str
    prefix: str = ""
    authority: str
    tenant_id: str
    client_id: str
    subject: str
    issuer_url: str


class S3Access(CamelModel):
    """Access to S3 with a connection secret (``{"awsAccessKeyId","awsSecretAccessKey"}``) that governance releases to the pod."""

    kind: Literal["aws-s3"] = "aws-s3"
    endpoint_url: str | None = None
    region: str
    bucket: str
    prefix: str = ""
    connection_secret_id: str


Access = Annotated[BlobAccess | S3Access, Field(discriminator="kind")]


class JobDataset(CamelModel):
    """A dataset as the pod opens it."""

    name: Name
    view_name: str
    owner_id: str
    document_version: str
    document_digest: HexDigest
    format: Format
    schema_fields: dict[str, FieldType] = Field(alias="schema")
    """Column name to type, in file order. In JSON a list of ``[name, type]``, because canonical JSON sorts the
    members of an object, and only their position identifies the columns of a CSV file without a header."""
    csv_header: bool = False
    csv_dialect: CsvDialect | None = None
    partitioned_by: Literal["day"] | None = None
    unique_columns: tuple[str, ...] | None = None
    allowed_fields: tuple[str, ...]
    floors: PrivacyFloors = PrivacyFloors()
    access: Access
    encryption: EncryptionMode = "CSE"
    manifest: ManifestRule = "optional"
    manifest_digest: HexDigest | None = None
    key_secret_id: str | None = None
    """ID of the CGS secret that holds the dataset key (32 bytes, base64) for this run's pods."""

    @field_validator("schema_fields", mode="before")
    @classmethod
    def _read_columns(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in value):
            raise ValueError("schema must be a list of [name, type] pairs")
        if len({pair[0] for pair in value}) != len(value):
            raise ValueError("schema names a column twice")
        return {pair[0]: pair[1] for pair in value}

    @field_serializer("schema_fields", when_used="json")
    def _write_columns(self, value: dict[str, FieldType]) -> list[list[str]]:
        return [[name, kind] for name, kind in value.items()]


class JobGovernance(CamelModel):
    """How the pods reach governance."""

    url: str
    ca_pem: str = ""
    """TLS roots for governance and the declared storage hosts. They are measured, so the pod trusts no others."""
    storage_hosts: tuple[str, ...] = ()
    """Storage hosts outside of the public clouds."""
    trust_document: str = ""
    """ID of the trust document that the job was built under."""
    trust_digest: str = ""
    """Digest of that document. Because the job is measured, the pods' host data names the document."""


class JobParameters(CamelModel):
    """Parameters of a run: a range of days, both inclusive, and a size. Of the days either both are set or neither is."""

    start_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    end_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    size: RunSize | None = Field(default=None, exclude_if=lambda value: value is None)
    """Size of the run's pods; without it, the deployment's default."""


class JobConfig(CamelModel):
    """The job of one run: the segments, the input datasets, and the output dataset."""

    schema_version: Literal[1] = 1
    contract_id: str
    run_id: Name
    query_id: Name
    query_version: str
    query_digest: HexDigest
    segments: tuple[JobSegment, ...] = Field(min_length=1)
    """The SQL that runs: the query gate's rendering."""
    source: tuple[QuerySegment, ...] = ()
    """The approved text, so that the pod can pass it through the query gate again and compare."""
    datasets: tuple[JobDataset, ...] = Field(min_length=1)
    datasink: JobDataset
    parameters: JobParameters = JobParameters()
    consent_secret_id: str
    """ID of the CGS secret with the consent receipt ``{"runId","queryDigest","consent":"enabled"|"withdrawn","expires"}``."""
    network_secret_id: str | None = None
    """ID of the CGS secret with which this run's driver and executors authenticate each other (docs/decisions/007).
    Older jobs have none."""
    event_scope: str
    """Scope of the pods' audit events in governance."""
    governance: JobGovernance

    @model_validator(mode="after")
    def _one_view_each(self) -> JobConfig:
        require_one_view_each(dataset.name for dataset in self.datasets)
        return self

    def has_floors(self) -> bool:
        """Return whether a privacy floor of an input restricts the output."""
        floors = (dataset.floors for dataset in self.datasets)
        return any(floor.min_group_size or floor.allowed_output_columns is not None for floor in floors)

    def canonical(self) -> bytes:
        """Return the canonical JSON (RFC 8785), which is measured and hashed."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def digest(self) -> str:
        """Return the SHA-256 of :meth:`canonical` in lower-case hex."""
        return sha256_hex(self.canonical())

    def encode(self) -> str:
        """Return the value of ``JOB_CONFIG``: the canonical JSON in base64, or packed if that is too long for a pod's policy."""
        canonical = self.canonical()
        plain = base64.b64encode(canonical).decode("ascii")
        return plain if len(plain) <= PLAIN_CHARACTERS else pack(canonical)

    @staticmethod
    def decode(value: str) -> JobConfig:
        """Parse the value of ``JOB_CONFIG``; the inverse of :meth:`encode`.

        Raises:
            InvalidInput: ``JobConfigInvalid``.
        """
        try:
            plain = unpack(value) if value.startswith(PREFIX) else base64.b64decode(value, validate=True)
            return JobConfig.model_validate_json(plain)
        except ValidationError as error:
            raise InvalidInput("JobConfigInvalid", f"{JOB_CONFIG_VARIABLE}: {describe_validation(error)}.") from error
        except ValueError as error:
            raise InvalidInput("JobConfigInvalid", f"{JOB_CONFIG_VARIABLE}: not base64.", cause=str(error)) from error


class ResultReceipt(CamelModel):
    """The result receipt, which the driver reports when the result is written. It contains no value of the result."""

    run_id: Name
    query_digest: HexDigest
    job_digest: HexDigest
    dataset: Name
    objects: tuple[ResultObject, ...]
    rows: int = Field(ge=0)
    digest: HexDigest
    """SHA-256 over the canonical JSON of ``objects``."""
    columns: tuple[str, ...]
    rows_read: dict[str, int] = {}
    """Rows read, by view name."""
    suppressed_rows: int | None = None
    """Rows that privacy floors left out of the result. None if that is not known, or if they are about fewer persons than the strictest
    floor requires: the number alone would then say that such persons exist."""
    seconds: float = 0.0
    spark_seconds: float = 0.0


class ResultObject(CamelModel):
    """One stored object of the result: its name below the sink's prefix, its stored size in bytes, and its SHA-256."""

    name: str
    size: int = Field(ge=0)
    sha256: HexDigest


ResultReceipt.model_rebuild()
