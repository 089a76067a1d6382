"""The clean room's identity towards CGS: one RSA-2048 key, one report that binds it, the envelopes E1, E2 and E3 (spec 2.3)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.attestation import AttestationEvidence, GuestAttestor
from cleanroom.errors import Internal
from cleanroom.keys.wrap import KeyWrapAlgorithm, unwrap_key
from cleanroom.secret import Secret

_LARGE: Final = 4096


@dataclass(frozen=True, repr=False)
class _Identity:
    key: rsa.RSAPrivateKey
    public: str
    """base64 of the PEM text whose SHA-256 is in the report."""
    attestation: dict[str, str]


class Enveloper:
    """Makes envelopes and opens answers. Key and report are made at first use and kept for this object's lifetime.

    Raises (all methods):
        Unavailable: The attestation sidecar did not answer.
        Refused: The attestation sidecar refused.
    """

    def __init__(self, attestor: GuestAttestor) -> None:
        self._attestor = attestor
        self._identity: _Identity | None = None
        self._lock = asyncio.Lock()

    async def _get(self) -> _Identity:
        if self._identity is None:
            async with self._lock:
                if self._identity is None:
                    self._identity = await self._create()
        return self._identity

    async def _create(self) -> _Identity:
        key = await asyncio.to_thread(rsa.generate_private_key, 65537, 2048)
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        evidence = await self._attestor.attest(pem)
        return _Identity(key, base64.b64encode(pem).decode(), _wire(evidence))

    async def consent(self) -> dict[str, Any]:
        """E3: platform and attestation only."""
        identity = await self._get()
        return {"platform": "snp-caci", "attestation": identity.attestation}

    async def reading(self) -> dict[str, Any]:
        """E1: the answer will be wrapped for our key."""
        identity = await self._get()
        return {"platform": "snp-caci", "attestation": identity.attestation, "encrypt": {"publicKey": identity.public}}

    async def writing(self, payload: Any, *, timestamp_ms: int | None = None) -> dict[str, Any]:
        """E2: the payload, signed by our key (RSA-PSS, SHA-256, salt 32). The timestamp goes as a string of milliseconds (trap 30)."""
        identity = await self._get()
        data = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        signature = identity.key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        return {
            **await self.reading(),
            "data": base64.b64encode(data).decode(),
            "timestamp": str(int(time.time() * 1000) if timestamp_ms is None else timestamp_ms),
            "sign": {"signature": base64.b64encode(signature).decode(), "publicKey": identity.public},
        }

    async def open(self, answer: Any) -> Secret:
        """The plaintext of a wrapped answer ``{"value": ...}``.

        Raises:
            Internal: ``GovernanceAnswerMalformed`` when the answer has another shape.
            Refused: ``KeyUnwrapFailed`` when it is not wrapped for our key.
        """
        identity = await self._get()
        try:
            blob = base64.b64decode(answer["value"], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error) as error:
            raise Internal("GovernanceAnswerMalformed", "The wrapped answer has no base64 value.") from error
        if len(blob) > _LARGE:
            return Secret(await asyncio.to_thread(unwrap_key, identity.key, blob, KeyWrapAlgorithm.RSA_OAEP_AES_KWP))
        return Secret(unwrap_key(identity.key, blob, KeyWrapAlgorithm.RSA_OAEP_AES_KWP))


def _wire(evidence: AttestationEvidence) -> dict[str, str]:
    return evidence.model_dump(exclude_none=True)
