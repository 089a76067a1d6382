"""The governance service's answers as immutable models.

JSON members are camelCase, and unknown members are ignored. The facts are in docs/facts/governance-service.md.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cleanroom.errors import Internal
from cleanroom.models import CamelModel

M = TypeVar("M", bound="ServiceAnswer")


class ServiceAnswer(CamelModel):
    """Base of all answers. A ``null`` counts as an absent member: governance stores what users send, and the proxy writes both."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {name: item for name, item in value.items() if item is not None}
        return value

    def wire(self) -> dict[str, Any]:
        """Return the JSON object in the service's spelling, without absent members."""
        return self.model_dump(by_alias=True, exclude_none=True)


def read(model: type[M], value: Any) -> M:
    """Validate an answer.

    Raises:
        Internal: ``GovernanceAnswerMalformed``, which names the invalid members but never their values.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, row["loc"])) or "(all)" for row in error.errors(include_input=False)}))
        message = f"The governance service returned an invalid {model.__name__}; missing or malformed: {fields}."
        # An empty body is a broken answer, which may come right.
        raise Internal("GovernanceAnswerMalformed", message, retryable=value is None) from None


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or value.get(name) is None:
        message = f"The governance service's answer has no member {name}."
        raise Internal("GovernanceAnswerMalformed", message, retryable=value is None)
    return value[name]


def text(value: Any, name: str) -> str:
    """Return the non-empty text that an answer must have as ``name``.

    Raises:
        Internal: ``GovernanceAnswerMalformed``.
    """
    found = _member(value, name)
    if not isinstance(found, str) or not found:
        raise Internal("GovernanceAnswerMalformed", f"The governance service's answer has no text in {name}.")
    return found


def table(value: Any, name: str) -> dict[str, Any]:
    """Return the object that an answer must have as ``name``.

    Raises:
        Internal: ``GovernanceAnswerMalformed``.
    """
    found = _member(value, name)
    if not isinstance(found, dict):
        raise Internal("GovernanceAnswerMalformed", f"The governance service's answer has no object in {name}.")
    return found


def rows(value: Any) -> list[Any]:
    """Return the rows of a list answer ``{"value": [...]}``.

    Raises:
        Internal: ``GovernanceAnswerMalformed``.
    """
    found = _member(value, "value")
    if not isinstance(found, list):
        raise Internal("GovernanceAnswerMalformed", "The governance service's list has no array in value.")
    return found


Labels = Annotated[dict[str, Any] | None, BeforeValidator(lambda value: value if isinstance(value, dict) else None)]
"""Labels that are not an object count as absent: governance accepts any JSON, and one document must not break a list."""


class Approver(ServiceAnswer):
    """An approver of a document. ``approver_id`` is a user's ``oid`` or a member ID; the type is informational."""

    approver_id: str
    approver_id_type: str = "user"


class Ballot(ServiceAnswer):
    """One vote on a user proposal."""

    approver_id: str
    ballot: Literal["accepted", "rejected"]


class Document(ServiceAnswer):
    """A user document. Its three states have different ``version`` values for the same content."""

    id: str
    state: Literal["Draft", "Proposed", "Accepted"]
    version: str | None = None
    contract_id: str | None = None
    data: Any = None
    labels: Labels = None
    approvers: tuple[Approver, ...] | None = None
    proposal_id: str = ""
    proposer_id: str = ""
    final_votes: tuple[Ballot, ...] | None = None


class DocumentSummary(ServiceAnswer):
    """A document in a list."""

    id: str
    labels: Labels = None


class MemberVote(ServiceAnswer):
    """One member's vote on a governance proposal."""

    member_id: str
    vote: bool


class MemberDocument(ServiceAnswer):
    """A member document: one that the members of the consortium accept, as user documents are accepted by their approvers."""

    id: str
    state: Literal["Draft", "Proposed", "Accepted"]
    version: str | None = None
    contract_id: str | None = None
    data: Any = None
    proposal_id: str = ""
    final_votes: tuple[MemberVote, ...] | None = None


