"""Evidence of Azure confidential VMs: the public parts of genuine evidence, and a complete synthetic machine."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cleanroom.attestation import CvmEvidence, CvmVerdict, Expectations, TrustStore, report_data_for, verify_cvm_evidence
from cleanroom.attestation.cvm import CLEAN_ROOM_NONCE, CvmParts
from localcloud.standins.cgs.attested import EvidenceVerifier
from localcloud.standins.snp.cvm import DevelopmentVirtualMachine
from localcloud.standins.snp.minting import POLICY_CACI
from localcloud.standins.snp.server import DevelopmentHardware
from tests.unit.attestation.conftest import NOW, reasons

USER_DATA = report_data_for(b"-----BEGIN PUBLIC KEY-----")


@pytest.fixture(scope="module")
def machine(hardware: DevelopmentHardware) -> DevelopmentVirtualMachine:
    return DevelopmentVirtualMachine(hardware)


@pytest.fixture(scope="module")
def good(machine: DevelopmentVirtualMachine) -> CvmEvidence:
    return machine.evidence(USER_DATA)


def judge(
    evidence: CvmEvidence, trust: TrustStore, nonce: bytes | None = CLEAN_ROOM_NONCE, user_data: bytes | None = USER_DATA
) -> CvmVerdict:
    return verify_cvm_evidence(evidence, trust=trust, expectations=Expectations(), at=datetime.now(UTC), nonce=nonce, user_data=user_data)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def changed(evidence: CvmEvidence, **parts: Any) -> CvmEvidence:
    return evidence.model_copy(update={"evidence": evidence.evidence.model_copy(update=parts)})


def test_complete_vm_evidence_is_accepted(machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore) -> None:
    verdict = judge(good, development)
    assert verdict.ok, reasons(verdict.verdict)
    assert verdict.pcrs == {index: value.hex() for index, value in machine.pcrs.items()}
    assert verdict.runtime_claims["vm-configuration"]["secure-boot"] is True
    wire = CvmEvidence.model_validate_json(good.model_dump_json(by_alias=True))
    assert judge(wire, development).ok
    assert judge(good, development, nonce=None, user_data=None).ok


@pytest.mark.parametrize("name", ["milan-v3-cvm-cleanroom-signing", "milan-v3-cvm-cleanroom-encryption"])
def test_genuine_hcl_reports_verify_except_for_the_quote(vectors: Path, amd: TrustStore, name: str) -> None:
    """The vectors do not contain the quotes of the public samples, so the verdict must end there."""
    evidence = CvmEvidence(
        evidence=CvmParts(
            tpm_quote="",
            hcl_report=b64((vectors / "cvm" / name / "hcl_report.bin").read_bytes()),
            snp_report=b64((vectors / "snp" / name / "report.bin").read_bytes()),
            pcrs={},
        ),
        nonce=b64(CLEAN_ROOM_NONCE),
        platform_certificates=(vectors / "snp" / name / "chain.pem").read_text(),
    )
    verdict = verify_cvm_evidence(evidence, trust=amd, expectations=Expectations(), at=NOW, nonce=None)
    assert reasons(verdict.verdict) == ["TpmQuoteMalformed"]
    assert {check.id for check in verdict.verdict.checks if check.passed} >= {"report-data", "report-signature", "runtime-claims"}
    claims = (vectors / "cvm" / name / "runtime_claims.json").read_bytes()
    assert verdict.verdict.report is not None
    assert verdict.verdict.report.report_data == report_data_for(claims)


def test_a_debuggable_vm_is_rejected(machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore) -> None:
    """The claims of a VM are PCR values only, so a contract's policy cannot reject a debuggable one. The verifier must."""
    debuggable = machine.evidence(USER_DATA, policy=POLICY_CACI | 1 << 19)
    for evidence, reason in ((good, ""), (debuggable, "The evidence is not genuine: policy-debug.")):
        body = json.dumps({"platform": "snp-cvm", "attestation": json.loads(evidence.model_dump_json(by_alias=True))}).encode()
        attested = EvidenceVerifier(development).examine(body)
        assert attested is not None
        assert (attested.reason, attested.claims is None) == (reason, bool(reason))


