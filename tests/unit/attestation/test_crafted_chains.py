"""Chains that break one rule each, with the reason and the values that the check shows; and what a cached link is good for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cleanroom.attestation import Check, Expectations, LeafKind, Product, Tcb, TrustStore, Verdict, Verifier
from cleanroom.attestation.amd_certificate import AmdCertificate
from cleanroom.attestation.cache import VerifiedCache
from cleanroom.attestation.chain import VerifiedChain, examine_chain
from cleanroom.attestation.checks import Checklist, Stop
from tests.unit.attestation.conftest import reasons
from tests.unit.attestation.der import (
    AUTHORITY,
    BASIC_CONSTRAINTS,
    CHIP_ID,
    GENERALIZED_TIME,
    LEAF_KEY,
    OTHER_KEY,
    RSA_KEY,
    amd_extensions,
    certificate,
    chain,
    evidence,
    named,
    spki,
    trust,
)

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
NO_AUTHORITY = {BASIC_CONSTRAINTS: bytes.fromhex("3000")}


def examined(ders: list[bytes], store: TrustStore | None = None, links: VerifiedCache[bool] | None = None) -> VerifiedChain:
    return examine_chain(ders, store or trust(), Checklist(), links or VerifiedCache(8))


def failed(ders: list[bytes], store: TrustStore | None = None, links: VerifiedCache[bool] | None = None) -> Check:
    """Return the check at which the examination stopped."""
    checklist = Checklist()
    with pytest.raises(Stop):
        examine_chain(ders, store or trust(), checklist, links or VerifiedCache(8))
    assert [check.passed for check in checklist.checks] == [True] * (len(checklist.checks) - 1) + [False]
    return checklist.checks[-1]


def judge(ders: list[bytes] | None = None, verifier: Verifier | None = None, at: datetime = AT, **fields: Any) -> Verdict:
    return (verifier or Verifier(trust())).verify(evidence(ders, **fields), expectations=Expectations(), at=at)


def leaf(**changes: bytes | None) -> list[bytes]:
    return chain(leaf={"extensions": amd_extensions(**changes)})


def vlek(**changes: bytes | None) -> list[bytes]:
    extensions = amd_extensions(product=b"\x16\x05Milan", hw_id=None, csp_id=b"\x16\x03CSP", **changes)
    named_vlek = {"subject": named("SEV-VLEK"), "issuer": named("SEV-VLEK-Milan"), "extensions": extensions}
    return chain(leaf=named_vlek, intermediate={"subject": named("SEV-VLEK-Milan")})


def broken(der: bytes) -> bytes:
    """Change the last bit of a certificate's signature."""
    return der[:-1] + bytes((der[-1] ^ 1,))


def test_contents_of_a_verified_chain() -> None:
    checklist = Checklist()
    found = examine_chain(chain()[::-1], trust(), checklist, VerifiedCache(8))
    assert (found.kind, found.product, found.product_name, found.csp_id) == (LeafKind.VCEK, Product.MILAN, "Milan-B0", None)
    assert (found.tcb, found.tcb_text, found.hw_id) == (Tcb(bootloader=4, tee=0, snp=24, microcode=219), "4.0.24.219", CHIP_ID)
    assert found.tcb_raw.hex() == "04000000000018db"
    assert (found.public_key, found.root_key) == (LEAF_KEY.public_key(), RSA_KEY.public_key())
    assert found.serials() == (("intermediate", 1), ("root", 1))
    assert found.root_subject == found.root_certificate.x509().subject
    assert [(check.id, check.actual) for check in checklist.checks] == [
        ("chain-format", "SEV-VCEK <- SEV-Milan <- ARK-Milan"),
        ("root-trusted", f"AMD Milan {found.root.spki_sha256[:16]}…"),
        ("chain-signatures", "SEV-Milan verifies, SEV-VCEK verifies"),
        ("chain-roles", "VCEK of Milan"),
        ("leaf-certificate", "Milan-B0 TCB 4.0.24.219"),
    ]


