"""The owner's key store: keys are created once, stay private and are never overwritten."""

from __future__ import annotations

import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cleanroom.datasets.encryption import generate_dataset_key
from cleanroom.datasets.keystore import KeyStore
from cleanroom.errors import Conflict, InvalidInput, NotFound, Refused
from cleanroom.secret import write_secret_file
from cleanroom.statements.keys import load_or_create_signing_key


def test_key_is_created_once_with_private_mode_and_exported_to_tink(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys", "flights")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: store.get_or_create("flights"), range(16)))
    assert all(key == keys[0] for key in keys)
    assert stat.S_IMODE(store.path("flights").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path("flights").parent.stat().st_mode) == 0o700
    other = KeyStore(tmp_path / "other", "flights")
    other.import_tink("flights", store.export_tink("flights"))
    assert other.get("flights") == keys[0]


def test_every_folder_that_is_created_for_a_secret_is_private(tmp_path: Path) -> None:
    """Also those above the last one; a folder that exists keeps its mode."""
    (tmp_path / "shared").mkdir(mode=0o755)
    write_secret_file(tmp_path / "shared/a/b/secret", b"x")
    KeyStore(tmp_path / "shared/c/keys", "flights").get_or_create("flights")
    load_or_create_signing_key(tmp_path / "shared/d/keys")
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()}
    assert modes.pop("shared") == 0o755
    assert set(modes) >= {"shared/a", "shared/a/b", "shared/c", "shared/c/keys", "shared/d", "shared/d/keys"}
    assert set(modes.values()) == {0o700}


def test_key_store_rejects_overwriting_and_readable_files(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys", "flights")
    with pytest.raises(NotFound, match="DatasetKeyNotFound"):
        store.get("flights")
    key = store.get_or_create("flights")
    store.put("flights", key)
    with pytest.raises(Conflict, match="DatasetKeyExists"):
        store.put("flights", generate_dataset_key())
    for name in ("../flights", "flights\n", ""):
        with pytest.raises(InvalidInput, match="InvalidName"):
            store.get(name)
    store.path("flights").chmod(0o640)
    with pytest.raises(Refused, match="SecretFileTooOpen"):
        store.get("flights")
    store.path("flights").chmod(0o600)
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(Refused, match="KeyStoreTooOpen"):
        store.get("flights")


def test_datasets_of_one_name_in_two_collaborations_have_two_keys(tmp_path: Path) -> None:
    stores = [KeyStore(tmp_path, collaboration) for collaboration in ("flights", "flights-eu", "Flights", "../flights")]
    keys = [store.get_or_create("prices").reveal() for store in stores]
    assert len(set(keys)) == len(stores)
    assert all(store.path("prices").resolve().is_relative_to(tmp_path.resolve()) for store in stores)


def test_wrapping_is_remembered_after_a_write_that_a_full_disk_has_torn(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, "flights")
    store.get_or_create("flights")
    store.remember_wrapping("flights", 40 * "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.remember_wrapping("flights", 40 * "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.remember_wrapping("flights", 40 * "c")
    assert {40 * "a", 40 * "c"} < store.wrappings("flights")
