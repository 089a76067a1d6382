"""What an owner sees of an own dataset in the store, warnings about earlier uploads, and the refusal of other collaborators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from cleanroom.datasets.manifest import MANIFEST_NAME
from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import NotFound, Refused, Unavailable
from starters.cli import app
from starters.operations.own_datasets import upload_warnings
from starters.operations.session import Session
from tests.folder_store import FolderStore
from tests.governance_documents import Governance, use_profiles

runner = CliRunner()
BASE = {
    "name": "shops",
    "format": "csv",
    "schema": {"person": "string", "city": "string", "spent": "number"},
    "privacy": {"minGroupSize": 20, "identity": "person"},
    "store": {"kind": "aws-s3", "bucket": "litware", "connectionSecret": "secret:s3"},
}


class World:
    """An owner and another collaborator, whose stores are one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "store")
        self.governance = Governance()

    def write(self, rows: int, name: str = "rows.csv", start: int = 0) -> None:
        lines = "".join(f"p{number},{'Oslo' if number % 2 else ''},{number}.5\n" for number in range(start, start + rows))
        (self.folder / name).write_text("person,city,spent\n" + lines)

    def dataset(self, *words: str, profile: str = "litware", **changes: Any) -> tuple[int, Any]:
        (self.folder / "shops.yaml").write_text(yaml.safe_dump(BASE | changes))
        done = runner.invoke(app, ["dataset", *words, "--profile", profile, "--output", "json"])
        return done.exit_code, json.loads(done.stdout)

    def table(self, *words: str) -> str:
        return runner.invoke(app, ["dataset", *words, "--profile", "litware"]).output.replace("\n", " ")

    def session(self) -> Session:
        return Session.load("litware", None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path)
    use_profiles(tmp_path, monkeypatch, "litware")
    monkeypatch.setattr(Session, "governance", lambda session: found.governance)
    monkeypatch.setattr("cleanroom.clients.owned.open_store", lambda *arguments, **options: found.store)
    return found


