"""Secure key release: an attested guest obtains a Key Vault key whose release policy names the guest.

The steps and formats, with their sources, are in ``docs/facts/key-release.md#the-exchange``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from azure.core.exceptions import AzureError, HttpResponseError
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cleanroom.bulkheads import bulkhead
from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.jose.jwk import PrivateKey, base_kty, public_jwk, public_key, thumbprint
from cleanroom.jose.x5c import trusted_roots
from cleanroom.keys.kek import unwrap_data_key
from cleanroom.keys.refusal import explain_refusal
from cleanroom.keys.release_policy import ReleasePolicy
from cleanroom.keys.response import ReleaseExpectation, VerifiedRelease, verify_release_response
from cleanroom.keys.vault import KeyVaultSettings, convert_error, convert_malformed_responses
from cleanroom.keys.wrap import RELEASE_ALGORITHMS, KeyWrapAlgorithm, unwrap_key
from cleanroom.keys.wrapping_key import runtime_data, wrapping_jwk
from cleanroom.secret import Secret

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

    from cleanroom.attestation import AttestationEvidence

_WRAPPING_BITS = 2048


class Attestor(Protocol):
    """Produces SNP evidence that binds ``runtime_data`` (``cleanroom.attestation.GuestAttestor``)."""

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        """Return evidence whose report data is the digest of ``runtime_data``."""


class AttestationAuthority(Protocol):
    """Issues and validates attestation tokens (``cleanroom.keys.maa.MaaClient``)."""

    async def attest(self, evidence: AttestationEvidence, runtime_data: bytes, nonce: int | None = None) -> str:
        """Return a token for the evidence."""

    async def validate(self, token: str) -> dict[str, Any]:
        """Return the verified claims of a token."""


@dataclass(frozen=True)
class ReleasedKey:
    """A released key. ``secret`` is PKCS#8 DER for RSA and EC, and raw bytes for oct. It must not be persisted."""

    key_id: str
    """``https://<vault>/keys/<name>/<version>``."""
    kind: Literal["RSA", "EC", "oct"]
    policy: ReleasePolicy
    secret: Secret

    def private_key(self) -> PrivateKey:
        """Return the RSA or EC private key. Raises InvalidInput ``KeyKindMismatch`` for an oct key."""
        if self.kind == "oct":
            raise InvalidInput("KeyKindMismatch", f"{self.key_id} is a symmetric key, not a key pair.")
        key = serialization.load_der_private_key(self.secret.reveal(), None)
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        return key

    def unwrap_data_key(self, wrapped: str) -> Secret:
        """Unwrap a DEK with this key (:func:`cleanroom.keys.unwrap_data_key`)."""
        key = self.private_key()
        if not isinstance(key, rsa.RSAPrivateKey):
            raise InvalidInput("KeyKindMismatch", f"{self.key_id} is an EC key; a key encryption key must be RSA.")
        return unwrap_data_key(key, wrapped)


