"""Builds the job configuration of an authorised run from governance's documents.

The result depends only on the run and the environment. The clean room, the Spark service and the audit therefore build the
same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from cleanroom.documents.dataset import AccessPoint
from cleanroom.errors import InvalidInput, Refused
from cleanroom.identifiers import clean_room_secret_id, federated_subject, run_secret_name, sha256_hex
from cleanroom.query_gate import require_allowed
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.job import (
    BlobAccess,
    JobConfig,
    JobDataset,
    JobGovernance,
    JobSegment,
    S3Access,
)
from cleanroom.trust import AcceptedTrust


@dataclass(frozen=True)
class JobEnvironment:
    """The collaboration's part of a job: the services and hosts that pods use. The pods' policies measure it."""

    governance_url: str
    authority: str
    """URL of the Entra ID authority of the owners' managed identities."""
    ca_pem: str = ""
    storage_hosts: tuple[str, ...] = ()
    trust_document: str = ""
    """ID of the trust document that these values come from."""
    trust_digest: str = ""

    @staticmethod
    def of(trust: AcceptedTrust, governance_url: str, governance_roots: str) -> JobEnvironment:
        """Return the environment of a trust document.

        Args:
            trust: The trust document.
            governance_url: URL of governance, from the bootstrap file.
            governance_roots: PEM roots of governance, from the bootstrap file.
        """
        document = trust.document
        return JobEnvironment(
            governance_url=governance_url,
            authority=document.entra_authority,
            ca_pem="\n".join(part for part in (governance_roots.strip(), document.tls_roots.strip()) if part) + "\n",
            storage_hosts=document.storage_hosts,
            trust_document=trust.id,
            trust_digest=trust.digest,
        )


def assemble_job(run: AuthorisedRun, environment: JobEnvironment) -> JobConfig:
    """Build the job of an authorised run.

    Raises:
        Refused: ``QueryRefusedByGate`` with the gate's reasons, ``SecretOwnerMismatch``.
        InvalidInput: ``UnsupportedAccessPointStoreType``, ``AccessIdentityMissing``, ``StoreConfigurationSecretIdMissing``.
    """
    segments = run.query.application.segments()
    verdict = require_allowed(run.query.name, segments, run.inputs, run.sink.dataset)
    contract_id = run.document.contract_id
    source_digest = sha256_hex(run.query.application.query.encode())
    return JobConfig(
        contract_id=contract_id,
        run_id=run.request.run_id,
        query_id=run.query.name,
        query_version=run.document.version,
        query_digest=run.document.digest,
        segments=tuple(
            JobSegment(
                execution_sequence=segment.execution_sequence,
                sql=segment.sql,
                source_digest=source_digest,
                pre_conditions=segment.pre_conditions,
                post_filters=segment.post_filters,
            )
            for segment in verdict.rewritten
        ),
        source=segments.segments,
        datasets=tuple(_job_dataset(item, run, environment) for item in run.inputs),
        datasink=_job_dataset(run.sink, run, environment),
        parameters=run.request.parameters,
        consent_secret_id=clean_room_secret_id(run_secret_name(run.request.run_id, run.query.name, "consent")),
        network_secret_id=clean_room_secret_id(run_secret_name(run.request.run_id, run.query.name, "network")),
        event_scope=event_scope(run.request.run_id),
        governance=JobGovernance(
            url=environment.governance_url,
            ca_pem=environment.ca_pem,
            storage_hosts=environment.storage_hosts,
            trust_document=environment.trust_document,
            trust_digest=environment.trust_digest,
        ),
    )


def _job_dataset(item: Dataset, run: AuthorisedRun, environment: JobEnvironment) -> JobDataset:
    document, point = item.dataset, item.dataset.dataset_access_point
    mode = point.protection.encryption_mode()
    return JobDataset(
        name=document.name,
        view_name=item.view,
        owner_id=item.owner_id,
        document_version=item.document.version,
        document_digest=item.document.digest,
        format=document.dataset_schema.format,
        schema_fields=document.dataset_schema.types(),
        csv_header=document.dataset_schema.csv_header,
        csv_dialect=document.dataset_schema.csv_dialect,
        partitioned_by=document.dataset_schema.partitioned_by,
        unique_columns=document.dataset_schema.unique_columns,
        allowed_fields=document.dataset_access_policy.allowed_fields,
        floors=document.dataset_access_policy.privacy_floors,
        access=_access(item, point, run, environment),
        encryption=mode,
        manifest=point.manifest or "optional",
        manifest_digest=point.manifest_digest,
        key_secret_id=None if mode == "SSE" else _staged(run, document.name, "key"),
    )


def _staged(run: AuthorisedRun, dataset: str, kind: str) -> str:
    return clean_room_secret_id(run_secret_name(run.request.run_id, dataset, kind))


def _access(item: Dataset, point: AccessPoint, run: AuthorisedRun, environment: JobEnvironment) -> BlobAccess | S3Access:
    store = point.store
    if store.type in ("Azure_BlobStorage", "Azure_BlobStorage_DataLakeGen2"):
        if point.identity is None:
            raise InvalidInput("AccessIdentityMissing", f"dataset {point.name!r}: its Azure store needs an identity.")
        return BlobAccess(
            account_url=store.provider.url,
            container=store.name,
            prefix=point.subdirectory,
            authority=environment.authority,
            tenant_id=point.identity.tenant_id,
            client_id=point.identity.client_id,
            subject=federated_subject(run.document.contract_id, item.owner_id),
            issuer_url=point.identity.token_issuer.issuer.url,
        )
    if store.type == "Aws_S3":
        configuration = store.provider.decoded()
        owned_secret(configuration.get("secretId"), item)
        return S3Access(
            endpoint_url=store.provider.url or None,
            region=str(configuration.get("region") or "us-east-1"),
            bucket=store.name,
            prefix=point.subdirectory,
            connection_secret_id=_staged(run, point.name, "connection"),
        )
    raise InvalidInput("UnsupportedAccessPointStoreType", f"dataset {point.name!r}: store type {store.type!r} is not supported.")


def owned_secret(secret_id: object, item: Dataset) -> str:
    """Return ``secret_id`` if the owner of the dataset stored it.

    Without this check, a dataset document could name the secret of another owner. Governance prefixes the ID of a user's
    secret with the user ID.

    Raises:
        InvalidInput: ``StoreConfigurationSecretIdMissing``.
        Refused: ``SecretOwnerMismatch``.
    """
    if not isinstance(secret_id, str) or not secret_id:
        raise InvalidInput("StoreConfigurationSecretIdMissing", f"dataset {item.dataset.name!r}: its store configuration has no secretId.")
    if not secret_id.startswith(f"{item.owner_id}_"):
        raise Refused(
            "SecretOwnerMismatch",
            f"dataset {item.dataset.name!r} names secret {secret_id!r}, which its owner did not store.",
        )
    return secret_id
