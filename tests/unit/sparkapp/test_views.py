"""How datasets become views without Spark: what the driver reads itself, what tasks read, and which columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cleanroom.spark.job import JobConfig, JobParameters
from sparkapp import splits, views
from sparkapp.failures import TaskFailed, redact_error
from sparkapp.listing import list_objects
from sparkapp.views import LoadFailed, OpenedDataset, View, open_datasets, register_views
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
    loaded: list[View] = []
    fake: Any = session
    found = register_views(fake, pod, datasets, on_loaded=loaded.append)
    assert loaded == found
    return found


def test_driver_reads_a_small_dataset(world: DatasetWorld, spark: Session) -> None:
    (dataset,) = opened(world)
    assert dataset.columns == ("id", "text")
    assert dataset.table is not None
    assert dataset.table.column("id").to_pylist() == list(range(20))
    (view,) = registered(spark, world.pod(), [dataset])
    assert (view.rows, view.dataset) == (20, world.dataset)
    assert spark.views["things"].source == f"20 rows as {DDL}"


@pytest.mark.parametrize(("limit", "by_driver"), [(0, True), (-1, False)])
def test_driver_reads_up_to_its_limit(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch, limit: int, by_driver: bool) -> None:
    stored = sum(item.size for item in world.store.list())
    monkeypatch.setattr(views, "DRIVER_BYTES", {"csv": stored + limit})
    (dataset,) = opened(world)
    assert (dataset.table is not None) is by_driver


def test_limits_of_the_driver(world: DatasetWorld) -> None:
    opened(world)
    assert views.DRIVER_BYTES == {"csv": 64 << 20, "json": 64 << 20, "parquet": 16 << 20}


def test_tasks_read_a_large_dataset_once_into_memory_or_disk(world: DatasetWorld, spark: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "DRIVER_BYTES", {"csv": 0})
    monkeypatch.setattr(splits, "MIN_SPLIT_BYTES", 1)
    monkeypatch.setattr(splits, "MAX_SPLIT_BYTES", 1)
    world.put_sealed("b.csv", b"20,b,h\n")
    pod = world.pod()
    (view,) = registered(spark, pod, opened(world, pod))
    assert view.rows == 21
    mapped = spark.views["things"]
    assert (mapped.ddl, mapped.collect()) == (DDL, [{"id": n, "text": f"text {n}" if n < 20 else "b"} for n in range(21)])
    assert spark.steps[0] == "range 0 2 1 2"
    assert "Disk Memory" in spark.steps[1]


def test_dataset_without_objects_of_the_range_still_has_a_task(world: DatasetWorld, spark: Session) -> None:
    pod = world.pod()
    listing = list_objects(pod, world.dataset, JobParameters())
    empty = listing.__class__(listing.dataset, {}, frozenset(), False)
    fake: Any = spark
    views.read_frame(fake, pod, empty, ["id"])
    assert spark.steps == ["range 0 0 1 1"]


def test_task_failure_leaves_spark_without_values(world: DatasetWorld, spark: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "DRIVER_BYTES", {"csv": 0})
    world.put_sealed("a.csv", b"CANARY,b,h\n")
    pod = world.pod()
    with pytest.raises(LoadFailed) as caught:
        registered(spark, pod, opened(world, pod))
    assert (caught.value.error.code, caught.value.dataset) == ("SchemaMismatch", world.dataset)
    assert "CANARY" not in str(caught.value.error.to_dict())
    frame: Any = views.read_frame(spark, pod, opened(world, pod)[0].listing, ["id"])  # type: ignore[arg-type]
    with pytest.raises(TaskFailed) as task:
        frame.collect()
    assert redact_error(task.value).code == "SchemaMismatch"


def test_view_names_of_columns_are_quoted(tmp_path: Path, spark: Session) -> None:
    world = DatasetWorld(tmp_path / "w", schema_fields={"a`b": "date", "c d": "timestamp"}, allowed_fields=("a`b", "c d"))
    world.put_sealed("a.csv", b"2013-01-01,2013-01-01T00:00:00Z\n")
    pod = world.pod("SELECT * FROM things")
    registered(spark, pod, opened(world, pod))
    assert spark.views["things"].source == "1 rows as `a``b` date, `c d` timestamp"


def test_types_of_views(world: DatasetWorld) -> None:
    opened(world)
    assert views.SPARK_TYPES == {
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
    monkeypatch.setattr(views, "read_table", lambda *arguments: None)
    job = world.pod().job()
    many = job.model_copy(update={"datasets": (world.dataset,) * 5})
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
