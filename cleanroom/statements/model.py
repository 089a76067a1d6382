"""Claims of the three statements. Each names its collaboration, its subject by digest, its signer, when it ends and a nonce."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from cleanroom.identifiers import HexDigest, Name
from cleanroom.spark.job import JobParameters


def _nonce() -> str:
    return secrets.token_urlsafe(16)


class Statement(BaseModel):
    """What every statement says. ``typ`` is the JWS header's type, so that one kind can never pass for another."""

    typ: ClassVar[str] = ""
    model_config = ConfigDict(frozen=True, extra="forbid")

    collaboration: str
    signer: str
    """User id in governance (``oid``) of the person who signs."""
    expires: AwareDatetime
    nonce: str = Field(default_factory=_nonce, min_length=8, max_length=64)

    def expired(self, now: dt.datetime) -> bool:
        return now >= self.expires


class Decision(Statement):
    """An owner's yes or no to one exact version of a query."""

    typ = "cleanroom-decision+jws"

    query: Name
    version: str
    """Version of the query document as proposed."""
    proposal_id: str = Field(min_length=1, max_length=64)
    """The proposal that is voted on. A draft keeps its version when a proposal is withdrawn or rejected, so that without this a decision
    on one proposal could be replayed on the next one of the same text."""
    digest: HexDigest
    """:func:`cleanroom.identifiers.document_digest` of the proposed document."""
    decision: Literal["approve", "reject"]
    reason: str = Field(default="", max_length=500)
    max_runs: int | None = Field(default=None, ge=1)
    """How many runs this approval is good for; None is unlimited until it expires."""


class RunRequest(Statement):
    """A caller's wish to run an approved query once."""

    typ = "cleanroom-run+jws"

    query: Name
    digest: HexDigest
    """Digest of the query document that the caller means."""
    run_id: Name
    parameters: JobParameters = JobParameters()


class Authorisation(Statement):
    """A collaborator's order to their own worker: publish this dataset, create, update, propose or withdraw this query."""

    typ = "cleanroom-authorisation+jws"

    action: Literal["publish-dataset", "create-query", "update-query", "propose-query", "withdraw-query"]
    subject: Name
    """Name of the dataset or query."""
    digest: HexDigest
    """SHA-256 of the canonical JSON of what is to be published (:func:`cleanroom.identifiers.canonical_json`)."""
