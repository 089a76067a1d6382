"""Diagram "Publish Dataset, Azure collaborator": every arrow is an activity on the queue of the participant that performs it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.azure_ad import AzureAd
    from activities.blob import Blob
    from activities.collaborator import CollaboratorGovernance
    from activities.frontend import Frontend
    from activities.key_vault import KeyVault
    from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
    from cleanroom.messages.publish import (
        AcceptOrder,
        AccessOrder,
        CleanRoomDetailsRequest,
        DescriptorRequest,
        FederationOrder,
        KeyOrder,
        OwnerOrder,
        ProposeOrder,
        PublishDatasetInput,
        PublishedDataset,
    )
    from cleanroom.temporal.retries import PROPAGATION, STANDARD
    from workflows.story import Story

STEPS = {
    "identity": "Create managed identity",
    "blob": "Allow the identity on Blob storage",
    "vault": "Allow the identity on Key Vault",
    "details": "Get clean room details (identity and security policy)",
    "federation": "Set federation",
    "key": "Set key with secure key release",
    "descriptor": "Generate dataset descriptor",
    "propose": "Propose document",
    "accept": "Accept document",
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
        async with self._story.told():
            return await self._publish(input)

    async def _publish(self, input: PublishDatasetInput) -> PublishedDataset:
        story = self._story
        order = OwnerOrder(collaboration=input.collaboration, spec=input.spec, authorisation=input.authorisation)
        queue = collaborator_queue(input.party)
        # The owner's worker may be started later; a day is given to it.
        own = STANDARD.within(timedelta(days=1))
        spreading = PROPAGATION.within(timedelta(days=1))
        story.stage("identity")
        identity = await story.step(
            "identity",
            workflow.execute_activity_method(
                AzureAd.create_managed_identity, order, **own.config(f"managed identity for {input.spec.name}", task_queue=queue)
            ),
        )
        access = AccessOrder(order=order, identity=identity)
        details = CleanRoomDetailsRequest(collaboration=input.collaboration, owner_id=input.owner_id)
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
                        Frontend.get_clean_room_identity, details, **STANDARD.config("issuer, subject, audience", task_queue=FRONTEND_QUEUE)
                    ),
                    workflow.execute_activity_method(
                        Frontend.get_clean_room_policy, details, **STANDARD.config("host data of the clean room", task_queue=FRONTEND_QUEUE)
                    ),
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
        descriptor = await story.step(
            "descriptor",
            workflow.execute_activity_method(
                Frontend.generate_dataset_descriptor,
                DescriptorRequest(
                    collaboration=input.collaboration,
                    owner_id=input.owner_id,
                    spec=input.spec,
                    store_url=location.url,
                    identity=identity,
                    clean_room=clean_room,
                    encryption_key=key,
                ),
                **STANDARD.config("dataset document", task_queue=FRONTEND_QUEUE),
            ),
        )
        proposed = await story.step(
            "propose",
            workflow.execute_activity_method(
                CollaboratorGovernance.propose_document,
                ProposeOrder(order=order, descriptor=descriptor),
                **own.config(f"propose {descriptor.document_id}, approver: {input.party}", task_queue=queue),
            ),
        )
        self._published = await story.step(
            "accept",
            workflow.execute_activity_method(
                CollaboratorGovernance.accept_document,
                AcceptOrder(order=order, proposed=proposed),
                **own.config(f"accept {descriptor.document_id} as {input.party}", task_queue=queue),
            ),
        )
        return self._published

    @workflow.query(description="The published document, once it is accepted.")
    def published(self) -> PublishedDataset | None:
        return self._published

    @workflow.query(description="The steps of the diagram and where each stands.")
    def timeline(self) -> tuple[str, ...]:
        return self._story.lines()
