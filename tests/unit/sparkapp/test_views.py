"""How datasets become views without Spark: what the driver reads itself, what tasks read, and which columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cleanroom.spark.job import JobConfig, JobParameters
from sparkapp import splits, views
from sparkapp.failures import TaskFailed, redact_error, unread_dataset
from sparkapp.listing import DatasetListing, list_objects
from sparkapp.reading import SPARK_TYPES, TaskReading
from sparkapp.views import LoadFailed, OpenedDataset, View, complete_views, open_datasets, query_over, register_views
from tests.folder_pod import FolderPod
from tests.unit.sparkapp.fake_spark import Session, spark
from tests.unit.sparkapp_dataset import DatasetWorld

__all__ = ["spark"]

ROWS = b"".join(b"%d,text %d,h\n" % (number, number) for number in range(20))
DDL = "`id` bigint, `text` string"


@pytest.fixture
def world(tmp_path: Path) -> DatasetWorld:
    world = DatasetWorld(tmp_path / "w")
    world.put_sealed("a.csv", ROWS)
    return world


def opened(world: DatasetWorld, pod: FolderPod | None = None) -> list[OpenedDataset]:
    pod = pod or world.pod()
    started: list[str] = []
    found = open_datasets(pod, pod.job(), on_start=lambda dataset: started.append(dataset.name))
    assert started == [dataset.name for dataset in pod.job().datasets]
    return found


def registered(session: Session, pod: FolderPod, datasets: list[OpenedDataset]) -> list[View]:
    """Register the datasets. Those that the query reads itself are not loaded yet."""
    loaded: list[View] = []
    fake: Any = session
    found = register_views(fake, pod, pod.job(), datasets, on_loaded=loaded.append)
    assert loaded == [view for view in found if view.reading is None]
    return found


def completed(views: list[View]) -> list[View]:
    loaded: list[View] = []
    complete_views(views, on_loaded=loaded.append)
    return loaded


@pytest.mark.parametrize(
    ("cores", "stored", "parts"),
    [(1, 0, 2), (8, 0, 8), (2, 15 << 20, 3), (2, 200 << 20, 50), (2, 800 << 20, 200), (2, 1 << 40, 200), (640, 1 << 40, 640)],
)
def test_a_shuffle_has_parts_for_its_inputs_and_cores(
    spark: Session, world: DatasetWorld, monkeypatch: pytest.MonkeyPatch, cores: int, stored: int, parts: int
) -> None:
    datasets = opened(world)
    monkeypatch.setattr(DatasetListing, "stored_bytes", lambda listing: stored)
    spark.defaultParallelism = cores
    registered(spark, world.pod(), datasets)
    assert spark.settings == {"spark.sql.shuffle.partitions": str(parts)}


@pytest.fixture
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks read all datasets, and each task one object or row group."""
    monkeypatch.setattr(views, "DRIVER_BYTES", {"csv": 0})
    monkeypatch.setattr(splits, "MIN_SPLIT_BYTES", splits.SEGMENT_BYTES)
    monkeypatch.setattr(splits, "MAX_SPLIT_BYTES", 1)


def uploaded(world: DatasetWorld, *parts: bytes) -> None:
    """Upload objects with a manifest in the place of those of :func:`world`."""
    world.store.delete("a.csv")
    folder = world.root / "plain"
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        (folder / f"{number}.csv").write_bytes(part)
    world.upload(folder)


def test_driver_reads_a_small_dataset(world: DatasetWorld, spark: Session) -> None:
    (dataset,) = opened(world)
    assert dataset.columns == ("id", "text")
    assert dataset.table is not None
    assert dataset.table.column("id").to_pylist() == list(range(20))
    (view,) = registered(spark, world.pod(), [dataset])
    assert (view.rows, view.dataset) == (20, world.dataset)
    assert spark.views["things"].source == f"20 rows as {DDL}"


