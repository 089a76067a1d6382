"""However many executors a run has, its tasks read each stored byte of a dataset once, and what lies between two tasks twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from cleanroom.datasets.encryption import HEADER_BYTES, SEGMENT_BYTES, segment_count
from cleanroom.spark.job import JobDataset, JobParameters
from sparkapp import splits as input_splits
from sparkapp.listing import list_objects
from sparkapp.splits import InputSplit, plan_splits, read_task
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore
from tests.unit.sparkapp_dataset import DatasetWorld

OBJECTS = 3
CORES = 2
ROW = 1000


class Watched(FolderPod):
    """A pod whose store notes every range that is read."""

    reads: list[tuple[str, int, int]] = []

    def store(self, dataset: JobDataset) -> FolderStore:  # type: ignore[override]
        return FolderStore(self.root / "stores" / dataset.name, reads=self.reads)


def make_world(folder: Path, kind: str) -> DatasetWorld:
    """Three objects of 2.9 MiB, which no task reads alone."""
    world = DatasetWorld(folder / "w", format=kind.split()[0], csv_header="header" in kind)
    plain = folder / "plain"
    plain.mkdir()
    for number in range(OBJECTS):
        rows = [(number * 3000 + row, f"{row:0{ROW}}", "h") for row in range(3000)]
        if kind == "json":
            text = "".join(json.dumps(dict(zip(("id", "text", "hidden"), row, strict=True))) + "\n" for row in rows)
        else:
            text = ("id,text,hidden\n" if "header" in kind else "") + "".join(f"{','.join(map(str, row))}\n" for row in rows)
        (plain / f"{number}.{'jsonl' if kind == 'json' else 'csv'}").write_text(text)
    world.upload(plain)
    return world


@pytest.fixture(scope="module", params=["csv", "csv with header", "json"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, DatasetWorld]:
    """A kind of objects, and a world that stores them. Tests only read them."""
    return request.param, make_world(tmp_path_factory.mktemp("stored"), request.param)


def segments_read(reads: list[tuple[str, int, int]]) -> Counter[tuple[str, int]]:
    """How often each segment was read; a read always begins at a segment."""
    assert all(offset % SEGMENT_BYTES == 0 and length > HEADER_BYTES for _, offset, length in reads)
    return Counter(
        (name, segment)
        for name, offset, length in reads
        for segment in range(offset // SEGMENT_BYTES, -(-(offset + length) // SEGMENT_BYTES))
    )


def boundaries(tasks: tuple[tuple[InputSplit, ...], ...]) -> set[tuple[str, int]]:
    """The first segment of each split but the first of an object: its beginning belongs to a row of the split before."""
    return {(split.name, split.first) for task in tasks for split in task if split.first}


@pytest.mark.parametrize("executors", [1, 2, 4])
def test_each_segment_is_read_once_and_those_between_tasks_twice(
    stored: tuple[str, DatasetWorld], executors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_splits, "MIN_SPLIT_BYTES", SEGMENT_BYTES)
    kind, world = stored
    pod = Watched(world.root, world.pod().config)
    listing = list_objects(pod, world.dataset, JobParameters())
    pod.reads.clear()
    tasks = plan_splits(pod, listing, parallelism=executors * CORES)
    # Only an object's first task sees the names of its columns, so the driver reads them for the others.
    planned = segments_read(pod.reads)
    assert planned == ({(name, 0): 1 for name in listing.objects} if "header" in kind else {})
    pod.reads.clear()
    rows = sum(batch.num_rows for task in tasks for batch in read_task(pod, world.dataset, ["id", "text"], task))
    assert rows == OBJECTS * 3000
    found, twice = segments_read(pod.reads), boundaries(tasks)
    everything = {(name, segment): 1 for name, size in listing.objects.items() for segment in range(segment_count(size))}
    assert found == {**everything, **dict.fromkeys(twice, 2)}
    assert len(twice) <= len(tasks) - 1
    # More executors have more tasks, but each of them has a share of the same bytes.
    assert len(tasks) >= min(executors * CORES, OBJECTS)
    read = sum(length for _, _, length in pod.reads)
    assert read - listing.stored_bytes() <= len(twice) * SEGMENT_BYTES


@pytest.mark.parametrize("executors", [1, 2, 4])
def test_large_objects_have_at_most_one_boundary_in_32_mib(executors: int, tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    world.put_sealed("x.csv", b"1,a,h\n")
    listing = list_objects(world.pod(), world.dataset, JobParameters())
    size = 1 << 36
    huge = type(listing)(listing.dataset, {"x.csv": size}, frozenset(), has_manifest=True)
    tasks = plan_splits(world.pod(), huge, parallelism=executors * CORES)
    assert len(boundaries(tasks)) <= size // (32 << 20)
