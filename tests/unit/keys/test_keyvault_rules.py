"""The service's numbered rules for exportable keys and release policies (docs/facts/key-release.md)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import JsonWebKey, KeyReleasePolicy

from cleanroom.jose.encoding import b64_any, b64url
from cleanroom.keys import ReleasePolicy
from tests.unit.keys.conftest import AUTHORITY, Vault, error_of, exportable, http


def test_policy_is_accepted_in_both_base64_alphabets(vault: Vault, name: str) -> None:
    policy = vault.policy.encode() + b"  "
    with http(vault) as client:
        for index, data in enumerate((base64.b64encode(policy), base64.urlsafe_b64encode(policy), b64url(policy).encode())):
            body = {"kty": "RSA-HSM", "attributes": {"exportable": True}, "release_policy": {"data": data.decode()}}
            answer = client.post(f"/keys/{name}-{index}/create", json=body)
            assert answer.status_code == 200
            assert b64_any(answer.json()["release_policy"]["data"]) == vault.policy.encode()


def test_policy_is_returned_in_canonical_order(vault: Vault, name: str) -> None:
    legacy = {
        "anyOf": [{"allOf": [{"value": "true", "condition": "equals", "claim": "sdk-test"}], "authority": AUTHORITY}],
        "version": "1.0",
    }
    key = vault.client().create_rsa_key(
        name, size=2048, hardware_protected=True, exportable=True, release_policy=KeyReleasePolicy(json.dumps(legacy).encode())
    )
    assert key.properties.release_policy.encoded_policy.decode() == (
        '{"version":"1.0.0","anyOf":[{"authority":"https://maa.test.example","allOf":[{"claim":"sdk-test","equals":"true"}]}]}'
    )


def test_vault_rejects_symmetric_keys_and_hsm_those_above_64_bytes(vault: Vault, hsm: Vault, name: str) -> None:
    with pytest.raises(HttpResponseError) as error:
        vault.client().import_key(name, JsonWebKey(kty="oct-HSM", k=bytes(32)), hardware_protected=True)
    assert error_of(error)[:2] == (400, "BadParameter")
    hsm.client().import_key(name, JsonWebKey(kty="oct-HSM", k=bytes(64)), hardware_protected=True)
    with pytest.raises(HttpResponseError) as error:
        hsm.client().import_key(f"{name}x", JsonWebKey(kty="oct-HSM", k=bytes(65)), hardware_protected=True)
    assert error_of(error) == (400, "BadParameter", "JSON Web Key: k property of oct key is too large, maximum size is 64")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"kty": "RSA-HSM", "attributes": {"exportable": True}}, "AKV.SKR.1004: Exportable keys must have release policy."),
        ({"kty": "RSA-HSM", "release_policy": "POLICY"}, "AKV.SKR.1005: Non-exportable keys must not have release policy."),
        ({"kty": "RSA", "attributes": {"exportable": True}, "release_policy": "POLICY"}, "AKV.SKR.1006"),
    ],
)
def test_exportable_key_needs_a_policy_and_an_hsm(vault: Vault, name: str, body: dict[str, Any], code: str) -> None:
    if body.get("release_policy") == "POLICY":
        body = {**body, "release_policy": {"data": b64url(vault.policy.encode())}}
    with http(vault) as client:
        answer = client.post(f"/keys/{name}/create", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "BadParameter"
        assert answer.json()["error"]["message"].startswith(code)
        assert client.get(f"/keys/{name}/").status_code == 404


def test_exportable_attribute_cannot_change(vault: Vault, name: str) -> None:
    client = vault.client()
    client.create_rsa_key(name, size=2048, hardware_protected=True)
    with pytest.raises(HttpResponseError) as error:
        exportable(vault, name)
    assert "AKV.SKR.1003" in error_of(error)[2]
    with pytest.raises(HttpResponseError) as error:
        client.update_key_properties(name, release_policy=vault.release_policy())
    assert "AKV.SKR.1005" in error_of(error)[2]
    with http(vault) as raw:
        answer = raw.patch(f"/keys/{name}", json={"attributes": {"exportable": True}})
    assert "AKV.SKR.1014" in answer.json()["error"]["message"]


def test_policy_can_be_changed_only_on_the_versionless_key(vault: Vault, name: str) -> None:
    client = vault.client()
    version = exportable(vault, name).properties.version
    other = ReleasePolicy.for_clean_room(AUTHORITY, "cd" * 32)
    with pytest.raises(HttpResponseError) as error:
        client.update_key_properties(name, version, release_policy=KeyReleasePolicy(other.encode()))
    assert "AKV.SKR.1016" in error_of(error)[2]
    client.update_key_properties(name, release_policy=KeyReleasePolicy(other.encode()))
    for found in (client.get_key(name), client.get_key(name, version)):
        assert ReleasePolicy.parse(found.properties.release_policy.encoded_policy) == other


def test_immutable_policy_cannot_change(vault: Vault, name: str) -> None:
    client = vault.client()
    made = exportable(vault, name, release_policy=vault.release_policy(immutable=True))
    assert made.properties.release_policy.immutable
    other = KeyReleasePolicy(ReleasePolicy.for_clean_room(AUTHORITY, "cd" * 32).encode())
    expected = (400, "BadParameter", "AKV.SKR.1020: Immutable Key Release Policy cannot be modified.")
    for attempt in (
        lambda: client.update_key_properties(name, release_policy=other),
        lambda: client.update_key_properties(name, release_policy=vault.release_policy(immutable=False)),
        lambda: exportable(vault, name, release_policy=other),
    ):
        with pytest.raises(HttpResponseError) as error:
            attempt()
        assert error_of(error) == expected
    # A new version keeps the policy of the key.
    again = client.create_rsa_key(name, size=2048, hardware_protected=True, exportable=True)
    assert ReleasePolicy.parse(again.properties.release_policy.encoded_policy) == vault.policy


@pytest.mark.parametrize(
    "policy",
    [
        {"data": "!!"},
        {"data": b64url(b"{}")},
        {"data": b64url(b'{"version":"1.0.0","anyOf":[{"authority":"https://a","allOf":[{"claim":"a","notEquals":"b"}]}]}')},
        {"data": b64url(b'{"version":"1.0.0","anyOf":[{"authority":"http://a","allOf":[{"claim":"a","equals":"b"}]}]}')},
        {"data": 5},
        {},
        [],
        "text",
        {"data": b64url(b"x" * 40_000)},
        {"contentType": "text/plain", "data": "POLICY"},
        {"immutable": "yes", "data": "POLICY"},
        {"more": 1, "data": "POLICY"},
    ],
)
def test_malformed_policy_is_rejected(vault: Vault, name: str, policy: Any) -> None:
    if isinstance(policy, dict) and policy.get("data") == "POLICY":
        policy = {**policy, "data": b64url(vault.policy.encode())}
    with http(vault) as client:
        answer = client.post(f"/keys/{name}/create", json={"kty": "RSA-HSM", "attributes": {"exportable": True}, "release_policy": policy})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadParameter")
        assert client.get(f"/keys/{name}/").status_code == 404
