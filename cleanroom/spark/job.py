"""The job configuration: everything a run's pods need and are measured against. It holds references, never secrets.

The clean room builds it from governance's documents, the Spark service turns it into pod security policies and a
SparkApplication, and the pods receive it as the measured environment variable ``JOB_CONFIG`` (base64 of canonical JSON). Run
id, parameters and document digests are in it, so each run has its own pod policies and its own grants (design.md 6).
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator
from pydantic.alias_generators import to_camel

from cleanroom.documents.dataset import EncryptionMode, FieldType, Format, ManifestRule, PrivacyFloors
from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name, canonical_json, sha256_hex

JOB_CONFIG_VARIABLE = "JOB_CONFIG"


class _JobModel(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


class JobSegment(_JobModel):
    """One segment after the query gate: ``sql`` is the gate's own rendering, ``source_digest`` is of the whole approved text."""

    execution_sequence: int
    sql: str
    source_digest: HexDigest
    pre_conditions: tuple[PreCondition, ...] = ()
    post_filters: tuple[PostFilter, ...] = ()


class BlobAccess(_JobModel):
    """Azure Blob, reached as the owner's managed identity with an ID token that governance issues to the attested pod."""

    kind: Literal["azure-blob"] = "azure-blob"
    account_url: str
    container: str
    prefix: str = ""
    authority: str
    tenant_id: str
    client_id: str
    subject: str
    issuer_url: str


class S3Access(_JobModel):
    """S3, reached with a connection secret (``{"awsAccessKeyId","awsSecretAccessKey"}``) that governance releases to the pod."""

    kind: Literal["aws-s3"] = "aws-s3"
    endpoint_url: str | None = None
    region: str
    bucket: str
    prefix: str = ""
    connection_secret_id: str


Access = Annotated[BlobAccess | S3Access, Field(discriminator="kind")]


class JobDataset(_JobModel):
    """One dataset as the pod opens it."""

    name: Name
    view_name: str
    owner_id: str
    document_version: str
    document_digest: HexDigest
    format: Format
    schema_fields: dict[str, FieldType] = Field(alias="schema")
    """Column name to type, in file order. On the wire ``[[name, type], …]``: canonical JSON sorts the members of an object, and the
    columns of a CSV without header are known by their place alone."""
    csv_header: bool = False
    partitioned_by: Literal["day"] | None = None
    allowed_fields: tuple[str, ...]
    floors: PrivacyFloors = PrivacyFloors()
    access: Access
    encryption: EncryptionMode = "CSE"
    manifest: ManifestRule = "optional"
    manifest_digest: HexDigest | None = None
    key_secret_id: str | None = None
    """CGS secret that holds the dataset key (32 bytes, base64) for this run's pods."""

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


class JobGovernance(_JobModel):
    url: str
    ca_pem: str = ""
    """Roots for TLS to governance and the storage services; measured, so the pod trusts nothing else."""
    storage_hosts: tuple[str, ...] = ()


class JobParameters(_JobModel):
    """Dates are inclusive days; both or neither."""

    start_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    end_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")


class JobConfig(_JobModel):
    """What one run computes, from what, for whom."""

    schema_version: Literal[1] = 1
    contract_id: str
    run_id: Name
    query_id: Name
    query_version: str
    query_digest: HexDigest
    segments: tuple[JobSegment, ...] = Field(min_length=1)
    """What runs: the gate's rewrite."""
    source: tuple[QuerySegment, ...] = ()
    """What the author wrote and the owners approved, so that the pod can pass it through the gate again and compare."""
    datasets: tuple[JobDataset, ...] = Field(min_length=1)
    datasink: JobDataset
    parameters: JobParameters = JobParameters()
    consent_secret_id: str
    """CGS secret with the consent receipt ``{"runId","queryDigest","consent":"enabled"|"withdrawn","expires"}``."""
    network_secret_id: str | None = None
    """CGS secret by which this run's driver and executors know each other (docs/decisions/007); None in jobs of before there was one."""
    event_scope: str
    """Scope of the pods' audit events in CGS."""
    governance: JobGovernance

    def has_floors(self) -> bool:
        """Whether an owner of an input lets less be seen than rows with all columns."""
        floors = (dataset.floors for dataset in self.datasets)
        return any(floor.min_group_size or floor.allowed_output_columns is not None for floor in floors)

    def canonical(self) -> bytes:
        """RFC 8785 bytes: what is measured, hashed and compared."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def digest(self) -> str:
        """SHA-256 of :meth:`canonical`, lower-case hex."""
        return sha256_hex(self.canonical())

    def encode(self) -> str:
        """The value of ``JOB_CONFIG``."""
        return base64.b64encode(self.canonical()).decode("ascii")

    @staticmethod
    def decode(value: str) -> JobConfig:
        """The reverse of :meth:`encode`.

        Raises:
            InvalidInput: ``JobConfigInvalid``.
        """
        try:
            return JobConfig.model_validate_json(base64.b64decode(value, validate=True))
        except ValidationError as error:
            raise InvalidInput("JobConfigInvalid", f"{JOB_CONFIG_VARIABLE}: {describe_validation(error)}.") from error
        except ValueError as error:
            raise InvalidInput("JobConfigInvalid", f"{JOB_CONFIG_VARIABLE}: not base64.", cause=str(error)) from error


class ResultReceipt(_JobModel):
    """What the driver reports when the result is written: enough to check it, nothing of what it says."""

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
    """View name to rows read."""
    seconds: float = 0.0
    spark_seconds: float = 0.0


class ResultObject(_JobModel):
    """One encrypted object of the result: its name below the sink's prefix, its stored size in bytes and its SHA-256."""

    name: str
    size: int = Field(ge=0)
    sha256: HexDigest


ResultReceipt.model_rebuild()
