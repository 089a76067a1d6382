"""Uploads of an owner to S3 in each encryption mode, and pinned manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cleanroom.datasets.keystore import KeyStore
from cleanroom.datasets.manifest import MANIFEST_NAME
from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import CleanRoomError
from cleanroom.secret import write_secret_file
from cleanroom.settings import Settings
from starters.operations.datasets import pin_manifest, upload_rows
from starters.operations.session import Session
from tests.servers import S3Server

ROWS = b"tailnum,seats\nN10156,55\nN102UW,182\n"


def litware(seaweedfs: S3Server, folder: Path) -> Session:
    """A session of Litware with its S3 credentials and an empty key folder."""
    credentials = {"awsAccessKeyId": "LITWAREKEY", "awsSecretAccessKey": seaweedfs.litware.secret_access_key.reveal_text()}
    write_secret_file(folder / "connection", json.dumps(credentials).encode())
    values = {
        "collaboration": "flights",
        "party": "litware",
        "ca_file": seaweedfs.ca_file,
        "keys_dir": folder / "keys",
        "storage_hosts": (seaweedfs.host,),
        "s3": {"endpoint_url": seaweedfs.url, "bucket": "litware"},
        "secret_files": {"s3": folder / "connection"},
    }
    return Session(Settings.model_validate(values))


def planes(name: str, folder: str, **changes: object) -> DatasetSpec:
    values = {
        "name": name,
        "format": "csv",
        "schema": {"tailnum": "string", "seats": "integer"},
        "store": {"kind": "aws-s3", "bucket": "litware", "subdirectory": folder, "connectionSecret": "secret:s3"},
    }
    return DatasetSpec.model_validate(values | changes)


def test_pinned_manifest_is_the_one_of_the_last_upload(seaweedfs: S3Server, tmp_path: Path) -> None:
    session, spec = litware(seaweedfs, tmp_path), planes("planes-pinned", "own-pinned", manifest="pinned")
    with pytest.raises(CleanRoomError, match="DatasetKeyNotFound"):
        pin_manifest(session, spec)
    (tmp_path / "planes.csv").write_bytes(ROWS)
    upload_rows(session, spec, [tmp_path / "planes.csv"])
    first = pin_manifest(session, spec)
    assert first.manifest_digest is not None
    assert first.digest() != spec.digest(), "the authorisation covers the manifest"
    upload_rows(session, spec, [tmp_path / "planes.csv"])
    assert pin_manifest(session, spec) == first, "an unchanged file is not stored again"
    (tmp_path / "planes.csv").write_bytes(ROWS + b"N103US,182\n")
    upload_rows(session, spec, [tmp_path / "planes.csv"])
    assert pin_manifest(session, spec) != first
    assert pin_manifest(session, first) == first, "a digest in the file is kept"
    seaweedfs.store(prefix="own-pinned").delete(MANIFEST_NAME)
    with pytest.raises(CleanRoomError, match="NothingToPin"):
        pin_manifest(session, spec)


@pytest.mark.parametrize("mode", ["CSE", "CPK", "SSE"])
def test_stored_rows_are_readable_only_as_the_encryption_mode_allows(mode: str, seaweedfs: S3Server, tmp_path: Path) -> None:
    folder = f"own-{mode.lower()}"
    spec = planes(f"planes-{mode.lower()}", folder, encryption=mode)
    (tmp_path / "planes.csv").write_bytes(ROWS)
    uploaded = upload_rows(litware(seaweedfs, tmp_path), spec, [tmp_path / "planes.csv"])
    assert uploaded.rows == 2

    store = seaweedfs.store(prefix=folder)
    (name,) = (name for name in uploaded.uploaded if ".csv" in name)
    if mode == "CPK":
        # S3 does not store the key, and returns the object only to a client that sends it.
        with pytest.raises(CleanRoomError):
            store.read(name)
        key = KeyStore(tmp_path / "keys", "flights").get(spec.name)
        assert seaweedfs.store(prefix=folder, customer_key=key).read(name) == ROWS
    else:
        assert (store.read(name) == ROWS) is (mode == "SSE")
    assert KeyStore(tmp_path / "keys", "flights").path(spec.name).exists() is (mode != "SSE")
