"""Crafted responses and tokens: any bytes from the network give a result or a typed error."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom.errors import CleanRoomError, Refused
from cleanroom.jose.encoding import strict_json
from cleanroom.jose.jws import parse, sign
from cleanroom.keys import ReleasePolicy, evaluate
from cleanroom.keys.maa import validate_token
from cleanroom.keys.wrap import KeyWrapAlgorithm
from localcloud.standins.keyvault.errors import KeyVaultError
from localcloud.standins.keyvault.material import generate, read_import
from localcloud.standins.keyvault.release import AssertionVerifier, AttestationIssuer, parse_release_body, wrapped_for
from localcloud.standins.keyvault.requests import Attributes, read_policy, read_tags
from localcloud.standins.maa import MaaError, evidence_of
from tests.unit.keys.conftest import AUTHORITY, Authority
from tests.unit.keys.test_release_response import Pki, check, header, make_pki, payload, target, wrapping

__all__ = ["payload", "target", "wrapping"]

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8) | st.just(AUTHORITY)
)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=10
)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


def refusal_of(call: Callable[[], Any], kind: type[Exception]) -> Any:
    """Return the error of ``kind`` that ``call`` raises, or None if it returns. Any other exception fails the test."""
    try:
        call()
    except kind as error:
        return error
    return None


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return copy


@QUIET
@given(data=st.data(), new=anything)
def test_signed_responses_of_any_shape_give_a_typed_error(pki: Pki, payload: dict[str, Any], data: st.DataObject, new: Any) -> None:
    path = data.draw(st.sampled_from(places(payload)))
    error = refusal_of(lambda: check(sign(header(pki), put(payload, path, new), pki.leaf_key), pki), Refused)
    assert error is None or error.code.startswith("Release")


@QUIET
@given(
    head=st.dictionaries(st.sampled_from(["alg", "kid", "x5c", "crit", "x"]), anything, max_size=4),
    body=anything,
    text=st.text(max_size=60),
)
def test_tokens_of_any_shape_give_a_typed_error(authority: Authority, head: dict[str, Any], body: Any, text: str) -> None:
    tokens = [text, sign(head, body if isinstance(body, dict) else {"iss": AUTHORITY, "exp": body}, authority.key)]
    for token in tokens:
        keys = {"test-key": authority.key.public_key()}
        error = refusal_of(lambda token=token, keys=keys: validate_token(token, issuer=AUTHORITY, keys=keys), Refused)  # type: ignore[misc]
        assert error is None or error.code.startswith("AttestationToken")


@QUIET
@given(data=st.data(), new=anything)
def test_claims_of_any_shape_give_a_typed_error(authority: Authority, guest: rsa.RSAPrivateKey, data: st.DataObject, new: Any) -> None:
    policy = ReleasePolicy.for_clean_room(AUTHORITY, "ab" * 32)
    claims = authority.claims(guest.public_key())
    changed = put(claims, data.draw(st.sampled_from(places(claims))), new)
    verdict = evaluate(policy, changed)
    assert verdict.table()
    error = refusal_of(lambda: wrapped_for(changed, policy, b"k" * 32, KeyWrapAlgorithm.RSA_AES_KEY_WRAP_256), KeyVaultError)
    assert verdict.ok if error is None else (error.status, error.inner) == (403, "AccessDenied")
    verifier = AssertionVerifier([AttestationIssuer(authority=AUTHORITY, jwks_file=authority.jwks_file)])
    token = sign({"kid": "test-key"}, changed, authority.key)
    error = refusal_of(lambda: verifier.verify(token, policy, dt.datetime.now(dt.UTC)), KeyVaultError)
    assert error is None or (error.status, error.inner) == (403, "AccessDenied")


members = st.sampled_from(
    [
        "target",
        "nonce",
        "enc",
        "data",
        "contentType",
        "immutable",
        "enabled",
        "nbf",
        "exp",
        "exportable",
        "kty",
        "n",
        "e",
        "d",
        "k",
        "crv",
        "x",
        "y",
    ]
)


@QUIET
@given(body=st.dictionaries(members, anything, max_size=6), kty=st.sampled_from(["RSA", "EC-HSM", "oct-HSM"]))
def test_request_members_of_any_shape_give_a_typed_error(body: dict[str, Any], kty: str) -> None:
    for read in (
        lambda: parse_release_body(body),
        lambda: read_policy(body),
        lambda: Attributes.read(body),
        lambda: read_tags(body),
        lambda: read_import(body, kty),
        lambda: generate("EC-HSM", {"crv": body.get("crv"), "key_size": body.get("k")}),
    ):
        error = refusal_of(read, KeyVaultError)
        assert error is None or error.status == 400


@QUIET
@given(body=st.dictionaries(st.sampled_from(["report", "runtimeData", "nonce"]), anything, max_size=3))
def test_attestation_requests_of_any_shape_give_a_typed_error(body: dict[str, Any]) -> None:
    with pytest.raises(MaaError):
        evidence_of(body)


@pytest.mark.parametrize(
    "text", ['{"a":1e999}', '{"a":-1e999}', '{"a":"\\ud800"}', '{"a":NaN}', '{"a":1,"a":1}', "[" * 100_000, "1" * 5000, ""]
)
def test_ambiguous_json_is_rejected(text: str) -> None:
    assert refusal_of(lambda: strict_json(text), ValueError)


def test_policy_text_cannot_add_lines_to_the_comparison(authority: Authority, guest: rsa.RSAPrivateKey) -> None:
    policy = ReleasePolicy.for_clean_room(AUTHORITY, "ab" * 32, strict=False)
    claims = authority.claims(guest.public_key(), **{"x-ms-attestation-type": "x\nok  everything: fine\x1b[2J"})
    assert len(evaluate(policy, claims).table().splitlines()) == 4
    assert "\x1b" not in evaluate(policy, claims).table()


def test_jws_length_is_bounded() -> None:
    with pytest.raises(ValueError, match="longer"):
        parse("a" * 300_000)


def test_malformed_services_give_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(CleanRoomError):
        ReleasePolicy.parse(b"\x00" * 40)
