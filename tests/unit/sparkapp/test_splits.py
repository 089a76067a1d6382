"""How objects are divided into tasks, and how much a task reads."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.errors import CleanRoomError, Unavailable
from sparkapp import splits
from sparkapp.listing import DatasetListing
from sparkapp.splits import WHOLE_OBJECT, InputSplit, SplitText, open_object, plan_splits, read_task
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore
from tests.patience import PATIENCE
from tests.unit.sparkapp_dataset import DatasetWorld

MIB = 1 << 20


@pytest.fixture
def world(tmp_path: Path) -> DatasetWorld:
    return DatasetWorld(tmp_path / "w")


def plan(world: DatasetWorld, sizes: dict[str, int], *, parallelism: int = 1, read_whole: bool = False) -> list[list[tuple[Any, ...]]]:
    """Return name, first and last segment, and weight in MiB of each split of each task."""
    unsplittable = frozenset(sizes) if read_whole else frozenset()
    listing = DatasetListing(world.dataset, sizes, unsplittable, False)
    tasks = plan_splits(world.pod(), listing, parallelism=parallelism)
    return [[(split.name, split.first, split.stop, round(split.weight / MIB, 2)) for split in task] for task in tasks]


def test_limits(world: DatasetWorld) -> None:
    assert plan(world, {}) == []
    assert (splits.MIN_SPLIT_BYTES, splits.MAX_SPLIT_BYTES, splits.FETCH_SEGMENTS, splits.STORE_SECONDS) == (4 * MIB, 32 * MIB, 8, 60.0)


@pytest.mark.parametrize(
    ("sizes", "parallelism", "tasks"),
    [
        ({}, 2, []),
        ({"a": 0}, 2, [[("a", 0, 1, 0.0)]]),
        ({"a": 4 * MIB}, 1, [[("a", 0, 4, 4.0)]]),
        ({"a": 4 * MIB + 1}, 1, [[("a", 0, 4, 4.0)], [("a", 4, 5, 0.0)]]),
        # Two tasks per core; neighbouring splits of one object become one.
        ({"a": 16 * MIB}, 1, [[("a", 0, 8, 8.0)], [("a", 8, 16, 8.0)]]),
        ({"a": 16 * MIB}, 2, [[("a", 0, 4, 4.0)], [("a", 4, 8, 4.0)], [("a", 8, 12, 4.0)], [("a", 12, 16, 4.0)]]),
        # Small objects share a task.
        ({"a": MIB, "b": MIB, "c": 3 * MIB}, 1, [[("a", 0, 1, 1.0), ("b", 0, 1, 1.0)], [("c", 0, 3, 3.0)]]),
        # A task reads at most 32 MiB.
        ({"a": 128 * MIB}, 1, [[("a", first, first + 32, 32.0)] for first in range(0, 128, 32)]),
    ],
)
def test_text_is_divided_by_size_and_cores(world: DatasetWorld, sizes: dict[str, int], parallelism: int, tasks: list[Any]) -> None:
    assert plan(world, sizes, parallelism=parallelism) == tasks


def test_text_that_cannot_be_split_is_one_split(world: DatasetWorld) -> None:
    assert plan(world, {"a": 80 * MIB, "b": MIB}, read_whole=True) == [[("a", 0, 80, 80.0)], [("b", 0, 1, 1.0)]]
    world.dataset = world.dataset.model_copy(update={"format": "json"})
    assert len(plan(world, {"a": 80 * MIB}, read_whole=True)) == 3


def test_split_knows_what_the_upload_verified(world: DatasetWorld) -> None:
    header = "ab" * 40
    listing = DatasetListing(world.dataset, {"a": 1, "b": 1}, frozenset({"b"}), True, (), frozenset({"a"}), {"a": header})
    ((first, second),) = plan_splits(world.pod(), listing, parallelism=1)
    assert (first.verified, first.header, first.newlines_in_values) == (True, header, False)
    assert (second.verified, second.header, second.newlines_in_values) == (False, None, True)


def parquet_world(tmp_path: Path) -> tuple[DatasetWorld, int]:
    world = DatasetWorld(tmp_path / "p", format="parquet")
    buffer = io.BytesIO()
    table = pa.table({"id": pa.array(range(40)), "text": ["t"] * 40, "hidden": ["h"] * 40})
    pq.write_table(table, buffer, row_group_size=10)
    world.put_sealed("x.parquet", buffer.getvalue())
    return world, world.store.size("x.parquet")


@pytest.mark.parametrize(("limit", "divided"), [(0, False), (-1, True)])
def test_large_parquet_is_divided_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, divided: bool) -> None:
    world, size = parquet_world(tmp_path)
    monkeypatch.setattr(splits, "MAX_SPLIT_BYTES", size + limit)
    monkeypatch.setattr(splits, "MIN_SPLIT_BYTES", 1)
    listing = DatasetListing(world.dataset, {"x.parquet": size}, frozenset(), False)
    tasks = plan_splits(world.pod(), listing, parallelism=100)
    found = [(split.first, split.stop, split.weight) for task in tasks for split in task]
    assert found == ([(group, group + 1, size // 4) for group in range(4)] if divided else [(0, WHOLE_OBJECT, size)])
    batches = [batch for task in tasks for batch in read_task(world.pod(), world.dataset, ["id"], task)]
    assert pa.Table.from_batches(batches).column(0).to_pylist() == list(range(40))
    if divided:
        (second,) = read_task(world.pod(), world.dataset, ["id"], tasks[1])
        assert second.column(0).to_pylist() == list(range(10, 20))


# --- reading


class Segments:
    """An object of one-byte-per-character segments that notes which were opened."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.segments = pieces, len(pieces)
        self.opened: list[tuple[int, int]] = []
        self.ahead = threading.Event()

    def open_segments(self, first: int, stop: int) -> list[bytes]:
        self.opened.append((first, min(stop, self.segments)))
        if len(self.opened) == 2:
            self.ahead.set()
        return list(self.pieces[first:stop])


