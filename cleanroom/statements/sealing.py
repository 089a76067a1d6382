"""Hands a secret over to another user: sealed to the recipient's published key, and signed with the sender's.

The recipient publishes an X25519 key in governance, as a document that only the recipient can accept. The sender seals with HPKE
(RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM), and signs the digest of the result. HPKE's ``info`` names
collaboration, sender and recipient, so nobody can sign what another sender has sealed.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError

from cleanroom.documents.base import WireModel
from cleanroom.documents.validation import describe_validation, parse_document
from cleanroom.errors import InvalidInput, Refused
from cleanroom.identifiers import sha256_hex
from cleanroom.joining import parts_digest
from cleanroom.jose.encoding import b64_any, b64url
from cleanroom.jose.jwk import thumbprint
from cleanroom.secret import Secret
from cleanroom.statements.keys import KeyHistory, SigningKey, load_or_create_private_key
from cleanroom.statements.model import Handover
from cleanroom.statements.signing import sign, verify

SEALING_LABELS = {"type": "sealing-key"}
LIFETIME = dt.timedelta(days=30)
"""How long a sealed secret can be opened."""
_FILE = "sealing-key.pem"
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class SealingJwk(BaseModel):
    """An X25519 public key as an OKP JWK (RFC 8037). ``kid`` is its thumbprint (RFC 7638)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kty: Literal["OKP"] = "OKP"
    crv: Literal["X25519"] = "X25519"
    x: str
    kid: str

    def public_key(self) -> X25519PublicKey:
        """Return the key.

        Raises:
            InvalidInput: ``SealingKeyInvalid``.
        """
        try:
            return X25519PublicKey.from_public_bytes(b64_any(self.x))
        except ValueError as error:
            raise InvalidInput("SealingKeyInvalid", "sealing key: x is not an X25519 public key.", cause=str(error)) from error


class SealingKeyDocument(WireModel):
    """The document ``sealing-key.<user>.<number>``. Only that user can accept it, so governance confirms the owner of the key."""

    user_id: str
    key: SealingJwk

    def to_data(self) -> str:
        """Return the ``data`` string for governance."""
        return self.model_dump_json(by_alias=True)


def parse_sealing_document(data: str, *, document_id: str) -> SealingKeyDocument:
    """Parse a document's ``data``.

    Raises:
        InvalidInput: ``SealingKeyInvalid``.
    """
    return parse_document(SealingKeyDocument, data, code="SealingKeyInvalid", what=document_id)


class SealingKey:
    """An X25519 key pair. Only :func:`open_sealed` uses the private half."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private = private
        jwk = {"kty": "OKP", "crv": "X25519", "x": b64url(private.public_key().public_bytes_raw())}
        self.public = SealingJwk(x=jwk["x"], kid=thumbprint(jwk))

    def __repr__(self) -> str:
        return f"SealingKey(kid={self.public.kid!r})"


def load_or_create_sealing_key(folder: Path) -> SealingKey:
    """Return the sealing key in ``folder`` (mode 0700, ``sealing-key.pem`` of mode 0600), and create it at first use.

    Raises:
        Refused: ``KeyStoreTooOpen``, ``SecretFileTooOpen`` if another user could replace or read the key.
        InvalidInput: ``SealingKeyInvalid``.
    """
    path, key = load_or_create_private_key(folder, _FILE, "sealing key", X25519PrivateKey.generate)
    if not isinstance(key, X25519PrivateKey):
        raise InvalidInput("SealingKeyInvalid", f"sealing key: {path} is not an X25519 key.")
    return SealingKey(key)


class SealedSecret(BaseModel):
    """A sealed secret, as a file that may take any way to its recipient."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    handover: str
    """The :class:`~cleanroom.statements.Handover` that the sender has signed."""
    sealed: str
    """Base64url of HPKE's encapsulated key and ciphertext."""


def seal(
    secret: Secret, recipient: SealingKeyDocument, *, collaboration: str, sender: str, key: SigningKey, now: dt.datetime
) -> SealedSecret:
    """Seal ``secret`` for ``recipient``, and sign it with the key of the user ``sender``."""
    info = _info(collaboration, sender, recipient.user_id)
    sealed = _SUITE.encrypt(secret.reveal(), recipient.key.public_key(), info)
    handover = Handover(
        collaboration=collaboration,
        signer=sender,
        expires=now + LIFETIME,
        recipient=recipient.user_id,
        key=recipient.key.kid,
        digest=sha256_hex(sealed),
    )
    return SealedSecret(handover=sign(handover, key), sealed=b64url(sealed))


def parse_sealed(data: bytes, *, source: str) -> SealedSecret:
    """Parse the file of a sealed secret.

    Raises:
        InvalidInput: ``SealedSecretMalformed``.
    """
    try:
        return SealedSecret.model_validate_json(data)
    except ValidationError as error:
        message = f"{source} is not a sealed secret: {describe_validation(error)}."
        raise InvalidInput("SealedSecretMalformed", message, hint="Ask the sender for the file again.") from error


def open_sealed(
    secret: SealedSecret, key: SealingKey, *, collaboration: str, recipient: str, sender_keys: KeyHistory, now: dt.datetime
) -> Secret:
    """Verify the sender's signature and open a sealed secret.

    Raises:
        Refused: An error of :func:`cleanroom.statements.signing.verify`; ``NotTheRecipient``; ``SealedForOtherKey``;
            ``SealedSecretTampered``.
        InvalidInput: ``SealedSecretMalformed``.
    """
    handover = verify(Handover, secret.handover, sender_keys, collaboration=collaboration, now=now)
    if handover.recipient != recipient:
        raise Refused("NotTheRecipient", f"The sealed secret is for user {handover.recipient}, not {recipient}.")
    if handover.key != key.public.kid:
        raise Refused(
            "SealedForOtherKey",
            f"The secret is sealed for key {handover.key}; your key is {key.public.kid}.",
            hint="Publish your key with `cleanroom key publish`, and ask the sender to seal again.",
        )
    try:
        sealed = b64_any(secret.sealed)
    except ValueError as error:
        raise InvalidInput("SealedSecretMalformed", "The sealed secret is not base64url.") from error
    try:
        if sha256_hex(sealed) != handover.digest:
            raise InvalidTag
        return Secret(_SUITE.decrypt(sealed, key.private, _info(collaboration, handover.signer, recipient)))
    except (InvalidTag, ValueError) as error:
        raise Refused("SealedSecretTampered", "The sealed secret is not the one that the sender signed.") from error


def _info(collaboration: str, sender: str, recipient: str) -> bytes:
    return parts_digest("sealed-secret", collaboration, sender, recipient)
