"""Is this run allowed? The checks of the Prepare diagram, each from governance itself, each with its own code.

Order as in the diagram: users and caller, query, dataset access and approvals, consent. Every check is a method, so that
the workflow can show them as separate steps; :meth:`RunAuthority.authorise` does all of them, which is what an activity
that releases something calls.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from cleanroom.documents.dataset import DatasetDocument, parse_dataset
from cleanroom.documents.query import QueryDocument, parse_query
from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.identifiers import approver_key_document_id, sha256_hex
from cleanroom.messages.run import RunTicket
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_id, parse_decision_document
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader
from cleanroom.statements.keys import KeyDocument, parse_key_document
from cleanroom.statements.model import Decision, RunRequest
from cleanroom.statements.signing import peek, verify


@dataclass(frozen=True)
class Dataset:
    """A dataset document, read and checked."""

    document: AcceptedDocument
    dataset: DatasetDocument
    view: str

    @property
    def owner_id(self) -> str:
        return self.document.proposer_id


@dataclass(frozen=True)
class AuthorisedRun:
    """Everything that governance says about one run, from one reading."""

    request: RunRequest
    request_digest: str
    document: AcceptedDocument
    query: QueryDocument
    inputs: tuple[Dataset, ...]
    sink: Dataset
    owners: tuple[str, ...]
    approved_by: tuple[str, ...]
    runs_left: int | None

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        return (*self.inputs, self.sink)

    def dataset(self, name: str) -> Dataset:
        """The dataset called ``name``.

        Raises:
            Refused: ``DatasetNotInQuery``.
        """
        for item in self.datasets:
            if item.dataset.name == name:
                return item
        raise Refused("DatasetNotInQuery", f"dataset {name!r} is not part of query {self.query.name!r}.")


def service_nonce(ticket: RunTicket) -> str:
    """The nonce of this run for the Spark service's report: SHA-256 of the signed request.

    The caller's signature covers a fresh nonce and an expiry, so nobody can know it before the caller asks for the run, and
    every activity can compute it again without keeping state.
    """
    return sha256_hex(b"cleanroom spark attestation\0" + ticket.request.encode())


async def published_keys(reader: GovernanceReader, collaboration: str, user_id: str) -> KeyDocument:
    """The signing keys that ``user_id`` published in governance.

    Raises:
        PreconditionFailed: ``ApproverKeyNotPublished``.
        Refused: ``ApproverKeyInvalid`` unless the user, and nobody else, vouched for the document.
    """
    document_id = approver_key_document_id(user_id)
    try:
        document = await reader.accepted_document(document_id)
    except NotFound as error:
        raise PreconditionFailed(
            "ApproverKeyNotPublished",
            f"user {user_id} has no accepted document {document_id}.",
            hint="They publish their key with `cleanroom key publish`.",
        ) from error
    if document.proposer_id != user_id or document.accepted_by != (user_id,) or document.contract_id != collaboration:
        raise Refused("ApproverKeyInvalid", f"{document_id}: not proposed and accepted by user {user_id} alone in this collaboration.")
    keys = parse_key_document(document.data, document_id=document_id)
    if keys.user_id != user_id:
        raise Refused("ApproverKeyInvalid", f"{document_id}: holds the key of {keys.user_id}.")
    return keys


class RunAuthority:
    """Checks one ticket against governance.

    Args:
        reader: How to read governance.
        collaboration: The contract this process serves; a ticket of another is refused.
        now: The clock.
    """

    def __init__(
        self, reader: GovernanceReader, collaboration: str, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    ) -> None:
        self._reader = reader
        self._collaboration = collaboration
        self._now = now

    async def caller(self, ticket: RunTicket, *, past: bool = False) -> tuple[RunRequest, int]:
        """Get users, validate the caller: registered, active, and really the signer of this request.

        Returns:
            The verified request and how many users governance knows.

        Raises:
            Refused: ``CallerNotAuthorized``, ``SignatureInvalid``, ``StatementExpired``, ``TicketMismatch`` …
        """
        if ticket.collaboration != self._collaboration:
            raise Refused("CollaborationMismatch", f"run: collaboration {ticket.collaboration!r} is not {self._collaboration!r}.")
        claimed = peek(RunRequest, ticket.request)
        users = await self._reader.active_users()
        if claimed.signer not in users and not past:
            raise Refused(
                "CallerNotAuthorized",
                f"caller: user {claimed.signer} is not an active user of collaboration {self._collaboration}.",
                party="operator",
                hint="Invite the user and let a member accept them (`cleanroom invite`).",
            )
        now = min(self._now(), claimed.expires - dt.timedelta(seconds=1)) if past else self._now()
        request = verify(
            RunRequest,
            ticket.request,
            await published_keys(self._reader, self._collaboration, claimed.signer),
            collaboration=self._collaboration,
            now=now,
        )
        if (request.query, request.run_id) != (ticket.query, ticket.run_id):
            raise Refused("TicketMismatch", "run: the signed request is for another query or run than the ticket says.")
        return request, len(users)

    async def fetch_query(self, ticket: RunTicket, request: RunRequest) -> tuple[AcceptedDocument, QueryDocument]:
        """Fetch the query; it must be accepted, ours, and the very text that the caller means.

        Raises:
            PreconditionFailed: ``QueryNotApproved``.
            Refused: ``QueryDigestMismatch``, ``ContractIdMismatch``, ``CallerNotAuthorized``, ``ParametersNotApproved``.
        """
        try:
            document = await self._reader.accepted_document(ticket.query)
        except NotFound as error:
            raise PreconditionFailed(
                "QueryNotApproved",
                f"query {ticket.query!r} is not approved, or does not exist.",
                cause=str(error),
                hint=f"`cleanroom query show {ticket.query}` says who has not voted yet.",
            ) from error
        self._same_contract(document)
        if document.digest != request.digest:
            raise Refused(
                "QueryDigestMismatch",
                f"query {ticket.query!r}: the accepted text has digest {document.digest[:16]}…, the run asks for {request.digest[:16]}….",
                details={"accepted": document.digest, "requested": request.digest},
            )
        query = parse_query(document.data, document_id=ticket.query)
        if query.name != ticket.query:
            raise Refused("QueryNameMismatch", f"query {ticket.query!r}: its document calls itself {query.name!r}.")
        if query.approval is None:
            raise Refused("QueryNotPinned", f"query {ticket.query!r} does not pin its datasets; it was not published by this system.")
        if query.approval.collaboration != self._collaboration:
            raise Refused(
                "CollaborationMismatch", f"query {ticket.query!r} was written for collaboration {query.approval.collaboration!r}."
            )
        _check_parameters(request, query)
        return document, query

    def _same_contract(self, document: AcceptedDocument) -> None:
        if document.contract_id != self._collaboration:
            raise Refused(
                "ContractIdMismatch", f"document {document.id!r} belongs to contract {document.contract_id!r}, not {self._collaboration!r}."
            )

    async def access_and_approvals(
        self, request: RunRequest, document: AcceptedDocument, query: QueryDocument, *, past: bool = False
    ) -> tuple[tuple[Dataset, ...], Dataset, tuple[str, ...], int | None]:
        """Validate dataset access and query approvals.

        Owners are derived from the dataset documents now, whatever the query document's approver list says (T5).

        Returns:
            Input datasets, the output dataset, the owners, and how many runs the approvals leave (None: unlimited).

        Raises:
            Refused: ``DatasetChanged``, ``AccessModeMismatch``, ``QueryMissingApprovalsFromDatasetOwners``, ``ApprovalExpired``,
                ``ApprovalRunsExhausted``, ``CallerNotAuthorized``.
            NotFound: ``UserDocumentNotFound`` for an unknown dataset.
        """
        approval = query.approval
        assert approval is not None
        wanted = [*query.application.input_dataset, query.application.output_dataset]
        if [item.specification for item in wanted] != [pin.id for pin in approval.datasets]:
            raise Refused("DatasetPinsMismatch", f"query {query.name!r}: its pins do not name its datasets in order.")
        datasets = await asyncio.gather(
            *(
                self._dataset(item.specification, item.view, pin.version, pin.digest, "write" if index == len(wanted) - 1 else "read")
                for index, (item, pin) in enumerate(zip(wanted, approval.datasets, strict=True))
            )
        )
        owners = tuple(sorted({item.owner_id for item in datasets}))
        missing = [owner for owner in owners if owner not in document.accepted_by]
        if missing:
            lacking = sorted({item.dataset.name for item in datasets if item.owner_id in missing})
            raise Refused(
                "QueryMissingApprovalsFromDatasetOwners",
                f"query {query.name!r}: the owners of {', '.join(lacking)} have not approved it.",
                details={"datasets": lacking, "owners": missing},
                hint="Every owner of an input and of the output must approve this exact version.",
            )
        if request.signer not in {approval.proposer_id, document.proposer_id, *owners}:
            raise Refused(
                "CallerNotAuthorized", f"caller: user {request.signer} neither proposed query {query.name!r} nor owns a dataset of it."
            )
        left = None if past else await self._decisions(request, document, owners)
        return tuple(datasets[:-1]), datasets[-1], owners, left

    async def _dataset(self, name: str, view: str, version: str, digest: str, mode: str) -> Dataset:
        document = await self._reader.accepted_document(name)
        self._same_contract(document)
        if (document.version, document.digest) != (version, digest):
            raise Refused(
                "DatasetChanged",
                f"dataset {name!r} is at version {document.version}; the query was approved on version {version}.",
                details={"approved": digest, "current": document.digest},
                hint="Propose the query again, so that the owners see what changed.",
            )
        dataset = parse_dataset(document.data, document_id=name)
        if dataset.name != name:
            raise Refused("DatasetNameMismatch", f"dataset {name!r}: its document calls itself {dataset.name!r}.")
        if dataset.dataset_access_policy.access_mode != mode:
            raise Refused(
                "AccessModeMismatch", f"dataset {name!r} allows {dataset.dataset_access_policy.access_mode}, the query wants {mode}."
            )
        if document.accepted_by != (document.proposer_id,):
            raise Refused("DatasetOwnerUnclear", f"dataset {name!r} was not proposed and accepted by one owner alone.")
        return Dataset(document, dataset, view)

    async def _decisions(self, request: RunRequest, document: AcceptedDocument, owners: tuple[str, ...]) -> int | None:
        """Every owner's signed decision, read from governance and verified; their limits are enforced."""
        limits: list[int] = []
        for owner, decision in zip(owners, await asyncio.gather(*(self._decision(document, owner) for owner in owners)), strict=True):
            if decision.decision != "approve":
                raise Refused("QueryMissingApprovalsFromDatasetOwners", f"query {document.id!r}: owner {owner} signed a rejection.")
            if decision.max_runs is not None:
                limits.append(decision.max_runs)
        if not limits:
            return None
        others = await self._reader.runs_started(document.id) - {request.run_id}
        left = min(limits) - len(others)
        if left < 1:
            raise Refused(
                "ApprovalRunsExhausted",
                f"query {document.id!r}: approved for {min(limits)} runs, and {len(others)} have started.",
                hint="Ask the owners for a new approval.",
            )
        return left

    async def still_counted(self, run: AuthorisedRun) -> None:
        """That the approvals still leave this run, once its start is in the ledger.

        Raises:
            Refused: ``ApprovalRunsExhausted``, ``ApprovalExpired`` …
        """
        await self._decisions(run.request, run.document, run.owners)

    async def _decision(self, document: AcceptedDocument, owner: str) -> Decision:
        document_id = decision_document_id(document.proposal_id, owner)
        try:
            stored = await self._reader.accepted_document(document_id)
        except NotFound as error:
            raise Refused(
                "SignedDecisionMissing",
                f"query {document.id!r}: owner {owner} voted, but published no signed decision on this version.",
                cause=str(error),
                hint="The owner approves with `cleanroom query approve`.",
            ) from error
        if stored.proposer_id != owner or stored.accepted_by != (owner,) or stored.labels.get("type") != DECISION_LABELS["type"]:
            raise Refused("SignedDecisionInvalid", f"{document_id}: not published by owner {owner} alone.")
        token = parse_decision_document(stored.data)
        try:
            decision = verify(
                Decision,
                token,
                await published_keys(self._reader, self._collaboration, owner),
                collaboration=self._collaboration,
                now=self._now(),
            )
        except CleanRoomError as error:
            code = "ApprovalExpired" if error.code == "StatementExpired" else error.code
            raise Refused(code, f"query {document.id!r}: owner {owner}'s approval: {error.message}") from error
        if (decision.query, decision.digest, decision.proposal_id) != (document.id, document.digest, document.proposal_id):
            raise Refused(
                "SignedDecisionInvalid", f"{document_id}: it decides on another text or proposal than that of query {document.id!r} now."
            )
        return decision

    async def consent(self, document_ids: list[str]) -> None:
        """Check execution consent of every document.

        Raises:
            Refused: the reason's own code, ``UserDocumentRuntimeOptionDisabled`` or ``UserDocumentNotAccepted``.
        """
        answers = await asyncio.gather(*(self._reader.consent(document_id) for document_id in document_ids))
        for document_id, answer in zip(document_ids, answers, strict=True):
            if answer.status != "enabled":
                raise Refused(
                    answer.code or "UserDocumentRuntimeOptionDisabled",
                    f"execution consent of {document_id!r} is disabled: {answer.message}",
                    details={"document": document_id},
                    hint="The approver who disabled it can enable it (`cleanroom consent on`).",
                )

    async def authorise(self, ticket: RunTicket, *, consent: bool = True, past: bool = False) -> AuthorisedRun:
        """All checks, from one reading. Raises what they raise.

        Args:
            consent: Whether consent is checked too.
            past: For undoing and recording what was begun: a request that has expired meanwhile and approvals that have ended
                do not matter; nothing may be released on such a reading.
        """
        request, _ = await self.caller(ticket, past=past)
        if not past and await self._reader.run_closed(request.run_id):
            raise Refused(
                "RunClosed",
                f"run {request.run_id!r}: its grants were taken back; a request is good for one run.",
                hint="Start another run.",
            )
        document, query = await self.fetch_query(ticket, request)
        inputs, sink, owners, left = await self.access_and_approvals(request, document, query, past=past)
        run = AuthorisedRun(
            request=request,
            request_digest=sha256_hex(ticket.request.encode()),
            document=document,
            query=query,
            inputs=inputs,
            sink=sink,
            owners=owners,
            approved_by=document.accepted_by,
            runs_left=left,
        )
        if consent:
            await self.consent([document.id, *(item.document.id for item in run.datasets)])
        return run


