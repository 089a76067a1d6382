"""The arrows of diagram "Publish Query": each method schedules one activity on the queue of the participant that performs it."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from activities.notifications import Notifications
from cleanroom.documents.specs import QuerySpec
from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue, latest_transaction
from cleanroom.messages.query import (
    AuthorisedCommand,
    BallotRecorded,
    DatasetOwners,
    DraftRequest,
    DraftStored,
    GenerateQueryRequest,
    GovernanceQueryState,
    NotifyRequest,
    OwnersRequest,
    PendingNotification,
    ProposeQueryRequest,
    PublishQueryInput,
    QueryChangeRequest,
    QueryDraft,
    QueryProposed,
    VerifiedDecision,
    VerifyDecisionRequest,
    VoteRequest,
    WithdrawRequest,
)
from cleanroom.temporal.retries import NOTIFY, STANDARD
from workflows.query_state import QueryStateMachine

COLLABORATOR_TIMEOUT = timedelta(days=1)
"""Timeout of a step on a collaborator's queue. The collaborator's worker may not be running when the step is scheduled."""
NOTIFICATION_TIMEOUT = timedelta(days=1)
"""How long a reminder waits for the recipient's worker."""
OPERATOR = "operator"
"""Recipient of the notifications that the frontend's worker sends."""


