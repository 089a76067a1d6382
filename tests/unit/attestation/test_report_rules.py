"""Every rule for a report, one broken at a time, with the values that the check shows. The reports are signed and have a valid chain."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from cleanroom.attestation import (
    ALLOW_ALL_HOST_DATA,
    AttestationEvidence,
    Expectations,
    GuestPolicy,
    LeafKind,
    Product,
    Tcb,
    Verdict,
    Verifier,
    parse_report,
    verify_evidence,
)
from cleanroom.attestation.products import encode_tcb, tcb_text
from cleanroom.errors import CleanRoomError
from localcloud.standins.snp.minting import POLICY_CACI, current_tcb
from tests.unit.attestation.conftest import reasons
from tests.unit.attestation.der import CHIP_ID, amd_extensions, chain, evidence, named, trust

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
VERIFIER = Verifier(trust())
ALL_CHECKS = [
    *("report-encoding", "report-format", "report-version", "signature-algorithm", "signing-key", "signature-encoding"),
    *("chain-format", "root-trusted", "chain-signatures", "chain-roles", "leaf-certificate"),
    *("leaf-kind", "certificate-validity"),
    *("report-signature", "product", "reported-tcb", "chip-key", "chip-id"),
    *("policy-reserved", "policy-debug", "policy-migration", "vmpl"),
]


def judge(ders: list[bytes] | None = None, expected: dict[str, Any] | None = None, **report: Any) -> Verdict:
    return VERIFIER.verify(evidence(ders, **report), expectations=Expectations(**(expected or {})), at=AT)


def vlek() -> list[bytes]:
    extensions = amd_extensions(product=b"\x16\x05Milan", hw_id=None, csp_id=b"\x16\x03CSP")
    leaf = {"subject": named("SEV-VLEK"), "issuer": named("SEV-VLEK-Milan"), "extensions": extensions}
    return chain(leaf=leaf, intermediate={"subject": named("SEV-VLEK-Milan")})


def shown(verdict: Verdict, check_id: str) -> tuple[bool, str, str]:
    (check,) = [each for each in verdict.checks if each.id == check_id]
    return check.passed, check.expected, check.actual


def test_genuine_report_passes_every_check_of_the_defaults() -> None:
    verdict = judge()
    assert verdict.ok
    assert [check.id for check in verdict.checks] == ALL_CHECKS
    assert (verdict.product, verdict.version, verdict.leaf, verdict.development) == (Product.MILAN, 3, LeafKind.VCEK, False)
    assert (verdict.at, verdict.require()) == (AT, verdict.report)
    assert shown(verdict, "report-encoding") == (True, "base64", "1184 bytes")
    assert shown(verdict, "report-version") == (True, "2 to 5", "3")
    assert shown(verdict, "signing-key") == (True, "VCEK or VLEK", "VCEK")
    assert shown(verdict, "chip-id") == (True, CHIP_ID.hex(), CHIP_ID.hex())
    assert shown(verdict, "reported-tcb") == (True, "4.0.24.219, the certificate's TCB", "4.0.24.219")
    assert shown(verdict, "vmpl") == (True, "0", "0")


def test_instant_is_shown_in_utc() -> None:
    at = AT.astimezone(timezone(timedelta(hours=5)))
    verdict = VERIFIER.verify(evidence(), expectations=Expectations(), at=at)
    assert verdict.at.isoformat() == "2026-11-23T12:00:00+00:00"
    assert shown(verdict, "certificate-validity")[2] == "2026-11-23T12:00:00Z"
    with pytest.raises(CleanRoomError, match="InstantWithoutTimeZone"):
        verify_evidence(evidence(), trust=trust(), expectations=Expectations(), at=AT.replace(tzinfo=None))


# --- structure: a failure ends the verdict


@pytest.mark.parametrize(
    ("report", "expected", "check", "reason"),
    [
        ({"version": 1}, {}, "report-version", "ReportVersionUnsupported"),
        ({"version": 6}, {}, "report-version", "ReportVersionUnsupported"),
        ({"version": 2}, {"minimum_report_version": 3}, "report-version", "ReportVersionUnsupported"),
        ({"signature_algorithm": 0}, {}, "signature-algorithm", "SignatureAlgorithmUnsupported"),
        ({"signature_algorithm": 2}, {}, "signature-algorithm", "SignatureAlgorithmUnsupported"),
        ({"flags": 7 << 2}, {}, "signing-key", "SigningKeyUnsupported"),
        ({"flags": 2 << 2}, {}, "signing-key", "SigningKeyUnsupported"),
        ({"flags": 1 << 2}, {"allow_vlek": False}, "signing-key", "SigningKeyUnsupported"),
    ],
)
def test_structure_is_checked_before_the_chain(report: dict[str, Any], expected: dict[str, Any], check: str, reason: str) -> None:
    verdict = judge(None, expected, **report)
    assert [(each.id, each.reason) for each in verdict.failures] == [(check, reason)]
    assert verdict.checks[-1].id == check
    assert (verdict.ok, verdict.leaf, verdict.version) == (False, None, report.get("version", 3))


def test_minimum_version_itself_is_accepted() -> None:
    assert judge(None, {"minimum_report_version": 3}).ok
    assert shown(judge(None, {"minimum_report_version": 4}), "report-version") == (False, "4 to 5", "3")
    assert shown(judge(None, {"allow_vlek": False}), "signing-key") == (True, "VCEK", "VCEK")


@pytest.mark.parametrize("place", [0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71, 0x330, 0x49F])
def test_unused_bytes_of_the_signature_must_be_zero(place: int) -> None:
    given = evidence()
    raw = bytearray(parse_report(decoded(given)).raw)
    raw[place] = 1
    verdict = VERIFIER.verify(given.of(bytes(raw), b"".join(chain())), expectations=Expectations(), at=AT)
    assert reasons(verdict) == ["SignatureEncodingInvalid"]
    assert verdict.product is Product.MILAN  # as stated, for the reader


def decoded(given: AttestationEvidence) -> bytes:
    return base64.b64decode(given.evidence)


@pytest.mark.parametrize("place", [0, 100, 0x29F, 0x2A0, 0x2A0 + 47, 0x2E8, 0x2E8 + 47])
def test_every_signed_byte_and_both_numbers_of_the_signature_count(place: int) -> None:
    raw = bytearray(decoded(evidence(version=3)))
    raw[place] ^= 8 if place else 1  # the version stays a supported one
    verdict = VERIFIER.verify(evidence().of(bytes(raw), b"".join(chain())), expectations=Expectations(vmpl=None), at=AT)
    assert "ReportSignatureInvalid" in reasons(verdict)
    assert "policy-debug" not in [check.id for check in verdict.checks]


def test_zero_signature_does_not_verify() -> None:
    raw = decoded(evidence())
    zero = raw[:0x2A0] + bytes(len(raw) - 0x2A0)
    verdict = VERIFIER.verify(evidence().of(zero, b"".join(chain())), expectations=Expectations(), at=AT)
    assert reasons(verdict) == ["ReportSignatureInvalid"]


# --- report and certificate


def test_kind_of_the_leaf_must_be_the_one_that_the_report_states() -> None:
    no_chip = {"chip_id": bytes(64)}
    assert judge(vlek(), flags=4, **no_chip).ok
    assert judge(vlek(), flags=4, **no_chip).leaf is LeafKind.VLEK
    assert reasons(judge(vlek(), **no_chip)) == ["LeafCertificateKindMismatch"]
    assert reasons(judge(flags=4)) == ["LeafCertificateKindMismatch"]
    assert shown(judge(flags=4), "leaf-kind") == (False, "VLEK, the report's signing key", "VCEK")


def test_vlek_has_no_chip_and_a_provider() -> None:
    zero = {"flags": 4, "chip_id": bytes(64)}
    assert reasons(judge(vlek(), flags=4)) == ["ChipIdMismatch"]
    assert reasons(judge(vlek(), flags=4, chip_id=b"\1".ljust(64, b"\0"))) == ["ChipIdMismatch"]
    assert judge(vlek(), {"csp_ids": {"CSP", "other"}}, **zero).ok
    assert reasons(judge(vlek(), {"csp_ids": {"other"}}, **zero)) == ["CloudProviderNotAllowed"]
    assert reasons(judge(vlek(), {"csp_ids": set()}, **zero)) == ["CloudProviderNotAllowed"]
    assert shown(judge(vlek(), **zero), "cloud-provider") == (True, "any", "CSP")
    # A masked chip ID says nothing about a VLEK.
    assert judge(vlek(), flags=6, chip_id=bytes(64)).ok


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"flags": 2}, "ChipKeyMasked"),
        ({"chip_id": bytes(64)}, "ChipIdMismatch"),
        ({"chip_id": CHIP_ID[:63] + b"\0"}, "ChipIdMismatch"),
        ({"chip_id": b"\0" + CHIP_ID[1:]}, "ChipIdMismatch"),
    ],
)
def test_vcek_is_bound_to_its_chip(report: dict[str, Any], reason: str) -> None:
    assert reasons(judge(**report)) == [reason]


def test_chip_ids_that_are_both_zero_do_not_match() -> None:
    ders = chain(leaf={"extensions": amd_extensions(hw_id=bytes(64))})
    verdict = judge(ders, chip_id=bytes(64))
    assert shown(verdict, "chip-id") == (False, "a chip ID that is not zero", bytes(64).hex())


def turin() -> list[bytes]:
    extensions = amd_extensions(product=b"\x16\x05Turin", hw_id=CHIP_ID[:8], fmc=b"\x02\x01\x01")
    authority = {"issuer": named("ARK-Turin")}
    return chain(
        leaf={"extensions": extensions, "issuer": named("SEV-Turin")},
        intermediate={"subject": named("SEV-Turin"), **authority},
        root={"subject": named("ARK-Turin"), **authority},
    )


def test_chip_id_of_turin_has_8_bytes() -> None:
    verifier = Verifier(trust(product=Product.TURIN))

    def chip(chip_id: bytes) -> Verdict:
        given = evidence(turin(), product=Product.TURIN, chip_id=chip_id.ljust(64, b"\0"))
        return verifier.verify(given, expectations=Expectations(), at=AT)

    good = chip(CHIP_ID[:8])
    assert good.ok
    assert shown(good, "chip-id") == (True, CHIP_ID[:8].hex(), CHIP_ID[:8].hex())
    assert shown(good, "reported-tcb")[2] == "1.4.0.24.219"
    assert shown(chip(CHIP_ID[1:9]), "chip-id") == (False, CHIP_ID[:8].hex(), CHIP_ID[1:9].hex())
    longer = CHIP_ID[:9].ljust(64, b"\0")
    assert shown(chip(longer), "chip-id") == (False, CHIP_ID[:8].hex(), longer.hex())


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"cpuid": (0x19, 0x10, 0)}, "ProductMismatch"),
        ({"cpuid": (0x1A, 0x00, 0)}, "ProductMismatch"),
        ({"cpuid": (0x19, 0x20, 0)}, "ProductUnsupported"),
        ({"cpuid": (0, 0, 0)}, "ProductUnsupported"),
    ],
)
def test_product_of_the_report_must_be_the_roots(report: dict[str, Any], reason: str) -> None:
    verdict = judge(**report)
    assert reasons(verdict) == [reason]
    assert "reported-tcb" not in [check.id for check in verdict.checks]  # its layout depends on the product
    stated = {0x10: Product.GENOA, 0x00: Product.TURIN}.get(report["cpuid"][1]) if reason == "ProductMismatch" else Product.MILAN
    assert verdict.product is stated


def test_version_2_does_not_state_the_product() -> None:
    verdict = judge(version=2, cpuid=(0x1A, 0x00, 0))
    assert (verdict.ok, verdict.product) == (True, Product.MILAN)
    assert shown(verdict, "product") == (True, "Milan, the root's product", "Milan (version 2 does not state it)")


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode"])
@pytest.mark.parametrize("change", [-1, 1])
def test_reported_tcb_must_be_exactly_the_certificates(component: str, change: int) -> None:
    tcb = current_tcb(Product.MILAN)
    reported = tcb.model_copy(update={component: (getattr(tcb, component) + change) % 256})
    verdict = judge(reported_tcb=encode_tcb(reported, Product.MILAN))
    assert shown(verdict, "reported-tcb") == (False, "4.0.24.219, the certificate's TCB", reported.text(Product.MILAN))
    assert tcb_text(encode_tcb(reported, Product.MILAN)) in verdict.failures[0].message


@pytest.mark.parametrize("place", range(2, 6))
def test_reserved_bytes_of_the_reported_tcb_must_be_zero(place: int) -> None:
    raw = bytearray(encode_tcb(current_tcb(Product.MILAN), Product.MILAN))
    raw[place] = 1
    verdict = judge(reported_tcb=bytes(raw))
    assert shown(verdict, "reported-tcb") == (False, "zero in the reserved bytes of Milan's TCB", raw.hex())


# --- guest policy and platform

DEBUG, MIGRATION, SMT, SOCKET, RESERVED = 1 << 19, 1 << 18, 1 << 16, 1 << 20, 1 << 17


@pytest.mark.parametrize(
    ("policy", "expected", "failing"),
    [
        (POLICY_CACI, {}, []),
        (POLICY_CACI & ~RESERVED, {}, ["GuestPolicyReservedBit"]),
        (POLICY_CACI | DEBUG, {}, ["TeeDebugModeEnabled"]),
        (POLICY_CACI | DEBUG, {"allow_debug": True}, []),
        (POLICY_CACI, {"allow_debug": True}, []),
        (POLICY_CACI | MIGRATION, {}, ["MigrationAllowed"]),
        (POLICY_CACI | MIGRATION, {"allow_migration": True}, []),
        (POLICY_CACI | MIGRATION, {"allow_debug": True}, ["MigrationAllowed"]),
        (POLICY_CACI | DEBUG, {"allow_migration": True}, ["TeeDebugModeEnabled"]),
        (POLICY_CACI | SMT, {}, []),
        (POLICY_CACI | SMT, {"allow_smt": False}, ["SmtAllowed"]),
        (POLICY_CACI & ~SMT, {"allow_smt": False}, []),
        (POLICY_CACI, {"require_single_socket": True}, ["SingleSocketNotRequired"]),
        (POLICY_CACI | SOCKET, {"require_single_socket": True}, []),
        (RESERVED | 0x0137, {"minimum_abi": (1, 0x37)}, []),
        (RESERVED | 0x0137, {"minimum_abi": (1, 0x38)}, ["GuestAbiTooOld"]),
        (RESERVED | 0x0137, {"minimum_abi": (0, 0xFF)}, []),
        (RESERVED | 0x0137, {"minimum_abi": (2, 0)}, ["GuestAbiTooOld"]),
    ],
)
def test_bits_of_the_guest_policy(policy: int, expected: dict[str, Any], failing: list[str]) -> None:
    assert reasons(judge(None, expected, policy=policy)) == failing


def test_names_of_the_policys_bits() -> None:
    names = {"smt_allowed": 16, "reserved_one": 17, "migration_allowed": 18, "debug_allowed": 19, "single_socket_required": 20}
    for name, bit in names.items():
        for value in range(64):
            assert getattr(GuestPolicy(value=1 << value), name) is (value == bit)
    assert GuestPolicy(value=0xFF0137).abi == (1, 0x37)


@pytest.mark.parametrize(
    ("vmpl", "wanted", "ok"),
    [(0, 0, True), (1, 0, False), (1, 1, True), (0, 1, False), (3, None, True), (4, None, False), (0xFFFFFFFF, None, False)],
)
def test_privilege_level(vmpl: int, wanted: int | None, ok: bool) -> None:
    verdict = judge(None, {"vmpl": wanted}, vmpl=vmpl)
    assert reasons(verdict) == ([] if ok else ["VmplMismatch"])
    assert shown(verdict, "vmpl") == (
        ok,
        "0 to 3" if wanted is None else str(wanted),
        "requested by the host" if vmpl == 0xFFFFFFFF else str(vmpl),
    )


def milan(**components: int) -> dict[Product, Tcb]:
    values = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219} | components
    return {Product.MILAN: Tcb(**values)}


@pytest.mark.parametrize("member", ["minimum_tcb", "minimum_committed_tcb"])
def test_every_component_of_a_minimum_counts(member: str) -> None:
    check_id = member.replace("_", "-")
    assert judge(None, {member: milan()}).ok
    assert judge(None, {member: milan(bootloader=0, snp=0, microcode=0)}).ok
    for component, value in (("bootloader", 5), ("tee", 1), ("snp", 25), ("microcode", 220), ("fmc", 1)):
        # Every other component is far above its minimum.
        low = {"bootloader": 0, "snp": 0, "microcode": 0} | {component: value}
        verdict = judge(None, {member: milan(**low)})
        assert reasons(verdict) == ["TcbTooOld"]
        assert shown(verdict, check_id)[2] == "4.0.24.219"
    verdict = judge(None, {member: {Product.GENOA: milan()[Product.MILAN]}})
    assert shown(verdict, check_id) == (False, "a minimum for Milan (none is configured)", "4.0.24.219")
    assert reasons(judge(None, {member: {}})) == ["TcbTooOld"]


def test_committed_tcb_is_the_reports_own() -> None:
    """The firmware that runs is new, and the host can still go back below the minimum."""
    old = Tcb(bootloader=3, tee=0, snp=20, microcode=200)
    reported = encode_tcb(current_tcb(Product.MILAN), Product.MILAN)
    assert judge(None, {"minimum_tcb": milan()}, tcb=old, reported_tcb=reported).ok
    verdict = judge(None, {"minimum_tcb": milan(), "minimum_committed_tcb": milan()}, tcb=old, reported_tcb=reported)
    assert [(check.id, check.actual) for check in verdict.failures] == [("minimum-committed-tcb", "3.0.20.200")]


def test_committed_tcb_with_reserved_bytes_is_rejected() -> None:
    fmc = Tcb(fmc=1, bootloader=4, tee=0, snp=24, microcode=219)
    raw = encode_tcb(fmc, Product.TURIN)  # bytes 2 and 3 are reserved on Milan
    verdict = judge(
        None,
        {"minimum_committed_tcb": milan()},
        product=Product.TURIN,
        cpuid=(0x19, 1, 1),
        tcb=fmc,
        reported_tcb=encode_tcb(current_tcb(Product.MILAN), Product.MILAN),
    )
    assert shown(verdict, "minimum-committed-tcb") == (False, "zero in the reserved bytes of Milan's TCB", raw.hex())


@pytest.mark.parametrize(
    ("text", "ok"), [("db18000000000004", True), ("DB18000000000004", True), ("04000000000018db", False), ("x", False)]
)
def test_endorsed_tcb_is_the_reported_one_in_number_order(text: str, ok: bool) -> None:
    given = evidence().model_copy(update={"endorsed_tcb": text})
    verdict = VERIFIER.verify(given, expectations=Expectations(), at=AT)
    assert reasons(verdict) == ([] if ok else ["EndorsedTcbMismatch"])
    assert shown(verdict, "endorsed-tcb") == (ok, "db18000000000004", text)


def test_minimum_guest_svn() -> None:
    assert judge(None, {"minimum_guest_svn": 2}).ok
    assert reasons(judge(None, {"minimum_guest_svn": 3})) == ["GuestSvnTooOld"]


ALLOWLISTS = [
    ("id_key_digests", "id_key_digest", 48, "IdKeyDigestMismatch"),
    ("author_key_digests", "author_key_digest", 48, "AuthorKeyDigestMismatch"),
    ("family_ids", "family_id", 16, "FamilyIdMismatch"),
    ("image_ids", "image_id", 16, "ImageIdMismatch"),
    ("host_data", "host_data", 32, "HostDataMismatch"),
    ("measurements", "measurement", 48, "MeasurementMismatch"),
]


@pytest.mark.parametrize(("allowlist", "field", "size", "reason"), ALLOWLISTS)
def test_value_must_be_on_its_allowlist(allowlist: str, field: str, size: int, reason: str) -> None:
    value = bytes(range(0xA0, 0xA0 + size))
    report = {field: value}
    assert judge(**report).ok
    for good in ({value.hex()}, {value.hex().upper()}, {"00" * size, value.hex()}):
        assert judge(None, {allowlist: good}, **report).ok
    for bad in ({"00" * size}, set(), {"00" * size, "ff" * size}):
        verdict = judge(None, {allowlist: bad}, **report)
        assert reasons(verdict) == [reason]
        (check,) = verdict.failures
        expected = " or ".join(sorted(bad)) or "nothing (the allowlist is empty)"
        assert (check.expected, check.actual) == (expected, value.hex())
    with pytest.raises(ValueError, match=f"is not {size} bytes in hex"):
        Expectations.model_validate({allowlist: {"00" * (size - 1)}})


def test_report_data_is_compared_whole() -> None:
    data = bytes(range(64))
    assert judge(None, {"report_data": data}, report_data=data).ok
    for place in (0, 31, 32, 63):
        other = bytearray(data)
        other[place] ^= 1
        assert reasons(judge(None, {"report_data": data}, report_data=bytes(other))) == ["ReportDataMismatch"]
    for size in (0, 32, 63, 65):
        with pytest.raises(ValueError, match="not 64"):
            Expectations(report_data=bytes(size))


def test_refused_host_data_is_refused_even_if_it_is_allowed() -> None:
    allow_all = bytes.fromhex(next(iter(ALLOW_ALL_HOST_DATA)))
    refuse = {"refuse_host_data": ALLOW_ALL_HOST_DATA}
    assert reasons(judge(None, refuse | {"host_data": ALLOW_ALL_HOST_DATA}, host_data=allow_all)) == ["HostDataRefused"]
    assert judge(None, refuse, host_data=bytes(32)).ok
    assert judge(None, {"host_data": ALLOW_ALL_HOST_DATA}, host_data=allow_all).ok


def test_all_rules_of_policy_and_bindings_are_judged_at_once() -> None:
    expected = {"allow_smt": False, "minimum_tcb": {}, "report_data": bytes([1]) * 64, "host_data": set(), "require_uvm": True}
    verdict = judge(None, expected, policy=POLICY_CACI | DEBUG | MIGRATION, vmpl=1)
    assert reasons(verdict) == [
        *("TeeDebugModeEnabled", "MigrationAllowed", "SmtAllowed", "VmplMismatch", "TcbTooOld"),
        *("ReportDataMismatch", "HostDataMismatch", "UvmEndorsementMissing"),
    ]


def test_defaults_are_secure() -> None:
    assert Expectations(report_data=None, host_data=None) == Expectations()
    assert Expectations().model_dump() == {
        "minimum_report_version": 2,
        "allow_vlek": True,
        "csp_ids": None,
        "allow_debug": False,
        "allow_migration": False,
        "allow_smt": True,
        "require_single_socket": False,
        "minimum_abi": None,
        "vmpl": 0,
        "minimum_tcb": None,
        "minimum_committed_tcb": None,
        "minimum_guest_svn": 0,
        **dict.fromkeys(("id_key_digests", "author_key_digests", "family_ids", "image_ids", "report_data", "host_data", "measurements")),
        "refuse_host_data": frozenset(),
        "require_uvm": False,
        "minimum_uvm_svn": None,
        "crls": (),
        "require_crl": False,
        "accept_stale_crl": False,
    }


# --- verdicts


def test_verdict_of_bad_evidence_raises_its_first_reason_with_all_failures() -> None:
    verdict = judge(policy=POLICY_CACI | DEBUG, vmpl=1)
    with pytest.raises(CleanRoomError) as caught:
        verdict.require()
    error = caught.value
    assert (error.code, error.party, error.category) == ("TeeDebugModeEnabled", "operator", "refused")
    assert "debug" in error.message
    assert error.details["product"] == "Milan"
    assert error.details["version"] == 3
    assert error.details["evidence_sha256"] == verdict.evidence.digest()
    assert [(item["id"], item["reason"]) for item in error.details["failed"]] == [
        ("policy-debug", "TeeDebugModeEnabled"),
        ("vmpl", "VmplMismatch"),
    ]
    unreadable = VERIFIER.verify(evidence().of(b"", b""), expectations=Expectations(), at=AT)
    with pytest.raises(CleanRoomError) as caught:
        unreadable.require()
    assert (caught.value.details["product"], caught.value.details["version"]) == (None, None)
    assert [check.id for check in unreadable.failures] == ["report-format"]
    assert not unreadable.development
    assert unreadable.report is None
    passed_without_report = judge().model_copy(update={"report": None, "checks": verdict.checks})
    with pytest.raises(CleanRoomError):
        passed_without_report.require()
    with pytest.raises(CleanRoomError):
        judge().model_copy(update={"ok": False, "checks": verdict.checks}).require()


def test_summary_has_every_check_and_the_reasons_of_failed_ones() -> None:
    good, bad = judge().summary(), judge(vmpl=1).summary()
    members = {"ok": True, "product": "Milan", "version": 3, "leaf": "VCEK", "development": False, "at": "2026-11-23T12:00:00+00:00"}
    assert good.items() >= members.items()
    assert good["checks"][0] == {"id": "report-encoding", "passed": True, "expected": "base64", "actual": "1184 bytes"}
    assert [check for check in bad["checks"] if not check["passed"]] == [
        {"id": "vmpl", "passed": False, "expected": "0", "actual": "1", "reason": "VmplMismatch"}
    ]
    empty = VERIFIER.verify(evidence().of(b"", b""), expectations=Expectations(), at=AT).summary()
    assert (empty["ok"], empty["product"], empty["version"], empty["leaf"]) == (False, None, None, None)
