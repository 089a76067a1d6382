"""Which Parquet objects Spark's own reader may read, and the server that opens them for it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.datasets.encryption import SEGMENT_BYTES
from cleanroom.datasets.parquet import open_parquet
from cleanroom.documents.dataset import FieldType
from cleanroom.errors import CleanRoomError
from cleanroom.spark.job import JobParameters
from sparkapp import jvm, native_parquet, object_server, views
from sparkapp.failures import redact_error, unread_dataset
from sparkapp.listing import DatasetListing, list_objects
from sparkapp.native_parquet import NativeParquet, is_native
from sparkapp.object_server import ObjectServer, object_url
from sparkapp.splits import whole_object
from tests.unit.sparkapp_dataset import DatasetWorld

TYPES: dict[str, FieldType] = {
    "text": "string",
    "small": "integer",
    "big": "long",
    "real": "number",
    "flag": "boolean",
    "day": "date",
    "at": "timestamp",
}
COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["a", None]),
    "small": pa.array([1, 2], pa.int32()),
    "big": pa.array([1, 2], pa.int64()),
    "real": pa.array([1.5, None]),
    "flag": pa.array([True, False]),
    "day": pa.array([date(2013, 1, 1)] * 2),
    "at": pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
}


def native(columns: dict[str, pa.Array], metadata: dict[str, str] | None = None, **options: Any) -> bool:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink, **options)
    file: Any = pa.BufferReader(sink.getvalue())
    return is_native(open_parquet(file, TYPES, list(TYPES), where="x"), TYPES)


def test_file_with_exactly_the_types_of_the_schema_is_native() -> None:
    assert native(COLUMNS)
    assert native({**COLUMNS, "more": pa.array([{"a": 1}] * 2)})
    for compression in ("none", "snappy", "gzip", "zstd"):
        assert native(COLUMNS, compression=compression)
    assert native(COLUMNS, {"org.apache.spark.version": "3.5.1"})
    # These are types of Arrow, not of Parquet.
    assert native({**COLUMNS, "text": pa.array(["a", "b"]).dictionary_encode()})
    assert native({**COLUMNS, "text": pa.array(["a", "b"], pa.large_string())})


@pytest.mark.parametrize(
    "changes",
    [
        {"small": pa.array([1, 2], pa.int16())},
        {"big": pa.array([1, 2], pa.int32())},
        {"big": pa.array([1, 2], pa.uint32())},
        {"real": pa.array([1, 2], pa.float32())},
        {"real": pa.array([1, 2], pa.int32())},
        {"at": pa.array([0, 1], pa.timestamp("us"))},
        {"at": pa.array([0, 1], pa.timestamp("ms", "UTC"))},
        {"at": pa.array([0, 1], pa.timestamp("ns", "UTC"))},
        {"TEXT": pa.array(["b", "c"])},
    ],
    ids=lambda changes: "-".join(f"{name}-{column.type}" for name, column in changes.items()),
)
def test_file_that_needs_a_conversion_is_read_by_our_reader(changes: dict[str, pa.Array]) -> None:
    assert not native({**COLUMNS, **changes})


def test_int96_old_calendars_and_rare_encodings_are_read_by_our_reader() -> None:
    assert not native(COLUMNS, use_deprecated_int96_timestamps=True)
    assert not native(COLUMNS, {"org.apache.spark.version": "2.4.0"})
    assert not native(COLUMNS, {"org.apache.spark.version": "3.5.1", "org.apache.spark.legacyDateTime": ""})
    assert not native(COLUMNS, compression="brotli")
    assert not native(COLUMNS, use_dictionary=False, column_encoding={"real": "BYTE_STREAM_SPLIT"})
    undated = {name: column for name, column in COLUMNS.items() if name not in ("day", "at")}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(undated).replace_schema_metadata({"org.apache.spark.version": "2.4.0"}), sink)
    file: Any = pa.BufferReader(sink.getvalue())
    types = {name: kind for name, kind in TYPES.items() if name in undated}
    assert is_native(open_parquet(file, types, list(types), where="x"), types)


# --- a dataset


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetWorld:
    """A dataset of two objects, the first of three segments, that Spark itself may read."""
    (tmp_path / "jar").touch()
    monkeypatch.setattr(native_parquet, "jar", lambda: tmp_path / "jar")
    world = DatasetWorld(tmp_path / "w", format="parquet")
    (tmp_path / "plain").mkdir()
    for name, count in (("a b", 3000), ("c", 5)):
        table = pa.table({name: [f"{name}{n}" * 60 if name != "id" else n for n in range(count)] for name in ("id", "text", "hidden")})
        pq.write_table(table, tmp_path / "plain" / f"{name}.parquet", compression="none", use_dictionary=False)
    world.upload(tmp_path / "plain")
    return world


def listed(world: DatasetWorld) -> DatasetListing:
    return list_objects(world.pod(), world.dataset, JobParameters())


def found(world: DatasetWorld, listing: DatasetListing | None = None) -> NativeParquet | None:
    return native_parquet.native_parquet(world.pod(), listing or listed(world), ["id", "text"])


def test_large_dataset_is_read_by_spark_with_the_rows_of_its_footers(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = found(world)
    assert dataset is not None
    assert (dataset.rows, len(dataset.urls)) == (3005, 2)
    monkeypatch.setattr(views, "DRIVER_BYTES", {"parquet": 0})
    pod = world.pod()
    (opened,) = views.open_datasets(pod, pod.job(), on_start=lambda dataset: None)
    assert opened.native == dataset


def test_dataset_without_a_manifest_or_without_the_jar_is_read_by_our_reader(world: DatasetWorld, tmp_path: Path) -> None:
    assert found(world, replace(listed(world), rows=None)) is None
    assert found(world, replace(listed(world), dataset=world.dataset.model_copy(update={"format": "csv"}))) is None
    (tmp_path / "jar").unlink()
    assert found(world) is None


def test_other_rows_than_the_manifests_are_refused(world: DatasetWorld) -> None:
    with pytest.raises(CleanRoomError, match="DatasetTampered"):
        found(world, replace(listed(world), rows=3006))


# --- the server


@pytest.mark.parametrize(("length", "parent"), [(73, None), (74, "/tmp"), (200, "/tmp")])
def test_path_of_the_socket_is_short_also_below_a_long_folder(monkeypatch: pytest.MonkeyPatch, length: int, parent: str | None) -> None:
    folder = "/tmp/" + "x" * (length - 5)
    made: list[str | None] = []
    genuine = jvm.tempfile.mkdtemp

    def new_folder(prefix: str, dir: str | None) -> str:
        made.append(dir)
        assert len(f"{dir or folder}/{prefix}12345678/socket") <= jvm.SOCKET_PATH_BYTES == 107
        return genuine(prefix=prefix, dir="/tmp")

    monkeypatch.setattr(jvm.tempfile, "tempdir", folder)
    monkeypatch.setattr(jvm.tempfile, "mkdtemp", new_folder)
    with jvm.listen() as listener:
        shutil.rmtree(Path(listener.getsockname()).parent)
    assert made == [parent]


class Reader:
    """The client in the JVM."""

    def __init__(self, server: ObjectServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(server.path))

    def read(self, path: str, offset: int, length: int) -> bytes:
        self.socket.sendall(struct.pack(">qii", offset, length, len(path.encode())) + path.encode())
        (count,) = struct.unpack(">i", self.receive(4))
        if count < 0:
            raise OSError(self.receive(-count).decode())
        return self.receive(count)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.socket.recv(count - len(data)) or pytest.fail("the server has closed the connection")
        return data


@pytest.fixture
def serve(world: DatasetWorld) -> Iterator[Callable[[], Reader]]:
    server = ObjectServer(world.pod()).start()
    readers: list[Reader] = []

    def connect() -> Reader:
        readers.append(Reader(server))
        return readers[-1]

    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    yield connect
    server.close()
    for reader in readers:
        reader.socket.close()
    assert not server.path.parent.exists()


def path_of(world: DatasetWorld, stored: str = "a b.parquet", **changes: Any) -> tuple[str, int]:
    """The path that Spark requests, and the object's plaintext size."""
    split = replace(whole_object(listed(world), stored), **changes)
    size = (world.root.parent / "plain" / stored).stat().st_size
    return object_url(world.dataset, split, size).removeprefix("cleanroom://objects"), size


