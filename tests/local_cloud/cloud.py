"""The running local cloud from a test's point of view: its participants, and what they do."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from typer.testing import CliRunner, Result

from activities.clean_room_context import CleanRoomContext
from cleanroom.attestation import AttestationEvidence, GuestAttestor, report_data_for
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.governance import CleanRoomClient
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, run_workflow_id
from cleanroom.messages.query import DecisionMessage, QueryState
from cleanroom.messages.run import RunQueryInput, RunResult, RunTicket
from cleanroom.publishing.user_documents import governance_client
from cleanroom.settings import Settings, load_settings
from cleanroom.spark.profile import PodProfile
from cleanroom.statements import RunRequest, sign
from cleanroom.temporal.attributes import start_attributes
from cleanroom.trust import AcceptedTrust, Bootstrap, TrustSource, attested_settings
from cleanroom.trust.bootstrap import parse_bootstrap
from localcloud.launcher.processes import log_tail
from localcloud.standins.snp.server import DevelopmentHardware
from starters.cli import app
from starters.operations.datasets import publish_dataset, upload_rows
from starters.operations.decisions import read_card, send_decision, sign_decision
from starters.operations.queries import create_query, propose_query
from starters.operations.query_workflow import read_state
from starters.operations.runs import start_run
from starters.operations.session import Session, now, run_async
from tests.local_cloud.leftovers import Leftovers
from tests.local_cloud.workers import Workers
from workflows.run_query import RunQuery

ROOT = Path(__file__).resolve().parent.parent.parent


def unique(word: str) -> str:
    """Return a name that is unique in the session."""
    return f"{word}-{uuid.uuid4().hex[:8]}"


def python(*arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a module of this project in a new process."""
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=seconds, cwd=ROOT)


def command(*words: str) -> Result:
    """Run a command in this process, which has the product loaded. ``python`` runs one as users do."""
    return CliRunner().invoke(app, list(words))


@dataclass(frozen=True)
class Guest:
    """An attestor with chosen host data on the development chip."""

    hardware: DevelopmentHardware
    host_data: str

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        """Return evidence that binds ``runtime_data``."""
        return self.hardware.evidence(bytes.fromhex(self.host_data), report_data_for(runtime_data))


