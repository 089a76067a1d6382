"""A collaborator's signing key, and the governance document that publishes its public half."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field

from cleanroom.documents.base import WireModel
from cleanroom.documents.validation import parse_document
from cleanroom.errors import InvalidInput, NotFound, Refused
from cleanroom.jose.encoding import b64_any
from cleanroom.jose.jwk import ed25519_jwk
from cleanroom.secret import make_private_folder, read_secret_file, require_private_folder, write_secret_file

KEY_LABELS = {"type": "approver-key"}
_FILE = "signing-key.pem"
_NEXT_FILE = "next-signing-key.pem"


class PublicJwk(BaseModel):
    """An Ed25519 public key as an OKP JWK (RFC 8037). ``kid`` is its thumbprint (RFC 7638)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: str
    kid: str

    def public_key(self) -> Ed25519PublicKey:
        """Return the key.

        Raises:
            InvalidInput: ``ApproverKeyInvalid``.
        """
        try:
            return Ed25519PublicKey.from_public_bytes(b64_any(self.x))
        except ValueError as error:
            raise InvalidInput("ApproverKeyInvalid", "approver key: x is not an Ed25519 public key.", cause=str(error)) from error


class KeyDocument(WireModel):
    """The document ``approver-key.<user>``. Only that user can accept it, so governance confirms the owner of the key."""

    user_id: str
    keys: tuple[PublicJwk, ...] = Field(min_length=1, max_length=20)

    def to_data(self) -> str:
        """Return the ``data`` string for governance."""
        return self.model_dump_json(by_alias=True)

    def history(self) -> KeyHistory:
        """Return these keys as a history without retirements."""
        return KeyHistory(user_id=self.user_id, keys=self.keys)


class RetirementDocument(WireModel):
    """The document ``approver-key.<user>.<number>``, which retires keys of its user and publishes their successors."""

    user_id: str
    retires: tuple[str, ...] = Field(min_length=1, max_length=20)
    """The ``kid`` of every key that is retired."""
    keys: tuple[PublicJwk, ...] = Field(max_length=20)

    def to_data(self) -> str:
        """Return the ``data`` string for governance."""
        return self.model_dump_json(by_alias=True)


class KeyHistory(BaseModel):
    """The keys that a user published, and the position in governance's ledger at which each retired key was retired."""

    model_config = ConfigDict(frozen=True)

    user_id: str
    keys: tuple[PublicJwk, ...]
    retired: dict[str, int] = {}

    @property
    def active(self) -> tuple[PublicJwk, ...]:
        """The keys that are not retired."""
        return tuple(key for key in self.keys if key.kid not in self.retired)

    def find(self, kid: str, recorded_at: int | None = None) -> PublicJwk:
        """Return the key with this ``kid``.

        Args:
            kid: Thumbprint of the key.
            recorded_at: Position in governance's ledger at which the statement was recorded. None for a statement without a record:
                a retired key does not verify it. The statement's own times do not count, because a thief chooses them.

        Raises:
            NotFound: ``ApproverKeyUnknown``.
            Refused: ``ApproverKeyRetired``.
        """
        key = next((key for key in self.keys if key.kid == kid), None)
        if key is None:
            raise NotFound("ApproverKeyUnknown", f"signature: key {kid!r} is not among the keys that user {self.user_id} published.")
        retired_at = self.retired.get(kid)
        if retired_at is not None and (recorded_at is None or recorded_at >= retired_at):
            raise Refused(
                "ApproverKeyRetired",
                f"signature: user {self.user_id} retired key {kid!r} at position {retired_at} of governance's ledger; "
                + ("the statement has no earlier record." if recorded_at is None else f"the statement was recorded at {recorded_at}."),
                hint="Sign again with the current key.",
            )
        return key


class SigningKey:
    """An Ed25519 key pair. Only :func:`cleanroom.statements.signing.sign` uses the private half."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = PublicJwk.model_validate(ed25519_jwk(private.public_key()))

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.public.kid!r})"


def parse_key_document(data: str, *, document_id: str) -> KeyDocument:
    """Parse a key document's ``data``.

    Raises:
        InvalidInput: ``ApproverKeyInvalid``.
    """
    return parse_document(KeyDocument, data, code="ApproverKeyInvalid", what=document_id)


def parse_retirement_document(data: str, *, document_id: str) -> RetirementDocument:
    """Parse a retirement document's ``data``.

    Raises:
        InvalidInput: ``ApproverKeyInvalid``.
    """
    return parse_document(RetirementDocument, data, code="ApproverKeyInvalid", what=document_id)


def install_next_signing_key(folder: Path) -> None:
    """Replace the signing key in ``folder`` by the key of :func:`next_signing_key`. The old private key is deleted."""
    folder = folder.expanduser()
    require_private_folder(folder)
    os.replace(folder / _NEXT_FILE, folder / _FILE)


def next_signing_key(folder: Path) -> SigningKey:
    """Return the key that will replace the signing key in ``folder``; create it at first use, so that a retry uses the same one."""
    return _load_or_create(folder, _NEXT_FILE)


def load_or_create_signing_key(folder: Path) -> SigningKey:
    """Return the signing key in ``folder`` (mode 0700, ``signing-key.pem`` of mode 0600), and create it at first use.

    Concurrent callers get one key.

    Raises:
        Refused: ``KeyStoreTooOpen``, ``SecretFileTooOpen`` if another user could replace or read the key.
        InvalidInput: ``SigningKeyInvalid``.
    """
    return _load_or_create(folder, _FILE)


def _load_or_create(folder: Path, name: str) -> SigningKey:
    path, key = load_or_create_private_key(folder, name, "signing key", Ed25519PrivateKey.generate)
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput("SigningKeyInvalid", f"signing key: {path} is not an Ed25519 key.")
    return SigningKey(key)


def load_or_create_private_key(
    folder: Path, name: str, what: Literal["signing key", "sealing key"], generate: Callable[[], Ed25519PrivateKey | X25519PrivateKey]
) -> tuple[Path, PrivateKeyTypes]:
    """Return the file ``name`` in ``folder`` and the private key in it, which ``generate`` makes at first use.

    Raises:
        Refused: ``KeyStoreTooOpen``, ``SecretFileTooOpen`` if another user could replace or read the key.
        InvalidInput: ``SigningKeyInvalid``, ``SealingKeyInvalid``.
    """
    folder = folder.expanduser()
    make_private_folder(folder)
    require_private_folder(folder)
    path = folder / name
    with open(folder / f".{what.replace(' ', '-')}.lock", "w", opener=lambda p, f: os.open(p, f, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            pem = generate().private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            write_secret_file(path, pem)
    try:
        return path, serialization.load_pem_private_key(read_secret_file(path, what=what).reveal(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # It is not PEM, is encrypted, or is of an unsupported kind.
        raise InvalidInput(
            "SigningKeyInvalid" if what == "signing key" else "SealingKeyInvalid",
            f"{what}: {path} is not an unencrypted PEM private key.",
            hint="Move it away. A new key is created at first use, and must be published (`cleanroom key publish`).",
        ) from error
