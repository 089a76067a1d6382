"""Who sends a request: a member of the consortium, a registered user, or an attested clean room."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from localcloud.standins.cgs.javascript import Crash

MEMBER_HEADER = "x-localcloud-member-token"
"""Stands for a member's TLS client certificate, which this server does not ask for."""


class MemberConfig(BaseModel):
    """A consortium member. ``token`` authenticates it; ``member_id`` is 64 hex characters (default: derived from the name)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    token: str = Field(repr=False, min_length=16)
    member_id: str = ""
    status: str = "Active"
    member_data: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The CCF member id: hex SHA-256 (of the certificate there, of the name here)."""
        return self.member_id or hashlib.sha256(f"localcloud member {self.name}".encode()).hexdigest()

    @property
    def tenant_id(self) -> str:
        """``member_data.tenantId`` or empty."""
        return str((self.member_data or {}).get("tenantId") or "")


def member_row(member: MemberConfig) -> dict[str, Any]:
    """A member as ``/gov/service/members`` shows it; there is no certificate to show."""
    row = {"memberId": member.id, "status": member.status, "memberData": member.member_data}
    return {**row, "certificate": "", "recoveryRole": "NonParticipant"}


class Caller(BaseModel):
    """``caller.policy`` and what identifies the caller."""

    model_config = ConfigDict(frozen=True)

    policy: str
    member: MemberConfig | None = None
    claims: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """Member id or the ``oid`` claim; a token without ``oid`` throws (500), as in the original."""
        if self.member is not None:
            return self.member.id
        if "oid" not in self.claims:
            raise Crash("the token has no oid claim")
        return str(self.claims["oid"])

    @property
    def tenant(self) -> str:
        """``member_data.tenantId`` or the ``tid`` claim; empty when there is none."""
        return self.member.tenant_id if self.member is not None else str(self.claims.get("tid") or "")


@dataclass(frozen=True)
class Attested:
    """What the verifier says of a request's evidence: the claims of genuine evidence, or why there are none."""

    platform: str
    """``snp-caci`` or ``snp-cvm``: what the evidence is, whatever the envelope says."""
    claims: Mapping[str, Any] | None
    report_data: str = ""
    """128 lower-case hex digits that the evidence binds."""
    reason: str = ""
