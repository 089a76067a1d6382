"""The state of a query that commands show: what a run of it would meet now, why, and the command that leads on.

:mod:`cleanroom.lifecycle.query` decides the state. This module collects the facts: from governance, and from Temporal's description of the
query's workflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from temporalio.client import WorkflowExecution

from cleanroom.lifecycle.query import Held, QueryFacts, next_command, query_state
from cleanroom.lifecycle.state import State, WorkflowEnd
from cleanroom.temporal import attributes
from starters.operations.query_names import author, generations
from starters.operations.session import Session, now
from starters.terminal.output import with_names

if TYPE_CHECKING:
    from cleanroom.governance import Document, GovernanceUserClient

CONCURRENT: Final = 16
"""Queries of a list that are read from governance at the same time."""


def workflow_facts(workflow: WorkflowExecution | None) -> tuple[WorkflowEnd, str]:
    """Return how the workflow of a query stands, and the stage that it has shown last."""
    if workflow is None:
        return WorkflowEnd.NONE, ""
    return WorkflowEnd.of(workflow.status), (workflow.typed_search_attributes.get(attributes.STAGE) or "").removeprefix("query.")


def state_with(document: Held, workflow: tuple[WorkflowEnd, str], refusal: str = "") -> State:
    """Return the state of a query from its document's state in governance, its workflow, and what a run would meet."""
    return query_state(QueryFacts(document, *workflow, refusal))


async def standing_record(session: Session, name: str, workflow: tuple[WorkflowEnd, str], *, knew: bool) -> dict[str, Any]:
    """Return the state of a query as governance and its workflow give it, with what leads on.

    Args:
        session: Session of the command.
        name: Name of the query.
        workflow: From :func:`workflow_facts`.
        knew: Whether the workflow has had a document.

    Returns:
        ``state``, ``next`` (a command), ``next_by`` (who gives it), ``decisions``, ``refusal``, ``renews`` and ``renewed_as``; of an
        accepted query also ``version``, ``expires`` and ``runs_used``.
    """
    found: dict[str, Any] = {"decisions": [], "refusal": None, "renews": [], "renewed_as": None}
    own: Document | None = None
    blocked, by = "", list[str]()
    documents = await generations(session, name)
    async with session.governance() as client:
        for document in documents:
            accepted = await accepted_record(session, client, document) if document.state == "Accepted" else {}
            if document.id == name:
                own, blocked = document, accepted.pop("blocked", "")
                found |= accepted
            elif own is not None:
                found["renewed_as"] = document.id
            else:
                state = accepted.get("state") or state_with(cast(Held, document.state), (WorkflowEnd.OPEN, "")).word
                found["renews"].append({"query": document.id, "version": document.version, "state": state} | accepted)
        if blocked:
            from starters.operations.consent import disabled_by

            by = await disabled_by(session, client, blocked)
    held: Held = cast(Held, own.state) if own is not None else "Missing" if knew else ""
    refusal = found["refusal"]["code"] if found["refusal"] else ""
    state = state_with(held, workflow, refusal)
    found["state"] = state.word
    if found["renewed_as"]:
        return found | {"next": f"cleanroom query show {found['renewed_as']}", "next_by": []}
    names = session.settings.user_names
    who = {"consent": by, "proposer": [names.get(author(own), "")] if own is not None else []}.get(state.by, [])
    return found | {"next": next_command(state, name, document=blocked, held=own is not None), "next_by": list(filter(None, who))}


async def accepted_record(session: Session, client: GovernanceUserClient, document: Document) -> dict[str, Any]:
    """Return state, version, expiry, decisions and refusal of a query that all owners accepted.

    ``blocked`` is the document without consent.
    """
    from cleanroom.publishing.query_states import decided_version
    from cleanroom.runs.owner_decisions import read_owner_decisions
    from cleanroom.runs.reader import UserReader, to_accepted_document

    reader = UserReader(client, session.collaboration)
    found = await read_owner_decisions(reader, session.collaboration, to_accepted_document(document), now())
    refusal = found.refusal
    return {
        "state": state_with("Accepted", (WorkflowEnd.NONE, ""), refusal.code if refusal else "").word,
        "version": found.version or await decided_version(session.documents(client), document),
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
        "blocked": str(refusal.details.get("document", "")) if refusal else "",
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
