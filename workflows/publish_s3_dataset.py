"""Diagram "Publish Dataset, off-Azure collaborator": secrets go from the owner's own worker straight to governance."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.collaborator import CollaboratorGovernance
    from activities.s3 import S3
    from cleanroom.messages.publish import (
        PublishDatasetInput,
        PublishedDataset,
        SecretOrder,
    )
    from workflows.publication import CLOSING_STEPS, Publication
    from workflows.story import Story

STEPS = {
    "connection": "Get connection secret (by reference, checked against the store)",
    "policy": "Get clean room security policy",
    "set-connection": "Set secret: connection secret",
    "set-key": "Set secret: encryption key",
    **CLOSING_STEPS,
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
        async with self._story.report_outcome():
            return await self._publish(input)

    async def _publish(self, input: PublishDatasetInput) -> PublishedDataset:
        story = self._story
        publication = Publication(input, story)
        order, own, queue = publication.order, publication.own, publication.queue
        story.stage("secrets")
        await story.step(
            "connection",
            workflow.execute_activity_method(
                S3.get_connection_secret, order, **own.config("the secret opens the bucket", task_queue=queue)
            ),
        )
        policy = await story.step("policy", publication.get_clean_room_policy())
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
        self._published = await publication.publish(location.url, region=location.region, secrets=tuple(secrets))
        return self._published

    @workflow.query(description="The published document, once it is accepted.")
    def published(self) -> PublishedDataset | None:
        return self._published

    @workflow.query(description="The steps of the diagram and where each stands.")
    def timeline(self) -> tuple[str, ...]:
        return self._story.lines()