def test_a_broken_link_is_rejected_with_its_reason(
    machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore, hardware: DevelopmentHardware
) -> None:
    blob = base64.b64decode(good.evidence.hcl_report)
    quote = base64.b64decode(good.evidence.tpm_quote)
    other = DevelopmentVirtualMachine(hardware)
    other_claims = other.hcl_report(other.claims(USER_DATA))
    swapped_claims = blob[:1236] + other_claims[1236:]
    cases = {
        "claims of another machine": (changed(good, hcl_report=b64(swapped_claims)), "ReportDataMismatch"),
        "report of another machine": (changed(good, snp_report=b64(other_claims[32:1216])), "HclReportMalformed"),
        "magic": (changed(good, hcl_report=b64(b"XXXX" + blob[4:])), "HclReportMalformed"),
        "short": (changed(good, hcl_report=b64(blob[:1240])), "HclReportMalformed"),
        "quote of another machine": (changed(good, tpm_quote=b64(other.quote(CLEAN_ROOM_NONCE))), "TpmQuoteSignatureInvalid"),
        "quote altered": (changed(good, tpm_quote=b64(quote[:-1] + bytes([quote[-1] ^ 1]))), "TpmQuoteSignatureInvalid"),
        "quote cut": (changed(good, tpm_quote=b64(quote[:-1])), "TpmQuoteMalformed"),
        "quote longer": (changed(good, tpm_quote=b64(quote + b"\0")), "TpmQuoteMalformed"),
        "quote absent": (changed(good, tpm_quote=""), "TpmQuoteMalformed"),
        "other nonce": (changed(good, tpm_quote=b64(machine.quote(b"stale"))), "NonceMismatch"),
        "no PCR selected": (changed(good, tpm_quote=b64(machine.quote(CLEAN_ROOM_NONCE, {}))), "PcrDigestMismatch"),
        "PCR altered": (changed(good, pcrs=dict(good.evidence.pcrs) | {"4": b64(bytes(32))}), "PcrDigestMismatch"),
        "PCR missing": (changed(good, pcrs={"0": good.evidence.pcrs["0"]}), "PcrDigestMismatch"),
        "PCR number": (changed(good, pcrs=dict(good.evidence.pcrs) | {"x": ""}), "PcrDigestMismatch"),
        "no certificates": (good.model_copy(update={"platform_certificates": ""}), "CertificateChainMalformed"),
    }
    for name, (evidence, reason) in cases.items():
        verdict = judge(evidence, development)
        assert reasons(verdict.verdict)[:1] == [reason], name
        assert not verdict.ok
        assert (verdict.pcrs, verdict.runtime_claims) == ({}, {})


@pytest.mark.parametrize(
    ("host_data", "fields", "reason"), [(b"\1" * 32, {}, "HostDataMismatch"), (bytes(32), {"vmpl": 2}, "VmplMismatch")]
)
def test_a_container_cannot_forge_vm_evidence(
    machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore, host_data: bytes, fields: dict[str, int], reason: str
) -> None:
    """A container can get a report for any bytes, so also for claims that name a key of the attacker as the TPM's."""
    blob = machine.hcl_report(machine.claims(USER_DATA), host_data, **fields)
    forged = changed(good, hcl_report=b64(blob), snp_report=b64(blob[32:1216]))
    verdict = verify_cvm_evidence(
        forged, trust=development, expectations=Expectations(vmpl=None), at=datetime.now(UTC), nonce=None, user_data=USER_DATA
    )
    assert reasons(verdict.verdict) == [reason]


def test_only_selected_pcrs_are_reported(machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore) -> None:
    few = {index: machine.pcrs[index] for index in (4, 7, 11)}
    verdict = judge(changed(good, tpm_quote=b64(machine.quote(CLEAN_ROOM_NONCE, few))), development)
    assert verdict.ok
    assert set(verdict.pcrs) == {4, 7, 11}


def test_user_data_must_match_the_callers_key(good: CvmEvidence, development: TrustStore) -> None:
    assert reasons(judge(good, development, user_data=report_data_for(b"another key")).verdict) == ["UserDataMismatch"]
    assert hashlib.sha256(b"-----BEGIN PUBLIC KEY-----").digest() == USER_DATA[:32]


def test_another_nonce_is_rejected(machine: DevelopmentVirtualMachine, development: TrustStore) -> None:
    evidence = machine.evidence(USER_DATA, nonce=b"fresh" * 4)
    assert judge(evidence, development, nonce=b"fresh" * 4).ok
    assert reasons(judge(evidence, development).verdict) == ["NonceMismatch"]


def test_a_nonce_that_is_not_base64_is_rejected(good: CvmEvidence, development: TrustStore) -> None:
    assert reasons(judge(good.model_copy(update={"nonce": "%"}), development, nonce=None).verdict) == ["NonceMismatch"]
    assert judge(good.model_copy(update={"nonce": "%"}), development).ok


@pytest.mark.parametrize("claims", [b"", b"{", b"[]", b'{"keys": []}', b'{"keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB"}]}'])
def test_claims_without_a_readable_attestation_key_are_rejected(
    machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore, claims: bytes
) -> None:
    blob = machine.hcl_report(claims)
    evidence = changed(good, hcl_report=b64(blob), snp_report=b64(blob[32:1216]))
    assert reasons(judge(evidence, development).verdict) == ["RuntimeClaimsMalformed"]


def test_a_duplicate_attestation_key_is_rejected(machine: DevelopmentVirtualMachine, good: CvmEvidence, development: TrustStore) -> None:
    claims = json.loads(machine.claims(USER_DATA))
    claims["keys"] *= 2
    blob = machine.hcl_report(json.dumps(claims).encode())
    evidence = changed(good, hcl_report=b64(blob), snp_report=b64(blob[32:1216]))
    assert reasons(judge(evidence, development).verdict) == ["RuntimeClaimsMalformed"]
