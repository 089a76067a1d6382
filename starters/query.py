"""``cleanroom query``: create, update, propose, approve, reject, withdraw, show, list, lint. Also ``python -m starters.query``."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.query import QUERY_LABELS
from cleanroom.documents.specs import QuerySpec, load_query_spec
from cleanroom.errors import CleanRoomError, Conflict
from cleanroom.identifiers import FRONTEND_QUEUE, canonical_json, document_digest, query_workflow_id, sha256_hex
from cleanroom.messages.query import (
    DEFAULT_APPROVAL_SECONDS,
    AuthorMessage,
    CommandOutcome,
    DecisionMessage,
    Party,
    PublishQueryInput,
    QueryState,
    RefusedMessage,
    decision_mark,
)
from cleanroom.statements import Decision, sign
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details, escape
from starters.entry import command_line
from starters.lint import lint
from starters.output import ConfigFile, Format, Output, Profile, out, print_json, print_record, print_rows, reported, safe
from starters.query_workflow import own_queue, query_closed, query_handle, served, taking_messages, until
from starters.session import Session, now, run_async
from workflows.publish_query import PublishQuery

app = typer.Typer(help="Propose queries and decide on them.", no_args_is_help=True)
app.command("lint")(lint)

Name = Annotated[str, typer.Argument(help="The query's name.", show_default=False)]
File = Annotated[Path, typer.Argument(help="The query's YAML.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer.")]


def _parties(session: Session) -> tuple[Party, ...]:
    return tuple(Party(name=name, user_id=user) for name, user in sorted(session.settings.parties.items()))


@app.command()
def create(
    file: File,
    profile: Profile = None,
    config: ConfigFile = None,
    approval_days: Annotated[float, typer.Option(min=0.0001, help="Days until an open proposal expires.")] = DEFAULT_APPROVAL_SECONDS
    / 86400,
    reconcile_seconds: Annotated[int, typer.Option(min=1, help="How often votes cast elsewhere are looked for.")] = 60,
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
        proposer=Party(name=session.party, user_id=session.user_id),
        parties=_parties(session),
        spec=spec,
        authorisation=session.authorise("create-query", spec.name, spec.digest()),
        approval_seconds=approval_seconds,
        reconcile_seconds=reconcile_seconds,
    )
    try:
        handle = await client.start_workflow(
            PublishQuery.run,
            input,
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
    state = await served(session, until(handle, lambda state: state.stage != "Creating", f"the draft of {spec.name}"))
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
        f"A decision can be pasted into *Send a Signal*: {code(f'cleanroom query approve {name} --print-signal')} prints it. "
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
        outcome = run_async(_command(session, spec.name, "update-query", PublishQuery.revise, spec))
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
    return await _command(session, name, "propose-query", PublishQuery.submit, None)


@app.command()
def withdraw(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Withdraw an open proposal (it becomes a draft again), or close a draft.

    Example: cleanroom query withdraw fabrikam-delays --profile fabrikam
    """
    with reported(output):
        session = Session.load(profile, config)
        print_record(run_async(_command(session, name, "withdraw-query", PublishQuery.retract, None)), output, title=f"query {name}")


async def _command(session: Session, name: str, action: str, update: Any, spec: QuerySpec | None) -> CommandOutcome:
    handle = await query_handle(session, name)
    digest = spec.digest() if spec else sha256_hex(canonical_json({"query": name, "action": action}))
    message = AuthorMessage(party=session.party, authorisation=session.authorise(action, name, digest), spec=spec)

    async def answer() -> CommandOutcome:
        with taking_messages(name):
            outcome: CommandOutcome = await handle.execute_update(update, message)
        return outcome

    return await served(session, answer())


