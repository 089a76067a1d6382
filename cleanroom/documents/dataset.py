"""The dataset document ("descriptor"): where the encrypted rows are, their schema, who may see which columns, and how the key is reached.

Shape: spec/execute.md A8, so that existing tools read it. Ours are ``datasetAccessPolicy.privacyFloors``,
``datasetSchema.partitionedBy``, ``datasetAccessPoint.manifest`` and ``protection.encryptionSecrets.dek.wrappedKey``.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cleanroom.documents.base import OurModel, WireModel
from cleanroom.documents.validation import parse_document
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, Name

FieldType = Literal["string", "integer", "number", "boolean", "date", "long", "timestamp"]
Format = Literal["csv", "json", "parquet"]
EncryptionMode = Literal["CSE", "CPK", "SSE"]
"""CSE: sealed by its owner before upload (default; Tink AES256-GCM-HKDF-1MB). CPK: key given with each request. SSE: the store's own."""

ManifestRule = Literal["optional", "required", "pinned"]
"""``required``: rows are read only beside the sealed list of objects that an upload leaves, so that whoever runs the store cannot leave
objects out by deleting the list too. ``pinned``: beside exactly the list of which the document holds the digest, so that approvals are of
these rows, and an earlier upload cannot be put back. ``optional``: rows that another tool sealed and stored are read without a list."""

DATASET_LABELS = {"type": "dataset"}


class SchemaField(WireModel):
    field_name: str = Field(min_length=1, max_length=128)
    field_type: FieldType


class DatasetSchema(WireModel):
    format: Format
    fields: tuple[SchemaField, ...] = Field(min_length=1, max_length=500)
    partitioned_by: Literal["day"] | None = None
    """``day``: rows lie in folders ``yyyy-MM-dd`` below the subdirectory, and a run may name a date range."""
    csv_header: bool = False
    """Whether CSV objects begin with a header line (upstream: inputs have none)."""

    @model_validator(mode="after")
    def _unique(self) -> DatasetSchema:
        # Spark takes names without regard to case: `Email` beside `email` could stand in for it where only one is allowed.
        names = [field.field_name.lower() for field in self.fields]
        if twice := sorted({field.field_name for field in self.fields if names.count(field.field_name.lower()) > 1}):
            raise ValueError(f"field names must be unique without regard to case; twice: {', '.join(twice)}")
        return self

    def types(self) -> dict[str, FieldType]:
        """Field name to type, in document order."""
        return {field.field_name: field.field_type for field in self.fields}


class PrivacyFloors(OurModel):
    """What the owner demands of every result that her rows reach; the strictest owner wins (users-and-threats.md T10)."""

    min_group_size: int = Field(default=0, ge=0)
    """Least number of distinct ``identity_column`` values behind every output row; 0 is no floor."""
    identity_column: str | None = None
    allowed_output_columns: tuple[str, ...] | None = None
    """Columns whose values may appear in a result; None is every allowed column."""

    @model_validator(mode="after")
    def _identity(self) -> PrivacyFloors:
        if self.min_group_size > 0 and not self.identity_column:
            raise ValueError("identityColumn is required where minGroupSize is above 0")
        return self


class DatasetAccessPolicy(WireModel):
    access_mode: Literal["read", "write"]
    allowed_fields: tuple[str, ...] = Field(min_length=1)
    privacy_floors: PrivacyFloors = PrivacyFloors()


class Provider(WireModel):
    protocol: str
    url: str = ""
    configuration: str = ""

    def decoded(self) -> dict[str, Any]:
        """``configuration`` (base64 of JSON) as a mapping; empty where absent."""
        return decode_configuration(self.configuration)


class Resource(WireModel):
    id: str = ""
    name: str
    type: str
    provider: Provider


class TokenIssuer(WireModel):
    issuer_type: str
    issuer: Provider
    federated_identity: Identity | None = None


class Identity(WireModel):
    """A managed identity of the owner, reached by an attested clean room through federation."""

    name: str
    client_id: str = ""
    tenant_id: str = ""
    token_issuer: TokenIssuer


class SecretReference(WireModel):
    secret_type: str = "Key"  # noqa: S105 - the kind, not a secret
    backing_resource: Resource


