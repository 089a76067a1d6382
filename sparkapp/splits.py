"""Plans input splits over the objects of a dataset, and reads the rows of a split.

The driver plans with names, sizes and segment numbers, none of which is secret. Each task opens its own store,
decrypts its own segments and parses the needed columns in Arrow.

A text object can be split at any segment. Every row belongs to exactly one split: a split that starts inside an
object drops everything up to its first line break, and every split reads up to the first line break at or after its
end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import pyarrow as pa

from cleanroom.datasets.csv_header import HEADER_BYTES
from cleanroom.datasets.csv_text import TextLayout, csv_header, read_csv
from cleanroom.datasets.encryption import SEGMENT_BYTES, SealedFile, SealedObject, SegmentedObject, segment_count
from cleanroom.datasets.json_lines import read_json_lines
from cleanroom.datasets.parquet import open_parquet, read_parquet
from cleanroom.datasets.plain import PlainObject
from cleanroom.identifiers import object_context
from cleanroom.spark.job import JobDataset
from sparkapp.failures import retry_transient
from sparkapp.listing import DatasetListing, dataset_key
from sparkapp.pod import Pod

MIN_SPLIT_BYTES = 4 << 20
MAX_SPLIT_BYTES = 32 << 20
FETCH_SEGMENTS = 8
"""Segments (1 MiB each) per request to the store."""
STORE_SECONDS = 60.0
"""How long to retry an unavailable store while reading."""
OBJECTS_AT_ONCE = 8
"""Objects of which the driver reads the footers or header lines concurrently."""
WHOLE_OBJECT = -1
"""``InputSplit.stop`` of a Parquet object that a single task reads."""


@dataclass(frozen=True)
class InputSplit:
    """Part of one object: segments ``[first, stop)`` of a text object, or row groups of a Parquet object."""

    name: str
    size: int
    first: int
    stop: int
    weight: int
    """Approximate stored bytes of this part."""
    newlines_in_values: bool = False
    verified: bool = False
    """Whether the owner's upload verified the quotes and line ends of the CSV text."""
    header: str | None = None
    """The object's first bytes from the manifest (:class:`cleanroom.datasets.manifest.ManifestObject`)."""
    etag: str = ""
    """The object's version when it was listed; empty if the store has none."""
    columns: tuple[str, ...] | None = None
    """The header line of the CSV object, for a split that does not begin with it."""


def plan_splits(pod: Pod, listing: DatasetListing, *, parallelism: int) -> tuple[tuple[InputSplit, ...], ...]:
    """Return the splits of each task.

    Args:
        pod: The pod's identity.
        listing: The objects to read.
        parallelism: How many tasks can run at the same time.
    """

    def split(name: str) -> list[InputSplit]:
        return _split_object(pod, listing.dataset, whole_object(listing, name), splittable=name not in listing.unsplittable)

    with ThreadPoolExecutor(max_workers=OBJECTS_AT_ONCE) as pool:
        splits = [item for found in pool.map(split, listing.objects) for item in found]
    return _group_splits(splits, listing.stored_bytes(), parallelism)


def whole_object(listing: DatasetListing, name: str) -> InputSplit:
    """Return the split that covers an object."""
    size, header, etag = listing.objects[name], listing.headers.get(name), listing.etags.get(name, "")
    return InputSplit(name, size, 0, WHOLE_OBJECT, size, verified=name in listing.verified, header=header, etag=etag)


