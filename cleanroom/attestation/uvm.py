"""Utility-VM endorsements: a COSE_Sign1 by Microsoft that assigns a launch measurement to an image family and a security version.

On Azure Container Instances the launch measurement identifies the utility VM, and ``host_data`` the workload, so both are needed. There are
two shapes, and an endorsement must be entirely of one of them:

* *reference info*: ``iss`` and ``feed`` are text labels, the payload is JSON with the measurement and the guest SVN;
* *hash envelope* (ContainerPlat 0.2.10 and later): CWT claims in header 15, the payload is the raw 48-byte measurement.

Source: RFC 9052 (COSE), RFC 9360 (x5chain, x5t), RFC 9597 (CWT claims in headers), and the did:x509 method; see
``docs/facts/attestation.md#uvm-endorsements``.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cleanroom.attestation import didx509
from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting
from cleanroom.claims import GUEST_SVN, LAUNCH_MEASUREMENT
from cleanroom.jose.encoding import strict_json

MAX_ENDORSEMENT: Final = 64 * 1024

_ALG, _CRIT, _CONTENT_TYPE, _CWT_CLAIMS, _X5CHAIN, _X5T = 1, 2, 3, 15, 33, 34
_HASH_ALG, _PREIMAGE_TYPE = 258, 259
_UNDERSTOOD: Final = (_ALG, _CONTENT_TYPE, _CWT_CLAIMS, _X5CHAIN, _X5T, _HASH_ALG, _PREIMAGE_TYPE)
"""Headers that may be critical."""
_CWT_ISS, _CWT_SUB, _CWT_IAT = 1, 2, 6
_COSE_HASHES: Final = {-16: hashlib.sha256, -43: hashlib.sha384, -44: hashlib.sha512}
"""IANA COSE Algorithms. Genuine endorsements use SHA-256."""
_SIGN1_TAG: Final = 0xD2
"""CBOR tag 18 in one byte."""


# COSE algorithm → (family, hash). PS, RS and ES in their three sizes (IANA COSE Algorithms).
_ALGORITHMS: Final[Mapping[int, tuple[str, type[hashes.HashAlgorithm]]]] = {
    -37: ("PS", hashes.SHA256),
    -38: ("PS", hashes.SHA384),
    -39: ("PS", hashes.SHA512),
    -257: ("RS", hashes.SHA256),
    -258: ("RS", hashes.SHA384),
    -259: ("RS", hashes.SHA512),
    -7: ("ES", hashes.SHA256),
    -35: ("ES", hashes.SHA384),
    -36: ("ES", hashes.SHA512),
}


@dataclass(frozen=True)
class UvmEndorsement:
    """An endorsement with a verified signature and chain. The caller checks the issuer and the minimum version."""

    issuer: str
    feed: str
    svn: int
    measurement: bytes
    """48 bytes."""
    shape: str
    """``reference-info`` or ``hash-envelope``."""


@dataclass(frozen=True)
class _Sign1:
    protected_bytes: bytes
    protected: dict[Any, Any]
    payload: bytes
    signature: bytes


def verify_endorsement(data: bytes) -> UvmEndorsement:
    """Parse an endorsement and verify its chain, its issuer identifier and its signature.

    Raises:
        AttestationRejected: ``UvmEndorsementMalformed``, ``UvmCertificateChainInvalid``, ``UvmIssuerNotTrusted`` (the identifier does not
            match the chain) or ``UvmSignatureInvalid``.
    """
    message = _read_sign1(data)
    header = message.protected
    chain = didx509.load_chain(_x5chain(header))
    _check_thumbprint(header, _x5chain(header)[0])
    endorsement = _hash_envelope(message, chain) if _CWT_CLAIMS in header else _reference_info(message)
    didx509.resolve(endorsement.issuer, chain)
    _check_signature(message, chain[0])
    return endorsement


def _read_sign1(data: bytes) -> _Sign1:
    if len(data) > MAX_ENDORSEMENT:
        raise _malformed(f"The endorsement has {len(data)} bytes, more than {MAX_ENDORSEMENT}.", f"{len(data)} bytes")
    with rejecting(Reason.UVM_MALFORMED, "COSE_Sign1"):
        message = _decode(data)
        # The first byte is checked rather than the decoded tag, because the decoder silently removes a self-description tag (55799).
        if data[0] != _SIGN1_TAG or not isinstance(message.value, list | tuple):
            raise _malformed("The endorsement is not a COSE_Sign1 (CBOR tag 18).", type(message).__name__)
        parts = list(message.value)
        if len(parts) != 4 or not all(isinstance(parts[i], bytes) for i in (0, 2, 3)) or not isinstance(parts[1], Mapping):
            raise _malformed("The COSE_Sign1 is not [protected, unprotected, payload, signature].", f"{len(parts)} elements")
        protected = _decode(parts[0])
        if not isinstance(protected, Mapping):
            raise _malformed("The protected header is not a map.", type(protected).__name__)
        header = dict(protected)
        _check_critical(header)
        return _Sign1(parts[0], header, parts[2], parts[3])


def _check_critical(header: Mapping[Any, Any]) -> None:
    """Require that the critical headers are understood and present in the protected header (RFC 9052, section 3.1)."""
    if _CRIT not in header:
        return
    critical = header[_CRIT]
    if not isinstance(critical, list | tuple) or not critical:
        raise _malformed("The header crit is not a list of headers.", str(critical)[:100])
    wrong = [label for label in critical if label not in _UNDERSTOOD or label not in header]
    if wrong:
        raise _malformed("The endorsement has critical headers that are unknown or absent.", str(wrong)[:100])


def _decode(data: bytes) -> Any:
    """Decode one CBOR item with nothing after it."""
    stream = io.BytesIO(data)
    value = cbor2.load(stream, max_depth=8, allow_duplicate_keys=False)
    if stream.read(1):
        raise ValueError("bytes left over")
    return value


def _x5chain(header: Mapping[Any, Any]) -> list[bytes]:
    value = header.get(_X5CHAIN)
    ders = [value] if isinstance(value, bytes) else value
    if not isinstance(ders, list | tuple) or not ders or not all(isinstance(der, bytes) for der in ders):
        raise _malformed("The protected header has no x5chain.", type(value).__name__)
    return list(ders)


def _check_thumbprint(header: Mapping[Any, Any], leaf: bytes) -> None:
    if _X5T not in header:
        return
    value = header[_X5T]
    algorithm, digest = value if isinstance(value, list | tuple) and len(value) == 2 else (None, None)
    hasher = _COSE_HASHES.get(algorithm) if type(algorithm) is int else None
    if hasher is None or digest != hasher(leaf).digest():
        raise AttestationRejected(
            Reason.UVM_CHAIN_INVALID,
            "The x5t header is not a hash of the leaf.",
            expected="a SHA-2 hash of the leaf",
            actual="another value",
        )


def _reference_info(message: _Sign1) -> UvmEndorsement:
    header = message.protected
    with rejecting(Reason.UVM_MALFORMED, "reference info"):
        if header.get(_CONTENT_TYPE) != "application/json":
            raise _malformed("The endorsement's content type is not application/json.", str(header.get(_CONTENT_TYPE))[:60])
        payload = strict_json(message.payload)
        measurement, svn = payload[LAUNCH_MEASUREMENT], payload[GUEST_SVN]
        if not isinstance(measurement, str) or not re.fullmatch("[0-9a-f]{96}", measurement):
            raise _malformed(f"{LAUNCH_MEASUREMENT} is not 96 lower-case hex digits.", str(measurement)[:100])
        return UvmEndorsement(_text(header, "iss"), _text(header, "feed"), _svn(svn), bytes.fromhex(measurement), "reference-info")


def _hash_envelope(message: _Sign1, chain: tuple[x509.Certificate, ...]) -> UvmEndorsement:
    header = message.protected
    with rejecting(Reason.UVM_MALFORMED, "hash envelope"):
        claims = header[_CWT_CLAIMS]
        if not isinstance(claims, Mapping) or "iss" in header or "feed" in header:
            raise _malformed("The CWT claims are not a map, or are combined with the headers of the older shape.", "mixed shapes")
        # The hash algorithm is not checked further: the platform chose it, and the measurement itself is compared.
        if type(header.get(_HASH_ALG)) is not int or header.get(_PREIMAGE_TYPE) != "application/octet-stream":
            raise _malformed(
                "The hash envelope must state a hash algorithm (header 258) over application/octet-stream (header 259).",
                f"{header.get(_HASH_ALG)} over {header.get(_PREIMAGE_TYPE)}"[:100],
            )
        if len(message.payload) != 48:
            raise _malformed("The payload of a hash envelope is a 48-byte measurement.", f"{len(message.payload)} bytes")
        if _CWT_IAT in claims:
            issued = _instant(claims[_CWT_IAT])
            if any(not each.not_valid_before_utc <= issued <= each.not_valid_after_utc for each in chain):
                raise _malformed("The endorsement was issued outside the validity of its certificates.", issued.isoformat())
        return UvmEndorsement(_text(claims, _CWT_ISS), _text(claims, _CWT_SUB), _svn(claims["svn"]), message.payload, "hash-envelope")


def _text(values: Mapping[Any, Any], key: Any) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise _malformed(f"The header {key!r} is not text.", type(value).__name__)
    return value


def _svn(value: Any) -> int:
    """Read a security version number, which is an integer or its decimal text. As text, "101" would sort before "99"."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    raise _malformed("The security version number is not a number.", str(value)[:60])


