"""The Spark service's report and signed policies: each member counts, and each forgery is refused for its own reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cleanroom.attestation import ALLOW_ALL_HOST_DATA, Expectations, TrustStore, report_data_for
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import canonical_json
from cleanroom.jose import jws
from cleanroom.spark.policy import PodPolicies, PodPolicy, pod_policies
from cleanroom.spark.signed import (
    PolicySigner,
    ServiceReport,
    SignedPolicies,
    VerifiedService,
    read_statement,
    verify_service_report,
    verify_signed_policies,
)
from localcloud.standins.snp.server import DevelopmentHardware
from tests.shared_keys import rsa_key, shared_hardware
from tests.unit.spark_support import make_job, make_profile

KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = PolicySigner(KEY)
NONCE, OTHER_NONCE = "n" * 43, "m" * 43
HOST = "ab" * 32
JOB, PROFILE = make_job(), make_profile()
NOW = datetime.now(UTC)
POLICIES = pod_policies(JOB, PROFILE)
TYPE = "cleanroom-pod-policies+jws"
PUBLIC_ONLY = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def service_of(key: Any = KEY) -> VerifiedService:
    return VerifiedService(
        public_key=key.public_key().public_bytes(*PUBLIC_ONLY).decode(),
        host_data=HOST,
        nonce=NONCE,
        evidence_digest="0" * 64,
        verified_at=NOW,
        development=True,
    )


def content(**changes: Any) -> dict[str, Any]:
    signed = SIGNER.sign(JOB, PROFILE, POLICIES, NONCE)
    found: dict[str, Any] = read_statement(signed.statement, service_of())
    return {key: value for key, value in (found | changes).items() if value is not None}


def signed_by(key: Any = KEY, typ: str = TYPE, **changes: Any) -> str:
    return jws.sign({"typ": typ}, canonical_json(content(**changes)), key, "ES256")


def code_of(statement: str, nonce: str = NONCE, **changes: Any) -> str:
    policies = changes.pop("policies", POLICIES)
    try:
        verify_signed_policies(SignedPolicies(policies=policies, statement=statement), service_of(), JOB, PROFILE, nonce)
    except CleanRoomError as error:
        return error.code
    return "accepted"


def with_algorithm(algorithm: str) -> str:
    """The genuine statement with another ``alg``, signed by the genuine key, so that only the algorithm is wrong."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": TYPE}).encode()).rstrip(b"=").decode()
    body = signed_by().split(".")[1]
    genuine = jws.sign({"typ": TYPE}, canonical_json(content()), KEY, "ES256").split(".")[2]
    return f"{header}.{body}.{genuine}"


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES384", "RS256", ""])
def test_statement_with_another_algorithm_is_refused_because_of_the_algorithm(algorithm: str) -> None:
    with pytest.raises(CleanRoomError) as caught:
        read_statement(with_algorithm(algorithm), service_of())
    assert caught.value.code == "PolicySignatureInvalid"
    assert "alg" in str(caught.value.cause)


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (lambda: signed_by(), "accepted"),
        (lambda: signed_by(key=OTHER_KEY), "PolicySignatureInvalid"),
        (lambda: signed_by(typ="another+jws"), "PolicySignatureInvalid"),
        (lambda: signed_by(driver=None), "PolicySignatureInvalid"),
        (lambda: signed_by(extra="member"), "PolicySignatureInvalid"),
        (lambda: signed_by(nonce=OTHER_NONCE), "NonceMismatch"),
        (lambda: signed_by(jobDigest="0" * 64), "PolicyJobMismatch"),
        (lambda: signed_by(profileDigest="0" * 64), "PolicyJobMismatch"),
        (lambda: signed_by(driver="0" * 64), "PodPolicyMismatch"),
        (lambda: signed_by(executor="0" * 64), "PodPolicyMismatch"),
        (lambda: jws.sign({"typ": TYPE}, b'["list"]', KEY, "ES256"), "PolicySignatureInvalid"),
        (lambda: "a.b.c", "PolicySignatureInvalid"),
    ],
)
def test_every_member_of_the_statement_counts(statement: Callable[[], str], code: str) -> None:
    assert code_of(statement()) == code


def test_signer_uses_the_given_key_or_one_of_its_own() -> None:
    assert PolicySigner(KEY).public_key == pem(KEY)
    assert len({PolicySigner().public_key for _ in range(2)} | {pem(KEY)}) == 3


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_policy_text_of_every_role_counts(role: str) -> None:
    changed = getattr(POLICIES, role).model_copy(update={"rego": "package policy\n"})
    assert code_of(signed_by(), policies=POLICIES.model_copy(update={role: changed})) == "PodPolicyMismatch"


def test_attested_service_that_signs_wrong_policies_is_refused() -> None:
    wide = PodPolicy.of(POLICIES.driver.rego.replace("allow_runtime_logging := false", "allow_runtime_logging := true"))
    for wrong, roles in (
        (PodPolicies(driver=wide, executor=POLICIES.executor), "driver policy"),
        (PodPolicies(driver=POLICIES.driver, executor=wide), "executor policy"),
        (PodPolicies(driver=POLICIES.executor, executor=POLICIES.driver), "driver and executor policy"),
    ):
        signed = SIGNER.sign(JOB, PROFILE, wrong, NONCE)
        with pytest.raises(CleanRoomError, match=f"the {roles} does not follow") as caught:
            verify_signed_policies(signed, service_of(), JOB, PROFILE, NONCE)
        assert (caught.value.code, caught.value.party) == ("PodPolicyMismatch", "operator")
        expected = {"driver": POLICIES.driver.host_data, "executor": POLICIES.executor.host_data}
        assert caught.value.details == {"expected": expected, "signed": read_statement(signed.statement, service_of())}


