"""One certificate of AMD's hierarchy, cut out of its DER, and the rule that AMD's signatures follow.

Why not :class:`cryptography.x509.Certificate`: parsing names and re-encoding the signed body take longer than the fields are worth. A cold
verdict, which parses three certificates, takes 1.5 times as long as its bare signature operations with this module and 1.85 times with
cryptography (``benchmarks/bench_attestation.py``; 1.07 ms and 1.32 ms for 0.71 ms of signatures). cryptography also warns at each load
of a VCEK, because AMD gives all of them serial number 0, and announces that it will reject such certificates. Keys are cryptography's.

No field is trusted before :meth:`AmdCertificate.signed_by` has verified the bytes it was cut from, which covers every bit.

Source: AMD 57230 (VCEK certificates and key distribution service), RFC 5280 section 4.1, RFC 4055; see
``docs/facts/attestation.md#certificates``.
"""

from __future__ import annotations

import hashlib
import warnings
from datetime import datetime
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

# Crafted names and serial numbers make cryptography write warnings. Such certificates are rejected with a reason instead.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)
warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive", category=CryptographyDeprecationWarning)

AMD_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)

_SHA384: Final = hashes.SHA384()
_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_COMMON_NAME: Final = bytes.fromhex("0603550403")
_TRUE: Final = bytes.fromhex("0101ff")
_VERSION, _EXTENSIONS, _UTC_TIME = 0xA0, 0xA3, 0x17
_TEXT_TAGS: Final = (0x0C, 0x13)
"""UTF8String and PrintableString."""
_SHOWN: Final = 64
"""Characters of a name that are shown."""


class AmdCertificate:
    """A certificate, parsed but not verified. Names are compared as DER; ``spki`` is the SubjectPublicKeyInfo.

    Raises:
        ValueError, IndexError: The bytes are not a certificate.
    """

    def __init__(self, der: bytes) -> None:
        self.der = der
        ((_, place, end),) = _elements(der, 0, len(der))
        (start, inside, stop), _, (_, signature, end) = _elements(der, place, end)
        self.body, self.signature = der[start:stop], der[signature + 1 : end]
        fields = _elements(der, inside, stop)
        if der[fields[0][0]] == _VERSION:
            del fields[0]
        (_, serial, algorithm), (_, _, issuer), (_, _, validity), (_, start, subject), (_, _, key), (_, _, end) = fields[:6]
        self.serial_number = int.from_bytes(der[serial:algorithm], "big", signed=True)
        self.issuer, self.subject, self.spki = der[issuer:validity], der[subject:key], der[key:end]
        self.not_before, self.not_after = (_read_time(der, *each) for each in _elements(der, start, subject))
        first, start, stop = fields[-1]
        self.extensions = _read_extensions(der, start, stop) if der[first] == _EXTENSIONS else {}
        """Contents of each extension, by the contents of its identifier."""
        self.common_name = _plain_common_name(self.subject) or common_name(self.x509().subject)

    @property
    def key_sha256(self) -> str:
        """SHA-256 over the SubjectPublicKeyInfo, in hex."""
        return hashlib.sha256(self.spki).hexdigest()

    @cached_property
    def key(self) -> PublicKeyTypes:
        """The certificate's key. Raises whatever cryptography raises for a kind of key that it does not support."""
        return load_der_public_key(self.spki)

    def x509(self) -> x509.Certificate:
        """Parse the certificate with cryptography: slower and stricter. Raises ValueError."""
        return x509.load_der_x509_certificate(self.der)

    def is_authority(self) -> bool:
        """Whether the basic constraints (``SEQUENCE { cA BOOLEAN DEFAULT FALSE, … }``) mark a certificate authority.

        Raises:
            ValueError: They are malformed.
        """
        value = self.extensions.get(_BASIC_CONSTRAINTS)
        if value is None:
            return False
        if value[:1] != b"\x30" or len(value) != 2 + value[1] or (len(value) > 2 and value[2] not in (0x01, 0x02)):
            raise ValueError("malformed basic constraints")
        return value.startswith(_TRUE, 2)

    def signed_by(self, parent: AmdCertificate) -> bool:
        """Whether ``parent``'s key signed this certificate; see :func:`is_signed_by`."""
        try:
            return is_signed_by(parent.key, self.der, self.body, self.signature)
        except Exception:  # the key of a crafted parent can be of any kind, known to cryptography or not
            return False


