"""Checks on a verified report: guest policy, platform versions, and the bindings to data, workload and utility VM.

They require a report whose signature and certificates are already verified. Each expectation is one check, and all of them are made.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable

from cleanroom.attestation.chain import VerifiedChain
from cleanroom.attestation.checks import Checklist
from cleanroom.attestation.products import Tcb, decode_tcb, tcb_text
from cleanroom.attestation.reasons import AttestationRejected, Reason
from cleanroom.attestation.report import SnpReport
from cleanroom.attestation.trust import TrustStore
from cleanroom.attestation.uvm import UvmEndorsement
from cleanroom.attestation.verdict import Expectations
from cleanroom.snp_evidence import AttestationEvidence

_SHOWN = 200
"""Characters of an endorsement's texts that a check shows."""


def check_guest_policy(report: SnpReport, expectations: Expectations, checklist: Checklist) -> None:
    """Check the guest policy's bits and the privilege level (VMPL) of the report."""
    policy = report.policy
    checklist.record(
        "policy-reserved", policy.reserved_one, expected="bit 17 set", actual=f"{policy.value:#x}", reason=Reason.POLICY_RESERVED_BIT
    )
    checklist.record(
        "policy-debug",
        not policy.debug_allowed or expectations.allow_debug,
        expected="either" if expectations.allow_debug else "debugging not allowed",
        actual="debugging allowed" if policy.debug_allowed else "debugging not allowed",
        reason=Reason.DEBUG_ALLOWED,
        message="The guest's policy allows the host to debug it, so its memory is not confidential.",
    )
    checklist.record(
        "policy-migration",
        not policy.migration_allowed or expectations.allow_migration,
        expected="either" if expectations.allow_migration else "migration agent not allowed",
        actual="migration agent allowed" if policy.migration_allowed else "migration agent not allowed",
        reason=Reason.MIGRATION_ALLOWED,
    )
    if not expectations.allow_smt:
        checklist.record(
            "policy-smt",
            not policy.smt_allowed,
            expected="SMT not allowed",
            actual="SMT allowed" if policy.smt_allowed else "SMT not allowed",
            reason=Reason.SMT_ALLOWED,
        )
    if expectations.require_single_socket:
        checklist.record(
            "policy-single-socket",
            policy.single_socket_required,
            expected="single socket required",
            actual="required" if policy.single_socket_required else "not required",
            reason=Reason.SINGLE_SOCKET_NOT_REQUIRED,
        )
    if expectations.minimum_abi is not None:
        checklist.record(
            "policy-abi",
            policy.abi >= expectations.minimum_abi,
            expected="at least {}.{}".format(*expectations.minimum_abi),
            actual="{}.{}".format(*policy.abi),
            reason=Reason.ABI_TOO_OLD,
        )
    wanted = expectations.vmpl
    checklist.record(
        "vmpl",
        report.vmpl <= 3 if wanted is None else report.vmpl == wanted,
        expected="0 to 3" if wanted is None else str(wanted),
        actual="requested by the host" if report.vmpl == 0xFFFFFFFF else str(report.vmpl),
        reason=Reason.VMPL_MISMATCH,
    )


def check_platform(
    evidence: AttestationEvidence, report: SnpReport, chain: VerifiedChain, expectations: Expectations, checklist: Checklist
) -> None:
    """Check the versions of firmware and guest, and who signed the guest's identity."""
    if expectations.minimum_tcb is not None:
        minimum = expectations.minimum_tcb.get(chain.product)
        checklist.record(
            "minimum-tcb",
            minimum is not None and chain.tcb.covers(minimum),
            expected=f"at least {minimum.text(chain.product)}" if minimum else f"a minimum for {chain.product} (none is configured)",
            actual=chain.tcb.text(chain.product),
            reason=Reason.TCB_TOO_OLD,
        )
    if expectations.minimum_committed_tcb is not None:
        _check_committed_tcb(report, chain, expectations.minimum_committed_tcb.get(chain.product), checklist)
    if evidence.endorsed_tcb:
        checklist.record(
            "endorsed-tcb",
            evidence.endorsed_tcb.lower() == tcb_text(report.reported_tcb),
            expected=tcb_text(report.reported_tcb),
            actual=evidence.endorsed_tcb[:64],
            reason=Reason.ENDORSED_TCB_MISMATCH,
        )
    if expectations.minimum_guest_svn:
        checklist.record(
            "guest-svn",
            report.guest_svn >= expectations.minimum_guest_svn,
            expected=f"at least {expectations.minimum_guest_svn}",
            actual=str(report.guest_svn),
            reason=Reason.GUEST_SVN_TOO_OLD,
        )
    for check_id, allowed, value, reason in (
        ("id-key-digest", expectations.id_key_digests, report.id_key_digest, Reason.ID_KEY_DIGEST_MISMATCH),
        ("author-key-digest", expectations.author_key_digests, report.author_key_digest, Reason.AUTHOR_KEY_DIGEST_MISMATCH),
        ("family-id", expectations.family_ids, report.family_id, Reason.FAMILY_ID_MISMATCH),
        ("image-id", expectations.image_ids, report.image_id, Reason.IMAGE_ID_MISMATCH),
    ):
        _check_allowed(check_id, allowed, value, reason, checklist)


