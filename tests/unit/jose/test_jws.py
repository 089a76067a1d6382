"""Compact JWS with each algorithm: canonical text and matching keys are accepted, everything else is rejected."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cleanroom.jose.encoding import b64url
from cleanroom.jose.jwk import ed25519_jwk
from cleanroom.jose.jws import Name, SigningKey, VerificationKey, parse, sign, verify
from tests.shared_keys import rsa_key

RSA = rsa_key()
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[Name, SigningKey] = {"RS256": RSA, "ES256": P256, "EdDSA": ED25519}
PAYLOAD = {"b": 1, "a": "ä"}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_signed_object_is_verified_with_its_key_only(algorithm: Name) -> None:
    parsed = parse(sign({"kid": "k"}, PAYLOAD, KEYS[algorithm], algorithm), [algorithm])
    assert (parsed.header, parsed.payload) == ({"alg": algorithm, "kid": "k"}, PAYLOAD)
    others: list[VerificationKey] = [
        *(key.public_key() for name, key in KEYS.items() if name != algorithm),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ]
    verify(parsed, KEYS[algorithm].public_key())
    for other in others:
        with pytest.raises(ValueError, match=r"does not verify|another kind"):
            verify(parsed, other)


@pytest.mark.parametrize("algorithm", KEYS)
def test_every_other_text_of_a_signature_is_rejected(algorithm: Name) -> None:
    text = sign({}, PAYLOAD, KEYS[algorithm], algorithm)
    for other in (f"{text}=", f"{text}\n", f" {text}", f"{text}.", text.rsplit(".", 1)[0] + ".", f"{text}A", text.replace(".", "..", 1)):
        with pytest.raises(ValueError):
            verify(parse(other, [algorithm]), KEYS[algorithm].public_key())


def test_an_algorithm_that_is_not_accepted_is_rejected_before_any_key_is_used() -> None:
    for header in ({"alg": "none"}, {"alg": "HS256"}, {"alg": "EdDSA"}, {"alg": ["RS256"]}, {}):
        text = f"{b64url(json.dumps(header).encode())}.{b64url(b'{}')}.AAAA"
        with pytest.raises(ValueError, match="only RS256 is accepted"):
            parse(text)
        with pytest.raises(ValueError, match=r"is unknown|another kind"):
            verify(parse(text, None), RSA.public_key())


def test_critical_extensions_and_ambiguous_json_are_rejected() -> None:
    signature = b64url(bytes(256))
    for header, payload in (
        (b'{"alg":"RS256","crit":["b64"],"b64":false}', b"{}"),
        (b'{"alg":"none","alg":"RS256"}', b"{}"),
        (b'{"alg":"RS256"}', b'{"a":1,"a":2}'),
        (b'{"alg":"RS256"}', b"[]"),
        (b'["RS256"]', b"{}"),
    ):
        with pytest.raises(ValueError):
            parse(f"{b64url(header)}.{b64url(payload)}.{signature}")


@pytest.mark.parametrize("text", ["", "a", "a.b", ".a.b", "e30..AAAA", "..", "e30.e30.AAAA.AAAA"])
def test_text_without_three_segments_is_rejected(text: str) -> None:
    for algorithms in (["EdDSA"], None):
        with pytest.raises(ValueError):
            parse(text, algorithms)  # type: ignore[arg-type]


def test_empty_signature_is_parsed_only_where_the_caller_checks_the_algorithm_itself() -> None:
    unsigned = sign({}, PAYLOAD, ED25519, "EdDSA").rpartition(".")[0] + "."
    with pytest.raises(ValueError, match="three non-empty segments"):
        parse(unsigned, ["EdDSA"])
    parsed = parse(unsigned, None)
    assert (parsed.signature, parsed.payload) == (b"", PAYLOAD)
    with pytest.raises(ValueError, match="does not verify"):
        verify(parsed, ED25519.public_key())


def test_length_is_bounded_by_256_kilobytes_or_the_caller() -> None:
    overhead = len(sign({}, {"a": ""}, ED25519, "EdDSA"))
    for maximum, options in ((256 * 1024, {}), (4096, {"maximum": 4096})):
        payload = {"a": "x" * ((maximum - overhead) // 4 * 3)}
        text = sign({}, payload, ED25519, "EdDSA")
        text += " " * (maximum - len(text))
        with pytest.raises(ValueError, match="base64url"):
            parse(text, ["EdDSA"], **options)
        with pytest.raises(ValueError, match=f"longer than {maximum} bytes"):
            parse(text + " ", ["EdDSA"], **options)


def test_payload_is_signed_as_given_or_as_compact_json() -> None:
    assert parse(sign({}, b'{ "b" :1}', ED25519, "EdDSA"), ["EdDSA"]).payload_bytes == b'{ "b" :1}'
    assert parse(sign({}, {"b": 1}, ED25519, "EdDSA"), ["EdDSA"]).payload_bytes == b'{"b":1}'


def test_short_rsa_keys_are_rejected() -> None:
    short = rsa_key("short", 1024)
    with pytest.raises(ValueError, match="1024 bits"):
        verify(parse(sign({}, PAYLOAD, short)), short.public_key())


def test_the_ed25519_thumbprint_is_that_of_rfc_8037() -> None:
    # RFC 8037 appendix A.1 and A.3.
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519_jwk(ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key()) == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    }
