"""The callers of the governance service: members of the consortium, registered users, and attested clean rooms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from localcloud.standins.cgs.javascript import Crash

MEMBER_HEADER = "x-localcloud-member-token"
"""Header with a member's token. It replaces the TLS client certificate, which this server does not request."""


class MemberConfig(BaseModel):
    """A member of the consortium.

    ``token`` authenticates it. ``member_id`` is 64 hex digits (default: derived from the name).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    token: str = Field(repr=False, min_length=16)
    member_id: str = ""
    status: str = "Active"
    member_data: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The member ID: a hex SHA-256, in CCF of the certificate, here of the name."""
        return self.member_id or hashlib.sha256(f"localcloud member {self.name}".encode()).hexdigest()

    @property
    def tenant_id(self) -> str:
        """``member_data.tenantId``, or the empty string."""
        return str((self.member_data or {}).get("tenantId") or "")


def member_row(member: MemberConfig) -> dict[str, Any]:
    """Return a member as ``/gov/service/members`` shows it, without a certificate."""
    row = {"memberId": member.id, "status": member.status, "memberData": member.member_data}
    return {**row, "certificate": "", "recoveryRole": "NonParticipant"}


class Caller(BaseModel):
    """An authenticated caller: the authentication policy that accepted it, and its identity."""

    model_config = ConfigDict(frozen=True)

    policy: str
    member: MemberConfig | None = None
    claims: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """The member ID or the ``oid`` claim. A token without ``oid`` throws (500), as in the original."""
        if self.member is not None:
            return self.member.id
        if "oid" not in self.claims:
            raise Crash("the token has no oid claim")
        return str(self.claims["oid"])

    @property
    def tenant(self) -> str:
        """``member_data.tenantId`` or the ``tid`` claim, or the empty string."""
        return self.member.tenant_id if self.member is not None else str(self.claims.get("tid") or "")


@dataclass(frozen=True)
class Attested:
    """The result of verifying a request's evidence."""

    platform: str
    """``snp-caci`` or ``snp-cvm``, detected from the evidence itself."""
    claims: Mapping[str, Any] | None
    """Claims of genuine evidence; None if verification failed."""
    report_data: str = ""
    """The report data that the evidence binds: 128 lower-case hex digits."""
    reason: str = ""
    """Why verification failed."""
