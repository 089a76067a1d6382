"""Reads the result of a run: every collaborator gets the result receipt, and the receiver, owner of the key, the rows."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cleanroom.documents.query import QUERY_LABELS, QueryDocument, parse_query
from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import CleanRoomError, PreconditionFailed, Refused
from cleanroom.identifiers import document_digest, require_name
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.job import ResultReceipt
from cleanroom.spark.run_events import event_id, parse_event
from starters.operations.session import Session

# Imported on use: Temporal is asked only when the ledger has no receipt.
if TYPE_CHECKING:
    from cleanroom.governance import Document, GovernanceUserClient


async def read_receipt(session: Session, run_id: str) -> ResultReceipt:
    """Return the result receipt of a completed run, as the run's attested pod entered it into governance's ledger.

    Nothing of it comes from a workflow. Only when the ledger has no receipt, Temporal says where the run stands.

    Raises:
        NotFound: ``WorkflowNotFound`` if neither the ledger nor Temporal knows the run.
        PreconditionFailed: ``RunNotComplete``.
        Refused: ``ResultNotInLedger``; ``ResultOfAnotherRun``; ``ResultOfAnotherQuery`` if its digest is not that of an accepted
            query; ``ResultOfAnotherDataset``; the codes of :func:`cleanroom.datasets.result.check_receipt`.
    """
    require_name("run_id", run_id)
    async with session.governance() as client:
        where = {"event_id": event_id(run_id, "QUERY_COMPLETED"), "scope": event_scope(run_id)}
        entry = await client.latest_event(session.collaboration, **where)
        if entry is None and await _expect_end_of_run(session, run_id):
            entry = await client.latest_event(session.collaboration, **where)
        if entry is None:
            raise await _no_receipt_error(session, run_id)
        receipt = parse_event(entry.data if isinstance(entry.data, dict) else {}).receipt
        if receipt is None or receipt.run_id != run_id:
            raise Refused("ResultOfAnotherRun", f"run {run_id!r}: its entry in the ledger contains no receipt of this run.")
        await _check_against_documents(session, client, receipt)
    return receipt


async def _expect_end_of_run(session: Session, run_id: str) -> bool:
    """Let the next read wait for what a completed run has seen in governance. Return whether there is such a run."""
    from temporalio.client import WorkflowExecutionStatus

    from starters.operations.run_workflow import find_run

    found = await find_run(session, run_id)
    if found.described.status is not WorkflowExecutionStatus.COMPLETED:
        return False
    with suppress(Exception):  # A result that cannot be read says nothing about the ledger.
        revoked = (await found.handle.result()).revoked
        session.expect(revoked.seen if revoked is not None else "")
    return True


async def _check_against_documents(session: Session, client: GovernanceUserClient, receipt: ResultReceipt) -> None:
    """Check the receipt against the accepted query with its digest, and against the output dataset that this query pins."""
    from cleanroom.datasets.result import check_receipt
    from cleanroom.runs.authority import RunAuthority
    from cleanroom.runs.reader import UserReader

    query = await _accepted_query(session, client, receipt)
    _, sink = await RunAuthority(UserReader(client, session.collaboration), session.collaboration).fetch_datasets(query)
    if receipt.dataset != sink.dataset.name:
        raise Refused(
            "ResultOfAnotherDataset",
            f"run {receipt.run_id!r}: its receipt names dataset {receipt.dataset!r}; query {query.name!r} writes to {sink.dataset.name!r}.",
        )
    allowed = sink.dataset.dataset_access_policy.allowed_fields
    columns = [name for name in sink.dataset.dataset_schema.types() if name in allowed]
    check_receipt(receipt, collaboration=session.collaboration, columns=columns)


async def _accepted_query(session: Session, client: GovernanceUserClient, receipt: ResultReceipt) -> QueryDocument:
    """Find the accepted query that has the digest in the receipt. The ledger's name of the query only says where to look first."""
    from cleanroom.governance import Document

    documents = session.documents(client)
    started = await client.latest_event(
        session.collaboration, event_id=event_id(receipt.run_id, "RUN_STARTED"), scope=event_scope(receipt.run_id)
    )
    named = started.data.get("query") if started is not None and isinstance(started.data, dict) else None
    if isinstance(named, str) and (found := _with_digest(await documents.find(named), receipt.query_digest)) is not None:
        return found
    for row in await documents.select(QUERY_LABELS):
        if isinstance(row, Document) and (found := _with_digest(row, receipt.query_digest)) is not None:
            return found
    raise Refused(
        "ResultOfAnotherQuery",
        f"run {receipt.run_id!r}: its receipt is for query text {receipt.query_digest}, which no accepted query has.",
    )


def _with_digest(document: Document | None, digest: str) -> QueryDocument | None:
    if document is None or document.state != "Accepted" or document_digest(str(document.data)) != digest:
        return None
    query = parse_query(str(document.data), document_id=document.id)
    return query if query.name == document.id and query.approval is not None else None


async def _no_receipt_error(session: Session, run_id: str) -> CleanRoomError:
    """Build the error for a run without a receipt in the ledger, from what Temporal says about the run."""
    from temporalio.client import WorkflowExecutionStatus

    from starters.operations.run_workflow import find_run, take_snapshot

    found = await find_run(session, run_id)
    if found.described.status is WorkflowExecutionStatus.COMPLETED:
        return Refused(
            "ResultNotInLedger",
            f"run {run_id!r}: its workflow has completed, but the ledger has no receipt from its pod.",
            hint="Treat the result as not delivered, and start another run.",
            party="operator",
        )
    snapshot = await take_snapshot(session, found)
    reason = f" ({snapshot.failure.code})" if snapshot.failure else ""
    return PreconditionFailed(
        "RunNotComplete",
        f"run {run_id!r} is {snapshot.state} and has no result{reason}.",
        hint=f"`cleanroom run {'show' if found.ended else 'watch'} {run_id}`",
    )


async def require_receiver(session: Session, spec: DatasetSpec) -> None:
    """Check that this collaborator owns the output dataset; the key exists only on the owner's machine.

    Raises:
        Refused: ``NotTheReceiver``.
    """
    async with session.governance() as client:
        document = await session.documents(client).find(spec.name)
    if document is not None and document.proposer_id != session.user_id:
        owner = session.party_of(document.proposer_id)
        raise Refused(
            "NotTheReceiver",
            f"dataset {spec.name!r} belongs to {owner}. Only {owner} can decrypt the result.",
            hint="Without --dataset, this command shows the receipt.",
            party=owner,
        )


def open_result(session: Session, spec: DatasetSpec, receipt: ResultReceipt) -> Any:
    """Download and decrypt the rows on the receiver's machine, and verify them against the receipt.

    Args:
        session: Session of the receiver.
        spec: The receiver's own file of the output dataset.
        receipt: From :func:`read_receipt`.

    Returns:
        A table; see :mod:`cleanroom.datasets.readers`.

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
        columns=[name for name in spec.columns if spec.allowed_columns is None or name in spec.allowed_columns],
        csv_header=spec.csv_header,
    )
