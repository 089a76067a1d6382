"""The Key Vault stand-in through the SDK: keys, challenge, paging, soft delete, errors, durability."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.keyvault.keys import JsonWebKey
from azure.keyvault.keys.aio import KeyClient as AsyncKeyClient
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, KeyWrapAlgorithm, SignatureAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.jose.encoding import b64_any, b64url
from cleanroom.jose.jwk import private_jwk
from cleanroom.keys import ReleasePolicy
from localcloud.standins.keyvault.server import Fault
from localcloud.tls import LocalAuthority
from tests.unit.keys.conftest import Authority, StaticCredential, Vault, error_of, exportable, http, start_vault


def test_first_request_is_challenged(vault: Vault) -> None:
    with http(vault, None) as client:
        answer = client.get("/keys/any/", headers={"x-ms-client-request-id": "abc"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"'
    )
    assert answer.json() == {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}}
    assert answer.headers["x-ms-client-request-id"] == "abc"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_authentication_comes_before_the_body(vault: Vault) -> None:
    with http(vault, None) as client:
        assert client.post("/keys/any//release", content=b"{broken", params={"api-version": "none"}).status_code == 401
        assert client.get("/no/such/route/at/all").status_code == 401


def test_managed_hsm_challenges_with_an_empty_body(hsm: Vault) -> None:
    with http(hsm, None) as client:
        answer = client.get("/keys")
    assert (answer.status_code, answer.content) == (401, b"")
    assert 'resource="https://managedhsm.azure.net"' in answer.headers["www-authenticate"]


def test_missing_or_unknown_api_version_is_rejected(vault: Vault, name: str) -> None:
    with http(vault) as client:
        for version in ("", "8.0", "latest"):
            answer = client.get("/keys", params={"api-version": version})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadParameter")
        assert client.get("/keys", params={"api-version": "2016-10-01"}).status_code == 200
        exportable(vault, name)
        old = client.post(f"/keys/{name}//release", params={"api-version": "7.2"}, json={"target": "x"})
        assert (old.status_code, old.json()["error"]["code"]) == (400, "BadParameter")
        create = {"kty": "RSA-HSM", "attributes": {"exportable": True}}
        assert "AKV.SKR.1001" in client.post(f"/keys/{name}x/create", params={"api-version": "7.1"}, json=create).json()["error"]["message"]


def test_key_is_created_read_listed_and_updated(vault: Vault, name: str) -> None:
    client = vault.client()
    made = exportable(vault, name, tags={"a": "1"}, key_operations=["encrypt", "wrapKey"])
    assert made.id == f"{vault.url}/keys/{name}/{made.properties.version}"
    assert len(made.properties.version) == 32
    assert made.key_type == "RSA-HSM"
    found = client.get_key(name)
    assert found.key.n == made.key.n
    assert found.properties.exportable
    assert found.properties.tags == {"a": "1"}
    assert list(found.key_operations) == ["encrypt", "wrapKey"]
    assert ReleasePolicy.parse(found.properties.release_policy.encoded_policy) == vault.policy
    assert found.properties.release_policy.content_type == "application/json; charset=utf-8"
    second = exportable(vault, name)
    assert client.get_key(name).properties.version == second.properties.version
    assert client.get_key(name, made.properties.version).key.n == made.key.n
    versions = {item.version for item in client.list_properties_of_key_versions(name)}
    assert versions == {made.properties.version, second.properties.version}
    expires = dt.datetime(2040, 1, 1, tzinfo=dt.UTC)
    updated = client.update_key_properties(name, tags={"b": "2"}, expires_on=expires, enabled=False)
    assert (updated.properties.tags, updated.properties.expires_on, updated.properties.enabled) == ({"b": "2"}, expires, False)
    assert client.get_key(name, made.properties.version).properties.enabled


def test_list_is_paged(vault: Vault, name: str) -> None:
    client = vault.client()
    for index in range(5):
        client.create_ec_key(f"{name}-{index}", curve="P-256")
    mine = sorted(item.name for item in client.list_properties_of_keys(max_page_size=2) if str(item.name).startswith(name))
    assert mine == [f"{name}-{index}" for index in range(5)]
    with http(vault) as plain:
        for wrong in ({"$skiptoken": "x"}, {"$skiptoken": "1" * 5000}, {"maxresults": "26"}, {"maxresults": "-1"}):
            assert plain.get("/keys", params={"api-version": "7.4", **wrong}).status_code == 400


@pytest.mark.parametrize("spelling", ["Hsm", "hsm"])
def test_import_accepts_either_spelling_of_hsm(vault: Vault, name: str, spelling: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    body = {
        "key": {**private_jwk(key), "kty": "RSA", "key_ops": ["encrypt"]},
        spelling: True,
        "attributes": {"exportable": True},
        "release_policy": {"data": b64url(vault.policy.encode()), "immutable": False},
    }
    with http(vault) as client:
        answer = client.put(f"/keys/{name}", json=body)
    assert answer.json()["key"]["kty"] == "RSA-HSM"
    assert int.from_bytes(b64_any(answer.json()["key"]["n"]), "big") == key.public_key().public_numbers().n
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(answer.json()["key"])


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"5",
        b'{"kty":"DES"}',
        b'{"kty":"RSA","key_size":1024}',
        b'{"kty":"RSA","key_ops":["dance"]}',
        b'{"kty":"RSA","attributes":[]}',
        b'{"kty":"RSA","attributes":{"enabled":"yes"}}',
        b'{"kty":"RSA","tags":{"a":1}}',
        b'{"kty":"EC","crv":"P-1"}',
        b"[" * 20_000,
    ],
)
def test_malformed_body_is_a_bad_parameter(vault: Vault, name: str, body: bytes | None) -> None:
    with http(vault) as client:
        answer = client.post(f"/keys/{name}/create", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadParameter")


def test_invalid_key_name_is_rejected(vault: Vault) -> None:
    with http(vault) as client:
        for name in ("a_b", "a.b", "x" * 128, "%C3%A9"):
            assert client.post(f"/keys/{name}/create", json={"kty": "EC"}).status_code == 400


def test_all_three_release_routes_release_the_key(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    version = exportable(vault, name).properties.version
    body = {"target": authority.token(guest.public_key()), "enc": "RSA_AES_KEY_WRAP_256"}
    with http(vault, "releaser") as client:
        for path in (f"/keys/{name}/release", f"/keys/{name}//release", f"/keys/{name}/{version}/release"):
            answer = client.post(path, json=body)
            assert answer.status_code == 200, path
            assert list(answer.json()) == ["value"]
        assert client.post(f"/keys/{name}/{'0' * 32}/release", json=body).json()["error"]["code"] == "KeyNotFound"
        for bad in ({}, {"target": 5}, {**body, "nonce": 5}, {**body, "enc": "none"}, {**body, "x": 1}, {"target": ""}):
            answer = client.post(f"/keys/{name}//release", json=bad)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadParameter"), bad


def test_deleted_key_is_recovered_and_purged(vault: Vault, name: str) -> None:
    client = vault.client()
    made = exportable(vault, name)
    poller = client.begin_delete_key(name, _polling_interval=0)
    deleted = poller.result()
    assert deleted.recovery_id == f"{vault.url}/deletedkeys/{name}"
    assert deleted.scheduled_purge_date - deleted.deleted_date == dt.timedelta(days=7)
    poller.wait()
    with pytest.raises(ResourceNotFoundError):
        client.get_key(name)
    with pytest.raises(ResourceExistsError) as error:
        exportable(vault, name)
    assert error_of(error)[:2] == (409, "Conflict")
    assert error.value.response.json()["error"]["innererror"]["code"] == "ObjectIsDeletedButRecoverable"
    assert name in {item.name for item in client.list_deleted_keys()}
    assert client.get_deleted_key(name).id == made.id
    assert client.begin_recover_deleted_key(name, _polling_interval=0).result().id == made.id
    assert client.get_key(name).key.n == made.key.n
    client.begin_delete_key(name, _polling_interval=0).wait()
    client.purge_deleted_key(name)
    with pytest.raises(ResourceNotFoundError):
        client.get_deleted_key(name)
    assert exportable(vault, name).key.n != made.key.n


def test_cryptographic_operations_through_the_sdk(vault: Vault, name: str) -> None:
    key = vault.client().create_rsa_key(name, size=2048, hardware_protected=True)
    crypto = CryptographyClient(
        key, StaticCredential("officer"), verify_challenge_resource=False, connection_verify=str(vault.ca), retry_total=0
    )
    secret = os.urandom(32)
    for algorithm in (EncryptionAlgorithm.rsa_oaep, EncryptionAlgorithm.rsa_oaep_256):
        assert crypto.decrypt(algorithm, crypto.encrypt(algorithm, secret).ciphertext).plaintext == secret
    for wrap in (KeyWrapAlgorithm.rsa_oaep, KeyWrapAlgorithm.rsa_oaep_256):
        assert crypto.unwrap_key(wrap, crypto.wrap_key(wrap, secret).encrypted_key).key == secret
    digest = hashlib.sha256(b"message").digest()
    for signature in (SignatureAlgorithm.rs256, SignatureAlgorithm.ps256):
        assert crypto.verify(signature, digest, crypto.sign(signature, digest).signature).is_valid
    curve = vault.client().create_ec_key(f"{name}-ec", curve="P-384")
    crypto = CryptographyClient(
        curve, StaticCredential("officer"), verify_challenge_resource=False, connection_verify=str(vault.ca), retry_total=0
    )
    digest = hashlib.sha384(b"message").digest()
    assert crypto.verify(SignatureAlgorithm.es384, digest, crypto.sign(SignatureAlgorithm.es384, digest).signature).is_valid


def test_operation_that_the_key_does_not_permit_is_forbidden(vault: Vault, name: str) -> None:
    exportable(vault, name, key_operations=["encrypt", "wrapKey"])
    with http(vault) as client:
        answer = client.post(f"/keys/{name}//decrypt", json={"alg": "RSA-OAEP-256", "value": b64url(bytes(256))})
        assert (answer.status_code, answer.json()["error"]["innererror"]["code"]) == (403, "KeyOperationForbidden")
        assert client.post(f"/keys/{name}//wrapkey", json={"alg": "RSA-OAEP-256", "value": b64url(bytes(32))}).status_code == 200


def test_sdk_retries_retryable_errors(vault: Vault, name: str) -> None:
    server = vault.app.state.server
    exportable(vault, name)
    body = {"error": {"code": "Throttled", "message": "slow down"}}
    server.faults += [Fault(429, {"Retry-After": "0"}, body), Fault(500, {}, body)]
    assert vault.client(retry_total=3, retry_backoff_factor=0).get_key(name).name == name
    assert server.faults == []
    server.faults.append(Fault(429, {"Retry-After": "0"}, body))
    with pytest.raises(HttpResponseError) as error:
        vault.client().get_key(name)
    assert error.value.status_code == 429


class AsyncCredential:
    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken("officer", 2**31)

    async def close(self) -> None:
        pass


async def test_asynchronous_sdk_releases_a_key(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    client = AsyncKeyClient(vault.url, AsyncCredential(), verify_challenge_resource=False, connection_verify=str(vault.ca))
    async with client:
        await client.create_rsa_key(name, size=2048, hardware_protected=True, exportable=True, release_policy=vault.release_policy())
        answer = await client.release_key(name, authority.token(guest.public_key()))
    assert answer.value.count(".") == 2


def test_concurrently_created_versions_are_all_kept(vault: Vault, name: str) -> None:
    async def run() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(vault.client().create_ec_key, name, curve="P-256") for _ in range(8)))

    made = asyncio.run(run())
    assert len({key.properties.version for key in made}) == 8
    assert len(list(vault.client().list_properties_of_key_versions(name))) == 8


def test_keys_survive_a_restart_and_are_encrypted_on_disk(
    tmp_path: Path, local_ca: LocalAuthority, authority: Authority, guest: rsa.RSAPrivateKey, name: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    members = {member: value if member == "crv" else b64_any(value) for member, value in private_jwk(key).items() if member != "kty"}
    with ExitStack() as stack:
        first = start_vault(stack, tmp_path, local_ca, authority)
        first.client().import_key(
            name, JsonWebKey(kty="EC-HSM", **members), hardware_protected=True, exportable=True, release_policy=first.release_policy()
        )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    private = key.private_numbers().private_value.to_bytes(32, "big")
    for path in files:
        content = path.read_bytes()
        assert private not in content
        assert base64.b64encode(private)[:40] not in content
        assert private.hex().encode() not in content
    for secret in ("keyvault-seal.key", "release-key.pem", "keyvault.sqlite"):
        assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
    with ExitStack() as stack:
        second = start_vault(stack, tmp_path, local_ca, authority)
        found = second.client().get_key(name)
        assert int.from_bytes(found.key.x, "big") == key.public_key().public_numbers().x
        assert second.client().release_key(name, authority.token(guest.public_key())).value


def test_wrong_storage_key_decrypts_nothing(tmp_path: Path, local_ca: LocalAuthority, authority: Authority) -> None:
    with ExitStack() as stack:
        first = start_vault(stack, tmp_path, local_ca, authority)
        first.client().create_ec_key("k", curve="P-256")
    (tmp_path / "keyvault-seal.key").write_bytes(b"00" * 32)
    with ExitStack() as stack:
        second = start_vault(stack, tmp_path, local_ca, authority)
        with http(second) as client:
            assert client.post("/keys/k//sign", json={"alg": "ES256", "value": b64url(bytes(32))}).status_code == 500


def test_health_route_reports_not_confidential(vault: Vault) -> None:
    with http(vault, None) as client:
        assert client.get("/healthz").json() == {"status": "ok", "service": "keyvault", "confidential": False}
