"""A bundle on disk: ``.json`` with one canonical record a line, or ``.zip`` with one canonical file a record.

Each record's line (or file) is its RFC 8785 form, so ``sha256sum`` of it is what the next record holds as ``previous``. Reading demands
the very bytes that writing would make: an edit that changes no value (white space, a member given twice, another spelling of a
number) is found like any other. A bundle whose chain is broken is returned as it is read: judging it names the link.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cleanroom.audit.chain import Bundle, Entry, Manifest, Record, first_broken_link
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput, NotFound, Refused
from cleanroom.identifiers import canonical_json

MAX_FILE = 256 * 1024 * 1024
MAX_RECORDS = 100_000
MANIFEST = "manifest.json"


def bundle_json(bundle: Bundle) -> bytes:
    """The ``.json`` form."""
    lines = b",\n".join(record.canonical() for record in bundle.records)
    return b'{"manifest":' + _manifest(bundle) + b',\n"records":[\n' + lines + b"\n]}\n"


def bundle_zip(bundle: Bundle) -> bytes:
    """The ``.zip`` form: ``manifest.json`` and ``records/<index>-<kind>.json``, with fixed times, so that equal bundles are equal files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _members(bundle):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write ``bundle``; the file's ending chooses the form.

    Raises:
        InvalidInput: ``BundleFileUnknown`` for another ending, ``FileUnwritable``.
    """
    if path.suffix not in (".json", ".zip"):
        raise InvalidInput("BundleFileUnknown", f"{path}: a bundle is a .json or a .zip file.")
    data = bundle_json(bundle) if path.suffix == ".json" else bundle_zip(bundle)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidInput("FileUnwritable", f"{path} cannot be written.", cause=error.strerror) from error


def read_bundle(path: Path) -> Bundle:
    """Read either form.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileUnreadable``, ``FileTooLong``.
        Refused: ``BundleMalformed`` (no bundle at all, or parts of it unreadable), ``BundleNotCanonical`` (edited without breaking a
            link); ``details`` name the record.
    """
    try:
        with path.open("rb") as file:
            # Pipes and devices have no size; none is read further than a bundle may be long.
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise InvalidInput("FileTooLong", f"{path} is longer than {MAX_FILE} bytes.")
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"There is no file {path}.") from error
    except OSError as error:
        raise InvalidInput("FileUnreadable", f"{path} cannot be read.", cause=error.strerror) from error
    return parse_bundle(data)


def parse_bundle(data: bytes) -> Bundle:
    """The bundle in ``data``; raises what :func:`read_bundle` raises about contents."""
    return _from_zip(data) if data[:4] == b"PK\x03\x04" else _from_json(data)


def _from_json(data: bytes) -> Bundle:
    try:
        value = _loads(data, "the bundle")
    except Refused as error:
        raise _unreadable_line(data) or error from error
    if not isinstance(value, dict) or set(value) != {"manifest", "records"} or not isinstance(value["records"], list):
        raise _malformed("the bundle", 'it is not {"manifest", "records"}')
    manifest = _parse_manifest(value["manifest"])
    records = tuple(_record(index, item, manifest) for index, item in enumerate(value["records"]))
    bundle = Bundle(manifest=manifest, records=records)
    written = bundle_json(bundle)
    # Whoever edits a bundle with some tool writes all of it anew; then the link that broke says more than the white space.
    if written != data and first_broken_link(bundle) is None:
        # Line 1 is the manifest, line 2 opens the list, each further line is one record.
        ours, theirs = written.split(b"\n"), data.split(b"\n")
        line = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), min(len(ours), len(theirs)))
        raise _not_canonical(f"line {line + 1}", records[line - 2] if 0 <= line - 2 < len(records) else None)
    return bundle


def _from_zip(data: bytes) -> Bundle:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
            if len(found) > MAX_RECORDS + 1 or sum(item.file_size for item in found) > MAX_FILE:
                raise _malformed("the archive", "it holds more than a bundle may")
            names = [item.filename for item in found]
            if len(set(names)) != len(names) or MANIFEST not in names:
                raise _malformed("the archive", f"it has no {MANIFEST}, or a member twice")
            # Nothing is unpacked to disk; names are only compared.
            parts = {name: archive.read(name) for name in names}
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        zlib.error,
    ) as error:
        raise _malformed("the archive", str(error) or type(error).__name__) from error
    wanted = sorted((name for name in parts if name != MANIFEST), key=_place)
    manifest = _parse_manifest(_loads(parts[MANIFEST], MANIFEST))
    records = tuple(_record(index, _loads(parts[name], name, index), manifest) for index, name in enumerate(wanted))
    bundle = Bundle(manifest=manifest, records=records)
    if first_broken_link(bundle) is not None:
        return bundle
    if parts[MANIFEST] != _manifest(bundle):
        raise _not_canonical(MANIFEST, None)
    for name, record in zip(wanted, records, strict=True):
        if parts[name] != record.canonical():
            raise _not_canonical(name, record)
    return bundle


def _place(name: str) -> tuple[int, str]:
    found = re.match(r"records/(\d{1,9})-", name)
    return (int(found.group(1)) if found else MAX_RECORDS, name)


def _members(bundle: Bundle) -> list[tuple[str, bytes]]:
    named = [(f"records/{record.index:05d}-{record.kind}.json", record.canonical()) for record in bundle.records]
    return [(MANIFEST, _manifest(bundle)), *named]


def _manifest(bundle: Bundle) -> bytes:
    return canonical_json(bundle.manifest.model_dump(mode="json", by_alias=True, exclude_none=True))


def _unreadable_line(data: bytes) -> Refused | None:
    """The record whose line alone is not JSON any more, so that a broken bundle is not only called broken."""
    for index, line in enumerate(data.split(b"\n")[2:-2]):
        try:
            _loads(line.removesuffix(b","), f"record {index}", index)
        except Refused as error:
            return error
    return None


def _loads(data: bytes, what: str, index: int | None = None) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _malformed(what, f"not JSON ({type(error).__name__})", index) from error


def _record(index: int, value: Any, manifest: Manifest) -> Record:
    entry = manifest.entries[index] if index < len(manifest.entries) else None
    try:
        record = Record.model_validate(value)
        record.canonical()
    except ValidationError as error:
        raise _malformed(f"record {index}", describe_validation(error), index, entry) from error
    except (ValueError, RecursionError) as error:
        raise _malformed(f"record {index}", f"it has no canonical form ({type(error).__name__})", index, entry) from error
    return record


def _parse_manifest(value: Any) -> Manifest:
    try:
        manifest = Manifest.model_validate(value)
        canonical_json(manifest.facts)
    except ValidationError as error:
        raise _malformed("the manifest", describe_validation(error)) from error
    except (ValueError, RecursionError) as error:
        raise _malformed("the manifest", f"it has no canonical form ({type(error).__name__})") from error
    return manifest


def _malformed(where: str, why: str, index: int | None = None, entry: Entry | None = None) -> Refused:
    details: dict[str, Any] = {} if index is None else {"index": index}
    if entry is not None:
        details |= {"kind": entry.kind, "subject": entry.subject}
    return Refused("BundleMalformed", f"{where}: {why}.", details=details)


def _not_canonical(where: str, record: Record | None) -> Refused:
    details = {} if record is None else {"index": record.index, "kind": record.kind, "subject": record.subject}
    return Refused("BundleNotCanonical", f"{where}: it is not in the form that was exported; it was edited.", details=details)
