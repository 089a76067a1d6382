"""What the certificate parser reads, and what it rejects, byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from cleanroom.attestation.amd_certificate import AMD_PSS, AmdCertificate, common_name, instant, is_signed_by
from tests.unit.attestation.der import (
    AMD,
    BASIC_CONSTRAINTS,
    COMMON_NAME,
    GENERALIZED_TIME,
    LEAF_KEY,
    ORGANISATION,
    OTHER_KEY,
    PKCS1,
    PSS,
    RSA_KEY,
    UTC_TIME,
    body,
    certificate,
    extension,
    named,
    oid,
    sequence,
    signed,
    spki,
    tlv,
)

CRITICAL = bytes.fromhex("0101ff")


def test_fields_are_cut_out_of_the_signed_body() -> None:
    subject, issuer, key = named("a"), named("b"), spki(LEAF_KEY)
    tbs = body(subject=subject, issuer=issuer, key=key, serial=b"\x02\x02\x01\x02", extensions={BASIC_CONSTRAINTS: b"\x30\x00"})
    der = signed(tbs)
    read = AmdCertificate(der)
    assert (read.der, read.body, read.subject, read.issuer, read.spki) == (der, tbs, subject, issuer, key)
    assert (read.serial_number, read.common_name, len(read.signature)) == (0x102, "a", 256)
    assert (read.not_before, read.not_after) == ("20200101000000Z", "20500101000000Z")
    assert read.extensions == {BASIC_CONSTRAINTS: b"\x30\x00"}
    RSA_KEY.public_key().verify(read.signature, read.body, AMD_PSS, hashes.SHA384())


def test_version_1_has_no_version_and_no_extensions() -> None:
    read = AmdCertificate(certificate(version=b"", extensions=b"", serial=b"\x02\x01\x05"))
    assert (read.serial_number, read.extensions, read.common_name) == (5, {}, "SEV-VCEK")


def test_serial_number_is_signed() -> None:
    assert AmdCertificate(certificate(serial=b"\x02\x01\xff")).serial_number == -1
    assert AmdCertificate(certificate(serial=b"\x02\x02\x00\xff")).serial_number == 255


# --- authorities


@pytest.mark.parametrize(
    ("value", "authority"),
    [
        (None, False),
        ("3000", False),
        ("30030101ff", True),
        ("3003010100", False),
        ("3003020105", False),
        ("30060101ff020100", True),
        ("31030101ff", None),
        ("30040101ff", None),
        ("30020101ff", None),
        ("300105", None),
        ("30030301ff", None),
        ("30030401ff", None),
    ],
)
def test_basic_constraints_say_whether_it_is_an_authority(value: str | None, authority: bool | None) -> None:
    extensions = b"" if value is None else {BASIC_CONSTRAINTS: bytes.fromhex(value)}
    read = AmdCertificate(certificate(extensions=extensions))
    if authority is None:
        with pytest.raises(ValueError, match="basic constraints"):
            read.is_authority()
    else:
        assert read.is_authority() is authority


# --- times


@pytest.mark.parametrize(
    ("tag", "text", "read"),
    [
        (UTC_TIME, "500101000000Z", "19500101000000Z"),
        (UTC_TIME, "491231235959Z", "20491231235959Z"),
        (UTC_TIME, "000101000000Z", "20000101000000Z"),
        (GENERALIZED_TIME, "19491231235959Z", "19491231235959Z"),
        (GENERALIZED_TIME, "99991231235959Z", "99991231235959Z"),
        (GENERALIZED_TIME, "491231235959Z", None),
        (UTC_TIME, "5001010000Z", None),
        (UTC_TIME, "50010100000000Z", None),
        (UTC_TIME, "5001010000000", None),
        (UTC_TIME, "50010100000xZ", None),
        (UTC_TIME, "x00101000000Z", None),
        (UTC_TIME, "", None),
    ],
)
def test_times_have_one_form_each(tag: int, text: str, read: str | None) -> None:
    other = (UTC_TIME, "200101000000Z")
    for times in (((tag, text), other), (other, (tag, text))):
        if read is None:
            with pytest.raises(ValueError, match="time"):
                AmdCertificate(certificate(times=times))
        else:
            made = AmdCertificate(certificate(times=times))
            assert [made.not_before, made.not_after] == ([read, "20200101000000Z"] if times[1] is other else ["20200101000000Z", read])


def test_instant_has_a_time_zone_and_seconds() -> None:
    assert instant("20200102030405Z").isoformat() == "2020-01-02T03:04:05+00:00"
    with pytest.raises(ValueError):
        instant("20201302030405Z")


# --- lengths


def lengths(length: bytes, contents: bytes) -> bytes:
    """Return a certificate whose first extension's value has the given length octets."""
    value = b"\x04" + length + contents
    return certificate(extensions=sequence(oid(AMD + b"\x01"), value))


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 255, 256, 65535, 65536])
def test_value_of_any_length_is_read(size: int) -> None:
    value = bytes(index % 251 for index in range(size))
    for critical in (b"", CRITICAL):
        read = AmdCertificate(certificate(extensions=extension(AMD + b"\x01", value, critical) + extension(AMD + b"\x02", b"x")))
        assert read.extensions == {AMD + b"\x01": value, AMD + b"\x02": b"x"}


