"""Fetch a run's result by its receipt: every byte is checked against the receipt before anything is opened."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping

import pyarrow as pa

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.encryption import open_bytes
from cleanroom.datasets.files import TextLayout, csv_header_line, open_parquet, read_csv, read_json_lines, read_parquet
from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import FieldType, Format
from cleanroom.errors import InvalidInput, NotFound, Refused
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.secret import Secret
from cleanroom.spark.job import ResultObject, ResultReceipt


def result_digest(objects: tuple[ResultObject, ...]) -> str:
    """SHA-256 over the canonical JSON of a receipt's objects: ``ResultReceipt.digest``."""
    return sha256_hex(canonical_json([item.model_dump(mode="json", by_alias=True) for item in objects]))


def list_results(store: ObjectStore, contract_id: str) -> dict[str, list[str]]:
    """Run ids below the sink, each with the names of its objects within the dataset. What counts is still the receipt."""
    runs: dict[str, list[str]] = {}
    for item in store.list(f"{contract_id}/"):
        name = item.key
        parts = name.split("/")
        if len(parts) == 3:
            runs.setdefault(parts[1], []).append(name)
    return {run: sorted(names) for run, names in sorted(runs.items())}


def download_result(
    store: ObjectStore,
    receipt: ResultReceipt,
    key: Secret | None,
    *,
    result_format: Format,
    types: Mapping[str, FieldType],
    csv_header: bool = False,
    on_object: Callable[[ResultObject], None] | None = None,
) -> pa.Table:
    """The rows that ``receipt`` stands for, in order.

    Args:
        store: The sink's place.
        receipt: As the run reported it.
        key: The sink's dataset key; None where the store itself encrypts (SSE, CPK).
        result_format: The sink's format.
        types: The sink's schema.
        csv_header: Whether the sink's CSV objects begin with a header line.
        on_object: Told after each object.

    Raises:
        Refused: ``ReceiptDigestMismatch`` (the receipt contradicts itself), ``ResultDigestMismatch`` (the store holds something
            else), ``CiphertextInvalid``, ``ResultRowsMismatch``.
        NotFound: ``ResultObjectNotFound``.
        InvalidInput: ``SchemaMismatch``, ``UnknownResultColumn``.
    """
    if result_digest(receipt.objects) != receipt.digest:
        raise Refused("ReceiptDigestMismatch", f"receipt of run {receipt.run_id!r}: its digest is not that of the objects that it lists.")
    if unknown := [name for name in receipt.columns if name not in types]:
        raise InvalidInput("UnknownResultColumn", f"receipt: column {unknown[0]!r} is not in the schema of {receipt.dataset!r}.")
    types = {name: types[name] for name in receipt.columns}
    batches: list[pa.RecordBatch] = []
    for item in receipt.objects:
        stored = _fetch(store, item)
        batches += _rows(stored if key is None else open_bytes(stored, key, item.name), result_format, types, csv_header, item.name)
        if on_object:
            on_object(item)
    table = pa.Table.from_batches(batches, schema=arrow_schema(types))
    if table.num_rows != receipt.rows:
        raise Refused(
            "ResultRowsMismatch", f"run {receipt.run_id!r}: the objects hold {table.num_rows} rows, the receipt says {receipt.rows}."
        )
    return table


def _fetch(store: ObjectStore, item: ResultObject) -> bytes:
    name = item.name
    try:
        data = store.read(name)
    except NotFound as error:
        raise NotFound("ResultObjectNotFound", f"result object {name!r} is not in the store.", cause=error.message) from error
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != item.size or digest != item.sha256:
        raise Refused(
            "ResultDigestMismatch",
            f"result object {name!r}: {len(data)} bytes with digest {digest}, but the receipt says {item.size} with {item.sha256}.",
            hint="Somebody replaced it in the store; the receipt stands for another result.",
        )
    return data


def _rows(plain: bytes, result_format: Format, types: Mapping[str, FieldType], csv_header: bool, where: str) -> list[pa.RecordBatch]:
    stream = io.BytesIO(plain)
    columns = list(types)
    if result_format == "parquet":
        return list(read_parquet(open_parquet(stream, types, columns, where=where), types, columns, where=where))
    if result_format == "json":
        return list(read_json_lines(stream, types, columns, where=where, at_start=False))
    layout = TextLayout(csv_header_line(stream.readline(), where) if csv_header else None, newlines_in_values=True)
    return list(read_csv(stream, types, columns, where=where, layout=layout))
