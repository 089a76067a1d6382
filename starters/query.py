"""``cleanroom query``: queries and the decisions on them. Also ``python -m starters.query``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cleanroom.documents.specs import load_query_spec
from cleanroom.errors import InvalidInput
from cleanroom.messages.query import DEFAULT_APPROVAL_SECONDS, QueryState
from starters.lint import lint
from starters.operations.adopt import adopt_query
from starters.operations.approved_cards import earlier_approval, remember_approval
from starters.operations.decisions import (
    decision_terms,
    read_card,
    recorded_decision,
    require_decidable,
    send_decision,
    sign_decision,
)
from starters.operations.queries import (
    create_query,
    propose_query,
    query_record,
    show_query,
    update_query,
    withdraw_query,
)
from starters.operations.query_list import list_queries
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
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
    print_partial_record,
    print_record,
    print_rows,
    print_status,
    safe,
)

if TYPE_CHECKING:
    from cleanroom.publishing.approval_card import ApprovalCard, Terms

app = typer.Typer(help="Create and propose queries, and decide on them.", no_args_is_help=True)
app.command("lint")(lint)

MAX_DAYS = 3650
_PIECE = 1000
"""Characters of the card per printed line."""
Name = Annotated[str, typer.Argument(help="Name of the query.", show_default=False)]
File = Annotated[Path, typer.Argument(help="YAML file of the query.", show_default=False)]
ExpectedVersion = Annotated[str | None, typer.Option(help="Fail unless the query is at this version.")]
Reason = Annotated[str, typer.Option(help="Reason shown to the other collaborators.")]
ApprovalDays = Annotated[float, typer.Option(min=0.0001, max=MAX_DAYS, help="Days until an open proposal expires.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Consent without the card and the question.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the vote is counted.")]
PrintSignal = Annotated[
    bool, typer.Option("--print-signal", help="Print the signed signal for the Web UI's Send a Signal box, and send nothing.")
]


@app.command()
def create(
    file: File,
    profile: Profile = None,
    config: ConfigFile = None,
    approval_days: ApprovalDays = DEFAULT_APPROVAL_SECONDS / 86400,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Create a query as a draft.

    The query gate checks the SQL text against the datasets that the collaboration has published. The draft stays editable until you
    propose it. The same command again shows the query that exists. Another text under the same name is a conflict.

    Example: cleanroom query create demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=plaintext)
        spec = load_query_spec(file)
        approval_seconds = max(1, round(approval_days * 86400))
        record = run_async(create_query(session, spec, approval_seconds=approval_seconds))
        print_record(record, output, title=f"query {spec.name}")


@app.command()
def update(
    file: File, profile: Profile = None, config: ConfigFile = None, plaintext: Plaintext = False, output: Output = Format.TABLE
) -> None:
    """Replace the draft of a query with the text of a file.

    This creates a new version without any approval. Every collaborator may update a draft.

    Example: cleanroom query update demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=plaintext)
        spec = load_query_spec(file)
        print_record(run_async(update_query(session, spec)), output, title=f"query {spec.name}")


@app.command()
def propose(
    name: Name,
    file: Annotated[Path | None, typer.Option(help="Propose the text of this YAML file. The draft must have exactly this text.")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Propose the draft of a query to the owners of its input and output datasets.

    Your signature covers the version and the text of the draft. Without `--file`, that must be the text that you wrote last on this
    machine. If another collaborator changed the draft, read the new text in a file and pass it with `--file`.

    Example: cleanroom query propose fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=plaintext)
        spec = load_query_spec(file) if file is not None else None
        print_record(run_async(propose_query(session, name, spec)), output, title=f"query {name}")


@app.command()
def withdraw(
    name: Name,
    only_proposal: Annotated[
        bool, typer.Option("--only-proposal", help="Do nothing to a draft, so that the command can be repeated.")
    ] = False,
    profile: Profile = None,
    config: ConfigFile = None,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Withdraw an open proposal, or close a draft.

    A withdrawn proposal becomes a draft again. Withdraw the draft too to close the query.

    Example: cleanroom query withdraw fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=plaintext)
        print_record(run_async(withdraw_query(session, name, only_proposal=only_proposal)), output, title=f"query {name}")


@app.command()
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


@app.command()
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
        session = Session.load(profile, config, plaintext=plaintext)
        if not print_signal:
            session.require_encryption()
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
    names = {user: name for name, user in session.settings.parties.items() if user}
    console.rule(f"[bold]{safe(card.name)}[/bold] version {safe(card.version)}", align="left")
    lines = card.lines(names)
    if (before := earlier_approval(session.settings.keys_dir, session.collaboration, card.name)) is None:
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


@app.command()
def show(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show the state of a query, its approvers, its approval card, and the messages that were not counted.

    If no worker answers, the command shows what governance holds and says what is missing. JSON output includes the history.

    Example: cleanroom query show fabrikam-delays --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        record, state = run_async(show_query(session, name))
        if output is Format.TABLE and state:
            record["refused"] = [
                f"{item.at:%Y-%m-%d %H:%M:%S} {item.kind}: {item.code}: {item.cause or item.message}" for item in state.refused
            ]
        if output is Format.JSON:
            record |= {
                "card": state.card if state else "",
                "history": [item.model_dump(mode="json") for item in state.history] if state else [],
            }
        print_partial_record(record, output, title=f"query {name}")
        if output is Format.TABLE and state and state.card:
            print_card_of_workflow(session, state)


def print_card_of_workflow(session: Session, state: QueryState) -> None:
    """Print the gate's card as the query's workflow shows it; `cleanroom query approve` computes its own."""
    out.rule(f"[bold]{safe(state.query)}[/bold] version {safe(state.version)}, as its workflow shows it", align="left")
    for line in state.card.splitlines()[:400]:
        for name, user in session.settings.parties.items():
            line = line.replace(user, name)
        indent = len(line) - len(line.lstrip(" "))
        out.print(" " * indent + safe(line, 1000), highlight=False)
    out.rule()


@app.command()
def adopt(
    name: Name,
    profile: Profile = None,
    config: ConfigFile = None,
    approval_days: ApprovalDays = DEFAULT_APPROVAL_SECONDS / 86400,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Start the workflow of a query that governance holds, after Temporal has lost it.

    State, votes and the expiry of approvals come from governance. The result lists what governance does not hold.

    Example: cleanroom query adopt fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config, plaintext=plaintext)
        approval_seconds = max(1, round(approval_days * 86400))
        record = run_async(adopt_query(session, name, approval_seconds=approval_seconds))
        print_record(record, output, title=f"query {name}")


@app.command("list")
def list_(
    mine: Annotated[bool, typer.Option("--mine", help="List only the queries that wait for your decision.")] = False,
    from_governance: Annotated[
        bool, typer.Option("--from-governance", help="Read every query from governance. This takes longer, and shows no times.")
    ] = False,
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """List the queries of the collaboration, and for whom they wait.

    States and times are those of the Web UI. Drafts and open proposals are compared with governance, which takes precedence. If Temporal
    does not answer, governance alone is read, and the times are missing.

    Example: cleanroom query list --mine --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        rows = run_async(list_queries(session, waiting_for=session.party if mine else None, from_governance=from_governance))
        columns = ("query", "state", "version", "pending", "accepted", "since", "expires", "reminded")
        print_rows(rows, output, columns=columns, title="queries")


if __name__ == "__main__":
    main(app)
