"""What a run's authority needs to read from governance."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from cleanroom.identifiers import document_digest


class AcceptedDocument(BaseModel):
    """A document in state Accepted (spec/governance.md 4.2)."""

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
    """Who cast an ``accepted`` ballot."""

    @property
    def digest(self) -> str:
        return document_digest(self.data)


class Consent(BaseModel):
    """Answer of a consent check (spec/governance.md 6)."""

    model_config = ConfigDict(frozen=True)

    status: Literal["enabled", "disabled"]
    code: str = ""
    message: str = ""


class GovernanceReader(Protocol):
    """Reads as an attested clean room or as a registered user. Errors are those of :mod:`cleanroom.governance`."""

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        """The accepted document.

        Raises:
            NotFound: ``UserDocumentNotFound`` when it does not exist or is not accepted.
            Unavailable: governance cannot be asked.
        """
        ...

    async def consent(self, document_id: str) -> Consent:
        """The ``execution`` consent of a document."""
        ...

    async def active_users(self) -> frozenset[str]:
        """User ids that governance knows as active."""
        ...

    async def runs_started(self, query: str) -> frozenset[str]:
        """Ids of the runs of ``query`` that the ledger has seen start."""
        ...

    async def run_closed(self, run_id: str) -> bool:
        """Whether the ledger says that the run's grants were taken back."""
        ...