class QuerySteps:
    """Activity calls for one query, with arguments from the state of the query at the time of the call."""

    def __init__(self, input: PublishQueryInput, query: QueryStateMachine) -> None:
        self._collaboration = input.collaboration
        self._proposer = input.proposer
        self.proposer = input.proposer.name
        self._query = query

    def authorised_command(self, party: str, authorisation: str, spec: QuerySpec | None, seen: str = "") -> AuthorisedCommand:
        """Return a command in the form that the author's worker takes."""
        return AuthorisedCommand(
            party=party,
            collaboration=self._collaboration,
            query=self._query.name,
            spec=spec,
            authorisation=authorisation,
            seen=latest_transaction(self._query.seen, seen),
        )

    async def generate_query_document(self, spec: QuerySpec) -> QueryDraft:
        """Generate the query document: the diagram's note "Generate Query Document"."""
        return await workflow.execute_activity_method(
            Frontend.generate_query_document,
            GenerateQueryRequest(collaboration=self._collaboration, spec=spec, proposer_id=self._proposer.user_id, seen=self._query.seen),
            **STANDARD.config("query document; gate and lineage", task_queue=FRONTEND_QUEUE),
        )

    async def store_draft(self, command: AuthorisedCommand, draft: QueryDraft, *, create: bool) -> DraftStored:
        """Write the draft: arrow "Create Document" or "Update Document"."""
        stored = await workflow.execute_activity_method(
            CollaboratorGovernance.create_document if create else CollaboratorGovernance.update_document,
            DraftRequest(command=command, draft=draft),
            **STANDARD.within(COLLABORATOR_TIMEOUT).config(
                f"{'create' if create else 'update'} {draft.document_id} as {command.party}", task_queue=collaborator_queue(command.party)
            ),
        )
        self._query.saw(stored.seen)
        return stored

    async def determine_dataset_owners(self) -> DatasetOwners:
        """Derive the approvers: the diagram's note "Determine Dataset Owners"."""
        owners = await workflow.execute_activity_method(
            Frontend.determine_dataset_owners,
            OwnersRequest(collaboration=self._collaboration, query=self._query.name, seen=self._query.seen),
            **STANDARD.config("owners of every input and of the output", task_queue=FRONTEND_QUEUE),
        )
        self._query.saw(owners.seen)
        return owners

    async def propose_query(self, command: AuthorisedCommand, owners: DatasetOwners) -> QueryProposed:
        """Propose the draft: arrow "Propose Document"."""
        names = ", ".join(map(self._query.display_name, owners.owners))
        command = command.model_copy(update={"seen": latest_transaction(command.seen, owners.seen, self._query.seen)})
        proposed = await workflow.execute_activity_method(
            CollaboratorGovernance.propose_query,
            ProposeQueryRequest(command=command, owners=owners.owners),
            **STANDARD.within(COLLABORATOR_TIMEOUT).config(
                f"propose {self._query.name}, approvers: {names}", task_queue=collaborator_queue(command.party)
            ),
        )
        self._query.saw(proposed.seen)
        return proposed

    async def confirm_withdrawal(self, command: AuthorisedCommand) -> None:
        """Verify the author's authorisation to close the draft that governance holds."""
        await workflow.execute_activity_method(
            CollaboratorGovernance.confirm_withdrawal,
            command,
            **STANDARD.within(COLLABORATOR_TIMEOUT).config(
                f"verify the withdrawal by {command.party}", task_queue=collaborator_queue(command.party)
            ),
        )

    async def withdraw_proposal(self, command: AuthorisedCommand, proposal_id: str, *, expired: bool = False) -> None:
        """Withdraw the open proposal."""
        command = command.model_copy(update={"seen": latest_transaction(command.seen, self._query.seen)})
        withdrawn = await workflow.execute_activity_method(
            CollaboratorGovernance.withdraw_proposal,
            WithdrawRequest(command=command, proposal_id=proposal_id, expired=expired),
            **STANDARD.within(COLLABORATOR_TIMEOUT).config(
                "withdraw the expired proposal" if expired else "withdraw the proposal", task_queue=collaborator_queue(command.party)
            ),
        )
        self._query.saw(withdrawn.seen)

    async def verify_decision(self, token: str, seen: str) -> VerifiedDecision:
        """Verify a signed decision against the open proposal. Its signer has seen the transaction ``seen``."""
        query = self._query
        return await workflow.execute_activity_method(
            Frontend.verify_decision,
            VerifyDecisionRequest(
                collaboration=self._collaboration,
                query=query.name,
                proposal_id=query.proposal_id,
                version=query.version,
                digest=query.digest,
                owners=query.owners,
                token=token,
                seen=latest_transaction(query.seen, seen),
            ),
            **STANDARD.config("signature, version, digest, approver", task_queue=FRONTEND_QUEUE),
        )

    async def cast_vote(self, decision: VerifiedDecision, token: str) -> BallotRecorded:
        """Cast a vote: arrow "Accept Document". The step times out when the decision expires."""
        query, name = self._query, self._query.display_name(decision.approver_id)
        remaining = max(decision.expires - workflow.now(), timedelta(seconds=1))
        recorded = await workflow.execute_activity_method(
            CollaboratorGovernance.accept_query if decision.decision == "approve" else CollaboratorGovernance.reject_query,
            VoteRequest(
                collaboration=self._collaboration,
                query=query.name,
                proposal_id=query.proposal_id,
                version=query.version,
                digest=query.digest,
                token=token,
                seen=query.seen,
            ),
            **STANDARD.within(remaining).config(f"{decision.decision} {query.name} as {name}", task_queue=collaborator_queue(name)),
        )
        query.saw(recorded.seen)
        return recorded

    async def notify(self, item: PendingNotification) -> None:
        """Notify a collaborator through the collaborator's own worker, or the operator through the frontend's."""
        query = self._query
        assert query.expires is not None
        operator = item.recipient == OPERATOR
        await workflow.execute_activity_method(
            Notifications.notify,
            NotifyRequest(
                collaboration=self._collaboration,
                query=query.name,
                proposal_id=item.proposal_id,
                kind=item.kind,
                recipient=item.recipient,
                expires=query.expires,
                seen=query.seen,
            ),
            **NOTIFY.within(NOTIFICATION_TIMEOUT).config(
                f"{item.kind} to {item.recipient}", task_queue=FRONTEND_QUEUE if operator else collaborator_queue(item.recipient)
            ),
        )

    async def find_query_change(self) -> GovernanceQueryState | None:
        """Read the state of the query in governance; None if it is the expected one."""
        request = QueryChangeRequest(
            collaboration=self._collaboration, query=self._query.name, known=self._query.expected_governance_state()
        )
        return await workflow.execute_activity_method(
            Frontend.find_query_change, request, **STANDARD.config("changes in governance", task_queue=FRONTEND_QUEUE)
        )
