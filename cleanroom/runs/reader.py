"""What a run's verification reads from governance, and the two ways to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict

from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.errors import Internal, NotFound
from cleanroom.governance import CleanRoomClient, Document, GovernanceUserClient
from cleanroom.governance import Consent as WireConsent
from cleanroom.governance.position import observed_transactions
from cleanroom.identifiers import TransactionId, document_digest
from cleanroom.runs.ledger import RUNS_SCOPE, PinnedRequest, closed_event_id, pinned_event_id, read_pin, runs_event_id, started_key

UNPINNED = 1024
"""Of how many runs a reader remembers where in the ledger it found no pin. It reads the pin from there."""


class AcceptedDocument(BaseModel):
    """A document in state Accepted. This state is final (docs/facts/governance-service.md#documents)."""

    model_config = ConfigDict(frozen=True)

    id: str
    version: str
    contract_id: str
    data: str
    labels: dict[str, str] = {}
    proposal_id: str = ""
    proposer_id: str
    approvers: tuple[str, ...] = ()
    accepted_by: tuple[str, ...] = ()
    """User IDs with an ``accepted`` ballot, sorted."""

    @property
    def digest(self) -> str:
        """Digest of ``data``; approvals and run requests name it."""
        return document_digest(self.data)

    @property
    def position(self) -> int:
        """Position in governance's ledger at which the document was accepted: its version is ``VIEW.SEQNO`` of that transaction.

        Raises:
            Internal: ``GovernanceAnswerMalformed``.
        """
        view, _, seqno = self.version.partition(".")
        if not (view.isdecimal() and seqno.isdecimal()):
            raise Internal("GovernanceAnswerMalformed", f"document {self.id!r}: version {self.version!r} is not a transaction ID.")
        return int(seqno)


class Consent(BaseModel):
    """The answer of a consent check, with governance's reason when consent is disabled."""

    model_config = ConfigDict(frozen=True)

    status: Literal["enabled", "disabled"]
    code: str = ""
    message: str = ""


class GovernanceReader(Protocol):
    """The reads that verification needs. Errors are those of :mod:`cleanroom.governance`."""

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        """Read an accepted document.

        Raises:
            NotFound: ``UserDocumentNotFound`` when the document does not exist or is not accepted.
            Unavailable: Governance did not answer.
        """
        ...

    async def consent(self, document_id: str) -> Consent:
        """Read the ``execution`` consent of a document. A document that is not accepted has none."""
        ...

    async def active_users(self) -> frozenset[str]:
        """Read the IDs of the active users."""
        ...

    async def runs_started(self, query: str) -> frozenset[str]:
        """Read from the ledger which runs of ``query`` have started; returns their :func:`run_key`."""
        ...

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        """Read the earliest entry that pins ``run_id`` to a request, or None. The ledger only grows, so it never changes."""
        ...

    async def run_closed(self, run_id: str) -> bool:
        """Read from the ledger whether a run is closed: its grants were revoked."""
        ...


async def find_accepted(reader: GovernanceReader, document_id: str) -> AcceptedDocument | None:
    """Read an accepted document; None if governance has no document with this ID."""
    try:
        return await reader.accepted_document(document_id)
    except NotFound as error:
        if error.code != "UserDocumentNotFound":
            raise
        return None


def to_accepted_document(document: Document) -> AcceptedDocument:
    """Convert a document from the wire.

    Raises:
        NotFound: ``UserDocumentNotFound`` when the document is not accepted. Governance gives attested readers the same answer.
        Internal: ``GovernanceAnswerMalformed``.
    """
    if document.state != "Accepted":
        raise NotFound("UserDocumentNotFound", f"document {document.id!r} is {document.state}, not accepted.")
    if not isinstance(document.data, str) or document.version is None or document.contract_id is None:
        raise Internal("GovernanceAnswerMalformed", f"document {document.id!r}: governance returned no text, version or contract.")
    return AcceptedDocument(
        id=document.id,
        version=document.version,
        contract_id=document.contract_id,
        data=document.data,
        labels=document.labels or {},
        proposal_id=document.proposal_id,
        proposer_id=document.proposer_id,
        approvers=tuple(item.approver_id for item in document.approvers or ()),
        accepted_by=tuple(sorted({vote.approver_id for vote in document.final_votes or () if vote.ballot == "accepted"})),
    )


def _consent(answer: WireConsent) -> Consent:
    reason = answer.reason
    return Consent(status=answer.status, code=reason.code if reason else "", message=reason.message if reason else "")


@dataclass(frozen=True)
class _Started:
    """The runs of one query that a reader has seen start. A range of the ledger is committed, so its entries stay."""

    runs: frozenset[str] = frozenset()
    position: int = 0
    """Position of the last entry."""


class UserReader:
    """Reads with a user's token. The frontend, the Spark service and the command line use it."""

    def __init__(self, client: GovernanceUserClient, contract_id: str) -> None:
        self._client = client
        self._contract = contract_id
        self._unpinned: LRUCache[str, TransactionId] = LRUCache(UNPINNED)
        self._started: dict[str, _Started] = {}

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        """See :meth:`GovernanceReader.accepted_document`."""
        return to_accepted_document(await self._client.get_document(document_id))

    async def consent(self, document_id: str) -> Consent:
        """See :meth:`GovernanceReader.consent`."""
        return _consent(await self._client.document_consent(self._contract, document_id))

    async def active_users(self) -> frozenset[str]:
        """See :meth:`GovernanceReader.active_users`."""
        return frozenset(user.id for user in await self._client.list_identities())

    async def runs_started(self, query: str) -> frozenset[str]:
        """See :meth:`GovernanceReader.runs_started`."""
        id, known = runs_event_id(query), self._started.get(query, _Started())
        latest = await self._client.latest_event(self._contract, event_id=id, scope=RUNS_SCOPE)
        if latest is None or latest.seqno == known.position:
            return known.runs
        # The range begins with an entry that is known, because one without any entry is an error.
        begin = {"from_seqno": known.position} if known.position else {}
        started, position = set(known.runs), known.position
        async for event in self._client.events(self._contract, event_id=id, scope=RUNS_SCOPE, **begin):
            position = max(position, event.seqno)
            key = started_key(event.data)
            if key is not None:
                started.add(key)
        self._started[query] = known = _Started(frozenset(started), position)
        return known.runs

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        """See :meth:`GovernanceReader.pinned_request`."""
        id = pinned_event_id(run_id)
        # Reading the latest value is cheap, and most of these reads come before there is any.
        with observed_transactions() as seen:
            latest = await self._client.latest_event(self._contract, event_id=id, scope=RUNS_SCOPE)
        at = seen[-1] if seen else None
        if latest is None:
            if at is not None:
                self._unpinned[run_id] = at
            return None
        unpinned = self._unpinned.get(run_id)
        begin: dict[str, int] = {}
        if unpinned is not None and at is not None and unpinned.view == at.view:
            # There was no pin before this position, and nothing was rolled back since.
            if latest.seqno == unpinned.seqno + 1:
                return read_pin(run_id, latest.data, latest.at)
            begin = {"from_seqno": unpinned.seqno + 1}
        async for event in self._client.events(self._contract, event_id=id, scope=RUNS_SCOPE, **begin):
            pinned = read_pin(run_id, event.data, event.at)
            if pinned is not None:
                return pinned
        return None

    async def run_closed(self, run_id: str) -> bool:
        """See :meth:`GovernanceReader.run_closed`."""
        return await self._client.latest_event(self._contract, event_id=closed_event_id(run_id), scope=RUNS_SCOPE) is not None

    async def granted_host_data(self, delegate_type: str, delegate_id: str) -> frozenset[str]:
        """Read the host data (hex) of the pods to which one delegate policy is granted."""
        claims = await self._client.delegate_policy(self._contract, delegate_type, delegate_id)
        return frozenset(str(value) for value in claims.get(HOST_DATA) or ()) - {NOBODY}


class AttestedReader(UserReader):
    """Reads documents and consent with the clean room's own attestation.

    Governance shows users and the ledger only to registered users, so those reads use the clean room's registered identity.
    """

    def __init__(self, clean_room: CleanRoomClient, client: GovernanceUserClient, contract_id: str) -> None:
        super().__init__(client, contract_id)
        self._clean_room = clean_room

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        """See :meth:`GovernanceReader.accepted_document`."""
        return to_accepted_document(await self._clean_room.accepted_document(document_id))

    async def consent(self, document_id: str) -> Consent:
        """See :meth:`GovernanceReader.consent`."""
        return _consent(await self._clean_room.document_consent(document_id))