@pytest.mark.parametrize(
    ("floors", "filters"),
    [
        ({}, ()),
        ({"allowedOutputColumns": ["id"], "identityColumn": "text"}, ()),
        ({"minGroupSize": 5, "identityColumn": "TEXT"}, ("`text` IS NOT NULL",)),
    ],
)
def test_rows_without_an_identity_are_left_out_under_a_floor(
    tmp_path: Path, spark: Session, floors: dict[str, Any], filters: tuple[str, ...]
) -> None:
    world = DatasetWorld(tmp_path / "f", floors=floors)
    world.put_sealed("a.csv", ROWS)
    (view,) = registered(spark, world.pod(), opened(world))
    assert (spark.views["things"].filters, view.rows) == (filters, 20)


@pytest.mark.parametrize(("limit", "by_driver"), [(0, True), (-1, False)])
def test_driver_reads_up_to_its_limit(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch, limit: int, by_driver: bool) -> None:
    stored = sum(item.size for item in world.store.list())
    monkeypatch.setattr(views, "DRIVER_BYTES", {"csv": stored + limit})
    (dataset,) = opened(world)
    assert (dataset.table is not None) is by_driver


def test_limits_of_the_driver(world: DatasetWorld) -> None:
    opened(world)
    assert views.DRIVER_BYTES == {"csv": 64 << 20, "json": 64 << 20, "parquet": 16 << 20}


@pytest.mark.usefixtures("many_tasks")
def test_dataset_without_a_manifest_is_read_into_memory_or_disk(world: DatasetWorld, spark: Session) -> None:
    world.put_sealed("b.csv", b"20,b,h\n")
    pod = world.pod()
    (view,) = registered(spark, pod, opened(world, pod))
    assert (view.rows, view.reading) == (21, None)
    mapped = spark.views["things"]
    assert (mapped.ddl, mapped.collect()) == (DDL, [{"id": n, "text": f"text {n}" if n < 20 else "b"} for n in range(21)])
    assert spark.steps[0] == "range 0 2 1 2"
    assert "Disk Memory" in spark.steps[1]
    assert len(spark.steps) == 2


@pytest.mark.usefixtures("many_tasks")
def test_dataset_that_the_query_reads_once_is_read_while_it_runs(world: DatasetWorld, spark: Session) -> None:
    uploaded(world, ROWS, b"20,b,h\n")
    pod = world.pod()
    (view,) = registered(spark, pod, opened(world, pod))
    assert view.rows == 21
    assert spark.steps == ["range 0 2 1 2"]
    assert len(spark.views["things"].collect()) == 21
    assert completed([view]) == [view]
    assert spark.steps == ["range 0 2 1 2"]  # nothing was left to read


@pytest.mark.usefixtures("many_tasks")
def test_dataset_that_the_query_names_twice_is_kept_in_memory_or_on_disk(world: DatasetWorld, spark: Session) -> None:
    uploaded(world, ROWS)
    pod = world.pod("SELECT a.id FROM things AS a JOIN things AS b USING (id)")
    (view,) = registered(spark, pod, opened(world, pod))
    assert (view.rows, view.reading, completed([view])) == (20, None, [])
    assert "Disk Memory" in spark.steps[1]


@pytest.mark.usefixtures("many_tasks")
def test_dataset_with_declared_unique_columns_is_kept_for_their_check(tmp_path: Path, spark: Session) -> None:
    world = DatasetWorld(tmp_path / "u", unique_columns=("id",))
    world.put_sealed("a.csv", b"")
    uploaded(world, ROWS)
    pod = world.pod()
    with pytest.raises(LoadFailed):  # the session of this test cannot group
        registered(spark, pod, opened(world, pod))
    assert "Disk Memory" in spark.steps[1]


@pytest.mark.usefixtures("many_tasks")
def test_rows_that_the_query_did_not_read_are_read_before_the_result_leaves(world: DatasetWorld, spark: Session) -> None:
    uploaded(world, ROWS, b"20,b,h\n", b"CANARY,c,h\n".replace(b"CANARY", b"21"))
    pod = world.pod()
    (view,) = registered(spark, pod, opened(world, pod))
    mapped = spark.views["things"]
    first: Any = mapped.source.table.slice(0, 1).to_batches()
    assert len(list(mapped.function(iter(first)))) == 1
    assert completed([view]) == [view]
    assert spark.steps[1:] == ["range 0 2 1 2"]
    assert view.reading is not None
    assert view.reading.complete() == 22