def test_vlek_names_its_provider_instead_of_a_chip() -> None:
    found = examined(vlek())
    assert (found.kind, found.csp_id, found.hw_id) == (LeafKind.VLEK, "CSP", None)


# --- roles


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_another_number_of_certificates_is_rejected(count: int) -> None:
    check = failed((chain() + chain())[:count])
    assert (check.id, check.reason, check.actual) == ("chain-format", "CertificateChainMalformed", f"{count} certificates")


@pytest.mark.parametrize(
    ("role", "issuer", "shown"),
    [
        ("leaf", "other", ("other", "ARK-Milan", "ARK-Milan")),
        ("intermediate", "other", ("SEV-Milan", "other", "ARK-Milan")),
        ("root", "other", ("SEV-Milan", "ARK-Milan", "other")),
        ("leaf", "SEV-VCEK", ("SEV-VCEK", "ARK-Milan", "ARK-Milan")),
    ],
)
def test_certificates_that_do_not_link_are_rejected(role: str, issuer: str, shown: tuple[str, ...]) -> None:
    check = failed(chain(**{role: {"issuer": named(issuer)}}))
    assert (check.id, check.reason) == ("chain-format", "CertificateChainMalformed")
    names = zip(("SEV-VCEK", "SEV-Milan", "ARK-Milan"), shown, strict=True)
    assert check.actual == ", ".join(f"{subject} issued by {by}" for subject, by in names)


@pytest.mark.parametrize(
    "changes",
    [
        {"leaf": {"subject": named("SEV-VLEK")}},
        {"leaf": {"subject": named("other")}},
        {"leaf": {"issuer": named("SEV-Genoa")}, "intermediate": {"subject": named("SEV-Genoa")}},
        {"leaf": {"issuer": named("SEV-VLEK-Milan")}, "intermediate": {"subject": named("SEV-VLEK-Milan")}},
        {"intermediate": {"issuer": named("ARK-Genoa")}, "root": {"subject": named("ARK-Genoa"), "issuer": named("ARK-Genoa")}},
    ],
)
def test_names_of_another_product_or_kind_are_rejected(changes: Mapping[str, Any]) -> None:
    check = failed(chain(**changes))
    assert (check.id, check.reason) == ("chain-roles", "CertificateChainMalformed")
    assert "names" in check.message


@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("role", ["leaf", "intermediate", "root"])
def test_only_root_and_intermediate_are_authorities(role: str, kind: str) -> None:
    extensions = {**amd_extensions(), BASIC_CONSTRAINTS: AUTHORITY} if role == "leaf" else NO_AUTHORITY
    changes: dict[str, dict[str, Any]] = {role: {"extensions": extensions}}
    if kind == "VLEK":
        changes.setdefault("leaf", {}).update(subject=named("SEV-VLEK"), issuer=named("SEV-VLEK-Milan"))
        changes.setdefault("intermediate", {})["subject"] = named("SEV-VLEK-Milan")
    check = failed(chain(**changes))
    assert (check.id, check.reason, check.actual) == ("chain-roles", "CertificateChainMalformed", "other CA flags")


def test_malformed_basic_constraints_are_rejected() -> None:
    check = failed(chain(root={"extensions": {BASIC_CONSTRAINTS: b"\x31\x00"}}))
    assert (check.id, check.reason) == ("chain-roles", "CertificateChainMalformed")


# --- trust and signatures


def test_root_with_another_key_is_not_trusted() -> None:
    check = failed(chain(), trust(OTHER_KEY))
    assert (check.id, check.reason) == ("root-trusted", "RootNotTrusted")
    assert failed(chain(), TrustStore([])).expected == "no root at all"


def test_trusted_key_must_have_signed_its_own_certificate() -> None:
    ders = chain()
    assert failed([*ders[:2], broken(ders[2])]).reason == "RootNotTrusted"
    assert failed(chain(root={"signer": OTHER_KEY})).reason == "RootNotTrusted"