@pytest.mark.parametrize(
    ("length", "contents"),
    [
        (b"\x80", bytes(128)),  # an indefinite length
        (b"\x81\x05", bytes(5)),  # not the shortest form
        (b"\x81\x7f", bytes(127)),
        (b"\x82\x00\x05", bytes(5)),
        (b"\x06", bytes(5)),  # beyond its parent
        (b"\x81\x85", bytes(132)),
        (b"\x84\xff\xff\xff\xff", bytes(132)),
    ],
)
def test_length_that_is_not_der_is_rejected(length: bytes, contents: bytes) -> None:
    with pytest.raises(ValueError, match=r"length|parent"):
        AmdCertificate(lengths(length, contents))


def test_identifier_with_a_long_length_is_read() -> None:
    identifier = AMD + bytes([0x81] * 130 + [1])
    read = AmdCertificate(certificate(extensions=extension(identifier, b"x", CRITICAL) + extension(AMD, b"y")))
    assert read.extensions == {identifier: b"x", AMD: b"y"}


@pytest.mark.parametrize("identifiers", [(AMD, AMD), (AMD, b"\x2a\x03", AMD)])
def test_second_value_of_an_extension_is_rejected(identifiers: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="duplicate"):
        AmdCertificate(certificate(extensions=b"".join(extension(each, b"x") for each in identifiers)))


