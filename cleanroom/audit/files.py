"""The file formats of a bundle: ``.json`` with one canonical record per line, or ``.zip`` with one canonical file per record.

Each line or file of a record is its canonical JSON (RFC 8785), so its ``sha256sum`` equals the ``previous`` member
of the next record. Reading accepts only the bytes that writing produces. It therefore detects edits that change no
value (white space, a repeated member, another notation of a number). A bundle with a broken chain is returned as
read, and verification names the broken link.
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
    """Return the ``.json`` form."""
    lines = b",\n".join(record.canonical() for record in bundle.records)
    return b'{"manifest":' + _manifest(bundle) + b',\n"records":[\n' + lines + b"\n]}\n"


def bundle_zip(bundle: Bundle) -> bytes:
    """Return the ``.zip`` form: ``manifest.json`` and ``records/<index>-<kind>.json``.

    Timestamps are fixed, so equal bundles yield equal bytes.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _members(bundle):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write ``bundle`` in the form that the file's suffix names.

    Raises:
        InvalidInput: ``BundleFileUnknown`` for another suffix, ``FileUnwritable``.
    """
    if path.suffix not in (".json", ".zip"):
        raise InvalidInput("BundleFileUnknown", f"{path}: the suffix of a bundle must be .json or .zip.")
    data = bundle_json(bundle) if path.suffix == ".json" else bundle_zip(bundle)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidInput("FileUnwritable", f"{path} cannot be written.", cause=error.strerror) from error


def read_bundle(path: Path) -> Bundle:
    """Read a bundle in either form.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileUnreadable``, ``FileTooLong``.
        Refused: ``BundleMalformed`` (not a bundle, or partly unreadable), ``BundleNotCanonical`` (edited without
            breaking a link). ``details`` name the record.
    """
    try:
        with path.open("rb") as file:
            # Pipes and devices have no size, so limit the read itself.
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise InvalidInput("FileTooLong", f"{path} is longer than {MAX_FILE} bytes.")
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"File {path} does not exist.") from error
    except OSError as error:
        raise InvalidInput("FileUnreadable", f"{path} cannot be read.", cause=error.strerror) from error
    return parse_bundle(data)


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle in either form. Raises the errors of :func:`read_bundle` about contents."""
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
    # A tool that edits a bundle may reformat all of it. Then the broken link is more informative than the white space.
    if written != data and first_broken_link(bundle) is None:
        # Line 1 is the manifest, line 2 opens the list, and each further line is a record.
        canonical_lines, lines = written.split(b"\n"), data.split(b"\n")
        line = next(
            (n for n, pair in enumerate(zip(canonical_lines, lines, strict=False)) if pair[0] != pair[1]),
            min(len(canonical_lines), len(lines)),
        )
        raise _not_canonical(f"line {line + 1}", records[line - 2] if 0 <= line - 2 < len(records) else None)
    return bundle


def _from_zip(data: bytes) -> Bundle:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
            if len(found) > MAX_RECORDS + 1 or sum(item.file_size for item in found) > MAX_FILE:
                raise _malformed("the archive", "it is larger than a bundle can be")
            names = [item.filename for item in found]
            if len(set(names)) != len(names) or MANIFEST not in names:
                raise _malformed("the archive", f"it lacks {MANIFEST}, or has a duplicate member")
            # Nothing is extracted to disk, so names cannot cause path traversal.
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
    wanted = sorted((name for name in parts if name != MANIFEST), key=_record_index)
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


def _record_index(name: str) -> tuple[int, str]:
    found = re.match(r"records/(\d{1,9})-", name)
    return (int(found.group(1)) if found else MAX_RECORDS, name)


def _members(bundle: Bundle) -> list[tuple[str, bytes]]:
    named = [(f"records/{record.index:05d}-{record.kind}.json", record.canonical()) for record in bundle.records]
    return [(MANIFEST, _manifest(bundle)), *named]


def _manifest(bundle: Bundle) -> bytes:
    return canonical_json(bundle.manifest.model_dump(mode="json", by_alias=True, exclude_none=True))


def _unreadable_line(data: bytes) -> Refused | None:
    """Return the error of the first record line that is not JSON, so that the error names the record."""
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
    return Refused("BundleMalformed", f"{where}: {why}.", hint="Ask the exporter for the original bundle.", details=details)


def _not_canonical(where: str, record: Record | None) -> Refused:
    details = {} if record is None else {"index": record.index, "kind": record.kind, "subject": record.subject}
    return Refused(
        "BundleNotCanonical",
        f"{where}: edited, because it is not in the exported form.",
        hint="Ask the exporter for the original bundle.",
        details=details,
    )
