"""The audit bundle: ordered records, each with the SHA-256 of its predecessor, and a manifest that repeats every digest.

The digest of a record is the SHA-256 over its canonical JSON (RFC 8785) including ``previous``. The ``previous`` of
the first record is 64 zeros, and the digest of the last record is the *head*. The first record, of kind ``export``,
repeats the manifest's facts about the export, so the chain covers them. The exporter's signature (``seal``) covers
the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cleanroom.identifiers import HexDigest, canonical_json, sha256_hex
from cleanroom.models import CamelModel

FORMAT = "cleanroom-audit-bundle/1"
GENESIS = "0" * 64

Kind = Literal[
    "export",
    "request",
    "outcome",
    "document",
    "key",
    "decision",
    "deputy",
    "clean-room-policy",
    "trust",
    "consent",
    "report",
    "job",
    "policies",
    "grant",
    "revocation",
    "receipt",
    "event",
]


class Record(CamelModel):
    """A piece of evidence. ``subject`` identifies it within its kind: a document ID, a step, or an event's place in the ledger."""

    index: int
    previous: HexDigest
    kind: Kind
    subject: str
    body: dict[str, Any]

    def canonical(self) -> bytes:
        """Return the canonical JSON (RFC 8785)."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    def digest(self) -> str:
        """Return the SHA-256 of :meth:`canonical` in lower-case hex."""
        return sha256_hex(self.canonical())


class Entry(CamelModel):
    """A record's entry in the manifest."""

    index: int
    kind: Kind
    subject: str
    digest: HexDigest


class Manifest(CamelModel):
    """The table of contents. ``facts`` repeats the body of the first record; ``seal`` is a JWS of :class:`.seal.ExportSeal`."""

    format: str = FORMAT
    facts: dict[str, Any]
    entries: tuple[Entry, ...]
    head: HexDigest
    seal: str | None = None


class Bundle(CamelModel):
    """The evidence of one run."""

    manifest: Manifest
    records: tuple[Record, ...]


class BrokenLink(CamelModel):
    """The first broken link: the record or its place, and what happened to it."""

    index: int
    kind: str
    subject: str
    what: Literal["edited", "missing", "extra", "reordered", "manifest"]
    message: str


def build_bundle(items: Iterable[tuple[Kind, str, Mapping[str, Any]]]) -> Bundle:
    """Chain records into an unsealed bundle.

    Args:
        items: ``(kind, subject, body)`` of every record, in order. The first must be of kind ``export``.
    """
    records: list[Record] = []
    previous = GENESIS
    for index, (kind, subject, body) in enumerate(items):
        record = Record(index=index, previous=previous, kind=kind, subject=subject, body=plain_json(dict(body)))
        records.append(record)
        previous = record.digest()
    entries = tuple(Entry(index=r.index, kind=r.kind, subject=r.subject, digest=r.digest()) for r in records)
    return Bundle(manifest=Manifest(facts=records[0].body, entries=entries, head=previous), records=tuple(records))


def plain_json(value: Any) -> Any:
    """Return ``value`` as JSON that has a canonical form.

    Other users can put numbers beyond 2^53 and text that is not Unicode into the ledger. Both become readable text.
    """
    if isinstance(value, Mapping):
        return {_text(str(key)): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _text(str(value))


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def first_broken_link(bundle: Bundle) -> BrokenLink | None:
    """Return the first broken link, or None if every record is the exported one and in its place.

    Both the manifest and the ``previous`` member of the next record contain a record's digest. If they disagree,
    the result names the record that at most one of them confirms.
    """
    entries, records = bundle.manifest.entries, bundle.records
    digests = [record.digest() for record in records]
    for index in range(max(len(entries), len(records))):
        if index < len(entries) and index < len(records) and digests[index] == entries[index].digest:
            found = _check_place(bundle, digests, index)
        else:
            found = _explain_mismatch(bundle, digests, index)
        if found is not None:
            return found
    if not records:
        return BrokenLink(index=0, kind="export", subject="", what="missing", message="The bundle contains no record.")
    if bundle.manifest.head != digests[-1]:
        return _broken_at(records[-1], "manifest", "The manifest's head is not the digest of the last record.")
    return _check_facts(bundle)


def _check_place(bundle: Bundle, digests: list[str], index: int) -> BrokenLink | None:
    """Check the place, the link and the entry of a record whose digest is in the manifest."""
    record, entry = bundle.records[index], bundle.manifest.entries[index]
    previous = digests[index - 1] if index else GENESIS
    if record.index != index:
        return _broken_at(record, "reordered", f"Record {record.index} is in place {index}.", index)
    if record.previous != previous:
        return _broken_at(record, "edited", f"Record {index} does not contain the digest of its predecessor.", index)
    if (entry.index, entry.kind, entry.subject) != (record.index, record.kind, record.subject):
        return _broken_at(record, "manifest", f"The manifest lists record {index} as {entry.kind} {entry.subject!r}.", index)
    return None


def _explain_mismatch(bundle: Bundle, digests: list[str], index: int) -> BrokenLink:
    """Explain why the manifest and the records differ at ``index``."""
    entries, records = bundle.manifest.entries, bundle.records
    wanted = {entry.digest for entry in entries}
    if index >= len(records):
        entry = entries[index]
        return BrokenLink(index=index, kind=entry.kind, subject=entry.subject, what="missing", message=f"Record {index} is missing.")
    record, digest = records[index], digests[index]
    if index >= len(entries):
        return _broken_at(record, "extra", f"Record {index} is not in the manifest.", index)
    entry = entries[index]
    if digest in wanted:
        # The record belongs elsewhere. The record that belongs here is elsewhere or missing.
        if entry.digest in digests:
            return _broken_at(record, "reordered", f"Record {record.index} is in place {index}.", index)
        return BrokenLink(index=index, kind=entry.kind, subject=entry.subject, what="missing", message=f"Record {index} is missing.")
    if entry.digest in digests:
        return _broken_at(record, "extra", f"The record in place {index} is not in the manifest.", index)
    linked = index + 1 < len(records) and records[index + 1].previous == digest
    if linked and record.previous == (digests[index - 1] if index else GENESIS):
        return _broken_at(record, "manifest", f"The manifest and the next record contain different digests of record {index}.", index)
    return _broken_at(record, "edited", f"Record {index} is not the exported one: its digest differs.", index)


def _check_facts(bundle: Bundle) -> BrokenLink | None:
    manifest, first = bundle.manifest, bundle.records[0]
    if manifest.format != FORMAT:
        return _broken_at(first, "manifest", f"The manifest's format is {manifest.format!r}, not {FORMAT!r}.")
    if first.kind != "export" or canonical_json(manifest.facts) != canonical_json(first.body):
        return _broken_at(first, "manifest", "The manifest's facts about the export differ from record 0.")
    return None


def _broken_at(
    record: Record, what: Literal["edited", "missing", "extra", "reordered", "manifest"], message: str, index: int | None = None
) -> BrokenLink:
    place = record.index if index is None else index
    return BrokenLink(index=place, kind=record.kind, subject=record.subject, what=what, message=message)
