"""The evidence that an attester sends, as messages carry it. :mod:`cleanroom.attestation` verifies it."""

from __future__ import annotations

import base64
import hashlib
import json

from pydantic import BaseModel, ConfigDict


class AttestationEvidence(BaseModel):
    """The wire shape of the governance service's ``attestation``: base64 texts, and the TCB that the certificate was fetched for."""

    model_config = ConfigDict(frozen=True)

    evidence: str
    """base64 of the 1184-byte report."""
    endorsements: str
    """base64 of concatenated PEM, leaf + ASK + ARK. Plain PEM, THIM JSON and its base64 are accepted too."""
    uvm_endorsements: str | None = None
    """base64 of a COSE_Sign1."""
    endorsed_tcb: str | None = None
    """16 hex digits, most significant byte first."""

    @staticmethod
    def of(report: bytes, chain: bytes, uvm: bytes | None = None, endorsed_tcb: str | None = None) -> AttestationEvidence:
        """Create evidence from the report's bytes, a PEM chain, and the bytes of a COSE_Sign1."""
        return AttestationEvidence(
            evidence=base64.b64encode(report).decode(),
            endorsements=base64.b64encode(chain).decode(),
            uvm_endorsements=base64.b64encode(uvm).decode() if uvm is not None else None,
            endorsed_tcb=endorsed_tcb,
        )

    def digest(self) -> str:
        """Return SHA-256 over the evidence's canonical JSON, in hex."""
        text = json.dumps(self.model_dump(exclude_none=True), separators=(",", ":"), ensure_ascii=False)
        # A crafted text may hold lone surrogates, which UTF-8 cannot encode; its evidence needs a digest too.
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
