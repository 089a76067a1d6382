"""A TPM 2.0 quote as the Azure guest agent delivers it: a sized TPMS_ATTEST followed by a TPMT_SIGNATURE, big-endian.

Source: TCG TPM 2.0 Library, part 2 (TPMS_ATTEST, TPMS_QUOTE_INFO, TPML_PCR_SELECTION, TPMT_SIGNATURE),
https://trustedcomputinggroup.org/resource/tpm-library-specification/
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting

_MAGIC: Final = 0xFF544347
_ST_ATTEST_QUOTE: Final = 0x8018
_ALG_RSASSA: Final = 0x0014
_ALG_SHA256: Final = 0x000B
_CLOCK_AND_FIRMWARE: Final = 17 + 8
PCR_COUNT: Final = 24


@dataclass(frozen=True)
class Quote:
    """The contents of a quote. ``attest`` holds the signed bytes, ``selected`` the PCR indices (SHA-256 bank) in ascending order."""

    attest: bytes
    signature: bytes
    extra_data: bytes
    selected: tuple[int, ...]
    pcr_digest: bytes


class _Reader:
    """Reads fields from the front of a buffer. Raises ``ValueError`` at its end."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def take(self, size: int) -> bytes:
        if size > len(self._rest):
            raise ValueError("too short")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def end(self) -> None:
        if self._rest:
            raise ValueError("bytes left over")


def parse_quote(data: bytes) -> Quote:
    """Parse a quote without verifying it.

    Raises:
        AttestationRejected: ``TpmQuoteMalformed``.
    """
    with rejecting(Reason.TPM_QUOTE_MALFORMED, "TPM quote"):
        outer = _Reader(data)
        attest = outer.sized()
        if (outer.number(2), outer.number(2)) != (_ALG_RSASSA, _ALG_SHA256):
            raise ValueError("not RSASSA with SHA-256")
        signature = outer.sized()
        outer.end()
        body = _Reader(attest)
        if (body.number(4), body.number(2)) != (_MAGIC, _ST_ATTEST_QUOTE):
            raise ValueError("not a quote made by a TPM")
        body.sized()  # qualifiedSigner
        extra_data = body.sized()
        body.take(_CLOCK_AND_FIRMWARE)
        selected = _selection(body)
        pcr_digest = body.sized()
        body.end()
        return Quote(attest, signature, extra_data, selected, pcr_digest)


def _selection(body: _Reader) -> tuple[int, ...]:
    if body.number(4) != 1 or body.number(2) != _ALG_SHA256:
        raise ValueError("not exactly one SHA-256 bank")
    bitmap = body.take(body.number(1))
    return tuple(index for index in range(8 * len(bitmap)) if bitmap[index // 8] >> index % 8 & 1)


def quote_signed_by(quote: Quote, key: rsa.RSAPublicKey) -> bool:
    """Whether the attestation key signed the quote (RSASSA-PKCS1-v1_5, SHA-256)."""
    try:
        key.verify(quote.signature, quote.attest, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


def pcr_digest_of(quote: Quote, pcrs: Mapping[int, bytes]) -> bytes:
    """Return SHA-256 over the values of the selected PCRs in index order.

    Raises:
        AttestationRejected: ``PcrDigestMismatch`` when a selected PCR is not given.
    """
    missing = [index for index in quote.selected if index not in pcrs]
    if missing or not quote.selected:
        raise AttestationRejected(
            Reason.PCR_DIGEST_MISMATCH,
            "The evidence lacks PCR values that the quote covers, or the quote covers none.",
            expected=f"values of PCRs {list(quote.selected)}",
            actual=f"without {missing}",
        )
    return hashlib.sha256(b"".join(pcrs[index] for index in quote.selected)).digest()
