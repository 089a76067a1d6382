"""The Web UI page of a ``PublishQuery`` workflow: its current details, and the search attributes behind the saved views."""

from __future__ import annotations

import asyncio
import textwrap
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from cleanroom.lifecycle.query import CONSENT_WITHDRAWN, next_command
from cleanroom.lifecycle.state import State
from cleanroom.temporal import attributes, metrics
from cleanroom.temporal.markdown import code, code_block, details, escape, prose
from workflows.query_state import QueryStateMachine

STAGE_EVENTS = {"Proposed": "proposed", "Approved": "approved by all"}
"""The event of the query's history with which a stage begins."""
EVENTS_SHOWN = 15
CARD_WIDTH = 64
"""Width of the Web UI's column in characters."""


class QueryStatusPage:
    """Publishes the state of one query to the Web UI."""

    def __init__(self, query: QueryStateMachine, proposer: str) -> None:
        self._query = query
        self._proposer = proposer
        self._shown: tuple[Any, ...] | None = None
        self._stage, self._since = "", workflow.now()
        self._state: State | None = None
        self._due = False
        self._limited = query.run_limit is not None
        self._datasets = query.datasets
        """As the command that started the workflow has set them."""
        self._reminded = bool(query.reminded)
        """Whether the search attributes name a reminder."""

    def show_soon(self) -> None:
        """Call :meth:`show` once, after what is ready to run now. A flood of messages then renders the page once per workflow task."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._show_if_due)

    def _show_if_due(self) -> None:
        if self._due:
            self.show()

    def show(self) -> None:
        """Update the current details, and the search attributes if they changed. Each update of attributes adds a history event."""
        query, self._due = self._query, False
        workflow.set_current_details(query_details(query, self._proposer))
        votes = (query.pending(), query.voters("accepted"))
        shown = (query.state, *votes, query.digest, query.shown_expiry, query.run_limit, query.datasets, query.reminded, query.known())
        if shown != self._shown:
            self._shown = shown
            self._enter(query)
            changed = query_attributes(query, self._since)
            if query.run_limit is not None or self._limited:
                changed.append((attributes.RUN_LIMIT, query.run_limit))
            self._limited = query.run_limit is not None
            if query.reminded or self._reminded:
                changed.append((attributes.REMINDED, query.reminded[-1] if query.reminded else None))
            self._reminded = bool(query.reminded)
            if (known := query.known()) is not None:
                changed.append((attributes.KNOWN, str(known)))
            if query.datasets != self._datasets:
                self._datasets = query.datasets
                changed.append((attributes.DATASETS, list(query.datasets)))
            workflow.upsert_search_attributes(attributes.updates(*changed))

    def _enter(self, query: QueryStateMachine) -> None:
        """Take note of the state and of the time since when the query is in it, and count the time that a proposal was open."""
        if query.state is self._state:
            return
        now, stage = workflow.now(), query.stage
        if self._stage == "Proposed" and stage != "Proposed":
            metrics.PROPOSAL_SECONDS.record(workflow.metric_meter(), (now - self._since).total_seconds(), result=stage.lower())
        # A continued history starts in the middle of a stage.
        began = [entry.at for entry in query.history if entry.event == STAGE_EVENTS.get(stage)] if stage != self._stage else []
        self._stage, self._state, self._since = stage, query.state, max(began, default=now)

    def set_outcome(self, outcome: str) -> None:
        """Set search attribute ``CrOutcome``."""
        workflow.upsert_search_attributes(attributes.updates((attributes.OUTCOME, outcome)))
        metrics.WORKFLOWS_CLOSED.add(workflow.metric_meter(), kind="query", outcome=metrics.bounded("outcome", outcome))


def query_details(query: QueryStateMachine, proposer: str) -> str:
    """Render state, owners, next step, history and card as Markdown, within the Web UI's limit."""
    votes = f" ({len(query.voters('accepted'))} of {len(query.owners)} owners)" if query.stage in ("Proposed", "Approved") else ""
    expires = query.shown_expiry
    until = f", expires {expires:%Y-%m-%d %H:%M} UTC" if expires and not query.closed else ""
    lines = [
        f"**{escape(query.name)}** of {escape(proposer)}: **{query.state}**{votes}",
        f"version {code(query.version or '-')}, digest {code(query.digest[:16] or '-')}{until}",
        "\n".join(_decisions(query)),
        _reminder(query),
        _next_step(query, proposer),
    ]
    if query.refused:
        last = query.refused[-1]
        lines.append(
            f"Refused messages: {len(query.refused)}; last, *{escape(last.kind)}*: {code(last.code)} {prose(last.cause or last.message)}"
        )
    events = "\n".join(
        f"- {entry.at:%Y-%m-%d %H:%M:%S} {escape(entry.event)}"
        f"{f' by **{escape(entry.by)}**' if entry.by else ''}{f': {escape(entry.detail)}' if entry.detail else ''}"
        for entry in list(query.history)[-EVENTS_SHOWN:]
    )
    card = code_block(_wrapped(query.display_text(query.card))) if query.card else ""
    shown = [line for line in lines if line]
    card_title = "Query text and lineage" if query.closed else "What the owners approve"
    return details("\n\n".join(shown), "**History**", events, f"**{card_title}**" if card else "", card)


