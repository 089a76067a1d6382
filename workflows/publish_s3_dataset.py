"""Diagram "Publish Dataset, off-Azure collaborator": secrets go from the owner's own worker straight to governance."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.collaborator import CollaboratorGovernance
    from activities.frontend import Frontend
    from activities.s3 import S3
    from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
    from cleanroom.messages.publish import (
        AcceptOrder,
        CleanRoomDetailsRequest,
        DescriptorRequest,
        OwnerOrder,
        ProposeOrder,
        PublishDatasetInput,
        PublishedDataset,
        SecretOrder,
    )
    from cleanroom.temporal.retries import STANDARD
    from workflows.story import Story

STEPS = {
    "connection": "Get connection secret (by reference, checked against the store)",
    "policy": "Get clean room security policy",
    "set-connection": "Set secret: connection secret",
    "set-key": "Set secret: encryption key",
    "descriptor": "Generate dataset descriptor",
    "propose": "Propose document",
    "accept": "Accept document",
}


@workflow.defn(name="PublishS3Dataset")
class PublishS3Dataset:
    """Publish an encrypted dataset in S3 whose connection secret and key are held by governance under the clean room policy."""

    @workflow.init
    def __init__(self, input: PublishDatasetInput) -> None:
        self._story = Story(f"Publish dataset {input.spec.name} of {input.party} (off Azure)", STEPS, kind="dataset")
        self._published: PublishedDataset | None = None

    @workflow.run
    async def run(self, input: PublishDatasetInput) -> PublishedDataset:
        async with self._story.told():
            return await self._publish(input)

    async def _publish(self, input: PublishDatasetInput) -> PublishedDataset:
        story = self._story
        order = OwnerOrder(collaboration=input.collaboration, spec=input.spec, authorisation=input.authorisation)
        queue = collaborator_queue(input.party)
        own = STANDARD.within(timedelta(days=1))
        details = CleanRoomDetailsRequest(collaboration=input.collaboration, owner_id=input.owner_id)
        story.stage("secrets")
        await story.step(
            "connection",
            workflow.execute_activity_method(
                S3.get_connection_secret, order, **own.config("the secret opens the bucket", task_queue=queue)
            ),
        )
        policy = await story.step(
            "policy",
            workflow.execute_activity_method(
                Frontend.get_clean_room_policy, details, **STANDARD.config("host data of the clean room", task_queue=FRONTEND_QUEUE)
            ),
        )
        secrets = await asyncio.gather(
            story.step(
                "set-connection",
                workflow.execute_activity_method(
                    CollaboratorGovernance.set_secret,
                    SecretOrder(order=order, kind="connection", policy=policy),
                    **own.config("connection secret into governance", task_queue=queue),
                ),
            ),
            story.step(
                "set-key",
                workflow.execute_activity_method(
                    CollaboratorGovernance.set_secret,
                    SecretOrder(order=order, kind="key", policy=policy),
                    **own.config("encryption key into governance", task_queue=queue),
                ),
            ),
        )
        story.stage("publish")
        location = await workflow.execute_activity_method(S3.locate_s3_store, order, **own.config("where the rows are", task_queue=queue))
        descriptor = await story.step(
            "descriptor",
            workflow.execute_activity_method(
                Frontend.generate_dataset_descriptor,
                DescriptorRequest(
                    collaboration=input.collaboration,
                    owner_id=input.owner_id,
                    spec=input.spec,
                    store_url=location.url,
                    region=location.region,
                    secrets=tuple(secrets),
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
