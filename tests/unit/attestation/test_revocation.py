"""Revocation lists: which ones apply, which say something, and what they say."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cleanroom.attestation import Expectations, Verdict, Verifier
from cleanroom.attestation.amd_certificate import AMD_PSS, AmdCertificate
from cleanroom.attestation.revocation import MAX_CRL
from tests.unit.attestation.conftest import reasons
from tests.unit.attestation.der import OTHER_KEY, RSA_KEY, chain, evidence, named, trust

START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
SERIALS = {"intermediate": b"\x02\x02\x01\x01", "root": b"\x02\x02\x01\x02"}
CHAIN = chain(intermediate={"serial": SERIALS["intermediate"]}, root={"serial": SERIALS["root"]})
VERIFIER = Verifier(trust())
ISSUER = AmdCertificate(CHAIN[2]).x509().subject
OTHERS = AmdCertificate(chain(root={"subject": named("ARK-Genoa"), "issuer": named("ARK-Genoa")})[2]).x509().subject

Extensions = tuple[tuple[x509.ExtensionType, bool], ...]


def crl(
    *revoked: int,
    key: rsa.RSAPrivateKey = RSA_KEY,
    issuer: x509.Name = ISSUER,
    start: datetime = START,
    end: datetime = END,
    extensions: Extensions = (),
    entry_extensions: Extensions = (),
) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(start).next_update(end)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        for value, critical in entry_extensions:
            entry = entry.add_extension(value, critical)
        builder = builder.add_revoked_certificate(entry.build())
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(key, hashes.SHA384(), rsa_padding=AMD_PSS).public_bytes(Encoding.DER)


def pem(data: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(data) + b"-----END X509 CRL-----\n"


def judge(*lists: bytes, at: datetime = AT, **expected: Any) -> Verdict:
    return VERIFIER.verify(evidence(CHAIN), expectations=Expectations(crls=lists, **expected), at=at)


def shown(verdict: Verdict) -> str:
    (check,) = [each for each in verdict.checks if each.id == "revocation"]
    return check.actual


GOOD = crl(5)


def test_list_of_the_root_that_names_no_certificate_of_the_chain_is_accepted() -> None:
    for lists, text in (((GOOD,), "not revoked by 1 list"), ((pem(GOOD), b"AMD\n" + pem(GOOD)), "not revoked by 2 lists")):
        verdict = judge(*lists)
        assert reasons(verdict) == []
        assert shown(verdict) == text


@pytest.mark.parametrize(("role", "serial"), [("intermediate", 0x101), ("root", 0x102)])
def test_revoked_authority_is_rejected_by_any_of_the_lists(role: str, serial: int) -> None:
    for lists in ((crl(serial),), (crl(5, serial, 6),), (GOOD, crl(serial)), (crl(serial), GOOD)):
        verdict = judge(*lists)
        assert reasons(verdict) == ["CertificateRevoked"]
        assert shown(verdict) == f"{role} {serial:#x} is listed"
    # Nothing of the report is judged after a revoked certificate.
    assert "report-signature" not in [check.id for check in judge(crl(serial)).checks]


def test_serial_number_of_the_leaf_is_that_of_every_leaf_and_revokes_nothing() -> None:
    assert judge(crl(1)).ok


def test_lists_of_other_issuers_are_skipped_and_say_nothing() -> None:
    other = crl(0x101, issuer=OTHERS, key=OTHER_KEY)
    assert judge(other, GOOD).ok
    verdict = judge(other, other)
    assert (reasons(verdict), shown(verdict)) == (["RevocationStatusUnknown"], "2 lists of other issuers")


def test_lists_are_required_only_if_asked_for() -> None:
    assert judge().ok
    assert "revocation" not in [check.id for check in judge().checks]
    assert reasons(judge(require_crl=True)) == ["RevocationStatusUnknown"]
    assert judge(GOOD, require_crl=True).ok


@pytest.mark.parametrize("data", [b"", b"x", GOOD[:-1], pem(b"x"), crl(key=OTHER_KEY), GOOD[:-1] + bytes((GOOD[-1] ^ 1,))])
def test_unreadable_or_forged_list_leaves_the_status_unknown(data: bytes) -> None:
    for lists in ((data,), (GOOD, data), (data, GOOD)):
        assert reasons(judge(*lists)) == ["RevocationStatusUnknown"]


def test_list_signed_with_other_parameters_is_rejected() -> None:
    builder = x509.CertificateRevocationListBuilder().issuer_name(ISSUER).last_update(START).next_update(END)
    for digest, padding in ((hashes.SHA384(), None), (hashes.SHA256(), AMD_PSS)):
        data = builder.sign(RSA_KEY, digest, rsa_padding=padding).public_bytes(Encoding.DER)
        assert reasons(judge(data)) == ["RevocationStatusUnknown"]


@pytest.mark.parametrize(
    ("at", "accepted", "stale"),
    [
        (START - timedelta(seconds=1), False, False),
        (START, True, True),
        (END, True, True),
        (END + timedelta(seconds=1), False, True),
    ],
)
def test_list_is_current_from_its_update_to_the_next_one(at: datetime, accepted: bool, stale: bool) -> None:
    assert judge(GOOD, at=at).ok is accepted
    assert judge(GOOD, at=at, accept_stale_crl=True).ok is stale
    # A stale list that is accepted still revokes.
    revoking = judge(crl(0x101), at=at, accept_stale_crl=True)
    assert reasons(revoking) == (["CertificateRevoked"] if stale else ["RevocationStatusUnknown"])


def test_list_without_a_next_update_is_stale() -> None:
    from tests.unit.attestation.der import PSS, UTC_TIME, sequence, signed, tlv

    name = named("ARK-Milan")
    tbs = sequence(b"\x02\x01\x01", PSS, name, tlv(UTC_TIME, b"261101000000Z"))
    verdict = judge(signed(tbs))
    assert reasons(verdict) == ["RevocationStatusUnknown"]
    assert shown(verdict) == "valid until an unstated time"
    assert judge(signed(tbs), accept_stale_crl=True).ok


def point(**changes: Any) -> x509.IssuingDistributionPoint:
    values: dict[str, Any] = {
        **dict.fromkeys(("full_name", "relative_name", "only_some_reasons")),
        **dict.fromkeys(("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"), False),
    }
    return x509.IssuingDistributionPoint(**(values | {"only_contains_user_certs": True} | changes))


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
NUMBER = x509.CRLNumber(7)


@pytest.mark.parametrize(
    ("extensions", "accepted"),
    [
        (((NUMBER, False),), True),
        (((UNKNOWN, False),), True),
        (((NUMBER, True),), False),
        (((UNKNOWN, True),), False),
        (((NUMBER, False), (UNKNOWN, True)), False),
        (((x509.DeltaCRLIndicator(1), True),), False),
        (((x509.DeltaCRLIndicator(1), False),), False),
        (((point(), True),), False),
        (((point(), False),), False),
    ],
)
def test_list_that_an_extension_limits_says_nothing(extensions: Extensions, accepted: bool) -> None:
    for lists in ((crl(5, extensions=extensions),), (GOOD, crl(5, extensions=extensions))):
        assert reasons(judge(*lists)) == ([] if accepted else ["RevocationStatusUnknown"])


@pytest.mark.parametrize(("critical", "accepted"), [(False, True), (True, False)])
def test_entry_with_a_critical_extension_changes_its_meaning(critical: bool, accepted: bool) -> None:
    extension = (x509.CRLReason(x509.ReasonFlags.key_compromise), critical)
    issuer = (x509.CertificateIssuer([x509.DNSName("other.example")]), critical)
    for entry in ((extension,), (issuer,), (extension, issuer)):
        assert judge(crl(5, entry_extensions=entry)).ok is accepted
        assert judge(crl(5, 6, entry_extensions=entry)).ok is accepted


def test_list_has_a_limit() -> None:
    assert MAX_CRL == 1024 * 1024
    assert judge(pem(GOOD) + b"\n" * (MAX_CRL - len(pem(GOOD)))).ok
    assert reasons(judge(pem(GOOD) + b"\n" * (MAX_CRL + 1 - len(pem(GOOD))))) == ["RevocationStatusUnknown"]