def query_attributes(query: QueryStateMachine, since: datetime) -> list[tuple[SearchAttributeKey[Any], Any]]:
    """Return the search attributes by which operators filter queries; ``since`` is the time when the stage began."""
    return [
        (attributes.STAGE, f"query.{query.state.stage}"),
        (attributes.STAGE_SINCE, since),
        (attributes.PENDING_FOR, list(query.pending())),
        (attributes.APPROVED_BY, list(query.voters("accepted"))),
        (attributes.DIGEST, attributes.short_digest(query.digest) if query.digest else None),
        (attributes.EXPIRES_AT, query.shown_expiry),
    ]


def _decisions(query: QueryStateMachine) -> list[str]:
    """Return one line per owner: the vote and its time, or the time since which the vote is pending."""
    if query.stage not in ("Proposed", "Approved"):
        return []
    when = {(entry.event, entry.by): entry.at for entry in query.history}
    proposed = max((entry.at for entry in query.history if entry.event == "proposed"), default=None)
    lines = []
    deputies = query.snapshot().deputies
    for name, ballot in sorted((query.display_name(owner), query.ballots.get(owner, "")) for owner in query.owners):
        at = when.get(("approved" if ballot == "accepted" else "rejected", name)) if ballot else proposed
        time = f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
        mark, word = {"accepted": ("✓", "approved"), "rejected": ("✗", "rejected")}.get(ballot, ("○", "**pending** since"))
        deputy = f" (deputy **{escape(deputies[name])}**)" if name in deputies else ""
        lines.append(f"- {mark} {escape(name)}{deputy} {word} {time}")
    return lines


def _reminder(query: QueryStateMachine) -> str:
    """Return a line on the last reminder of the current stage."""
    if not query.reminded or query.closed:
        return ""
    at = max((entry.at for entry in query.history if entry.event == query.reminded[-1]), default=None)
    return f"**{query.reminded[-1]}** sent {at:%Y-%m-%d %H:%M} UTC" if at else f"**{query.reminded[-1]}** sent"


def _next_step(query: QueryStateMachine, proposer: str) -> str:
    """Return the commands that lead on, each with who gives it."""
    if query.stage == "Creating":
        return ""
    command = next_command(query.state, query.name, held=bool(query.version))
    if query.state is CONSENT_WITHDRAWN:
        return f"Next: {code('cleanroom query show ' + query.name)} names who has withdrawn consent."
    people = query.pending() if query.stage == "Proposed" else (proposer,)
    commands = " and ".join(code(f"{command} --profile {person}") for person in people[:3])
    if not commands:
        return ""
    paste = f" With {code('--print-signal')} the command prints the input for *Send a Signal*." if query.stage == "Proposed" else ""
    return f"{'To propose it again' if query.closed else 'Next'}: {commands}" + (f".{paste}" if paste else "")


def _wrapped(card: str) -> str:
    """Wrap the card's lines to the width of the Web UI's column, with a hanging indent."""
    lines: list[str] = []
    for line in card.splitlines():
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines += textwrap.wrap(line, CARD_WIDTH, subsequent_indent=f"{indent}    ", break_on_hyphens=False) or [""]
    return "\n".join(lines)
