"""Evidence of an Azure confidential VM.

The SNP report binds the paravisor's runtime claims. The claims hold the virtual TPM's attestation key, and that key signs a quote. The
claim ``user-data`` binds the caller's key, the quote's nonce proves freshness, and its PCR values identify the software. Source: the
``snp-cvm`` platform of the governance service and the HCL report blob; see ``docs/facts/attestation.md#confidential-vms``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import BaseModel, ConfigDict, Field

from cleanroom.attestation.checks import Checklist, Stop
from cleanroom.attestation.evidence import REPORT_DATA_SIZE, decode_base64, report_data_for
from cleanroom.attestation.reasons import AttestationRejected, Reason, rejecting
from cleanroom.attestation.report import REPORT_SIZE
from cleanroom.attestation.tpm import PCR_COUNT, Quote, parse_quote, pcr_digest_of, quote_signed_by
from cleanroom.attestation.trust import TrustStore
from cleanroom.attestation.verdict import Expectations, Verdict
from cleanroom.attestation.verify import verify_evidence
from cleanroom.jose.encoding import b64url_strict
from cleanroom.snp_evidence import AttestationEvidence

_MAGIC: Final = b"HCLA"
_HEADER: Final = 32
_CLAIMS: Final = _HEADER + REPORT_SIZE + 20
_REPORT_TYPE_SNP: Final = 2
_AK_KID: Final = "HCLAkPub"

_NO_HOST_DATA: Final = frozenset({bytes(32).hex()})

CLEAN_ROOM_NONCE: Final = hashlib.sha256(b"azure-cleanroom").digest()
"""The nonce of the clean-room samples. It is constant, so it does not prove freshness."""


class CvmParts(BaseModel):
    """Member ``evidence`` of a CVM attestation; all values base64."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    tpm_quote: Annotated[str, Field(alias="tpmQuote")]
    hcl_report: Annotated[str, Field(alias="hclReport")]
    snp_report: Annotated[str, Field(alias="snpReport")]
    aik_certificate: Annotated[str | None, Field(alias="aikCert")] = None
    pcrs: Mapping[str, str]
    """PCR index (decimal text) to value."""


class CvmEvidence(BaseModel):
    """The wire shape of an ``snp-cvm`` attestation."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    evidence: CvmParts
    nonce: str
    platform_certificates: Annotated[str, Field(alias="platformCertificates")]
    """PEM text of leaf, ASK and ARK, or its base64."""


class CvmVerdict(BaseModel):
    """The verdict on CVM evidence, with its contents. ``pcrs`` and ``runtime_claims`` are empty unless ``ok``."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    pcrs: Mapping[int, str]
    """PCR index to lower-case hex."""
    runtime_claims: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return self.verdict.ok


def verify_cvm_evidence(
    evidence: CvmEvidence,
    *,
    trust: TrustStore,
    expectations: Expectations,
    at: datetime,
    nonce: bytes | None,
    user_data: bytes | None = None,
) -> CvmVerdict:
    """Verify the evidence of an Azure confidential VM.

    Args:
        evidence: As received.
        trust: The trusted roots.
        expectations: What must hold for the SNP report. Three members are overridden: ``report_data`` is the digest of the runtime
            claims, ``vmpl`` is the paravisor's 0, and ``host_data`` is zero unless other values are given.
        at: The instant, with a time zone.
        nonce: What the quote must carry. None accepts the nonce that the evidence states, which does not prove freshness.
        user_data: The 64 bytes that the runtime claim ``user-data`` must hold, such as ``report_data_for(public_key_pem)``. None
            accepts any value.

    Returns:
        A verdict with the checks of the report, then those of claims and quote. Bad evidence never raises.
    """
    checklist = Checklist()
    verdict: Verdict | None = None
    claims: dict[str, Any] = {}
    pcrs: dict[int, bytes] = {}
    try:
        claims_text = checklist.run(
            "hcl-report",
            lambda: _split_hcl_report(evidence.evidence),
            expected="an HCL report blob that holds the same SNP report",
            show=lambda found: f"{len(found)} bytes of runtime claims",
        )
        verdict = _verify_report(_report_evidence(evidence), claims_text, trust, expectations, at)
        checklist.checks += verdict.checks
        checklist.stop_if_failed()
        claims, attestation_key = checklist.run(
            "runtime-claims",
            lambda: _read_claims(claims_text),
            expected=f"JSON with the attestation key {_AK_KID}",
            show=lambda found: f"RSA-{found[1].key_size} {_AK_KID}",
        )
        pcrs = _check_quote(evidence, attestation_key, nonce, checklist)
        _check_user_data(claims, user_data, checklist)
    except Stop:
        pass
    return _verdict(evidence, verdict, checklist, at, pcrs, claims)


def _report_evidence(evidence: CvmEvidence) -> AttestationEvidence:
    return AttestationEvidence(evidence=evidence.evidence.snp_report, endorsements=evidence.platform_certificates)


def _verify_report(evidence: AttestationEvidence, claims: bytes, trust: TrustStore, expectations: Expectations, at: datetime) -> Verdict:
    # Any other guest, such as a confidential container, can put the digest of forged claims into its own report. But it cannot get a
    # report with the paravisor's privilege level and without host data.
    host_data = _NO_HOST_DATA if expectations.host_data is None else expectations.host_data
    bound = expectations.model_copy(update={"report_data": report_data_for(claims), "vmpl": 0, "host_data": host_data})
    return verify_evidence(evidence, trust=trust, expectations=bound, at=at)