def _check_committed_tcb(report: SnpReport, chain: VerifiedChain, minimum: Tcb | None, checklist: Checklist) -> None:
    try:
        committed = decode_tcb(report.committed_tcb, chain.product)
    except AttestationRejected as error:
        checklist.reject("minimum-committed-tcb", error)
        return
    checklist.record(
        "minimum-committed-tcb",
        minimum is not None and committed.covers(minimum),
        expected=f"at least {minimum.text(chain.product)}" if minimum else f"a minimum for {chain.product} (none is configured)",
        actual=committed.text(chain.product),
        reason=Reason.TCB_TOO_OLD,
    )


def _check_allowed(check_id: str, allowed: frozenset[str] | None, value: bytes, reason: Reason, checklist: Checklist) -> None:
    if allowed is not None:
        checklist.record(check_id, value.hex() in allowed, expected=one_of(allowed), actual=value.hex(), reason=reason)


def one_of(values: Iterable[str]) -> str:
    """Return an allowlist as text."""
    return " or ".join(sorted(values)) or "nothing (the allowlist is empty)"


def check_bindings(report: SnpReport, expectations: Expectations, checklist: Checklist) -> None:
    """Check what the report is bound to: report data, host data and launch measurement."""
    if expectations.report_data is not None:
        checklist.record(
            "report-data",
            hmac.compare_digest(report.report_data, expectations.report_data),
            expected=expectations.report_data.hex(),
            actual=report.report_data.hex(),
            reason=Reason.REPORT_DATA_MISMATCH,
        )
    _check_allowed("host-data", expectations.host_data, report.host_data, Reason.HOST_DATA_MISMATCH, checklist)
    if expectations.refuse_host_data:
        checklist.record(
            "host-data-refused",
            report.host_data.hex() not in expectations.refuse_host_data,
            expected=f"not {one_of(expectations.refuse_host_data)}",
            actual=report.host_data.hex(),
            reason=Reason.HOST_DATA_REFUSED,
            message="The host data belongs to a rejected policy, such as the one that allows every container.",
        )
    _check_allowed("measurement", expectations.measurements, report.measurement, Reason.MEASUREMENT_MISMATCH, checklist)


def check_uvm(
    evidence: AttestationEvidence,
    report: SnpReport,
    trust: TrustStore,
    expectations: Expectations,
    checklist: Checklist,
    verify_endorsement: Callable[[str], UvmEndorsement],
) -> bool:
    """Check the utility-VM endorsement; return whether its issuer is a development one."""
    if not evidence.uvm_endorsements:
        if expectations.require_uvm:
            checklist.record("uvm-endorsement", False, expected="a utility-VM endorsement", actual="none", reason=Reason.UVM_MISSING)
        return False
    try:
        endorsement = verify_endorsement(evidence.uvm_endorsements)
    except AttestationRejected as error:
        checklist.reject("uvm-endorsement", error)
        return False
    checklist.record(
        "uvm-endorsement",
        True,
        expected="a COSE_Sign1 with a valid signature, chain and issuer identifier",
        actual=f"{endorsement.feed[:_SHOWN]} svn {endorsement.svn} ({endorsement.shape})",
        reason=Reason.UVM_MALFORMED,
    )
    row = trust.uvm_issuer(endorsement.issuer, endorsement.feed)
    checklist.record(
        "uvm-issuer",
        row is not None,
        expected=one_of(f"{each.feed} by {each.issuer}" for each in trust.uvm),
        actual=f"{endorsement.feed[:_SHOWN]} by {endorsement.issuer[:_SHOWN]}",
        reason=Reason.UVM_ISSUER_NOT_TRUSTED,
    )
    if row is not None:
        minimum = max(row.minimum_svn, expectations.minimum_uvm_svn or 0)
        checklist.record(
            "uvm-svn",
            endorsement.svn >= minimum,
            expected=f"at least {minimum}",
            actual=str(endorsement.svn),
            reason=Reason.UVM_SVN_TOO_OLD,
        )
    checklist.record(
        "uvm-measurement",
        hmac.compare_digest(endorsement.measurement, report.measurement),
        expected=endorsement.measurement.hex(),
        actual=report.measurement.hex(),
        reason=Reason.UVM_MEASUREMENT_MISMATCH,
    )
    return row is not None and row.development