@pytest.mark.parametrize(
    ("role", "shown"),
    [("leaf", "SEV-Milan verifies, SEV-VCEK does not verify"), ("intermediate", "SEV-Milan does not verify, SEV-VCEK verifies")],
)
def test_each_link_must_verify_each_time(role: str, shown: str) -> None:
    ders, links, verifier = chain(**{role: {"signer": OTHER_KEY}}), VerifiedCache[bool](8), Verifier(trust())
    for _ in range(3):
        check = failed(ders, links=links)
        assert (check.id, check.reason, check.actual) == ("chain-signatures", "CertificateSignatureInvalid", shown)
        assert reasons(judge(ders, verifier)) == ["CertificateSignatureInvalid"]


def test_verified_link_says_nothing_about_another_issuer_of_the_same_name() -> None:
    """Two trusted roots of one name: the intermediate of the first is not one of the second."""
    store, links = trust(RSA_KEY, OTHER_KEY), VerifiedCache[bool](8)
    ours = chain()
    theirs = chain(root={"key": spki(OTHER_KEY), "signer": OTHER_KEY})
    examined(ours, store, links)
    assert failed([ours[0], ours[1], theirs[2]], store, links).reason == "CertificateSignatureInvalid"
    other_leaf = certificate(extensions=amd_extensions(), signer=OTHER_KEY)
    assert failed([other_leaf, *ours[1:]], store, links).reason == "CertificateSignatureInvalid"


def test_links_that_chips_share_are_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    genuine = AmdCertificate.signed_by

    def signed_by(self: AmdCertificate, parent: AmdCertificate) -> bool:
        verified.append(self.common_name)
        return genuine(self, parent)

    monkeypatch.setattr(AmdCertificate, "signed_by", signed_by)
    ders, links = chain(), VerifiedCache[bool](8)
    for number in range(2):
        examined([certificate(extensions=amd_extensions(), serial=b"\x02\x01" + bytes((number,))), *ders[1:]], links=links)
    assert verified == ["ARK-Milan", "SEV-Milan", "SEV-VCEK", "SEV-VCEK"]


# --- the leaf


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), RSA_KEY])
def test_leaf_with_another_kind_of_key_is_rejected(key: Any) -> None:
    check = failed(chain(leaf={"key": spki(key)}))
    assert (check.id, check.reason) == ("leaf-certificate", "CertificateChainMalformed")
    assert "P-384" in check.message


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "absent"),
        (b"", "The leaf"),
        (b"\x02\x02\x01\x00", "02020100"),
        (b"\x02\x01\x80", "020180"),
        (b"\x04\x01\x05", "040105"),
        (b"\x04" * 20, "04" * 16),
    ],
)
def test_version_that_is_no_byte_is_rejected(component: str, value: bytes | None, shown: str) -> None:
    check = failed(leaf(**{component: value}))
    assert (check.id, check.reason, check.actual[: len(shown)]) == ("leaf-certificate", "CertificateChainMalformed", shown)
    assert len(check.actual) == len(shown) or not value
    assert "is not a DER INTEGER of 0 to 255" in check.message


def test_greatest_version_is_255() -> None:
    assert examined(leaf(microcode=b"\x02\x02\x00\xff")).tcb.microcode == 255


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "absent"), (b"\x16\x00", "1600"), (b"\x0c\x05Milan", "0c054d696c616e"), (b"\x0c" * 20, "0c" * 16)],
)
def test_product_that_is_no_text_is_rejected(value: bytes | None, shown: str) -> None:
    check = failed(leaf(product=value))
    assert (check.reason, check.actual) == ("CertificateChainMalformed", shown)
    assert "productName is absent or not an IA5String" in check.message


@pytest.mark.parametrize("name", ["M", "Mil", "Genoa", "Milan2-B0", "milan"])
def test_leaf_of_another_product_is_rejected(name: str) -> None:
    check = failed(leaf(product=b"\x16" + bytes((len(name),)) + name.encode()))
    assert (check.reason, check.expected, check.actual) == ("ProductMismatch", "Milan", name)