@pytest.mark.parametrize("extra", [b"\x05\x00", b"\x30"])
def test_bytes_after_a_certificate_are_rejected(extra: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        AmdCertificate(certificate() + extra)


# --- names


def attribute(identifier: bytes, tag: int, text: bytes) -> bytes:
    return sequence(oid(identifier), tlv(tag, text))


LONG = b"x" * 127
PLAIN = attribute(COMMON_NAME, 0x0C, b"SEV-VCEK")


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
@pytest.mark.parametrize(
    ("name", "read", "plain"),
    [
        (sequence(tlv(0x31, PLAIN)), "SEV-VCEK", True),
        (named("SEV-VCEK", 0x13), "SEV-VCEK", True),
        (sequence(tlv(0x31, attribute(ORGANISATION, 0x0C, b"AMD")), tlv(0x31, PLAIN)), "SEV-VCEK", True),
        (sequence(tlv(0x31, PLAIN), tlv(0x31, attribute(COMMON_NAME, 0x0C, b"other"))), "SEV-VCEK", True),
        (named("x" * 63), "x" * 63, True),
        (named("x" * 65), "x" * 64, True),
        (named("é"), "é", False),
        (named("SEV-VCEK", 0x16), "SEV-VCEK", False),  # IA5String
        (sequence(tlv(0x31, attribute(COMMON_NAME, 0x1E, "SEV".encode("utf-16-be")))), "SEV", False),
        (sequence(tlv(0x31, attribute(ORGANISATION, 0x0C, LONG))), "(no name)", False),
        (sequence(tlv(0x31, attribute(ORGANISATION, 0x0C, b"AMD"), PLAIN)), "SEV-VCEK", False),
        (sequence(tlv(0x31, attribute(COMMON_NAME, 0x0C, b"A"), attribute(ORGANISATION, 0x0C, b"AMD"))), "A", False),
        (sequence(), "(no name)", False),
    ],
)
def test_common_name_is_the_first_one_and_is_cut(monkeypatch: pytest.MonkeyPatch, name: bytes, read: str, plain: bool) -> None:
    der = certificate(subject=name)
    assert AmdCertificate(der).common_name == read
    assert common_name(AmdCertificate(der).x509().subject) == read
    # cryptography reads only the names that are not plain.
    parsed: list[bytes] = []
    monkeypatch.setattr(AmdCertificate, "x509", lambda self: parsed.append(self.der) or _Unnamed())
    assert AmdCertificate(der).common_name == (read if plain else "(no name)")
    assert (parsed == []) is plain


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
def test_name_whose_lengths_are_long_is_left_to_cryptography() -> None:
    first = attribute(COMMON_NAME, 0x0C, b"x" * 120)  # 128 bytes: with its length octets as long as a short one of 129
    der = certificate(subject=sequence(tlv(0x31, first), tlv(0x31, PLAIN)))
    assert AmdCertificate(der).common_name == "x" * 64
    indefinite = sequence(tlv(0x31, b"\x30\x80" + PLAIN[2:].ljust(128, b"\0")))
    with pytest.raises(ValueError):
        AmdCertificate(certificate(subject=indefinite))


class _Unnamed:
    """A parsed certificate without a common name."""

    @property
    def subject(self) -> Any:
        return self

    def get_attributes_for_oid(self, identifier: object) -> list[object]:
        return []


# --- signatures


def verified(der: bytes, key: Any = RSA_KEY) -> bool:
    return AmdCertificate(der).signed_by(AmdCertificate(certificate(key=spki(key))))


def test_signature_of_the_parents_key_verifies() -> None:
    assert verified(certificate())
    assert not verified(certificate(), OTHER_KEY)
    assert not verified(certificate(), LEAF_KEY)


def test_parent_with_an_unreadable_key_signs_nothing() -> None:
    parent = AmdCertificate(certificate(key=sequence(sequence(oid(b"\x2a\x03")), tlv(0x03, b"\0x"))))
    assert not AmdCertificate(certificate()).signed_by(parent)


@pytest.mark.parametrize("salt", [0, 32, 64])
def test_signature_with_another_salt_does_not_verify(salt: int) -> None:
    tbs = body(subject=named("a"), issuer=named("b"), key=spki(LEAF_KEY))
    other = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=salt)
    assert not verified(sequence(tbs, PSS, tlv(0x03, b"\0", RSA_KEY.sign(tbs, other, hashes.SHA384()))))
    assert not verified(sequence(tbs, PSS, tlv(0x03, b"\0", RSA_KEY.sign(tbs, padding.PKCS1v15(), hashes.SHA384()))))


def outside(tbs: bytes, *, algorithm: bytes = PSS, unused: bytes = b"\0", extra: bytes = b"") -> bytes:
    """A certificate whose body is signed, and whose other bytes are given."""
    return sequence(tbs, algorithm, tlv(0x03, unused, RSA_KEY.sign(tbs, AMD_PSS, hashes.SHA384())), extra)


@pytest.mark.parametrize(
    ("inner", "changes", "genuine"),
    [
        (PSS, {}, True),
        (PSS, {"algorithm": PSS[:-1] + b"\x31"}, False),
        (PSS, {"algorithm": PKCS1}, False),
        (PKCS1, {"algorithm": PKCS1}, False),  # the stated algorithm must be the one that was verified
        (PSS, {"unused": b"\1"}, False),
        (PSS, {"extra": b"\x05\x00"}, False),
    ],
)
def test_bytes_that_the_signature_does_not_cover_carry_nothing(inner: bytes, changes: dict[str, bytes], genuine: bool) -> None:
    tbs = body(subject=named("a"), issuer=named("b"), key=spki(LEAF_KEY), algorithm=inner)
    der = outside(tbs, **changes)
    signature = RSA_KEY.sign(tbs, AMD_PSS, hashes.SHA384())
    assert is_signed_by(RSA_KEY.public_key(), der.replace(der[-256:], signature), tbs, signature) is genuine


@pytest.mark.parametrize("size", [65538, 65539, 65541, 65542, 70_000, 140_000])
def test_length_of_a_list_takes_two_bytes_or_three(size: int) -> None:
    """The lengths around 64 KiB: from 65541 bytes on, three octets hold the length."""
    rest = len(PSS) + 4 + 257
    tbs = PSS.ljust(size - rest - (4 if size < 65540 else 5), b"\0")
    der = signed(tbs)
    signature = der[-256:]
    assert len(der) == size
    assert is_signed_by(RSA_KEY.public_key(), der, tbs, signature)
    assert not is_signed_by(RSA_KEY.public_key(), b"\x31" + der[1:], tbs, signature)
    assert not is_signed_by(LEAF_KEY.public_key(), der, tbs, signature)
