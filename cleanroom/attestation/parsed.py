"""One certificate, parsed once: what the checks of a chain ask of it (RFC 5280 4.1), cut out of its DER.

Nothing that is read here is believed before the bytes that it was cut from have been verified: :meth:`ParsedCertificate.signed_by` covers
every bit. cryptography's own certificates are not used, since they encode, copy or build each part anew at every access, which took longer
than a signature, and since AMD's leaves have serial number 0, which it warns of at every load and says it will refuse. Keys are its own.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

# cryptography warns of an adversary's names; they are refused, with their reason, and standard error stays ours.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)
warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive", category=CryptographyDeprecationWarning)

PSS_OID: Final = "1.2.840.113549.1.1.10"
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


def members(der: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """The values that stand between ``start`` and ``end`` of DER: where each starts, where its contents start, and where it ends.

    Raises:
        ValueError, IndexError: It is no DER.
    """
    found = []
    while start < end:
        length, contents = der[start + 1], start + 2
        if length >= 0x80:
            octets = length & 0x7F
            length = int.from_bytes(der[contents : contents + octets], "big")
            contents += octets
            if length < 0x80:
                raise ValueError("a length that is not as short as can be")
        stop = contents + length
        if stop > end:
            raise ValueError("a value that is longer than what holds it")
        found.append((start, contents, stop))
        start = stop
    return found


class ParsedCertificate:
    """A certificate and its parts. Names are compared as DER; ``spki`` is the SubjectPublicKeyInfo as it stands in the certificate.

    ``not_before`` and ``not_after`` are texts ``YYYYMMDDHHMMSSZ``, in whose order time runs.

    Raises:
        ValueError, IndexError: The bytes are no certificate.
    """

    __slots__ = (
        *("_key", "_serial", "algorithm", "body", "cn", "der", "extensions", "issuer", "not_after", "not_before"),
        *("signature", "spki", "subject"),
    )

    def __init__(self, der: bytes) -> None:
        self.der = der
        ((_, place, end),) = members(der, 0, len(der))
        (start, inside, stop), _, (_, signature, end) = members(der, place, end)
        self.body, self.signature = der[start:stop], der[signature + 1 : end]
        fields = members(der, inside, stop)
        if der[fields[0][0]] == _VERSION:
            del fields[0]
        self._serial, (algorithm, _, issuer), (_, _, validity), (_, start, subject), (_, _, key), (_, _, end) = fields[:6]
        self.algorithm, self.issuer, self.subject, self.spki = der[algorithm:issuer], der[issuer:validity], der[subject:key], der[key:end]
        self.not_before, self.not_after = (_time(der, *each) for each in members(der, start, subject))
        first, start, stop = fields[-1]
        self.extensions = _read_extensions(der, start, stop) if der[first] == _EXTENSIONS else {}
        self.cn = _raw_common_name(self.subject) or common_name(self.certificate().subject)
        self._key: PublicKeyTypes | None = None

    def certificate(self) -> x509.Certificate:
        """The certificate as cryptography reads it; slow, and stricter.

        Raises:
            ValueError: It does not accept the bytes.
        """
        return x509.load_der_x509_certificate(self.der)

    @property
    def serial_number(self) -> int:
        return int.from_bytes(self.der[self._serial[1] : self._serial[2]], "big", signed=True)

    @property
    def key_sha256(self) -> str:
        """SHA-256 over the SubjectPublicKeyInfo, in hex."""
        return hashlib.sha256(self.spki).hexdigest()

    def key(self) -> PublicKeyTypes:
        """The certificate's key, loaded once: OpenSSL examines an RSA-4096 key for as long as a signature takes.

        Raises:
            Exception: Whatever cryptography raises for a key that it does not know.
        """
        if self._key is None:
            self._key = load_der_public_key(self.spki)
        return self._key

    def is_authority(self) -> bool:
        """Whether the basic constraints say so: ``SEQUENCE { cA BOOLEAN DEFAULT FALSE, … }``.

        Raises:
            ValueError: They are malformed.
        """
        value = self.extensions.get(_BASIC_CONSTRAINTS)
        if value is None:
            return False
        if value[:1] != b"\x30" or len(value) != 2 + value[1] or (len(value) > 2 and value[2] not in (0x01, 0x02)):
            raise ValueError("malformed basic constraints")
        return value.startswith(_TRUE, 2)

    def signed_by(self, parent: ParsedCertificate) -> bool:
        """Whether ``parent``'s key has signed this certificate as AMD signs: RSASSA-PSS, SHA-384, MGF1-SHA-384, a salt of 48 bytes.

        The parameters are fixed here, never read from the certificate.
        """
        try:
            key = parent.key()
            if not isinstance(key, rsa.RSAPublicKey) or not self.algorithm.startswith(_PSS, 2):
                return False
            key.verify(self.signature, self.body, AMD_PSS, _SHA384)
            return self._nothing_unsigned()
        except (InvalidSignature, ValueError, TypeError):
            return False
        except Exception:  # an unsupported key type of a crafted certificate: no signature of ours
            return False

    def _nothing_unsigned(self) -> bool:
        """Whether the certificate is its signed body, the algorithm as the body states it, the signature, and no other bit.

        RFC 5280 4.1.1.2 asks that the algorithm outside equals the one inside; it is the one part of a certificate that nothing signs.
        """
        # Certificate and RSA signature both have 256 bytes or more, and less than 64 KiB.
        rest = b"%b%b\x03\x82%b\0%b" % (self.body, self.algorithm, (len(self.signature) + 1).to_bytes(2, "big"), self.signature)
        return self.der == b"\x30\x82" + len(rest).to_bytes(2, "big") + rest


def _time(der: bytes, tag: int, start: int, end: int) -> str:
    """A UTCTime (of 1950 to 2049) or GeneralizedTime, both of which RFC 5280 4.1.2.5 has to the second and in Greenwich."""
    text = der[start:end].decode("ascii")
    if der[tag] == _UTC_TIME:
        text = f"{'20' if text < '5' else '19'}{text}"
    if len(text) != len("YYYYMMDDHHMMSSZ") or not text.endswith("Z") or not text[:-1].isdigit():
        raise ValueError("a malformed time")
    return text


def instant(time: str) -> datetime:
    """A certificate's ``YYYYMMDDHHMMSSZ`` as an instant.

    Raises:
        ValueError: There is no such day or time of day.
    """
    return datetime.fromisoformat(f"{time[:8]}T{time[8:]}")


def _read_extensions(der: bytes, start: int, end: int) -> dict[bytes, bytes]:
    _, first, last = members(der, start, end)[0]
    found: dict[bytes, bytes] = {}
    for _, start, stop in members(der, first, last):
        # Identifier, criticality where it is not the default, value; AMD's are all short.
        behind = start + 2 + der[start + 1]
        identifier = der[start + 2 : behind]
        value = behind + len(_TRUE) if der[behind] == _TRUE[0] else behind
        if der[start + 1] < 0x80 and value + 2 + der[value + 1] == stop and der[value + 1] < 0x80:
            contents = value + 2
        else:
            (_, start, behind), *_, (_, contents, _) = members(der, start, stop)
            identifier = der[start:behind]
        if identifier in found:
            raise ValueError("an extension stands there twice")
        found[identifier] = der[contents:stop]
    return found


def _raw_common_name(name: bytes) -> str | None:
    """The first common name in the DER of a plain name; None leaves any other to cryptography, which takes far longer."""
    for _, start, end in members(name, members(name, 0, len(name))[0][1], len(name)):
        if start + 2 + name[start + 1] != end or name[start + 1] >= 0x80:
            return None  # several attributes in one, or a long one
        if name.startswith(_COMMON_NAME, start + 2):
            tag = start + 2 + len(_COMMON_NAME)
            text = name[tag + 2 : end]
            return text.decode("ascii")[:_SHOWN] if name[tag] in _TEXT_TAGS and text.isascii() else None
    return None


def common_name(name: x509.Name) -> str:
    """The first common name, cut to what is shown."""
    attributes = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value)[:_SHOWN] if attributes else "(no name)"


@lru_cache(maxsize=256)
def parsed(der: bytes) -> ParsedCertificate:
    """Parsed certificates are shared: every chip of a product brings the same intermediate and root. Parsing is no trust.

    Raises:
        Exception: Whatever cryptography raises for bytes that are no certificate.
    """
    return ParsedCertificate(der)


def parse_certificates(ders: Iterable[bytes]) -> None:
    """Parse certificates ahead of their use, such as a product's intermediate and root.

    Raises:
        ValueError: One is no certificate.
    """
    for der in ders:
        parsed(der)


def forget_parsed() -> None:
    """Forget all parsed certificates (for measurements)."""
    parsed.cache_clear()
