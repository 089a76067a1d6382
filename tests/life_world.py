"""Three collaborators, their commands, and the life of their queries, in one process and in virtual time.

Commands, workflows, activities and signatures are real. Governance (:mod:`tests.unit.activities.governance`) and Temporal
(:mod:`tests.temporal_in_memory`) are in memory. A run is the real ``RunQuery``; its preparation makes the checks of a run's authority and
counts the start, as the clean room does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import typer
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from typer.testing import CliRunner

import activities.frontend
import activities.query_watch
import starters.operations.session
from activities.frontend import Frontend
from activities.query_watch import GovernanceLedger, OpenWorkflows
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import Consent, Document, DocumentSummary, Event, ProposalStatus
from cleanroom.governance.position import observe
from cleanroom.identifiers import TransactionId, document_digest, query_workflow_id
from cleanroom.messages.query import Notified
from cleanroom.messages.run import RunQueryInput, RunTicket
from cleanroom.publishing.query_watch import QueryWatch
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.ledger import RUNS_SCOPE, run_facts, runs_event_id
from cleanroom.runs.reader import UserReader
from cleanroom.settings import Settings
from cleanroom.statements import Decision, RunRequest, sign
from cleanroom.statements.signing import peek
from starters import consent, query, run
from starters.operations import decisions, query_workflow
from starters.operations.session import Session
from tests.temporal_in_memory import Execution, TemporalInMemory
from tests.unit.activities.governance import COLLABORATION, Caller, Governance
from tests.unit.activities.owners import NAMES, PARTIES, Owner, query_spec
from tests.unit.activities.publishing import publish_datasets
from tests.unit.workflows.driver import START
from tests.unit.workflows.worlds import PREPARED, run_query_answers
from workflows.publish_query import PublishQuery
from workflows.run_query import RunQuery

OWNERS = ("contosso", "litware")
QUERY = "totals"
COMMAND = re.compile(r"`(cleanroom [^`]+)`")
"""How hints contain commands."""


def budget(examples: int, steps: int) -> settings:
    """Return the settings of a state machine over a life. ``CLEANROOM_TEST_LIFE`` is another number of examples (`make test-life`)."""
    return settings(
        max_examples=int(os.environ.get("CLEANROOM_TEST_LIFE", examples)),
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=False,
        phases=[Phase.generate, Phase.shrink] if os.environ.get("CLEANROOM_TEST_SHRINK") else [Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


class LedgerGovernance(Governance):
    """Governance with the members that commands and runs read besides documents."""

    def __init__(self) -> None:
        super().__init__()
        self.refusing: dict[str, set[str]] = defaultdict(set)
        """Approvers who have withdrawn consent, by document."""
        self.ledger: list[Event] = []


class LifeCaller(Caller):
    """One user's client."""

    governance: LedgerGovernance

    async def __aenter__(self) -> LifeCaller:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def list_documents(self, labels: Mapping[str, str] | None = None) -> list[DocumentSummary]:
        found = self.governance
        observe(TransactionId(2, found.transaction))
        names = {*found.drafts, *found.accepted, *(item.document_id for item in found.proposals.values() if item.state == "Open")}
        rows = [(await self.get_document(name)) for name in sorted(names)]
        return [
            DocumentSummary(id=row.id, labels=row.labels) for row in rows if dict(labels or {}).items() <= dict(row.labels or {}).items()
        ]

    async def list_identities(self) -> list[Any]:
        return [SimpleNamespace(id=user) for user in PARTIES.values()]

    async def document_consent(self, contract_id: str, document_id: str, option: str = "execution") -> Consent:
        off = sorted(self.governance.refusing[document_id])
        if document_id not in self.governance.accepted:
            return Consent.model_validate({"status": "disabled", "reason": {"code": "UserDocumentNotAccepted", "message": "not accepted"}})
        reason = {"code": "UserDocumentRuntimeOptionDisabled", "message": f"disabled by m[{','.join(off)}]"}
        return Consent.model_validate({"status": "disabled", "reason": reason} if off else {"status": "enabled"})

    async def set_document_consent(self, contract_id: str, document_id: str, option: str = "execution", *, enabled: bool) -> None:
        off = self.governance.refusing[document_id]
        off.discard(self.user) if enabled else off.add(self.user)
        self.governance.version()

    async def create_proposal(self, *arguments: Any) -> str:
        self.governance.version()
        return await super().create_proposal(*arguments)

    async def submit_ballot(self, proposal_id: str, *, accept: bool, voter_id: str | None = None) -> ProposalStatus:
        self.governance.version()
        return await super().submit_ballot(proposal_id, accept=accept, voter_id=voter_id)

    async def withdraw_proposal(self, proposal_id: str) -> ProposalStatus:
        self.governance.version()
        return await super().withdraw_proposal(proposal_id)

    async def latest_event(self, contract_id: str, *, event_id: str, scope: str) -> Event | None:
        found = [event for event in self.governance.ledger if (event.id, event.scope) == (event_id, scope)]
        return found[-1] if found else None

    async def events(self, contract_id: str, *, event_id: str, scope: str, from_seqno: int = 1, **where: Any) -> AsyncIterator[Event]:
        for event in list(self.governance.ledger):
            if (event.id, event.scope) == (event_id, scope) and event.seqno >= from_seqno:
                yield event

    async def put_event(self, data: Any, *, event_id: str, scope: str, at: dt.datetime) -> None:
        seqno = int(self.governance.version().partition(".")[2])
        moment = str(int(at.timestamp() * 1000))
        self.governance.ledger.append(Event(scope=scope, id=event_id, seqno=seqno, timestamp=moment, data=data))

    async def oidc_issuer_info(self) -> Any:
        observe(TransactionId(2, self.governance.transaction))
        return await super().oidc_issuer_info()

    async def get_member_document(self, document_id: str) -> Any:
        raise NotFound("DocumentNotFound", document_id)


