"""Genuine reports get their recorded verdicts; altered and swapped ones are rejected."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cleanroom.attestation import AttestationEvidence, Expectations, TrustStore, Verdict, host_data_for, report_data_for, verify_evidence
from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.attestation.report import REPORT_SIZE, SIGNED_SIZE
from tests.unit.attestation.conftest import NOW, reasons, vector_ids

# The recorded reason of each genuine vector that must not verify with the defaults.
REFUSED = {
    "milan-v1-sidecar-faketemplate": "ReportVersionUnsupported",
    "milan-v1-sidecar-getfakereport": "ReportVersionUnsupported",
    "milan-v2-cvm-azcvmtooling-nocert": "CertificateChainMalformed",
    "milan-v2-sidecar-corruptsig": "CertificateChainMalformed",
    "milan-v2-sidecar-history": "CertificateChainMalformed",
    "milan-v2-debugpolicy-gosevguest": "TeeDebugModeEnabled",
    "milan-v2-vlek-trustee": "CertificateExpired",
    "milan-v2-vmpl1-automata-a": "VmplMismatch",
}


OLD_FIRMWARE = {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
MINIMUM = {
    "Milan": {"bootloader": 3, "tee": 0, "snp": 20, "microcode": 209},
    "Genoa": {"bootloader": 9, "tee": 0, "snp": 0, "microcode": 0},
}


def evidence_of(folder: Path) -> AttestationEvidence:
    chain = folder / "chain.pem"
    return AttestationEvidence.of((folder / "report.bin").read_bytes(), chain.read_bytes() if chain.exists() else b"")


def judge(evidence: AttestationEvidence, trust: TrustStore, at: datetime = NOW, **expected: object) -> Verdict:
    return verify_evidence(evidence, trust=trust, expectations=Expectations.model_validate(expected), at=at)


@pytest.mark.parametrize("name", vector_ids())
def test_each_genuine_report_gets_the_recorded_verdict(vectors: Path, amd: TrustStore, name: str) -> None:
    verdict = judge(evidence_of(vectors / "snp" / name), amd)
    meta = json.loads((vectors / "snp" / name / "meta.json").read_text())
    assert reasons(verdict)[:1] == ([REFUSED[name]] if name in REFUSED else [])
    assert verdict.version == meta["report"]["version"]
    assert not verdict.development
    if verdict.ok:
        assert str(verdict.product) == meta["product"]
        assert verdict.require().report_data.hex() == meta["report"]["report_data"]


@pytest.mark.parametrize("name", vector_ids())
def test_each_field_of_a_genuine_report_has_the_recorded_value(vectors: Path, amd: TrustStore, name: str) -> None:
    verdict = judge(evidence_of(vectors / "snp" / name), amd)
    if name.startswith("milan-v1"):
        assert verdict.report is None
        return
    said = json.loads((vectors / "snp" / name / "meta.json").read_text())["report"]
    report = verdict.report
    assert report is not None
    shown = report.model_dump(mode="json")
    for field in [
        "guest_svn",
        "family_id",
        "image_id",
        "vmpl",
        "report_data",
        "measurement",
        "host_data",
        "id_key_digest",
        "author_key_digest",
        "report_id",
        "report_id_ma",
        "chip_id",
    ]:
        assert shown[field] == said[field], field
    assert report.policy.value == int(said["policy"], 16)
    assert report.platform_info == int(said["platform_info"], 16)
    assert report.reported_tcb.hex() == said["reported_tcb"]["raw_le_hex"]
    assert report.signing_key_name == said["flags"]["signing_key"]
    assert ".".join(map(str, report.current_version)) == said["current_version"]
    assert report.policy.smt_allowed is said["policy_bits"]["smt"]
    assert report.policy.debug_allowed is said["policy_bits"]["debug"]
    assert report.raw == (vectors / "snp" / name / "report.bin").read_bytes()


def test_a_second_certificate_for_the_same_chip_and_tcb_verifies_too(vectors: Path, amd: TrustStore) -> None:
    folder = vectors / "snp" / "milan-v3-caci-tav"
    roots = (vectors / "roots/milan/ark.pem").read_bytes() + (vectors / "roots/milan/ask.pem").read_bytes()
    chain = roots + (folder / "vcek-2.pem").read_bytes()
    assert judge(AttestationEvidence.of((folder / "report.bin").read_bytes(), chain), amd).ok


def test_a_vmpl_1_report_verifies_when_vmpl_1_is_expected(vectors: Path, amd: TrustStore) -> None:
    evidence = evidence_of(vectors / "snp" / "milan-v2-vmpl1-automata-a")
    assert judge(evidence, amd, vmpl=1).ok
    assert judge(evidence, amd, vmpl=None).ok
    assert reasons(judge(evidence, amd, vmpl=2)) == ["VmplMismatch"]


def test_a_vlek_report_verifies_while_its_certificate_was_valid(vectors: Path, amd: TrustStore) -> None:
    evidence = evidence_of(vectors / "snp" / "milan-v2-vlek-trustee")
    then = datetime(2024, 12, 1, tzinfo=UTC)
    verdict = judge(evidence, amd, then, vmpl=1)
    assert verdict.ok
    assert verdict.leaf == "VLEK"
    provider = "CN=cc-us-east-2.amazonaws.com"
    assert judge(evidence, amd, then, vmpl=1, csp_ids={provider}).ok
    assert reasons(judge(evidence, amd, then, vmpl=1, csp_ids={"CN=another"})) == ["CloudProviderNotAllowed"]
    assert reasons(judge(evidence, amd, then, vmpl=1, allow_vlek=False)) == ["SigningKeyUnsupported"]
    assert reasons(judge(evidence, amd, datetime(2024, 1, 1, tzinfo=UTC), vmpl=1)) == ["CertificateNotYetValid"]


def test_a_debuggable_guest_verifies_only_when_debugging_is_allowed(vectors: Path, amd: TrustStore) -> None:
    evidence = evidence_of(vectors / "snp" / "milan-v2-debugpolicy-gosevguest")
    assert judge(evidence, amd, allow_debug=True).ok


def test_a_corrupted_signature_is_rejected_with_a_genuine_chain(vectors: Path, amd: TrustStore) -> None:
    report = (vectors / "snp" / "milan-v2-sidecar-corruptsig" / "report.bin").read_bytes()
    chain = (vectors / "snp" / "milan-v2-caci-kms" / "chain.pem").read_bytes()
    assert reasons(judge(AttestationEvidence.of(report, chain), amd))[0] == "ReportSignatureInvalid"


@pytest.mark.parametrize("name", ["invalid-vcek-new", "invalid-vcek-legacy"])
def test_certificates_that_amd_did_not_sign_are_rejected(vectors: Path, amd: TrustStore, name: str) -> None:
    leaf = (vectors / "certs" / f"{name}.der").read_bytes()
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(leaf) + b"-----END CERTIFICATE-----\n"
    roots = (vectors / "roots/milan/ask.pem").read_bytes() + (vectors / "roots/milan/ark.pem").read_bytes()
    report = (vectors / "snp/milan-v3-caci-tav/report.bin").read_bytes()
    verdict = judge(AttestationEvidence.of(report, pem + roots), amd)
    assert reasons(verdict)[0] in {"CertificateSignatureInvalid", "CertificateChainMalformed"}


def test_a_genuine_turin_certificate_is_read(vectors: Path, amd: TrustStore) -> None:
    leaf = (vectors / "certs" / "turin-vcek-virtee.der").read_bytes()
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(leaf) + b"-----END CERTIFICATE-----\n"
    roots = (vectors / "roots/turin/ask.pem").read_bytes() + (vectors / "roots/turin/ark.pem").read_bytes()
    report = (vectors / "snp/milan-v3-caci-tav/report.bin").read_bytes()
    verdict = judge(AttestationEvidence.of(report, pem + roots), amd)
    by_id = {check.id: check for check in verdict.checks}
    assert by_id["leaf-certificate"].passed
    assert by_id["leaf-certificate"].actual.startswith("Turin TCB ")
    assert reasons(verdict) == ["ReportSignatureInvalid", "ProductMismatch"]


@pytest.mark.parametrize("name", ["genoa-v3-caci-tav", "milan-v2-automata-b", "milan-v3-caci-cleanroom-signing"])
def test_a_flipped_bit_anywhere_in_a_report_is_rejected(vectors: Path, amd: TrustStore, name: str) -> None:
    """One bit of every byte, which covers every field. The bit varies with the position."""
    folder = vectors / "snp" / name
    report = (folder / "report.bin").read_bytes()
    chain = (folder / "chain.pem").read_bytes()
    choose = random.Random(7)
    for place in range(REPORT_SIZE):
        altered = bytearray(report)
        altered[place] ^= 1 << choose.randrange(8)
        verdict = judge(AttestationEvidence.of(bytes(altered), chain), amd, vmpl=None, allow_debug=True, allow_migration=True)
        assert not verdict.ok, place
        if place >= SIGNED_SIZE:
            assert reasons(verdict)[0] in {"ReportSignatureInvalid", "SignatureEncodingInvalid"}, place


@pytest.mark.parametrize("size", [0, 1, 3, 4, 671, 672, 1183, 1185, 1200, 4000])
def test_a_report_of_another_length_is_rejected(vectors: Path, amd: TrustStore, size: int) -> None:
    folder = vectors / "snp" / "milan-v3-caci-tav"
    report = (folder / "report.bin").read_bytes().ljust(size, b"\0")[:size]
    assert reasons(judge(AttestationEvidence.of(report, (folder / "chain.pem").read_bytes()), amd)) == ["ReportMalformed"]


@pytest.mark.parametrize("text", ["", "%", "AAAA=", "é", "A" * 200_000])
def test_text_that_is_not_a_base64_report_is_rejected(vectors: Path, amd: TrustStore, text: str) -> None:
    evidence = AttestationEvidence(evidence=text, endorsements=(vectors / "snp/milan-v3-caci-tav/chain.pem").read_text())
    assert reasons(judge(evidence, amd)) == ["ReportMalformed"]


def test_certificates_of_another_machine_are_rejected(vectors: Path, amd: TrustStore) -> None:
    names = [name for name in vector_ids() if (vectors / "snp" / name / "chain.pem").exists() and name not in REFUSED]
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        chain = (vectors / "snp" / other / "chain.pem").read_bytes()
        own = (vectors / "snp" / name / "chain.pem").read_bytes()
        if chain == own:
            continue
        verdict = judge(AttestationEvidence.of((vectors / "snp" / name / "report.bin").read_bytes(), chain), amd)
        same_chip = (
            json.loads((vectors / "snp" / name / "meta.json").read_text())["report"]["chip_id"]
            == (json.loads((vectors / "snp" / other / "meta.json").read_text())["report"]["chip_id"])
        )
        assert verdict.ok is same_chip, (name, other)


def test_an_intermediate_of_another_kind_or_product_is_rejected(vectors: Path, amd: TrustStore) -> None:
    folder = vectors / "snp" / "milan-v3-caci-tav"
    report, leaf = (folder / "report.bin").read_bytes(), (folder / "vcek.pem").read_bytes()
    pem = {path.relative_to(vectors / "roots").with_suffix("").as_posix(): path.read_bytes() for path in vectors.glob("roots/*/*.pem")}
    for parts in (
        (leaf, pem["milan/asvk"], pem["milan/ark"]),
        (leaf, pem["genoa/ask"], pem["genoa/ark"]),
        (leaf, pem["milan/ask"], pem["genoa/ark"]),
        (leaf, pem["milan/ark"], pem["milan/ark"]),
        (leaf, pem["milan/ask"]),
        (leaf,),
        (leaf, leaf, leaf),
        (leaf, pem["milan/ask"], pem["milan/ark"], pem["milan/asvk"]),
        (pem["milan/ask"], pem["milan/ask"], pem["milan/ark"]),
    ):
        verdict = judge(AttestationEvidence.of(report, b"".join(parts)), amd)
        assert reasons(verdict) == ["CertificateChainMalformed"]


def test_a_chain_in_any_order_and_without_newlines_is_accepted(vectors: Path, amd: TrustStore) -> None:
    folder = vectors / "snp" / "genoa-v3-caci-tav"
    report, leaf = (folder / "report.bin").read_bytes(), (folder / "vcek.pem").read_bytes().strip()
    ask, ark = ((vectors / f"roots/genoa/{name}.pem").read_bytes().strip() for name in ("ask", "ark"))
    for parts in ((leaf, ask, ark), (ark, ask, leaf), (ask, leaf, ark), (ark, leaf, ask), (ask, ark, leaf), (leaf, ark, ask)):
        assert judge(AttestationEvidence.of(report, b"".join(parts)), TrustStore.amd()).ok


def test_endorsements_are_read_in_each_form_that_azure_sends(vectors: Path, amd: TrustStore) -> None:
    folder = vectors / "caci" / "milan-v2-caci-sidecar-testdata"
    report = base64.b64encode((vectors / "snp" / folder.name / "report.bin").read_bytes()).decode()
    thim = (folder / "thim_host_amd_certificate.json").read_text()
    pem = json.loads(thim)["vcekCert"] + json.loads(thim)["certificateChain"]
    for endorsements in (pem, thim, f"\ufeff{thim}", base64.b64encode(pem.encode()).decode(), base64.b64encode(thim.encode()).decode()):
        assert judge(AttestationEvidence(evidence=report, endorsements=endorsements), amd).ok


def test_bindings_of_a_container_group_hold(vectors: Path, amd: TrustStore) -> None:
    for name in ("milan-v3-caci-cleanroom-signing", "milan-v3-caci-cleanroom-encryption"):
        folder = vectors / "caci" / name
        evidence = AttestationEvidence.model_validate_json((folder / "snp_evidence.json").read_text())
        host_data = host_data_for((folder / "cce_policy.base64").read_text().strip()).hex()
        public_key = (folder / "pub_key.pem").read_bytes()
        verdict = judge(evidence, amd, report_data=report_data_for(public_key), host_data={host_data}, require_uvm=True)
        assert verdict.ok, reasons(verdict)
        verdict = judge(evidence, amd, report_data=report_data_for(public_key + b"\n"), host_data={"00" * 32}, refuse_host_data={host_data})
        assert reasons(verdict) == ["ReportDataMismatch", "HostDataMismatch", "HostDataRefused"]


def test_the_older_report_data_convention_is_rejected(vectors: Path, amd: TrustStore) -> None:
    folder = vectors / "caci" / "milan-v2-caci-cleanroom-history-signing"
    evidence = AttestationEvidence.model_validate_json((folder / "snp_evidence.json").read_text())
    public_key = (folder / "pub_key.pem").read_bytes()
    assert reasons(judge(evidence, amd, report_data=report_data_for(public_key))) == ["ReportDataMismatch"]


def test_runtime_data_of_an_attestation_service_request_is_bound_as_sent(vectors: Path, amd: TrustStore) -> None:
    name = "milan-v3-caci-cleanroom-maa"
    runtime_data = (vectors / "caci" / name / "runtime_data.bin").read_bytes()
    evidence = evidence_of(vectors / "snp" / name)
    assert judge(evidence, amd, report_data=report_data_for(runtime_data)).ok
    assert hashlib.sha256(runtime_data).digest() == judge(evidence, amd).require().report_data[:32]


def test_endorsed_tcb_is_accepted_in_number_order_only(vectors: Path, amd: TrustStore) -> None:
    evidence = evidence_of(vectors / "snp" / "milan-v2-caci-kms")
    assert judge(evidence.model_copy(update={"endorsed_tcb": "7308000000000003"}), amd).ok
    for text in ("0300000000000873", "7308000000000004", "x", "7308000000000003 "):
        assert reasons(judge(evidence.model_copy(update={"endorsed_tcb": text}), amd)) == ["EndorsedTcbMismatch"]


def test_minimum_tcb_is_compared_component_by_component(vectors: Path, amd: TrustStore) -> None:
    evidence = evidence_of(vectors / "snp" / "milan-v3-caci-tav")  # 4.0.24.219

    def minimum(bootloader: int, tee: int, snp: int, microcode: int) -> dict[str, object]:
        return {"Milan": {"bootloader": bootloader, "tee": tee, "snp": snp, "microcode": microcode}}

    assert judge(evidence, amd, minimum_tcb=minimum(4, 0, 24, 219)).ok
    assert judge(evidence, amd, minimum_tcb=minimum(3, 0, 22, 209)).ok
    # The microcode is higher than required and the boot loader lower. As one number, this would pass.
    assert reasons(judge(evidence, amd, minimum_tcb=minimum(5, 0, 24, 100))) == ["TcbTooOld"]
    assert reasons(judge(evidence, amd, minimum_tcb={"Genoa": minimum(0, 0, 0, 0)["Milan"]})) == ["TcbTooOld"]


def test_optional_expectations_are_checked(vectors: Path, amd: TrustStore) -> None:
    evidence = evidence_of(vectors / "snp" / "milan-v3-caci-tav")
    report = judge(evidence, amd).require()
    assert judge(
        evidence,
        amd,
        minimum_guest_svn=2,
        minimum_report_version=3,
        minimum_abi=(0, 31),
        id_key_digests={report.id_key_digest.hex().upper()},
        family_ids={report.family_id.hex()},
        image_ids={report.image_id.hex()},
        measurements={report.measurement.hex()},
    ).ok
    verdict = judge(
        evidence,
        amd,
        minimum_guest_svn=3,
        allow_smt=False,
        require_single_socket=True,
        minimum_abi=(1, 0),
        id_key_digests=set(),
        author_key_digests={"11" * 48},
        family_ids={"00" * 16},
        image_ids={"00" * 16},
        measurements={"00" * 48},
    )
    assert reasons(verdict) == [
        "SmtAllowed",
        "SingleSocketNotRequired",
        "GuestAbiTooOld",
        "GuestSvnTooOld",
        "IdKeyDigestMismatch",
        "AuthorKeyDigestMismatch",
        "FamilyIdMismatch",
        "ImageIdMismatch",
        "MeasurementMismatch",
    ]
    old = evidence_of(vectors / "snp" / "milan-v2-automata-b")
    assert reasons(judge(old, amd, minimum_report_version=3)) == ["ReportVersionUnsupported"]


def test_a_flipped_bit_anywhere_in_a_certificate_is_rejected(vectors: Path) -> None:
    """Every third byte of each certificate, including unsigned ones (the outer signature algorithm, DER lengths)."""
    folder = vectors / "snp" / "genoa-v3-caci-tav"
    report = (folder / "report.bin").read_bytes()
    ders = read_endorsements((folder / "chain.pem").read_bytes())
    trust = TrustStore.amd()
    for index, der in enumerate(ders):
        for place in range(index, len(der), 3):
            altered = list(ders)
            altered[index] = der[:place] + bytes((der[place] ^ 1 << place % 8,)) + der[place + 1 :]
            pem = b"".join(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(each) + b"-----END CERTIFICATE-----\n" for each in altered)
            verdict = judge(AttestationEvidence.of(report, pem), trust)
            assert not verdict.ok, (index, place)
            assert str(verdict.failures[0].reason) in {"CertificateChainMalformed", "RootNotTrusted", "CertificateSignatureInvalid"}


@pytest.mark.parametrize("name", vector_ids())
def test_genuine_evidence_of_old_firmware_is_refused_by_a_minimum(vectors: Path, amd: TrustStore, name: str) -> None:
    if name in REFUSED:
        pytest.skip("does not verify without a minimum either")
    old = json.loads((vectors / "snp" / name / "meta.json").read_text())["report"]["reported_tcb"]["microcode"] == OLD_FIRMWARE["microcode"]
    for member in ("minimum_tcb", "minimum_committed_tcb"):
        verdict = judge(evidence_of(vectors / "snp" / name), amd, **{member: MINIMUM})
        assert reasons(verdict) == (["TcbTooOld"] if old else []), member


def test_products_without_a_minimum_are_refused(vectors: Path, amd: TrustStore) -> None:
    verdict = judge(evidence_of(vectors / "snp" / "milan-v3-caci-tav"), amd, minimum_committed_tcb={"Genoa": MINIMUM["Genoa"]})
    assert reasons(verdict) == ["TcbTooOld"]