def _instant(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)


def _check_signature(message: _Sign1, leaf: x509.Certificate) -> None:
    algorithm = message.protected.get(_ALG)
    with rejecting(Reason.UVM_SIGNATURE_INVALID, "endorsement signature"):
        if not isinstance(algorithm, int) or algorithm not in _ALGORITHMS:
            raise _bad_signature("The endorsement's signature algorithm is not supported.", str(algorithm)[:60])
        family, hash_type = _ALGORITHMS[algorithm]
        signed = cbor2.dumps(["Signature1", message.protected_bytes, b"", message.payload])
        key = leaf.public_key()
        try:
            if isinstance(key, rsa.RSAPublicKey) and family == "PS":
                pss = padding.PSS(padding.MGF1(hash_type()), padding.PSS.DIGEST_LENGTH)
                key.verify(message.signature, signed, pss, hash_type())
            elif isinstance(key, rsa.RSAPublicKey) and family == "RS":
                key.verify(message.signature, signed, padding.PKCS1v15(), hash_type())
            elif isinstance(key, ec.EllipticCurvePublicKey) and family == "ES":
                half = (key.curve.key_size + 7) // 8
                if len(message.signature) != 2 * half:
                    raise InvalidSignature
                r, s = (int.from_bytes(part, "big") for part in (message.signature[:half], message.signature[half:]))
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hash_type()))
            else:
                raise _bad_signature("The endorsement's algorithm does not match its leaf's key.", f"{family} with {type(key).__name__}")
        except InvalidSignature as error:
            raise _bad_signature("The endorsement's signature does not verify under its leaf.", "does not verify") from error


def _malformed(message: str, actual: str) -> AttestationRejected:
    return AttestationRejected(Reason.UVM_MALFORMED, message, expected="a COSE_Sign1 with a launch measurement", actual=actual)


def _bad_signature(message: str, actual: str) -> AttestationRejected:
    return AttestationRejected(Reason.UVM_SIGNATURE_INVALID, message, expected="a signature of the chain's leaf", actual=actual)
