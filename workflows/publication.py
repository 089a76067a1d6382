"""What both "Publish Dataset" diagrams share: whose dataset it is, on whose order, and the arrows from descriptor to accepted document."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow

from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
from cleanroom.messages.publish import (
    AcceptOrder,
    CleanRoomDetailsRequest,
    CleanRoomPolicy,
    DescriptorRequest,
    OwnerOrder,
    ProposeOrder,
    PublishDatasetInput,
    PublishedDataset,
)
from cleanroom.temporal.retries import STANDARD
from workflows.story import Story

A_DAY = timedelta(days=1)
"""The owner's worker may be started later; so long is given to it."""

CLOSING_STEPS = {
    "descriptor": "Generate dataset descriptor",
    "propose": "Propose document",
    "accept": "Accept document",
}


class Publication:
    """One dataset on its way into governance."""

    def __init__(self, input: PublishDatasetInput, story: Story) -> None:
        self._input = input
        self._story = story
        self.order = OwnerOrder(collaboration=input.collaboration, spec=input.spec, authorisation=input.authorisation)
        self.queue = collaborator_queue(input.party)
        self.own = STANDARD.within(A_DAY)
        """Timing of a step on the owner's queue."""
        self.details = CleanRoomDetailsRequest(collaboration=input.collaboration, owner_id=input.owner_id)

    async def get_clean_room_policy(self) -> CleanRoomPolicy:
        return await workflow.execute_activity_method(
            Frontend.get_clean_room_policy,
            self.details,
            **STANDARD.config("host data of the clean room", task_queue=FRONTEND_QUEUE),
        )

    async def publish(self, store_url: str, **parts: Any) -> PublishedDataset:
        """Descriptor, proposal, acceptance; ``parts`` are the members of :class:`DescriptorRequest` in which the diagrams differ."""
        input, story = self._input, self._story
        descriptor = await story.step(
            "descriptor",
            workflow.execute_activity_method(
                Frontend.generate_dataset_descriptor,
                DescriptorRequest(
                    collaboration=input.collaboration, owner_id=input.owner_id, spec=input.spec, store_url=store_url, **parts
                ),
                **STANDARD.config("dataset document", task_queue=FRONTEND_QUEUE),
            ),
        )
        proposed = await story.step(
            "propose",
            workflow.execute_activity_method(
                CollaboratorGovernance.propose_document,
                ProposeOrder(order=self.order, descriptor=descriptor),
                **self.own.config(f"propose {descriptor.document_id}, approver: {input.party}", task_queue=self.queue),
            ),
        )
        return await story.step(
            "accept",
            workflow.execute_activity_method(
                CollaboratorGovernance.accept_document,
                AcceptOrder(order=self.order, proposed=proposed),
                **self.own.config(f"accept {descriptor.document_id} as {input.party}", task_queue=self.queue),
            ),
        )
