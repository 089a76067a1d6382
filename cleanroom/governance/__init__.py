"""Asynchronous clients of Clean Room Governance (CGS), the ledger in which collaborators publish and approve.

``GovernanceUserClient`` acts as a user (bearer token), directly or through the proxy ``cgs-client``. ``GovernanceMemberClient``
governs the consortium through the proxy. ``CleanRoomClient`` acts as a guest, by its attestation. What the clients rely on is in
docs/facts/governance-service.md.
"""

from cleanroom.governance.clean_room import CleanRoomClient, host_data_claims
from cleanroom.governance.commits import commit_together, committed_later, committed_together
from cleanroom.governance.http import TokenProvider
from cleanroom.governance.member import GovernanceMemberClient
from cleanroom.governance.models import (
    Approver,
    Ballot,
    CleanRoomPolicy,
    Consent,
    Contract,
    Delegate,
    Deployment,
    Document,
    DocumentSummary,
    Event,
    GovernanceProposal,
    Invitation,
    Member,
    MemberDocument,
    MemberVote,
    OidcIssuerInfo,
    Proposal,
    ProposalStatus,
    UserIdentity,
)
from cleanroom.governance.position import LedgerPosition, observed_transactions
from cleanroom.governance.user import GovernanceUserClient

__all__ = [
    "Approver",
    "Ballot",
    "CleanRoomClient",
    "CleanRoomPolicy",
    "Consent",
    "Contract",
    "Delegate",
    "Deployment",
    "Document",
    "DocumentSummary",
    "Event",
    "GovernanceMemberClient",
    "GovernanceProposal",
    "GovernanceUserClient",
    "Invitation",
    "LedgerPosition",
    "Member",
    "MemberDocument",
    "MemberVote",
    "OidcIssuerInfo",
    "Proposal",
    "ProposalStatus",
    "TokenProvider",
    "UserIdentity",
    "commit_together",
    "committed_later",
    "committed_together",
    "host_data_claims",
    "observed_transactions",
]
