"""What the governance service answers, as frozen models. Wire names are camelCase (spec 4-12); unknown members are ignored."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from cleanroom.errors import Internal

M = TypeVar("M", bound="Wire")


class Wire(BaseModel):
    """Base of all answers. An explicit ``null`` is as good as an absent member: CGS stores what users send, proxies write both."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {name: item for name, item in value.items() if item is not None}
        return value

    def wire(self) -> dict[str, Any]:
        """The JSON object as CGS spells it, without absent members."""
        return self.model_dump(by_alias=True, exclude_none=True)


def read(model: type[M], value: Any) -> M:
    """Validate an answer.

    Raises:
        Internal: ``GovernanceAnswerMalformed`` naming the members that are wrong, never their values.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, row["loc"])) or "(all)" for row in error.errors(include_input=False)}))
        raise Internal("GovernanceAnswerMalformed", f"The governance service's {model.__name__} lacks or misspells: {fields}.") from None


def member(value: Any, name: str) -> Any:
    """A member that an answer must have. Raises ``Internal`` ``GovernanceAnswerMalformed``."""
    if not isinstance(value, dict) or value.get(name) is None:
        raise Internal("GovernanceAnswerMalformed", f"The governance service's answer lacks {name}.")
    return value[name]


def text(value: Any, name: str) -> str:
    """A text that an answer must have. Raises ``Internal`` ``GovernanceAnswerMalformed``."""
    found = member(value, name)
    if not isinstance(found, str) or not found:
        raise Internal("GovernanceAnswerMalformed", f"The governance service's answer has no text as {name}.")
    return found


def table(value: Any, name: str) -> dict[str, Any]:
    """An object that an answer must have. Raises ``Internal`` ``GovernanceAnswerMalformed``."""
    found = member(value, name)
    if not isinstance(found, dict):
        raise Internal("GovernanceAnswerMalformed", f"The governance service's answer has no object as {name}.")
    return found


def whole(value: Any) -> dict[str, Any]:
    """An answer that is an object. Raises ``Internal`` ``GovernanceAnswerMalformed``."""
    if not isinstance(value, dict):
        raise Internal("GovernanceAnswerMalformed", "The governance service's answer is no object.")
    return value


def rows(value: Any) -> list[Any]:
    """The rows of a list ``{"value": [...]}``. Raises ``Internal`` ``GovernanceAnswerMalformed``."""
    found = member(value, "value")
    if not isinstance(found, list):
        raise Internal("GovernanceAnswerMalformed", "The governance service's list has no array as value.")
    return found


def _labels(value: Any) -> Any:
    return value if isinstance(value, dict) else None


Labels = Annotated[dict[str, Any] | None, BeforeValidator(_labels)]
"""CGS stores whatever a user sends as labels; one user's odd labels must not break everybody's list."""


class Approver(Wire):
    """Who must accept: ``approver_id`` is an ``oid`` (user) or a member id; the type is informational."""

    approver_id: str
    approver_id_type: str = "user"


class Ballot(Wire):
    """One vote on a user proposal."""

    approver_id: str
    ballot: Literal["accepted", "rejected"]


class Document(Wire):
    """A user document. Draft, Proposed and Accepted report different ``version`` values for the same content (trap 2)."""

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


class DocumentSummary(Wire):
    """One row of a list."""

    id: str
    labels: Labels = None


class ProposalStatus(Wire):
    """A user proposal: who proposed it, its state and the ballots so far."""

    proposer_id: str
    state: Literal["Open", "Accepted", "Rejected", "Withdrawn"]
    ballots: tuple[Ballot, ...] = ()


class Proposal(Wire):
    """A user proposal's content."""

    proposal_id: str
    name: str
    approvers: tuple[Approver, ...] = ()
    args: dict[str, Any] = {}


class Reason(Wire):
    """Why consent is disabled."""

    code: str
    message: str = ""


class Consent(Wire):
    """Status of a runtime option."""

    status: Literal["enabled", "disabled"]
    reason: Reason | None = None
    proposal_ids: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether the option is enabled."""
        return self.status == "enabled"


class CleanRoomPolicy(Wire):
    """A contract's policy: claim name -> allowed values; every claim must match (spec 2.4)."""

    policy: dict[str, list[Any]] = {}
    proposal_ids: tuple[str, ...] = ()


class Delegate(Wire):
    """One delegate policy's place; entries stay listed after their claims are removed (trap 19)."""

    delegate_type: str
    delegate_id: str


class TenantIssuer(Wire):
    """The issuer URL of the caller's tenant."""

    tenant_id: str
    issuer_url: str | None = None


class OidcIssuerInfo(Wire):
    """The OIDC issuer as the caller sees it."""

    enabled: bool
    issuer_url: str | None = None
    tenant_data: TenantIssuer | None = None


class SigningKey(Wire):
    """The OIDC signing key that was generated."""

    req_id: str
    kid: str


class IdentityData(Wire):
    """What is registered of a user."""

    tenant_id: str | None = None
    identifier: str | None = None


class UserIdentity(Wire):
    """A registered user; ``id`` is the ``oid``."""

    id: str
    account_type: str = "microsoft"
    invitation_id: str | None = None
    data: IdentityData = IdentityData()


class InvitedUser(Wire):
    """Who accepted an invitation."""

    user_id: str
    data: IdentityData = IdentityData()


class Invitation(Wire):
    """An invitation; accepting it does not make the user active (trap 28)."""

    invitation_id: str
    account_type: str = "microsoft"
    claims: dict[str, list[Any]] = {}
    user_info: InvitedUser | None = None
    status: Literal["Open", "Accepted", "Finalized"]


class Contract(Wire):
    """A contract."""

    id: str
    state: Literal["Draft", "Proposed", "Accepted"]
    version: str | None = None
    data: Any = None
    proposal_id: str = ""
    final_votes: tuple[dict[str, Any], ...] = ()


class Deployment(Wire):
    """Deployment specification or information of a contract."""

    data: dict[str, Any] = {}
    proposal_ids: tuple[str, ...] = ()


class Member(Wire):
    """A consortium member."""

    member_id: str
    status: str
    member_data: dict[str, Any] | None = None
    certificate: str = ""
    recovery_role: str | None = None


class GovernanceProposal(Wire):
    """A members' proposal."""

    proposal_id: str
    proposer_id: str = ""
    proposal_state: str
    ballot_count: int = 0


class Event(Wire):
    """An audit event. ``timestamp`` is the sender's clock in milliseconds; ``seqno`` is the ledger's order."""

    scope: str = ""
    id: str
    seqno: int
    timestamp: str
    timestamp_iso: str | None = Field(default=None, validation_alias=AliasChoices("timestamp_iso", "timestampIso"))
    data: Any = None

    @property
    def at(self) -> dt.datetime:
        """The timestamp as a time in UTC."""
        return dt.datetime.fromtimestamp(int(self.timestamp) / 1000, dt.UTC)


class EventPage(Wire):
    """A page of events; it may be empty and still have a next one (trap 29)."""

    value: tuple[Event, ...] = ()
    next_link: str | None = None