def _check_quote(evidence: CvmEvidence, key: rsa.RSAPublicKey, nonce: bytes | None, checklist: Checklist) -> dict[int, bytes]:
    """Check signature, nonce and PCR values of the quote; return the values that it covers."""
    parts = evidence.evidence
    quote = checklist.run(
        "tpm-quote",
        lambda: parse_quote(decode_base64(parts.tpm_quote, Reason.TPM_QUOTE_MALFORMED, "TPM quote")),
        expected="a quote of the SHA-256 bank",
        show=lambda found: f"PCRs {list(found.selected)}",
    )
    verifies = quote_signed_by(quote, key)
    checklist.require(
        "tpm-quote-signature",
        verifies,
        expected=f"a signature of {_AK_KID}",
        actual="verifies" if verifies else "does not verify",
        reason=Reason.TPM_QUOTE_SIGNATURE_INVALID,
    )
    _check_nonce(evidence, quote, nonce, checklist)
    return checklist.run(
        "pcr-digest",
        lambda: _verified_pcrs(parts, quote),
        expected=quote.pcr_digest.hex(),
        show=lambda _: quote.pcr_digest.hex(),
    )


def _verdict(
    evidence: CvmEvidence, verdict: Verdict | None, checklist: Checklist, at: datetime, pcrs: dict[int, bytes], claims: dict[str, Any]
) -> CvmVerdict:
    base = verdict or Verdict(ok=False, product=None, version=None, checks=(), at=at, evidence=_report_evidence(evidence))
    combined = base.model_copy(update={"ok": checklist.ok, "checks": tuple(checklist.checks)})
    shown = {index: value.hex() for index, value in pcrs.items()} if combined.ok else {}
    return CvmVerdict.model_construct(verdict=combined, pcrs=shown, runtime_claims=claims if combined.ok else {})


def _split_hcl_report(parts: CvmParts) -> bytes:
    """Return the JSON bytes of the runtime claims, after both copies of the SNP report were compared."""
    blob = decode_base64(parts.hcl_report, Reason.HCL_REPORT_MALFORMED, "HCL report")
    stated = decode_base64(parts.snp_report, Reason.REPORT_MALFORMED, "SNP report")
    with rejecting(Reason.HCL_REPORT_MALFORMED, "HCL report"):
        if blob[:4] != _MAGIC:
            raise ValueError("not an HCL report")
        report = blob[_HEADER : _HEADER + REPORT_SIZE]
        runtime = blob[_HEADER + REPORT_SIZE : _CLAIMS]
        report_type, claim_size = int.from_bytes(runtime[8:12], "little"), int.from_bytes(runtime[16:], "little")
        claims = blob[_CLAIMS : _CLAIMS + claim_size]
        if len(claims) != claim_size or report_type != _REPORT_TYPE_SNP:
            raise ValueError("not an SNP report with its claims")
    if report != stated:
        raise AttestationRejected(
            Reason.HCL_REPORT_MALFORMED,
            "The SNP report inside the HCL report differs from the one in the member snpReport.",
            expected=hashlib.sha256(report).hexdigest(),
            actual=hashlib.sha256(stated).hexdigest(),
        )
    return claims


def _read_claims(text: bytes) -> tuple[dict[str, Any], rsa.RSAPublicKey]:
    with rejecting(Reason.RUNTIME_CLAIMS_MALFORMED, "runtime claims"):
        claims = json.loads(text)
        keys = [key for key in claims["keys"] if key["kid"] == _AK_KID and key["kty"] == "RSA"]
        if len(keys) != 1:
            raise ValueError("not exactly one attestation key")
        exponent, modulus = (int.from_bytes(b64url_strict(keys[0][name]), "big") for name in ("e", "n"))
        return dict(claims), rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _check_nonce(evidence: CvmEvidence, quote: Quote, nonce: bytes | None, checklist: Checklist) -> None:
    wanted = nonce
    if wanted is None:
        wanted = checklist.run(
            "nonce-encoding",
            lambda: decode_base64(evidence.nonce, Reason.NONCE_MISMATCH, "nonce"),
            expected="base64",
            show=lambda found: f"{len(found)} bytes",
        )
    checklist.require(
        "nonce",
        hmac.compare_digest(quote.extra_data, wanted),
        expected=wanted.hex(),
        actual=quote.extra_data.hex(),
        reason=Reason.NONCE_MISMATCH,
    )


def _verified_pcrs(parts: CvmParts, quote: Quote) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    with rejecting(Reason.PCR_DIGEST_MISMATCH, "PCR value"):
        for name, text in parts.pcrs.items():
            index = int(name)
            if not 0 <= index < PCR_COUNT:
                raise ValueError("not a PCR index")
            values[index] = decode_base64(text, Reason.PCR_DIGEST_MISMATCH, "PCR value")
    digest = pcr_digest_of(quote, values)
    if not hmac.compare_digest(digest, quote.pcr_digest):
        raise AttestationRejected(
            Reason.PCR_DIGEST_MISMATCH,
            "The PCR values do not match the digest that the quote covers.",
            expected=quote.pcr_digest.hex(),
            actual=digest.hex(),
        )
    return {index: values[index] for index in quote.selected}


def _check_user_data(claims: Mapping[str, Any], user_data: bytes | None, checklist: Checklist) -> None:
    if user_data is None:
        return
    value = claims.get("user-data")
    # Platform versions differ: some write upper-case hex, some lower-case.
    actual = value.lower() if isinstance(value, str) else ""
    checklist.require(
        "user-data",
        len(user_data) == REPORT_DATA_SIZE and actual == user_data.hex(),
        expected=user_data.hex(),
        actual=actual[:256] or "absent",
        reason=Reason.USER_DATA_MISMATCH,
    )
