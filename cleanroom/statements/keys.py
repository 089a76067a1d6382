"""The signing key of a person, and the document that publishes its public half."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from cleanroom.documents.base import WireModel
from cleanroom.documents.validation import parse_document
from cleanroom.errors import InvalidInput, NotFound
from cleanroom.jose.encoding import b64_any
from cleanroom.jose.jwk import ed25519_jwk
from cleanroom.secret import read_secret_file, write_secret_file

KEY_LABELS = {"type": "approver-key"}
_FILE = "signing-key.pem"


class PublicJwk(BaseModel):
    """An Ed25519 public key as an OKP JWK (RFC 8037); ``kid`` is its RFC 7638 thumbprint."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: str
    kid: str

    def public_key(self) -> Ed25519PublicKey:
        """The key.

        Raises:
            InvalidInput: ``ApproverKeyInvalid``.
        """
        try:
            return Ed25519PublicKey.from_public_bytes(b64_any(self.x))
        except ValueError as error:
            raise InvalidInput("ApproverKeyInvalid", "approver key: x is not an Ed25519 public key.", cause=str(error)) from error


class KeyDocument(WireModel):
    """Document ``approver-key-<user>``: accepted by that user alone, so governance vouches for whose key it is."""

    user_id: str
    keys: tuple[PublicJwk, ...] = Field(min_length=1, max_length=20)

    def to_data(self) -> str:
        """The ``data`` string for governance."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), separators=(",", ":"))

    def find(self, kid: str) -> PublicJwk:
        """The key named ``kid``.

        Raises:
            NotFound: ``ApproverKeyUnknown``.
        """
        for key in self.keys:
            if key.kid == kid:
                return key
        raise NotFound("ApproverKeyUnknown", f"signature: key {kid!r} is not among the keys that user {self.user_id} published.")


class SigningKey:
    """A private Ed25519 key; only :func:`cleanroom.statements.signing.sign` uses its private half."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = PublicJwk.model_validate(ed25519_jwk(private.public_key()))

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.public.kid!r})"


def parse_key_document(data: str, *, document_id: str) -> KeyDocument:
    """Read a key document's ``data``.

    Raises:
        InvalidInput: ``ApproverKeyInvalid``.
    """
    return parse_document(KeyDocument, data, code="ApproverKeyInvalid", what=document_id)


def load_or_create_signing_key(folder: Path) -> SigningKey:
    """The person's signing key in ``folder`` (``signing-key.pem``, mode 0600), made at first use; concurrent callers get one key.

    Raises:
        Refused: ``SecretFileTooOpen``.
        InvalidInput: ``SigningKeyInvalid``.
    """
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / _FILE
    with open(folder / ".signing-key.lock", "w", opener=lambda p, f: os.open(p, f, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_secret_file(path, pem)
    try:
        key = serialization.load_pem_private_key(read_secret_file(path, what="signing key").reveal(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Not PEM, locked with a passphrase, of a kind that nobody knows.
        raise InvalidInput(
            "SigningKeyInvalid",
            f"signing key: {path} is not a PEM private key that can be read without a passphrase.",
            hint="Move it away; a new key is made at first use and must be published (`cleanroom key publish`).",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput("SigningKeyInvalid", f"signing key: {path} is not an Ed25519 key.")
    return SigningKey(key)
