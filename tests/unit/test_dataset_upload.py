"""Uploads: files are checked, sealed and recorded; an upload resumes, and nothing is stored under wrong conditions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from cleanroom.clients.objects import Source, Stored
from cleanroom.datasets import upload as upload_module
from cleanroom.datasets.encryption import generate_dataset_key, open_bytes, sealed_size
from cleanroom.datasets.manifest import MANIFEST_NAME, read_manifest
from cleanroom.datasets.sources import find_sources
from cleanroom.datasets.upload import UploadProgress, UploadResult, upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, SchemaField
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.identifiers import object_context
from cleanroom.secret import Secret
from tests.folder_store import FolderStore

TYPES: dict[str, FieldType] = {"id": "integer", "day": "date"}
DAYS = DatasetSchema(
    format="json", fields=tuple(SchemaField(field_name=name, field_type=kind) for name, kind in TYPES.items()), partitioned_by="day"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for day in ("2013-01-01", "2013-01-02", "2013-01-03"):
        (folder / day).mkdir(parents=True)
        (folder / day / "part.jsonl").write_text("".join(json.dumps({"id": number, "day": day}) + "\n" for number in range(100)))
    (folder / ".DS_Store").write_text("no data")
    return folder


def upload(store: FolderStore, key: Secret, *sources: Path, **options: object) -> object:
    return upload_dataset(store, key, collaboration="c", dataset="flights", schema=DAYS, sources=sources, **options)  # type: ignore[arg-type]


def test_upload_seals_every_file_under_its_path_and_reports_progress(tmp_path: Path, source: Path) -> None:
    store, key = FolderStore(tmp_path / "store"), generate_dataset_key()
    progress: list[UploadProgress] = []
    result = upload(store, key, source, on_progress=progress.append)
    assert result.uploaded == tuple(f"2013-01-0{day}/part.jsonl" for day in (1, 2, 3))
    assert result.rows == 300
    for name in result.uploaded:
        assert open_bytes(store.read(name), key, object_context("c", "flights", name)) == (source / name).read_bytes()
        with pytest.raises(Refused):
            open_bytes(store.read(name), key, object_context("c", "flights", "2013-01-04/part.jsonl"))
    assert progress[-1].done == progress[-1].total
    assert [step.done for step in progress] == sorted(step.done for step in progress)
    manifest = read_manifest(store, key, collaboration="c", dataset="flights")
    assert manifest is not None
    assert manifest.complete
    assert manifest.rows() == 300
    assert b"part.jsonl" not in store.read(MANIFEST_NAME)


def test_interrupted_upload_resumes_without_repeating_files(tmp_path: Path, source: Path) -> None:
    key = generate_dataset_key()

    class Failing(FolderStore):
        def put(self, key: str, source: Source, **options: object) -> Stored:
            if key.startswith("2013-01-03"):
                raise Unavailable("StoreUnavailable", "no answer")
            return super().put(key, source)

    with pytest.raises(Unavailable):
        upload(Failing(tmp_path / "store"), key, source)
    store = FolderStore(tmp_path / "store")
    unfinished = read_manifest(store, key, collaboration="c", dataset="flights")
    assert unfinished is not None
    assert not unfinished.complete

    before = {item.key: store.read(item.key) for item in store.list("2013")}
    second = upload(store, key, source)
    assert second.uploaded == ("2013-01-03/part.jsonl",)  # type: ignore[attr-defined]
    assert upload(store, key, source).uploaded == ()  # type: ignore[attr-defined]
    assert before == {name: store.read(name) for name in before}


def test_changed_file_is_uploaded_again_and_replace_removes_others(tmp_path: Path, source: Path) -> None:
    store, key = FolderStore(tmp_path / "store"), generate_dataset_key()
    upload(store, key, source)
    (source / "2013-01-02" / "part.jsonl").write_text('{"id":1,"day":"2013-01-02"}\n')
    assert upload(store, key, source).uploaded == ("2013-01-02/part.jsonl",)
    only = upload(store, key, source / "2013-01-02" / "part.jsonl")
    assert (only.uploaded, only.rows) == ((), 201)
    replaced = upload(store, key, source / "2013-01-02" / "part.jsonl", replace=True)
    assert set(replaced.removed) == {"2013-01-01/part.jsonl", "2013-01-03/part.jsonl"}
    assert [item.key for item in store.list()] == ["2013-01-02/part.jsonl", MANIFEST_NAME]
    assert replaced.rows == 1


def test_objects_sealed_with_another_key_are_only_replaced_on_request(tmp_path: Path, source: Path) -> None:
    store, key = FolderStore(tmp_path / "store"), generate_dataset_key()
    upload(store, generate_dataset_key(), source)
    with pytest.raises(Conflict, match="StoredUnderAnotherKey"):
        upload(store, key, source)
    assert len(upload(store, key, source, replace=True).uploaded) == 3  # type: ignore[attr-defined]
    assert read_manifest(store, key, collaboration="c", dataset="flights") is not None


def test_upload_with_an_invalid_file_stores_nothing(tmp_path: Path, source: Path) -> None:
    store = FolderStore(tmp_path / "store")
    (source / "2013-01-03" / "part.jsonl").write_text('{"id":"x","day":"2013-01-02"}\n')
    with pytest.raises(InvalidInput, match="2013-01-03"):
        upload(store, generate_dataset_key(), source)
    assert list(store.list()) == []


def test_file_that_changes_during_upload_is_not_kept(tmp_path: Path, source: Path) -> None:
    class Slow(FolderStore):
        def put(self, key: str, data: Source, **options: object) -> Stored:
            if key.startswith("2013-01-01"):
                (source / key).write_text('{"id":7,"day":"2013-01-01"}\n')
            return super().put(key, data)

    store = Slow(tmp_path / "store")
    with pytest.raises(Conflict, match="SourceChanged"):
        upload(store, generate_dataset_key(), source)
    assert not store.exists("2013-01-01/part.jsonl")


ROWS = DatasetSchema(
    format="csv", fields=(SchemaField(field_name="id", field_type="long"), SchemaField(field_name="text", field_type="string"))
)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files that are each larger than a part."""
    monkeypatch.setattr(upload_module, "BLOCK_BYTES", 1000)
    folder = tmp_path / "large"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.csv").write_text("".join(f"{number},{name}\n" for number in range(500)))
    return folder


