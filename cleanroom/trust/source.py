"""Reads the trust document in force from governance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.governance import MemberDocument
from cleanroom.identifiers import document_digest
from cleanroom.transport import pem_file
from cleanroom.trust.document import TrustDocument, parse_trust_document, trust_document_id

MISSING = "DocumentNotFound"
"""Governance's code for a member document that does not exist, or is not accepted (as an attested caller reads it)."""


@dataclass(frozen=True)
class AcceptedTrust:
    """A trust document that the members accepted, with its digest in governance."""

    document: TrustDocument
    digest: str

    @property
    def id(self) -> str:
        """The document's ID in governance."""
        return self.document.id

    @cached_property
    def tls_roots_file(self) -> Path | None:
        """File with ``tls_roots``, or None for the roots in the image."""
        return pem_file(self.document.tls_roots) if self.document.tls_roots else None

    @cached_property
    def key_release_roots_file(self) -> Path | None:
        """File with ``key_release_roots``, or None."""
        return pem_file(self.document.key_release_roots) if self.document.key_release_roots else None


def accepted_trust(found: MemberDocument, contract_id: str, number: int) -> AcceptedTrust:
    """Return the trust document in a member document.

    Raises:
        NotFound: ``DocumentNotFound`` when the members have not accepted it.
        Refused: ``TrustDocumentMismatch`` when it is of another contract or number.
        InvalidInput: ``TrustDocumentMalformed``.
    """
    wanted = trust_document_id(contract_id, number)
    if found.state != "Accepted":
        raise NotFound(MISSING, f"trust document {wanted} is {found.state}, not accepted.")
    document = parse_trust_document(found.data, document_id=wanted)
    if (found.id, found.contract_id, document.contract_id, document.number) != (wanted, contract_id, contract_id, number):
        raise Refused("TrustDocumentMismatch", f"trust document {wanted}: its content is for {document.id}.")
    assert isinstance(found.data, str)
    return AcceptedTrust(document, document_digest(found.data))


class TrustSource:
    """The trust documents of one contract, as governance has them. One instance per worker process.

    Governance neither changes nor deletes an accepted document, so this process only has to ask for the next number. It never
    goes back to a lower number. Answers are shared: a caller receives the answer to a request that was sent after the call.

    Args:
        read: Reads a member document by ID (``NotFound`` with :data:`MISSING` if it is missing).
        contract_id: The contract.
        development: Whether documents for development are accepted.
    """

    def __init__(self, read: Callable[[str], Awaitable[MemberDocument]], contract_id: str, *, development: bool) -> None:
        self._read = read
        self._contract = contract_id
        self._development = development
        self._known: list[AcceptedTrust | CleanRoomError] = []
        """What the members accepted, by number; the error of a document that this worker cannot use."""
        self._lock = asyncio.Lock()
        self._calls = 0
        self._answered = -1
        """Number of the last call before the last complete reading started."""

    async def in_force(self) -> AcceptedTrust:
        """Return the accepted trust document with the highest number, on a fresh reading of governance.

        If that document cannot be used, no older one is. The members must then accept the next one.

        Raises:
            PreconditionFailed: ``TrustDocumentMissing`` when the members have accepted none.
            Refused: ``DevelopmentNotAllowed``, ``TrustDocumentMismatch``.
            InvalidInput: ``TrustDocumentMalformed``.
            Unavailable: Governance did not answer.
        """
        await self._read_new()
        if not self._known:
            raise PreconditionFailed(
                "TrustDocumentMissing",
                f"contract {self._contract!r}: the members have accepted no trust document.",
                hint="A member proposes one with `cleanroom collaboration create --trust FILE`.",
                party="operator",
            )
        latest = self._known[-1]
        if isinstance(latest, CleanRoomError):
            raise latest
        return latest

    async def accepted(self) -> tuple[AcceptedTrust, ...]:
        """Return every accepted trust document that this worker can use, oldest first, on a fresh reading of governance."""
        await self._read_new()
        return tuple(each for each in self._known if isinstance(each, AcceptedTrust))

    async def next_number(self) -> int:
        """Return the number of the trust document that the members can accept next."""
        await self._read_new()
        return len(self._known) + 1

    async def _read_new(self) -> None:
        self._calls += 1
        call = self._calls
        async with self._lock:
            if self._answered >= call:
                return
            latest = self._calls
            while (found := await self._read_number(len(self._known) + 1)) is not None:
                self._known.append(found)
            self._answered = latest

    async def _read_number(self, number: int) -> AcceptedTrust | CleanRoomError | None:
        """Return the accepted document with this number, or why it cannot be used, or None if there is none."""
        try:
            answer = await self._read(trust_document_id(self._contract, number))
            found = accepted_trust(answer, self._contract, number)
        except NotFound as error:
            if error.code != MISSING:
                raise
            return None
        except Conflict as error:
            if error.code != "ContractIdMismatch":
                raise
            return Refused("TrustDocumentMismatch", f"{trust_document_id(self._contract, number)} belongs to another contract.")
        except (InvalidInput, Refused) as error:
            if not error.code.startswith("TrustDocument"):
                raise
            return error
        if found.document.development is not None and not self._development:
            return Refused(
                "DevelopmentNotAllowed",
                f"trust document {found.id} names development roots, and this worker's measured bootstrap file does not allow them.",
                hint="Accept a trust document without `development`, or deploy a bootstrap file with `development: true`.",
            )
        return found
