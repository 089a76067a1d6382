"""Input splits: every row belongs to exactly one, and a task fetches only what it needs."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanroom.documents.query import PreCondition
from cleanroom.errors import Unavailable
from cleanroom.spark.job import JobDataset, JobParameters
from sparkapp import splits as input_splits
from sparkapp.listing import list_objects
from sparkapp.references import is_read_once, needed_columns
from sparkapp.splits import SplitText, plan_splits
from sparkapp.views import read_table
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore
from tests.unit.sparkapp_dataset import DatasetWorld, make_rows


class TinySegments:
    """An object with segments of a few bytes, so that rows cross several of them."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = data, step
        self.size = len(data)
        self.segments = max(1, -(-len(data) // step))

    def open_segments(self, first: int, stop: int) -> list[bytes]:
        return [self.data[index * self.step : (index + 1) * self.step] for index in range(first, min(stop, self.segments))]

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def segment_of(self, offset: int) -> int:
        return offset // self.step

    def segment_start(self, index: int) -> int:
        return index * self.step


@given(
    rows=st.lists(st.binary(max_size=12).map(lambda row: row.replace(b"\n", b"x")), max_size=15),
    ends=st.booleans(),
    step=st.integers(1, 9),
    cuts=st.sets(st.integers(1, 200), max_size=8),
    read=st.integers(1, 40),
)
@settings(max_examples=400, deadline=None)
def test_every_byte_belongs_to_one_split_in_whole_rows(rows: list[bytes], ends: bool, step: int, cuts: set[int], read: int) -> None:
    data = b"\n".join(rows) + (b"\n" if ends and rows else b"")
    opened = TinySegments(data, step)
    edges = [0, *sorted(cut for cut in cuts if cut < opened.segments), opened.segments]
    splits = []
    for first, stop in itertools.pairwise(edges):
        text = SplitText(opened, first, stop)
        pieces = []
        while piece := text.read(read):
            assert len(piece) <= read
            pieces.append(piece)
        splits.append(b"".join(pieces))
    assert b"".join(splits) == data
    assert all(split.endswith(b"\n") for split in [split for split in splits if split][:-1])


@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json", "parquet"])
def test_large_object_is_split_and_read_completely(tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_splits, "MIN_SPLIT_BYTES", 1 << 20)
    monkeypatch.setattr(input_splits, "MAX_SPLIT_BYTES", 1 << 20)
    world = DatasetWorld(tmp_path / "w", format=fmt.split()[0], csv_header="header" in fmt)
    folder = tmp_path / "plain"
    folder.mkdir()
    data = make_rows(6000)
    if fmt == "parquet":
        table = pa.Table.from_pylist(data)
        pq.write_table(table, folder / "x.parquet", row_group_size=700, compression="none", use_dictionary=False)
    elif fmt == "json":
        (folder / "x.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data))
    else:
        head = "hidden,text,id\n" if "header" in fmt else ""
        order = ("hidden", "text", "id") if head else ("id", "text", "hidden")
        (folder / "x.csv").write_text(head + "".join(",".join(str(row[name]) for name in order) + "\n" for row in data))
    world.upload(folder)

    pod = world.pod()
    splits = plan_splits(pod, list_objects(pod, world.dataset, JobParameters()), parallelism=2)
    assert len(splits) > 3
    assert world.read().to_pylist() == [{"id": row["id"], "text": row["text"]} for row in data]


def test_csv_with_line_breaks_in_values_is_read_by_one_task(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "x.csv").write_text("".join(f'{number},"a\n{number}",h\n' for number in range(400_000)))
    world.upload(folder)
    pod = world.pod()
    (only,) = plan_splits(pod, list_objects(pod, world.dataset, JobParameters()), parallelism=8)
    assert only[0].newlines_in_values
    table = world.read()
    assert table.num_rows == 400_000
    assert table.column("text")[7].as_py() == "a\n7"


def test_unneeded_parquet_columns_are_not_fetched(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w", format="parquet")
    big = pa.table({"id": pa.array(range(200)), "text": ["t"] * 200, "hidden": [f"{n:09}" * 4000 for n in range(200)]})
    sink = io.BytesIO()
    pq.write_table(big, sink, compression="none", use_dictionary=False)
    world.put_sealed("x.parquet", sink.getvalue())
    pod = world.pod()
    store = FolderStore(world.root / "stores" / "things")

    class Watched(FolderPod):
        def store(self, dataset: JobDataset) -> FolderStore:  # type: ignore[override]
            return store

    watched = Watched(pod.root, pod.config)
    assert read_table(watched, list_objects(watched, world.dataset, JobParameters()), ["id", "text"]).num_rows == 200
    assert sum(length for _, _, length in store.reads) < store.size("x.parquet") / 2


def test_read_is_retried_while_the_store_is_unavailable(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    world.put_sealed("x.csv", b"1,one,h\n")
    failures = iter([Unavailable("StoreUnavailable", "no answer")] * 2)

    class Flaky(FolderStore):
        def read_range(self, key: str, offset: int, length: int) -> bytes:
            if failure := next(failures, None):
                raise failure
            return super().read_range(key, offset, length)

    class Shaky(FolderPod):
        def store(self, dataset: JobDataset) -> FolderStore:  # type: ignore[override]
            return Flaky(self.root / "stores" / dataset.name)

    pod = Shaky(world.root, world.pod().config)
    assert read_table(pod, list_objects(pod, world.dataset, JobParameters()), ["id"]).num_rows == 1
    assert next(failures, None) is None


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT ID FROM things", ["id"]),
        ("SELECT COUNT(*) AS n FROM things", ["id"]),
        ("SELECT * FROM things", ["id", "text"]),
        ("SELECT t.* FROM things AS t", ["id", "text"]),
        ("SELECT 2 * id AS n, COUNT(*) FROM things", ["id"]),
        ("SELECT a.id FROM things AS a JOIN things AS b USING (text)", ["id", "text"]),
        ("SELECT hidden FROM things", ["id"]),
        ("THIS IS NO SQL (", ["id", "text"]),
        ("SELECT `id` FROM things;;", ["id"]),
    ],
)
def test_needed_columns_are_allowed_and_named_in_the_query(tmp_path: Path, sql: str, columns: list[str]) -> None:
    world = DatasetWorld(tmp_path / "w")
    assert needed_columns(world.pod(sql).job(), world.dataset) == columns


def test_needed_columns_include_the_identity_column_of_a_floor(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w", floors={"minGroupSize": 5, "identityColumn": "hidden"})
    assert needed_columns(world.pod("SELECT COUNT(DISTINCT hidden) AS n FROM things").job(), world.dataset) == ["hidden"]


@pytest.mark.parametrize(
    ("sql", "once"),
    [
        ("SELECT id FROM things", True),
        ("SELECT t.id FROM (SELECT id FROM THINGS) AS t JOIN others AS o ON o.id = t.id", True),
        ("SELECT id FROM others", True),
        ("SELECT a.id FROM things AS a JOIN things AS b USING (id)", False),
        ("SELECT id FROM things WHERE id > (SELECT AVG(id) FROM `Things`)", False),
        ("SELECT (id + 1) AS n, things.id FROM things AS things GROUP BY id, things.id", True),
        ("WITH c AS (SELECT id FROM others) SELECT a.id FROM things AS a JOIN c USING (id)", True),
        ("WITH c AS (SELECT id FROM things) SELECT a.id FROM c AS a JOIN c AS b USING (id)", False),
        ("SELECT id FROM others, things, things AS b", False),
        ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT id FROM things", False),
        ("THIS IS NO SQL (", False),
    ],
)
def test_dataset_is_read_once_if_the_query_names_it_once(tmp_path: Path, sql: str, once: bool) -> None:
    world = DatasetWorld(tmp_path / "w")
    assert is_read_once(world.pod(sql).job(), world.dataset) is once


@pytest.mark.parametrize(("view", "once"), [("Things", True), ("made", False)])
def test_precondition_on_a_view_of_a_segment_reads_its_datasets_again(tmp_path: Path, view: str, once: bool) -> None:
    world = DatasetWorld(tmp_path / "w")
    job = world.pod().job()
    counted = job.segments[0].model_copy(update={"pre_conditions": (PreCondition(view_name=view, min_row_count=1),)})
    assert is_read_once(job.model_copy(update={"segments": (counted,)}), world.dataset) is once