@pytest.mark.usefixtures("many_tasks")
def test_task_that_runs_again_counts_once(world: DatasetWorld, spark: Session) -> None:
    uploaded(world, ROWS)
    pod = world.pod()
    (view,) = registered(spark, pod, opened(world, pod))
    for _ in range(2):
        spark.views["things"].collect()
    assert completed([view]) == [view]


@pytest.mark.usefixtures("many_tasks")
@pytest.mark.parametrize("by_driver", [True, False])
def test_other_number_of_rows_than_the_manifest_lists_is_refused(
    world: DatasetWorld, spark: Session, monkeypatch: pytest.MonkeyPatch, by_driver: bool
) -> None:
    uploaded(world, ROWS)
    pod = world.pod()
    genuine = views.list_objects
    monkeypatch.setattr(views, "list_objects", lambda *given: replace(genuine(*given), rows=21))
    monkeypatch.setattr(views, "DRIVER_BYTES", {"csv": 1 << 20 if by_driver else 0})
    with pytest.raises(LoadFailed) as caught:
        completed(registered(spark, pod, opened(world, pod)))
    assert (caught.value.error.code, caught.value.dataset) == ("DatasetTampered", world.dataset)
    assert "have 20 rows, and the manifest lists 21" in str(caught.value.error)


def test_dataset_without_objects_of_the_range_still_has_a_task(world: DatasetWorld, spark: Session) -> None:
    pod = world.pod()
    listing = list_objects(pod, world.dataset, JobParameters())
    empty = listing.__class__(listing.dataset, {}, frozenset(), False)
    fake: Any = spark
    reading = TaskReading(fake, pod, empty, ["id"])
    reading.frame()
    assert (spark.steps, reading.complete()) == (["range 0 0 1 1"], 0)


@pytest.mark.usefixtures("many_tasks")
def test_task_failure_leaves_spark_without_values(world: DatasetWorld, spark: Session) -> None:
    world.put_sealed("a.csv", b"CANARY,b,h\n")
    pod = world.pod()
    with pytest.raises(LoadFailed) as caught:
        registered(spark, pod, opened(world, pod))
    assert (caught.value.error.code, caught.value.dataset) == ("SchemaMismatch", world.dataset)
    assert "CANARY" not in str(caught.value.error.to_dict())
    fake: Any = spark
    frame: Any = TaskReading(fake, pod, opened(world, pod)[0].listing, ["id"]).frame()
    with pytest.raises(TaskFailed) as task:
        frame.collect()
    assert (redact_error(task.value).code, unread_dataset(task.value)) == ("SchemaMismatch", "things")


def unread_view(world: DatasetWorld, spark: Session) -> View:
    """A view whose rows are not those that its schema promises; its manifest is of other rows."""
    uploaded(world, b"1,b,h\n")
    pod = world.pod()
    (view,) = registered(spark, pod, opened(world, pod))
    (task,) = view.reading._tasks  # type: ignore[union-attr]
    key = task[0].name
    manifest = next(item for item in world.store.list() if item.key == key)
    world.put_sealed(key, b"x,b,h\n")
    assert world.store.size(key) == manifest.size
    return view


@pytest.mark.usefixtures("many_tasks")
def test_error_of_a_dataset_while_the_query_runs_is_the_failure_of_the_dataset(world: DatasetWorld, spark: Session) -> None:
    view = unread_view(world, spark)
    with pytest.raises(LoadFailed) as caught, query_over([view], read_all=False):
        spark.views["things"].collect()
    assert (caught.value.dataset, caught.value.error.code) == (world.dataset, "CiphertextInvalid")


@pytest.mark.usefixtures("many_tasks")
def test_failing_dataset_takes_precedence_over_a_failing_query_under_a_floor(world: DatasetWorld, spark: Session) -> None:
    view = unread_view(world, spark)
    with pytest.raises(LoadFailed), query_over([view], read_all=True):
        raise ValueError("of the query")
    with pytest.raises(ValueError, match="of the query"), query_over([view], read_all=False):
        raise ValueError("of the query")