def _check_parameters(request: RunRequest, query: QueryDocument) -> None:
    """Run parameters must lie within what was approved: unmeasured or unbounded parameters widen access (T11)."""
    approval = query.approval
    assert approval is not None
    start, end = request.parameters.start_date, request.parameters.end_date
    if (start is None) != (end is None):
        raise InvalidInput("InvalidDateRange", "parameters: give both startDate and endDate, or neither.")
    allowed = approval.parameters
    if start is None or end is None:
        if allowed.earliest or allowed.latest:
            # No range would read every day there is, also those outside of what was approved.
            raise Refused(
                "ParametersNotApproved",
                f"query {query.name!r} was approved for {allowed.earliest or 'the beginning'} to {allowed.latest or 'the end'} only, "
                "and the request names no days.",
                hint="Give startDate and endDate within them.",
            )
        return
    try:
        first, last = dt.date.fromisoformat(start), dt.date.fromisoformat(end)
    except ValueError as error:
        raise InvalidInput("InvalidDateFormat", f"parameters: {start!r} to {end!r} are not days yyyy-MM-dd.", cause=str(error)) from error
    if first > last:
        raise InvalidInput("InvalidDateRange", f"parameters: startDate {start} is after endDate {end}.")
    if not allowed.date_range:
        raise Refused("ParametersNotApproved", f"query {query.name!r} was approved without a date range.")
    if (allowed.earliest and start < allowed.earliest) or (allowed.latest and end > allowed.latest):
        raise Refused(
            "ParametersNotApproved",
            f"parameters: {start} to {end} is outside of the approved {allowed.earliest or 'beginning'} to {allowed.latest or 'end'}.",
        )
