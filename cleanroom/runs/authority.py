"""The checks that a run must pass in governance. Every check has its own method and error code.

The clean room, the Spark service and the audit use the same checks, each with its own reader. No check trusts an activity
input: a ticket names the run, and governance's documents and signatures decide.

:meth:`RunAuthority.authorise` performs all checks. :meth:`RunAuthority.still_authorised` repeats those whose answer can
change after a run was authorised.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, MutableMapping, Sequence

from cachetools import LRUCache

from cleanroom.concurrency import gather_limited
from cleanroom.documents.dataset import parse_dataset
from cleanroom.documents.query import InputDataset, PinnedDocument, QueryDocument, parse_query
from cleanroom.errors import NotFound, PreconditionFailed, Refused
from cleanroom.identifiers import sha256_hex
from cleanroom.messages.run import RunTicket
from cleanroom.runs.approvals import count_runs, proposers, require_right, verify_decisions, verify_owners
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.runs.ledger import PinnedRequest, request_digest, run_key
from cleanroom.runs.parameters import verify_parameters
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader
from cleanroom.runs.second_look import CONCURRENT_DATASETS
from cleanroom.runs.standing import require_active, require_consent, require_open, require_unexpired
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek, verify

PINS = 4096
"""How many pinned requests a process remembers. An entry of the ledger never changes, so they are read once."""


def service_nonce(ticket: RunTicket) -> str:
    """Return the nonce that the Spark service's attestation report must contain for this run.

    The nonce is a digest of the signed run request. The request contains a random nonce of the caller, so the value is
    unknown before the caller signs, and every activity can compute it without keeping state.
    """
    return sha256_hex(b"cleanroom spark attestation\0" + ticket.request.encode())


class RunAuthority:
    """Checks run tickets against governance.

    Args:
        reader: Reads governance.
        collaboration: The contract ID that this process serves. A ticket of another collaboration is refused.
        now: Returns the current time, with a time zone.
        requested_at: Position in governance's ledger at which the run was first recorded, for a run in the past. Its request counts
            although its caller has retired the key later.
    """

    def __init__(
        self,
        reader: GovernanceReader,
        collaboration: str,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        *,
        requested_at: int | None = None,
    ) -> None:
        self._reader = reader
        self._collaboration = collaboration
        self._now = now
        self._requested_at = requested_at
        self._pins: MutableMapping[str, PinnedRequest] = LRUCache(PINS)

    def reading_with(self, reader: GovernanceReader) -> RunAuthority:
        """Return the same checks on another reader. Both know the same pins."""
        other = RunAuthority(reader, self._collaboration, self._now, requested_at=self._requested_at)
        other._pins = self._pins
        return other

    # ------------------------------------------------------------------ all checks

    async def authorise(self, ticket: RunTicket, *, consent: bool = True, past: bool = False) -> AuthorisedRun:
        """Perform all checks on one fresh reading of governance. Raises what the single checks raise.

        Args:
            ticket: Names the run and carries its signed request.
            consent: Whether to check consent.
            past: Accept an expired request, a closed run and ended approvals. Use it only to undo or to record something;
                nothing may be released on the strength of such a result.
        """
        request, _ = await self.verify_caller(ticket, past=past)
        if not past:
            require_open(request, await self._reader.run_closed(request.run_id))
        document, query = await self.fetch_query(ticket, request)
        inputs, sink = await self.fetch_datasets(query)
        owners = verify_owners(request, document, query, (*inputs, sink))
        decisions = (
            () if past else await verify_decisions(self._reader, self._collaboration, document, owners, await self._now_for(request.run_id))
        )
        run = AuthorisedRun(
            request=request,
            token=ticket.request,
            document=document,
            query=query,
            inputs=inputs,
            sink=sink,
            owners=owners,
            decisions=decisions,
            runs_left=await count_runs(self._reader, run_key(request.run_id, request_digest(ticket.request)), document, decisions),
        )
        if consent:
            await self.verify_consent(run.document_ids)
        return run

    async def still_authorised(self, run: AuthorisedRun, datasets: Sequence[Dataset]) -> None:
        """Repeat, for the release of secrets of ``datasets``, every check whose answer can change after ``run`` was authorised.

        Keys, decisions and documents are not read again: they are accepted, and governance never changes an accepted document.

        Raises:
            Refused: ``StatementExpired``, ``ApprovalExpired``, ``CallerNotAuthorized``, ``RunClosed``, or the code of a
                consent that is disabled.
        """
        users, _ = await asyncio.gather(self._reader.active_users(), self.confirm(run, datasets))
        require_active(run.request.signer, users, self._collaboration)

    async def confirm(self, run: AuthorisedRun, datasets: Sequence[Dataset]) -> None:
        """Look again after a release: the run is open, nothing has expired, and the query and ``datasets`` still have consent.

        A request to governance can be delayed for as long as its sender's host likes. So a check before a write says nothing
        about the time of the write.

        Raises:
            Refused: ``RunClosed``, ``StatementExpired``, ``ApprovalExpired``, or the code of a consent that is disabled.
        """
        await self._require_unexpired(run)
        document_ids = [run.document.id, *(item.document.id for item in datasets)]
        closed, consents = await asyncio.gather(
            self._reader.run_closed(run.request.run_id), gather_limited(self._reader.consent, document_ids, CONCURRENT_DATASETS)
        )
        require_open(run.request, closed)
        require_consent(document_ids, consents)

    async def require_open(self, request: RunRequest) -> None:
        """Check that the run is not closed.

        Raises:
            Refused: ``RunClosed``.
        """
        require_open(request, await self._reader.run_closed(request.run_id))

    # ------------------------------------------------------------------ the request that a run ID stands for

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        """Return the request to which the ledger pins ``run_id``, or None while it is not pinned."""
        found = self._pins.get(run_id)
        if found is None:
            found = await self._reader.pinned_request(run_id)
            if found is not None:
                self._pins[run_id] = found
        return found

    async def verify_pinned(self, ticket: RunTicket) -> RunRequest:
        """Check that the ledger pins the run to this ticket's request. The run may be over.

        Raises:
            Refused: ``RunNotPinned``, ``RunPinnedToAnotherRequest``; the codes of :meth:`verify_caller`.
        """
        request, _ = await self.verify_caller(ticket, past=True)
        if await self.pinned_request(request.run_id) is None:
            raise Refused(
                "RunNotPinned",
                f"run {request.run_id!r}: the ledger does not pin this run to a request, so it has not begun.",
                hint="The clean room enters the pin when it first releases or records something for the run.",
            )
        return request

    async def verify_pin(self, ticket: RunTicket) -> RunRequest:
        """Check that a run may be pinned to this ticket's request: it is open, and its caller has a right to this query.

        Raises:
            Refused: ``RunClosed``, ``CallerNotAuthorized``; the codes of :meth:`verify_caller` and :meth:`fetch_query`.
            PreconditionFailed: ``QueryNotApproved``.
        """
        request, _ = await self.verify_caller(ticket)
        await self.require_open(request)
        document, query = await self.fetch_query(ticket, request)
        if request.signer not in proposers(document, query):
            inputs, sink = await self.fetch_datasets(query)
            require_right(request, document, query, {item.owner_id for item in (*inputs, sink)})
        return request

    def require_pinned_to(self, pinned: PinnedRequest, token: str) -> None:
        """Check that ``pinned`` is the signed request ``token``.

        Raises:
            Refused: ``RunPinnedToAnotherRequest``.
        """
        if pinned.request != token:
            raise Refused(
                "RunPinnedToAnotherRequest",
                f"run {pinned.run_id!r}: the ledger pins it to the request {pinned.digest[:16]}…, "
                f"this one is {request_digest(token)[:16]}….",
                details={"pinned": pinned.digest, "presented": request_digest(token)},
                hint="A run ID stands for one request. Start another run.",
            )

    async def _now_for(self, run_id: str) -> dt.datetime:
        """Return the time for expiry checks: this process's clock, but never before the ledger's first entry on the run.

        The host sets a guest's clock. With the entry, a clock that was set back cannot make a request valid again that had
        expired when the run began.
        """
        return self._not_before(await self.pinned_request(run_id))

    def _not_before(self, pinned: PinnedRequest | None) -> dt.datetime:
        return max(self._now(), pinned.at) if pinned is not None else self._now()

    # ------------------------------------------------------------------ the caller

    async def verify_caller(self, ticket: RunTicket, *, past: bool = False) -> tuple[RunRequest, int]:
        """Check that the caller is an active user and signed this request.

        Args:
            ticket: Names the run and carries its signed request.
            past: As in :meth:`authorise`.

        Returns:
            The verified request, and the number of active users (0 for a past run, which does not need them).

        Raises:
            Refused: ``CollaborationMismatch``, ``CallerNotAuthorized``, ``SignatureInvalid``, ``StatementExpired``,
                ``TicketMismatch``, ``RunPinnedToAnotherRequest`` and others of :func:`cleanroom.statements.signing.verify`.
        """
        if ticket.collaboration != self._collaboration:
            raise Refused(
                "CollaborationMismatch",
                f"run: the ticket is for collaboration {ticket.collaboration!r}, this process serves {self._collaboration!r}.",
            )
        claimed = peek(RunRequest, ticket.request)
        pinned = await self.pinned_request(ticket.run_id)
        now = self._not_before(pinned)
        users: frozenset[str] = frozenset()
        if not past:
            users = await self._reader.active_users()
            require_active(claimed.signer, users, self._collaboration)
        request = verify(
            RunRequest,
            ticket.request,
            await published_keys(self._reader, self._collaboration, claimed.signer),
            collaboration=self._collaboration,
            now=min(now, claimed.expires - dt.timedelta(seconds=1)) if past else now,
            recorded_at=0 if past else self._requested_at,
        )
        if (request.query, request.run_id) != (ticket.query, ticket.run_id):
            raise Refused(
                "TicketMismatch",
                f"run: the signed request is for run {request.run_id!r} of query {request.query!r}, "
                f"the ticket says run {ticket.run_id!r} of query {ticket.query!r}.",
            )
        if pinned is not None:
            self.require_pinned_to(pinned, ticket.request)
        return request, len(users)

    # ------------------------------------------------------------------ the query and its datasets

    async def fetch_query(self, ticket: RunTicket, request: RunRequest) -> tuple[AcceptedDocument, QueryDocument]:
        """Read the query document and check that it is accepted, belongs here and is the text that the caller requested.

        Raises:
            PreconditionFailed: ``QueryNotApproved``.
            Refused: ``QueryDigestMismatch``, ``ContractIdMismatch``, ``CollaborationMismatch``, ``QueryNameMismatch``,
                ``QueryNotPinned``, ``ParametersNotApproved``.
        """
        try:
            document = await self._reader.accepted_document(ticket.query)
        except NotFound as error:
            raise PreconditionFailed(
                "QueryNotApproved",
                f"query {ticket.query!r} is not approved, or does not exist.",
                cause=str(error),
                hint=f"`cleanroom query show {ticket.query}` lists the owners who have not voted yet.",
            ) from error
        if document.digest != request.digest:
            raise Refused(
                "QueryDigestMismatch",
                f"query {ticket.query!r}: the accepted text has digest {document.digest[:16]}…, the run requests {request.digest[:16]}….",
                details={"accepted": document.digest, "requested": request.digest},
            )
        query = self.read_query(document)
        verify_parameters(request.parameters, query)
        return document, query

    def read_query(self, document: AcceptedDocument) -> QueryDocument:
        """Read the text of an accepted query, and check that it belongs here.

        Raises:
            Refused: ``QueryNameMismatch``, ``QueryNotPinned``, ``CollaborationMismatch``, ``ContractIdMismatch``.
        """
        self._require_same_contract(document)
        query = parse_query(document.data, document_id=document.id)
        if query.name != document.id:
            raise Refused("QueryNameMismatch", f"query {document.id!r}: its document has the name {query.name!r}.")
        if query.approval is None:
            raise Refused("QueryNotPinned", f"query {document.id!r} does not pin its datasets; it was not published by this system.")
        if query.approval.collaboration != self._collaboration:
            raise Refused("CollaborationMismatch", f"query {document.id!r} was written for collaboration {query.approval.collaboration!r}.")
        return query

    def _require_same_contract(self, document: AcceptedDocument) -> None:
        if document.contract_id != self._collaboration:
            raise Refused(
                "ContractIdMismatch", f"document {document.id!r} belongs to contract {document.contract_id!r}, not {self._collaboration!r}."
            )

    async def fetch_datasets(self, query: QueryDocument) -> tuple[tuple[Dataset, ...], Dataset]:
        """Read and check every dataset document at the version and digest that the query pins: the inputs, then the output."""
        approval = query.approval
        assert approval is not None
        wanted = [*query.application.input_dataset, query.application.output_dataset]
        if [item.specification for item in wanted] != [pin.id for pin in approval.datasets]:
            raise Refused("DatasetPinsMismatch", f"query {query.name!r}: its pins do not name its datasets in order.")

        async def fetch(pinned: tuple[InputDataset, PinnedDocument]) -> Dataset:
            item, pin = pinned
            mode = "write" if item is query.application.output_dataset else "read"
            return await self._fetch_dataset(item.specification, item.view, pin.version, pin.digest, mode)

        *inputs, output = await gather_limited(fetch, zip(wanted, approval.datasets, strict=True), CONCURRENT_DATASETS)
        return tuple(inputs), output

    async def _fetch_dataset(self, name: str, view: str, version: str, digest: str, mode: str) -> Dataset:
        document = await self._reader.accepted_document(name)
        self._require_same_contract(document)
        if (document.version, document.digest) != (version, digest):
            raise Refused(
                "DatasetChanged",
                f"dataset {name!r} is at version {document.version}; the query was approved on version {version}.",
                details={"approved": digest, "current": document.digest},
                hint="Propose the query again, so that the owners see what changed.",
            )
        dataset = parse_dataset(document.data, document_id=name)
        if dataset.name != name:
            raise Refused("DatasetNameMismatch", f"dataset {name!r}: its document has the name {dataset.name!r}.")
        if dataset.dataset_access_policy.access_mode != mode:
            raise Refused(
                "AccessModeMismatch",
                f"dataset {name!r} allows {dataset.dataset_access_policy.access_mode} access, the query requires {mode} access.",
            )
        if document.accepted_by != (document.proposer_id,):
            raise Refused("DatasetOwnerUnclear", f"dataset {name!r} was not proposed and accepted by one owner alone.")
        return Dataset(document, dataset, view)

    async def verify_run_limit(self, run: AuthorisedRun) -> None:
        """Check the owners' limits again, after the start of ``run`` was entered into the ledger.

        Raises:
            Refused: ``ApprovalRunsExhausted``, ``ApprovalExpired``, ``StatementExpired``.
        """
        await self._require_unexpired(run)
        await count_runs(self._reader, run_key(run.request.run_id, request_digest(run.token)), run.document, run.decisions)

    async def _require_unexpired(self, run: AuthorisedRun) -> None:
        require_unexpired(run, await self._now_for(run.request.run_id))

    # ------------------------------------------------------------------ consent

    async def verify_consent(self, document_ids: Sequence[str]) -> None:
        """Check the execution consent of every document.

        Raises:
            Refused: Governance's reason code, ``UserDocumentRuntimeOptionDisabled`` or ``UserDocumentNotAccepted``.
        """
        answers = await gather_limited(self._reader.consent, document_ids, CONCURRENT_DATASETS)
        require_consent(document_ids, answers)
