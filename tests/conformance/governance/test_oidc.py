"""The OIDC issuer and ID tokens."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.conformance.governance.target import DEBUG, HOST_DATA, Person, Target, expect, fresh


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def query(**changes: str | None) -> str:
    now = int(time.time())
    values = {
        "nbf": str(now),
        "exp": str(now + 300),
        "iat": str(now),
        "jti": fresh("jti"),
        "sub": "subject",
        "tid": "tenant",
        "aud": "api://X",
    }
    return "?&" + "&".join(f"{name}={value}" for name, value in (values | changes).items() if value is not None)


@pytest.fixture(scope="module")
def issuer(cgs: Target) -> Target:
    """The service with an enabled issuer, a signing key and a governed URL."""
    cgs.govern("enable_oidc_issuer", {"kid": fresh("kid")})
    expect(cgs.call("POST", "/app/oidc/generateSigningKey", "member"), 200)
    cgs.govern("set_oidc_issuer_url", {"issuer_url": "https://idp.example/cgs"})
    return cgs


def token(cgs: Target, text: str, kind: str = "good", contract: str | None = None) -> tuple[dict[str, Any], dict[str, Any], str]:
    guest = cgs.guest(kind)
    response = cgs.call("POST", f"/app/contracts/{contract or cgs.contract()}/oauth/token{text}", json=guest.read())
    jwt = guest.unwrap(expect(response, 200)).decode()
    header, claims, _ = jwt.split(".")
    return json.loads(unb64(header)), json.loads(unb64(claims)), jwt


def test_discovery_is_public_and_names_rs256(issuer: Target) -> None:
    body = expect(issuer.http.get("/app/oidc/.well-known/openid-configuration"), 200)
    assert body == {
        "issuer": "https://idp.example/cgs",
        "jwks_uri": "https://idp.example/cgs/keys",
        "response_types_supported": ["id_token"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def test_generating_the_key_again_returns_the_same_key(issuer: Target) -> None:
    one = expect(issuer.call("POST", "/app/oidc/generateSigningKey", "member"), 200)
    keys = expect(issuer.http.get("/app/oidc/keys"), 200)["keys"]
    assert one == expect(issuer.call("POST", "/app/oidc/generateSigningKey", "member"), 200)
    assert set(one) == {"reqId", "kid"}
    assert one["kid"].endswith(f"-{one['reqId']}")
    assert len(keys) == 1
    assert {name: keys[0][name] for name in ("alg", "use", "kty", "kid", "e")} == {
        "alg": "RS256",
        "use": "sig",
        "kty": "RSA",
        "kid": one["kid"],
        "e": "AQAB",
    }
    assert keys == expect(issuer.http.get("/app/oidc/keys"), 200)["keys"]


def test_token_is_ps256_with_string_claims(issuer: Target) -> None:
    text = query(sub="c-42-ann", aud="api://AzureADTokenExchange")
    header, claims, jwt = token(issuer, text)
    (key,) = expect(issuer.http.get("/app/oidc/keys"), 200)["keys"]
    assert header == {"alg": "PS256", "typ": "JWT", "kid": key["kid"]}
    sent = dict(part.split("=") for part in text[2:].split("&"))
    wanted = {name: sent[name] for name in ("aud", "exp", "jti", "nbf", "sub", "iat")}
    assert claims == {**wanted, "iss": "https://idp.example/cgs"}
    public = rsa.RSAPublicNumbers(int.from_bytes(unb64(key["e"])), int.from_bytes(unb64(key["n"]))).public_key()
    signed, _, signature = jwt.rpartition(".")
    public.verify(unb64(signature), signed.encode(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def test_nbf_is_optional_and_iss_of_the_query_takes_precedence(issuer: Target) -> None:
    _, claims, _ = token(issuer, query(nbf=None, iss="https://mine.example/x"))
    assert "nbf" not in claims
    assert claims["iss"] == "https://mine.example/x"
    assert "tid" not in claims


@pytest.mark.parametrize("name", ["exp", "iat", "jti", "sub", "tid", "aud"])
def test_missing_parameter_is_reported_before_the_evidence(issuer: Target, name: str) -> None:
    path = f"/app/contracts/{issuer.contract()}/oauth/token"
    expect(issuer.call("POST", path + query(**{name: None}), json=issuer.guest("other").read()), 400, "InvalidInput")
    expect(issuer.call("POST", path + query(**{name: None}), json={}), 400, "AttestationMissing")
    expect(issuer.call("POST", path + query(**{name: None}), json=issuer.guest().consent()), 400, "EncryptionMissing")


def test_delegate_gets_tokens_for_its_subject_only(issuer: Target) -> None:
    subject, pod = fresh("sub"), issuer.guest("other")
    path = f"/app/contracts/{issuer.contract()}"
    expect(issuer.call("POST", f"{path}/oauth/token{query(sub=subject)}", json=pod.read()), 400, "VerifySnpAttestationFailed")
    body = issuer.guest().write({"type": "add", "claims": {DEBUG: False, HOST_DATA: [pod.host_data]}})
    expect(issuer.call("PUT", f"{path}/cleanroompolicy/delegates/oauth-federation-subjects/{subject}", json=body), 200)
    assert token(issuer, query(sub=subject), "other")[1]["sub"] == subject
    expect(issuer.call("POST", f"{path}/oauth/token{query(sub=subject + 'x')}", json=pod.read()), 400, "VerifySnpAttestationFailed")


def test_tenant_has_its_own_issuer_url(issuer: Target) -> None:
    before = expect(issuer.call("POST", "/app/oidc/issuerInfo", issuer.ann), 200)
    assert before["enabled"] is True
    assert before["issuerUrl"] == "https://idp.example/cgs"
    assert expect(issuer.call("POST", "/app/oidc/setIssuerUrl", issuer.ann, json={"url": "https://tenant.example/x"}), 200) is None
    info = expect(issuer.call("POST", "/app/oidc/issuerInfo", issuer.bob), 200)
    assert info["tenantData"] == {"tenantId": issuer.settings.tenant, "issuerUrl": "https://tenant.example/x"}
    _, claims, _ = token(issuer, query(tid=issuer.settings.tenant))
    assert claims["iss"] == "https://tenant.example/x"
    member = expect(issuer.call("POST", "/app/oidc/issuerInfo", "member"), 200)
    assert member.get("tenantData", {}).get("tenantId") != issuer.settings.tenant


@pytest.mark.parametrize("url", ["ftp://x", "x", "", None, 7])
def test_invalid_issuer_url_is_400(cgs: Target, url: object) -> None:
    expect(cgs.call("POST", "/app/oidc/setIssuerUrl", cgs.ann, json={"url": url}), 400, "InvalidUrl")


def test_rotation_replaces_the_only_key(issuer: Target) -> None:
    old = expect(issuer.http.get("/app/oidc/keys"), 200)["keys"]
    issuer.govern("oidc_issuer_enable_rotate_signing_key", {})
    assert expect(issuer.http.get("/app/oidc/keys"), 200)["keys"] == old
    made = expect(issuer.call("POST", "/app/oidc/generateSigningKey", "member"), 200)
    new = expect(issuer.http.get("/app/oidc/keys"), 200)["keys"]
    assert len(new) == 1
    assert new[0]["kid"] == made["kid"] != old[0]["kid"]
    assert new[0]["n"] != old[0]["n"]
    assert token(issuer, query())[0]["kid"] == made["kid"]


def test_unregistered_user_cannot_read_the_issuer(cgs: Target) -> None:
    expect(cgs.call("POST", "/app/oidc/issuerInfo", cgs.stranger), 403, "CallerNotAuthorized")
    expect(
        cgs.call("POST", "/app/oidc/setIssuerUrl", Person(cgs.ann.oid, "other"), json={"url": "https://x"}),
        403,
        "CallerTenantNotAuthorized",
    )


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("a=b", "a"),  # cut at the first '='
        ("a%3Db", "a"),  # the query is decoded before it is split
        ("a+b", "a b"),  # '+' is a space
        ("a%2Bb", "a+b"),
        ("a%26sub%3Dz", "z"),  # an encoded '&' separates, and the last of a repeated key counts
    ],
)
def test_special_characters_in_query_values_are_misread(issuer: Target, sent: str, read: str) -> None:
    _, claims, _ = token(issuer, query(sub=sent))
    assert claims["sub"] == read
