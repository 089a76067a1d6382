"""Diagram "Publish Dataset - Off Azure Collaborator": each arrow is one activity on the queue of the participant that performs it."""

from __future__ import annotations

import asyncio
from typing import Literal

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.collaborator import CollaboratorGovernance
    from activities.s3 import S3
    from cleanroom.messages.publish import CleanRoomPolicy, PublishDatasetInput, PublishedDataset, SecretRequest, StoredSecret
    from workflows.publication import CLOSING_STEPS, Publication
    from workflows.story import Story

STEPS = {
    "connection": "Get connection secret (read by reference, checked against the store)",
    "policy": "Get clean room security policy",
    "set-connection": "Set secret: connection secret",
    "set-key": "Set secret: encryption key",
    **CLOSING_STEPS,
}


@workflow.defn(name="PublishS3Dataset", versioning_behavior=VersioningBehavior.PINNED)
class PublishS3Dataset:
    """Publishes an encrypted dataset in S3. Governance holds its connection secret and key, for release to the clean room only.

    The secrets go from the owner's worker directly to governance. They are never in a message.
    """

    @workflow.init
    def __init__(self, input: PublishDatasetInput) -> None:
        self._story = Story(f"Publish dataset {input.spec.name} of {input.party} (off Azure)", STEPS, kind="dataset")
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

        async def set_secret(kind: Literal["connection", "key"], policy: CleanRoomPolicy, summary: str) -> StoredSecret:
            return await workflow.execute_activity_method(
                CollaboratorGovernance.set_secret,
                SecretRequest(dataset=dataset, kind=kind, policy=policy),
                **retries.config(summary, task_queue=queue),
            )

        story.stage("secrets")
        await story.step(
            "connection",
            workflow.execute_activity_method(
                S3.get_connection_secret, dataset, **retries.config("open the bucket with the secret", task_queue=queue)
            ),
        )
        policy = await story.step("policy", publication.get_clean_room_policy())
        secrets = await asyncio.gather(
            story.step("set-connection", set_secret("connection", policy, "connection secret into governance")),
            story.step("set-key", set_secret("key", policy, "encryption key into governance")),
        )
        story.stage("publish")
        location = await workflow.execute_activity_method(
            S3.locate_s3_store, dataset, **retries.config("endpoint and region of the store", task_queue=queue)
        )
        self._published = await publication.publish(location.url, region=location.region, secrets=tuple(secrets))
        return self._published

    @workflow.query(description="The published document, or null before it is accepted.")
    def published(self) -> PublishedDataset | None:
        """Return the published document."""
        return self._published

    @workflow.query(description="The steps of the diagram and their states.")
    def timeline(self) -> tuple[str, ...]:
        """Return one line per step."""
        return self._story.lines()
