"""Verification of SEV-SNP evidence: report, certificates, guest policy, bindings and utility-VM endorsement, as one list of checks.

A failure in the structure (A), the certificate chain (B) or the comparison of report and certificate (C) ends the verdict, because nothing
after it can be trusted. The checks of guest policy (D) and bindings (E, :mod:`cleanroom.attestation.report_checks`) are all made, so the
verdict shows every problem. Malformed input leads to a failed verdict, never to an exception.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cleanroom.attestation.cache import VerifiedCache
from cleanroom.attestation.chain import ExaminedChain, LeafKind, VerifiedChain, examine_chain, format_instant
from cleanroom.attestation.checks import Checklist, Stop
from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.attestation.evidence import decode_base64
from cleanroom.attestation.models import construct_unvalidated
from cleanroom.attestation.products import Product, decode_tcb, product_from_cpuid, tcb_text
from cleanroom.attestation.reasons import AttestationRejected, Reason
from cleanroom.attestation.report import (
    REPORT_SIZE,
    SIGNATURE_ALGORITHM_ECDSA_P384_SHA384,
    SIGNING_KEY_VCEK,
    SIGNING_KEY_VLEK,
    SnpReport,
    parse_report,
)
from cleanroom.attestation.report_checks import check_bindings, check_guest_policy, check_platform, check_uvm, one_of
from cleanroom.attestation.revocation import check_revocation
from cleanroom.attestation.trust import TrustStore
from cleanroom.attestation.uvm import UvmEndorsement, verify_endorsement
from cleanroom.attestation.verdict import Expectations, Verdict
from cleanroom.errors import InvalidInput
from cleanroom.snp_evidence import AttestationEvidence

_ECDSA: Final = ec.ECDSA(hashes.SHA384())
_SCALAR: Final = 48
"""Bytes of a P-384 scalar. The report stores each in 72 bytes, of which the upper 24 must be zero."""


class Verifier:
    """Verifies evidence against one trust store, and caches the certificate chains and endorsements that it verified.

    Args:
        trust: The roots and endorsement issuers.
    """

    def __init__(self, trust: TrustStore) -> None:
        self.trust = trust
        self._links: VerifiedCache[bool] = VerifiedCache(64)
        self._chains: VerifiedCache[ExaminedChain] = VerifiedCache(256)
        self._endorsements: VerifiedCache[UvmEndorsement] = VerifiedCache(64)

    def verify(self, evidence: AttestationEvidence, *, expectations: Expectations, at: datetime) -> Verdict:
        """Verify evidence for one instant; see :func:`verify_evidence`."""
        if at.tzinfo is None:
            raise InvalidInput(
                "InstantWithoutTimeZone", f"The instant {at.isoformat()} has no time zone.", hint="Pass a datetime with a time zone."
            )
        at = at.astimezone(UTC)
        checklist = Checklist()
        report: SnpReport | None = None
        chain: VerifiedChain | None = None
        product: Product | None = None
        version: int | None = None
        development = False
        try:
            raw = checklist.run(
                "report-encoding",
                lambda: decode_base64(evidence.evidence, Reason.REPORT_MALFORMED, "report"),
                expected="base64",
                show=lambda data: f"{len(data)} bytes",
            )
            version = int.from_bytes(raw[:4], "little") if len(raw) == REPORT_SIZE else None
            report = _read_report(raw, checklist)
            product = _stated_product(report)
            _check_structure(report, expectations, checklist)
            chain = self._check_chain(evidence, checklist)
            product, development = product or chain.product, chain.root.development
            _check_certificates_now(chain, report, expectations, at, checklist)
            _check_report_against_leaf(report, chain, expectations, checklist)
            check_guest_policy(report, expectations, checklist)
            check_platform(evidence, report, chain, expectations, checklist)
            check_bindings(report, expectations, checklist)
            development |= check_uvm(evidence, report, self.trust, expectations, checklist, self._endorsement)
        except Stop:
            pass
        return construct_unvalidated(
            Verdict,
            ok=checklist.ok,
            product=product,
            version=version,
            checks=tuple(checklist.checks),
            at=at,
            evidence=evidence,
            report=report,
            leaf=chain.kind if chain else None,
            development=development,
        )

    def _check_chain(self, evidence: AttestationEvidence, checklist: Checklist) -> VerifiedChain:
        text = evidence.endorsements.encode("utf-8", "replace")
        key = hashlib.sha256(text).digest()
        examined = self._chains.get(key)
        if examined is None:
            examination = Checklist()
            try:
                chain = examine_chain(read_endorsements(text), self.trust, examination, self._links)
            except AttestationRejected as error:
                examination.reject("chain-format", error)
                checklist.checks += examination.checks
                raise Stop from error
            except Stop:
                checklist.checks += examination.checks
                raise
            examined = ExaminedChain(tuple(examination.checks), chain)
            self._chains.put(key, examined)
        checklist.checks += examined.checks
        return examined.chain

    def _endorsement(self, text: str) -> UvmEndorsement:
        key = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        endorsement = self._endorsements.get(key)
        if endorsement is None:
            endorsement = verify_endorsement(decode_base64(text, Reason.UVM_MALFORMED, "utility-VM endorsement"))
            self._endorsements.put(key, endorsement)
        return endorsement


@lru_cache(maxsize=16)
def _verifier_of(trust: TrustStore) -> Verifier:
    return Verifier(trust)


def verify_evidence(evidence: AttestationEvidence, *, trust: TrustStore, expectations: Expectations, at: datetime) -> Verdict:
    """Verify evidence for one instant, with this process's :class:`Verifier` for ``trust``.

    Args:
        evidence: The report with its endorsements, as received.
        trust: The roots and endorsement issuers.
        expectations: What must hold beyond the cryptography.
        at: For certificate validity and revocation, with a time zone. A caller that replays history passes the recorded instant.

    Returns:
        A verdict. Bad evidence gives one that is not ``ok``; it never raises.

    Raises:
        InvalidInput: ``InstantWithoutTimeZone``: a bug of the caller.
    """
    return _verifier_of(trust).verify(evidence, expectations=expectations, at=at)


# A. Structure


def _read_report(raw: bytes, checklist: Checklist) -> SnpReport:
    try:
        report = parse_report(raw)
    except AttestationRejected as error:
        checklist.reject("report-version" if error.reason is Reason.REPORT_VERSION_UNSUPPORTED else "report-format", error)
        raise Stop from error
    checklist.record("report-format", True, expected="1184 bytes", actual="1184 bytes", reason=Reason.REPORT_MALFORMED)
    return report


def _stated_product(report: SnpReport) -> Product | None:
    """Return the product that an unverified report states, to be shown in a verdict that fails early."""
    if report.cpuid is None:
        return None
    try:
        return product_from_cpuid(*report.cpuid[:2])
    except AttestationRejected:
        return None


def _check_structure(report: SnpReport, expectations: Expectations, checklist: Checklist) -> None:
    minimum = expectations.minimum_report_version
    checklist.require(
        "report-version",
        report.version >= minimum,
        expected=f"{max(minimum, 2)} to 5",
        actual=str(report.version),
        reason=Reason.REPORT_VERSION_UNSUPPORTED,
    )
    checklist.require(
        "signature-algorithm",
        report.signature_algorithm == SIGNATURE_ALGORITHM_ECDSA_P384_SHA384,
        expected="1 (ECDSA P-384 with SHA-384)",
        actual=str(report.signature_algorithm),
        reason=Reason.SIGNATURE_ALGORITHM_UNSUPPORTED,
    )
    accepted = {SIGNING_KEY_VCEK} | ({SIGNING_KEY_VLEK} if expectations.allow_vlek else set())
    checklist.require(
        "signing-key",
        report.signing_key in accepted,
        expected="VCEK or VLEK" if expectations.allow_vlek else "VCEK",
        actual=report.signing_key_name,
        reason=Reason.SIGNING_KEY_UNSUPPORTED,
    )
    unused = report.signature_r[_SCALAR:] + report.signature_s[_SCALAR:] + report.signature_rest
    zero = unused == bytes(len(unused))
    checklist.require(
        "signature-encoding",
        zero,
        expected="zero in the unused bytes of the signature block",
        actual="zero" if zero else "non-zero bytes",
        reason=Reason.SIGNATURE_ENCODING_INVALID,
    )


# B. Certificate chain


def _check_certificates_now(
    chain: VerifiedChain, report: SnpReport, expectations: Expectations, at: datetime, checklist: Checklist
) -> None:
    """Check the kind of leaf, validity and revocation of a verified chain for this report and instant."""
    stated = LeafKind.VLEK if report.signing_key == SIGNING_KEY_VLEK else LeafKind.VCEK
    checklist.record(
        "leaf-kind",
        chain.kind is stated,
        expected=f"{stated}, the report's signing key",
        actual=str(chain.kind),
        reason=Reason.LEAF_KIND_MISMATCH,
    )
    validity = chain.validity
    checklist.record(
        "certificate-validity",
        validity.not_before <= at <= validity.not_after,
        expected=validity.text,
        actual=format_instant(at),
        reason=Reason.CERTIFICATE_NOT_YET_VALID if at < validity.not_before else Reason.CERTIFICATE_EXPIRED,
    )
    if expectations.crls or expectations.require_crl:
        checklist.run(
            "revocation",
            lambda: check_revocation(chain, expectations.crls, at, accept_stale=expectations.accept_stale_crl),
            expected="not on a current revocation list of the root",
            show=str,
        )
    checklist.stop_if_failed()


# C. Report against certificate


def _check_report_against_leaf(report: SnpReport, chain: VerifiedChain, expectations: Expectations, checklist: Checklist) -> None:
    verifies = _signature_verifies(report, chain.public_key)
    checklist.record(
        "report-signature",
        verifies,
        expected=f"a signature of the {chain.kind} certificate's key",
        actual="verifies" if verifies else "does not verify",
        reason=Reason.REPORT_SIGNATURE_INVALID,
        message="The leaf certificate's key did not sign the report: one was altered, or the certificate is of another chip or TCB.",
    )
    if _check_product(report, chain, checklist):  # it determines the TCB's layout and the chip ID's length
        _check_tcb(report, chain, checklist)
        if chain.kind is LeafKind.VCEK:
            _check_chip(report, chain, checklist)
        else:
            _check_provider(report, chain, expectations, checklist)
    checklist.stop_if_failed()


def _signature_verifies(report: SnpReport, key: ec.EllipticCurvePublicKey) -> bool:
    r = int.from_bytes(report.signature_r, "little")
    s = int.from_bytes(report.signature_s, "little")
    try:
        key.verify(encode_dss_signature(r, s), report.signed, _ECDSA)
    except (InvalidSignature, ValueError):
        return False
    return True


def _check_product(report: SnpReport, chain: VerifiedChain, checklist: Checklist) -> bool:
    actual, passed = f"{chain.product} (version 2 does not state it)", True
    if report.cpuid is not None:
        try:
            stated = product_from_cpuid(*report.cpuid[:2])
        except AttestationRejected as error:
            checklist.reject("product", error)
            return False
        actual, passed = str(stated), stated is chain.product
    expected = f"{chain.product}, the root's product"
    return checklist.record("product", passed, expected=expected, actual=actual, reason=Reason.PRODUCT_MISMATCH)


def _check_tcb(report: SnpReport, chain: VerifiedChain, checklist: Checklist) -> None:
    expected = f"{chain.tcb_text}, the certificate's TCB"
    if report.reported_tcb == chain.tcb_raw:
        checklist.record("reported-tcb", True, expected=expected, actual=chain.tcb_text, reason=Reason.TCB_MISMATCH)
        return
    try:
        reported = decode_tcb(report.reported_tcb, chain.product).text(chain.product)
    except AttestationRejected as error:
        checklist.reject("reported-tcb", error)
        return
    checklist.record(
        "reported-tcb",
        False,
        expected=expected,
        actual=reported,
        reason=Reason.TCB_MISMATCH,
        message=f"The report's TCB {reported} is not the certificate's {chain.tcb_text}; "
        f"fetch the certificate of TCB {tcb_text(report.reported_tcb)}.",
    )


def _check_chip(report: SnpReport, chain: VerifiedChain, checklist: Checklist) -> None:
    checklist.record(
        "chip-key",
        not report.chip_key_masked,
        expected="not masked",
        actual="masked" if report.chip_key_masked else "not masked",
        reason=Reason.CHIP_KEY_MASKED,
    )
    hw_id = chain.hw_id or b""
    # Show all 64 bytes if the unused ones differ.
    length = chain.product.chip_id_length if not any(report.chip_id[chain.product.chip_id_length :]) else len(report.chip_id)
    checklist.record(
        "chip-id",
        any(report.chip_id) and report.chip_id == hw_id.ljust(64, b"\0"),
        expected=hw_id.hex() if any(hw_id) else "a chip ID that is not zero",
        actual=report.chip_id[:length].hex(),
        reason=Reason.CHIP_ID_MISMATCH,
        message="The report's chip ID is not the certificate's hwID: report and certificate come from different chips.",
    )


def _check_provider(report: SnpReport, chain: VerifiedChain, expectations: Expectations, checklist: Checklist) -> None:
    checklist.record(
        "chip-id",
        not any(report.chip_id),
        expected="zero, as with every VLEK",
        actual="zero" if not any(report.chip_id) else report.chip_id.hex(),
        reason=Reason.CHIP_ID_MISMATCH,
    )
    allowed = expectations.csp_ids
    checklist.record(
        "cloud-provider",
        allowed is None or chain.csp_id in allowed,
        expected="any" if allowed is None else one_of(allowed),
        actual=str(chain.csp_id),
        reason=Reason.CLOUD_PROVIDER_NOT_ALLOWED,
    )
