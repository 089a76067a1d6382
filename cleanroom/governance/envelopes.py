"""A guest's identity in governance: one RSA-2048 key, one report that binds it, and the envelopes that carry both.

The formats are in docs/facts/governance-service.md#envelopes.
"""

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

from cleanroom.attestation import GuestAttestor
from cleanroom.errors import Internal
from cleanroom.keys.wrap import KeyWrapAlgorithm, unwrap_key
from cleanroom.secret import Secret

_PLATFORM: Final = "snp-caci"
_THREAD_BYTES: Final = 4096
"""Larger answers are decrypted in a thread, because they would block the event loop."""


@dataclass(frozen=True, repr=False)
class _Identity:
    key: rsa.RSAPrivateKey
    public: str
    """base64 of the PEM text whose SHA-256 is in the report."""
    attestation: dict[str, str]


class Enveloper:
    """Builds envelopes and decrypts answers.

    The key and the report are created at first use and kept for this object's lifetime. All methods raise ``Unavailable`` if the
    attestation sidecar does not answer and ``Refused`` if it rejects the request.
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
        return _Identity(key, base64.b64encode(pem).decode(), evidence.model_dump(exclude_none=True))

    async def consent_envelope(self) -> dict[str, Any]:
        """Build the envelope of a consent check: platform and attestation."""
        identity = await self._get()
        return {"platform": _PLATFORM, "attestation": identity.attestation}

    async def read_envelope(self) -> dict[str, Any]:
        """Build the envelope of a read, whose answer governance encrypts for this key."""
        identity = await self._get()
        return {"platform": _PLATFORM, "attestation": identity.attestation, "encrypt": {"publicKey": identity.public}}

    async def write_envelope(self, payload: Any, *, timestamp_ms: int | None = None) -> dict[str, Any]:
        """Build the envelope of a write: the payload, signed by this key with RSASSA-PSS (SHA-256, salt of 32 bytes).

        Args:
            payload: Any JSON value.
            timestamp_ms: Milliseconds since the epoch, which governance expects as a string. Without it, now.
        """
        identity = await self._get()
        data = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        signature = identity.key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        return {
            **await self.read_envelope(),
            "data": base64.b64encode(data).decode(),
            "timestamp": str(int(time.time() * 1000) if timestamp_ms is None else timestamp_ms),
            "sign": {"signature": base64.b64encode(signature).decode(), "publicKey": identity.public},
        }

    async def open(self, answer: Any) -> Secret:
        """Decrypt an answer ``{"value": ...}`` to the read envelope.

        Raises:
            Internal: ``GovernanceAnswerMalformed`` if the answer has another shape.
            Refused: ``KeyUnwrapFailed`` if it is not encrypted for this key.
        """
        identity = await self._get()
        try:
            blob = base64.b64decode(answer["value"], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error) as error:
            raise Internal("GovernanceAnswerMalformed", "The encrypted answer has no base64 member 'value'.") from error
        if len(blob) > _THREAD_BYTES:
            return Secret(await asyncio.to_thread(unwrap_key, identity.key, blob, KeyWrapAlgorithm.RSA_OAEP_AES_KWP))
        return Secret(unwrap_key(identity.key, blob, KeyWrapAlgorithm.RSA_OAEP_AES_KWP))
