"""The part that both "Publish Dataset" diagrams share: from the generated descriptor to the accepted document."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow

from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
from cleanroom.messages.publish import (
    AcceptDocumentRequest,
    AuthorisedDataset,
    CleanRoomDetailsRequest,
    CleanRoomPolicy,
    DescriptorRequest,
    ProposeDocumentRequest,
    PublishDatasetInput,
    PublishedDataset,
)
from cleanroom.temporal.retries import STANDARD
from workflows.story import Story

OWNER_TIMEOUT = timedelta(days=1)
"""Timeout of a step on the owner's queue. The owner's worker may not be running when the step is scheduled."""

CLOSING_STEPS = {
    "descriptor": "Generate dataset descriptor",
    "propose": "Propose document",
    "accept": "Accept document",
}


class Publication:
    """Steps and values that publishing needs for every kind of dataset."""

    def __init__(self, input: PublishDatasetInput, story: Story) -> None:
        self._input = input
        self._story = story
        self.dataset = AuthorisedDataset(collaboration=input.collaboration, spec=input.spec, authorisation=input.authorisation)
        self.queue = collaborator_queue(input.party)
        self.owner_retries = STANDARD.within(OWNER_TIMEOUT)
        """Timing of a step on the owner's queue."""
        self.details = CleanRoomDetailsRequest(collaboration=input.collaboration, owner_id=input.owner_id)

    async def get_clean_room_policy(self) -> CleanRoomPolicy:
        """Read the contract's clean room policy: arrow "Get Clean Room Security Policy"."""
        return await workflow.execute_activity_method(
            Frontend.get_clean_room_policy,
            self.details,
            **STANDARD.config("host data of the clean room", task_queue=FRONTEND_QUEUE),
        )

    async def publish(self, store_url: str, **parts: Any) -> PublishedDataset:
        """Generate the descriptor, propose it and accept it.

        Args:
            store_url: URL of the store.
            parts: The members of :class:`DescriptorRequest` that only one kind of dataset has.
        """
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
                ProposeDocumentRequest(dataset=self.dataset, descriptor=descriptor),
                **self.owner_retries.config(f"propose {descriptor.document_id}, approver: {input.party}", task_queue=self.queue),
            ),
        )
        return await story.step(
            "accept",
            workflow.execute_activity_method(
                CollaboratorGovernance.accept_document,
                AcceptDocumentRequest(dataset=self.dataset, proposed=proposed),
                **self.owner_retries.config(f"accept {descriptor.document_id} as {input.party}", task_queue=self.queue),
            ),
        )
