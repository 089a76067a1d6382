"""Secrets."""

from __future__ import annotations

import pytest

from tests.conformance.governance.target import DEBUG, HOST_DATA, Target, expect, fresh

LIMIT = 25_600


def test_secret_id_is_owner_underscore_name(cgs: Target) -> None:
    name = fresh("s")
    path = f"/app/contracts/{cgs.contract()}/secrets/{name}"
    assert expect(cgs.call("PUT", path, cgs.ann, json={"value": "v"}), 200) == {"secretId": f"{cgs.ann.oid}_{name}"}
    assert expect(cgs.call("PUT", path, json=cgs.guest().write({"value": "v"})), 200) == {"secretId": f"cleanroom_{name}"}
    rows = expect(cgs.call("GET", f"/app/contracts/{cgs.contract()}/secrets", cgs.bob), 200)["value"]
    assert {"secretId": f"{cgs.ann.oid}_{name}"} in rows
    assert {"secretId": f"cleanroom_{name}"} in rows


def test_contract_policy_reads_every_secret_by_its_full_id(cgs: Target) -> None:
    guest, name = cgs.guest(), fresh("s")
    contract = f"/app/contracts/{cgs.contract()}/secrets"
    value = "s3cr3t ünï \U0001f512"
    secret_id = expect(cgs.call("PUT", f"{contract}/{name}", cgs.ann, json={"value": value}), 200)["secretId"]
    response = cgs.call("POST", f"{contract}/{secret_id}", json=guest.read())
    assert guest.unwrap(expect(response, 200)).decode() == value
    expect(cgs.call("POST", f"{contract}/{name}", json=guest.read()), 404, "SecretNotFound")


def test_put_replaces_a_secret(cgs: Target) -> None:
    guest, path = cgs.guest(), f"/app/contracts/{cgs.contract()}/secrets"
    name = fresh("s")
    for value in ("first", "second"):
        expect(cgs.call("PUT", f"{path}/{name}", json=guest.write({"value": value})), 200)
    assert guest.unwrap(expect(cgs.call("POST", f"{path}/cleanroom_{name}", json=guest.read()), 200)) == b"second"


@pytest.mark.parametrize("body", [{}, {"value": ""}, {"value": None}])
def test_missing_value_is_400(cgs: Target, body: dict[str, object]) -> None:
    path = f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}"
    expect(cgs.call("PUT", path, cgs.ann, json=body), 400, "ValueMissing")
    expect(cgs.call("PUT", path, json=cgs.guest().write(body)), 400, "ValueMissing")


