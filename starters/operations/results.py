"""The result of a run on its receiver's machine: the receipt for everybody, the rows for who has the output dataset's key."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus

from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.spark.job import ResultReceipt
from starters.operations.run_workflow import find_run, take_snapshot
from starters.operations.session import Session


async def read_receipt(session: Session, run_id: str) -> ResultReceipt:
    """The receipt of a completed run.

    Raises:
        PreconditionFailed: ``RunNotComplete``.
    """
    found = await find_run(session, run_id)
    if found.described.status is WorkflowExecutionStatus.COMPLETED:
        receipt = (await found.handle.result()).receipt
        if receipt is not None:
            return receipt
    seen = await take_snapshot(found)
    why = f": {seen.failure.code}." if seen.failure else "."
    raise PreconditionFailed(
        "RunNotComplete",
        f"run {run_id!r} is {seen.state}; it has no result{why}",
        hint=f"cleanroom run {'show' if found.ended else 'watch'} {run_id}",
    )


async def require_receiver(session: Session, spec: DatasetSpec) -> None:
    """Look whether the output dataset is this person's: nobody else has its key.

    Raises:
        Refused: ``NotTheReceiver``.
    """
    async with session.governance() as client:
        document = await session.documents(client).find(spec.name)
    if document is not None and document.proposer_id != session.user_id:
        owner = next((name for name, user in session.settings.parties.items() if user == document.proposer_id), document.proposer_id)
        raise Refused(
            "NotTheReceiver",
            f"dataset {spec.name!r} is {owner}'s, who alone can open the result.",
            hint="Without --dataset, this command shows the receipt.",
            party=owner,
        )


def open_result(session: Session, spec: DatasetSpec, receipt: ResultReceipt) -> Any:
    """Download and decrypt the rows on the receiver's machine, checked against the receipt.

    Raises:
        Refused: ``NotTheReceiver`` when the receipt is for another dataset; digest mismatches.
    """
    from cleanroom.clients.owned import open_store
    from cleanroom.datasets.download import download_result
    from cleanroom.datasets.keystore import KeyStore

    if receipt.dataset != spec.name:
        raise Refused(
            "NotTheReceiver",
            f"the result went to dataset {receipt.dataset!r}, not to {spec.name!r}.",
            hint=f"Give the file of {receipt.dataset}.",
        )
    keys = KeyStore(session.settings.keys_dir)
    store = open_store(session.settings, spec, customer_key=lambda: keys.get(spec.name))
    sealing = keys.get(spec.name) if spec.encryption == "CSE" else None
    return download_result(store, receipt, sealing, result_format=spec.format, types=spec.columns, csv_header=spec.csv_header)