@app.command()
def approve(
    name: Name,
    profile: Profile = None,
    config: ConfigFile = None,
    version: Annotated[str | None, typer.Option(help="Approve only if the query is at this version.")] = None,
    expires_days: Annotated[float, typer.Option(min=0.0001, help="Days for which the approval is good.")] = 30,
    max_runs: Annotated[int | None, typer.Option(min=1, help="Number of runs for which it is good.")] = None,
    reason: Annotated[str, typer.Option(help="A word to the others.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = True,
    print_signal: Annotated[
        bool, typer.Option("--print-signal", help="Print what the Web UI's Send a Signal box takes; send nothing.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Approve exactly what the query says now, with your own signature.

    Example: cleanroom query approve delays --profile litware
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


async def read_state(session: Session, name: str) -> QueryState:
    """The query's state as its workflow shows it."""
    handle = await query_handle(session, name)
    state: QueryState = await handle.query(PublishQuery.state)
    return state


def sign_decision(
    session: Session,
    state: QueryState,
    decision: Literal["approve", "reject"],
    *,
    version: str | None = None,
    expires_days: float = 30,
    max_runs: int | None = None,
    reason: str = "",
) -> DecisionMessage:
    """This person's signed decision on exactly the text that governance holds.

    The text is read from governance, not from the workflow: whoever runs Temporal must not choose what is signed.

    Raises:
        Conflict: ``VersionMismatch``, ``QueryNotProposed``.
    """
    document = run_async(_document(session, state.query))
    if document.state != "Proposed":
        raise Conflict("QueryNotProposed", f"query {state.query!r} is {document.state} in governance; only a proposed query takes votes.")
    held = document.version or ""
    if version is not None and version != held:
        raise Conflict("VersionMismatch", f"query {state.query!r} is at version {held}, not {version}.", hint="Look at it again.")
    digest = document_digest(str(document.data))
    if (held, digest) != (state.version, state.digest):
        raise Conflict("VersionMismatch", f"query {state.query!r}: the workflow shows version {state.version}, governance holds {held}.")
    statement = Decision(
        collaboration=session.collaboration,
        signer=session.user_id,
        expires=now() + dt.timedelta(days=expires_days),
        query=state.query,
        version=held,
        proposal_id=document.proposal_id,
        digest=digest,
        decision=decision,
        reason=reason,
        max_runs=max_runs,
    )
    return DecisionMessage(decision=sign(statement, session.key()))


async def _document(session: Session, name: str) -> Any:
    async with session.governance() as client:
        return await session.documents(client).get(name)


async def send_decision(
    session: Session, name: str, decision: Literal["approve", "reject"], message: DecisionMessage, *, wait: bool = True
) -> QueryState:
    """Send the signal of the diagram; with ``wait``, until this vote is counted or refused.

    Raises:
        CleanRoomError: the reason for which it was refused.
    """
    handle = await query_handle(session, name)
    before: QueryState = await handle.query(PublishQuery.state)
    with taking_messages(name):
        await handle.signal(PublishQuery.approve if decision == "approve" else PublishQuery.reject, message.model_dump())
    if not wait:
        return before
    mark = decision_mark(message.decision)

    def refusal(state: QueryState) -> RefusedMessage | None:
        return next((item for item in state.refused if item.about == mark), None)

    def voted(state: QueryState) -> bool:
        return session.party in (*state.accepted, *state.rejected) or state.stage in ("Approved", "Draft")

    async with own_queue(session):
        state = await until(handle, lambda state: voted(state) or refusal(state) is not None, f"the vote of {session.party}")
    refused = refusal(state)
    if refused is not None:
        raise CleanRoomError.from_dict({"code": refused.code, "message": refused.message, "category": refused.category})
    if not voted(state):
        raise query_closed(name)
    return state


@app.command()
def show(name: Name, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show state, pending and accepted approvers, the lineage card, and messages that were not counted.

    Example: cleanroom query show fabrikam-delays --profile litware
    """
    with reported(output):
        session = Session.load(profile, config)
        state = run_async(read_state(session, name))
        record = _record(session, state) | {"refused": [item.model_dump(mode="json") for item in state.refused]}
        if output is Format.JSON:
            record |= {"card": state.card, "history": [item.model_dump(mode="json") for item in state.history]}
        print_record(record, output, title=f"query {name}")
        if output is Format.TABLE and state.card:
            print_card(session, state)


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
    names = {user: name for name, user in session.settings.parties.items()}
    rows = []
    async with session.governance() as client:
        documents = session.documents(client)
        for query in await documents.ids(QUERY_LABELS):
            document = await documents.get(query)
            voted: set[str] = set()
            if document.proposal_id:
                status = await client.proposal_status(document.proposal_id)
                voted = {ballot.approver_id for ballot in status.ballots if ballot.ballot == "accepted"}
            approvers = {item.approver_id for item in document.approvers or ()}
            open_ = document.state == "Proposed"
            rows.append(
                {
                    "query": query,
                    "state": {"Proposed": "Not Approved", "Accepted": "Approved"}.get(document.state, document.state),
                    "version": document.version,
                    "pending": sorted(names.get(user, user) for user in approvers - voted) if open_ else [],
                    "accepted": sorted(names.get(user, user) for user in voted),
                }
            )
    return rows


if __name__ == "__main__":
    command_line(app)
