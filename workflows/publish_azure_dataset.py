"""Diagram "Publish Dataset - Azure Collaborator": each arrow is one activity on the queue of the participant that performs it."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.azure_ad import AzureAd
    from activities.blob import Blob
    from activities.frontend import Frontend
    from activities.key_vault import KeyVault
    from cleanroom.identifiers import FRONTEND_QUEUE
    from cleanroom.messages.publish import (
        AccessRequest,
        CleanRoomIdentity,
        CleanRoomPolicy,
        FederationRequest,
        KeyRequest,
        PublishDatasetInput,
        PublishedDataset,
    )
    from cleanroom.temporal.retries import PROPAGATION, STANDARD
    from workflows.publication import CLOSING_STEPS, OWNER_TIMEOUT, Publication
    from workflows.story import Story

STEPS = {
    "identity": "Create managed identity",
    "blob": "Allow the identity on Blob storage",
    "vault": "Allow the identity on Key Vault",
    "details": "Get clean room details (identity and security policy)",
    "federation": "Set federation",
    "key": "Set key with secure key release",
    **CLOSING_STEPS,
}


@workflow.defn(name="PublishAzureDataset", versioning_behavior=VersioningBehavior.PINNED)
class PublishAzureDataset:
    """Publishes an encrypted dataset in Azure Blob Storage. Its key is in the owner's Key Vault, for release to the clean room only."""

    @workflow.init
    def __init__(self, input: PublishDatasetInput) -> None:
        self._story = Story(f"Publish dataset {input.spec.name} of {input.party} (Azure)", STEPS, kind="dataset")
        self._published: PublishedDataset | None = None

    @workflow.run
    async def run(self, input: PublishDatasetInput) -> PublishedDataset:
        """Publish the dataset and return the accepted document."""
        async with self._story.report_outcome():
            return await self._publish(input)

    async def _publish(self, input: PublishDatasetInput) -> PublishedDataset:
        story = self._story
        publication = Publication(input, story)
        dataset, retries, queue = publication.dataset, publication.owner_retries, publication.queue
        # Azure applies roles and credentials with a delay, so these steps retry for longer.
        propagation = PROPAGATION.within(OWNER_TIMEOUT)
        story.stage("identity")
        identity = await story.step(
            "identity",
            workflow.execute_activity_method(
                AzureAd.create_managed_identity, dataset, **retries.config(f"managed identity for {input.spec.name}", task_queue=queue)
            ),
        )
        access = AccessRequest(dataset=dataset, identity=identity)
        _, _, (clean_room, policy) = await asyncio.gather(
            story.step(
                "blob",
                workflow.execute_activity_method(
                    Blob.allow_access_blob, access, **propagation.config("role on the container", task_queue=queue)
                ),
            ),
            story.step(
                "vault",
                workflow.execute_activity_method(
                    KeyVault.allow_access_key_vault, access, **propagation.config("role on the key", task_queue=queue)
                ),
            ),
            story.step("details", self._get_clean_room_details(publication)),
        )
        story.stage("key")
        await story.step(
            "federation",
            workflow.execute_activity_method(
                AzureAd.set_federation,
                FederationRequest(dataset=dataset, identity=identity, clean_room=clean_room),
                **propagation.config(f"federated credential for {clean_room.subject}", task_queue=queue),
            ),
        )
        key = await story.step(
            "key",
            workflow.execute_activity_method(
                KeyVault.set_key_with_skr,
                KeyRequest(dataset=dataset, policy=policy),
                **propagation.config("RSA key with release policy; wrap the dataset key", task_queue=queue),
            ),
        )
        story.stage("publish")
        location = await workflow.execute_activity_method(
            Blob.locate_blob_store, dataset, **retries.config("URL of the storage account", task_queue=queue)
        )
        self._published = await publication.publish(location.url, identity=identity, clean_room=clean_room, encryption_key=key)
        return self._published

    async def _get_clean_room_details(self, publication: Publication) -> tuple[CleanRoomIdentity, CleanRoomPolicy]:
        return await asyncio.gather(
            workflow.execute_activity_method(
                Frontend.get_clean_room_identity,
                publication.details,
                **STANDARD.config("issuer, subject, audience", task_queue=FRONTEND_QUEUE),
            ),
            publication.get_clean_room_policy(),
        )

    @workflow.query(description="The published document, or null before it is accepted.")
    def published(self) -> PublishedDataset | None:
        """Return the published document."""
        return self._published

    @workflow.query(description="The steps of the diagram and their states.")
    def timeline(self) -> tuple[str, ...]:
        """Return one line per step."""
        return self._story.lines()
