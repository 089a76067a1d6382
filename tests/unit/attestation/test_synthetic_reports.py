"""Reports and certificates that break one rule each, on minted hierarchies, for cases without a public vector."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from dataclasses import replace
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from cleanroom.attestation import (
    AttestationEvidence,
    Expectations,
    LeafKind,
    Product,
    Tcb,
    TrustStore,
    Verifier,
    parse_report,
    verify,
    verify_evidence,
)
from cleanroom.attestation.amd_certificate import AmdCertificate
from cleanroom.attestation.products import encode_tcb
from cleanroom.errors import InvalidInput, Refused
from localcloud.standins.snp.minting import (
    DEBUG_BIT,
    POLICY_CACI,
    LeafPlan,
    ReportFields,
    current_tcb,
    der_integer,
    mint_hierarchy,
    report_body,
    sign_report,
)
from tests.unit.attestation.conftest import Lab, lab_for, reasons

AMD = "1.3.6.1.4.1.3704.1"
GOOD_MILAN = LeafPlan(product=Product.MILAN, chip_id=bytes(range(1, 65)), rsa_bits=2048)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_versions_2_to_5_are_accepted(milan: Lab, version: int) -> None:
    verdict = milan.judge(milan.hierarchy.report(version=version))
    assert verdict.ok, reasons(verdict)
    assert (verdict.product, verdict.version, verdict.development) == (Product.MILAN, version, True)
    assert verdict.report is not None
    assert (verdict.report.launch_mitigations is None) is (version < 5)


@pytest.mark.parametrize("version", [0, 1, 6, 0xFFFFFFFF])
def test_other_versions_are_rejected_even_if_signed(milan: Lab, version: int) -> None:
    assert reasons(milan.judge(milan.hierarchy.report(version=version))) == ["ReportVersionUnsupported"]


def test_a_version_5_report_of_turin_is_accepted(turin: Lab) -> None:
    verdict = turin.judge(turin.hierarchy.report(version=5))
    assert verdict.ok, reasons(verdict)
    assert verdict.product is Product.TURIN
    shown = {check.id: check.actual for check in verdict.checks}
    assert shown["reported-tcb"] == "1.4.0.24.219"
    assert shown["chip-id"] == bytes(range(1, 9)).hex()


def test_non_zero_bytes_after_turins_chip_id_are_shown(turin: Lab) -> None:
    chip_id = (bytes(range(1, 9)) + b"\1").ljust(64, b"\0")
    (failed,) = turin.judge(turin.hierarchy.report(chip_id=chip_id)).failures
    assert (failed.id, failed.expected, failed.actual) == ("chip-id", bytes(range(1, 9)).hex(), chip_id.hex())


def test_turin_without_its_cpu_bytes_takes_the_layout_from_the_root(turin: Lab) -> None:
    assert turin.judge(turin.hierarchy.report(version=2)).ok


def test_a_vlek_of_genoa_is_accepted_for_its_provider(vlek: Lab) -> None:
    verdict = vlek.judge()
    assert verdict.ok, reasons(verdict)
    assert verdict.leaf is LeafKind.VLEK
    assert reasons(vlek.judge(vlek.hierarchy.report(chip_id=bytes([1]).ljust(64, b"\0")))) == ["ChipIdMismatch"]
    assert reasons(vlek.judge(vlek.hierarchy.report(flags=0))) == ["LeafCertificateKindMismatch"]


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode"])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_reported_tcb_is_rejected_even_if_signed(milan: Lab, component: str, change: int) -> None:
    tcb = current_tcb(Product.MILAN)
    value = getattr(tcb, component) + change
    if value < 0:
        value = 2
    report = milan.hierarchy.report(tcb=tcb.model_copy(update={component: value}))
    assert reasons(milan.judge(report)) == ["ReportedTcbMismatch"]


def test_another_fmc_version_on_turin_is_rejected(turin: Lab) -> None:
    report = turin.hierarchy.report(tcb=current_tcb(Product.TURIN).model_copy(update={"fmc": 2}))
    assert reasons(turin.judge(report)) == ["ReportedTcbMismatch"]


def test_reserved_bytes_of_the_reported_tcb_must_be_zero(milan: Lab) -> None:
    raw = bytearray(encode_tcb(current_tcb(Product.MILAN), Product.MILAN))
    raw[4] = 1
    assert reasons(milan.judge(milan.hierarchy.report(reported_tcb=bytes(raw)))) == ["ReportedTcbMismatch"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"signature_algorithm": 2}, "SignatureAlgorithmUnsupported"),
        ({"signature_algorithm": 0}, "SignatureAlgorithmUnsupported"),
        ({"flags": 7 << 2}, "SigningKeyUnsupported"),
        ({"flags": 2 << 2}, "SigningKeyUnsupported"),
        ({"flags": 1 << 2}, "LeafCertificateKindMismatch"),
        ({"flags": 2}, "ChipKeyMasked"),
        ({"chip_id": bytes(64)}, "ChipIdMismatch"),
        ({"chip_id": bytes(range(2, 66))}, "ChipIdMismatch"),
        ({"cpuid": (0x19, 0x11, 1)}, "ProductMismatch"),
        ({"cpuid": (0x1A, 0x02, 1)}, "ProductMismatch"),
        ({"cpuid": (0x1A, 0x50, 1)}, "ProductUnsupported"),
        ({"cpuid": (0x19, 0x20, 1)}, "ProductUnsupported"),
        ({"cpuid": (0, 0, 0)}, "ProductUnsupported"),
        ({"policy": POLICY_CACI | DEBUG_BIT}, "TeeDebugModeEnabled"),
        ({"policy": POLICY_CACI | 1 << 18}, "MigrationAllowed"),
        ({"policy": POLICY_CACI & ~(1 << 17)}, "GuestPolicyReservedBit"),
        ({"vmpl": 1}, "VmplMismatch"),
        ({"vmpl": 0xFFFFFFFF}, "VmplMismatch"),
    ],
)
def test_each_broken_rule_gives_its_reason(milan: Lab, fields: dict[str, object], reason: str) -> None:
    verdict = milan.judge(milan.hierarchy.report(**fields))
    assert reasons(verdict) == [reason]
    with pytest.raises(Refused) as refused:
        verdict.require()
    assert refused.value.code == reason


def test_configured_exceptions_are_accepted(milan: Lab) -> None:
    report = milan.hierarchy.report(policy=POLICY_CACI | DEBUG_BIT | 1 << 18, vmpl=3)
    assert milan.judge(report, allow_debug=True, allow_migration=True, vmpl=3).ok
    assert milan.judge(report, allow_debug=True, allow_migration=True, vmpl=None).ok
    host = milan.hierarchy.report(vmpl=0xFFFFFFFF)
    assert reasons(milan.judge(host, vmpl=None)) == ["VmplMismatch"]


def test_all_failures_of_policy_and_bindings_are_shown_at_once(milan: Lab) -> None:
    report = milan.hierarchy.report(policy=POLICY_CACI | DEBUG_BIT, vmpl=2)
    verdict = milan.judge(report, report_data=bytes([1] * 64), host_data={"11" * 32}, require_uvm=True)
    assert reasons(verdict) == ["TeeDebugModeEnabled", "VmplMismatch", "ReportDataMismatch", "HostDataMismatch", "UvmEndorsementMissing"]


def test_all_64_bytes_of_report_data_are_compared(milan: Lab) -> None:
    report = milan.hierarchy.report(report_data=b"a" * 63 + b"b")
    assert milan.judge(report, report_data=b"a" * 63 + b"b").ok
    assert not milan.judge(report, report_data=b"a" * 64).ok
    assert not milan.judge(report, report_data=b"a" * 32 + bytes(32)).ok


def test_unused_signature_bytes_must_be_zero(milan: Lab) -> None:
    report = milan.hierarchy.report()
    for place in (0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71, 0x330, 0x49F):
        altered = report[:place] + b"\x01" + report[place + 1 :]
        assert reasons(milan.judge(altered)) == ["SignatureEncodingInvalid"]


@pytest.mark.parametrize("scalar", [0, 2**384 - 1])
def test_scalars_out_of_range_do_not_verify(milan: Lab, scalar: int) -> None:
    report = milan.hierarchy.report()
    for place in (0x2A0, 0x2E8):
        altered = report[:place] + scalar.to_bytes(48, "little") + report[place + 48 :]
        assert reasons(milan.judge(altered)) == ["ReportSignatureInvalid"]


def test_a_report_signed_by_another_key_is_rejected(milan: Lab) -> None:
    other = milan.hierarchy.with_leaf(GOOD_MILAN)
    assert reasons(milan.judge(other.report())) == ["ReportSignatureInvalid"]


# Certificates


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ({f"{AMD}.3.1": None}, "CertificateChainMalformed"),
        ({f"{AMD}.3.8": None}, "CertificateChainMalformed"),
        ({f"{AMD}.3.8": b"\x02\x01\xdb"}, "CertificateChainMalformed"),
        ({f"{AMD}.3.8": b"\x02\x02\x01\x00"}, "CertificateChainMalformed"),
        ({f"{AMD}.3.8": b"\x02\x02\x00\x01"}, "CertificateChainMalformed"),
        ({f"{AMD}.3.8": b""}, "CertificateChainMalformed"),
        ({f"{AMD}.3.8": der_integer(100)}, "ReportedTcbMismatch"),
        ({f"{AMD}.4": None}, "CertificateChainMalformed"),
        ({f"{AMD}.4": bytes(range(1, 9))}, "CertificateChainMalformed"),
        ({f"{AMD}.4": bytes(range(2, 66))}, "ChipIdMismatch"),
        ({f"{AMD}.2": None}, "CertificateChainMalformed"),
        ({f"{AMD}.2": b"\x16\x05Genoa"}, "ProductMismatch"),
        ({f"{AMD}.2": b"\x16\x06Venice"}, "ProductMismatch"),
        ({f"{AMD}.2": b"\x0c\x05Milan"}, "CertificateChainMalformed"),
    ],
)
def test_a_leaf_with_one_wrong_extension_is_rejected(milan: Lab, extensions: dict[str, bytes | None], reason: str) -> None:
    lab = Lab(milan.hierarchy.with_leaf(replace(GOOD_MILAN, extensions=extensions)), milan.trust)
    assert reasons(lab.judge()) == [reason]


def test_a_chip_id_wrapped_in_an_octet_string_is_read(milan: Lab) -> None:
    wrapped = replace(GOOD_MILAN, extensions={f"{AMD}.4": b"\x04\x40" + GOOD_MILAN.chip_id})
    lab = Lab(milan.hierarchy.with_leaf(wrapped), milan.trust)
    assert lab.judge().ok


def test_turin_needs_its_fmc_extension(turin: Lab) -> None:
    plan = LeafPlan(product=Product.TURIN, chip_id=bytes(range(1, 9)), extensions={f"{AMD}.3.9": None})
    assert reasons(Lab(turin.hierarchy.with_leaf(plan), turin.trust).judge()) == ["CertificateChainMalformed"]


@pytest.mark.parametrize("names", [{"leaf": "SEV-VLEK"}, {"leaf": "SEV-VCEK2"}, {"leaf": "SEV-Milan"}])
def test_wrong_certificate_names_are_rejected(milan: Lab, names: dict[str, str]) -> None:
    lab = Lab(milan.hierarchy.with_leaf(replace(GOOD_MILAN, names=names)), milan.trust)
    assert reasons(lab.judge()) == ["CertificateChainMalformed"]


def test_an_intermediate_of_another_product_under_a_trusted_root_is_rejected() -> None:
    lab = lab_for(mint_hierarchy(replace(GOOD_MILAN, names={"intermediate": "SEV-Genoa"})))
    assert reasons(lab.judge()) == ["CertificateChainMalformed"]


def test_a_leaf_signed_by_another_intermediate_key_is_rejected(milan: Lab) -> None:
    other = mint_hierarchy(GOOD_MILAN)
    mixed = replace(milan.hierarchy, leaf=other.leaf, leaf_key=other.leaf_key)
    assert reasons(Lab(mixed, milan.trust).judge()) == ["CertificateSignatureInvalid"]
    mixed = replace(milan.hierarchy, leaf=other.leaf, leaf_key=other.leaf_key, intermediate=other.intermediate)
    assert reasons(Lab(mixed, milan.trust).judge()) == ["CertificateSignatureInvalid"]


def test_a_hierarchy_of_an_unknown_root_is_rejected(milan: Lab) -> None:
    other = mint_hierarchy(GOOD_MILAN)
    verdict = Lab(other, milan.trust).judge()
    assert reasons(verdict) == ["RootNotTrusted"]
    assert reasons(milan.judge(chain=other.chain_pem())) == ["RootNotTrusted"]
    evidence = AttestationEvidence.of(other.report(), other.chain_pem())
    amd = verify_evidence(evidence, trust=TrustStore.amd(), expectations=Expectations(), at=dt.datetime.now(dt.UTC))
    assert reasons(amd) == ["RootNotTrusted"]
    assert not amd.development


def test_validity_is_checked_for_the_given_instant(milan: Lab) -> None:
    now = dt.datetime.now(dt.UTC)
    plan = replace(GOOD_MILAN, not_before=now - dt.timedelta(hours=1), not_after=now + dt.timedelta(hours=1))
    lab = Lab(milan.hierarchy.with_leaf(plan), milan.trust)
    assert lab.judge(at=now).ok
    assert reasons(lab.judge(at=now + dt.timedelta(hours=2))) == ["CertificateExpired"]
    assert reasons(lab.judge(at=now - dt.timedelta(hours=2))) == ["CertificateNotYetValid"]
    assert lab.judge(at=now).ok


def test_an_instant_without_a_time_zone_raises(milan: Lab) -> None:
    with pytest.raises(InvalidInput, match="InstantWithoutTimeZone"):
        milan.judge(at=dt.datetime(2026, 1, 1))


def test_a_chain_cached_for_one_store_is_not_trusted_by_another(milan: Lab) -> None:
    assert milan.judge().ok
    assert reasons(Lab(milan.hierarchy, TrustStore.amd()).judge()) == ["RootNotTrusted"]


def test_a_der_chain_is_accepted(milan: Lab) -> None:
    made = milan.hierarchy
    leaf, intermediate, root = (each.public_bytes(Encoding.DER) for each in (made.leaf, made.intermediate, made.root))
    assert milan.judge(chain=leaf + intermediate + root).ok
    assert milan.judge(chain=base64.b64encode(root + leaf + intermediate)).ok
    for other in (
        leaf + intermediate,
        leaf + intermediate + root + root,
        leaf + intermediate + root + b"\0",
        leaf + intermediate + root[:-1],
    ):
        assert reasons(milan.judge(chain=other)) == ["CertificateChainMalformed"]


def test_evidence_with_lone_surrogates_is_rejected(milan: Lab) -> None:
    evidence = AttestationEvidence.of(milan.hierarchy.report(), milan.hierarchy.chain_pem())
    for change in ({"evidence": "\ud800"}, {"endorsements": "\ud800"}, {"uvm_endorsements": "\ud800"}, {"endorsed_tcb": "\ud800"}):
        odd = evidence.model_copy(update=change)
        verdict = verify_evidence(odd, trust=milan.trust, expectations=Expectations(), at=dt.datetime.now(dt.UTC))
        with pytest.raises(Refused) as refused:
            verdict.require()
        assert refused.value.details["evidence_sha256"] == odd.digest() != evidence.digest()
    assert evidence.digest() == hashlib.sha256(evidence.model_dump_json(exclude_none=True).encode()).hexdigest()


def test_only_accepted_chains_are_cached(milan: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = AttestationEvidence.of(milan.hierarchy.report(), milan.hierarchy.chain_pem())
    examine = Mock(side_effect=verify.examine_chain)
    monkeypatch.setattr(verify, "examine_chain", examine)
    for trust, ok, examinations in ((milan.trust, True, 1), (TrustStore.amd(), False, 3)):
        examine.reset_mock()
        verifier = Verifier(trust)
        for _ in range(3):
            assert verifier.verify(evidence, expectations=Expectations(), at=dt.datetime.now(dt.UTC)).ok is ok
        assert examine.call_count == examinations


def test_a_common_name_is_read_as_cryptography_reads_it() -> None:
    key, text = ec.generate_private_key(ec.SECP256R1()), _ASN1Type
    organisation, common = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "AMD"), NameOID.COMMON_NAME
    plain, other = x509.NameAttribute(common, "SEV-VCEK"), x509.NameAttribute(common, "SEV-VLEK")
    wide, accented = x509.NameAttribute(common, "SEV-VLEK", text.BMPString), x509.NameAttribute(common, "é")
    pair = x509.RelativeDistinguishedName
    for parts in (
        [],
        [plain],
        [organisation, plain, other],
        [wide, plain],
        [accented, plain],
        [pair([organisation, other]), pair([plain])],
    ):
        name = x509.Name(parts)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        made = builder.not_valid_before(dt.datetime(2026, 1, 1)).not_valid_after(dt.datetime(2027, 1, 1)).sign(key, hashes.SHA256())
        found = [each.value for each in made.subject if each.oid == common] or ["(no name)"]
        assert AmdCertificate(made.public_bytes(Encoding.DER)).common_name == found[0]


def test_control_characters_in_names_are_escaped() -> None:
    hostile = mint_hierarchy(replace(GOOD_MILAN, names={"root": "ARK\x1b[2J\r\nMilan", "intermediate": "\x07", "leaf": "SEV-VCEK"}))
    verdict = Lab(hostile, TrustStore.amd()).judge()
    assert reasons(verdict) == ["RootNotTrusted"]
    for check in verdict.checks:
        assert f"{check.expected}{check.actual}{check.message}".isprintable()


# Revocation


def test_a_revoked_authority_is_rejected(milan: Lab) -> None:
    hierarchy, now = milan.hierarchy, dt.datetime.now(dt.UTC)
    clean = hierarchy.crl(at=now - dt.timedelta(days=1))
    assert milan.judge(crls=[clean]).ok
    pem = b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(clean) + b"-----END X509 CRL-----\n"
    assert milan.judge(crls=[pem]).ok
    assert milan.judge(crls=[b"Certificate Revocation List of AMD\n" + pem]).ok
    assert reasons(milan.judge(crls=[hierarchy.crl([hierarchy.intermediate.serial_number], at=now - dt.timedelta(1))])) == [
        "CertificateRevoked"
    ]
    assert reasons(milan.judge(crls=[hierarchy.crl([hierarchy.root.serial_number], at=now - dt.timedelta(1))])) == ["CertificateRevoked"]
    assert milan.judge(crls=[hierarchy.crl([12345], at=now - dt.timedelta(1))]).ok


def test_without_a_valid_revocation_list_the_status_is_unknown(milan: Lab, turin: Lab) -> None:
    hierarchy, now = milan.hierarchy, dt.datetime.now(dt.UTC)
    stale = hierarchy.crl(at=now - dt.timedelta(days=40))
    forged = hierarchy.crl(at=now, key=rsa.generate_private_key(65537, 2048))
    future = hierarchy.crl(at=now + dt.timedelta(days=1))
    foreign = turin.hierarchy.crl(at=now - dt.timedelta(days=1))
    # The parts that the signature does not cover: its number of unused bits, and the algorithm outside of the signed body.
    current = next(each for _ in range(64) if not (each := hierarchy.crl(at=now - dt.timedelta(days=1)))[-1] & 1)
    signature = current.rindex(b"\x03\x82\x01\x01\x00") + 4
    unused = current[:signature] + b"\x01" + current[signature + 1 :]
    salt = current.rindex(b"\xa2\x03\x02\x01\x30", 0, signature) + 4
    other = current[:salt] + b"\x31" + current[salt + 1 :]
    assert milan.judge(crls=[current]).ok
    for crl in (stale, forged, future, foreign, unused, other, b"garbage", b""):
        assert reasons(milan.judge(crls=[crl])) == ["RevocationStatusUnknown"]
    assert milan.judge(crls=[stale], accept_stale_crl=True).ok
    assert milan.judge(crls=[foreign, hierarchy.crl(at=now - dt.timedelta(1))]).ok


# Values


def test_a_verdict_survives_json(milan: Lab) -> None:
    verdict = milan.judge(report_data=bytes(64), host_data={"00" * 32})
    again = type(verdict).model_validate_json(verdict.model_dump_json())
    assert again == verdict
    assert again.require().raw == milan_report(again)
    failed = milan.judge(b"")
    assert type(failed).model_validate_json(failed.model_dump_json()) == failed


def milan_report(verdict: object) -> bytes:
    import base64

    return base64.b64decode(verdict.evidence.evidence)  # type: ignore[attr-defined]


def test_expectations_reject_malformed_values() -> None:
    for wrong in ({"host_data": {"00"}}, {"report_data": bytes(32)}, {"measurements": {"zz" * 48}}, {"vmpl": 4}, {"unknown": 1}):
        with pytest.raises(ValueError):
            Expectations.model_validate(wrong)
    assert Expectations(host_data=frozenset({"AB" * 32})).host_data == frozenset({"ab" * 32})


def test_an_empty_allowlist_allows_nothing(milan: Lab) -> None:
    assert reasons(milan.judge(host_data=set())) == ["HostDataMismatch"]


def test_minted_reports_parse_back() -> None:
    hierarchy = mint_hierarchy(GOOD_MILAN)
    body = report_body(ReportFields(tcb=Tcb(bootloader=1, tee=2, snp=3, microcode=4), chip_id=GOOD_MILAN.chip_id))
    report = parse_report(sign_report(body, hierarchy.leaf_key))
    assert report.reported_tcb.hex() == "0102000000000304"


def test_a_partial_or_unknown_revocation_list_says_nothing(milan: Lab) -> None:
    """RFC 5280, section 5.2: a list with a critical extension that is not understood is not "not revoked"."""
    hierarchy, at = milan.hierarchy, dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    point = x509.IssuingDistributionPoint(
        full_name=None,
        relative_name=None,
        only_contains_user_certs=True,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    for extension, critical in ((x509.DeltaCRLIndicator(1), True), (point, True), (point, False), (unknown, True)):
        crl = hierarchy.crl(at=at, extensions=[(extension, critical)])
        assert reasons(milan.judge(crls=[crl])) == ["RevocationStatusUnknown"], extension
    issuer = x509.CertificateIssuer([x509.DNSName("other.example")])
    assert reasons(milan.judge(crls=[hierarchy.crl([1], at=at, entry_extensions=[(issuer, True)])])) == ["RevocationStatusUnknown"]
    harmless = [(x509.CRLNumber(7), False), (unknown, False)]
    assert milan.judge(crls=[hierarchy.crl([1], at=at, extensions=harmless)]).ok


def test_required_revocation_list_that_is_missing_fails(milan: Lab) -> None:
    assert milan.judge().ok
    assert reasons(milan.judge(require_crl=True)) == ["RevocationStatusUnknown"]
    assert milan.judge(require_crl=True, crls=[milan.hierarchy.crl(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))]).ok
