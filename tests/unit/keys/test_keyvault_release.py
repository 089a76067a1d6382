"""Key release through the SDK against the stand-in: released keys, and the error of every rejection."""

from __future__ import annotations

import base64
import json
import time

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import JsonWebKey, KeyReleasePolicy
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.jose.encoding import b64_any, b64url
from cleanroom.jose.jwk import private_jwk
from cleanroom.jose.jws import parse, sign
from cleanroom.jose.x5c import trusted_roots
from cleanroom.keys import ReleaseExpectation, ReleasePolicy, public_jwk, thumbprint, verify_release_response
from cleanroom.keys.release import ReleasedKey, unwrap_release
from tests.unit.keys.conftest import AUTHORITY, Authority, Vault

ALGORITHMS = ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"]


def make(vault: Vault, name: str) -> str:
    key = vault.client().create_rsa_key(name, size=2048, hardware_protected=True, exportable=True, release_policy=vault.release_policy())
    return str(key.properties.version)


def opened(vault: Vault, value: str, guest: rsa.RSAPrivateKey, key_id: str, algorithm: str, nonce: str | None) -> ReleasedKey:
    kid = thumbprint(public_jwk(guest))
    expected = ReleaseExpectation(key_id, nonce, algorithm, kid, vault.policy)
    return unwrap_release(verify_release_response(value, expected, roots=trusted_roots(vault.ca)), guest)


def refusal(error: pytest.ExceptionInfo[HttpResponseError]) -> tuple[int | None, str, str | None, str]:
    body = error.value.response.json()["error"]
    return error.value.status_code, body["code"], body.get("innererror", {}).get("code"), body["message"]


NOT_MET = (403, "Forbidden", "AccessDenied", "Target environment attestation does not meet key release policy requirements.")
NOT_VERIFIED = (403, "Forbidden", "AccessDenied", "Target environment attestation statement cannot be verified.")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("with_version", [True, False])
def test_created_key_is_released_to_the_attested_guest(
    vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str, algorithm: str, with_version: bool
) -> None:
    version = make(vault, name)
    asked = version if with_version else None
    # The role for release cannot read keys. The clean room's identity has only this role.
    answer = vault.client("releaser").release_key(
        name, authority.token(guest.public_key()), version=asked, algorithm=algorithm, nonce="n-1"
    )
    key_id = f"{vault.url}/keys/{name}" + (f"/{version}" if with_version else "")
    released = opened(vault, answer.value, guest, key_id, algorithm, "n-1")
    expected = vault.client().get_key(name).key
    private = released.private_key()
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.public_key().public_numbers().n == int.from_bytes(expected.n, "big")
    assert released.key_id == f"{vault.url}/keys/{name}/{version}"
    assert released.policy == vault.policy
    request = parse(answer.value).payload["request"]
    assert request["kid"] == key_id
    assert request["api-version"] == "2025-07-01"


def test_the_default_algorithm_is_ckm_and_the_nonce_is_echoed_only_when_sent(
    vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str
) -> None:
    make(vault, name)
    answer = vault.client("releaser").release_key(name, authority.token(guest.public_key()))
    request = parse(answer.value).payload["request"]
    assert request["enc"] == "CKM_RSA_AES_KEY_WRAP"
    assert "nonce" not in request
    opened(vault, answer.value, guest, f"{vault.url}/keys/{name}", "CKM_RSA_AES_KEY_WRAP", None)


