"""Reads the result of a run: every collaborator gets the result receipt, and the receiver, owner of the key, the rows."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus

from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.spark.job import ResultReceipt
from starters.operations.run_workflow import find_run, take_snapshot
from starters.operations.session import Session


async def read_receipt(session: Session, run_id: str) -> ResultReceipt:
    """Return the result receipt of a completed run.

    Raises:
        NotFound: ``WorkflowNotFound``.
        PreconditionFailed: ``RunNotComplete``.
    """
    found = await find_run(session, run_id)
    if found.described.status is WorkflowExecutionStatus.COMPLETED:
        receipt = (await found.handle.result()).receipt
        if receipt is not None:
            return receipt
    snapshot = await take_snapshot(found)
    reason = f" ({snapshot.failure.code})" if snapshot.failure else ""
    raise PreconditionFailed(
        "RunNotComplete",
        f"run {run_id!r} is {snapshot.state} and has no result{reason}.",
        hint=f"cleanroom run {'show' if found.ended else 'watch'} {run_id}",
    )


async def require_receiver(session: Session, spec: DatasetSpec) -> None:
    """Check that this collaborator owns the output dataset; the key exists only on the owner's machine.

    Raises:
        Refused: ``NotTheReceiver``.
    """
    async with session.governance() as client:
        document = await session.documents(client).find(spec.name)
    if document is not None and document.proposer_id != session.user_id:
        owner = next((name for name, user in session.settings.parties.items() if user == document.proposer_id), document.proposer_id)
        raise Refused(
            "NotTheReceiver",
            f"dataset {spec.name!r} belongs to {owner}. Only {owner} can decrypt the result.",
            hint="Without --dataset, this command shows the receipt.",
            party=owner,
        )


def open_result(session: Session, spec: DatasetSpec, receipt: ResultReceipt) -> Any:
    """Download and decrypt the rows on the receiver's machine, and verify them against the receipt.

    Returns:
        A pyarrow table.

    Raises:
        NotFound: ``DatasetKeyNotFound``.
        Refused: ``NotTheReceiver`` when the receipt names another dataset; errors of the verification.
    """
    from cleanroom.clients.owned import open_store
    from cleanroom.datasets.download import download_result
    from cleanroom.datasets.keystore import KeyStore

    if receipt.dataset != spec.name:
        raise Refused(
            "NotTheReceiver",
            f"the run wrote its result to dataset {receipt.dataset!r}, not to {spec.name!r}.",
            hint=f"Pass the file of {receipt.dataset} to --dataset.",
        )
    keys = KeyStore(session.settings.keys_dir, session.collaboration)
    store = open_store(session.settings, spec, customer_key=lambda: keys.get(spec.name))
    data_key = keys.get(spec.name) if spec.encryption == "CSE" else None
    return download_result(
        store,
        receipt,
        data_key,
        collaboration=session.collaboration,
        result_format=spec.format,
        types=spec.columns,
        csv_header=spec.csv_header,
    )