def upload_rows(store: FolderStore, key: Secret, source: Path, **options: object) -> UploadResult:
    return upload_dataset(store, key, collaboration="c", dataset="d", schema=ROWS, sources=[source], **options)  # type: ignore[arg-type]


def test_large_file_is_read_once_and_sent_while_it_is_checked(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = FolderStore(tmp_path / "store"), generate_dataset_key()
    opened: list[str] = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *mode, **options: (opened.append(path.name), original(path, *mode, **options))[1])
    progress: list[UploadProgress] = []
    assert upload_rows(store, key, large, on_progress=progress.append).rows == 1500
    assert opened.count("a.csv") == 2, "read once by the upload, and written once by FolderStore"
    sizes = [(name, sealed_size((large / name).stat().st_size)) for name in ("a.csv", "b.csv", "c.csv")]
    assert store.staged == sizes, "the store chooses the parts by the stored size"
    assert progress[0].done == 2 * (large / "a.csv").stat().st_size
    assert progress[-1].done == progress[-1].total
    for name, _ in sizes:
        assert open_bytes(store.read(name), key, object_context("c", "d", name)) == (large / name).read_bytes()
    assert upload_rows(store, key, large).unchanged == ("a.csv", "b.csv", "c.csv")
    assert len(store.staged) == 3


def test_nothing_is_visible_before_all_files_are_checked(tmp_path: Path, large: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with (large / "c.csv").open("a") as file:
        file.write("x,c\n")
    with pytest.raises(InvalidInput, match=r"c.csv, column 'id', row 501"):
        upload_rows(store, generate_dataset_key(), large)
    assert list(store.list()) == []
    assert [upload.ended for upload in store.uploads] == ["aborted"] * 3


def test_files_beyond_the_bound_are_sent_after_the_check(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_module, "STAGED_BYTES", 3000)
    stages: list[tuple[str, str]] = []
    store = FolderStore(tmp_path / "store")
    key = generate_dataset_key()
    upload_rows(store, key, large, on_progress=lambda step: stages.append((step.name, step.stage)))
    assert stages[0] == ("a.csv", "upload")
    assert stages[1:] == [("b.csv", "upload"), ("c.csv", "check"), ("c.csv", "upload")]
    assert upload_rows(store, key, large).rows == 1500


def test_large_file_that_changes_before_it_is_visible_is_not_kept(tmp_path: Path, large: Path) -> None:
    class Slow(FolderStore):
        def put(self, key: str, data: Source, **options: object) -> Stored:
            if key == "a.csv":
                (large / key).write_text("7,a\n")
            return super().put(key, data)

    store = Slow(tmp_path / "store")
    with pytest.raises(Conflict, match="SourceChanged"):
        upload_rows(store, generate_dataset_key(), large)
    assert [item.key for item in store.list()] == [MANIFEST_NAME]


@dataclass(frozen=True)
class InvalidSource:
    """A folder with one file, or without, and the error that it causes as a source."""

    folder: str
    file: str | None
    code: str


INVALID_SOURCES = [
    InvalidSource("empty", None, "SourceEmpty"),
    InvalidSource("other", "readme.txt", "SourceFormatMismatch"),
    InvalidSource("flat", "x.jsonl", "SourceNotDayPartitioned"),
    InvalidSource("odd", "2013-02-30/x.jsonl", "SourceNotDayPartitioned"),
]


@pytest.mark.parametrize("row", INVALID_SOURCES, ids=lambda row: row.folder)
def test_invalid_source_is_rejected_with_its_code(tmp_path: Path, row: InvalidSource) -> None:
    folder = tmp_path / row.folder
    folder.mkdir()
    if row.file is not None:
        (folder / row.file).parent.mkdir(exist_ok=True)
        (folder / row.file).write_text("{}")
    with pytest.raises(CleanRoomError) as caught:
        find_sources([folder], DAYS)
    assert caught.value.code == row.code


def test_missing_source_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        find_sources([tmp_path / "nothing-here"], DAYS)
    assert caught.value.code == "SourceNotFound"
