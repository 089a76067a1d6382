"""``cleanroom query``: create, update, propose, approve, reject, withdraw, show, list, lint. Also ``python -m starters.query``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.query import QUERY_LABELS
from cleanroom.documents.specs import QuerySpec, load_query_spec
from cleanroom.errors import CleanRoomError, Conflict
from cleanroom.identifiers import FRONTEND_QUEUE, canonical_json, document_digest, query_workflow_id, sha256_hex
from cleanroom.messages.query import (
    DEFAULT_APPROVAL_SECONDS,
    AuthorMessage,
    Collaborator,
    CommandOutcome,
    PublishQueryInput,
    QueryState,
)
from cleanroom.temporal import attributes
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details, escape
from starters.asking import QUERY_SECONDS
from starters.entry import command_line
from starters.lint import lint
from starters.names import PROPOSE, PUBLISH_QUERY, UPDATE, WITHDRAW
from starters.output import ConfigFile, Format, Output, Profile, out, print_json, print_look, print_record, print_rows, reported, safe
from starters.query_workflow import QueryFound, find_query, read_state, served, state_of, taking_messages, until
from starters.session import Session, run_async
from starters.votes import send_decision, sign_decision

if TYPE_CHECKING:
    from cleanroom.governance import GovernanceUserClient

app = typer.Typer(help="Propose queries and decide on them.", no_args_is_help=True)
app.command("lint")(lint)

Name = Annotated[str, typer.Argument(help="The query's name.", show_default=False)]
File = Annotated[Path, typer.Argument(help="The query's YAML.", show_default=False)]
MAX_DAYS = 3650
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer.")]


def _parties(session: Session) -> tuple[Collaborator, ...]:
    return tuple(Collaborator(name=name, user_id=user) for name, user in sorted(session.settings.parties.items()))


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
    with reported(output):
        session = Session.load(profile, config)
        spec = load_query_spec(file)
        result = run_async(
            create_query(session, spec, approval_seconds=max(1, round(approval_days * 86400)), reconcile_seconds=reconcile_seconds)
        )
        print_record(result, output, title=f"query {spec.name}")


async def create_query(
    session: Session, spec: QuerySpec, *, approval_seconds: int = DEFAULT_APPROVAL_SECONDS, reconcile_seconds: int = 60
) -> dict[str, Any]:
    """Start the query's workflow and wait until its draft is in governance."""
    client = await session.temporal()
    workflow_id = query_workflow_id(session.collaboration, spec.name)
    input = PublishQueryInput(
        collaboration=session.collaboration,
        proposer=Collaborator(name=session.party, user_id=session.user_id),
        parties=_parties(session),
        spec=spec,
        authorisation=session.authorise("create-query", spec.name, spec.digest()),
        approval_seconds=approval_seconds,
        reconcile_seconds=reconcile_seconds,
    )
    try:
        handle = await client.start_workflow(
            PUBLISH_QUERY,
            input,
            result_type=QueryState,
            id=workflow_id,
            task_queue=FRONTEND_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"query {spec.name} of {session.party}",
            static_details=_details(session, spec),
            search_attributes=start_attributes(
                collaboration=session.collaboration,
                kind="query",
                query=spec.name,
                proposer=session.party,
                datasets=sorted({*spec.inputs.values(), spec.output}),
            ),
        )
    except WorkflowAlreadyStartedError as error:
        raise Conflict(
            "QueryExists",
            f"query {spec.name!r} exists already.",
            hint=f"Update its draft: cleanroom query update, or look at it: cleanroom query show {spec.name}.",
        ) from error
    state = await served(session, until(client, handle, lambda state: state.stage != "Creating", f"the draft of {spec.name}"))
    return _record(session, state)


def _details(session: Session, spec: QuerySpec) -> str:
    """What the Web UI says about a query beside its state."""
    name = spec.name
    return details(
        f"The life of query {code(name)}, written by **{escape(session.party)}**: draft, proposal, decisions, until it is closed.",
        "\n".join(
            [
                *(f"- reads {code(dataset)} as {code(view)}" for view, dataset in sorted(spec.inputs.items())),
                f"- writes {code(spec.output)}",
            ]
        ),
        "Every owner of these datasets decides, by a signed decision on exactly this version. "
        "What was not counted, and why, is in the query *refused*.",
    )


def _record(session: Session, state: QueryState) -> dict[str, Any]:
    workflow_id = query_workflow_id(session.collaboration, state.query)
    return {
        "query": state.query,
        "state": {"Proposed": "Not Approved"}.get(state.stage, state.stage),
        "version": state.version,
        "digest": state.digest,
        "pending": list(state.pending),
        "accepted": list(state.accepted),
        "rejected": list(state.rejected),
        "expires": state.expires.isoformat() if state.expires else None,
        "workflow_id": workflow_id,
        "link": session.ui_link(workflow_id),
    }