@pytest.mark.parametrize(
    ("job", "profile", "member"),
    [
        (make_job("run-2"), PROFILE, "jobDigest"),
        (JOB, make_profile(f"registry.example/app@sha256:{'3' * 64}"), "profileDigest"),
    ],
)
def test_genuine_policies_of_another_job_or_image_are_refused(job: Any, profile: Any, member: str) -> None:
    signed = SIGNER.sign(JOB, PROFILE, POLICIES, NONCE)
    with pytest.raises(CleanRoomError) as caught:
        verify_signed_policies(signed, service_of(), job, profile, NONCE)
    assert (caught.value.code, caught.value.details["member"]) == ("PolicyJobMismatch", member)
    assert caught.value.details["expected"] != caught.value.details["actual"]
    assert verify_signed_policies(signed, service_of(), JOB, PROFILE, NONCE) == POLICIES


def test_challenge_that_is_too_short_verifies_nothing(hardware: DevelopmentHardware) -> None:
    assert code_of(signed_by(nonce="short"), nonce="short") == "NonceTooShort"
    assert judge(hardware, payload(nonce="short"), nonce="short") == "NonceTooShort"


@pytest.mark.parametrize(("length", "accepted"), [(21, False), (22, True), (256, True), (257, False)])
def test_nonce_has_22_to_256_characters(length: int, accepted: bool) -> None:
    for use in (SIGNER.payload, lambda nonce: SIGNER.sign(JOB, PROFILE, POLICIES, nonce)):
        with nullcontext() if accepted else pytest.raises(CleanRoomError, match="22 to 256"):
            use("n" * length)


@pytest.fixture(scope="module")
def hardware() -> DevelopmentHardware:
    return shared_hardware()


def judge(
    hardware: DevelopmentHardware,
    payload: str,
    *,
    bound: str | None = None,
    host: str = HOST,
    accepted: tuple[str, ...] = (HOST,),
    nonce: str = NONCE,
    **expected: Any,
) -> str:
    trust = TrustStore.load(amd=True, root_files=[hardware.trust_file])
    evidence = hardware.evidence(bytes.fromhex(host), report_data_for((payload if bound is None else bound).encode()))
    if expected.pop("without_uvm", False):
        evidence = evidence.model_copy(update={"uvm_endorsements": ""})
    expectations = Expectations(**expected) if expected else None
    try:
        service, verdict = verify_service_report(
            ServiceReport(evidence=evidence, payload=payload), nonce, trust, accepted, NOW, expectations=expectations
        )
    except CleanRoomError as error:
        return error.code
    assert (service.host_data, service.nonce, service.development, verdict.ok) == (host, NONCE, True, True)
    assert service.verified_at == NOW
    assert service.evidence_digest == evidence.digest()
    return "accepted"


def payload(**changes: Any) -> str:
    members = json.loads(SIGNER.payload(NONCE)) | changes
    return canonical_json({key: value for key, value in members.items() if value is not None}).decode()


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(*PUBLIC_ONLY).decode())


def pem_of_unknown_curve() -> str:
    known, unknown = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")
    der = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.encodebytes(der.replace(known, unknown)).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (lambda: payload(), "accepted"),
        (lambda: payload(nonce=OTHER_NONCE), "NonceMismatch"),
        (lambda: payload(nonce=None), "ServiceReportMalformed"),
        (lambda: payload(nonce=1), "ServiceReportMalformed"),
        (lambda: payload(servicePublicKey=None), "ServiceReportMalformed"),
        (lambda: payload(servicePublicKey=7), "ServiceReportMalformed"),
        (lambda: payload(servicePublicKey="no key"), "ServiceReportMalformed"),
        (lambda: payload(servicePublicKey=pem(ec.generate_private_key(ec.SECP384R1()))), "ServiceReportMalformed"),
        (lambda: payload(servicePublicKey=pem(rsa_key())), "ServiceReportMalformed"),
        (lambda: payload(servicePublicKey=pem_of_unknown_curve()), "ServiceReportMalformed"),
        (lambda: "not JSON", "ServiceReportMalformed"),
        (lambda: '"text"', "ServiceReportMalformed"),
    ],
)
def test_every_member_of_the_payload_counts(hardware: DevelopmentHardware, text: Callable[[], str], code: str) -> None:
    assert judge(hardware, text()) == code


def test_report_of_another_payload_is_refused(hardware: DevelopmentHardware) -> None:
    """The genuine guest attested another key; somebody replaced the payload."""
    assert judge(hardware, payload(servicePublicKey=pem(OTHER_KEY)), bound=payload()) == "ReportDataMismatch"


def test_host_data_must_be_accepted(hardware: DevelopmentHardware) -> None:
    assert judge(hardware, payload(), accepted=(HOST.upper(),)) == "accepted"
    assert judge(hardware, payload(), accepted=("cd" * 32,)) == "HostDataMismatch"
    assert judge(hardware, payload(), accepted=()) == "HostDataMismatch"


def test_default_requirements_include_the_utility_vm_and_refuse_allow_all(hardware: DevelopmentHardware) -> None:
    everything = next(iter(ALLOW_ALL_HOST_DATA))
    assert judge(hardware, payload(), host=everything, accepted=(everything,)) == "HostDataRefused"
    assert judge(hardware, payload(), without_uvm=True) == "UvmEndorsementMissing"


def test_given_requirements_replace_the_default(hardware: DevelopmentHardware) -> None:
    assert judge(hardware, payload(), without_uvm=True, require_uvm=False) == "accepted"
    assert judge(hardware, payload(), minimum_guest_svn=1_000_000) == "GuestSvnTooOld"
