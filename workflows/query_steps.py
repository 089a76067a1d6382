"""The arrows of diagram "Publish Query": each method is one activity on the queue of the participant that performs it."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
from cleanroom.messages.query import (
    AuthorMessage,
    AuthorOrder,
    BallotRecorded,
    DatasetOwners,
    DraftOrder,
    DraftStored,
    GenerateQueryRequest,
    GovernanceQueryState,
    OwnersRequest,
    ProposeQueryOrder,
    ProposerOrder,
    PublishQueryInput,
    QueryChangeRequest,
    QueryDraft,
    QueryProposed,
    VerifiedDecision,
    VerifyDecisionRequest,
    VoteOrder,
    WithdrawOrder,
)
from cleanroom.temporal.retries import NO_RETRY, POLL, STANDARD
from workflows.query_life import QueryLife

A_DAY = timedelta(days=1)
"""A collaborator's worker may be started later; so long is given to it."""
FOR_EVER = timedelta(days=366)
"""Of the poll of governance: longer than any deadline; every new history begins it anew."""


class QuerySteps:
    """Calls for one query; what they say is taken from its life at the moment of the call."""

    def __init__(self, input: PublishQueryInput, life: QueryLife) -> None:
        self._collaboration = input.collaboration
        self._proposer = input.proposer
        self._life = life
        self.interval = timedelta(seconds=input.reconcile_seconds)

    def order(self, message: AuthorMessage) -> AuthorOrder:
        """The author's message as their own worker takes it."""
        return AuthorOrder(
            collaboration=self._collaboration, query=self._life.query, spec=message.spec, authorisation=message.authorisation
        )

    async def generate_query_document(self, order: AuthorOrder) -> QueryDraft:
        assert order.spec is not None
        return await workflow.execute_activity_method(
            Frontend.generate_query_document,
            GenerateQueryRequest(collaboration=order.collaboration, spec=order.spec, proposer_id=self._proposer.user_id),
            **STANDARD.config("query document; gate and lineage", task_queue=FRONTEND_QUEUE),
        )

    async def store_draft(self, party: str, order: AuthorOrder, draft: QueryDraft, *, create: bool) -> DraftStored:
        return await workflow.execute_activity_method(
            CollaboratorGovernance.create_document if create else CollaboratorGovernance.update_document,
            DraftOrder(order=order, draft=draft, version=self._life.version),
            **STANDARD.within(A_DAY).config(
                f"{'create' if create else 'update'} {draft.document_id} as {party}", task_queue=collaborator_queue(party)
            ),
        )

    async def determine_dataset_owners(self) -> DatasetOwners:
        return await workflow.execute_activity_method(
            Frontend.determine_dataset_owners,
            OwnersRequest(collaboration=self._collaboration, query=self._life.query),
            **STANDARD.config("owners of every input and of the output", task_queue=FRONTEND_QUEUE),
        )

    async def propose_query(self, on: ProposerOrder, owners: DatasetOwners) -> QueryProposed:
        names = ", ".join(map(self._life.name, owners.owners))
        return await workflow.execute_activity_method(
            CollaboratorGovernance.propose_query,
            ProposeQueryOrder(order=on.order, owners=owners.owners, version=owners.version, digest=owners.digest),
            **STANDARD.within(A_DAY).config(f"propose {self._life.query}, approvers: {names}", task_queue=collaborator_queue(on.party)),
        )

    async def confirm_order(self, on: ProposerOrder) -> None:
        await workflow.execute_activity_method(
            CollaboratorGovernance.confirm_order,
            on.order,
            **NO_RETRY.within(A_DAY).config("the author's order", task_queue=collaborator_queue(on.party)),
        )

    async def withdraw_proposal(self, on: ProposerOrder, proposal_id: str, *, expired: bool = False) -> None:
        await workflow.execute_activity_method(
            CollaboratorGovernance.withdraw_proposal,
            WithdrawOrder(order=on.order, proposal_id=proposal_id, expired=expired),
            **STANDARD.within(A_DAY).config(
                "withdraw what has expired" if expired else "withdraw the proposal", task_queue=collaborator_queue(on.party)
            ),
        )

    async def verify_decision(self, token: str) -> VerifiedDecision:
        life = self._life
        return await workflow.execute_activity_method(
            Frontend.verify_decision,
            VerifyDecisionRequest(
                collaboration=self._collaboration,
                query=life.query,
                proposal_id=life.proposal_id,
                version=life.version,
                digest=life.digest,
                owners=life.owners,
                token=token,
            ),
            **STANDARD.config("signature, version, digest, approver", task_queue=FRONTEND_QUEUE),
        )

    async def cast(self, decision: VerifiedDecision, token: str) -> BallotRecorded:
        """``accept_query`` or ``reject_query``, as long as the decision is good."""
        life, name = self._life, self._life.name(decision.approver_id)
        remaining = max(decision.expires - workflow.now(), timedelta(seconds=1))
        return await workflow.execute_activity_method(
            CollaboratorGovernance.accept_query if decision.decision == "approve" else CollaboratorGovernance.reject_query,
            VoteOrder(
                collaboration=self._collaboration,
                query=life.query,
                proposal_id=life.proposal_id,
                version=life.version,
                digest=life.digest,
                token=token,
            ),
            **STANDARD.within(remaining).config(f"{decision.decision} {life.query} as {name}", task_queue=collaborator_queue(name)),
        )

    async def await_query_change(self) -> GovernanceQueryState:
        """Poll governance outside of history until it says something else than is shown."""
        config = POLL.within(FOR_EVER).config("votes cast elsewhere", task_queue=FRONTEND_QUEUE)
        config["retry_policy"] = RetryPolicy(initial_interval=self.interval, backoff_coefficient=1, maximum_interval=self.interval)
        request = QueryChangeRequest(collaboration=self._collaboration, query=self._life.query, known=self._life.known())
        return await workflow.execute_activity_method(Frontend.await_query_change, request, **config)