@app.command()
def update(file: File, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Replace a draft: a new version without any approval.

    Example: cleanroom query update demo/fabrikam-delays.yaml --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        spec = load_query_spec(file)
        outcome = run_async(_command(session, spec.name, "update-query", UPDATE, spec))
        print_record(outcome, output, title=f"query {spec.name}")


@app.command()
def propose(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Propose a draft to the owners of every input and of the output.

    Example: cleanroom query propose fabrikam-delays --profile fabrikam
    """
    with reported(output):
        print_record(run_async(propose_query(Session.load(profile, config), name)), output, title=f"query {name}")


async def propose_query(session: Session, name: str) -> CommandOutcome:
    """Propose the draft as it is now and return who must approve."""
    return await _command(session, name, "propose-query", PROPOSE, None)


@app.command()
def withdraw(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Withdraw an open proposal (it becomes a draft again), or close a draft.

    Example: cleanroom query withdraw fabrikam-delays --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        print_record(run_async(_command(session, name, "withdraw-query", WITHDRAW, None)), output, title=f"query {name}")


async def _command(session: Session, name: str, action: str, update: Any, spec: QuerySpec | None) -> CommandOutcome:
    found = await find_query(session, name)
    await state_of(found)
    digest = spec.digest() if spec else sha256_hex(canonical_json({"query": name, "action": action}))
    message = AuthorMessage(party=session.party, authorisation=session.authorise(action, name, digest), spec=spec)

    async def answer() -> CommandOutcome:
        with taking_messages(name):
            outcome: CommandOutcome = await found.handle.execute_update(update, message, result_type=CommandOutcome)
        return outcome

    return await served(session, answer())


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
    with reported(output):
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
            print_card(session, state)
            typer.confirm(f"{decision} as {session.party}?", abort=True, err=True)
        after = run_async(send_decision(session, name, decision, message, wait=options.wait))
        print_record(_record(session, after), output, title=f"query {name}")


def print_card(session: Session, state: QueryState, console: Console = out) -> None:
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
    with reported(output):
        session = Session.load(profile, config)
        record, state = run_async(_show(session, name))
        if output is Format.TABLE and state:
            record["refused"] = [
                f"{item.at:%Y-%m-%d %H:%M:%S} {item.kind}: {item.code}: {item.cause or item.message}" for item in state.refused
            ]
        if output is Format.JSON:
            record |= {
                "card": state.card if state else "",
                "history": [item.model_dump(mode="json") for item in state.history] if state else [],
            }
        print_look(record, output, title=f"query {name}")
        if output is Format.TABLE and state and state.card:
            print_card(session, state)


async def _show(session: Session, name: str) -> tuple[dict[str, Any], QueryState | None]:
    """The record, and the state where somebody tells it: the workflow's worker, or the result of one that has ended."""
    found = await find_query(session, name)
    unanswered: CleanRoomError | None = None
    state: QueryState | None = None
    try:
        state = await state_of(found, seconds=QUERY_SECONDS)
    except CleanRoomError as error:
        unanswered = error
        if found.described.status is WorkflowExecutionStatus.COMPLETED:
            state = await found.handle.result()
    record = _record(session, state) if state else await _governance_record(session, found)
    return record | {
        "refused": [item.model_dump(mode="json") for item in state.refused] if state else [],
        "unanswered": unanswered.to_dict() if unanswered else None,
    }, state


async def _governance_record(session: Session, found: QueryFound) -> dict[str, Any]:
    """What governance and Temporal's server know of a query whose workflow does not answer."""
    name, described = found.handle.id.rsplit("/", 1)[-1], found.described
    async with session.governance() as client:
        row = await _row(session, client, name) if await session.documents(client).find(name) else {}
    ended = described.status not in (None, WorkflowExecutionStatus.RUNNING)
    expires = described.typed_search_attributes.get(attributes.EXPIRES_AT)
    return {
        "query": name,
        "state": described.status.name if ended and described.status else row.get("state", "Creating"),
        "version": row.get("version", ""),
        "digest": row.get("digest", ""),
        "pending": row.get("pending", []),
        "accepted": row.get("accepted", []),
        "rejected": row.get("rejected", []),
        "expires": expires.isoformat() if expires else None,
        "workflow_id": found.handle.id,
        "link": session.ui_link(found.handle.id),
    }


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the collaboration's queries as governance holds them.

    Example: cleanroom query list --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        rows = run_async(_list(session))
        print_rows(rows, output, columns=("query", "state", "version", "pending", "accepted"), title="queries")


async def _list(session: Session) -> list[dict[str, Any]]:
    async with session.governance() as client:
        return [await _row(session, client, query) for query in await session.documents(client).ids(QUERY_LABELS)]


async def _row(session: Session, client: GovernanceUserClient, query: str) -> dict[str, Any]:
    """A query as governance holds it, people by name."""
    names = {user: name for name, user in session.settings.parties.items()}
    document = await session.documents(client).get(query)
    ballots: dict[str, str] = {}
    if document.proposal_id:
        status = await client.proposal_status(document.proposal_id)
        ballots = {ballot.approver_id: str(ballot.ballot) for ballot in status.ballots}

    def voted(word: str) -> list[str]:
        return sorted(names.get(user, user) for user, ballot in ballots.items() if ballot == word)

    approvers = {item.approver_id for item in document.approvers or ()}
    return {
        "query": query,
        "state": {"Proposed": "Not Approved", "Accepted": "Approved"}.get(document.state, document.state),
        "version": document.version,
        "digest": document_digest(str(document.data)),
        "pending": sorted(names.get(user, user) for user in approvers - set(ballots)) if document.state == "Proposed" else [],
        "accepted": voted("accepted"),
        "rejected": voted("rejected"),
    }


if __name__ == "__main__":
    command_line(app)