def text_of(*pieces: bytes, first: int = 0, stop: int = 99) -> tuple[SplitText, Segments]:
    opened: Any = Segments(*pieces)
    return SplitText(opened, first, stop), opened


def test_split_reads_to_the_end_of_its_last_row_and_not_further() -> None:
    text, opened = text_of(b"a\nb", b"c", b"d\ne", b"f\n", stop=1)
    assert (text.read(), text.read(), text.read(1)) == (b"a\nbcd\n", b"", b"")
    assert opened.opened == [(0, 1), (1, 2), (2, 3)]


def test_split_begins_after_its_first_line_break() -> None:
    assert text_of(b"a\nb", b"c\nd", b"e", first=1)[0].read() == b"de"
    assert text_of(b"a\nb", b"\nd", first=1)[0].read() == b"d"
    assert text_of(b"a", b"\nd", b"e\n", stop=1)[0].read() == b"a\n"
    assert text_of(b"a\nb", b"cd", b"e\n", first=1, stop=2)[0].read() == b""
    assert text_of(b"a\nb", b"cd", b"e\nf", first=1)[0].read() == b"f"


def test_skipped_bytes_may_span_segments_or_exceed_the_text() -> None:
    text, _ = text_of(b"abc", b"def", b"g")
    text.skip(0)
    assert text.read(0) == b""
    text.skip(4)
    assert text.read(1) == b"e"
    text.skip(99)
    assert text.read() == b""


def test_segments_are_fetched_in_groups_and_one_group_ahead() -> None:
    text, opened = text_of(*[b"%d\n" % number for number in range(20)])
    assert text.read(2) == b"0\n"
    assert opened.ahead.wait(PATIENCE)
    assert opened.opened == [(0, 8), (8, 16)]
    assert text.read() == b"".join(b"%d\n" % number for number in range(1, 20))
    assert opened.opened == [(0, 8), (8, 16), (16, 20)]
    text, opened = text_of(*[b"%d\n" % number for number in range(9)])
    assert (len(text.read()), opened.opened) == (18, [(0, 8), (8, 9)])
    text, opened = text_of(*[b"%d\n" % number for number in range(8)])
    assert (len(text.read()), opened.opened) == (16, [(0, 8)])


def test_object_of_a_manifest_is_bound_to_its_header_name_dataset_and_collaboration(world: DatasetWorld) -> None:
    world.put_sealed("a.csv", b"1,a,h\n")
    size, header = world.store.size("a.csv"), world.store.read("a.csv")[:40].hex()
    genuine = InputSplit("a.csv", size, 0, 1, size, header=header)
    assert open_object(world.pod(), world.dataset, genuine).read_at(0, 9) == b"1,a,h\n"
    world.store.put("b.csv", world.store.read("a.csv"))
    for dataset, split in (
        (world.dataset, InputSplit("a.csv", size, 0, 1, size, header="ab" * 40)),
        (world.dataset, InputSplit("b.csv", size, 0, 1, size)),
        (world.dataset.model_copy(update={"name": "others"}), genuine),
    ):
        pod = world.pod()
        FolderStore(world.root / "stores" / "others").put("a.csv", world.store.read("a.csv"))
        with pytest.raises(CleanRoomError, match="CiphertextInvalid"):
            open_object(pod, dataset, split).read_at(0, 9)


def test_plain_object_is_read_as_stored(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "s", encryption="SSE", key_secret_id=None)
    world.store.put("a.csv", b"1,a,h\n")
    assert open_object(world.pod(), world.dataset, InputSplit("a.csv", 6, 0, 1, 6)).read_at(2, 1) == b"a"


