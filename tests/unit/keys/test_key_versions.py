"""Key identifiers, and which version of a key a signed release may contain."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.jose.jws import sign
from cleanroom.keys.response import KeyId
from tests.unit.keys import test_release_response
from tests.unit.keys.test_release_response import KEY, KEY_ID, VERSION, Pki, check, edit, header, refused

pki, wrapping, target, payload = (getattr(test_release_response, name) for name in ("pki", "wrapping", "target", "payload"))
OLDER = "0" * 32


@pytest.mark.parametrize(
    ("text", "host", "dns_name", "version"),
    [
        ("https://vault.example/keys/kek", "vault.example", "vault.example", None),
        ("https://VAULT.example/keys/kek/", "vault.example", "vault.example", None),
        ("https://vault.example:443/keys/kek/v1", "vault.example", "vault.example", "v1"),
        ("https://vault.example:8443/keys/kek/v1", "vault.example:8443", "vault.example", "v1"),
        ("https://[::1]/keys/kek/v1", "::1", "::1", "v1"),
    ],
)
def test_identifier_is_parsed_and_written(text: str, host: str, dns_name: str, version: str | None) -> None:
    found = KeyId.parse(text)
    assert found == KeyId(host, "kek", version)
    assert found.dns_name == dns_name
    assert str(found) == f"https://{host}/keys/kek{'' if version is None else f'/{version}'}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://vault.example/keys/kek", "not an https key identifier"),
        ("https:///keys/kek", "not an https key identifier"),
        ("https://vault.example/keys/kek?a=b", "not an https key identifier"),
        ("https://vault.example/keys/kek#a", "not an https key identifier"),
        ("https://user@vault.example/keys/kek", "not an https key identifier"),
        ("https://@vault.example/keys/kek", "not an https key identifier"),
        ("https://vault.example:x/keys/kek", "Port"),
        ("https://vault.example/secrets/kek", "is not https://<vault>"),
        ("https://vault.example/keys", "is not https://<vault>"),
        ("https://vault.example/keys/", "is not https://<vault>"),
        ("https://vault.example/keys/kek/v1/more", "is not https://<vault>"),
        ("https://vault.example/keys//v1", "is not https://<vault>"),
        ("https://vault.example", "is not https://<vault>"),
    ],
)
def test_other_text_is_no_identifier(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        KeyId.parse(text)


def test_identifier_covers_its_own_versions_only() -> None:
    any_version, first = KeyId("v", "kek", None), KeyId("v", "kek", "1")
    assert any_version.covers(first)
    assert any_version.covers(any_version)
    assert first.covers(KeyId("v", "KEK", "1"))
    for other in (KeyId("v", "kek", "2"), KeyId("v", "kek", None), KeyId("w", "kek", "1"), KeyId("v", "kek2", "1")):
        assert not first.covers(other)
    for other in (KeyId("w", "kek", "1"), KeyId("v", "kek2", "1")):
        assert not any_version.covers(other)


def test_requested_version_is_released(pki: Pki, payload: dict[str, Any]) -> None:
    requested = f"{KEY_ID}/{VERSION}"
    for named in (KEY_ID, requested):
        text = sign(header(pki), edit(payload, "request/kid", named), pki.leaf_key)
        assert check(text, pki, key_id=requested).key_id == requested


def test_another_version_than_the_requested_one_is_rejected(pki: Pki, payload: dict[str, Any]) -> None:
    """An older version of the key may have been exposed; the vault's administrator may have added a newer one."""
    requested = f"{KEY_ID}/{OLDER}"
    refused(sign(header(pki), payload, pki.leaf_key), pki, "ReleaseKeyMismatch", key_id=requested)
    for named in (f"{KEY_ID}/{VERSION}", requested):
        text = sign(header(pki), edit(payload, "request/kid", named), pki.leaf_key)
        message = refused(text, pki, "ReleaseKeyMismatch", key_id=requested)
        assert ("request.kid" in message) is (named != requested)


def test_verified_release_shows_the_public_members_only(pki: Pki, payload: dict[str, Any]) -> None:
    verified = check(sign(header(pki), payload, pki.leaf_key), pki)
    stated = payload["response"]["key"]["key"]
    assert verified.jwk == {name: value for name, value in stated.items() if name != "key_hsm"}
    assert verified.attributes == {"enabled": True, "exportable": True}


def test_certificates_are_checked_for_the_present_by_default(pki: Pki, payload: dict[str, Any]) -> None:
    refused(sign(header(pki), payload, pki.leaf_key), pki, "ReleaseCertificateNotTrusted", at=None)


@pytest.mark.parametrize(
    ("path", "value"),
    [("response/key/release_policy/data", 5), ("response/key/release_policy/data", []), (f"{KEY}/key_hsm", 5), (f"{KEY}/key_hsm", [])],
)
def test_member_of_another_type_is_refused(pki: Pki, payload: dict[str, Any], path: str, value: Any) -> None:
    refused(sign(header(pki), edit(payload, path, value), pki.leaf_key), pki, "ReleaseResponseNotVerified")
