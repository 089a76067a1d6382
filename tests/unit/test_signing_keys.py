"""Signing key files: created once, never replaced, and rejected if unusable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cleanroom.errors import InvalidInput, Refused
from cleanroom.secret import write_secret_file
from cleanroom.statements import load_or_create_signing_key

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
OPEN = serialization.NoEncryption()


def test_concurrent_callers_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        kids = set(pool.map(lambda _: load_or_create_signing_key(tmp_path / "keys").public.kid, range(8)))
    assert len(kids) == 1
    assert (tmp_path / "keys/signing-key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"not a key",
        Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"passphrase")),
        ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, OPEN),
        Ed25519PrivateKey.generate().public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["text", "with a passphrase", "another kind", "a public key"],
)
def test_a_file_that_is_not_a_signing_key_is_rejected_and_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "signing-key.pem"
    write_secret_file(file, content)
    with pytest.raises(InvalidInput, match="SigningKeyInvalid"):
        load_or_create_signing_key(tmp_path)
    assert file.read_bytes() == content


def test_a_key_file_that_others_can_read_is_rejected(tmp_path: Path) -> None:
    load_or_create_signing_key(tmp_path)
    (tmp_path / "signing-key.pem").chmod(0o644)
    with pytest.raises(Refused, match="SecretFileTooOpen"):
        load_or_create_signing_key(tmp_path)


def test_signing_key_in_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    key = load_or_create_signing_key(folder)
    for mode in (0o755, 0o770, 0o701):
        folder.chmod(mode)
        with pytest.raises(Refused, match="KeyStoreTooOpen"):
            load_or_create_signing_key(folder)
    folder.chmod(0o700)
    (folder / "signing-key.pem").chmod(0o640)
    with pytest.raises(Refused, match="SecretFileTooOpen"):
        load_or_create_signing_key(folder)
    (folder / "signing-key.pem").chmod(0o600)
    assert load_or_create_signing_key(folder).public == key.public