def test_signed_header_has_the_form_of_a_vault(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    make(vault, name)
    header = parse(vault.client().release_key(name, authority.token(guest.public_key())).value).header
    assert set(header) == {"alg", "kid", "x5t", "typ", "x5t#S256", "x5c"}
    assert bytes.fromhex(header["kid"]) == b64_any(header["x5t"])
    assert header["kid"] == header["kid"].upper()
    assert len(header["x5c"]) == 2


def test_rsa_ec_and_oct_keys_are_imported_and_released_by_a_managed_hsm(
    hsm: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str
) -> None:
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    ec_key = ec.generate_private_key(ec.SECP384R1())
    secret = bytes(range(32))
    for index, (kty, jwk) in enumerate(
        (("RSA", private_jwk(rsa_key)), ("EC", private_jwk(ec_key)), ("oct", {"kty": "oct", "k": b64url(secret)}))
    ):
        members = {member: value if member == "crv" else b64_any(value) for member, value in jwk.items() if member != "kty"}
        imported = hsm.client().import_key(
            f"{name}-{index}",
            JsonWebKey(kty=f"{kty}-HSM", **members),
            hardware_protected=True,
            exportable=True,
            release_policy=hsm.release_policy(),
        )
        assert imported.key_type == f"{kty}-HSM"
        answer = hsm.client("releaser").release_key(
            f"{name}-{index}", authority.token(guest.public_key()), algorithm="RSA_AES_KEY_WRAP_256"
        )
        key_json = parse(answer.value).payload["response"]["key"]["key"]
        assert key_json["kty"] == ("oct-HSM" if kty == "oct" else kty)
        released = opened(hsm, answer.value, guest, f"{hsm.url}/keys/{name}-{index}", "RSA_AES_KEY_WRAP_256", None)
        assert released.kind == kty
        match kty:
            case "oct":
                assert released.secret.reveal() == secret
                assert "n" not in key_json
            case "RSA":
                private = released.private_key()
                assert isinstance(private, rsa.RSAPrivateKey)
                assert private.private_numbers() == rsa_key.private_numbers()
            case "EC":
                curve_key = released.private_key()
                assert isinstance(curve_key, ec.EllipticCurvePrivateKey)
                assert curve_key.private_numbers() == ec_key.private_numbers()


@pytest.mark.parametrize(
    "change",
    [
        {"x-ms-sevsnpvm-hostdata": "00" * 32},
        {"x-ms-sevsnpvm-hostdata": "AB" * 32},
        {"x-ms-compliance-status": None},
        {"x-ms-attestation-type": "azurevm"},
        {"x-ms-sevsnpvm-is-debuggable": True},
        {"x-ms-sevsnpvm-vmpl": 1},
        {"x-ms-sevsnpvm-vmpl": 0.0},
        {"x-ms-sevsnpvm-hostdata": ["ab" * 32]},
    ],
)
def test_wrong_claim_is_rejected_without_naming_it(
    vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str, change: dict[str, object]
) -> None:
    make(vault, name)
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, authority.token(guest.public_key(), **change))
    assert refusal(error) == NOT_MET
    assert not any(claim in error.value.response.text() for claim in change)


def _forged(authority: Authority, guest: rsa.RSAPrivateKey, how: str) -> str:
    good = authority.token(guest.public_key())
    header, payload, signature = good.split(".")
    match how:
        case "expired":
            return authority.token(guest.public_key(), exp=int(time.time()) - 1)
        case "not yet valid":
            return authority.token(guest.public_key(), nbf=int(time.time()) + 3600)
        case "no exp":
            return authority.token(guest.public_key(), exp=None)
        case "other issuer":
            return authority.token(guest.public_key(), iss="https://other.attest.azure.net")
        case "issuer with the authority as prefix":
            return authority.token(guest.public_key(), iss=f"{AUTHORITY}.evil.example")
        case "other key, same kid":
            stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            return sign({"kid": "test-key"}, authority.claims(guest.public_key()), stranger)
        case "unknown kid":
            return sign({"kid": "another"}, authority.claims(guest.public_key()), authority.key)
        case "alg none":
            return f"{b64url(json.dumps({'alg': 'none', 'kid': 'test-key'}).encode())}.{payload}.AA"
        case "alg HS256":
            return f"{b64url(json.dumps({'alg': 'HS256', 'kid': 'test-key'}).encode())}.{payload}.{signature}"
        case "payload changed":
            claims = authority.claims(guest.public_key(), sub="x")
            return f"{header}.{b64url(json.dumps(claims).encode())}.{signature}"
        case "no runtime key":
            return authority.token(guest.public_key(), **{"x-ms-runtime": {}})
        case "runtime key without kid":
            return authority.token(guest.public_key(), **{"x-ms-runtime": {"keys": [public_jwk(guest, use="enc")]}})
        case "runtime key not for encryption":
            return authority.token(guest.public_key(), **{"x-ms-runtime": {"keys": [public_jwk(guest, kid="a", use="sig")]}})
        case "small runtime key":
            small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
            return authority.token(guest.public_key(), **{"x-ms-runtime": {"keys": [public_jwk(small, kid="a", use="enc")]}})
    return how


@pytest.mark.parametrize(
    "how",
    [
        "expired",
        "not yet valid",
        "no exp",
        "other issuer",
        "issuer with the authority as prefix",
        "other key, same kid",
        "unknown kid",
        "alg none",
        "alg HS256",
        "payload changed",
        "no runtime key",
        "runtime key without kid",
        "runtime key not for encryption",
        "small runtime key",
        "garbage",
        "a.b",
        "a.b.c.d",
    ],
)
def test_unverifiable_assertion_is_rejected(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str, how: str) -> None:
    make(vault, name)
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, _forged(authority, guest, how))
    assert refusal(error) == NOT_VERIFIED


def test_issuer_may_differ_by_one_trailing_slash(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    make(vault, name)
    assert vault.client("releaser").release_key(name, authority.token(guest.public_key(), iss=f"{AUTHORITY}/")).value
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, authority.token(guest.public_key(), iss=f"{AUTHORITY}//"))
    assert refusal(error) == NOT_VERIFIED


def test_wrapping_key_with_use_sig_and_encrypt_operation_is_accepted(
    vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str
) -> None:
    make(vault, name)
    jwk = public_jwk(guest, kid=thumbprint(public_jwk(guest)), use="sig", alg="RS256", key_ops=["encrypt"])
    answer = vault.client().release_key(name, authority.token(guest.public_key(), **{"x-ms-runtime": {"keys": [jwk]}}))
    opened(vault, answer.value, guest, f"{vault.url}/keys/{name}", "CKM_RSA_AES_KEY_WRAP", None)


