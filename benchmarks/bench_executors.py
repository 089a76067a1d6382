"""Benchmarks runs with one, two and four executors in attested pods, and what one core opens per second. See docs/scale.md.

* The pods are processes of the Kubernetes stand-in with their own SNP guests. Spark's scheduler creates the executors. A query joins 68 MB
  of CSV, which Python workers read, with 18 MB of Parquet, which Spark reads.
* A proxy before storage and governance counts the bytes that all pods read and the secrets that they request. The counts do not depend
  on the machine. The times do: the pods of this benchmark share its cores.
* What a core opens per second of its own time is measured in this process, with one thread.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.framework import Benchmark, Growth, at_least, reported
from cleanroom.clients.s3 import S3Store
from cleanroom.datasets.csv_text import TextLayout, read_csv
from cleanroom.datasets.encryption import SEGMENT_BYTES, SealedFile, SealedObject, generate_dataset_key, seal_bytes
from cleanroom.datasets.parquet import open_parquet, read_parquet
from cleanroom.documents.dataset import FieldType
from localcloud.tls import LocalAuthority
from sparkapp.object_server import ObjectServer, object_url
from sparkapp.splits import FETCH_SEGMENTS, WHOLE_OBJECT, InputSplit
from tests.executor_data import JOIN, JOINED, RESULT, flights, planes
from tests.executor_pods import figures, rows_of, run_on_pods, size_of, watched
from tests.payload_world import payload_world, prepare
from tests.servers import s3_server
from tests.unit.sparkapp_dataset import DatasetWorld

EXECUTORS = (1, 2, 4)
SERVING = "Parquet to Spark's reader: MB per core-second"
TYPES: dict[str, FieldType] = {"id": "long", "name": "string", "amount": "number"}
ROWS = 1_500_000
CONTEXT = "collaboration/dataset/object"


def _table() -> pa.Table:
    return pa.table({"id": range(ROWS), "name": [f"name of row {n}" for n in range(ROWS)], "amount": [n / 7 for n in range(ROWS)]})


def rates() -> dict[str, float]:
    """Stored MB that a core opens per second of its time: decryption alone, with parsing as CSV, and with decoding as Parquet."""
    table = _table()
    text, file, key = io.BytesIO(), io.BytesIO(), generate_dataset_key()
    pa.csv.write_csv(table, text, pa.csv.WriteOptions(include_header=False))
    pq.write_table(table, file, row_group_size=1 << 18)
    sealed = {"csv": seal_bytes(text.getvalue(), key, CONTEXT), "parquet": seal_bytes(file.getvalue(), key, CONTEXT)}

    def opened(kind: str) -> SealedObject:
        data = sealed[kind]
        return SealedObject(lambda offset, length: data[offset : offset + length], len(data), key, CONTEXT)

    def decrypt() -> None:
        source = opened("csv")
        for first in range(0, source.segments, FETCH_SEGMENTS):
            source.open_segments(first, first + FETCH_SEGMENTS)

    def parse() -> None:
        stream = io.BufferedReader(SealedFile(opened("csv")))
        for _ in read_csv(stream, TYPES, list(TYPES), where="x", layout=TextLayout(verified=True), first_row=1, at_start=True):
            pass

    def decode() -> None:
        parquet = open_parquet(SealedFile(opened("parquet")), TYPES, list(TYPES), where="x")  # type: ignore[arg-type]
        for _ in read_parquet(parquet, TYPES, list(TYPES), where="x", row_groups=range(parquet.num_row_groups)):
            pass

    pa.set_cpu_count(1)
    return {
        "decryption: stored MB per core-second": _rate(decrypt, len(sealed["csv"])),
        "CSV in a Python worker: stored MB per core-second": _rate(parse, len(sealed["csv"])),
        "Parquet in a Python worker: stored MB per core-second": _rate(decode, len(sealed["parquet"])),
    }


def _rate(work: Callable[[], None], size: int) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return size / best / 1e6


def serving_rate(folder: Path) -> float:
    """Plaintext MB that a pod's object server hands to a JVM per second of its processor time, apart from the store's part."""
    world = DatasetWorld(folder, format="parquet")
    file = io.BytesIO()
    pq.write_table(_table(), file, compression="none", use_dictionary=False)
    world.put_sealed("x.parquet", file.getvalue())
    size = world.store.size("x.parquet")
    server = ObjectServer(world.pod()).start()
    url = object_url(world.dataset, InputSplit("x.parquet", size, 0, WHOLE_OBJECT, size), len(file.getvalue()))
    client = [sys.executable, "-c", CLIENT, str(server.path), url.removeprefix("cleanroom://objects"), str(len(file.getvalue()))]

    def serve() -> None:
        subprocess.run(client, check=True)

    try:
        return _rate(serve, len(file.getvalue()))
    finally:
        server.close()


CLIENT = """
import socket, struct, sys
server, path, size = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
step, connection = 8 << 20, socket.socket(socket.AF_UNIX)
connection.connect(server)
for offset in range(0, size, step):
    length = min(step, size - offset)
    connection.sendall(struct.pack(">qii", offset, length, len(path)) + path)
    left = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
    while left:
        left -= len(connection.recv(left))