def test_store_is_given_up_after_its_time(world: DatasetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put_sealed("a.csv", b"1,a,h\n")
    naps: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", naps.append)
    monkeypatch.setattr("tenacity.time.monotonic", lambda: sum(naps))

    class Away(FolderStore):
        def read_range(self, key: str, offset: int, length: int) -> bytes:
            raise Unavailable("StoreUnavailable", "x")

    class Pod(FolderPod):
        def store(self, dataset: Any) -> FolderStore:  # type: ignore[override]
            return Away(self.root / "stores" / dataset.name)

    pod = Pod(world.root, world.pod().config)
    with pytest.raises(CleanRoomError, match="StoreUnavailable"):
        open_object(pod, world.dataset, InputSplit("a.csv", 62, 0, 1, 62)).read_at(0, 1)
    assert 45 < sum(naps) < 80


# --- rows in errors and headers


@pytest.mark.parametrize("header", [False, True])
def test_wrong_value_is_reported_with_its_row_only_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bool
) -> None:
    world = DatasetWorld(tmp_path / "h", csv_header=header)
    world.put_sealed("a.csv", (b"hidden,text,id\n" if header else b"") + (b"h,a,x\n" if header else b"x,a,h\n"))
    size = world.store.size("a.csv")
    with pytest.raises(CleanRoomError, match="SchemaMismatch") as caught:
        list(read_task(world.pod(), world.dataset, ["id"], [InputSplit("a.csv", size, 0, 1, size)]))
    assert "things/a.csv, column 'id', row 1: expected long" in caught.value.message


@pytest.mark.parametrize(("first", "stop", "whole"), [(0, 2, True), (0, 1, False), (1, 2, False)])
def test_only_json_that_is_read_as_a_whole_must_have_every_member(tmp_path: Path, first: int, stop: int, whole: bool) -> None:
    """A member may first occur in another split of the object."""
    world = DatasetWorld(tmp_path / "j", format="json", encryption="SSE", key_secret_id=None)
    line = b'{"id": 1, "hidden": "h"}\n'
    data = line * (MIB // len(line) + 4)
    world.store.put("a.json", data)
    tasks = read_task(world.pod(), world.dataset, ["id", "text"], [InputSplit("a.json", len(data), first, stop, len(data))])
    if whole:
        with pytest.raises(CleanRoomError, match="SchemaMismatch"):
            list(tasks)
    else:
        assert sum(batch.column("text").null_count for batch in tasks) == (MIB // len(line) + 1 if first == 0 else 3)


def two_segments(fmt: str, tail: bytes) -> tuple[bytes, int]:
    """Return text whose second segment begins after a line break and holds ``tail``."""
    line = b'{"id": 1, "text": "a"}\n' if fmt == "json" else b"1,a,h\n"
    filler = line * (MIB // len(line))
    return filler[:-1].ljust(MIB - 1, b" ") + b"\n" + line + tail, len(line)


@pytest.mark.parametrize(("fmt", "tail"), [("csv", b"x,a,h\n"), ("json", b'{"id": "x", "text": "a"}\n')])
def test_row_number_is_not_reported_where_it_is_unknown(tmp_path: Path, fmt: str, tail: bytes) -> None:
    world = DatasetWorld(tmp_path / "r", format=fmt, encryption="SSE", key_secret_id=None)
    data, _ = two_segments(fmt, tail)
    world.store.put("a", data)
    for first in (0, 1):
        with pytest.raises(CleanRoomError, match="SchemaMismatch") as caught:
            list(read_task(world.pod(), world.dataset, ["id"], [InputSplit("a", len(data), first, 2, len(data))]))
        assert (", row " in caught.value.message) is (first == 0)


@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json"])
def test_mark_of_the_byte_order_is_dropped_at_the_start_of_an_object_only(tmp_path: Path, fmt: str) -> None:
    mark = "\ufeff"
    world = DatasetWorld(tmp_path / "b", format=fmt.split()[0], csv_header="header" in fmt, encryption="SSE", key_secret_id=None)
    world.dataset = world.dataset.model_copy(update={"schema_fields": {"text": "string", "id": "long"}})
    head = f"{mark}text,id\n" if "header" in fmt else ""
    first = '{"text": "a", "id": 1}' if fmt == "json" else (f"{mark}a,1" if head else "a,1")
    world.store.put("a", (head + (first if head else mark + first) + "\n").encode())
    size = world.store.size("a")
    (batch,) = read_task(world.pod(), world.dataset, ["text"], [InputSplit("a", size, 0, 1, size)])
    assert batch.column("text").to_pylist() == [f"{mark}a" if head else "a"]


def test_mark_of_the_byte_order_within_an_object_is_data(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "m", encryption="SSE", key_secret_id=None)
    world.dataset = world.dataset.model_copy(update={"schema_fields": {"text": "string", "id": "long"}})
    world.store.put("a.csv", b"a,1\n" * (MIB // 4 + 1) + "\ufeffb,2\n".encode())  # the last row is the only one of the second split
    size = world.store.size("a.csv")
    (batch,) = read_task(world.pod(), world.dataset, ["text"], [InputSplit("a.csv", size, 1, 2, size)])
    assert batch.column("text").to_pylist() == ["\ufeffb"]
