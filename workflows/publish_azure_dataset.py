"""Diagram "Publish Dataset, Azure collaborator": every arrow is an activity on the queue of the participant that performs it."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.azure_ad import AzureAd
    from activities.blob import Blob
    from activities.frontend import Frontend
    from activities.key_vault import KeyVault
    from cleanroom.identifiers import FRONTEND_QUEUE
    from cleanroom.messages.publish import (
        AccessOrder,
        FederationOrder,
        KeyOrder,
        PublishDatasetInput,
        PublishedDataset,
    )
    from cleanroom.temporal.retries import PROPAGATION, STANDARD
    from workflows.publication import A_DAY, CLOSING_STEPS, Publication
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


@workflow.defn(name="PublishAzureDataset")
class PublishAzureDataset:
    """Publish an encrypted dataset whose key lies in the owner's Key Vault, released to the clean room alone."""

    @workflow.init
    def __init__(self, input: PublishDatasetInput) -> None:
        self._story = Story(f"Publish dataset {input.spec.name} of {input.party} (Azure)", STEPS, kind="dataset")
        self._published: PublishedDataset | None = None

    @workflow.run
    async def run(self, input: PublishDatasetInput) -> PublishedDataset:
        async with self._story.report_outcome():
            return await self._publish(input)

    async def _publish(self, input: PublishDatasetInput) -> PublishedDataset:
        story = self._story
        publication = Publication(input, story)
        order, own, queue = publication.order, publication.own, publication.queue
        spreading = PROPAGATION.within(A_DAY)
        story.stage("identity")
        identity = await story.step(
            "identity",
            workflow.execute_activity_method(
                AzureAd.create_managed_identity, order, **own.config(f"managed identity for {input.spec.name}", task_queue=queue)
            ),
        )
        access = AccessOrder(order=order, identity=identity)
        _, _, (clean_room, policy) = await asyncio.gather(
            story.step(
                "blob",
                workflow.execute_activity_method(
                    Blob.allow_access_blob, access, **spreading.config("role on the storage account", task_queue=queue)
                ),
            ),
            story.step(
                "vault",
                workflow.execute_activity_method(
                    KeyVault.allow_access_key_vault, access, **spreading.config("role on the key vault", task_queue=queue)
                ),
            ),
            story.step(
                "details",
                asyncio.gather(
                    workflow.execute_activity_method(
                        Frontend.get_clean_room_identity,
                        publication.details,
                        **STANDARD.config("issuer, subject, audience", task_queue=FRONTEND_QUEUE),
                    ),
                    publication.get_clean_room_policy(),
                ),
            ),
        )
        story.stage("key")
        await story.step(
            "federation",
            workflow.execute_activity_method(
                AzureAd.set_federation,
                FederationOrder(order=order, identity=identity, clean_room=clean_room),
                **spreading.config(f"federated credential for {clean_room.subject}", task_queue=queue),
            ),
        )
        key = await story.step(
            "key",
            workflow.execute_activity_method(
                KeyVault.set_key_with_skr,
                KeyOrder(order=order, policy=policy),
                **spreading.config("RSA key with release policy; wrap the dataset key", task_queue=queue),
            ),
        )
        story.stage("publish")
        location = await workflow.execute_activity_method(
            Blob.locate_blob_store, order, **own.config("where the rows are", task_queue=queue)
        )
        self._published = await publication.publish(location.url, identity=identity, clean_room=clean_room, encryption_key=key)
        return self._published

    @workflow.query(description="The published document, once it is accepted.")
    def published(self) -> PublishedDataset | None:
        return self._published

    @workflow.query(description="The steps of the diagram and where each stands.")
    def timeline(self) -> tuple[str, ...]:
        return self._story.lines()
