"""Signing key files: created once, never replaced, and rejected if unusable."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cleanroom.errors import InvalidInput, Refused
from cleanroom.secret import write_secret_file
from cleanroom.statements import load_or_create_signing_key
from cleanroom.statements.keys import install_next_signing_key, next_signing_key
from cleanroom.statements.sealing import load_or_create_sealing_key

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
OPEN = serialization.NoEncryption()


def test_concurrent_callers_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        kids = set(pool.map(lambda _: load_or_create_signing_key(tmp_path / "keys").public.kid, range(8)))
    assert len(kids) == 1
    assert (tmp_path / "keys/signing-key.pem").stat().st_mode & 0o777 == 0o600


def test_folder_key_and_lock_are_private_to_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "home/keys"
    old = os.umask(0o022)
    try:
        first = load_or_create_signing_key(folder)
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (folder, *folder.iterdir())}
    assert modes == {"keys": 0o700, "signing-key.pem": 0o600, ".signing-key.lock": 0o600}
    assert load_or_create_signing_key(folder).public == first.public


def test_key_is_created_under_an_exclusive_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process waits for the lock, and then finds the key of the first."""
    attempts: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        with open(path.parent / ".signing-key.lock") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        attempts.append(path)
        write_secret_file(path, content)

    monkeypatch.setattr("cleanroom.statements.keys.write_secret_file", write)
    load_or_create_signing_key(tmp_path / "keys")
    assert attempts == [tmp_path / "keys/signing-key.pem"]
    with open(tmp_path / "keys/.signing-key.lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_open_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for use in (load_or_create_signing_key, next_signing_key):
        with pytest.raises(Refused, match="KeyStoreTooOpen"):
            use(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_next_key_replaces_the_key_in_a_private_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    old, successor = load_or_create_signing_key(folder), next_signing_key(folder)
    assert old.public != successor.public == next_signing_key(folder).public
    assert load_or_create_signing_key(folder).public == old.public
    folder.chmod(0o750)
    with pytest.raises(Refused, match="KeyStoreTooOpen"):
        install_next_signing_key(folder)
    folder.chmod(0o700)
    assert load_or_create_signing_key(folder).public == old.public
    install_next_signing_key(folder)
    assert load_or_create_signing_key(folder).public == successor.public
    assert not (folder / "next-signing-key.pem").exists()
    assert repr(successor) == f"SigningKey(kid={successor.public.kid!r})"


@pytest.mark.parametrize(
    ("load", "name", "code"),
    [
        (load_or_create_signing_key, "signing-key.pem", "SigningKeyInvalid"),
        (load_or_create_sealing_key, "sealing-key.pem", "SealingKeyInvalid"),
    ],
    ids=["signing", "sealing"],
)
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
def test_a_file_that_is_not_such_a_key_is_rejected_and_kept(
    tmp_path: Path, content: bytes, load: Callable[[Path], object], name: str, code: str
) -> None:
    file = tmp_path / name
    write_secret_file(file, content)
    with pytest.raises(InvalidInput, match=code):
        load(tmp_path)
    assert file.read_bytes() == content


def test_sealing_key_is_created_once_beside_the_signing_key(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    signing, sealing = load_or_create_signing_key(folder), load_or_create_sealing_key(folder)
    assert load_or_create_sealing_key(folder).public == sealing.public
    assert load_or_create_signing_key(folder).public == signing.public
    assert {file.name for file in folder.glob("*.pem")} == {"signing-key.pem", "sealing-key.pem"}


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