class ProposalStatus(ServiceAnswer):
    """A user proposal's proposer, state and ballots."""

    proposer_id: str
    state: Literal["Open", "Accepted", "Rejected", "Withdrawn"]
    ballots: tuple[Ballot, ...] = ()


class Proposal(ServiceAnswer):
    """A user proposal's content."""

    proposal_id: str
    name: str
    approvers: tuple[Approver, ...] = ()
    args: dict[str, Any] = {}


class Reason(ServiceAnswer):
    """Why an option is disabled."""

    code: str
    message: str = ""


class Consent(ServiceAnswer):
    """The status of a runtime option."""

    status: Literal["enabled", "disabled"]
    reason: Reason | None = None
    proposal_ids: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether the option is enabled."""
        return self.status == "enabled"


class CleanRoomPolicy(ServiceAnswer):
    """A contract's policy: allowed values by claim name. A guest must match every claim."""

    policy: dict[str, list[Any]] = {}
    proposal_ids: tuple[str, ...] = ()


class Delegate(ServiceAnswer):
    """The type and ID of a delegate policy."""

    delegate_type: str
    delegate_id: str


class TenantIssuer(ServiceAnswer):
    """The issuer URL of the caller's tenant."""

    tenant_id: str
    issuer_url: str | None = None


class OidcIssuerInfo(ServiceAnswer):
    """The OIDC issuer, and the issuer URL of the caller's tenant."""

    enabled: bool
    issuer_url: str | None = None
    tenant_data: TenantIssuer | None = None


class SigningKey(ServiceAnswer):
    """The generated OIDC signing key."""

    req_id: str
    kid: str


class IdentityData(ServiceAnswer):
    """The registered facts about a user."""

    tenant_id: str | None = None
    identifier: str | None = None


class UserIdentity(ServiceAnswer):
    """A registered user. ``id`` is the ``oid`` claim of their tokens."""

    id: str
    account_type: str = "microsoft"
    invitation_id: str | None = None
    data: IdentityData = IdentityData()


class InvitedUser(ServiceAnswer):
    """The user who accepted an invitation."""

    user_id: str
    data: IdentityData = IdentityData()


class Invitation(ServiceAnswer):
    """An invitation. Accepting it does not make the user active: a member must register the user."""

    invitation_id: str
    account_type: str = "microsoft"
    claims: dict[str, list[Any]] = {}
    user_info: InvitedUser | None = None
    status: Literal["Open", "Accepted", "Finalized"]


class Contract(ServiceAnswer):
    """A contract of the consortium."""

    id: str
    state: Literal["Draft", "Proposed", "Accepted"]
    version: str | None = None
    data: Any = None
    proposal_id: str = ""
    final_votes: tuple[dict[str, Any], ...] = ()


class Deployment(ServiceAnswer):
    """The deployment information of a contract."""

    data: dict[str, Any] = {}
    proposal_ids: tuple[str, ...] = ()


class Member(ServiceAnswer):
    """A member of the consortium."""

    member_id: str
    status: str
    member_data: dict[str, Any] | None = None
    certificate: str = ""
    recovery_role: str | None = None


class GovernanceProposal(ServiceAnswer):
    """A governance proposal of a member."""

    proposal_id: str
    proposer_id: str = ""
    proposal_state: str
    ballot_count: int = 0


class Event(ServiceAnswer):
    """An audit event. ``timestamp`` is the sender's clock in milliseconds, ``seqno`` the position in the ledger."""

    scope: str = ""
    id: str
    seqno: int
    timestamp: str
    timestamp_iso: str | None = Field(default=None, validation_alias=AliasChoices("timestamp_iso", "timestampIso"))
    data: Any = None

    @property
    def at(self) -> dt.datetime:
        """The timestamp in UTC."""
        return dt.datetime.fromtimestamp(int(self.timestamp) / 1000, dt.UTC)


class EventPage(ServiceAnswer):
    """A page of events. An empty page can have a next one."""

    value: tuple[Event, ...] = ()
    next_link: str | None = None