def test_size_limit_counts_utf16_units(cgs: Target) -> None:
    path = f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}"
    expect(cgs.call("PUT", path, cgs.ann, json={"value": "ü" * LIMIT}), 200)
    expect(cgs.call("PUT", path, cgs.ann, json={"value": "x" * (LIMIT + 1)}), 400, "ValueTooLarge")
    expect(cgs.call("PUT", path, cgs.ann, json={"value": "\U0001f512" * (LIMIT // 2)}), 200)
    expect(cgs.call("PUT", path, cgs.ann, json={"value": "\U0001f512" * (LIMIT // 2) + "x"}), 400, "ValueTooLarge")


def test_largest_secret_is_returned_unchanged(cgs: Target) -> None:
    guest, name = cgs.guest(), fresh("s")
    path = f"/app/contracts/{cgs.contract()}/secrets"
    expect(cgs.call("PUT", f"{path}/{name}", json=guest.write({"value": "k" * LIMIT})), 200)
    assert guest.unwrap(expect(cgs.call("POST", f"{path}/cleanroom_{name}", json=guest.read()), 200)) == b"k" * LIMIT


def test_secret_does_not_need_a_contract(cgs: Target) -> None:
    contract_id = fresh("nowhere")
    expect(cgs.call("PUT", f"/app/contracts/{contract_id}/secrets/a", cgs.ann, json={"value": "v"}), 200)
    assert expect(cgs.call("GET", f"/app/contracts/{contract_id}/secrets", cgs.ann), 200) == {"value": [{"secretId": f"{cgs.ann.oid}_a"}]}
    assert expect(cgs.call("GET", f"/app/contracts/{fresh('empty')}/secrets", cgs.ann), 200) == {"value": []}


def test_attestation_is_verified_before_existence(cgs: Target) -> None:
    path = f"/app/contracts/{cgs.contract()}/secrets/{fresh('none')}"
    expect(cgs.call("POST", path, json={}), 400, "AttestationMissing")
    expect(cgs.call("POST", path, json=cgs.guest().consent()), 400, "EncryptionMissing")
    expect(cgs.call("POST", path, json=cgs.guest("other").read()), 400, "VerifySnpAttestationFailed")
    expect(cgs.call("POST", path, json=cgs.guest().read()), 404, "SecretNotFound")


def test_users_cannot_read_values(cgs: Target) -> None:
    name = fresh("s")
    path = f"/app/contracts/{cgs.contract()}/secrets"
    secret_id = expect(cgs.call("PUT", f"{path}/{name}", cgs.ann, json={"value": "v"}), 200)["secretId"]
    expect(cgs.call("POST", f"{path}/{secret_id}", cgs.ann, json={}), 400, "AttestationMissing")
    expect(cgs.call("PUT", f"{path}/{name}", cgs.stranger, json={"value": "v"}), 403, "CallerNotAuthorized")
    expect(cgs.call("GET", path, cgs.stranger), 403, "CallerNotAuthorized")


def test_delegate_reads_only_its_secret(cgs: Target) -> None:
    """Pods read secrets this way; here a user's secret, like S3 credentials."""
    guest, pod = cgs.guest(), cgs.guest("other")
    path = f"/app/contracts/{cgs.contract()}"
    one = expect(cgs.call("PUT", f"{path}/secrets/{fresh('one')}", cgs.ann, json={"value": "one"}), 200)["secretId"]
    two = expect(cgs.call("PUT", f"{path}/secrets/{fresh('two')}", cgs.ann, json={"value": "two"}), 200)["secretId"]
    expect(cgs.call("POST", f"{path}/secrets/{one}", json=pod.read()), 400, "VerifySnpAttestationFailed")
    delegate = f"{path}/cleanroompolicy/delegates/secrets/{one}"
    claims = {DEBUG: False, HOST_DATA: [pod.host_data]}
    response = cgs.call("PUT", delegate, json=guest.write({"type": "add", "policyType": "snp-caci", "claims": claims}))
    assert expect(response, 200) is None
    assert pod.unwrap(expect(cgs.call("POST", f"{path}/secrets/{one}", json=pod.read()), 200)) == b"one"
    expect(cgs.call("POST", f"{path}/secrets/{two}", json=pod.read()), 400, "VerifySnpAttestationFailed")
    # The delegate does not restrict the contract's own policy, and allows only this secret.
    assert guest.unwrap(expect(cgs.call("POST", f"{path}/secrets/{one}", json=guest.read()), 200)) == b"one"
    expect(cgs.call("PUT", f"{path}/secrets/x", json=pod.write({"value": "v"})), 400, "VerifySnpAttestationFailed")
    expect(cgs.call("PUT", delegate, json=pod.write({"type": "add", "claims": claims})), 400, "VerifySnpAttestationFailed")
    expect(cgs.call("PUT", delegate, json=guest.write({"type": "remove", "claims": claims})), 200)
    expect(cgs.call("POST", f"{path}/secrets/{one}", json=pod.read()), 400, "VerifySnpAttestationFailed")


def test_delegate_policy_can_precede_the_secret(cgs: Target) -> None:
    guest, pod, name = cgs.guest(), cgs.guest("other"), fresh("later")
    path = f"/app/contracts/{cgs.contract()}"
    claims = {HOST_DATA: pod.host_data}
    put = cgs.call("PUT", f"{path}/cleanroompolicy/delegates/secrets/cleanroom_{name}", json=guest.write({"type": "add", "claims": claims}))
    expect(put, 200)
    expect(cgs.call("POST", f"{path}/secrets/cleanroom_{name}", json=pod.read()), 404, "SecretNotFound")
    expect(cgs.call("PUT", f"{path}/secrets/{name}", json=guest.write({"value": "now"})), 200)
    assert pod.unwrap(expect(cgs.call("POST", f"{path}/secrets/cleanroom_{name}", json=pod.read()), 200)) == b"now"


@pytest.mark.parametrize(("value", "stored"), [(5, "5"), (True, "true"), ({"a": 1}, "[object Object]")])
def test_a_secret_that_is_no_string_is_stored(cgs: Target, value: object, stored: str) -> None:
    guest, path, name = cgs.guest(), f"/app/contracts/{cgs.contract()}/secrets", fresh("s")
    secret_id = expect(cgs.call("PUT", f"{path}/{name}", cgs.ann, json={"value": value}), 200)["secretId"]
    assert guest.unwrap(expect(cgs.call("POST", f"{path}/{secret_id}", json=guest.read()), 200)).decode() == stored
