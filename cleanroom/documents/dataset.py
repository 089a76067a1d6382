"""The dataset document: location and schema of the encrypted rows, the owner's policy, and how the key is obtained.

The format is that of the Azure clean room tools (https://github.com/Azure/azure-cleanroom), which can read these documents.
This project adds ``datasetAccessPolicy.privacyFloors``, ``datasetSchema.partitionedBy``, ``datasetSchema.uniqueColumns``,
``datasetAccessPoint.manifest`` and
``protection.encryptionSecrets.dek.wrappedKey``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, ModelWrapValidatorHandler, field_validator, model_validator

from cleanroom.documents.base import OurModel, WireModel
from cleanroom.documents.dataset_rules import column_problems, list_problems, subdirectory_problem
from cleanroom.documents.validation import parse_document
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name

FieldType = Literal["string", "integer", "number", "boolean", "date", "long", "timestamp"]
Format = Literal["csv", "json", "parquet"]
SUFFIXES: dict[Format, tuple[str, ...]] = {"csv": (".csv",), "json": (".json", ".jsonl", ".ndjson"), "parquet": (".parquet",)}
"""File name suffixes of each format. Files with other suffixes are not data of the dataset."""

EncryptionMode = Literal["CSE", "CPK", "SSE"]
"""``CSE``: the owner encrypts before the upload (default; Tink AES256-GCM-HKDF-1MB). ``CPK``: each request to the store contains the
key. ``SSE``: the store encrypts."""

ManifestRule = Literal["optional", "required", "pinned"]
"""Whether rows need a manifest, the encrypted list of objects that an upload writes.

* ``required``: objects are read only with their manifest. The operator of the store cannot hide objects by deleting the manifest.
* ``pinned``: the document contains the digest of the manifest. Approvals are for exactly these rows, and an older upload is refused.
* ``optional``: rows that another tool encrypted and stored are read without a manifest.
"""

DATASET_LABELS = {"type": "dataset"}
DEFAULT_SHARE_PERCENT = 80
"""Largest part of a sum, in percent, that may come from one person if the owner states none."""
MAX_COLUMNS = 500
MAX_GROUP_SIZE = 2**31 - 1
"""Largest minimum group size: Spark compares it as an integer of 32 bits."""


class SchemaField(WireModel):
    """A column of a dataset."""

    field_name: str = Field(min_length=1, max_length=128)
    field_type: FieldType


class CsvDialect(OurModel):
    """How CSV text deviates from RFC 4180. The default is RFC 4180 with an unquoted empty value as null."""

    delimiter: str = Field(default=",", pattern=r"^[\t !#-/:-@\[-`{-~]$")
    """The character between two values: a tab or ASCII punctuation."""
    quoting: Literal["rfc4180", "none"] = "rfc4180"
    """``none``: a quote is an ordinary character, and values contain neither delimiters nor line breaks."""
    escape_character: str | None = Field(default=None, pattern=r"^[!#-/:-@\[-`{-~]$")
    """The character that makes the following quote data, as ``\\`` in ``"say \\"hi\\""``. Quotes are then not doubled.
    With ``quoting: none`` it makes the following delimiter data."""
    null_text: str = Field(default="", max_length=64, pattern=r"^[^\"\r\n]*$")
    """The unquoted text that stands for null. If it is not empty, an unquoted empty value is an empty text."""

    @model_validator(mode="after")
    def _distinct(self) -> CsvDialect:
        if self.delimiter == self.escape_character:
            raise ValueError("csvDialect: delimiter and escapeCharacter must differ")
        for special in (self.delimiter, self.escape_character):
            if special and special in self.null_text:
                raise ValueError("csvDialect: nullText must contain neither the delimiter nor the escape character")
        return self


class DatasetSchema(WireModel):
    """File format and columns of a dataset."""

    format: Format
    fields: tuple[SchemaField, ...] = Field(min_length=1, max_length=MAX_COLUMNS)
    partitioned_by: Literal["day"] | None = None
    """``day``: rows are in folders ``yyyy-MM-dd`` below the subdirectory, and a run may select a date range."""
    csv_header: bool = False
    """Whether CSV objects begin with a header line. Inputs of the Azure clean room tools have none."""
    csv_dialect: CsvDialect | None = None
    """How CSV objects deviate from RFC 4180; None if they do not. An addition of this project."""
    unique_columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Columns whose values occur together in one row at most. Queries then need no joins that enforce it; the pods verify it. An
    addition of this project."""

    @model_validator(mode="after")
    def _dialect(self) -> DatasetSchema:
        if self.csv_dialect is not None and self.format != "csv":
            raise ValueError("csvDialect needs format: csv")
        return self

    @model_validator(mode="after")
    def _columns(self) -> DatasetSchema:
        if problems := column_problems(field.field_name for field in self.fields):
            raise ValueError("; ".join(problems))
        return self

    def types(self) -> dict[str, FieldType]:
        """Return the type of each field, in document order."""
        return {field.field_name: field.field_type for field in self.fields}