def test_view_names_of_columns_are_quoted(tmp_path: Path, spark: Session) -> None:
    world = DatasetWorld(tmp_path / "w", schema_fields={"a`b": "date", "c d": "timestamp"}, allowed_fields=("a`b", "c d"))
    world.put_sealed("a.csv", b"2013-01-01,2013-01-01T00:00:00Z\n")
    pod = world.pod("SELECT * FROM things")
    registered(spark, pod, opened(world, pod))
    assert spark.views["things"].source == "1 rows as `a``b` date, `c d` timestamp"


def test_types_of_views(world: DatasetWorld) -> None:
    opened(world)
    assert SPARK_TYPES == {
        "string": "string",
        "integer": "int",
        "long": "bigint",
        "number": "double",
        "boolean": "boolean",
        "date": "date",
        "timestamp": "timestamp",
    }


def two_datasets(world: DatasetWorld, **second: object) -> JobConfig:
    job = world.pod().job()
    other = world.dataset.model_copy(update={"name": "others", "view_name": "others", **second})
    return job.model_copy(update={"datasets": (world.dataset, other)})


def test_first_dataset_in_the_jobs_order_that_fails_is_reported(world: DatasetWorld) -> None:
    pod = FolderPod(world.root, two_datasets(world).encode())
    with pytest.raises(LoadFailed) as caught:
        opened(world, pod)
    assert (caught.value.dataset.name, caught.value.error.code, str(caught.value)) == ("others", "DatasetEmpty", "others")
    pod = FolderPod(world.root, two_datasets(world, key_secret_id=None).encode())
    world.store.put("a.csv", b"short")
    with pytest.raises(LoadFailed) as caught:
        opened(world, pod)
    assert caught.value.dataset.name == "things"


def test_at_most_four_datasets_are_opened_at_the_same_time(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[int] = []
    genuine = views.ThreadPoolExecutor

    def pool(*, max_workers: int) -> Any:
        workers.append(max_workers)
        return genuine(max_workers)

    monkeypatch.setattr(views, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(views, "read_table", lambda *arguments: pa.table({"id": []}))
    objects = views.list_objects
    monkeypatch.setattr(views, "list_objects", lambda pod, dataset, *rest: objects(pod, world.dataset, *rest))
    job = world.pod().job()
    five = tuple(world.dataset.model_copy(update={"name": f"{world.dataset.name}{number}"}) for number in range(5))
    many = job.model_copy(update={"datasets": five})
    opened(world, FolderPod(world.root, many.encode()))
    assert workers == [4]


def test_unexpected_error_of_a_dataset_is_redacted(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("CANARY")

    monkeypatch.setattr(views, "list_objects", broken)
    with pytest.raises(LoadFailed) as caught:
        opened(world)
    assert caught.value.error.code == "PayloadError"
    assert "CANARY" not in json.dumps(caught.value.error.to_dict())


def test_driver_reads_splits_in_their_order(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MIN_SPLIT_BYTES", 1)
    monkeypatch.setattr(splits, "MAX_SPLIT_BYTES", 1)
    for name in ("b", "c", "d"):
        world.put_sealed(f"{name}.csv", b"1,%s,h\n" % name.encode())
    pools: list[int] = []
    genuine, plan = views.ThreadPoolExecutor, views.plan_splits

    def pool(*, max_workers: int) -> Any:
        pools.append(max_workers)
        return genuine(max_workers)

    def planned(pod: Any, listing: Any, *, parallelism: int) -> Any:
        pools.append(parallelism)
        return plan(pod, listing, parallelism=parallelism)

    monkeypatch.setattr(views, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(views, "plan_splits", planned)
    for cores in (None, 3):
        pools.clear()
        monkeypatch.setattr(views.os, "cpu_count", lambda cores=cores: cores)
        (dataset,) = opened(world)
        assert pools == [1, cores or 1, cores or 1]  # one dataset at a time, each on all cores
        assert isinstance(dataset.table, pa.Table)
        assert dataset.table.column("text").to_pylist()[20:] == ["b", "c", "d"]
