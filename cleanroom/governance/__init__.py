"""Clean Room Governance (CGS): typed, asynchronous clients for users, members and clean rooms.

``GovernanceUserClient`` speaks as a user (bearer token) to the application or to the ``cgs-client`` proxy, ``GovernanceMemberClient``
governs through the proxy, ``CleanRoomClient`` speaks with attestation, directly or through the in-guest sidecar.
Facts: the governance specification (``spec/governance.md``).
"""

from cleanroom.governance.clean_room import CleanRoomClient, host_data_claims
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
    OidcIssuerInfo,
    Proposal,
    ProposalStatus,
    UserIdentity,
)
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
    "Member",
    "OidcIssuerInfo",
    "Proposal",
    "ProposalStatus",
    "TokenProvider",
    "UserIdentity",
    "host_data_claims",
]
