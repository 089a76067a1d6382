"""Uploads, publishes, shows and lists datasets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temporalio.client import WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.specs import DatasetSpec, S3StoreSpec
from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed
from cleanroom.identifiers import FRONTEND_QUEUE, dataset_workflow_id
from cleanroom.messages.publish import PublishDatasetInput, PublishedDataset
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.fairness import fair_share
from cleanroom.temporal.markdown import code, details, escape
from cleanroom.temporal.started import started_with
from starters.operations.own_datasets import remember_own_dataset
from starters.operations.session import Session
from starters.operations.workflow_names import PUBLISH_AZURE_DATASET, PUBLISH_S3_DATASET
from starters.operations.workflow_progress import follow_timeline
from starters.terminal.output import err, print_status, safe

# Imported on use, with the SDKs of the stores.
if TYPE_CHECKING:
    from cleanroom.datasets.upload import UploadProgress, UploadResult


def pin_manifest(session: Session, spec: DatasetSpec) -> DatasetSpec:
    """Return ``spec`` with the digest of the manifest in the store, if it says ``manifest: pinned`` without a digest.

    Raises:
        PreconditionFailed: ``NothingToPin`` when the store holds no complete upload.
        NotFound: ``DatasetKeyNotFound``.
        Unavailable: The store cannot be reached.
        Refused: The store denied the request.
    """
    if spec.manifest != "pinned" or spec.manifest_digest is not None:
        return spec
    from cleanroom.clients.owned import open_store
    from cleanroom.datasets.keystore import KeyStore
    from cleanroom.datasets.manifest import read_manifest

    keys = KeyStore(session.settings.keys_dir, session.collaboration)
    manifest = read_manifest(
        open_store(session.settings, spec, create=False), keys.get(spec.name), collaboration=session.collaboration, dataset=spec.name
    )
    if manifest is None or not manifest.complete or manifest.dataset != spec.name:
        raise PreconditionFailed(
            "NothingToPin",
            f"dataset {spec.name!r}: its file says `manifest: pinned`, but the store holds no complete upload.",
            hint="Run `cleanroom dataset upload FILE ROWS` first, then publish.",
        )
    return spec.model_copy(update={"manifest_digest": manifest.digest()})


async def publish_dataset(session: Session, spec: DatasetSpec, *, wait: bool = True) -> dict[str, Any]:
    """Publish a dataset: start its workflow, or attach to the one that is running or has completed.

    Args:
        session: Session of the owner.
        spec: The dataset.
        wait: Whether to wait for the published document.

    Returns:
        The published document with the workflow's ID and link; only those two with ``wait=False``.

    Raises:
        Conflict: ``DatasetExists`` when another owner or specification has this name.
        PreconditionFailed: ``NothingToPin``; ``SettingMissing`` for a profile without the resources of the dataset's store.
    """
    session.require_encryption()
    from cleanroom.clients.owned import require_publishable

    require_publishable(session.settings, spec)
    spec = await asyncio.to_thread(pin_manifest, session, spec)
    remember_own_dataset(session, spec)
    client = await session.temporal()
    s3 = isinstance(spec.store, S3StoreSpec)
    workflow_id = dataset_workflow_id(session.collaboration, spec.name)
    input = PublishDatasetInput(
        collaboration=session.collaboration,
        party=session.party,
        owner_id=session.user_id,
        spec=spec,
        authorisation=session.authorise("publish-dataset", spec.name, spec.digest()),
    )
    try:
        handle: WorkflowHandle[Any, PublishedDataset] = await client.start_workflow(
            PUBLISH_S3_DATASET if s3 else PUBLISH_AZURE_DATASET,
            input,
            result_type=PublishedDataset,
            id=workflow_id,
            task_queue=FRONTEND_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            priority=fair_share(session.collaboration, session.party),
            static_summary=f"{session.party} publishes dataset {spec.name} ({'S3' if s3 else 'Azure Blob'})",
            static_details=_web_ui_details(session, spec, s3=s3),
            search_attributes=start_attributes(
                collaboration=session.collaboration, kind="dataset", proposer=session.party, datasets=[spec.name]
            ),
        )
    except WorkflowAlreadyStartedError:
        before = await started_with(client, workflow_id, PublishDatasetInput)
        if before.owner_id != session.user_id or before.spec.digest() != spec.digest():
            difference = "with another specification" if before.owner_id == session.user_id else f"by {before.party}"
            raise Conflict(
                "DatasetExists",
                f"dataset {spec.name!r} has already been published {difference}.",
                hint="A published dataset never changes. Give this one another name.",
            ) from None
        print_status(f"[dim]workflow {safe(workflow_id)} already exists; showing its result[/dim]")
        handle = client.get_workflow_handle(workflow_id, result_type=PublishedDataset)
    link = session.ui_link(workflow_id)
    if not wait:
        return {"workflow_id": workflow_id, "link": link}
    published = await follow_timeline(client, handle, f"publishing {spec.name}")
    # The version of an accepted document is the transaction that accepted it.
    session.expect(published.version)
    return {**published.model_dump(mode="json"), "workflow_id": workflow_id, "link": link}


def _web_ui_details(session: Session, spec: DatasetSpec, *, s3: bool) -> str:
    """The fixed part of the dataset's page in the Web UI, in Markdown."""
    protection = (
        "The rows are encrypted on the owner's machine and stored in S3. Governance holds the data key and the connection secret, and "
        "only the attested clean room can read them."
        if s3
        else "The rows are encrypted on the owner's machine and stored in Azure Blob. A key in the owner's Key Vault wraps the data key, "
        "and Key Vault releases it only to the attested clean room."
    )
    return details(
        f"**{escape(session.party)}** publishes {code(spec.name)} to collaboration {code(session.collaboration)}.",
        protection,
        "Each step is idempotent. Steps are retried while a role assignment or a federated credential propagates.",
    )