"""
"""Reads an object as the JVM does (sparkapp/jvm/SealedFiles.java)."""


def fetch_rate(store: S3Store, name: str) -> float:
    """Stored MB that a core fetches per second of its time, over TLS."""
    size = store.size(name)

    def fetch() -> None:
        for offset in range(0, size, FETCH_SEGMENTS * SEGMENT_BYTES):
            store.read_range(name, offset, min(FETCH_SEGMENTS * SEGMENT_BYTES, size - offset))

    return _rate(fetch, size)


async def pods(folder: Path) -> dict[str, float | dict[int, float]]:
    """Run the query with each number of executors."""
    authority = LocalAuthority(folder / "tls")
    found: dict[str, dict[int, float]] = {figure.name: {} for figure in GROWTH}
    with s3_server(folder, authority) as s3, payload_world(folder, authority, s3) as made, watched(made, authority) as (world, traffic):
        inputs = [flights(folder), planes(folder)]
        for executors in EXECUTORS:
            prepared = await prepare(world, f"bench-{executors}", JOIN, inputs, RESULT)
            stored = {rows.name: world.stored_bytes(rows.name) for rows in inputs}
            traffic.clear()
            run = await run_on_pods(world, prepared, folder / f"node-{executors}", size_of(executors, "1g"))
            assert rows_of(world, prepared, run) == JOINED
            values = figures(run, traffic, stored)
            print(f"{executors} executors: {values}", flush=True)
            for name, value in values.items():
                found[name][executors] = value
        largest = max(world.store("flights").list(), key=lambda item: item.size)
        return {**found, "fetching over TLS: stored MB per core-second": fetch_rate(world.store("flights"), largest.key)}


def measure() -> dict[str, float | dict[int, float]]:
    """Measure the rates, then the runs."""
    with tempfile.TemporaryDirectory() as folder:
        return {**rates(), SERVING: serving_rate(Path(folder) / "served"), **asyncio.run(pods(Path(folder)))}


GROWTH = (
    Growth("seconds from submission to the end", unit="s"),
    Growth("flights: bytes read, against stored", 0, "x", fixed=1.2),
    Growth("planes: bytes read, against stored", 0, "x", fixed=1.7),
    Growth("requests to storage"),
    Growth("requests to governance", 12, fixed=40),
    Growth("secrets requested by executors", 10, fixed=0),
    Growth("dataset keys requested by executors", 5, fixed=0),
)
BENCHMARK = Benchmark(
    "runs with 1, 2 and 4 executors in attested pods; what a core opens per second",
    measure,
    [
        at_least("decryption: stored MB per core-second", 200, "MB"),
        reported("CSV in a Python worker: stored MB per core-second", "MB"),
        reported("Parquet in a Python worker: stored MB per core-second", "MB"),
        reported(SERVING, "MB"),
        reported("fetching over TLS: stored MB per core-second", "MB"),
        *GROWTH,
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