def _split_object(pod: Pod, dataset: JobDataset, whole: InputSplit, *, splittable: bool) -> list[InputSplit]:
    size = whole.size
    if dataset.format == "parquet":
        if size <= MAX_SPLIT_BYTES:
            return [whole]
        types = dataset.schema_fields
        parquet = open_parquet(_file(open_object(pod, dataset, whole)), types, [], where=_where(dataset, whole.name))
        groups = parquet.num_row_groups
        return [replace(whole, first=group, stop=group + 1, weight=size // groups) for group in range(groups)]
    segments = segment_count(size)
    if dataset.format == "csv" and not splittable:
        # A quoted value may contain a line break, so a single task reads the object from its beginning.
        return [replace(whole, stop=segments, newlines_in_values=True)]
    step = MIN_SPLIT_BYTES // SEGMENT_BYTES
    if dataset.csv_header and segments > step:
        head = open_object(pod, dataset, whole).read_at(0, HEADER_BYTES)
        whole = replace(whole, columns=csv_header(head, _where(dataset, whole.name), dataset.csv_dialect)[0])
    return [
        replace(whole, first=first, stop=min(first + step, segments), weight=min(MIN_SPLIT_BYTES, size - first * SEGMENT_BYTES))
        for first in range(0, segments, step)
    ]


def _group_splits(splits: Sequence[InputSplit], total: int, parallelism: int) -> tuple[tuple[InputSplit, ...], ...]:
    """Group neighbouring splits into tasks and join those of one object, which follow each other.

    The target size gives every core two tasks, with at most 32 MiB per task.
    """
    target = min(MAX_SPLIT_BYTES, max(MIN_SPLIT_BYTES, -(-total // (2 * parallelism))))
    tasks: list[tuple[InputSplit, ...]] = []
    current: list[InputSplit] = []
    filled = 0
    for split in splits:
        if current and filled + split.weight > target:
            tasks.append(tuple(current))
            current, filled = [], 0
        filled += split.weight
        if current and current[-1].name == split.name:
            last = current.pop()
            split = replace(last, stop=split.stop, weight=last.weight + split.weight)
        current.append(split)
    return (*tasks, tuple(current)) if current else tuple(tasks)


def open_object(pod: Pod, dataset: JobDataset, split: InputSplit) -> SegmentedObject:
    """Open the object of a split with the dataset's key.

    Raises:
        Refused: ``CiphertextInvalid``, also if it is not the object that the manifest lists.
        Conflict: ``ObjectChanged`` if it was replaced since it was listed.
    """
    store, name, size = pod.store(dataset), split.name, split.size
    key = dataset_key(pod, dataset)

    def read_range(offset: int, length: int) -> bytes:
        version = {"etag": split.etag} if split.etag else {}
        return retry_transient(STORE_SECONDS, lambda: store.read_range(name, offset, length, **version))

    if key is None:
        return PlainObject(read_range, size, name)
    context = object_context(pod.job().contract_id, dataset.name, name)
    return SealedObject(read_range, size, key, context, header=bytes.fromhex(split.header) if split.header else None)


def read_task(pod: Pod, dataset: JobDataset, columns: Sequence[str], splits: Sequence[InputSplit]) -> Iterator[pa.RecordBatch]:
    """Read the rows of one task as the columns' Arrow types.

    Raises:
        InvalidInput: ``SchemaMismatch``, naming object and column.
        Refused: ``CiphertextInvalid``.
    """
    for split in splits:
        yield from _read_split(pod, dataset, columns, split)


def _read_split(pod: Pod, dataset: JobDataset, columns: Sequence[str], split: InputSplit) -> Iterator[pa.RecordBatch]:
    where, types = _where(dataset, split.name), dataset.schema_fields
    if dataset.format == "parquet":
        parquet = open_parquet(_file(open_object(pod, dataset, split)), types, columns, where=where)
        groups = range(parquet.num_row_groups) if split.stop == WHOLE_OBJECT else range(split.first, split.stop)
        yield from read_parquet(parquet, types, columns, where=where, row_groups=groups)
        return
    opened = open_object(pod, dataset, split)
    text = SplitText(opened, split.first, split.stop)
    first_row = 1 if split.first == 0 else None
    if dataset.format == "json":
        # A member may first occur late in an object, so only a split that covers the whole object can tell that it is missing.
        whole = split.first == 0 and split.stop == segment_count(split.size)
        yield from read_json_lines(text, types, columns, where=where, first_row=first_row, at_start=split.first == 0, require_members=whole)
        return
    header = split.columns
    if dataset.csv_header and split.first == 0:
        header, start = csv_header(text.peek(HEADER_BYTES), where, dataset.csv_dialect)
        text.skip(start)
    layout = TextLayout(header, split.newlines_in_values, dataset.csv_dialect, split.verified)
    at_start = split.first == 0 and header is None
    yield from read_csv(text, types, columns, where=where, layout=layout, first_row=first_row, at_start=at_start)


def _where(dataset: JobDataset, name: str) -> str:
    return f"{dataset.name}/{name}"


def _file(opened: SegmentedObject) -> BinaryIO:
    return cast(BinaryIO, SealedFile(opened))


class SplitText:
    """The text of the rows of one split as a readable stream.

    Args:
        opened: The object.
        first: The first segment.
        stop: The segment after the last one.
    """

    def __init__(self, opened: SegmentedObject, first: int, stop: int) -> None:
        self._pieces = self._rows(opened, first, min(stop, opened.segments))
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes, and none only at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        if size < 0:
            data, self._rest = self._rest + b"".join(self._pieces), b""
        else:
            data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes without consuming them; fewer only at the end."""
        while len(self._rest) < size and (piece := next(self._pieces, None)) is not None:
            self._rest += piece
        return self._rest[:size]

    def skip(self, count: int) -> None:
        """Drop ``count`` bytes."""
        while data := self.read(count):
            count -= len(data)

    @staticmethod
    def _rows(opened: SegmentedObject, first: int, stop: int) -> Iterator[bytes]:
        dropping = first > 0
        for piece in _fetched(opened, first, stop):
            if not dropping:
                yield piece
            elif (cut := piece.find(b"\n")) >= 0:
                dropping = False
                yield piece[cut + 1 :]
        if dropping:
            return  # the row at the start of this split ends beyond it, so it belongs to an earlier split
        for index in range(stop, opened.segments):
            (piece,) = opened.open_segments(index, index + 1)
            cut = piece.find(b"\n")
            yield piece[: cut + 1] if cut >= 0 else piece
            if cut >= 0:
                return


def _fetched(opened: SegmentedObject, first: int, stop: int) -> Iterator[bytes]:
    """Yield segments ``[first, stop)`` in order, and prefetch the next request while one is being parsed."""
    starts = range(first, stop, FETCH_SEGMENTS)
    if len(starts) == 1:
        yield from opened.open_segments(first, stop)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(opened.open_segments, starts[0], min(starts[0] + FETCH_SEGMENTS, stop))
        for start in starts[1:]:
            pieces = following.result()
            following = pool.submit(opened.open_segments, start, min(start + FETCH_SEGMENTS, stop))
            yield from pieces
        yield from following.result()
