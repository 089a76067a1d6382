"""Envelopes of clean rooms: platform, evidence, report data, signatures, wrapped answers."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.conformance.governance.target import Guest, Target, expect, fresh


@pytest.fixture
def secret(cgs: Target) -> str:
    """The path of a secret that exists."""
    path = f"/app/contracts/{cgs.contract()}/secrets"
    body = expect(cgs.call("PUT", f"{path}/{fresh('s')}", cgs.ann, json={"value": "plain"}), 200)
    return f"{path}/{body['secretId']}"


@pytest.mark.parametrize("platform", ["snp-caci", "", None, ...])
def test_missing_platform_is_caci(cgs: Target, secret: str, platform: Any) -> None:
    envelope = {name: value for name, value in {**cgs.guest().read(), "platform": platform}.items() if value is not ...}
    assert cgs.guest().unwrap(expect(cgs.call("POST", secret, json=envelope), 200)) == b"plain"


def test_unknown_platform_is_reported_before_the_evidence(cgs: Target, secret: str) -> None:
    expect(cgs.call("POST", secret, json={**cgs.guest("other").read(), "platform": "tdx"}), 400, "UnsupportedPlatform")
    expect(cgs.call("POST", secret, json={"platform": "tdx", "attestation": "x", "encrypt": {}}), 400, "UnsupportedPlatform")


def test_caci_evidence_under_the_cvm_platform_fails(cgs: Target, secret: str) -> None:
    expect(cgs.call("POST", secret, json={**cgs.guest().read(), "platform": "snp-cvm"}), 400, "VerifySnpAttestationFailed")


def test_report_binds_the_pem_text_as_sent(cgs: Target, secret: str) -> None:
    attest = cgs.settings.attest
    if attest is None:
        pytest.skip("no attestation given")
    stripped = Guest(attest, strip=True)
    assert stripped.unwrap(expect(cgs.call("POST", secret, json=stripped.read()), 200)) == b"plain"
    changed = {**stripped.read(), "encrypt": {"publicKey": base64.b64encode(stripped.pem + b"\n").decode()}}
    expect(cgs.call("POST", secret, json=changed), 400, "ReportDataMismatch")


def test_report_data_of_another_key_is_a_mismatch(cgs: Target, secret: str) -> None:
    guest, other = cgs.guest(), cgs.guest("other")
    expect(cgs.call("POST", secret, json={**guest.read(), "encrypt": other.read()["encrypt"]}), 400, "ReportDataMismatch")
    for encrypt in ({"other": 1}, {"publicKey": None}, {"publicKey": 7}, "text", True):
        expect(cgs.call("POST", secret, json={**guest.read(), "encrypt": encrypt}), 400, "ReportDataMismatch")


def test_envelope_without_encrypt_is_a_mismatch(cgs: Target) -> None:
    envelope = cgs.guest().write({"value": "v"})
    del envelope["encrypt"]
    expect(cgs.call("PUT", f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}", json=envelope), 400, "ReportDataMismatch")


@pytest.mark.parametrize("part", ["evidence", "endorsements"])
def test_modified_evidence_is_rejected(cgs: Target, secret: str, part: str) -> None:
    envelope = copy.deepcopy(cgs.guest().read())
    raw = bytearray(base64.b64decode(envelope["attestation"][part]))
    middle = len(raw) // 2
    if part == "endorsements":
        # A line end of the PEM text could change without changing a certificate.
        middle = next(index for index in range(middle, len(raw)) if chr(raw[index]).isalnum())
    raw[middle] ^= 1
    envelope["attestation"][part] = base64.b64encode(bytes(raw)).decode()
    expect(cgs.call("POST", secret, json=envelope), 400, "VerifySnpAttestationFailed")


@pytest.mark.parametrize("attestation", [{"evidence": ""}, {"evidence": "AAAA", "endorsements": "AAAA"}, "text", 7, ["x"], {"a": 1}])
def test_malformed_evidence_is_rejected(cgs: Target, secret: str, attestation: Any) -> None:
    expect(cgs.call("POST", secret, json={**cgs.guest().read(), "attestation": attestation}), 400, "VerifySnpAttestationFailed")


def test_other_host_data_is_rejected_even_with_its_own_key(cgs: Target, secret: str) -> None:
    expect(cgs.call("POST", secret, json=cgs.guest("other").read()), 400, "VerifySnpAttestationFailed")


def test_report_of_another_guest_is_rejected(cgs: Target, secret: str) -> None:
    """The good guest's report is genuine and matches, but it does not bind another guest's key."""
    thief = {**cgs.guest("other").read(), "attestation": cgs.guest().attestation}
    expect(cgs.call("POST", secret, json=thief), 400, "ReportDataMismatch")


def test_wrong_or_malformed_signature_is_a_mismatch(cgs: Target) -> None:
    guest = cgs.guest()
    path = f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}"
    good = guest.write({"value": "v"})
    data = base64.b64decode(good["data"])
    wrong: list[Any] = [
        {**good["sign"], "signature": base64.b64encode(bytes(256)).decode()},
        {**good["sign"], "publicKey": cgs.guest("other").public},
        {**good["sign"], "publicKey": "AAAA"},
        {"publicKey": good["sign"]["publicKey"]},
        guest.sign(data, salt=20),
        guest.sign(data + b" "),
        guest.sign(base64.b64encode(data)),
        {**good["sign"], "signature": base64.b64encode(guest.key.sign(data, padding.PKCS1v15(), hashes.SHA256())).decode()},
        None,
        "text",
    ]
    for sign in wrong:
        expect(cgs.call("PUT", path, json={**good, "sign": sign}), 400, "SignatureMismatch")
    expect(cgs.call("PUT", path, json={name: value for name, value in good.items() if name != "sign"}), 400, "SignatureMismatch")
    expect(cgs.call("PUT", path, json=good), 200)


def test_signature_is_verified_after_the_attestation(cgs: Target) -> None:
    envelope = {**cgs.guest("other").write({"value": "v"}), "sign": None}
    expect(cgs.call("PUT", f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}", json=envelope), 400, "VerifySnpAttestationFailed")


def test_malformed_data_is_500(cgs: Target) -> None:
    guest = cgs.guest()
    path = f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}"
    good = guest.write({"value": "v"})
    expect(cgs.call("PUT", path, json={name: value for name, value in good.items() if name != "data"}), 500, "InternalError")
    expect(cgs.call("PUT", path, json=guest.write(b"not json")), 500, "InternalError")


def test_signing_key_is_not_compared_with_the_bound_key(cgs: Target) -> None:
    """For secrets and delegates only ``encrypt.publicKey`` is bound; a signature by any key over the data passes."""
    guest, signer = cgs.guest(), cgs.guest("other")
    envelope = guest.write({"value": "v"})
    envelope["sign"] = signer.sign(base64.b64decode(envelope["data"]))
    expect(cgs.call("PUT", f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}", json=envelope), 200)


def test_each_answer_is_wrapped_with_a_new_key(cgs: Target, secret: str) -> None:
    one = expect(cgs.call("POST", secret, json=cgs.guest().read()), 200)["value"]
    two = expect(cgs.call("POST", secret, json=cgs.guest().read()), 200)["value"]
    assert one != two
    assert len(base64.b64decode(one)) == 256 + 16