def upload_rows(session: Session, spec: DatasetSpec, sources: list[Path], *, replace: bool = False) -> UploadResult:
    """Validate, encrypt and upload the rows of a dataset, with a progress bar on standard error.

    Args:
        session: Session of the owner.
        spec: The dataset.
        sources: Files or folders with the rows.
        replace: Whether to delete stored objects that have no source any longer.
    """
    from cleanroom.clients.owned import other_bucket_hint

    try:
        return _upload_rows(session, spec, sources, replace=replace)
    except CleanRoomError as error:
        if error.code in ("AccessDenied", "NoSuchBucket", "BucketAlreadyExists") and (hint := other_bucket_hint(session.settings, spec)):
            error.hint = hint
        raise


def _upload_rows(session: Session, spec: DatasetSpec, sources: list[Path], *, replace: bool) -> UploadResult:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    from cleanroom.clients.owned import open_store
    from cleanroom.datasets.keystore import KeyStore
    from cleanroom.datasets.sources import find_sources
    from cleanroom.datasets.upload import upload_dataset
    from cleanroom.publishing.descriptor import schema_of

    find_sources(sources, schema_of(spec))  # Refuse wrong sources before a key or a container is created.
    keys = KeyStore(session.settings.keys_dir, session.collaboration)
    store = open_store(session.settings, spec, create=True, customer_key=lambda: keys.get_or_create(spec.name))
    remember_own_dataset(session, spec)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(f"upload {spec.name}", total=None)

        def show_progress(step: UploadProgress) -> None:
            progress.update(task, completed=step.done, total=step.total, description=f"{step.stage} {spec.name}")

        return upload_dataset(
            store,
            keys.get_or_create(spec.name) if spec.encryption == "CSE" else None,
            collaboration=session.collaboration,
            dataset=spec.name,
            schema=schema_of(spec),
            sources=sources,
            replace=replace,
            on_progress=show_progress,
        )