def unwrap_release(verified: VerifiedRelease, wrapping: rsa.RSAPrivateKey) -> ReleasedKey:
    """Unwrap a verified release, and check the key against the public half in the signed response.

    Raises:
        Refused: ``KeyUnwrapFailed``, ``ReleasedKeyInconsistent``.
    """
    target = unwrap_key(wrapping, verified.ciphertext, verified.algorithm)
    kind = base_kty(verified.jwk.get("kty"))
    if kind == "oct":
        size = verified.jwk.get("key_size")
        if isinstance(size, int) and size != 8 * len(target):
            raise _inconsistent(f"an oct key of {8 * len(target)} bits, but the response states {size}")
        return ReleasedKey(verified.key_id, "oct", verified.policy, Secret(target))
    try:
        key = serialization.load_der_private_key(target, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _inconsistent(f"no PKCS#8 key although kty is {verified.jwk.get('kty')!r}") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise _inconsistent("a key of an unsupported kind")
    # Integers, not text: services spell e as AQAB and as AAEAAQ.
    try:
        stated = public_key(verified.jwk).public_numbers()
    except InvalidInput as error:
        raise _inconsistent("a key whose stated public half does not parse") from error
    if key.public_key().public_numbers() != stated:
        raise _inconsistent("a private key that does not match the stated public key")
    return ReleasedKey(verified.key_id, "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC", verified.policy, Secret(target))


def _inconsistent(what: str) -> Refused:
    return Refused("ReleasedKeyInconsistent", f"Key Vault's release response, although signed, unwrapped to {what}.")


async def release_key(
    *,
    vault: KeyVaultSettings,
    credential: TokenCredential,
    name: str,
    attestor: Attestor,
    maa: AttestationAuthority,
    version: str | None = None,
    policy: ReleasePolicy | None = None,
    algorithm: KeyWrapAlgorithm = KeyWrapAlgorithm.RSA_AES_KEY_WRAP_256,
) -> ReleasedKey:
    """Release a key into this guest: create an RSA key, get evidence and a token for it, release, verify and unwrap.

    Args:
        vault: The vault that holds the key.
        credential: An identity with the data action keys/release.
        name: The key's name.
        attestor: The guest's sidecar.
        maa: The attestation authority that the key's policy names.
        version: The key's version; by default its latest.
        policy: The release policy that the key must have. A key with another one is rejected after the release.
        algorithm: How the vault wraps the key.

    Raises:
        Refused: ``ForbiddenByRbac`` (role), ``AttestationNotAccepted`` (authority), ``ReleasePolicyNotMet`` (claims), ``KeyDisabled``,
            ``KeyReleaseRefused``, each with a comparison of policy and token in ``details``; the codes of
            :func:`verify_release_response` and :func:`unwrap_release`; ``AttestationTokenNotOurs``.
        NotFound: ``KeyNotFound``.
        Unavailable: ``KeyVaultUnreachable`` and the service's 429 and 5xx codes.
        Internal: ``KeyVaultAnswerUnexpected``.
        CleanRoomError: The errors of the attestor and of MAA.
    """
    if algorithm not in RELEASE_ALGORITHMS:
        raise InvalidInput(
            "UnsupportedKeyWrapAlgorithm", f"enc: {algorithm} is not supported; use one of {', '.join(sorted(RELEASE_ALGORITHMS))}."
        )
    wrapping = await asyncio.to_thread(rsa.generate_private_key, public_exponent=65537, key_size=_WRAPPING_BITS)
    kid = thumbprint(public_jwk(wrapping))
    bound = runtime_data(wrapping.public_key())
    evidence = await attestor.attest(bound)
    token = await maa.attest(evidence, bound)
    claims = await maa.validate(token)
    _check_token_is_ours(claims, wrapping.public_key(), kid)
    return await bulkhead("key-vault").run(_release, vault, credential, name, version, policy, algorithm, wrapping, kid, token, claims)


def _check_token_is_ours(claims: dict[str, Any], wrapping: rsa.RSAPublicKey, kid: str) -> None:
    try:
        jwk = wrapping_jwk(claims)
        ours = jwk["kid"] == kid and public_key(jwk).public_numbers() == wrapping.public_numbers()
    except InvalidInput:
        ours = False
    if not ours:
        raise Refused(
            "AttestationTokenNotOurs",
            "MAA's token does not contain the key that this guest attested; a key released for it would go to another guest.",
            hint="Check the address of the attestation authority and any proxy in between.",
        )


def _release(
    vault: KeyVaultSettings,
    credential: TokenCredential,
    name: str,
    version: str | None,
    policy: ReleasePolicy | None,
    algorithm: KeyWrapAlgorithm,
    wrapping: rsa.RSAPrivateKey,
    kid: str,
    token: str,
    claims: dict[str, Any],
) -> ReleasedKey:
    nonce = secrets.token_urlsafe(24)
    requested = vault.key_id(name, version)
    with vault.client(credential) as client:
        try:
            with convert_malformed_responses(f"release of {requested}"):
                value = str(client.release_key(name, token, version=version, algorithm=str(algorithm), nonce=nonce).value)
        except HttpResponseError as error:
            if error.status_code != 403:
                raise convert_error(error, f"release of {requested}") from error
            known, source = _policy_of(client, name, version), "vault"
            if known is None:
                known, source = policy, "expected"
            at = dt.datetime.now(dt.UTC)
            raise explain_refusal(error, key_id=requested, claims=claims, policy=known, policy_source=source, at=at) from error
        except AzureError as error:
            raise convert_error(error, f"release of {requested}") from error
    expectation = ReleaseExpectation(key_id=requested, nonce=nonce, algorithm=str(algorithm), wrapping_kid=kid, policy=policy)
    roots = trusted_roots(vault.release_ca_file or vault.ca_file)
    return unwrap_release(verify_release_response(value, expectation, roots=roots), wrapping)


def _policy_of(client: Any, name: str, version: str | None) -> ReleasePolicy | None:
    """Return the key's policy for the explanation, or None if the caller may not read the key, as is usual."""
    try:
        with convert_malformed_responses(f"policy of {name}"):
            return ReleasePolicy.parse(bytes(client.get_key(name, version).properties.release_policy.encoded_policy))
    except (AzureError, CleanRoomError):
        return None
