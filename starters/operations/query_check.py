"""Checks the draft of a query against the published datasets, before a workflow is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cleanroom.documents.specs import QuerySpec
from starters.operations.session import Session
from starters.operations.sql_places import SqlPlace

# Imported on use: the query gate takes a quarter of a second to import, and every `cleanroom query` command imports this module.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cleanroom.governance import Document
    from cleanroom.publishing.query_check import CheckedDraft
    from cleanroom.runs.authorised import Dataset
    from cleanroom.sql import Reason


async def check_spec(session: Session, spec: QuerySpec) -> CheckedDraft:
    """Check a draft; the result holds every problem. See :func:`cleanroom.publishing.query_check.check_draft`."""
    from cleanroom.publishing.query_check import check_draft
    from cleanroom.runs.reader import UserReader

    async with session.governance() as client:
        reader = UserReader(client, session.collaboration)
        return await check_draft(reader, spec, collaboration=session.collaboration, proposer_id=session.user_id)


async def require_proposable(session: Session, spec: QuerySpec) -> None:
    """Refuse a draft that `cleanroom query check` refuses, before a workflow hears of it. The frontend makes the same check again.

    Raises:
        CleanRoomError: See :meth:`cleanroom.publishing.query_check.CheckedDraft.require_allowed`.
    """
    (await check_spec(session, spec)).require_allowed()


async def require_proposable_draft(session: Session, document: Document) -> None:
    """Refuse the draft that governance holds, as :func:`require_proposable` does."""
    from cleanroom.publishing.adoption import query_specification

    await require_proposable(session, query_specification(document, session.collaboration)[0])


def check_record(session: Session, checked: CheckedDraft, places: Sequence[SqlPlace]) -> dict[str, Any]:
    """Return the result of a check as the commands print it."""
    sink, verdict = checked.sink, checked.verdict
    written = list(sink.dataset.dataset_schema.types().items()) if sink is not None else []
    allowed = sink.dataset.dataset_access_policy.allowed_fields if sink is not None else ()
    parameters = checked.spec.parameters
    return {
        "query": checked.spec.name,
        "allowed": checked.document is not None,
        "findings": [finding(reason, places) for reason in checked.findings()],
        "warnings": [{"code": item.code, "message": item.message} for item in checked.warnings()],
        "inputs": [_input(session, item) for item in checked.inputs],
        "output": checked.spec.output,
        "output_columns": {name: kind for name, kind in written if name in allowed},
        "result_columns": {column.name: column.type for column in verdict.output} if verdict is not None else {},
        "parameters": parameters.model_dump(mode="json", by_alias=True, exclude_none=True),
        "approvers": [session.party_of(owner) for owner in checked.owners],
        "card": verdict.card if verdict is not None and verdict.allowed else "",
    }


def finding(reason: Reason, places: Sequence[SqlPlace]) -> dict[str, Any]:
    """Return a problem with its place in the author's files."""
    record: dict[str, Any] = {"code": reason.code, "message": reason.message, "segment": reason.segment}
    if reason.position is None or reason.segment is None:
        return record | {"file": None, "line": None, "column": None}
    return record | places[reason.segment].find(reason.position.line, reason.position.column)


def _input(session: Session, item: Dataset) -> dict[str, Any]:
    policy = item.dataset.dataset_access_policy
    floors = policy.privacy_floors
    types = item.dataset.dataset_schema.types()
    return {
        "view": item.view,
        "dataset": item.dataset.name,
        "version": item.document.version,
        "owner": session.party_of(item.owner_id),
        "columns": {name: types[name] for name in types if name in policy.allowed_fields},
        "min_group_size": floors.min_group_size,
        "identity": floors.identity_column,
        "dimensions": None if floors.allowed_output_columns is None else list(floors.allowed_output_columns),
        "measures": None if floors.measures is None else list(floors.measures),
    }