_NAMES = {
    "identity_column": ("identity", "identityColumn", "identity_column"),
    "allowed_output_columns": ("dimensions", "allowedOutputColumns", "allowed_output_columns"),
}
"""Names that a file may give to a member of a floor. The second one is that of documents in governance."""


def _all_names(schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    for used, documented, _ in _NAMES.values():
        properties[used] = properties[documented] = properties.get(used) or properties[documented]


class PrivacyFloors(OurModel):
    """The owner's rules for every result that is computed from the dataset. The strictest rule of all owners applies.

    In documents, ``identity`` is called ``identityColumn``, and ``dimensions`` ``allowedOutputColumns``. Files may use either name.
    """

    model_config = ConfigDict(json_schema_extra=_all_names)

    min_group_size: int = Field(default=0, ge=0, le=MAX_GROUP_SIZE, strict=True)
    """Minimum number of distinct persons per row of a result; 0 means no minimum.

    Strict, because YAML reads ``no`` as false, which would otherwise be 0."""
    identity_column: str | None = Field(
        default=None, validation_alias=AliasChoices(*_NAMES["identity_column"]), serialization_alias="identityColumn"
    )
    """Column that identifies a person, also called ``identityColumn``. Queries may join on it and count it."""
    allowed_output_columns: tuple[str, ...] | None = Field(
        default=None, validation_alias=AliasChoices(*_NAMES["allowed_output_columns"]), serialization_alias="allowedOutputColumns"
    )
    """Columns by which queries may group and filter, so that their values may appear in a result; also called
    ``allowedOutputColumns``. Default: all columns."""
    measures: tuple[str, ...] | None = None
    """Columns that queries may aggregate, in addition to counting them. Default: all columns."""
    max_share_percent: int | None = Field(default=None, ge=1, le=100, strict=True)
    """Largest part of a sum, in percent, that may come from one person. Default: 80 (:data:`DEFAULT_SHARE_PERCENT`). 100 means no
    limit."""

    @model_validator(mode="wrap")
    @classmethod
    def _one_name_each(cls, value: Any, handler: ModelWrapValidatorHandler[PrivacyFloors]) -> PrivacyFloors:
        if not isinstance(value, dict):
            return handler(value)
        given = {field: [name for name in names if name in value] for field, names in _NAMES.items()}
        for names in given.values():
            if len(names) > 1:
                raise ValueError(f"{names[0]} and {names[1]} are two names of the same rule; give one of them")
        floors = handler(value)
        # Kept beside the fields, as a cached property is, because equal rules are equal under either name.
        floors.__dict__["_given"] = {field: names[0] for field, names in given.items() if names}
        return floors

    @model_validator(mode="after")
    def _identity(self) -> PrivacyFloors:
        if self.min_group_size > 0 and not self.identity_column:
            raise ValueError("identity is required where minGroupSize is above 0")
        return self

    def member(self, field: str) -> str:
        """Return the name that the file or the document has given to a field of :data:`_NAMES`, for messages."""
        given: dict[str, str] = self.__dict__.get("_given", {})
        return given.get(field, _NAMES[field][0])


class DatasetAccessPolicy(WireModel):
    """Which columns queries may use, and under which floors."""

    access_mode: Literal["read", "write"]
    allowed_fields: tuple[str, ...] = Field(min_length=1)
    privacy_floors: PrivacyFloors = PrivacyFloors()


def policy_problems(
    schema: DatasetSchema,
    lists: Mapping[str, tuple[str, ...] | None],
    floors: PrivacyFloors,
    access: Literal["read", "write"],
    *,
    privacy: str = "privacyFloors",
) -> list[str]:
    """Return where the policy of a dataset does not fit its schema. The YAML file and the document follow this one set of rules.

    Args:
        schema: The dataset's schema.
        lists: The allowed columns by the name of their member.
        floors: The privacy floors.
        access: Whether the dataset is an input or an output.
        privacy: The member that contains the floors.
    """
    columns = {
        **lists,
        f"{privacy}.{floors.member('allowed_output_columns')}": floors.allowed_output_columns,
        f"{privacy}.measures": floors.measures,
        "uniqueColumns": schema.unique_columns,
        f"{privacy}.{floors.member('identity_column')}": (floors.identity_column,) if floors.identity_column is not None else None,
    }
    problems = list_problems(schema.types(), columns)
    if schema.csv_dialect is not None and access == "write":
        problems.append("csvDialect: results are always written as RFC 4180; leave it out")
    return problems


class Provider(WireModel):
    """Protocol and URL of a service."""

    protocol: str
    url: str = ""
    configuration: str = ""

    def decoded(self) -> dict[str, Any]:
        """Return ``configuration``, which is base64 of JSON, as a mapping; empty if it is absent."""
        return decode_configuration(self.configuration)


class Resource(WireModel):
    """A store, key or secret at a provider."""

    id: str = ""
    name: str
    type: str
    provider: Provider


class TokenIssuer(WireModel):
    """How an identity gets its tokens."""

    issuer_type: str
    issuer: Provider
    federated_identity: Identity | None = None


class Identity(WireModel):
    """A managed identity of the owner. An attested clean room signs in as it with a federated credential."""

    name: str
    client_id: str = ""
    tenant_id: str = ""
    token_issuer: TokenIssuer


class SecretReference(WireModel):
    """Where a secret is stored."""

    secret_type: str = "Key"  # noqa: S105 - the kind, not a secret
    backing_resource: Resource


class EncryptionSecret(WireModel):
    """A data or key encryption key."""

    name: str
    secret: SecretReference
    wrapped_key: str | None = None
    """The dataset key wrapped by the KEK: base64(RSA-OAEP-SHA-256(KEK public key, DEK)). An addition of this project."""


class EncryptionSecrets(WireModel):
    """The dataset key (DEK), and the key that wraps it (KEK) if there is one."""

    dek: EncryptionSecret
    kek: EncryptionSecret | None = None


class Protection(WireModel):
    """How a dataset is encrypted."""

    proxy_type: str
    proxy_mode: str = "Secure"
    configuration: str = ""
    encryption_secrets: EncryptionSecrets | None = None
    encryption_secret_access_identity: Identity | None = None

    def encryption_mode(self) -> EncryptionMode:
        """Return the mode in ``configuration``.

        Raises:
            InvalidInput: ``UnsupportedEncryptionMode``.
        """
        mode = decode_configuration(self.configuration).get("EncryptionMode", "SSE")
        if mode not in ("CSE", "CPK", "SSE"):
            raise InvalidInput("UnsupportedEncryptionMode", f"protection.configuration: EncryptionMode {mode!r} is not CSE, CPK or SSE.")
        return mode  # type: ignore[no-any-return]


class AccessPoint(WireModel):
    """Location and protection of a dataset."""

    name: str
    type: Literal["Volume_ReadOnly", "Volume_ReadWrite"]
    path: str = ""
    subdirectory: str = ""
    store: Resource
    identity: Identity | None = None
    protection: Protection
    manifest: ManifestRule | None = None
    """None means ``optional``: documents of the Azure clean room tools have no manifest."""
    manifest_digest: HexDigest | None = None
    """:meth:`cleanroom.datasets.manifest.Manifest.digest` if ``manifest`` is ``pinned``."""

    @field_validator("subdirectory")
    @classmethod
    def _normalised(cls, value: str) -> str:
        if problem := subdirectory_problem(value):
            raise ValueError(problem)
        return value


class DatasetDocument(WireModel):
    """The document that a dataset's owner proposes in governance, and of which the owner is the only approver."""

    name: Name
    dataset_schema: DatasetSchema
    dataset_access_policy: DatasetAccessPolicy
    dataset_access_point: AccessPoint

    @model_validator(mode="after")
    def _coherent(self) -> DatasetDocument:
        policy = self.dataset_access_policy
        allowed = {"allowedFields": policy.allowed_fields}
        if problems := policy_problems(self.dataset_schema, allowed, policy.privacy_floors, policy.access_mode):
            raise ValueError("; ".join(problems))
        point = self.dataset_access_point
        if (point.manifest == "pinned") != (point.manifest_digest is not None):
            raise ValueError("datasetAccessPoint.manifestDigest is required if manifest is 'pinned', and not allowed otherwise")
        if self.dataset_access_point.name != self.name:
            raise ValueError(f"datasetAccessPoint.name {self.dataset_access_point.name!r} must equal name {self.name!r}")
        wants = "Volume_ReadOnly" if policy.access_mode == "read" else "Volume_ReadWrite"
        if self.dataset_access_point.type != wants:
            raise ValueError(f"accessMode {policy.access_mode!r} needs datasetAccessPoint.type {wants!r}")
        return self

    def to_data(self) -> str:
        """Return the document as the ``data`` string in governance: compact JSON with the members in the order of the model."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False)


def encode_configuration(value: dict[str, Any]) -> str:
    """Encode the value of a ``configuration`` member: base64 of compact JSON."""
    return base64.b64encode(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).decode()


def decode_configuration(value: str) -> dict[str, Any]:
    """Decode the value of a ``configuration`` member; an empty string is an empty mapping.

    Raises:
        InvalidInput: ``ConfigurationMalformed``.
    """
    if not value:
        return {}
    try:
        decoded = json.loads(base64.b64decode(value, validate=True))
    except ValueError as error:
        raise InvalidInput("ConfigurationMalformed", "configuration: not base64 of a JSON object.", cause=str(error)) from error
    if not isinstance(decoded, dict):
        raise InvalidInput("ConfigurationMalformed", "configuration: base64 of JSON that is not an object.")
    return decoded


def parse_dataset(data: str, *, document_id: str) -> DatasetDocument:
    """Parse the ``data`` string of a dataset document.

    Raises:
        InvalidInput: ``DatasetDocumentInvalid``, with the first invalid member.
    """
    return parse_document(DatasetDocument, data, code="DatasetDocumentInvalid", what=f"dataset {document_id}")
