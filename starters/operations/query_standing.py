"""The state of a query that commands show: what a run of it would meet now, and why.

Governance decides. A query that all owners accepted stays accepted there, also when its approvals have expired or its runs are used up.
A proposal whose workflow has ended stays open there, and a draft stays a draft. This module gives each of them one word.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus

from cleanroom.concurrency import gather_limited
from cleanroom.temporal import attributes
from starters.operations.query_names import generations
from starters.operations.session import Session, now
from starters.terminal.output import with_names

if TYPE_CHECKING:
    from cleanroom.governance import Document, GovernanceUserClient

_ENDED: Final = {
    WorkflowExecutionStatus.CANCELED: "Cancelled",
    WorkflowExecutionStatus.TERMINATED: "Terminated",
    WorkflowExecutionStatus.TIMED_OUT: "Terminated",
    WorkflowExecutionStatus.FAILED: "Failed",
}
_NEXT: Final = {
    "Draft": "cleanroom query propose {name}",
    "Not Approved": "cleanroom query approve {name}",
    "Approved": "cleanroom run start {name}",
    "Consent Withdrawn": "cleanroom consent on {name}",
    "Creating": "cleanroom query show {name}",
}
RENEW: Final = "cleanroom query renew {name}"
CONCURRENT: Final = 20
"""Queries of a list whose runs are counted at the same time, at most."""


def next_command(state: str, name: str) -> str:
    """Return the command that leads on from a state. A query that has ended is renewed."""
    return _NEXT.get(state, RENEW).format(name=name)


def ended_state(workflow: WorkflowExecution) -> str | None:
    """Return the state of a query whose workflow has ended, or None if it is open."""
    status = workflow.status
    if status is None or status is WorkflowExecutionStatus.RUNNING:
        return None
    if status is WorkflowExecutionStatus.COMPLETED:
        return str(workflow.typed_search_attributes.get(attributes.STAGE, "query.closed")).removeprefix("query.").capitalize()
    return _ENDED.get(status)


async def standing_record(session: Session, name: str, state: str) -> dict[str, Any]:
    """Return what a run would meet, the owners' decisions, the queries that this one renews, and its renewal.

    Args:
        session: Session of the command.
        name: Name of the query.
        state: Its state without governance.
    """
    found: dict[str, Any] = {"decisions": [], "refusal": None, "renews": [], "renewed_as": None}
    reached = False
    documents = await generations(session, name)
    async with session.governance() as client:
        for document in documents:
            reached = reached or document.id == name
            accepted = await accepted_record(session, client, document) if document.state == "Accepted" else {}
            if document.id == name:
                found |= accepted
            elif reached:
                found["renewed_as"] = document.id
            else:
                found["renews"].append({"query": document.id, "version": document.version, "state": "Not Accepted"} | accepted)
    renewal = found["renewed_as"]
    return found | {"next": f"cleanroom query show {renewal}" if renewal else next_command(found.get("state", state), name)}


async def accepted_record(session: Session, client: GovernanceUserClient, document: Document) -> dict[str, Any]:
    """Return state, expiry, decisions and refusal of a query that all owners accepted."""
    from cleanroom.runs.owner_decisions import read_owner_decisions
    from cleanroom.runs.reader import UserReader, to_accepted_document

    found = await read_owner_decisions(
        UserReader(client, session.collaboration), session.collaboration, to_accepted_document(document), now()
    )
    refusal = found.refusal
    return {
        "state": found.state,
        "expires": found.expires.isoformat() if found.expires else None,
        "runs_used": found.runs_used,
        "decisions": [
            {
                "owner": with_names(item.owner),
                "expires": item.decision.expires.isoformat() if item.decision else None,
                "max_runs": item.decision.max_runs if item.decision else None,
                "runs_used": found.runs_used,
                "reason": item.decision.reason if item.decision else "",
                "problem": item.problem.code if item.problem else "",
            }
            for item in found.decisions
        ],
        "refusal": {"code": refusal.code, "message": with_names(refusal.message), "hint": refusal.hint} if refusal else None,
    }


def decision_lines(decisions: list[dict[str, Any]]) -> list[str]:
    """Return a line per decision, for people."""
    lines = []
    for item in decisions:
        if item["expires"] is None:
            lines.append(f"{item['owner']}: {item['problem']}")
            continue
        limit = f"of {item['max_runs']}" if item["max_runs"] is not None else "of any number of"
        until = f"{'expired' if item['problem'] == 'ApprovalExpired' else 'valid until'} {item['expires'][:16].replace('T', ' ')} UTC"
        lines.append(f"{item['owner']}: {until}, {item['runs_used']} {limit} runs used" + (f": {item['reason']}" if item["reason"] else ""))
    return lines


async def listed_states(
    session: Session, client: GovernanceUserClient, rows: list[dict[str, Any]], workflows: dict[str, WorkflowExecution]
) -> None:
    """Replace the states in the rows of a list by those that :func:`accepted_record` and :func:`ended_state` give.

    The terms of the approvals come from the search attributes, and only the runs of queries with a limit are read from governance. So
    the list stays fast. The rows of queries without a workflow keep what governance says.
    """
    from cleanroom.runs.reader import UserReader

    reader, time = UserReader(client, session.collaboration), now()

    async def correct(row: dict[str, Any]) -> None:
        workflow = workflows.get(row["query"])
        if workflow is None:
            return
        if row["state"] != "Approved":
            row["state"] = ended_state(workflow) or row["state"]
            return
        values = workflow.typed_search_attributes
        expires, limit = values.get(attributes.EXPIRES_AT), values.get(attributes.RUN_LIMIT)
        if expires is not None and _utc(expires) <= time:
            row["state"] = "Expired"
        elif limit is not None and len(await reader.runs_started(row["query"])) >= limit:
            row["state"] = "Exhausted"

    await gather_limited(correct, rows, CONCURRENT)


def _utc(at: dt.datetime) -> dt.datetime:
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)
