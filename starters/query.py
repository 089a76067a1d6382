"""``cleanroom query``: create, update, propose, approve, reject, withdraw, show, list, lint. Also ``python -m starters.query``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cleanroom.documents.specs import load_query_spec
from cleanroom.messages.query import (
    DEFAULT_APPROVAL_SECONDS,
    QueryState,
)
from starters.lint import lint
from starters.operations.decisions import send_decision, sign_decision
from starters.operations.queries import (
    create_query,
    list_queries,
    propose_query,
    query_record,
    show_query,
    update_query,
    withdraw_query,
)
from starters.operations.query_workflow import read_state
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Profile,
    error_boundary,
    out,
    print_json,
    print_partial_record,
    print_record,
    print_rows,
    safe,
)

if TYPE_CHECKING:
    pass

app = typer.Typer(help="Propose queries and decide on them.", no_args_is_help=True)
app.command("lint")(lint)

Name = Annotated[str, typer.Argument(help="The query's name.", show_default=False)]
File = Annotated[Path, typer.Argument(help="The query's YAML.", show_default=False)]
MAX_DAYS = 3650
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer.")]


@app.command()
def create(
    file: File,
    profile: Profile = None,
    config: ConfigFile = None,
    approval_days: Annotated[
        float, typer.Option(min=0.0001, max=MAX_DAYS, help="Days until an open proposal expires.")
    ] = DEFAULT_APPROVAL_SECONDS / 86400,
    reconcile_seconds: Annotated[int, typer.Option(min=1, max=86400, help="How often votes cast elsewhere are looked for.")] = 60,
    output: Output = Format.TABLE,
) -> None:
    """Create a query as a draft.

    Example: cleanroom query create demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        spec = load_query_spec(file)
        result = run_async(
            create_query(session, spec, approval_seconds=max(1, round(approval_days * 86400)), reconcile_seconds=reconcile_seconds)
        )
        print_record(result, output, title=f"query {spec.name}")


@app.command()
def update(file: File, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Replace a draft: a new version without any approval.

    Example: cleanroom query update demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        spec = load_query_spec(file)
        outcome = run_async(update_query(session, spec))
        print_record(outcome, output, title=f"query {spec.name}")


@app.command()
def propose(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Propose a draft to the owners of every input and of the output.

    Example: cleanroom query propose fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        print_record(run_async(propose_query(Session.load(profile, config), name)), output, title=f"query {name}")


@app.command()
def withdraw(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Withdraw an open proposal (it becomes a draft again), or close a draft.

    Example: cleanroom query withdraw fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        print_record(run_async(withdraw_query(session, name)), output, title=f"query {name}")


@app.command()
def approve(
    name: Name,
    profile: Profile = None,
    config: ConfigFile = None,
    version: Annotated[str | None, typer.Option(help="Approve only if the query is at this version.")] = None,
    expires_days: Annotated[float, typer.Option(min=0.0001, max=MAX_DAYS, help="Days for which the approval is good.")] = 30,
    max_runs: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Number of runs for which it is good.")] = None,
    reason: Annotated[str, typer.Option(help="A word to the others.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = True,
    print_signal: Annotated[
        bool, typer.Option("--print-signal", help="Print what the Web UI's Send a Signal box takes; send nothing.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Approve exactly what the query says now, with your own signature.

    Example: cleanroom query approve fabrikam-delays --profile litware
    """
    options = _Options(version, expires_days, max_runs, reason, yes, wait, print_signal)
    _decide_command("approve", name, profile, config, options, output)


@app.command()
def reject(
    name: Name,
    profile: Profile = None,
    config: ConfigFile = None,
    version: Annotated[str | None, typer.Option(help="Reject only if the query is at this version.")] = None,
    reason: Annotated[str, typer.Option(help="Why: a word to the others.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = True,
    print_signal: Annotated[
        bool, typer.Option("--print-signal", help="Print what the Web UI's Send a Signal box takes; send nothing.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Reject the query; one rejection closes the proposal and it becomes a draft again.

    Example: cleanroom query reject fabrikam-delays --reason "no floor" --profile contosso
    """
    options = _Options(version, 30, None, reason, yes, wait, print_signal)
    _decide_command("reject", name, profile, config, options, output)


class _Options:
    def __init__(
        self, version: str | None, expires_days: float, max_runs: int | None, reason: str, yes: bool, wait: bool, print_signal: bool
    ) -> None:
        self.version = version
        self.expires_days = expires_days
        self.max_runs = max_runs
        self.reason = reason
        self.yes = yes
        self.wait = wait
        self.print_signal = print_signal


def _decide_command(
    decision: Literal["approve", "reject"], name: str, profile: str | None, config: str | None, options: _Options, output: Format
) -> None:
    with error_boundary(output):
        session = Session.load(profile, config)
        state = run_async(read_state(session, name))
        message = sign_decision(
            session,
            state,
            decision,
            version=options.version,
            expires_days=options.expires_days,
            max_runs=options.max_runs,
            reason=options.reason,
        )
        if options.print_signal:
            print_json(message)
            return
        if output is Format.TABLE and not options.yes:
            print_lineage_card(session, state)
            typer.confirm(f"{decision} as {session.party}?", abort=True, err=True)
        after = run_async(send_decision(session, name, decision, message, wait=options.wait))
        print_record(query_record(session, after), output, title=f"query {name}")


def print_lineage_card(session: Session, state: QueryState, console: Console = out) -> None:
    """What the approvers decide on: reads, result, floors and the text that runs; owners by name, lines whole."""
    names = {user: name for name, user in session.settings.parties.items()}
    console.rule(f"[bold]{safe(state.query)}[/bold] version {safe(state.version)}", align="left")
    for line in state.card.splitlines()[:400]:
        for user, name in names.items():
            line = line.replace(user, name)
        indent = len(line) - len(line.lstrip(" "))
        console.print(" " * indent + safe(line, 1000), highlight=False)
    console.rule()


@app.command()
def show(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show state, pending and accepted approvers, the lineage card, and messages that were not counted.

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
            print_lineage_card(session, state)


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the collaboration's queries as governance holds them.

    Example: cleanroom query list --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        rows = run_async(list_queries(session))
        print_rows(rows, output, columns=("query", "state", "version", "pending", "accepted"), title="queries")


if __name__ == "__main__":
    main(app)