@pytest.mark.parametrize(("bucket", "named"), [("", False), ("litware", False), ("rows", True)], ids=["none", "the same", "another"])
def test_a_bucket_that_is_not_the_profiles_is_named_when_access_is_denied(
    bucket: str, named: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dataset init` cannot know the bucket, and proposes the name of the dataset."""
    world.write(5)
    config = world.folder / "cleanroom.toml"
    config.write_text(config.read_text() + f'[profile.litware.s3]\nbucket = "{bucket}"\n')

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise Refused("AccessDenied", "Could not open the bucket.", hint="Grant s3:ListBucket.")

    monkeypatch.setattr("cleanroom.clients.owned.open_store", refuse)
    exit_code, error = world.dataset("upload", "shops.yaml", "rows.csv")
    assert (exit_code, error["code"]) == (4, "AccessDenied")
    assert ("write `bucket: rows`" in error["hint"]) is named
    assert named or error["hint"] == "Grant s3:ListBucket."


def test_an_owner_sees_objects_rows_and_statistics(world: World) -> None:
    world.write(50)
    assert world.dataset("upload", "shops.yaml", "rows.csv")[0] == 0
    _, objects = world.dataset("objects", "shops")
    assert objects == [{"object": "rows.csv", "rows": 50, "stored_bytes": objects[0]["stored_bytes"], "state": "stored"}]
    _, preview = world.dataset("preview", "shops")
    assert (preview["total_rows"], preview["shown_rows"], len(preview["rows"])) == (50, 20, 20)
    assert preview["rows"][1] == {"person": "p1", "city": "Oslo", "spent": 1.5}
    assert len(world.dataset("preview", "shops", "--rows", "50")[1]["rows"]) == 50
    shown = world.table("preview", "shops")
    assert "the first 20 of 50 rows" in shown
    assert "│ 2 │ Oslo │ p1 │ 1.5 │" in " ".join(shown.split())
    _, stats = world.dataset("stats", "shops")
    assert (stats["rows"], stats["persons"], stats["floor_reached"]) == (50, 50, True)
    assert stats["columns"]["city"] == {"type": "string", "empty": 25, "different": 1}


@pytest.mark.parametrize("fmt", ["csv", "json", "parquet"])
@pytest.mark.parametrize("encryption", ["CSE", "SSE"])
def test_a_preview_reads_every_format_and_only_what_it_shows(fmt: str, encryption: str, world: World) -> None:
    table = pa.table({"person": [f"p{number}" for number in range(300)], "city": ["Oslo"] * 300, "spent": [0.5] * 300})
    for part in ("a", "b"):
        if fmt == "parquet":
            pq.write_table(table, world.folder / f"{part}.parquet", row_group_size=100)
        elif fmt == "csv":
            (world.folder / f"{part}.csv").write_text("person,city,spent\n" + "".join(f"p{n},Oslo,0.5\n" for n in range(300)))
        else:
            (world.folder / f"{part}.json").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    changes = {"format": fmt, "encryption": encryption}
    assert world.dataset("upload", "shops.yaml", f"a.{fmt}", f"b.{fmt}", **changes)[0] == 0
    world.store.reads.clear()
    exit_code, preview = world.dataset("preview", "shops", **changes)
    assert (exit_code, preview["rows"], preview["total_rows"]) == (0, table.slice(0, 20).to_pylist(), 600)
    assert {name for name, _, _ in world.store.reads} == {f"a.{fmt}"}
    assert len(world.dataset("preview", "shops", "--rows", "400", **changes)[1]["rows"]) == 400


@pytest.mark.parametrize("verb", ["objects", "preview", "stats"])
def test_other_collaborators_are_refused_and_wrong_names_explained(verb: str, world: World) -> None:
    world.write(3)
    world.dataset("upload", "shops.yaml", "rows.csv")
    world.governance.publish("shops", "u-litware", "read", {"person": "string", "city": "string", "spent": "number"})
    assert world.dataset(verb, "shops")[0] == 0
    exit_code, error = world.dataset(verb, "shops", profile="contosso")
    assert (exit_code, error["code"]) == (4, "NotDatasetOwner")
    assert "belongs to litware" in error["message"]
    exit_code, error = world.dataset(verb, "shops", "--file", "shops.yaml", profile="contosso")
    assert (exit_code, error["code"]) == (4, "NotDatasetOwner")
    exit_code, error = world.dataset(verb, "other")
    assert (exit_code, error["code"], "--file" in error["hint"]) == (3, "DatasetFileUnknown", True)
    exit_code, error = world.dataset(verb, "other", "--file", "shops.yaml")
    assert (exit_code, error["code"]) == (2, "DatasetFileMismatch")
    assert world.dataset(verb, "Bad Name")[1]["code"] == "InvalidName"


def test_without_the_key_or_rows_there_is_a_remedy(world: World) -> None:
    exit_code, error = world.dataset("preview", "shops", "--file", "shops.yaml")
    assert (exit_code, error["code"], "upload" in error["hint"]) == (6, "DatasetEmpty", True)
    world.write(3)
    world.dataset("upload", "shops.yaml", "rows.csv")
    for key in (world.folder / "litware").rglob("*.dataset-key"):
        key.write_bytes(b"A" * 43 + b"=\n")
    assert world.dataset("preview", "shops")[1]["code"] in ("CiphertextInvalid", "DatasetKeyMalformed")
    exit_code, error = world.dataset("stats", "shops", "--file", "shops.yaml", access="write", privacy={})
    assert (exit_code, error["code"]) == (6, "DatasetIsOutput")


# ------------------------------------------------------------------ earlier uploads


def test_a_second_upload_under_another_name_says_that_both_are_there(world: World) -> None:
    world.write(3)
    world.dataset("upload", "shops.yaml", "rows.csv")
    world.write(2, "new.csv", start=10)
    exit_code, record = world.dataset("upload", "shops.yaml", "new.csv")
    assert (exit_code, record["earlier"], record["rows"]) == (0, ["rows.csv"], 5)
    text = world.table("upload", "shops.yaml", "new.csv")
    assert "rows.csv of an earlier upload and new.csv: a query reads the rows of all of them" in text
    assert "--replace" in text
    exit_code, record = world.dataset("upload", "shops.yaml", "new.csv", "--replace")
    assert (exit_code, record["earlier"], record["removed"], record["rows"]) == (0, [], ["rows.csv"], 2)
    assert {item.key for item in world.store.list()} == {"new.csv", MANIFEST_NAME}
    assert "earlier upload" not in world.table("upload", "shops.yaml", "new.csv")


def test_earlier_objects_are_deleted_only_after_the_new_ones_are_complete(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(3)
    world.dataset("upload", "shops.yaml", "rows.csv")
    world.write(2, "new.csv")
    world.write(2, "newer.csv")
    steps: list[str] = []
    failing = {"once": True}
    put, delete = FolderStore.put, FolderStore.delete

    def record_put(store: FolderStore, key: str, *arguments: Any, **options: Any) -> Any:
        steps.append(f"put {key}")
        if key == "newer.csv" and failing.pop("once", False):
            raise Unavailable("S3Unreachable", "no answer")
        return put(store, key, *arguments, **options)

    def record_delete(store: FolderStore, key: str) -> None:
        steps.append(f"delete {key}")
        delete(store, key)

    monkeypatch.setattr(FolderStore, "put", record_put)
    monkeypatch.setattr(FolderStore, "delete", record_delete)
    command = ("upload", "shops.yaml", "new.csv", "newer.csv", "--replace")
    assert world.dataset(*command)[1]["code"] == "S3Unreachable"
    assert world.store.exists("rows.csv")
    assert "delete rows.csv" not in steps
    assert world.dataset("objects", "shops")[1][-1]["state"] == "upload not complete"
    steps.clear()
    assert world.dataset(*command)[1]["removed"] == ["rows.csv"]
    assert steps[-2:] == [f"put {MANIFEST_NAME}", "delete rows.csv"]


def test_objects_that_no_upload_has_listed_are_named(world: World) -> None:
    world.write(3)
    world.dataset("upload", "shops.yaml", "rows.csv")
    world.store.put("stray.csv", b"x")
    assert world.dataset("upload", "shops.yaml", "rows.csv")[1]["unlisted"] == ["stray.csv"]
    assert "no upload has listed: runs refuse the dataset" in world.table("upload", "shops.yaml", "rows.csv")
    states = {row["object"]: row["state"] for row in world.dataset("objects", "shops")[1]}
    assert states == {"rows.csv": "stored", "stray.csv": "not in the manifest"}
    world.store.delete("rows.csv")
    assert world.dataset("objects", "shops")[1][0]["state"] == "missing"


def test_a_wrong_source_creates_no_key(world: World) -> None:
    assert world.dataset("upload", "shops.yaml", "none.csv")[1]["code"] == "SourceNotFound"
    assert not list(world.folder.rglob("*.dataset-key"))


# ------------------------------------------------------------------ publishing without rows


def test_publishing_an_input_without_rows_warns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session, spec = world.session(), DatasetSpec.model_validate(BASE)
    assert "nothing was uploaded yet" in upload_warnings(session, spec)[0]
    world.write(3)
    world.dataset("upload", "shops.yaml", "rows.csv")
    assert upload_warnings(session, spec) == []
    assert upload_warnings(session, DatasetSpec.model_validate(BASE | {"access": "write", "name": "out"})) == []

    async def publish(session: Session, spec: DatasetSpec, **options: Any) -> dict[str, Any]:
        return {"document_id": spec.name}

    monkeypatch.setattr("starters.operations.datasets.publish_dataset", publish)
    assert world.dataset("publish", "shops.yaml", "--plaintext")[1] == {"document_id": "shops"}

    def gone(*arguments: Any, **options: Any) -> Any:
        raise NotFound("NoSuchBucket", "the bucket does not exist")

    monkeypatch.setattr("cleanroom.clients.owned.open_store", lambda *arguments, **options: world.store)
    monkeypatch.setattr("cleanroom.datasets.manifest.read_manifest", gone)
    exit_code, record = world.dataset("publish", "shops.yaml", "--plaintext")
    assert (exit_code, record["document_id"]) == (0, "shops")
    assert "nothing was uploaded yet" in record["warnings"][0]


@pytest.mark.parametrize("words", ["dataset publish", "dataset upload"])
def test_a_profile_without_the_cloud_of_the_dataset_is_refused_before_anything_starts(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def temporal(session: Session, **options: Any) -> Any:
        raise AssertionError("a workflow was started")

    monkeypatch.setattr(Session, "temporal", temporal)
    use_profiles(tmp_path, monkeypatch, "fabrikam")
    monkeypatch.setenv("CLEANROOM_TEMPORAL__KEYRING_FILE", "keyring.json")
    (tmp_path / "flights.csv").write_text("a\n")
    file = Path(__file__).parents[2] / "demo/contosso-flights.yaml"
    sources = ["flights.csv"] if words == "dataset upload" else []
    done = CliRunner().invoke(app, [*words.split(), str(file), *sources, "--output", "json"])
    error = json.loads(done.stdout)
    assert (done.exit_code, error["code"]) == (6, "SettingMissing")
    assert "profile 'fabrikam' lacks azure." in error["message"]
    assert "--profile" in error["hint"]