def test_any_range_of_an_object_is_served(world: DatasetWorld, serve: Callable[[], Reader]) -> None:
    plain = (world.root.parent / "plain" / "a b.parquet").read_bytes()
    path, size = path_of(world)
    assert size > SEGMENT_BYTES
    reader, other = serve(), serve()
    for offset, length in ((size - 8, 8), (0, 100), (SEGMENT_BYTES - 100, 200), (0, size)):
        assert reader.read(path, offset, length) == plain[offset : offset + length]
    small, _ = path_of(world, "c.parquet")
    assert other.read(small, 0, 4) == b"PAR1"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"header": "28" + "00" * 39}, "CiphertextInvalid"), ({"size": 100}, "CiphertextInvalid"), ({"name": "d.parquet"}, "NoSuchKey")],
)
def test_other_object_than_the_listed_one_is_not_served(
    world: DatasetWorld, serve: Callable[[], Reader], changes: dict[str, Any], code: str
) -> None:
    path, _ = path_of(world, **changes)
    with pytest.raises(OSError, match="cleanroom-failure:") as caught:
        serve().read(path, 0, 10)
    assert (redact_error(caught.value).code, unread_dataset(caught.value)) == (code, "things")


def test_altered_segment_is_not_served(world: DatasetWorld, serve: Callable[[], Reader]) -> None:
    path, size = path_of(world)
    sealed = bytearray(world.store.read("a b.parquet"))
    sealed[len(sealed) // 2] ^= 1
    world.store.put("a b.parquet", bytes(sealed))
    reader = serve()
    assert reader.read(path, 0, 4) == b"PAR1"
    with pytest.raises(OSError, match="cleanroom-failure:") as caught:
        reader.read(path, 0, size)
    assert redact_error(caught.value).code == "CiphertextInvalid"


def test_only_inputs_of_the_job_are_served(world: DatasetWorld, serve: Callable[[], Reader]) -> None:
    path, _ = path_of(world)
    with pytest.raises(OSError, match="cleanroom-failure:") as caught:
        serve().read(path.replace("things", "others"), 0, 4)
    assert redact_error(caught.value).code == "DatasetUnknown"


def test_server_of_an_executor_ends_with_the_jvm(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = jvm.listen()
    path = Path(listener.getsockname())
    early = socket.socket(socket.AF_UNIX)
    early.connect(str(path))  # before the server accepts
    monkeypatch.setattr("sys.argv", ["object_server", str(listener.detach())])
    before = logging.root.manager.disable
    read, write = os.pipe()
    ends = [lambda: os.write(write, b"x"), lambda: os.close(write)]
    kept = os.dup(0)
    os.dup2(read, 0)
    try:
        for end in ends:
            end()
        assert object_server.main() == 0
    finally:
        os.dup2(kept, 0)
        for file in (kept, read):
            os.close(file)
        logging.disable(before)
    early.close()
    shutil.rmtree(path.parent)
