"""Claims of the five kinds of signed statements: collaboration, signer, the digest of the subject, expiry and nonce."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from cleanroom.identifiers import HexDigest, Name
from cleanroom.joining import parts_digest
from cleanroom.jose.jwk import ed25519_jwk
from cleanroom.spark.job import JobParameters
from cleanroom.statements.keys import PublicJwk


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
    trust: HexDigest | None = None
    """Digest of the trust document in force that the owner's card showed. The owner's vote is cast only while that one is in force."""
    decision: Literal["approve", "reject"]
    reason: str = Field(default="", max_length=500)
    max_runs: int | None = Field(default=None, ge=1)
    """Maximum number of runs that this approval allows; None means unlimited until it expires."""


class Deputation(Statement):
    """An owner's statement that the holder of a second key may sign decisions in the owner's name until ``expires``."""

    typ = "cleanroom-deputation+jws"

    deputy: Name
    """Name of the deputy, as it is shown with each of the deputy's decisions."""
    key: PublicJwk
    """The deputy's key."""
    valid_from: AwareDatetime

    @model_validator(mode="after")
    def _consistent(self) -> Deputation:
        if self.valid_from >= self.expires:
            raise ValueError("valid_from must be before expires")
        if self.key.kid != ed25519_jwk(self.key.public_key())["kid"]:
            raise ValueError("the kid of key is not its thumbprint")
        return self


class RunRequest(Statement):
    """A caller's request to run an approved query once."""

    typ = "cleanroom-run+jws"

    query: Name
    digest: HexDigest
    """Digest of the query document to run."""
    run_id: Name
    parameters: JobParameters = JobParameters()


class Handover(Statement):
    """A user's statement that this user has sealed a secret for another one (:mod:`cleanroom.statements.sealing`)."""

    typ = "cleanroom-handover+jws"

    recipient: str = Field(min_length=1, max_length=64)
    """User ID of the recipient."""
    key: str = Field(min_length=1, max_length=64)
    """``kid`` of the recipient's sealing key."""
    digest: HexDigest
    """Digest of the sealed secret."""


class Authorisation(Statement):
    """A collaborator's authorisation for their worker to publish a dataset, or to create, update, propose or withdraw a query."""

    typ = "cleanroom-authorisation+jws"

    action: Literal["publish-dataset", "create-query", "update-query", "propose-query", "withdraw-query"]
    subject: Name
    """Name of the dataset or query."""
    digest: HexDigest
    """What is authorised: ``publish-dataset``, ``create-query`` and ``update-query`` name the digest of the specification,
    ``propose-query`` and ``withdraw-query`` the :func:`cleanroom.identifiers.document_digest` of the query document."""
    version: str = Field(default="", max_length=64)
    """Version of the query document on which the action is done. Every change of a draft makes a new version, so an authorisation
    that was used, or that was signed for another text, matches no later draft."""
    proposal_id: str = Field(default="", max_length=64)
    """The open proposal to withdraw; empty for a draft."""

    @model_validator(mode="after")
    def _names_a_version(self) -> Authorisation:
        if bool(self.version) != (self.action in ("update-query", "propose-query", "withdraw-query")):
            raise ValueError(f"{self.action} must {'not ' if self.version else ''}name a version of the document")
        if self.proposal_id and self.action != "withdraw-query":
            raise ValueError(f"{self.action} must not name a proposal")
        return self

    def own_proposal_id(self) -> str:
        """Return the ID of the only proposal that this authorisation can make.

        Governance accepts each proposal ID once, so it remembers which authorisations were used. The ID is derived from the claims
        and not from the token, because one signature can be encoded as several texts.
        """
        claims = (self.collaboration, self.signer, self.action, self.subject, self.digest, self.version, self.nonce)
        return parts_digest("authorised-proposal", *claims).hex()[:32]
