"""Claims of the three kinds of signed statements: collaboration, signer, the digest of the subject, expiry and nonce."""

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
    """The common claims. ``typ`` is the JWS header's type, so that one kind of statement cannot be used as another."""

    typ: ClassVar[str] = ""
    model_config = ConfigDict(frozen=True, extra="forbid")

    collaboration: str
    signer: str
    """User ID in governance (``oid``) of the signer."""
    expires: AwareDatetime
    nonce: str = Field(default_factory=_nonce, min_length=8, max_length=64)

    def expired(self, now: dt.datetime) -> bool:
        """Whether the statement has expired at ``now``."""
        return now >= self.expires


class Decision(Statement):
    """An owner's decision on one exact version of a query."""

    typ = "cleanroom-decision+jws"

    query: Name
    version: str
    """Version of the query document as proposed."""
    proposal_id: str = Field(min_length=1, max_length=64)
    """The proposal that the vote is for. A draft keeps its version when a proposal is withdrawn or rejected, so without this a decision
    could be replayed on the next proposal of the same text."""
    digest: HexDigest
    """:func:`cleanroom.identifiers.document_digest` of the proposed document."""
    decision: Literal["approve", "reject"]
    reason: str = Field(default="", max_length=500)
    max_runs: int | None = Field(default=None, ge=1)
    """Maximum number of runs that this approval allows; None means unlimited until it expires."""


class RunRequest(Statement):
    """A caller's request to run an approved query once."""

    typ = "cleanroom-run+jws"

    query: Name
    digest: HexDigest
    """Digest of the query document to run."""
    run_id: Name
    parameters: JobParameters = JobParameters()


class Authorisation(Statement):
    """A collaborator's authorisation for their worker to publish a dataset, or to create, update, propose or withdraw a query."""

    typ = "cleanroom-authorisation+jws"

    action: Literal["publish-dataset", "create-query", "update-query", "propose-query", "withdraw-query"]
    subject: Name
    """Name of the dataset or query."""
    digest: HexDigest
    """SHA-256 of the canonical JSON of the content (:func:`cleanroom.identifiers.canonical_json`)."""
