"""The chain of an audit bundle: every edit is detected and names its record."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanroom.audit.chain import Bundle, first_broken_link, plain_json
from cleanroom.audit.files import bundle_zip, parse_bundle, write_bundle
from cleanroom.audit.verify import read_and_verify, verify_bundle
from cleanroom.errors import Refused
from cleanroom.identifiers import canonical_json
from tests.audit_records import Items, clone, index_of
from tests.audit_world import AuditWorld


def first_broken(world: AuditWorld, data: bytes) -> int | None:
    """Return the index of the record that verification names for a changed file."""
    try:
        found = verify_bundle(parse_bundle(data), world.trust).first_broken
    except Refused as error:
        named = error.details.get("index")
        return named if isinstance(named, int) else None
    return found.index if found is not None and found.id == "chain" else None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_byte_edit_of_a_record_names_the_record(world: AuditWorld, written: bytes, data: st.DataObject) -> None:
    lines = written.split(b"\n")
    index = data.draw(st.integers(0, len(lines) - 5), label="record")
    line = lines[index + 2]
    at = data.draw(st.integers(0, len(line.removesuffix(b",")) - 1), label="byte")
    new = data.draw(st.integers(0, 255).filter(lambda value: value != line[at]), label="new byte")
    edited = b"\n".join([*lines[: index + 2], line[:at] + bytes([new]) + line[at + 1 :], *lines[index + 3 :]])
    assert first_broken(world, edited) == index


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_byte_edit_of_the_manifest_fails(world: AuditWorld, written: bytes, data: st.DataObject) -> None:
    end = written.index(b"\n")
    at = data.draw(st.integers(0, end), label="byte")
    new = data.draw(st.integers(0, 255).filter(lambda value: value != written[at]), label="new byte")
    try:
        verdict = verify_bundle(parse_bundle(written[:at] + bytes([new]) + written[at + 1 :]), world.trust)
    except Refused:
        return
    assert not verdict.ok


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_missing_extra_reordered_or_edited_record_is_named(bundle: Bundle, data: st.DataObject) -> None:
    records = list(bundle.records)
    index = data.draw(st.integers(0, len(records) - 1))
    other = data.draw(st.integers(0, len(records) - 1).filter(lambda value: value != index))

    def broken(changed: list[Any]) -> tuple[str, int]:
        found = first_broken_link(bundle.model_copy(update={"records": tuple(changed)}))
        assert found is not None
        return found.what, found.index

    assert broken(records[:index] + records[index + 1 :]) == ("missing", index)
    swapped = list(records)
    swapped[index], swapped[other] = swapped[other], swapped[index]
    assert broken(swapped) == ("reordered", min(index, other))
    forged = records[index].model_copy(update={"subject": "forged"})
    assert broken([*records[:index], forged, *records[index:]]) == ("extra", index)
    assert broken([*records[:index], forged, *records[index + 1 :]]) == ("edited", index)


def test_rechained_bundle_lacks_the_exporters_signature(world: AuditWorld, items: Items, bundle: Bundle) -> None:
    changed = clone(items)
    changed[index_of(items, "revocation")][2]["secrets"] = 0
    forged = world.bundle(changed, sealed_by=None)
    with_old_seal = forged.model_copy(update={"manifest": forged.manifest.model_copy(update={"seal": bundle.manifest.seal})})
    for candidate in (forged, with_old_seal, world.bundle(changed, sealed_by="fabrikam")):
        verdict = verify_bundle(candidate, world.trust)
        assert verdict.first_broken is not None
        assert verdict.first_broken.id == "seal"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"PK\x03\x04broken",
        b'{"manifest":{},"records":[]}',
        b'{"manifest":1,"records":{}}',
        b"[" * 100_000,
    ],
)
def test_file_that_is_not_a_bundle_yields_a_failed_verdict(world: AuditWorld, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(data)
    assert not read_and_verify(tmp_path / "b.json", world.trust)[1].ok


def test_empty_chain_fails(world: AuditWorld, bundle: Bundle, tmp_path: Path) -> None:
    empty = bundle.model_copy(update={"records": (), "manifest": bundle.manifest.model_copy(update={"entries": ()})})
    write_bundle(empty, tmp_path / "b.json")
    assert not read_and_verify(tmp_path / "b.json", world.trust)[1].ok


def test_archive_with_changed_missing_or_malformed_members_is_rejected(bundle: Bundle) -> None:
    good = zipfile.ZipFile(io.BytesIO(bundle_zip(bundle)))

    def archive(change: Callable[[str, bytes], tuple[str, bytes] | None]) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as out:
            for name in good.namelist():
                if (member := change(name, good.read(name))) is not None:
                    out.writestr(*member)
        return target.getvalue()

    assert first_broken_link(parse_bundle(archive(lambda name, data: None if "00007" in name else (name, data)))) is not None
    for spoiled in (
        archive(lambda name, data: (name, data + b" ")),
        archive(lambda name, data: None if name == "manifest.json" else (name, data)),
        archive(lambda name, data: (name, b"{") if "00007" in name else (name, data)),
    ):
        with pytest.raises(Refused):
            parse_bundle(spoiled)


def test_ledger_values_outside_of_json_get_a_canonical_form() -> None:
    values = {"big": 2**70, "nan": float("nan"), "lone": "\ud800", "list": [1.5, None, True]}
    assert canonical_json(plain_json(values)) == b'{"big":"1180591620717411303424","list":[1.5,null,true],"lone":"\\\\ud800","nan":"nan"}'
