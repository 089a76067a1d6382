"""``release_key`` with everything else in memory: what is asked, what must match, and what a released key may be used for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

import cleanroom.keys.release as module
from cleanroom.errors import CleanRoomError
from cleanroom.jose.jwk import public_jwk
from cleanroom.keys import (
    KeyVaultSettings,
    KeyWrapAlgorithm,
    ReleasedKey,
    ReleasePolicy,
    VerifiedRelease,
    release_key,
    wrap_data_key,
    wrap_key,
)
from cleanroom.keys.release import unwrap_release
from cleanroom.secret import Secret
from tests.shared_keys import rsa_key
from tests.unit.keys.conftest import service_answer

URL = "https://vault.example"
POLICY = ReleasePolicy.for_clean_room("https://maa.example", "ab" * 32)
WRAPPING = rsa_key()
TARGET = rsa_key("other")
CURVE = ec.generate_private_key(ec.SECP256R1())
ENC = KeyWrapAlgorithm.RSA_AES_KEY_WRAP_256


def der(key: Any) -> bytes:
    return bytes(key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def verified(content: bytes, **jwk: Any) -> VerifiedRelease:
    ciphertext = wrap_key(WRAPPING.public_key(), content, ENC)
    return VerifiedRelease(f"{URL}/keys/kek/v1", jwk, {}, POLICY, ENC, ciphertext)


# ---------------------------------------------------------------------- what was released


@pytest.mark.parametrize(
    ("size", "accepted"), [(256, True), (None, True), ("128", True), (255, False), (128, False), (0, False)], ids=lambda value: str(value)
)
def test_symmetric_key_has_the_stated_size(size: Any, accepted: bool) -> None:
    release = verified(b"k" * 32, kty="oct-HSM", **({} if size is None else {"key_size": size}))
    if accepted:
        key = unwrap_release(release, WRAPPING)
        assert (key.kind, key.secret, key.key_id, key.policy) == ("oct", Secret(b"k" * 32), f"{URL}/keys/kek/v1", POLICY)
        return
    with pytest.raises(CleanRoomError, match=f"an oct key of 256 bits, but the response states {size}") as caught:
        unwrap_release(release, WRAPPING)
    assert caught.value.code == "ReleasedKeyInconsistent"


def test_key_of_an_unsupported_kind_is_inconsistent() -> None:
    with pytest.raises(CleanRoomError, match="a key of an unsupported kind") as caught:
        unwrap_release(verified(der(ed25519.Ed25519PrivateKey.generate()), kty="RSA"), WRAPPING)
    assert caught.value.code == "ReleasedKeyInconsistent"


def test_only_an_rsa_key_unwraps_a_data_key() -> None:
    def released(kind: Any, content: bytes) -> ReleasedKey:
        return ReleasedKey("id", kind, POLICY, Secret(content))

    wrapped = wrap_data_key(TARGET.public_key(), Secret(b"d" * 32))
    assert unwrap_release(verified(der(TARGET), **public_jwk(TARGET)), WRAPPING).kind == "RSA"
    assert unwrap_release(verified(der(CURVE), **public_jwk(CURVE)), WRAPPING).kind == "EC"
    assert released("RSA", der(TARGET)).unwrap_data_key(wrapped) == Secret(b"d" * 32)
    assert isinstance(released("EC", der(CURVE)).private_key(), ec.EllipticCurvePrivateKey)
    for key, words in ((released("EC", der(CURVE)), "is an EC key"), (released("oct", b"k" * 32), "is a symmetric key")):
        with pytest.raises(CleanRoomError, match=words) as caught:
            key.unwrap_data_key(wrapped)
        assert caught.value.code == "KeyKindMismatch"
    with pytest.raises(CleanRoomError, match="KeyKindMismatch"):
        released("oct", b"k" * 32).private_key()


# ---------------------------------------------------------------------- the exchange


class Guest:
    """Attestor and authority in one. The token contains what the guest attested, changed by ``edit``."""

    def __init__(self, edit: Any = None) -> None:
        self.attested: list[bytes] = []
        self._edit = edit

    async def attest(self, *arguments: Any) -> Any:
        if len(arguments) == 1:
            self.attested.append(arguments[0])
            return "evidence"
        assert arguments == ("evidence", self.attested[-1])
        return "token"

    async def validate(self, token: str) -> dict[str, Any]:
        assert token == "token"
        claims = {"iss": "https://maa.example", "exp": 2**39, "x-ms-runtime": json.loads(self.attested[-1])}
        return claims if self._edit is None else self._edit(claims)


class Vault(KeyVaultSettings):
    vault_url: str = URL
    answer: Any = None
    policy: Any = None
    calls: list[tuple[Any, ...]] = []

    def client(self, credential: Any) -> Any:
        vault = self

        class Client:
            def __enter__(self) -> Client:
                return self

            def __exit__(self, *error: object) -> None:
                vault.calls.append(("close",))

            def release_key(self, name: str, token: str, **options: Any) -> Any:
                vault.calls.append(("release", name, token, options))
                if isinstance(vault.answer, Exception):
                    raise vault.answer
                return SimpleNamespace(value=vault.answer)

            def get_key(self, name: str, version: str | None) -> Any:
                vault.calls.append(("get", name, version))
                if isinstance(vault.policy, Exception):
                    raise vault.policy
                return SimpleNamespace(properties=SimpleNamespace(release_policy=vault.policy))

        return Client()


def vault_with(answer: Any, **values: Any) -> Vault:
    defaults = {"vault_url": URL, "ca_file": None, "release_ca_file": None, "policy": None, "calls": []}
    return Vault.model_construct(**(defaults | {"answer": answer} | values))


async def release(vault: Vault, guest: Any = None, **options: Any) -> Any:
    guest, credential = guest or Guest(), "credential"
    values: dict[str, Any] = {"name": "kek", "attestor": guest, "maa": guest, "credential": credential, **options}
    return await release_key(vault=vault, **values)


@pytest.fixture
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a key takes a tenth of a second."""

    def generate(public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
        assert (public_exponent, key_size) == (65537, 2048)
        return WRAPPING

    monkeypatch.setattr(rsa, "generate_private_key", generate)


async def test_every_release_has_its_own_wrapping_key() -> None:
    guest = Guest()
    for _ in range(2):
        with pytest.raises(CleanRoomError, match="ReleaseResponseNotVerified"):
            await release(vault_with("not signed"), guest)
    assert len(set(guest.attested)) == 2


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(
    ("algorithm", "version"), [("CKM_RSA_AES_KEY_WRAP", None), ("RSA_AES_KEY_WRAP_256", "v1"), ("RSA_AES_KEY_WRAP_384", "v1")]
)
async def test_everything_that_was_asked_is_what_the_response_must_be_for(
    monkeypatch: pytest.MonkeyPatch, algorithm: Any, version: str | None
) -> None:
    seen: list[Any] = []

    def verify(value: str, expectation: Any, *, roots: Any) -> str:
        seen.append((value, expectation, roots))
        return "verified"

    monkeypatch.setattr(module, "verify_release_response", verify)
    monkeypatch.setattr(module, "unwrap_release", lambda found, wrapping: (found, wrapping))
    monkeypatch.setattr(module, "trusted_roots", lambda file: ("roots", file))
    nonces = set()
    for changes, roots in (
        ({"ca_file": Path("/tls"), "release_ca_file": Path("/release")}, Path("/release")),
        ({"ca_file": Path("/tls")}, Path("/tls")),
        ({}, None),
    ):
        guest, vault = Guest(), vault_with("signed", **changes)
        found, wrapping = await release(vault, guest, version=version, policy=POLICY, algorithm=KeyWrapAlgorithm(algorithm))
        ((_, name, token, options), closed) = vault.calls
        value, expectation, used = seen.pop()
        jwk = json.loads(guest.attested[0])["keys"][0]
        assert (found, value, used, closed) == ("verified", "signed", ("roots", roots), ("close",))
        assert (name, token, options) == ("kek", "token", {"version": version, "algorithm": algorithm, "nonce": expectation.nonce})
        assert expectation.key_id == f"{URL}/keys/kek" + ("" if version is None else "/v1")
        assert (expectation.algorithm, expectation.wrapping_kid, expectation.policy) == (algorithm, jwk["kid"], POLICY)
        assert wrapping is WRAPPING
        nonces.add(expectation.nonce)
    assert len(nonces) == 3
    assert {len(nonce) for nonce in nonces} == {32}


async def test_algorithm_of_another_service_is_refused_before_the_guest_attests() -> None:
    guest, vault = Guest(), vault_with("signed")
    with pytest.raises(CleanRoomError) as caught:
        await release(vault, guest, algorithm=KeyWrapAlgorithm.RSA_OAEP_AES_KWP)
    assert caught.value.code == "UnsupportedKeyWrapAlgorithm"
    assert (guest.attested, vault.calls) == ([], [])


def _other_kid(claims: dict[str, Any]) -> dict[str, Any]:
    claims["x-ms-runtime"]["keys"][0]["kid"] = "other"
    return claims


def _other_key(claims: dict[str, Any]) -> dict[str, Any]:
    numbers = json.loads(module.runtime_data(TARGET.public_key()))["keys"][0]
    claims["x-ms-runtime"]["keys"][0]["n"] = numbers["n"]
    return claims


def _other_key_first(claims: dict[str, Any]) -> dict[str, Any]:
    claims["x-ms-runtime"]["keys"].insert(0, json.loads(module.runtime_data(TARGET.public_key()))["keys"][0])
    return claims


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(
    "edit",
    [
        _other_kid,
        _other_key,
        _other_key_first,
        lambda claims: claims | {"x-ms-runtime": {}},
        lambda claims: claims | {"x-ms-runtime": {"keys": []}},
        lambda claims: {"iss": claims["iss"]},
    ],
)
async def test_token_without_this_guests_key_releases_nothing(edit: Any) -> None:
    vault = vault_with("signed")
    with pytest.raises(CleanRoomError) as caught:
        await release(vault, Guest(edit))
    assert caught.value.code == "AttestationTokenNotOurs"
    assert vault.calls == []


def stored(policy: ReleasePolicy) -> Any:
    return SimpleNamespace(encoded_policy=policy.encode())


WEAKER = ReleasePolicy.for_clean_room("https://other.example", "ab" * 32)
FORBIDDEN = service_answer(HttpResponseError, 403, "Forbidden", "refused")


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(
    ("policy", "expected", "source", "authorities"),
    [
        (stored(WEAKER), POLICY, "vault", ["https://other.example"]),
        (None, POLICY, "expected", ["https://maa.example"]),
        (FORBIDDEN, POLICY, "expected", ["https://maa.example"]),
        (SimpleNamespace(encoded_policy=b"{}"), POLICY, "expected", ["https://maa.example"]),
        (SimpleNamespace(encoded_policy=None), POLICY, "expected", ["https://maa.example"]),
        (FORBIDDEN, None, None, None),
    ],
)
async def test_refusal_is_explained_with_the_keys_policy_if_it_can_be_read(
    policy: Any, expected: ReleasePolicy | None, source: str | None, authorities: list[str] | None
) -> None:
    vault = vault_with(FORBIDDEN, policy=policy)
    with pytest.raises(CleanRoomError) as caught:
        await release(vault, version="v1", policy=expected)
    assert (caught.value.details["policy_source"], caught.value.details.get("authorities")) == (source, authorities)
    assert f"{URL}/keys/kek/v1" in caught.value.message
    assert [call[0] for call in vault.calls] == ["release", "get", "close"]
    assert vault.calls[1] == ("get", "kek", "v1")


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (service_answer(HttpResponseError, 404, "KeyNotFound"), "KeyNotFound"),
        (service_answer(HttpResponseError, 429, "Throttled"), "Throttled"),
        (service_answer(HttpResponseError, 402, "Odd"), "Odd"),
        (ServiceRequestError("no route"), "KeyVaultUnreachable"),
        (TypeError("odd"), "KeyVaultAnswerUnexpected"),
        ("not signed", "ReleaseResponseNotVerified"),
    ],
)
async def test_other_answer_keeps_its_code_and_asks_no_more(answer: Any, code: str) -> None:
    vault = vault_with(answer)
    with pytest.raises(CleanRoomError) as caught:
        await release(vault)
    assert caught.value.code == code
    assert [call[0] for call in vault.calls] == ["release", "close"]
