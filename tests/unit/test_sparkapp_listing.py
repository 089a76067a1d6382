"""The objects that a run reads: manifests, missing and foreign objects, stores that encrypt, and day partitions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.encryption import generate_dataset_key
from cleanroom.datasets.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import CsvDialect
from cleanroom.errors import CleanRoomError
from cleanroom.spark.job import JobDataset, JobParameters
from sparkapp.listing import DatasetListing, dataset_key, list_objects
from sparkapp.views import read_table
from tests.folder_pod import FolderPod
from tests.servers import S3Server
from tests.unit.sparkapp_dataset import DatasetWorld, make_rows


def test_object_sealed_by_another_tool_is_read_without_a_manifest(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    world.put_sealed("x.csv", b"1,one,h\n")
    found = list_objects(world.pod(), world.dataset, JobParameters())
    assert (found.has_manifest, found.unsplittable) == (False, {"x.csv"})
    assert world.read().to_pylist() == [{"id": 1, "text": "one"}]


def test_deleted_manifest_does_not_hide_a_missing_object(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w", manifest="required")
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


def test_pinned_manifest_accepts_the_rows_of_one_upload_only(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a.csv").write_text("1,a,h\n")
    world.upload(folder)
    held = read_manifest(world.store, world.key, collaboration="c", dataset="things")
    assert held is not None
    earlier = {item.key: world.store.read(item.key) for item in world.store.list()}
    (folder / "b.csv").write_text("2,b,h\n")
    world.upload(folder)
    now = read_manifest(world.store, world.key, collaboration="c", dataset="things")
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
def test_object_of_an_older_upload_or_another_dataset_is_rejected(tmp_path: Path, fmt: str) -> None:
    source = tmp_path / ("x." + {"json": "jsonl"}.get(fmt, fmt))

    def write(text: str) -> None:
        row = {"id": 1, "text": text, "hidden": "h"}
        if fmt == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), source)
        else:
            source.write_text((json.dumps(row) if fmt == "json" else f"1,{text},h") + "\n")

    ours, theirs = DatasetWorld(tmp_path / "a"), DatasetWorld(tmp_path / "b")
    for world in (ours, theirs):
        world.dataset = world.dataset.model_copy(update={"format": fmt})
    theirs.key = ours.key
    write("old")
    ours.upload(source)
    old = ours.store.read(source.name)
    write("abc")
    upload_dataset(theirs.store, theirs.key, collaboration="c", dataset="others", schema=theirs.schema(), sources=[source])
    write("new")
    ours.upload(source)
    assert ours.read().column("text").to_pylist() == ["new"]
    for foreign in (old, theirs.store.read(source.name)):
        assert len(foreign) == ours.store.size(source.name)
        ours.store.put(source.name, foreign)
        with pytest.raises(CleanRoomError, match=r"CiphertextInvalid.*older or another object"):
            ours.read()


def test_incomplete_upload_is_not_read(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    world.put_sealed("x.csv", b"1,a,h\n")
    write_manifest(world.store, world.key, Manifest(dataset="things", complete=False), collaboration="c")
    with pytest.raises(CleanRoomError, match="DatasetIncomplete"):
        world.read()
    write_manifest(world.store, world.key, Manifest(dataset="others", complete=True), collaboration="c")
    with pytest.raises(CleanRoomError, match="CiphertextInvalid"):
        world.read()


def test_empty_object_has_no_rows_and_empty_store_is_an_error(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    with pytest.raises(CleanRoomError, match="DatasetEmpty"):
        world.read()
    world.put_sealed("x.csv", b"")
    assert world.read().num_rows == 0


# --- stores that encrypt


@pytest.mark.parametrize("mode", ["SSE", "CPK"])
@pytest.mark.parametrize("fmt", ["csv", "json", "parquet"])
def test_dataset_encrypted_by_the_store_is_uploaded_and_read_unsealed(tmp_path: Path, mode: str, fmt: str) -> None:
    world = DatasetWorld(tmp_path / "w", format=fmt, encryption=mode, key_secret_id=None)
    source = tmp_path / ("x." + {"json": "jsonl"}.get(fmt, fmt))
    values = make_rows(3000)
    if fmt == "parquet":
        pq.write_table(pa.Table.from_pylist(values), source)
    else:
        lines = (json.dumps(row) if fmt == "json" else f"{row['id']},{row['text']},{row['hidden']}" for row in values)
        source.write_text("\n".join(lines) + "\n")
    for again in (False, True):
        done = upload_dataset(world.store, None, collaboration="c", dataset="things", schema=world.schema(), sources=[source])
        assert (done.unchanged if again else done.uploaded) == (source.name,)
    assert world.store.read(source.name) == source.read_bytes()
    assert world.read().to_pylist() == [{"id": row["id"], "text": row["text"]} for row in values]
    world.store.put("more" + source.suffix, b"")
    with pytest.raises(CleanRoomError, match="DatasetTampered"):
        world.read()


def test_sealed_dataset_is_not_read_as_plain_and_reverse(tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("1,one,h\n")
    world = DatasetWorld(tmp_path / "w")
    world.upload(source)
    with pytest.raises(CleanRoomError, match="StoredUnderAnotherKey"):
        upload_dataset(world.store, None, collaboration="c", dataset="things", schema=world.schema(), sources=[source])
    world.dataset = world.dataset.model_copy(update={"encryption": "SSE"})
    with pytest.raises(CleanRoomError, match="ManifestInvalid"):
        world.read()
    upload_dataset(world.store, None, collaboration="c", dataset="things", schema=world.schema(), sources=[source], replace=True)
    world.dataset = world.dataset.model_copy(update={"encryption": "CSE"})
    with pytest.raises(CleanRoomError, match="CiphertextInvalid"):
        world.read()


def test_object_with_a_customer_key_is_only_read_with_that_key(tmp_path: Path, seaweedfs: S3Server) -> None:
    key, prefix = generate_dataset_key(), "customer-key"
    source = tmp_path / "x.csv"
    source.write_text("".join(f"{number},{'t' * 900},h\n" for number in range(7000)))  # over one request, so in several parts
    store = seaweedfs.store(prefix=prefix, customer_key=key)

    class OnS3(FolderPod):
        def store(self, dataset: JobDataset) -> ObjectStore:
            return store

    world = DatasetWorld(tmp_path / "w", encryption="CPK", key_secret_id=None)
    upload_dataset(store, None, collaboration="c", dataset="things", schema=world.schema(), sources=[source])
    pod = OnS3(world.root, world.pod().config)
    found = list_objects(pod, world.dataset, JobParameters())
    assert read_table(pod, found, ["id"]).column("id").to_pylist() == list(range(7000))
    for other in (None, generate_dataset_key()):
        with pytest.raises(CleanRoomError):
            seaweedfs.store(prefix=prefix, customer_key=other).read("x.csv")


# --- day partitions

DAYS = {"2013-01-01/a.csv": b"1,a,h\n", "2013-01-02/a.csv": b"2,b,h\n", "2013-01-04/a.csv": b"4,d,h\n"}


@pytest.mark.parametrize(
    ("start", "end", "ids", "missing"),
    [
        (None, None, [1, 2, 4], []),
        ("2013-01-01", "2013-01-01", [1], []),
        ("2013-01-02", "2013-01-09", [2, 4], [f"2013-01-0{day}" for day in (3, 5, 6, 7, 8, 9)]),
    ],
)
def test_date_range_selects_partitions_and_reports_missing_days(
    tmp_path: Path, start: str | None, end: str | None, ids: list[int], missing: list[str]
) -> None:
    world = DatasetWorld(tmp_path / "w", partitioned_by="day")
    for name, data in DAYS.items():
        world.put_sealed(name, data)
    parameters = JobParameters(start_date=start, end_date=end)
    assert world.read(parameters=parameters).column("id").to_pylist() == ids
    assert list(list_objects(world.pod(), world.dataset, parameters).missing_days) == missing


def test_date_range_without_data_is_an_error(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w", partitioned_by="day")
    for name, data in DAYS.items():
        world.put_sealed(name, data)
    with pytest.raises(CleanRoomError, match="NoDataInDateRange"):
        world.read(parameters=JobParameters(start_date="2012-01-01", end_date="2012-12-31"))
    for start, end in (("2013-01-01", None), (None, "2013-01-04"), ("2013-01-01", "2013-02-30")):
        with pytest.raises(CleanRoomError, match="InvalidDateRange"):
            world.read(parameters=JobParameters(start_date=start, end_date=end))
    with pytest.raises(CleanRoomError, match="NoDataInDateRange"):
        world.read(parameters=JobParameters(start_date="2013-01-04", end_date="2013-01-01"))
    world.put_sealed("stray.csv", b"9,z,h\n")
    with pytest.raises(CleanRoomError, match="DatasetNotDayPartitioned"):
        world.read()


# --- exactly the owner's objects


def manifest_world(tmp_path: Path, **dataset: object) -> tuple[DatasetWorld, Path]:
    world, folder = DatasetWorld(tmp_path / "w", **dataset), tmp_path / "src"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.csv").write_text(f"1,{name},h\n")
    key = world.key if world.dataset.encryption == "CSE" else None
    upload_dataset(world.store, key, collaboration="c", dataset="things", schema=world.schema(), sources=[folder])
    return world, folder


def listing(world: DatasetWorld) -> DatasetListing:
    return list_objects(world.pod(), world.dataset, JobParameters())


def test_listing_names_every_object_of_the_format_with_its_size_in_order(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    for name in ("c.CSV", "b.csv", "notes.txt", "_x/d.csv", "sub/_e.csv", ".f.csv", "sub/.g/h.csv", "sub/i.csv"):
        world.put_sealed(name, b"1,a,h\n")
    found = listing(world)
    size = world.store.size("b.csv")
    assert found.objects == dict.fromkeys(("b.csv", "c.CSV", "sub/i.csv"), size)
    assert list(found.objects) == ["b.csv", "c.CSV", "sub/i.csv"]
    assert (found.stored_bytes(), found.dataset, found.missing_days) == (3 * size, world.dataset, ())
    assert (found.verified, found.headers) == (frozenset(), {})


@pytest.mark.parametrize("fmt", ["json", "parquet"])
def test_only_csv_needs_to_be_read_from_its_beginning(tmp_path: Path, fmt: str) -> None:
    world = DatasetWorld(tmp_path / "w", format=fmt)
    world.put_sealed("a." + fmt, b"{}")
    assert (listing(world).unsplittable, listing(world).verified) == (frozenset(), frozenset())


def test_objects_of_the_manifest_are_verified_and_splittable(tmp_path: Path) -> None:
    world, folder = manifest_world(tmp_path)
    (folder / "b.csv").write_text('1,"b\nb",h\n')
    world.upload(folder)
    found = listing(world)
    assert (found.has_manifest, found.verified, found.unsplittable) == (True, {"a.csv", "b.csv"}, {"b.csv"})
    assert found.headers == {name: world.store.read(name)[:40].hex() for name in ("a.csv", "b.csv")}


def test_text_that_was_verified_in_another_dialect_is_read_from_its_beginning(tmp_path: Path) -> None:
    world, _ = manifest_world(tmp_path)
    world.dataset = world.dataset.model_copy(update={"csv_dialect": CsvDialect(delimiter=";")})
    assert (listing(world).verified, listing(world).unsplittable) == (frozenset(), {"a.csv", "b.csv"})


def test_object_with_another_size_and_a_missing_one_are_named(tmp_path: Path) -> None:
    world, _ = manifest_world(tmp_path)
    for name in ("a.csv", "b.csv"):
        data = world.store.read(name)
        for change, words in ((data + b"\0", "size differs"), (None, "missing")):
            world.store.delete(name) if change is None else world.store.put(name, change)
            with pytest.raises(CleanRoomError) as caught:
                listing(world)
            assert (caught.value.code, caught.value.party, caught.value.details) == ("DatasetTampered", "u-1", {"object": name})
            assert words in caught.value.message
        world.store.put(name, data)


def test_order_of_the_store_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = manifest_world(tmp_path)
    items = sorted(world.store.list(), key=lambda item: item.key, reverse=True)
    monkeypatch.setattr("tests.folder_store.FolderStore.list", lambda store: iter(items))
    assert list(listing(world).objects) == ["a.csv", "b.csv"]


def test_manifest_of_another_dataset_is_rejected(tmp_path: Path) -> None:
    """A store that encrypts does not bind the manifest to its dataset by a seal."""
    world, _ = manifest_world(tmp_path, encryption="SSE", key_secret_id=None)
    manifest = read_manifest(world.store, None, collaboration="c", dataset="things")
    assert manifest is not None
    write_manifest(world.store, None, manifest.model_copy(update={"dataset": "others"}), collaboration="c")
    with pytest.raises(CleanRoomError, match="DatasetTampered") as caught:
        listing(world)
    assert caught.value.details == {"object": MANIFEST_NAME}


@pytest.mark.parametrize(("rule", "rows", "code"), [("required", False, "DatasetEmpty"), ("pinned", True, "ManifestMissing")])
def test_rule_of_the_manifest_applies_to_stores_with_objects(tmp_path: Path, rule: str, rows: bool, code: str) -> None:
    world = DatasetWorld(tmp_path / "w", manifest=rule, manifest_digest="ab" * 32 if rule == "pinned" else None)
    if rows:
        world.put_sealed("a.csv", b"1,a,h\n")
    with pytest.raises(CleanRoomError, match=code) as caught:
        listing(world)
    assert caught.value.party == "u-1"


@pytest.mark.parametrize(("mode", "secret", "key"), [("CSE", "cleanroom_key", True), ("SSE", None, False), ("CPK", "cleanroom_key", False)])
def test_only_a_sealed_dataset_has_a_key(tmp_path: Path, mode: str, secret: str | None, key: bool) -> None:
    world = DatasetWorld(tmp_path / "w", encryption=mode, key_secret_id=secret)
    assert dataset_key(world.pod(), world.dataset) == (world.key if key else None)


def test_sealed_dataset_without_a_key_is_not_read_as_plain(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w", key_secret_id=None)
    with pytest.raises(CleanRoomError, match="DatasetKeyMissing"):
        dataset_key(world.pod(), world.dataset)


def test_objects_in_a_folder_that_is_no_day_are_an_error(tmp_path: Path) -> None:
    for number, name in enumerate(("2013-02-30/a.csv", "x/a.csv", "2013-01-01")):
        world = DatasetWorld(tmp_path / str(number), partitioned_by="day")
        world.put_sealed("2013-01-01/a.csv" if number < 2 else "2013-01-01.csv", b"1,a,h\n")
        world.put_sealed(name, b"1,a,h\n") if number < 2 else None
        with pytest.raises(CleanRoomError, match="DatasetNotDayPartitioned"):
            listing(world)


def test_days_do_not_select_parts_of_a_dataset_without_partitions(tmp_path: Path) -> None:
    world = DatasetWorld(tmp_path / "w")
    world.put_sealed("2013-01-01/a.csv", b"1,a,h\n")
    parameters = JobParameters(start_date="2014-01-01", end_date="2014-01-01")
    assert world.read(parameters=parameters).num_rows == 1
