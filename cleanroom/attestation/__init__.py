"""Attestation: parse and verify AMD SEV-SNP evidence, and request it from the guest's sidecar.

Call :func:`verify_evidence` with a :class:`TrustStore` (the trusted issuers) and :class:`Expectations` (what must hold); the result is a
:class:`Verdict`. The formats and rules, with their sources, are in ``docs/facts/attestation.md``.
"""

from cleanroom.attestation.chain import LeafKind
from cleanroom.attestation.checks import Check
from cleanroom.attestation.cvm import CvmEvidence, CvmVerdict, verify_cvm_evidence
from cleanroom.attestation.evidence import ALLOW_ALL_HOST_DATA, host_data_for, report_data_for
from cleanroom.attestation.guest import GuestAttestor
from cleanroom.attestation.products import Product, Tcb
from cleanroom.attestation.reasons import AttestationRejected, Reason
from cleanroom.attestation.report import GuestPolicy, SnpReport, parse_report
from cleanroom.attestation.trust import ACI_UVM, AKS_UVM, TrustedRoot, TrustStore, UvmIssuer
from cleanroom.attestation.verdict import Expectations, Verdict
from cleanroom.attestation.verify import Verifier, verify_evidence
from cleanroom.snp_evidence import AttestationEvidence

__all__ = [
    "ACI_UVM",
    "AKS_UVM",
    "ALLOW_ALL_HOST_DATA",
    "AttestationEvidence",
    "AttestationRejected",
    "Check",
    "CvmEvidence",
    "CvmVerdict",
    "Expectations",
    "GuestAttestor",
    "GuestPolicy",
    "LeafKind",
    "Product",
    "Reason",
    "SnpReport",
    "Tcb",
    "TrustStore",
    "TrustedRoot",
    "UvmIssuer",
    "Verdict",
    "Verifier",
    "host_data_for",
    "parse_report",
    "report_data_for",
    "verify_cvm_evidence",
    "verify_evidence",
]