def test_caller_without_release_role_is_forbidden(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    make(vault, name)
    with pytest.raises(HttpResponseError) as error:
        vault.client("nobody").release_key(name, authority.token(guest.public_key()))
    assert refusal(error)[:3] == (403, "Forbidden", "ForbiddenByRbac")
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").get_key(name)
    assert refusal(error)[:3] == (403, "Forbidden", "ForbiddenByRbac")


def test_unknown_bearer_token_is_unauthorized(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    with pytest.raises(ClientAuthenticationError):
        vault.client("stolen").release_key(name, authority.token(guest.public_key()))


def test_key_state_is_checked_before_the_token(vault: Vault, name: str) -> None:
    with pytest.raises(ResourceNotFoundError) as missing:
        vault.client("releaser").release_key(name, "garbage")
    assert refusal(missing)[1] == "KeyNotFound"
    assert refusal(missing)[3] == f"A key with (name/id) {name} was not found in this key vault."
    make(vault, name)
    vault.client().update_key_properties(name, enabled=False)
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, "garbage")
    assert refusal(error)[:3] == (403, "Forbidden", "KeyDisabled")


def test_key_that_is_not_exportable_is_not_released(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    vault.client().create_rsa_key(name, size=2048, hardware_protected=True)
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, authority.token(guest.public_key()))
    assert refusal(error)[:2] == (400, "BadParameter")


def test_unsupported_algorithm_is_a_bad_parameter(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    make(vault, name)
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, authority.token(guest.public_key()), algorithm="RSA-OAEP-AES-KWP")
    assert refusal(error)[:2] == (400, "BadParameter")


def test_untrusted_authority_is_rejected_even_if_the_policy_names_it(
    vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str
) -> None:
    other = "https://another.attest.example"
    policy = KeyReleasePolicy(ReleasePolicy.for_clean_room(other, "ab" * 32).encode())
    vault.client().create_rsa_key(name, size=2048, hardware_protected=True, exportable=True, release_policy=policy)
    with pytest.raises(HttpResponseError) as error:
        vault.client("releaser").release_key(name, authority.token(guest.public_key(), iss=other))
    assert refusal(error) == NOT_VERIFIED


def test_released_key_is_unencrypted_pkcs8_der(vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    make(vault, name)
    answer = vault.client().release_key(name, authority.token(guest.public_key()), algorithm="RSA_AES_KEY_WRAP_256")
    released = opened(vault, answer.value, guest, f"{vault.url}/keys/{name}", "RSA_AES_KEY_WRAP_256", None)
    assert serialization.load_der_private_key(released.secret.reveal(), None)
    assert base64.b64encode(released.secret.reveal()).decode() not in repr(released)


def test_created_ec_and_oct_keys_are_released(vault: Vault, hsm: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str) -> None:
    made = vault.client().create_ec_key(
        name, curve="P-256K", hardware_protected=True, exportable=True, release_policy=vault.release_policy()
    )
    answer = vault.client("releaser").release_key(name, authority.token(guest.public_key()))
    released = opened(vault, answer.value, guest, str(made.id), "CKM_RSA_AES_KEY_WRAP", None)
    private = released.private_key()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key().public_numbers().x == int.from_bytes(made.key.x, "big")
    oct_key = hsm.client().create_oct_key(name, size=256, hardware_protected=True, exportable=True, release_policy=hsm.release_policy())
    assert oct_key.key_type == "oct-HSM"
    assert oct_key.key.k is None
    answer = hsm.client("releaser").release_key(name, authority.token(guest.public_key()), algorithm="RSA_AES_KEY_WRAP_384")
    released = opened(hsm, answer.value, guest, str(oct_key.id), "RSA_AES_KEY_WRAP_384", None)
    assert (released.kind, len(released.secret)) == ("oct", 32)


def test_each_version_releases_its_own_key_under_the_shared_policy(
    vault: Vault, authority: Authority, guest: rsa.RSAPrivateKey, name: str
) -> None:
    versions = [make(vault, name), make(vault, name)]
    moduli = set()
    for version in versions:
        answer = vault.client("releaser").release_key(name, authority.token(guest.public_key()), version=version)
        released = opened(vault, answer.value, guest, f"{vault.url}/keys/{name}/{version}", "CKM_RSA_AES_KEY_WRAP", None)
        private = released.private_key()
        assert isinstance(private, rsa.RSAPrivateKey)
        moduli.add(private.public_key().public_numbers().n)
    assert len(moduli) == 2
    answer = vault.client("releaser").release_key(name, authority.token(guest.public_key()))
    assert parse(answer.value).payload["response"]["key"]["key"]["kid"].endswith(versions[-1])
