"""``cleanroom query``: queries and the decisions on them. Also ``python -m starters.query``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanroom.lifecycle.query import DEFAULT_APPROVAL_SECONDS
from starters.lint import lint
from starters.operations.query_names import latest_name
from starters.operations.session import Session, run_async
from starters.query_check import check
from starters.query_decisions import MAX_DAYS, Name, approve, reject
from starters.query_rehearsal import rehearse
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Plaintext,
    Profile,
    error_boundary,
    out,
    print_partial_record,
    print_record,
    print_rows,
    safe,
    with_names,
)

if TYPE_CHECKING:
    from cleanroom.documents.specs import QuerySpec
    from cleanroom.messages.query import QueryState


app = typer.Typer(help="Create and propose queries, and decide on them.", no_args_is_help=True)
app.command("lint")(lint)
app.command("check")(check)
app.command("rehearse")(rehearse)

File = Annotated[Path, typer.Argument(help="YAML file of the query.", show_default=False)]
ApprovalDays = Annotated[float, typer.Option(min=0.0001, max=MAX_DAYS, help="Days until an open proposal expires.")]


def _read(file: Path) -> QuerySpec:
    from cleanroom.documents.specs import load_query_spec

    return load_query_spec(file)


def _latest(session: Session, name: str) -> str:
    """Return the name of the latest version of a query, for a command that changes it."""
    return run_async(latest_name(session, name))


@app.command()
def create(
    file: File,
    propose_: Annotated[bool, typer.Option("--propose", help="Propose the query to the owners as well.")] = False,
    profile: Profile = None,
    config: ConfigFile = None,
    approval_days: ApprovalDays = DEFAULT_APPROVAL_SECONDS / 86400,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Create a query as a draft.

    The draft is checked as by `query check` before anything is started. It stays editable until you propose it. The same command again
    shows the query that exists. Another text under the same name is a conflict.

    Example: cleanroom query create demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        spec = _read(file)
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        from starters.operations.query_check import require_proposable

        run_async(require_proposable(session, spec))
        from starters.operations.queries import create_query, outcome_record, propose_query

        approval_seconds = max(1, round(approval_days * 86400))
        record = run_async(create_query(session, spec, approval_seconds=approval_seconds, checked=True))
        if propose_:
            record = outcome_record(spec.name, run_async(propose_query(session, spec.name, spec)))
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
        spec = _read(file)
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        name = _latest(session, spec.name)
        from starters.operations.queries import outcome_record, update_query

        outcome = run_async(update_query(session, spec.model_copy(update={"name": name})))
        print_record(outcome_record(name, outcome), output, title=f"query {name}")


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
        spec = _read(file) if file is not None else None
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        name = _latest(session, name)
        from starters.operations.queries import outcome_record, propose_query

        spec = spec and spec.model_copy(update={"name": name})
        print_record(outcome_record(name, run_async(propose_query(session, name, spec))), output, title=f"query {name}")


@app.command()
def renew(
    name: Name,
    file: Annotated[Path | None, typer.Option(help="Propose the text of this YAML file, instead of the text of the last version.")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    approval_days: ApprovalDays = DEFAULT_APPROVAL_SECONDS / 86400,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Propose a query to its owners again: after its approvals expired, its runs were used up, or its workflow was cancelled.

    The earlier versions stay as they are, with their decisions and runs; `query show` lists them. An accepted query becomes a new
    document, such as `fabrikam-delays-r2`, and every command finds it by the first name. Until all owners have approved it, `run start`
    uses the version before.

    Example: cleanroom query renew fabrikam-delays --profile fabrikam
    """
    with error_boundary(output):
        spec = _read(file) if file is not None else None
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        from starters.operations.query_renewal import renew_query

        approval_seconds = max(1, round(approval_days * 86400))
        record = run_async(renew_query(session, name, spec, approval_seconds=approval_seconds))
        print_record(record, output, title=f"query {record['query']}")


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
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        name = _latest(session, name)
        from starters.operations.queries import outcome_record, withdraw_query

        outcome = run_async(withdraw_query(session, name, only_proposal=only_proposal))
        print_record(outcome_record(name, outcome), output, title=f"query {name}")


app.command()(approve)
app.command()(reject)


@app.command()
def show(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show what a run of a query would meet, the decisions on it, its approval card, and the messages that were not counted.

    Each decision has its expiry, its limit of runs, and the runs used. The queries that this one renews are listed.
    If no worker answers, the command shows what governance holds and says what is missing. JSON output includes the history.

    Example: cleanroom query show fabrikam-delays --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.query_show import show_query
        from starters.operations.query_standing import decision_lines

        record, state = run_async(show_query(session, name))
        name = record["query"]
        if output is Format.TABLE:
            record["decisions"] = decision_lines(record["decisions"])
            record["renews"] = [f"{item['query']}, version {item['version']}: {item['state']}" for item in record["renews"]]
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
            print_card_of_workflow(state)


def print_card_of_workflow(state: QueryState) -> None:
    """Print the gate's card as the query's workflow shows it; `cleanroom query approve` computes its own."""
    out.rule(f"[bold]{safe(state.query)}[/bold] version {safe(state.version)}, as its workflow shows it", align="left")
    for line in state.card.splitlines()[:400]:
        line = with_names(line)
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
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        from starters.operations.adopt import adopt_query

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
        from starters.operations.query_list import list_queries

        rows = run_async(list_queries(session, waiting_for=session.party if mine else None, from_governance=from_governance))
        columns = ("query", "state", "version", "pending", "accepted", "since", "expires", "reminded")
        print_rows(rows, output, columns=columns, title="queries")


if __name__ == "__main__":
    main(app)
