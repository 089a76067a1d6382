"""``cleanroom audit``: verification offline, exit codes, and safe output."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cleanroom.audit.chain import Bundle
from cleanroom.audit.files import bundle_json, bundle_zip, write_bundle
from cleanroom.identifiers import canonical_json
from starters import audit
from tests.audit_records import Items, clone, index_of
from tests.audit_world import AuditWorld

app = typer.Typer()
app.add_typer(audit.app, name="audit")


def test_command_verifies_offline_and_names_the_first_broken_link(world: AuditWorld, bundle: Bundle, tmp_path: Path) -> None:
    good, bad, trust = tmp_path / "good.zip", tmp_path / "bad.json", ["--trust", str(world.hardware.trust_file)]
    write_bundle(bundle, good)
    bad.write_bytes(bundle_json(bundle).replace(b'"rows":12', b'"rows":13', 1))
    for words in ([], ["--output", "json"]):
        assert CliRunner().invoke(app, ["audit", "verify", str(good), *trust, *words]).exit_code == 0
        broken = CliRunner().invoke(app, ["audit", "verify", str(bad), *trust, *words])
        assert broken.exit_code == 4
    found = json.loads(broken.stdout)
    assert (found["ok"], found["first_broken"]["kind"], found["first_broken"]["index"]) == (
        False,
        "receipt",
        index_of(world.items(), "receipt"),
    )
    assert "first broken link" in CliRunner().invoke(app, ["audit", "verify", str(bad), *trust]).output


Edit = Callable[[list[Any], list[Any]], int]
"""Edits the records of a written bundle, given those of another run, and returns the index of the first broken link."""


def _removed(records: list[Any], theirs: list[Any]) -> int:
    del records[20]
    return 20


def _swapped(records: list[Any], theirs: list[Any]) -> int:
    records[5], records[6] = records[6], records[5]
    return 5


def _substituted(records: list[Any], theirs: list[Any]) -> int:
    records[39] = theirs[39]
    return 39


def _repeated(records: list[Any], theirs: list[Any]) -> int:
    records.insert(12, records[12])
    return 13


def _cut(records: list[Any], theirs: list[Any]) -> int:
    records.pop()
    return len(records)


def _appended(records: list[Any], theirs: list[Any]) -> int:
    records.append(theirs[-1])
    return len(records) - 1


def _edited(records: list[Any], theirs: list[Any]) -> int:
    job = next(index for index, record in enumerate(records) if record["kind"] == "job")
    records[job]["body"]["job"]["datasets"][0]["viewName"] += "x"
    return job


@pytest.mark.parametrize("change", [_removed, _swapped, _substituted, _repeated, _cut, _appended, _edited])
@pytest.mark.parametrize("form", ["json", "zip"])
def test_command_names_the_first_broken_link_of_either_form(
    world: AuditWorld, bundle: Bundle, tmp_path: Path, change: Edit, form: str
) -> None:
    value = json.loads(bundle_json(bundle))
    other = world.another_run(dt.timedelta(hours=1))
    place = change(value["records"], json.loads(bundle_json(other.bundle()))["records"])
    file = tmp_path / f"b.{form}"
    if form == "json":
        file.write_text(json.dumps(value))
    else:
        with zipfile.ZipFile(file, "w") as out, zipfile.ZipFile(io.BytesIO(bundle_zip(bundle))) as genuine:
            out.writestr("manifest.json", genuine.read("manifest.json"))
            names = [name for name in genuine.namelist() if name != "manifest.json"]
            for number, record in enumerate(value["records"]):
                name = re.sub(r"\d+", lambda found, number=number: f"{number:0{len(found[0])}d}", names[0], count=1)
                out.writestr(name, canonical_json(record))
    done = CliRunner().invoke(app, ["audit", "verify", str(file), "--trust", str(world.hardware.trust_file), "--output", "json"])
    assert done.exit_code == 4, done.output
    found = json.loads(done.stdout)["first_broken"]
    assert found["index"] == place, (found, value["records"][place - 1 : place + 1])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["verify", "nowhere.json"], 3),
        (["verify", "."], 2),
        (["verify", "nowhere.json", "--trust", "nowhere"], 3),
        (["verify", "nowhere.json", "--spark-host-data", "xyz"], 2),
        (["verify", "nowhere.json", "--key", "no-thumbprint"], 2),
        (["verify"], 2),
        (["export", "r-1", "--file", "bundle.txt"], 2),
        (["export", "r-1", "--config", "nowhere.toml"], 3),
        (["export", "Not a run", "--file", "b.json", "--config", "nowhere.toml"], 3),
        (["list", "--run", "r-1", "--query", "q"], 2),
        (["list", "--limit", "0"], 2),
    ],
)
def test_invalid_input_has_its_exit_code(words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["audit", *words]).exit_code == code


def test_control_characters_in_a_bundle_do_not_reach_the_terminal(world: AuditWorld, items: Items, tmp_path: Path) -> None:
    changed = clone(items)
    changed[0][2].pop("sealedBy")
    changed[0][2]["query"] = "\x1b]0;owned\x07[bold]x"
    (tmp_path / "b.json").write_bytes(bundle_json(world.bundle(changed, sealed_by=None)))
    shown = CliRunner().invoke(app, ["audit", "verify", str(tmp_path / "b.json")])
    assert shown.exit_code == 4
    assert "\x1b]0" not in shown.output
    assert "\x07" not in shown.output