class EncryptionSecret(WireModel):
    name: str
    secret: SecretReference
    wrapped_key: str | None = None
    """Ours: the dataset key wrapped by the KEK, base64(RSA-OAEP-SHA-256(KEK public key, DEK)) as in spec/skr.md 13."""


class EncryptionSecrets(WireModel):
    dek: EncryptionSecret
    kek: EncryptionSecret | None = None


class Protection(WireModel):
    proxy_type: str
    proxy_mode: str = "Secure"
    configuration: str = ""
    encryption_secrets: EncryptionSecrets | None = None
    encryption_secret_access_identity: Identity | None = None

    def encryption_mode(self) -> EncryptionMode:
        """The mode named in ``configuration``.

        Raises:
            InvalidInput: ``UnsupportedEncryptionMode``.
        """
        mode = decode_configuration(self.configuration).get("EncryptionMode", "SSE")
        if mode not in ("CSE", "CPK", "SSE"):
            raise InvalidInput("UnsupportedEncryptionMode", f"protection.configuration: EncryptionMode {mode!r} is not CSE, CPK or SSE.")
        return mode  # type: ignore[no-any-return]


class AccessPoint(WireModel):
    name: str
    type: Literal["Volume_ReadOnly", "Volume_ReadWrite"]
    path: str = ""
    subdirectory: str = ""
    store: Resource
    identity: Identity | None = None
    protection: Protection
    manifest: ManifestRule | None = None
    """None, as upstream's documents have it, is ``optional``."""
    manifest_digest: HexDigest | None = None
    """:meth:`cleanroom.datasets.manifest.Manifest.digest`, where it is ``pinned``."""

    @field_validator("subdirectory")
    @classmethod
    def _normalised(cls, value: str) -> str:
        parts = value.split("/") if value else []
        if value.startswith("/") or "\\" in value or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"subdirectory {value!r} must be a relative path without empty, '.' or '..' parts")
        return value


class DatasetDocument(WireModel):
    """What a dataset's owner proposes to governance and accepts there alone."""

    name: Name
    dataset_schema: DatasetSchema
    dataset_access_policy: DatasetAccessPolicy
    dataset_access_point: AccessPoint

    @model_validator(mode="after")
    def _coherent(self) -> DatasetDocument:
        types = self.dataset_schema.types()
        policy = self.dataset_access_policy
        for what, names in (
            ("allowedFields", policy.allowed_fields),
            ("privacyFloors.allowedOutputColumns", policy.privacy_floors.allowed_output_columns or ()),
            ("privacyFloors.identityColumn", tuple(filter(None, [policy.privacy_floors.identity_column]))),
        ):
            if unknown := [name for name in names if name not in types]:
                raise ValueError(f"{what} names {', '.join(unknown)}, which the schema does not have")
        point = self.dataset_access_point
        if (point.manifest == "pinned") != (point.manifest_digest is not None):
            raise ValueError("datasetAccessPoint.manifestDigest goes with manifest 'pinned', and only with it")
        if self.dataset_access_point.name != self.name:
            raise ValueError(f"datasetAccessPoint.name {self.dataset_access_point.name!r} must equal name {self.name!r}")
        wants = "Volume_ReadOnly" if policy.access_mode == "read" else "Volume_ReadWrite"
        if self.dataset_access_point.type != wants:
            raise ValueError(f"accessMode {policy.access_mode!r} needs datasetAccessPoint.type {wants!r}")
        return self

    def to_data(self) -> str:
        """The document as the ``data`` string that governance holds (compact, key order of the model)."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False)


def encode_configuration(value: dict[str, Any]) -> str:
    """base64 of compact JSON: the form of every ``configuration`` member upstream."""
    return base64.b64encode(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).decode()


def decode_configuration(value: str) -> dict[str, Any]:
    """The reverse of :func:`encode_configuration`.

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
        raise InvalidInput("ConfigurationMalformed", "configuration: base64 of JSON, but not of an object.")
    return decoded


def parse_dataset(data: str, *, document_id: str) -> DatasetDocument:
    """Read a dataset document's ``data``.

    Raises:
        InvalidInput: ``DatasetDocumentInvalid``, naming the first member that is wrong.
    """
    return parse_document(DatasetDocument, data, code="DatasetDocumentInvalid", what=f"dataset {document_id}")