def is_signed_by(key: PublicKeyTypes, der: bytes, body: bytes, signature: bytes) -> bool:
    """Whether ``key`` signed a certificate or revocation list as AMD does: RSASSA-PSS, SHA-384, MGF1-SHA-384, a salt of 48 bytes.

    The parameters are fixed here and never read from the input. What the signature does not cover must carry no information: the outer
    algorithm must be the one in the signed body (RFC 5280 sections 4.1.1.2 and 5.1.1.2), and the signature must have no unused bits.

    Args:
        key: The issuer's.
        der: The whole certificate or list.
        body: Its signed part.
        signature: Its signature.
    """
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    try:
        key.verify(signature, body, AMD_PSS, _SHA384)
    except InvalidSignature:
        return False
    # SEQUENCE { body, algorithm, BIT STRING }. A certificate's length takes two bytes, that of a long revocation list three.
    octets = 2 if len(der) < 4 + 0x10000 else 3
    start = bytes((0x30, 0x80 | octets)) + (len(der) - 2 - octets).to_bytes(octets, "big") + body
    end = b"\x03\x82%b\0%b" % ((len(signature) + 1).to_bytes(2, "big"), signature)
    algorithm = der[len(start) : -len(end)]
    return der.startswith(start) and der.endswith(end) and algorithm.startswith(_PSS, 2) and algorithm in body


def common_name(name: x509.Name) -> str:
    """Return the first common name, cut to a length that can be shown."""
    attributes = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value)[:_SHOWN] if attributes else "(no name)"


def instant(time: str) -> datetime:
    """Return a certificate's ``YYYYMMDDHHMMSSZ`` as an instant.

    Raises:
        ValueError: It is not a valid date and time.
    """
    return datetime.fromisoformat(f"{time[:8]}T{time[8:]}")


def _elements(der: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """List the DER elements between ``start`` and ``end``: where each starts, where its contents start, and where it ends.

    Raises:
        ValueError, IndexError: It is not DER.
    """
    found = []
    while start < end:
        length, contents = der[start + 1], start + 2
        if length >= 0x80:
            octets = length & 0x7F
            length = int.from_bytes(der[contents : contents + octets], "big")
            contents += octets
            if length < 0x80:
                raise ValueError("a non-minimal DER length")
        stop = contents + length
        if stop > end:
            raise ValueError("an element exceeds its parent")
        found.append((start, contents, stop))
        start = stop
    return found


def _read_time(der: bytes, tag: int, start: int, end: int) -> str:
    """Return a UTCTime (1950 to 2049) or GeneralizedTime as ``YYYYMMDDHHMMSSZ``, whose order is that of time (RFC 5280 4.1.2.5)."""
    text = der[start:end].decode("ascii")
    if der[tag] == _UTC_TIME:
        text = f"{'20' if text < '5' else '19'}{text}"
    if len(text) != len("YYYYMMDDHHMMSSZ") or not text.endswith("Z") or not text[:-1].isdigit():
        raise ValueError("a malformed time")
    return text


def _read_extensions(der: bytes, start: int, end: int) -> dict[bytes, bytes]:
    _, first, last = _elements(der, start, end)[0]
    found: dict[bytes, bytes] = {}
    for _, start, stop in _elements(der, first, last):
        (_, start, behind), *_, (_, contents, _) = _elements(der, start, stop)  # identifier, criticality if it is not the default, value
        identifier = der[start:behind]
        if identifier in found:
            raise ValueError("a duplicate extension")
        found[identifier] = der[contents:stop]
    return found


def _plain_common_name(name: bytes) -> str | None:
    """Return the first common name in the DER of a plain name; None for any other name, which cryptography then reads."""
    for _, start, end in _elements(name, _elements(name, 0, len(name))[0][1], len(name)):
        if start + 2 + name[start + 1] != end or name[start + 1] >= 0x80:
            return None  # several attributes in one, or a long one
        if name.startswith(_COMMON_NAME, start + 2):
            tag = start + 2 + len(_COMMON_NAME)
            text = name[tag + 2 : end]
            return text.decode("ascii")[:_SHOWN] if name[tag] in _TEXT_TAGS and text.isascii() else None
    return None
