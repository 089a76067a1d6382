"""``cleanroom query approve`` and ``cleanroom query reject``: the card, the question, and the signed decision."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cleanroom.errors import InvalidInput
from starters.operations.approved_cards import earlier_approval, remember_approval
from starters.operations.query_names import latest_name, names_before
from starters.operations.session import Session, run_async
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Plaintext,
    Profile,
    err,
    error_boundary,
    out,
    print_json,
    print_record,
    print_status,
    safe,
)

if TYPE_CHECKING:
    from cleanroom.publishing.approval_card import ApprovalCard, Terms

MAX_DAYS = 3650
_PIECE = 1000
"""Characters of the card per printed line."""
Name = Annotated[str, typer.Argument(help="Name of the query.", show_default=False)]
ExpectedVersion = Annotated[str | None, typer.Option(help="Fail unless the query is at this version.")]
Reason = Annotated[str, typer.Option(help="Reason shown to the other collaborators.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Consent without the card and the question.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the vote is counted.")]
PrintSignal = Annotated[
    bool, typer.Option("--print-signal", help="Print the signed signal for the Web UI's Send a Signal box, and send nothing.")
]


def approve(
    name: Name,
    profile: Profile = None,
    config: ConfigFile = None,
    version: ExpectedVersion = None,
    expires_days: Annotated[float, typer.Option(min=0.0001, max=MAX_DAYS, help="Days until the approval expires.")] = 30,
    max_runs: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Maximum number of runs that the approval allows.", show_default="unlimited")
    ] = None,
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = True,
    print_signal: PrintSignal = False,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Approve the current version of a query with your signature.

    The command computes the approval card on this machine from the documents in governance, shows it, and asks. It then signs the
    decision on exactly that text with your key, and sends it as a signal. Only --yes skips the question.

    Example: cleanroom query approve fabrikam-delays --profile litware
    """
    _decide(
        "approve",
        name,
        profile,
        config,
        output,
        version=version,
        expires_days=expires_days,
        max_runs=max_runs,
        reason=reason,
        yes=yes,
        wait=wait,
        print_signal=print_signal,
        plaintext=plaintext,
    )


def reject(
    name: Name,
    profile: Profile = None,
    config: ConfigFile = None,
    version: ExpectedVersion = None,
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = True,
    print_signal: PrintSignal = False,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Reject the current version of a query with your signature.

    One rejection ends the proposal, and the query becomes a draft again.

    Example: cleanroom query reject fabrikam-delays --reason "no floor" --profile contosso
    """
    _decide(
        "reject",
        name,
        profile,
        config,
        output,
        version=version,
        reason=reason,
        yes=yes,
        wait=wait,
        print_signal=print_signal,
        plaintext=plaintext,
    )


def _decide(
    decision: Literal["approve", "reject"],
    name: str,
    profile: str | None,
    config: str | None,
    output: Format,
    *,
    version: str | None,
    reason: str,
    yes: bool,
    wait: bool,
    print_signal: bool,
    plaintext: bool,
    expires_days: float = 30,
    max_runs: int | None = None,
) -> None:
    """Show the card, ask, sign the decision on the text of the card, then send it or print it."""
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=None if print_signal else plaintext, needs="collaborator")
        name = run_async(latest_name(session, name))
        from starters.operations.decisions import (
            decision_terms,
            read_card,
            recorded_decision,
            require_decidable,
            send_decision,
            sign_decision,
        )
        from starters.operations.queries import query_record

        card = run_async(read_card(session, name, current=not print_signal))
        signed = {"query": card.name, "version": card.version, "digest": card.digest}
        if version in (None, card.version) and not print_signal:
            before = run_async(recorded_decision(session, card, decision))
            if before is not None:
                print_status(f"[dim]this decision of {safe(session.party)} is already recorded[/dim]")
                print_record(query_record(session, before) | signed, output, title=f"query {name}")
                return
        require_decidable(card, decision, version=version)
        terms = decision_terms(expires_days, max_runs)
        if not yes:
            # Standard output holds only the JSON document or the signal.
            print_approval_card(session, card, terms, out if output is Format.TABLE and not print_signal else err)
            _confirm(question(session, card, decision, terms))
        message = sign_decision(session, card, decision, version=version, reason=reason, terms=terms)
        if decision == "approve":
            remember_approval(session.settings.keys_dir, session.collaboration, card)
        if print_signal:
            print_json(message)
            return
        after = run_async(send_decision(session, name, decision, message, wait=wait))
        print_record(query_record(session, after) | signed, output, title=f"query {name}")


def question(session: Session, card: ApprovalCard, decision: Literal["approve", "reject"], terms: Terms) -> str:
    """Return the question that the collaborator answers: the name of the query, the validity and the number of runs."""
    person = f"a deputy of {session.party}" if session.settings.deputy else session.party
    what = f"{decision} query {card.name}, version {card.version}, as {person}"
    return f"{what}, {terms.validity}" + (f", {terms.runs}?" if decision == "approve" else "?")


def _confirm(text: str) -> None:
    """Ask on standard error. Only a typed answer counts.

    Raises:
        InvalidInput: ``ConfirmationRequired`` if standard input ends without an answer.
        typer.Abort: The answer is no.
    """
    try:
        agreed = typer.confirm(text, err=True)
    except typer.Abort as error:
        if sys.stdin.isatty():
            raise
        raise InvalidInput(
            "ConfirmationRequired", "The decision was not confirmed, so nothing was signed.", hint="Answer the question, or pass --yes."
        ) from error
    if not agreed:
        raise typer.Abort


def print_approval_card(session: Session, card: ApprovalCard, terms: Terms | None = None, console: Console = out) -> None:
    """Print what the approvers decide on, complete: inputs, output, floors, warnings, the SQL text that runs, and the terms.

    Long lines are divided, so that no part of a text is left out.
    """
    names = session.settings.user_names
    console.rule(f"[bold]{safe(card.name)}[/bold] version {safe(card.version)}", align="left")
    lines = card.lines(names)
    approved = (earlier_approval(session.settings.keys_dir, session.collaboration, name) for name in (card.name, *names_before(card.name)))
    if (before := next(filter(None, approved), None)) is None:
        lines += ["changes", "    You have not approved a query of this name on this machine."]
    elif changes := card.changes_since(before.body):
        lines += [f"changes since version {before.version}, which you approved", *(f"    {line}" for line in changes)]
    else:
        lines += ["changes", f"    none since version {before.version}, which you approved"]
    if terms is not None:
        lines += ["your decision", f"    {terms.validity}; {terms.runs}"]
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        for start in range(0, max(len(line) - indent, 1), _PIECE):
            piece = line[indent + start : indent + start + _PIECE]
            console.print(" " * (indent if not start else indent + 2) + safe(piece, _PIECE), highlight=False)
    console.rule()
