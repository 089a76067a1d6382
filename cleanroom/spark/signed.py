"""The Spark service's attestation report and signed pod policies, and their verification by the clean room.

The service creates one signing key per process. Its attestation report binds the key and the caller's nonce. The
key signs the pod policies together with the job and the nonce. The clean room verifies report, signature and nonce,
and then computes the policies itself, so it also detects an attested service that signs wrong policies.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from cleanroom.attestation import (
    ALLOW_ALL_HOST_DATA,
    Expectations,
    TrustStore,
    Verdict,
    report_data_for,
    verify_evidence,
)
from cleanroom.errors import Refused
from cleanroom.identifiers import canonical_json
from cleanroom.jose import jws
from cleanroom.models import FrozenModel
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service_report import ServiceReport

_TYPE = "cleanroom-pod-policies+jws"
MIN_NONCE = 22
"""Minimum length: 128 bits as base64url."""


class SignedPolicies(FrozenModel):
    """Pod policies with the service's signed statement.

    The statement is a compact JWS over ``{driver, executor, jobDigest, nonce, profileDigest}``, where ``driver``
    and ``executor`` are the host data of the roles.
    """

    policies: PodPolicies
    statement: str = Field(max_length=8192)


class VerifiedService(FrozenModel):
    """A Spark service whose report was verified: the key that verifies its later statements, and the evidence for that key."""

    public_key: str
    """PEM."""
    host_data: str
    nonce: str
    evidence_digest: str
    verified_at: datetime
    development: bool
    """Whether the verdict rests on a development root. Then nothing about this service is confidential."""


def require_nonce(nonce: str) -> str:
    """Return ``nonce`` if it has an acceptable length.

    Raises:
        Refused: ``NonceTooShort``.
    """
    if len(nonce) < MIN_NONCE or len(nonce) > 256:
        raise Refused("NonceTooShort", f"nonce: {len(nonce)} characters; a challenge must have {MIN_NONCE} to 256.")
    return nonce


class PolicySigner:
    """The service's signing key. It exists only in this process's memory, so a report vouches for exactly this process.

    Args:
        key: The EC P-256 key; by default a new one.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self.public_key = (
            self._key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode("ascii")
        )

    def payload(self, nonce: str) -> str:
        """Return the payload that a report for ``nonce`` binds.

        Raises:
            Refused: ``NonceTooShort``.
        """
        return canonical_json({"nonce": require_nonce(nonce), "servicePublicKey": self.public_key}).decode("utf-8")

    def sign(self, job: JobConfig, profile: PodProfile, policies: PodPolicies, nonce: str) -> SignedPolicies:
        """Sign a statement about a job's policies.

        Raises:
            Refused: ``NonceTooShort``.
        """
        content = canonical_json(_statement(job, profile, policies, require_nonce(nonce)))
        return SignedPolicies(policies=policies, statement=jws.sign({"typ": _TYPE}, content, self._key, "ES256"))


def verify_service_report(
    report: ServiceReport,
    nonce: str,
    trust: TrustStore,
    expected_host_data: Iterable[str],
    at: datetime,
    *,
    expectations: Expectations | None = None,
) -> tuple[VerifiedService, Verdict]:
    """Verify a service's report, from its hardware signature to the nonce.

    Args:
        report: The received report.
        nonce: The challenge of this call.
        trust: Roots and endorsement issuers.
        expected_host_data: Host data (hex) of the accepted services. An empty collection accepts no service.
        at: The time of verification, with a time zone.
        expectations: Further requirements (TCB, utility VM ...). Their host data and report data are replaced.

    Raises:
        Refused: With the reason of the first failed check (``HostDataMismatch`` ...), ``ServiceReportMalformed`` or
            ``NonceMismatch``.
    """
    demanded = (expectations or Expectations(require_uvm=True, refuse_host_data=ALLOW_ALL_HOST_DATA)).model_copy(
        update={
            "host_data": frozenset(value.lower() for value in expected_host_data),
            "report_data": report_data_for(report.payload.encode("utf-8")),
        }
    )
    verdict = verify_evidence(report.evidence, trust=trust, expectations=demanded, at=at)
    parsed = verdict.require()
    # The report's signature now proves that the payload comes from the guest.
    try:
        payload = json.loads(report.payload)
        found, key = payload["nonce"], payload["servicePublicKey"]
        if not (isinstance(found, str) and isinstance(key, str)):
            raise TypeError("members must be strings")
        _public_key(key)
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            "ServiceReportMalformed", "Spark service report: the payload is not {nonce, servicePublicKey}.", cause=str(error)
        ) from error
    _require_nonce_match(found, nonce, "Spark service report")
    service = VerifiedService(
        public_key=key,
        host_data=parsed.host_data.hex(),
        nonce=nonce,
        evidence_digest=report.evidence.digest(),
        verified_at=at,
        development=verdict.development,
    )
    return service, verdict


