"""What the Web UI shows of a query: current details in the words of the diagram's notes, and the attributes behind the saved views."""

from __future__ import annotations

import textwrap
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from cleanroom.temporal import attributes
from cleanroom.temporal.markdown import code, code_block, details, escape, prose
from workflows.query_life import QueryLife

EVENTS_SHOWN = 15


class QueryBoard:
    """Where the query's life is shown."""

    def __init__(self, life: QueryLife, proposer: str) -> None:
        self._life = life
        self._proposer = proposer
        self._shown: tuple[Any, ...] | None = None

    def show(self) -> None:
        """Write the details; set the attributes, which cost an event, when something that they are made of has changed."""
        life = self._life
        workflow.set_current_details(query_details(life, self._proposer))
        shown = (life.stage, life.pending(), life.by("accepted"), life.digest, life.expires)
        if shown != self._shown:
            self._shown = shown
            workflow.upsert_search_attributes(attributes.updates(*query_attributes(life, workflow.now())))

    def outcome(self, word: str) -> None:
        """Set ``CrOutcome``: how it ended."""
        workflow.upsert_search_attributes(attributes.updates((attributes.OUTCOME, word)))


def query_details(life: QueryLife, proposer: str) -> str:
    """State, owners, next step, story and card, as Markdown within the Web UI's limit."""
    stage = {"Proposed": "Not Approved"}.get(life.stage, life.stage)
    counted = f" ({len(life.by('accepted'))} of {len(life.owners)} owners)" if life.stage in ("Proposed", "Approved") else ""
    until = f", expires {life.expires:%Y-%m-%d %H:%M} UTC" if life.expires and not life.closed else ""
    lines = [
        f"**{escape(life.query)}** of {escape(proposer)}: **{stage}**{counted}",
        f"version {code(life.version or '-')}, digest {code(life.digest[:16] or '-')}{until}",
        "\n".join(_decisions(life)),
        _next_step(life, proposer),
    ]
    if life.refused:
        last = life.refused[-1]
        lines.append(
            f"Refused messages: {len(life.refused)}; last, *{escape(last.kind)}*: {code(last.code)} {prose(last.cause or last.message)}"
        )
    story = "\n".join(
        f"- {entry.at:%Y-%m-%d %H:%M:%S} {escape(entry.event)}"
        f"{f' by **{escape(entry.by)}**' if entry.by else ''}{f': {escape(entry.detail)}' if entry.detail else ''}"
        for entry in list(life.history)[-EVENTS_SHOWN:]
    )
    card = code_block(_folded(life.named(life.card))) if life.card else ""
    shown = [line for line in lines if line]
    about = "What it was about" if life.closed else "What the owners approve"
    return details("\n\n".join(shown), "**What happened**", story, f"**{about}**" if card else "", card)


def query_attributes(life: QueryLife, now: datetime) -> list[tuple[SearchAttributeKey[Any], Any]]:
    """Stage, who is waited for, who approved, text and deadline: what an operator filters by."""
    return [
        (attributes.STAGE, f"query.{life.stage.lower()}"),
        (attributes.STAGE_SINCE, now),
        (attributes.PENDING_FOR, list(life.pending())),
        (attributes.APPROVED_BY, list(life.by("accepted"))),
        (attributes.DIGEST, attributes.short_digest(life.digest) if life.digest else None),
        (attributes.EXPIRES_AT, life.expires),
    ]


def _decisions(life: QueryLife) -> list[str]:
    """One line an owner: what they decided, and when; or that they are waited for, and since when."""
    if life.stage not in ("Proposed", "Approved"):
        return []
    when = {(entry.event, entry.by): entry.at for entry in life.history}
    proposed = max((entry.at for entry in life.history if entry.event == "proposed"), default=None)
    lines = []
    for name, ballot in sorted((life.name(owner), life.ballots.get(owner, "")) for owner in life.owners):
        at = when.get(("approved" if ballot == "accepted" else "rejected", name)) if ballot else proposed
        time = f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
        mark, word = {"accepted": ("✓", "approved"), "rejected": ("✗", "rejected")}.get(ballot, ("○", "**waited for** since"))
        lines.append(f"- {mark} {escape(name)} {word} {time}")
    return lines


def _next_step(life: QueryLife, proposer: str) -> str:
    """The command that moves the query on."""
    if life.stage == "Draft":
        return f"Next: {code(f'cleanroom query propose {life.query} --profile {proposer}')}"
    if life.stage == "Proposed":
        commands = [code(f"cleanroom query approve {life.query} --profile {owner}") for owner in life.pending()]
        paste = f"With {code('--print-signal')} it prints what *Send a Signal* takes."
        return "Next: " + " and ".join(commands[:3]) + ". " + paste if commands else ""
    if life.stage == "Approved":
        return f"Next: {code(f'cleanroom run start {life.query} --profile {proposer}')}"
    return ""


def _folded(card: str, width: int = 64) -> str:
    """The card's lines as wide as the Web UI's column; what is longer goes on below, indented."""
    lines: list[str] = []
    for line in card.splitlines():
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines += textwrap.wrap(line, width, subsequent_indent=f"{indent}    ", break_on_hyphens=False) or [""]
    return "\n".join(lines)
