"""Read the certificates from the ``endorsements`` that attesters send."""

from __future__ import annotations

import json
from typing import Final

from cleanroom.attestation.evidence import strict_base64
from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting

MAX_ENDORSEMENTS: Final = 64 * 1024
"""Greatest size of endorsements in bytes; three genuine certificates take 6 KiB."""

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_DER: Final = b"\x30\x82"
"""The start of a certificate: a sequence of 256 bytes or more."""


def read_endorsements(text: bytes | str) -> list[bytes]:
    """Return the DER certificates in an endorsements blob, in their order.

    Accepts PEM text, the JSON of Azure's THIM service (``vcekCert`` and ``certificateChain``), concatenated DER certificates, and base64 of
    each. PEM text is split at its markers, because Azure concatenates PEM files without a newline between them.

    Raises:
        AttestationRejected: ``CertificateChainMalformed``.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(data) > MAX_ENDORSEMENTS:
        raise chain_malformed(f"The endorsements have {len(data)} bytes, more than {MAX_ENDORSEMENTS}.", f"{len(data)} bytes")
    for _ in range(3):  # a transport may add another layer of base64
        stripped = data.removeprefix(_BYTE_ORDER_MARK).strip()
        if stripped.startswith(b"{"):
            data = _pem_of_thim(stripped)
        if b"-----BEGIN" in data:
            return _split_pem(data)
        if data.startswith(_DER):
            with rejecting(Reason.CHAIN_MALFORMED, "DER certificate"):
                return _split_der(data)
        try:
            data = strict_base64(stripped)
        except ValueError:
            break
    raise chain_malformed(
        "The endorsements hold no certificate: neither PEM, nor THIM JSON, nor DER, nor base64 of these.", "no certificate"
    )


def _split_der(data: bytes) -> list[bytes]:
    ders = []
    while data:
        size = 4 + int.from_bytes(data[2:4], "big")  # tag, and a length in two bytes
        if not data.startswith(_DER) or size > len(data):
            raise ValueError("not a sequence of certificates")
        ders.append(data[:size])
        data = data[size:]
    return ders


def _split_pem(data: bytes) -> list[bytes]:
    blocks = data.split(_BEGIN)[1:]
    if len(blocks) != data.count(b"-----BEGIN"):
        raise chain_malformed("The endorsements hold a PEM block that is not a certificate.", "another PEM block")
    ders = []
    for block in blocks:
        content, end, _ = block.partition(_END)
        with rejecting(Reason.CHAIN_MALFORMED, "PEM certificate"):
            if not end:
                raise ValueError("no end marker")
            ders.append(strict_base64(content))
    return ders


def _pem_of_thim(data: bytes) -> bytes:
    with rejecting(Reason.CHAIN_MALFORMED, "THIM certificate JSON"):
        value = json.loads(data)
        return f"{value['vcekCert']}\n{value['certificateChain']}".encode()


def chain_malformed(message: str, actual: str) -> AttestationRejected:
    """Return the error for endorsements that do not hold a certificate chain."""
    return AttestationRejected(
        Reason.CHAIN_MALFORMED, message, expected="three certificates: leaf, intermediate and root, in any order", actual=actual
    )