def verify_signed_policies(
    signed: SignedPolicies, service: VerifiedService, job: JobConfig, profile: PodProfile, nonce: str
) -> PodPolicies:
    """Verify that the attested service signed ``signed`` for ``job``, and that its policies equal those computed here.

    Args:
        signed: The received policies.
        service: The verified service.
        job: The job that the policies must be for.
        profile: The pod profile that the policies must be for.
        nonce: The challenge of this call.

    Returns:
        The policies as computed here.

    Raises:
        Refused: ``PolicySignatureInvalid`` (also after a restart of the service: attest it again), ``NonceMismatch``,
            ``PolicyJobMismatch`` (for another job or image), ``PodPolicyMismatch`` (not derived from the job).
    """
    statement = read_statement(signed.statement, service)
    expected_policies = pod_policies(job, profile)
    expected = _statement(job, profile, expected_policies, nonce)
    if set(statement) != set(expected):
        raise Refused("PolicySignatureInvalid", "pod policies: the service's statement does not have the expected members.")
    _require_nonce_match(str(statement["nonce"]), nonce, "pod policies")
    for member, what in (("jobDigest", "job"), ("profileDigest", "image and pod profile")):
        if statement[member] != expected[member]:
            raise Refused(
                "PolicyJobMismatch",
                f"pod policies: signed for another {what}.",
                details={"member": member, "expected": expected[member], "actual": statement[member]},
                party="operator",
            )
    differing = [
        role
        for role, ours, theirs in (
            ("driver", expected_policies.driver, signed.policies.driver),
            ("executor", expected_policies.executor, signed.policies.executor),
        )
        if ours.rego != theirs.rego or statement[role] != ours.host_data
    ]
    if differing:
        raise Refused(
            "PodPolicyMismatch",
            f"pod policies: the {' and '.join(differing)} policy does not follow from the job and the image.",
            hint="The Spark service and the clean room must have the same version and the same image settings.",
            party="operator",
            details={"expected": {"driver": expected["driver"], "executor": expected["executor"]}, "signed": statement},
        )
    return expected_policies


def read_statement(statement: str, service: VerifiedService) -> Any:
    """Verify the signature of the service's statement and return its content, which the caller must compare.

    Raises:
        Refused: ``PolicySignatureInvalid``.
    """
    try:
        parsed = jws.parse(statement, ["ES256"])
        jws.verify(parsed, _public_key(service.public_key))
        if parsed.header.get("typ") != _TYPE:
            raise ValueError(f"typ is not {_TYPE}")
        return parsed.payload
    except ValueError as error:
        raise Refused(
            "PolicySignatureInvalid",
            "pod policies: not signed by the key that the Spark service's report binds.",
            cause=f"{type(error).__name__}: {error}",
            hint="The service may have restarted since its report. Attest it again, then request the policies again.",
        ) from error


def _statement(job: JobConfig, profile: PodProfile, policies: PodPolicies, nonce: str) -> dict[str, str]:
    return {
        "driver": policies.driver.host_data,
        "executor": policies.executor.host_data,
        "jobDigest": job.digest(),
        "nonce": nonce,
        "profileDigest": profile.digest(),
    }


def _require_nonce_match(found: str, wanted: str, what: str) -> None:
    if not hmac.compare_digest(found.encode(), require_nonce(wanted).encode()):
        raise Refused("NonceMismatch", f"{what}: answers another nonce; it may be a replay.")


def _public_key(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode("utf-8"))
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the key type is not supported: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key is not EC P-256")
    return key
