"""An owner's own upload and download in each mode of encryption, on a real S3: what is stored, and who can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import CleanRoomError
from cleanroom.secret import write_secret_file
from cleanroom.settings import Settings
from starters.dataset import upload_rows
from starters.session import Session
from tests.servers import S3Server

ROWS = b"tailnum,seats\nN10156,55\nN102UW,182\n"


@pytest.mark.parametrize("mode", ["CSE", "CPK", "SSE"])
def test_each_encryption_stores_rows_as_it_says(mode: str, seaweedfs: S3Server, tmp_path: Path) -> None:
    credentials = {"awsAccessKeyId": "LITWAREKEY", "awsSecretAccessKey": seaweedfs.litware.secret_access_key.reveal_text()}
    write_secret_file(tmp_path / "connection", json.dumps(credentials).encode())
    settings = Settings.model_validate(
        {
            "party": "litware",
            "ca_file": seaweedfs.ca_file,
            "keys_dir": tmp_path / "keys",
            "storage_hosts": (seaweedfs.host,),
            "s3": {"endpoint_url": seaweedfs.url, "bucket": "litware"},
            "secret_files": {"s3": tmp_path / "connection"},
        }
    )
    folder = f"own-{mode.lower()}"
    spec = DatasetSpec.model_validate(
        {
            "name": f"planes-{mode.lower()}",
            "format": "csv",
            "schema": {"tailnum": "string", "seats": "integer"},
            "encryption": mode,
            "store": {"kind": "aws-s3", "bucket": "litware", "subdirectory": folder, "connectionSecret": "secret:s3"},
        }
    )
    (tmp_path / "planes.csv").write_bytes(ROWS)
    uploaded = upload_rows(Session(settings), spec, [tmp_path / "planes.csv"])
    assert uploaded.rows == 2

    store = seaweedfs.store(prefix=folder)
    (name,) = (name for name in uploaded.uploaded if ".csv" in name)
    if mode == "CPK":
        # The service itself has no key: it answers nobody who does not bring it.
        with pytest.raises(CleanRoomError):
            store.read(name)
        key = KeyStore(tmp_path / "keys").get(spec.name)
        assert seaweedfs.store(prefix=folder, customer_key=key).read(name) == ROWS
    else:
        assert (store.read(name) == ROWS) is (mode == "SSE")
    assert KeyStore(tmp_path / "keys").path(spec.name).exists() is (mode != "SSE")