class Cloud:
    """The local cloud in the folder ``state``; ``demo`` is the demo command that started it, if any."""

    def __init__(self, state: Path, demo: subprocess.CompletedProcess[str] | None = None) -> None:
        self.state = state
        self.demo = demo
        self.workers = Workers(state)
        # Read before other tests store anything: only the demo encrypts all that it stores.
        self.stored_by_demo = [path.read_bytes() for path in self._stored_files()] if demo else []

    @cached_property
    def printed_by_demo(self) -> dict[str, Any]:
        """The last line of the demo that started the cloud."""
        assert self.demo is not None
        assert self.demo.returncode == 0, self.demo.stderr
        printed: dict[str, Any] = json.loads(self.demo.stdout.splitlines()[-1])
        return printed

    def settings(self, profile: str) -> Settings:
        """Return the settings of a profile."""
        return load_settings(profile, path=self.state / "cleanroom.toml")

    def session(self, profile: str) -> Session:
        """Return a collaborator's session."""
        return Session(self.settings(profile))

    @cached_property
    def contosso(self) -> Session:
        """Contosso's session."""
        return self.session("contosso")

    @cached_property
    def litware(self) -> Session:
        """Litware's session."""
        return self.session("litware")

    @cached_property
    def fabrikam(self) -> Session:
        """Fabrikam's session."""
        return self.session("fabrikam")

    @property
    def people(self) -> tuple[Session, ...]:
        """The sessions of all collaborators."""
        return self.contosso, self.litware, self.fabrikam

    @property
    def collaboration(self) -> str:
        """The contract ID."""
        return self.fabrikam.collaboration

    @cached_property
    def leftovers(self) -> Leftovers:
        """What runs have left in governance and Kubernetes."""
        return Leftovers(self.state / "state/cgs/cgs.sqlite", self.fabrikam, self.settings("clean-room"), self.settings("spark-service"))

    @cached_property
    def hardware(self) -> DevelopmentHardware:
        """The chip on which all guests run."""
        return DevelopmentHardware(self.state / "state/snp")

    def guest(self, host_data: str) -> CleanRoomClient:
        """Return a governance client that attests with this host data."""
        own = self.settings("clean-room")
        attestor: Any = Guest(self.hardware, host_data)
        return CleanRoomClient(own.governance.url, self.collaboration, attestor, ca_file=own.ca_file)

    def clean_room_context(self) -> tuple[CleanRoomContext, list[Any]]:
        """Return the context of the clean room's activities, and the clients to close: for calling activities with forged inputs."""
        own = attested_settings(self.settings("clean-room"), self.bootstrap)
        user = governance_client(own, Session(own).credential())
        attestor = GuestAttestor(own.attestation.url, ca_file=own.ca_file)
        client = CleanRoomClient(own.governance.url, self.collaboration, attestor, ca_file=own.ca_file)
        return CleanRoomContext(own, self.bootstrap, client, user), [user, client]

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """The bootstrap file of the attested workers."""
        return parse_bootstrap((self.state / "bootstrap.json").read_bytes(), source="bootstrap.json")

    def trust(self) -> AcceptedTrust:
        """The trust document in force."""

        async def read() -> AcceptedTrust:
            async with self.fabrikam.governance() as client:
                return await TrustSource(client.get_member_document, self.collaboration, development=True).in_force()

        return run_async(read())

    def pod_profile(self) -> PodProfile:
        """The profile of the pods."""
        return PodProfile.deployed(self.trust().document.pods, self.settings("spark-service"))

    def publish(self, session: Session, spec: DatasetSpec, file: Path | None = None) -> dict[str, Any]:
        """Upload the rows in ``file``, if given, and publish a dataset; return the published document."""
        if file is not None:
            upload_rows(session, spec, [file])
        return run_async(publish_dataset(session, spec))

    def propose(self, spec: QuerySpec, *, by: Session | None = None, **options: Any) -> QueryState:
        """Create and propose a query; return its state."""
        author = by or self.fabrikam
        run_async(create_query(author, spec, **options))
        run_async(propose_query(author, spec.name))
        return run_async(read_state(author, spec.name))

    def sign(self, session: Session, query: str, decision: Any = "approve", **options: Any) -> DecisionMessage:
        """Sign a decision on the query as governance holds it."""
        return sign_decision(session, run_async(read_card(session, query)), decision, **options)

    def decide(self, session: Session, query: str, decision: Any = "approve", **options: Any) -> QueryState:
        """Sign and send a decision; return the state that includes it."""
        message = self.sign(session, query, decision, **options)
        return run_async(send_decision(session, query, decision, message))

    def approved_query(self, spec: QuerySpec, *, owners: tuple[str, ...] = ("contosso", "litware"), **options: Any) -> QueryState:
        """Propose a query and approve it as all owners; return its state."""
        state = self.propose(spec)
        for owner in owners:
            state = self.decide(self.session(owner), spec.name, **options)
        assert state.stage == "Approved", state
        return state

    def start(self, query: str, digest: str, *, by: Session | None = None, run_id: str | None = None, **options: Any) -> str:
        """Start a run; return its ID."""
        run_id = run_id or unique("r")
        run_async(start_run(by or self.fabrikam, query, digest, run_id, **{"consent_check_seconds": 1, **options}))
        return run_id

    async def start_ticket(self, ticket: RunTicket, caller: str) -> None:
        """Start a run with the given ticket, whose signature may be forged."""
        client = await self.fabrikam.temporal()
        await client.start_workflow(
            RunQuery.run,
            RunQueryInput(ticket=ticket, caller=caller),
            id=run_workflow_id(ticket.collaboration, ticket.run_id),
            task_queue=CLEAN_ROOM_QUEUE,
            search_attributes=start_attributes(collaboration=ticket.collaboration, kind="run", query=ticket.query, proposer=caller),
        )

    def result(self, run_id: str, *, seconds: float = 240) -> RunResult:
        """Wait for the end of a run and return its result, also if it failed."""

        async def work() -> RunResult:
            handle = self.run_handle(await self.fabrikam.temporal(), run_id)
            with suppress(WorkflowFailureError):
                await asyncio.wait_for(handle.result(), seconds)
            return await handle.query(RunQuery.outcome)

        return run_async(work())

    def run_handle(self, client: Client, run_id: str) -> WorkflowHandle[RunQuery, RunResult]:
        """Return the handle of a run's workflow."""
        return client.get_workflow_handle_for(RunQuery.run, run_workflow_id(self.collaboration, run_id))

    def failed_run(self, query: str, digest: str, **options: Any) -> tuple[str, str]:
        """Start a run that must fail without leaving grants or secrets; return the error code and the run ID."""
        run_id = self.start(query, digest, **options)
        result = self.result(run_id)
        assert result.state == "FAILED", result
        assert result.failure is not None
        assert self.leftovers.grants() == {}
        assert self.leftovers.secrets(run_id) == []
        return result.failure.code, run_id

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"--- {path.name}\n{log_tail(path, 12)}" for path in sorted((self.state / "logs").glob("*.log")))

    def _stored_files(self) -> list[Path]:
        return [path for store in ("azurite", "seaweedfs") for path in (self.state / "state" / store).rglob("*") if path.is_file()]


def ticket_of(cloud: Cloud, query: str, digest: str, **claims: Any) -> tuple[RunTicket, RunRequest]:
    """Return a ticket with a run request that Fabrikam has signed, with changed claims."""
    request = RunRequest(
        **{
            "collaboration": cloud.collaboration,
            "signer": cloud.fabrikam.user_id,
            "expires": now() + dt.timedelta(hours=1),
            "query": query,
            "digest": digest,
            "run_id": unique("r"),
            **claims,
        }
    )
    token = sign(request, cloud.fabrikam.key())
    return RunTicket(collaboration=cloud.collaboration, query=query, run_id=request.run_id, request=token), request