def test_provider_of_a_vlek_must_be_text() -> None:
    changed = {"csp_id": b"\x0c\x03CSP"}
    extensions = amd_extensions(hw_id=None, **changed)
    names = {"subject": named("SEV-VLEK"), "issuer": named("SEV-VLEK-Milan"), "extensions": extensions}
    check = failed(chain(leaf=names, intermediate={"subject": named("SEV-VLEK-Milan")}))
    assert "CSP_ID" in check.message


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "absent"),
        (b"", "absent"),
        (CHIP_ID[:63], "63 bytes"),
        (CHIP_ID + b"\0", "65 bytes"),
        (b"\x04\x3f" + CHIP_ID, "66 bytes"),
        (b"\x05\x40" + CHIP_ID, "66 bytes"),
        (b"\x04\x40" + CHIP_ID[:63], "65 bytes"),
    ],
)
def test_chip_id_of_another_length_is_rejected(value: bytes | None, shown: str) -> None:
    check = failed(leaf(hw_id=value))
    assert (check.reason, check.actual) == ("CertificateChainMalformed", shown)
    assert "hwID must have 64 bytes" in check.message


def test_chip_id_may_be_an_octet_string() -> None:
    assert examined(leaf(hw_id=b"\x04\x40" + CHIP_ID)).hw_id == CHIP_ID
    begins_alike = b"\x04\x40" + CHIP_ID[:62]
    assert examined(leaf(hw_id=begins_alike)).hw_id == begins_alike


def turin(**changes: bytes | None) -> list[bytes]:
    extensions = amd_extensions(product=b"\x16\x05Turin", hw_id=CHIP_ID[:8], **changes)
    return chain(
        leaf={"extensions": extensions, "issuer": named("SEV-Turin")},
        intermediate={"subject": named("SEV-Turin"), "issuer": named("ARK-Turin")},
        root={"subject": named("ARK-Turin"), "issuer": named("ARK-Turin")},
    )


def test_turin_has_an_fmc_version_and_a_chip_id_of_8_bytes() -> None:
    store = trust(product=Product.TURIN)
    found = examined(turin(fmc=b"\x02\x01\x07"), store)
    assert (found.tcb, found.hw_id) == (Tcb(fmc=7, bootloader=4, tee=0, snp=24, microcode=219), CHIP_ID[:8])
    assert failed(turin(), store).actual == "absent"
    # A product without the component ignores the extension.
    assert examined(leaf(fmc=b"\x02\x01\x07")).tcb.fmc == 0


# --- validity


@pytest.mark.parametrize("role", ["leaf", "intermediate", "root"])
def test_all_certificates_must_be_valid(role: str) -> None:
    names = {"leaf": "SEV-VCEK", "intermediate": "SEV-Milan", "root": "ARK-Milan"}
    times = ((GENERALIZED_TIME, "20261123000000Z"), (GENERALIZED_TIME, "20261124000000Z"))
    ders, verifier = chain(**{role: {"times": times}}), Verifier(trust())
    for at, expected in (
        (datetime(2026, 11, 23, tzinfo=UTC), []),
        (datetime(2026, 11, 24, tzinfo=UTC), []),
        (datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC), ["CertificateNotYetValid"]),
        (datetime(2026, 11, 24, 0, 0, 0, 1, tzinfo=UTC), ["CertificateExpired"]),
        (AT, []),
    ):
        verdict = judge(ders, verifier, at)
        assert reasons(verdict) == expected
        assert ("report-signature" in [each.id for each in verdict.checks]) is (not expected)
        check = next(each for each in verdict.checks if each.id == "certificate-validity")
        assert check.expected == f"2026-11-23T00:00:00Z ({names[role]}) to 2026-11-24T00:00:00Z ({names[role]})"
        assert check.actual == f"{at:%Y-%m-%dT%H:%M:%S}Z"
