"""Downloads a run's result by its receipt. Every stored byte is compared with the receipt before it is decrypted."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets import readers
from cleanroom.datasets.csv_header import HEADER_BYTES
from cleanroom.datasets.encryption import open_bytes
from cleanroom.datasets.result import check_receipt, check_sealed_receipt
from cleanroom.documents.dataset import FieldType, Format
from cleanroom.errors import NotFound, Refused
from cleanroom.identifiers import object_context
from cleanroom.secret import Secret
from cleanroom.spark.job import ResultObject, ResultReceipt


def download_result(
    store: ObjectStore,
    receipt: ResultReceipt,
    key: Secret | None,
    *,
    collaboration: str,
    result_format: Format,
    types: Mapping[str, FieldType],
    columns: Sequence[str] | None = None,
    csv_header: bool = False,
    on_object: Callable[[ResultObject], None] | None = None,
) -> readers.Rows:
    """Return the rows of the result that ``receipt`` identifies, in order.

    Args:
        store: The output dataset's place in a store.
        receipt: The result receipt of the run.
        key: The output dataset's key, or None if the store encrypts (SSE, CPK).
        collaboration: The collaboration of the run.
        result_format: The output dataset's format.
        types: The output dataset's schema.
        columns: Its columns that a result has, in the order of the schema; all by default.
        csv_header: Whether CSV objects begin with a header line.
        on_object: Called after each object.

    Raises:
        Refused: The codes of :func:`check_receipt` and :func:`check_sealed_receipt`; ``ResultDigestMismatch`` (the stored object
            differs), ``CiphertextInvalid``, ``ResultRowsMismatch``.
        NotFound: ``ResultObjectNotFound``.
        InvalidInput: ``SchemaMismatch``.
    """
    check_receipt(receipt, collaboration=collaboration, columns=tuple(types) if columns is None else columns)
    check_sealed_receipt(store, receipt, key, collaboration=collaboration)
    types = {name: types[name] for name in receipt.columns}
    batches: list[readers.Rows] = []
    for item in receipt.objects:
        stored = _fetch(store, item)
        context = object_context(collaboration, receipt.dataset, item.name)
        batches += result_rows(stored if key is None else open_bytes(stored, key, context), result_format, types, csv_header, item.name)
        if on_object:
            on_object(item)
    table = readers.joined(batches, types)
    if table.num_rows != receipt.rows:
        raise Refused(
            "ResultRowsMismatch", f"run {receipt.run_id!r}: the objects contain {table.num_rows} rows, the receipt says {receipt.rows}."
        )
    return table


def _fetch(store: ObjectStore, item: ResultObject) -> bytes:
    name = item.name
    try:
        data = store.read(name)
    except NotFound as error:
        raise NotFound(
            "ResultObjectNotFound",
            f"result object {name!r} is not in the store.",
            cause=error.message,
            hint="It was deleted from the store, or the receipt belongs to another output dataset.",
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != item.size or digest != item.sha256:
        raise Refused(
            "ResultDigestMismatch",
            f"result object {name!r}: {len(data)} bytes with digest {digest}, but the receipt says {item.size} with {item.sha256}.",
            hint="The object was replaced in the store. The receipt identifies another result.",
        )
    return data


def result_rows(plain: bytes, result_format: Format, types: Mapping[str, FieldType], with_header: bool, where: str) -> list[readers.Rows]:
    """Return the rows of one object of a result. The pod verifies with this function that the receiver can open what it writes.

    Raises:
        InvalidInput: ``SchemaMismatch``.
    """
    stream = io.BytesIO(plain)
    columns = list(types)
    if result_format == "parquet":
        return list(readers.read_parquet(stream, types, columns, where=where))
    if result_format == "json":
        return list(readers.read_json_lines(stream, types, columns, where=where, at_start=False))
    header = None
    if with_header:
        header, start = readers.csv_header(plain[:HEADER_BYTES], where)
        stream.seek(start)
    return list(readers.read_csv(stream, types, columns, where=where, header=header))