class LifeOwner(Owner):
    """A collaborator's worker whose clock is the world's."""

    def __init__(self, world: LifeWorld, name: str) -> None:
        self.world = world
        super().__init__(world.governance, world.folder, name)
        self.client = LifeCaller(world.governance, self.user)
        for holder in (self.documents, self.reader):
            holder._client = self.client  # type: ignore[assignment]

    @property
    def now(self) -> dt.datetime:
        return self.world.now

    @now.setter
    def now(self, value: dt.datetime) -> None:
        """Ignore the fixed time of the base class."""


class LifeSession(Session):
    """A collaborator's session on the world."""

    def __init__(self, world: LifeWorld, name: str) -> None:
        keys = world.owners[name].settings.keys_dir
        settings = Settings(profile=name, collaboration=COLLABORATION, party=name, parties=PARTIES, keys_dir=keys)
        super().__init__(settings, plaintext=True)
        self._world = world

    def governance(self) -> Any:
        return LifeCaller(self._world.governance, self.user_id)

    async def temporal(self, **options: Any) -> Any:
        return self._world.temporal


class LifeWorld:
    """The world. Use :func:`life_world`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, START
        self.governance = LedgerGovernance()
        self.owners = {name: LifeOwner(self, name) for name in NAMES}
        client: Any = LifeCaller(self.governance, "u-contosso")
        self.reader = UserReader(client, COLLABORATION)
        self.frontend = Frontend(UserDocuments(client, COLLABORATION), self.reader, COLLABORATION)
        kinds: Any = {
            "PublishQuery": (PublishQuery, lambda input: self._query_answers()),
            "RunQuery": (RunQuery, lambda input: run_query_answers() | {"Prepare": self._prepare}),
        }
        self.temporal = TemporalInMemory(kinds, lambda: self.now)
        self.sessions = {name: LifeSession(self, name) for name in NAMES}
        self.runs = 0
        self._looks = 0.0
        temporal: Any = self.temporal
        self._watch = QueryWatch(
            OpenWorkflows(temporal, COLLABORATION), GovernanceLedger(UserDocuments(client, COLLABORATION), COLLABORATION), self._timer
        )
        asyncio.run(self._publish())

    def _timer(self) -> float:
        return self._looks

    async def _publish(self) -> None:
        for owner in self.owners.values():
            await owner.publish_key()
        await publish_datasets(self.governance)

    # ------------------------------------------------------------------ activities

    def _query_answers(self) -> dict[str, Any]:
        front = ("generate_query_document", "determine_dataset_owners", "verify_decision", "find_query_change")
        answers: dict[str, Any] = {name: self._answer(getattr(self.frontend, name)) for name in front}
        authored = ("create_document", "update_document", "confirm_withdrawal", "propose_query", "withdraw_proposal")
        for name in (*authored, "accept_query", "reject_query"):
            answers[name] = self._answer(lambda argument, name=name: getattr(self._worker_of(argument), name)(argument))  # type: ignore[misc]
        return answers | {"notify": Notified(sent=True)}

    def _worker_of(self, argument: Any) -> Any:
        """Return the activities of the collaborator whose queue the activity is on."""
        command = argument if hasattr(argument, "party") else getattr(argument, "command", None)
        if command is not None:
            return self.owners[command.party].worker
        user = peek(Decision, argument.token).signer
        return next(owner for owner in self.owners.values() if owner.user == user).worker

    def _answer(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def answer(argument: Any) -> Any:
            try:
                return asyncio.run(work(argument))
            except CleanRoomError as error:
                return error

        return answer

    def _prepare(self, argument: Any) -> Any:
        ticket = RunQueryInput.model_validate(argument).ticket

        async def prepare(ticket: RunTicket) -> Any:
            run = await self.authority().authorise(ticket)
            facts = run_facts(run.request, ticket.request)
            client: Any = self.owners["fabrikam"].client
            await client.put_event(facts, event_id=runs_event_id(ticket.query), scope=RUNS_SCOPE, at=self.now)
            return PREPARED

        return self._answer(prepare)(ticket)

    def authority(self) -> RunAuthority:
        """The checks of a run."""
        return RunAuthority(self.reader, COLLABORATION, lambda: self.now)

    # ------------------------------------------------------------------ what a test does and sees

    def command(self, words: str | list[str], by: str) -> tuple[int, Any]:
        """Give a command line as a collaborator; return its exit code and its JSON output."""
        parts = words.split() if isinstance(words, str) else list(words)
        assert parts[0] == "cleanroom"
        app: typer.Typer = {"query": query.app, "run": run.app, "consent": consent.app}[parts[1]]
        yes = ["--yes"] if parts[2:3] in (["approve"], ["reject"]) else []
        if parts[2:3] == ["start"] and "--run-id" not in parts:
            self.runs += 1
            parts += ["--run-id", f"r-{self.runs}"]
        result = CliRunner().invoke(app, [*parts[2:], *yes, "--profile", by, "--output", "json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        lines = [line for line in result.stdout.splitlines() if line.startswith(("{", "["))]
        return result.exit_code, json.loads(lines[-1]) if lines else None

    def file(self, variant: int, name: str = QUERY) -> str:
        """Write a query file, and return its path."""
        spec = query_spec(10 + variant)
        path = self.folder / f"{name}-{variant}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "inputs": dict(spec.inputs), "output": spec.output, "sql": spec.sql}))
        return str(path)

    def execution(self, name: str) -> Any:
        """The latest workflow of a query, or None."""
        return self.temporal.executions.get(query_workflow_id(COLLABORATION, name))

    def held(self, name: str) -> Document | None:
        """What governance holds of a query."""
        try:
            return asyncio.run(self.owners["contosso"].client.get_document(name))
        except NotFound:
            return None

    def met(self, name: str) -> str:
        """Return the code with which a run of a query is refused now, or the empty string. Nothing is counted."""
        document = self.held(name)
        assert document is not None
        session = self.sessions["fabrikam"]
        request = RunRequest(
            collaboration=COLLABORATION,
            signer=session.user_id,
            expires=self.now + dt.timedelta(hours=1),
            query=name,
            digest=document_digest(str(document.data)),
            run_id="r-probe",
        )
        ticket = RunTicket(collaboration=COLLABORATION, query=name, run_id="r-probe", request=sign(request, session.key()))
        try:
            asyncio.run(self.authority().authorise(ticket))
        except CleanRoomError as error:
            return error.code
        return ""

    def pass_time(self, duration: dt.timedelta) -> None:
        """Let time pass for all workflows."""
        self.now += duration
        self.temporal.advance(duration)

    def settle(self) -> None:
        """Let the watcher wake what has changed in governance, and the workflows read it."""
        for _ in range(3):
            self._looks += 1
            asyncio.run(self._watch.look())
            self.pass_time(dt.timedelta(seconds=1))


def life_world(folder: Path, patch: pytest.MonkeyPatch) -> LifeWorld:
    """Make a world, and let the commands of this process act on it."""
    world = LifeWorld(folder)

    class Clock(dt.datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return world.now

    clock = SimpleNamespace(datetime=Clock, timedelta=dt.timedelta, UTC=dt.UTC)
    for module in (activities.frontend, starters.operations.session, activities.query_watch):
        patch.setattr(module, "dt", clock)

    async def served(*arguments: Any, **options: Any) -> None:
        """Every queue has a worker."""

    for name in ("starters.operations.query_workflow", "starters.operations.run_workflow", "starters.operations.workflow_progress"):
        patch.setattr(f"{name}.require_worker", served)

    async def unserved(*arguments: Any) -> dict[str, str]:
        return {}

    patch.setattr("starters.operations.workflow_progress.unserved_activities", unserved)
    for module in (query_workflow, decisions):
        patch.setattr(module, "serve_own_queue", lambda session: nullcontext())
    patch.setattr(Session, "load", staticmethod(lambda profile, config=None, **options: world.sessions[profile]))
    return world


class Life(RuleBasedStateMachine):
    """A state machine over a life in a world, and the moves between states that it sees."""

    patch: pytest.MonkeyPatch
    folder: Path
    """Has a folder for each world."""
    moves: set[tuple[str, str]]
    """States before and after."""
    world: LifeWorld

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.temporal.close()

    def press(self, execution: Execution, button: Literal["cancel", "terminate"]) -> None:
        """Press a button of the Web UI."""
        asyncio.run(getattr(self.world.temporal.get_workflow_handle(execution.id), button)())


def live(machine: type[Life], patch: pytest.MonkeyPatch, folder: Path, limits: settings) -> None:
    """Let a machine run, and collect the moves that it sees."""
    machine.patch, machine.folder, machine.moves = patch, folder, set()
    run_state_machine_as_test(machine, settings=limits)
