"""An owner's commands in a process whose imports of pyarrow, numpy and Spark fail; `tests/unit/test_pure_readers.py` runs it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleanroom.datasets.download import download_result
from cleanroom.datasets.encryption import generate_dataset_key, seal_bytes
from cleanroom.datasets.result import result_digest, write_receipt
from cleanroom.identifiers import object_context
from cleanroom.spark.job import ResultObject, ResultReceipt
from starters.cli import app
from starters.operations.session import Session
from starters.terminal.entry import invoke
from starters.terminal.extras import missing_extra
from starters.terminal.result_files import write_result
from tests.folder_store import FolderStore
from tests.governance_documents import Governance, use_profiles


def command(*words: str) -> Any:
    """Run a command, and return the JSON that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        invoke(app, [*words, "--output", "json"])
    return json.loads(printed.getvalue())


def rows(kind: str) -> str:
    found = [
        {"person": f"p{number}", "city": "Oslo" if number % 2 else "Rome", "spent": number + 0.5, "day": f"2024-01-{number % 28 + 1:02}"}
        for number in range(50)
    ]
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in found)
    return "person,city,spent,day\n" + "".join(",".join(map(str, row.values())) + "\n" for row in found)


def with_own_store(file: Path) -> None:
    spec = yaml.safe_load(file.read_text())
    spec["store"] = {"kind": "aws-s3", "bucket": "litware", "subdirectory": spec["name"], "connectionSecret": "secret:s3"}
    file.write_text(yaml.safe_dump(spec))


def owner(kind: str) -> dict[str, Any]:
    Path(f"shop-{kind}.{kind}").write_text(rows(kind))
    found = {"init": command("dataset", "init", f"shop-{kind}.{kind}", "--store", "aws-s3")}
    with_own_store(Path(f"shop-{kind}.yaml"))
    found["upload"] = command("dataset", "upload", f"shop-{kind}.yaml", f"shop-{kind}.{kind}", "--profile", "litware")
    for word in ("objects", "preview", "stats"):
        found[word] = command("dataset", word, f"shop-{kind}", "--profile", "litware")
    return found


def result(folder: Path) -> tuple[Any, Any]:
    """A result of two rows: as a table, and as a function that reads it in another format."""
    store, key = FolderStore(folder / "result"), generate_dataset_key()
    name, types = "c/r-1/part-00000-000.csv", {"first": "string", "second": "string"}
    stored = seal_bytes(b"a0,b0\na1,b1\n", key, object_context("c", "out", name))
    store.put(name, stored)
    objects = (ResultObject(name=name, size=len(stored), sha256=hashlib.sha256(stored).hexdigest()),)
    receipt = ResultReceipt(
        run_id="r-1", query_digest="ab" * 32, job_digest="ab" * 32, dataset="out", columns=tuple(types), rows=2, objects=objects,
        digest=result_digest(objects),
    )  # fmt: skip
    write_receipt(store, receipt, key, collaboration="c")

    def read(form: Any) -> Any:
        return download_result(store, receipt, key, collaboration="c", result_format=form, types=types)  # type: ignore[arg-type]

    return read("csv"), read


def extra(act: Any) -> dict[str, Any]:
    try:
        act()
    except ModuleNotFoundError as error:
        found = missing_extra(error)
        assert found is not None
        return found.to_dict()
    return {}


def play(folder: str) -> None:
    """Run every step, and print what came out."""
    os.chdir(folder)
    here = Path(folder)
    governance, stores = Governance(), {}
    patch = pytest.MonkeyPatch()
    use_profiles(here, patch, "litware")
    patch.setattr(Session, "governance", lambda session: governance)
    patch.setattr(
        "cleanroom.clients.owned.open_store",
        lambda settings, spec, **options: stores.setdefault(spec.name, FolderStore(here / "stores" / spec.name)),
    )
    found: dict[str, Any] = {kind: owner(kind) for kind in ("csv", "jsonl")}
    Path("wrong.csv").write_text("person,city,spent,day\np1,Oslo,much,2024-01-01\n")
    found["wrong"] = command("dataset", "upload", "shop-csv.yaml", "wrong.csv", "--profile", "litware")
    table, read = result(here)
    for suffix in ("csv", "xlsx"):
        write_result(table, here / f"result.{suffix}")
    found["result"] = {"csv": (here / "result.csv").read_text(), "xlsx": (here / "result.xlsx").read_bytes().startswith(b"PK")}
    found["parquet result"] = extra(lambda: read("parquet"))
    Path("shop.parquet").write_bytes(b"PAR1")
    found["parquet init"] = command("dataset", "init", "shop.parquet")
    spec = yaml.safe_load(Path("shop-csv.yaml").read_text()) | {"format": "parquet", "name": "shop-parquet"}
    spec.pop("csvHeader")
    Path("shop-parquet.yaml").write_text(yaml.safe_dump(spec))
    found["parquet upload"] = command("dataset", "upload", "shop-parquet.yaml", "shop.parquet", "--profile", "litware")
    print(json.dumps(found))
