"""How a dataset is cut into splits: every row in exactly one, whatever the cut; nothing of the store is believed."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.errors import ArithmeticException, NumberFormatException

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.download import download_result, result_digest
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key, seal_bytes
from cleanroom.datasets.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from cleanroom.datasets.schema import arrow_schema
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, SchemaField
from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobParameters, JobSegment, ResultReceipt, S3Access
from sparkapp import datasources
from sparkapp.datasources import SplitText, list_objects, plan_splits
from sparkapp.failures import TaskFailed, failure_code, redact_error, redact_for_floors, redact_task_errors, write_termination
from sparkapp.output import ComputedResult, write_result
from sparkapp.views import needed_columns, read_table
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore
from tests.servers import S3Server

DIGEST = "ab" * 32


class Tiny:
    """An object whose segments are a few bytes, so that rows cross several of them."""

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
def test_every_byte_is_in_exactly_one_share_in_whole_rows(rows: list[bytes], ends: bool, step: int, cuts: set[int], read: int) -> None:
    data = b"\n".join(rows) + (b"\n" if ends and rows else b"")
    opened = Tiny(data, step)
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


TYPES: dict[str, FieldType] = {"id": "long", "text": "string", "hidden": "string"}


class World:
    def __init__(self, root: Path, **dataset: object) -> None:
        self.root = root
        self.key = generate_dataset_key()
        (root / "secrets").mkdir(parents=True)
        (root / "secrets" / "cleanroom_key").write_bytes(encode_dataset_key(self.key).reveal())
        values: dict[str, object] = {
            "name": "things",
            "view_name": "things",
            "owner_id": "u-1",
            "document_version": "1.1",
            "document_digest": DIGEST,
            "format": "csv",
            "schema_fields": TYPES,
            "allowed_fields": ("id", "text"),
            "access": S3Access(region="eu-west-1", bucket="b", connection_secret_id="x"),
            "key_secret_id": "cleanroom_key",
        }
        self.dataset = JobDataset.model_validate({**values, **dataset})
        self.store = FolderStore(root / "stores" / "things")

    def pod(self, sql: str = "SELECT id, text FROM things") -> FolderPod:
        job = JobConfig(
            contract_id="c",
            run_id="r-1",
            query_id="q",
            query_version="1.1",
            query_digest=DIGEST,
            segments=(JobSegment(execution_sequence=1, sql=sql, source_digest=DIGEST),),
            datasets=(self.dataset,),
            datasink=self.dataset,
            consent_secret_id="cleanroom_consent",
            event_scope="s",
            governance=JobGovernance(url="https://cgs.invalid"),
        )
        return FolderPod(self.root, job.encode())

    def upload(self, folder: Path) -> None:
        upload_dataset(self.store, self.key, dataset="things", schema=self.schema(), sources=[folder])

    def schema(self) -> DatasetSchema:
        fields = tuple(SchemaField(field_name=name, field_type=kind) for name, kind in self.dataset.schema_fields.items())
        return DatasetSchema(
            format=self.dataset.format, fields=fields, partitioned_by=self.dataset.partitioned_by, csv_header=self.dataset.csv_header
        )

    def plant(self, name: str, data: bytes) -> None:
        self.store.put(name, seal_bytes(data, self.key, name))

    def read(self, columns: Sequence[str] = ("id", "text"), parameters: JobParameters = JobParameters()) -> pa.Table:
        pod = self.pod()
        return read_table(pod, list_objects(pod, self.dataset, parameters), columns)


def rows(count: int, width: int = 900) -> list[dict[str, object]]:
    return [{"id": number, "text": f"{number}:" + "é" * (number % width), "hidden": "h" * 50} for number in range(count)]


@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json", "parquet"])
def test_a_large_object_is_cut_and_read_whole(tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasources, "MIN_SPLIT_BYTES", 1 << 20)
    monkeypatch.setattr(datasources, "MAX_SPLIT_BYTES", 1 << 20)
    world = World(tmp_path / "w", format=fmt.split()[0], csv_header="header" in fmt)
    folder = tmp_path / "plain"
    folder.mkdir()
    data = rows(6000)
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


def test_csv_with_breaks_in_values_is_read_whole_by_one_task(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
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


def test_what_other_tools_sealed_is_read_without_a_manifest(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    world.plant("x.csv", b"1,one,h\n")
    found = list_objects(world.pod(), world.dataset, JobParameters())
    assert (found.has_manifest, found.unsplittable) == (False, {"x.csv"})
    assert world.read().to_pylist() == [{"id": 1, "text": "one"}]


def test_deleting_the_manifest_does_not_hide_that_objects_are_missing(tmp_path: Path) -> None:
    world = World(tmp_path / "w", manifest="required")
    folder = tmp_path / "src"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.csv").write_text(f"1,{name},h\n")
    world.upload(folder)
    assert world.read().num_rows == 2
    world.store.delete("b.csv")
    with pytest.raises(CleanRoomError, match="DatasetTampered"):
        world.read()
    world.store.delete(MANIFEST_NAME)
    with pytest.raises(CleanRoomError, match="ManifestMissing") as caught:
        world.read()
    assert caught.value.party == "u-1"
    assert "manifest: optional" in caught.value.hint


def test_rows_that_are_pinned_are_those_of_one_upload(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a.csv").write_text("1,a,h\n")
    world.upload(folder)
    held = read_manifest(world.store, world.key)
    assert held is not None
    earlier = {item.key: world.store.read(item.key) for item in world.store.list()}
    (folder / "b.csv").write_text("2,b,h\n")
    world.upload(folder)
    now = read_manifest(world.store, world.key)
    assert now is not None

    def pin(manifest: Manifest) -> None:
        world.dataset = world.dataset.model_copy(update={"manifest": "pinned", "manifest_digest": manifest.digest()})

    pin(now)
    assert world.read().num_rows == 2
    # The administrator of the store puts the earlier upload back, list and all.
    world.store.delete("b.csv")
    for name, data in earlier.items():
        world.store.put(name, data)
    with pytest.raises(CleanRoomError, match="RowsNotThosePublished"):
        world.read()
    pin(held)
    assert world.read().num_rows == 1
    world.store.delete(MANIFEST_NAME)
    with pytest.raises(CleanRoomError, match="ManifestMissing"):
        world.read()


@pytest.mark.parametrize("fmt", ["csv", "json", "parquet"])
def test_an_older_or_another_datasets_object_under_the_same_key_is_refused(tmp_path: Path, fmt: str) -> None:
    source = tmp_path / ("x." + {"json": "jsonl"}.get(fmt, fmt))

    def write(text: str) -> None:
        row = {"id": 1, "text": text, "hidden": "h"}
        if fmt == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), source)
        else:
            source.write_text((json.dumps(row) if fmt == "json" else f"1,{text},h") + "\n")

    ours, theirs = World(tmp_path / "a"), World(tmp_path / "b")
    for world in (ours, theirs):
        world.dataset = world.dataset.model_copy(update={"format": fmt})
    theirs.key = ours.key
    write("old")
    ours.upload(source)
    old = ours.store.read(source.name)
    write("abc")
    upload_dataset(theirs.store, theirs.key, dataset="others", schema=theirs.schema(), sources=[source])
    write("new")
    ours.upload(source)
    assert ours.read().column("text").to_pylist() == ["new"]
    for foreign in (old, theirs.store.read(source.name)):
        assert len(foreign) == ours.store.size(source.name)
        ours.store.put(source.name, foreign)
        with pytest.raises(CleanRoomError, match=r"CiphertextInvalid.*older or another object"):
            ours.read()


@pytest.mark.parametrize("mode", ["SSE", "CPK"])
@pytest.mark.parametrize("fmt", ["csv", "json", "parquet"])
def test_what_the_store_encrypts_is_uploaded_plain_and_read_so(tmp_path: Path, mode: str, fmt: str) -> None:
    world = World(tmp_path / "w", format=fmt, encryption=mode, key_secret_id=None)
    source = tmp_path / ("x." + {"json": "jsonl"}.get(fmt, fmt))
    values = rows(3000)
    if fmt == "parquet":
        pq.write_table(pa.Table.from_pylist(values), source)
    else:
        lines = (json.dumps(row) if fmt == "json" else f"{row['id']},{row['text']},{row['hidden']}" for row in values)
        source.write_text("\n".join(lines) + "\n")
    for again in (False, True):
        done = upload_dataset(world.store, None, dataset="things", schema=world.schema(), sources=[source])
        assert (done.unchanged if again else done.uploaded) == (source.name,)
    assert world.store.read(source.name) == source.read_bytes()
    assert world.read().to_pylist() == [{"id": row["id"], "text": row["text"]} for row in values]
    world.store.put("more" + source.suffix, b"")
    with pytest.raises(CleanRoomError, match="DatasetTampered"):
        world.read()


def test_sealed_and_plain_are_not_mistaken_for_one_another(tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("1,one,h\n")
    world = World(tmp_path / "w")
    world.upload(source)
    with pytest.raises(CleanRoomError, match="StoredUnderAnotherKey"):
        upload_dataset(world.store, None, dataset="things", schema=world.schema(), sources=[source])
    world.dataset = world.dataset.model_copy(update={"encryption": "SSE"})
    with pytest.raises(CleanRoomError, match="ManifestInvalid"):
        world.read()
    upload_dataset(world.store, None, dataset="things", schema=world.schema(), sources=[source], replace=True)
    world.dataset = world.dataset.model_copy(update={"encryption": "CSE"})
    with pytest.raises(CleanRoomError, match="CiphertextInvalid"):
        world.read()


def test_a_customer_key_reaches_the_store_and_nobody_reads_without_it(tmp_path: Path, seaweedfs: S3Server) -> None:
    key, prefix = generate_dataset_key(), "customer-key"
    source = tmp_path / "x.csv"
    source.write_text("".join(f"{number},{'t' * 900},h\n" for number in range(7000)))  # over one request, so in several parts
    store = seaweedfs.store(prefix=prefix, customer_key=key)

    class OnS3(FolderPod):
        def store(self, dataset: JobDataset) -> ObjectStore:
            return store

    world = World(tmp_path / "w", encryption="CPK", key_secret_id=None)
    upload_dataset(store, None, dataset="things", schema=world.schema(), sources=[source])
    pod = OnS3(world.root, world.pod().config)
    found = list_objects(pod, world.dataset, JobParameters())
    assert read_table(pod, found, ["id"]).column("id").to_pylist() == list(range(7000))
    for other in (None, generate_dataset_key()):
        with pytest.raises(CleanRoomError):
            seaweedfs.store(prefix=prefix, customer_key=other).read("x.csv")


@pytest.mark.parametrize("mode", ["CSE", "SSE", "CPK"])
@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json", "parquet"])
def test_a_result_is_downloaded_as_it_was_written(tmp_path: Path, fmt: str, mode: str) -> None:
    types = {"s": "string", "i": "integer", "l": "long", "n": "number", "b": "boolean", "d": "date", "t": "timestamp"}
    world = World(
        tmp_path / "w",
        format=fmt.split()[0],
        csv_header=fmt == "csv with header",
        encryption=mode,
        key_secret_id="cleanroom_key" if mode == "CSE" else None,
        schema_fields=types,
        allowed_fields=tuple(types),
    )
    values: list[dict[str, object]] = [
        dict.fromkeys(types),
        {"s": 'a "b",\n\r\n é', "i": -1, "l": 2**60, "n": 0.1, "b": False, "d": date(1, 1, 1), "t": datetime(2024, 1, 2, 3, 4, 5, 6, UTC)},
        {"s": "", "i": 0, "l": 0, "n": -0.5, "b": True, "d": date(9999, 12, 31), "t": datetime(1, 1, 1, tzinfo=UTC)},
    ]
    table = pa.Table.from_pylist(values, schema=arrow_schema(world.dataset.schema_fields))
    pod = world.pod()
    objects = write_result(ComputedResult(3, None, table), pod, pod.job())  # type: ignore[arg-type]
    receipt = ResultReceipt(
        run_id="r-1",
        query_digest=DIGEST,
        job_digest=DIGEST,
        dataset="things",
        objects=objects,
        rows=3,
        digest=result_digest(objects),
        columns=tuple(types),
    )
    key = world.key if mode == "CSE" else None
    options = {"result_format": world.dataset.format, "types": world.dataset.schema_fields, "csv_header": world.dataset.csv_header}
    assert download_result(world.store, receipt, key, **options).to_pylist() == values  # type: ignore[arg-type]


def test_pruned_columns_of_parquet_are_not_fetched(tmp_path: Path) -> None:
    world = World(tmp_path / "w", format="parquet")
    big = pa.table({"id": pa.array(range(200)), "text": ["t"] * 200, "hidden": [f"{n:09}" * 4000 for n in range(200)]})
    sink = io.BytesIO()
    pq.write_table(big, sink, compression="none", use_dictionary=False)
    world.plant("x.parquet", sink.getvalue())
    pod = world.pod()
    store = FolderStore(world.root / "stores" / "things")

    class Watched(FolderPod):
        def store(self, dataset: JobDataset) -> FolderStore:  # type: ignore[override]
            return store

    watched = Watched(pod.root, pod.config)
    assert read_table(watched, list_objects(watched, world.dataset, JobParameters()), ["id", "text"]).num_rows == 200
    assert sum(length for _, _, length in store.reads) < store.size("x.parquet") / 2


def test_a_store_that_is_away_for_a_moment_costs_nothing_but_time(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    world.plant("x.csv", b"1,one,h\n")
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


DAYS = {"2013-01-01/a.csv": b"1,a,h\n", "2013-01-02/a.csv": b"2,b,h\n", "2013-01-04/a.csv": b"4,d,h\n"}


@pytest.mark.parametrize(
    ("start", "end", "ids", "missing"),
    [
        (None, None, [1, 2, 4], []),
        ("2013-01-01", "2013-01-01", [1], []),
        ("2013-01-02", "2013-01-05", [2, 4], ["2013-01-03", "2013-01-05"]),
    ],
)
def test_days_choose_partitions(tmp_path: Path, start: str | None, end: str | None, ids: list[int], missing: list[str]) -> None:
    world = World(tmp_path / "w", partitioned_by="day")
    for name, data in DAYS.items():
        world.plant(name, data)
    parameters = JobParameters(start_date=start, end_date=end)
    assert world.read(parameters=parameters).column("id").to_pylist() == ids
    assert list(list_objects(world.pod(), world.dataset, parameters).missing_days) == missing


def test_a_range_without_any_day_is_an_error_and_never_all_data(tmp_path: Path) -> None:
    world = World(tmp_path / "w", partitioned_by="day")
    for name, data in DAYS.items():
        world.plant(name, data)
    with pytest.raises(CleanRoomError, match="NoDataInDateRange"):
        world.read(parameters=JobParameters(start_date="2012-01-01", end_date="2012-12-31"))
    for start, end in (("2013-01-01", None), (None, "2013-01-04"), ("2013-01-01", "2013-02-30")):
        with pytest.raises(CleanRoomError, match="InvalidDateRange"):
            world.read(parameters=JobParameters(start_date=start, end_date=end))
    with pytest.raises(CleanRoomError, match="NoDataInDateRange"):
        world.read(parameters=JobParameters(start_date="2013-01-04", end_date="2013-01-01"))
    world.plant("stray.csv", b"9,z,h\n")
    with pytest.raises(CleanRoomError, match="DatasetNotDayPartitioned"):
        world.read()


def test_an_empty_object_is_no_rows_and_an_empty_store_is_an_error(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    with pytest.raises(CleanRoomError, match="DatasetEmpty"):
        world.read()
    world.plant("x.csv", b"")
    assert world.read().num_rows == 0


def test_an_upload_under_way_is_not_read(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    world.plant("x.csv", b"1,a,h\n")
    write_manifest(world.store, world.key, Manifest(dataset="things", complete=False))
    with pytest.raises(CleanRoomError, match="DatasetIncomplete"):
        world.read()
    write_manifest(world.store, world.key, Manifest(dataset="others", complete=True))
    with pytest.raises(CleanRoomError, match="DatasetTampered"):
        world.read()


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT ID FROM things", ["id"]),
        ("SELECT COUNT(*) AS n FROM things", ["id"]),
        ("SELECT * FROM things", ["id", "text"]),
        ("SELECT t.* FROM things AS t", ["id", "text"]),
        ("SELECT a.id FROM things AS a JOIN things AS b USING (text)", ["id", "text"]),
        ("SELECT hidden FROM things", ["id"]),
        ("THIS IS NO SQL (", ["id", "text"]),
    ],
)
def test_only_allowed_columns_that_the_query_names_are_read(tmp_path: Path, sql: str, columns: list[str]) -> None:
    world = World(tmp_path / "w")
    assert needed_columns(world.pod(sql).job(), world.dataset) == columns


def test_the_identity_column_of_a_floor_is_read_although_the_query_may_not(tmp_path: Path) -> None:
    world = World(tmp_path / "w", floors={"minGroupSize": 5, "identityColumn": "hidden"})
    assert needed_columns(world.pod("SELECT COUNT(DISTINCT hidden) AS n FROM things").job(), world.dataset) == ["hidden"]


# --- failures


def test_errors_leave_tasks_typed_and_without_values() -> None:
    def broken(error: Exception):
        yield 1
        raise error

    typed = CleanRoomError.from_dict({"code": "SchemaMismatch", "message": "x", "category": "invalid-input", "details": {"row": 3}})
    for error, code in ((typed, "SchemaMismatch"), (ValueError("SECRET"), "PayloadError")):
        with pytest.raises(TaskFailed) as caught:
            list(redact_task_errors(broken(error)))
        assert "SECRET" not in str(caught.value)
        assert caught.value.__cause__ is None
        wrapped = RuntimeError(f"Job aborted: Traceback …\n{caught.value}\n at java.lang.Thread")
        assert redact_error(wrapped).code == code
    assert redact_error(wrapped).category == "internal"


@pytest.mark.parametrize("floors", [{"minGroupSize": 5, "identityColumn": "hidden"}, {"allowedOutputColumns": ["id"]}, {}])
def test_under_a_floor_no_more_is_told_than_that_the_query_failed(tmp_path: Path, floors: dict[str, Any]) -> None:
    """Which of Spark's conditions it was is chosen by the author, and can be made to depend on one row."""
    job = World(tmp_path / "w", floors=floors).pod().job()
    errors = [NumberFormatException("CANARY"), ArithmeticException("CANARY")]
    told_of = [redact_for_floors(error, job).to_dict() for error in errors]
    assert (told_of[0] == told_of[1]) is bool(floors)
    assert {item["code"] for item in told_of} == {"QueryFailed"}
    assert "CANARY" not in str(told_of)
    assert redact_for_floors(PreconditionFailed("ConsentWithdrawn", "x"), job).code == "ConsentWithdrawn"


def test_codes_are_spelt_one_way_in_pods() -> None:
    assert failure_code("SchemaMismatch") == "SCHEMA_MISMATCH"
    assert failure_code("AADSTS700213") == "AADSTS700213"
    assert failure_code("NoDataInDateRange") == "NO_DATA_IN_DATE_RANGE"


def test_a_termination_message_always_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "log"))
    write_termination({"code": "X", "message": "é" * 9000, "cause": "c" * 9000, "details": {"d": "d" * 9000}})
    text = (tmp_path / "log").read_bytes()
    assert len(text) <= 4096
    assert json.loads(text)["code"] == "X"
