"""What identifies a run's result: the receipt, the folder of its objects, and the receipt that is sealed next to them.

Each object is sealed alone, so its seal says nothing about the other objects, and a CSV object without a header says nothing about
its columns. The pod therefore seals the receipt with the dataset's key, too. It lists all objects with their digests and the columns
in order. A reader requires it to equal the receipt in governance's ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from cleanroom.clients.objects import ObjectStore
from cleanroom.datasets.encryption import open_bytes, seal_bytes
from cleanroom.errors import NotFound, Refused
from cleanroom.identifiers import canonical_json, object_context, sha256_hex
from cleanroom.joining import joined
from cleanroom.secret import Secret
from cleanroom.spark.job import ResultObject, ResultReceipt


def result_digest(objects: tuple[ResultObject, ...]) -> str:
    """Return ``ResultReceipt.digest``: the SHA-256 over the canonical JSON of the receipt's objects."""
    return sha256_hex(canonical_json([item.model_dump(mode="json", by_alias=True) for item in objects]))


def result_folder(collaboration: str, run_id: str) -> str:
    """Return the folder of a run's objects within the output dataset."""
    return joined("/", collaboration, run_id)


def receipt_path(collaboration: str, run_id: str) -> str:
    """Return the path of a run's sealed receipt within the output dataset. Objects whose name begins with ``_`` are never data."""
    return f"{result_folder(collaboration, run_id)}/_receipt"


def write_receipt(store: ObjectStore, receipt: ResultReceipt, key: Secret | None, *, collaboration: str) -> None:
    """Store the receipt next to its objects, sealed if ``key`` is given."""
    path = receipt_path(collaboration, receipt.run_id)
    plain = canonical_json(receipt.model_dump(mode="json", by_alias=True))
    store.put(path, plain if key is None else seal_bytes(plain, key, object_context(collaboration, receipt.dataset, path)))


def check_receipt(receipt: ResultReceipt, *, collaboration: str, columns: Sequence[str]) -> None:
    """Check a receipt on its own, before anything is downloaded.

    Args:
        receipt: The receipt.
        collaboration: The collaboration of the run.
        columns: The columns of the output dataset, in the order of its schema.

    Raises:
        Refused: ``ReceiptDigestMismatch`` if its digest is not that of its objects; ``ResultObjectOutsideRun`` for an object of
            another run; ``ResultObjectRepeated``; ``ResultColumnsMismatch`` for other columns or another order.
    """
    run = f"receipt of run {receipt.run_id!r}"
    if result_digest(receipt.objects) != receipt.digest:
        raise Refused("ReceiptDigestMismatch", f"{run}: its digest does not match the objects that it lists.")
    folder = result_folder(collaboration, receipt.run_id) + "/"
    seen: set[str] = set()
    for item in receipt.objects:
        name = item.name.removeprefix(folder)
        if not item.name.startswith(folder) or not name.startswith("part-") or "/" in name:
            raise Refused("ResultObjectOutsideRun", f"{run}: object {item.name!r} is not in the folder {folder} of this run.")
        if item.name in seen:
            raise Refused("ResultObjectRepeated", f"{run}: object {item.name!r} is listed twice.")
        seen.add(item.name)
    if list(receipt.columns) != list(columns):
        raise Refused(
            "ResultColumnsMismatch",
            f"{run}: its columns are {', '.join(receipt.columns)}; the output dataset has {', '.join(columns)}.",
        )


def check_sealed_receipt(store: ObjectStore, receipt: ResultReceipt, key: Secret | None, *, collaboration: str) -> None:
    """Require that the receipt which the pod sealed next to the objects equals ``receipt``.

    Raises:
        Refused: ``SealedReceiptMissing``, ``CiphertextInvalid``, ``SealedReceiptInvalid``; ``ResultListIncomplete`` if ``receipt``
            lacks objects; ``SealedReceiptMismatch`` for every other difference.
    """
    path = receipt_path(collaboration, receipt.run_id)
    run = f"receipt of run {receipt.run_id!r}"
    try:
        stored = store.read(path)
    except NotFound as error:
        raise Refused("SealedReceiptMissing", f"{run}: {path!r} is not in the store.", cause=error.message) from error
    plain = stored if key is None else open_bytes(stored, key, object_context(collaboration, receipt.dataset, path))
    try:
        sealed = ResultReceipt.model_validate_json(plain)
    except ValidationError as error:
        raise Refused("SealedReceiptInvalid", f"{path}: not a receipt of this version.", cause=f"{error.error_count()} errors") from None
    if missing := [item.name for item in sealed.objects if item not in receipt.objects]:
        raise Refused("ResultListIncomplete", f"{run}: it lacks object {missing[0]!r}, which the pod wrote.")
    if sealed != receipt:
        members = [name for name in ResultReceipt.model_fields if getattr(sealed, name) != getattr(receipt, name)]
        raise Refused("SealedReceiptMismatch", f"{run}: the pod sealed a different {', '.join(members)}.")
