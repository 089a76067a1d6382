"""Governance in memory, and the real activities of the clean room and the Spark service on top of it.

Governance answers reads at once. A write waits until the test lets it arrive (:meth:`RunGovernance.held`), as a request does whose
host delays it. So every interleaving between a check and its effect can be built.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.clean_room import CleanRoomGovernance
from activities.clean_room_cleanup import CleanRoomCleanup
from activities.clean_room_context import CleanRoomContext, run_trust
from activities.clean_room_secrets import CleanRoomSecrets
from activities.spark_service import SparkServiceActivities
from cleanroom.attestation import AttestationEvidence, report_data_for
from cleanroom.audit.approvals import run_sync
from cleanroom.claims import HOST_DATA
from cleanroom.datasets.encryption import decode_dataset_key, encode_dataset_key, generate_dataset_key
from cleanroom.errors import CleanRoomError, NotFound, Refused
from cleanroom.governance import Consent, Delegate, Document, Event, MemberDocument
from cleanroom.identifiers import approver_key_document_id, document_digest, job_name
from cleanroom.messages.run import PolicyStatement, RunTicket, ServiceProof
from cleanroom.runs.assembly import JobEnvironment, assemble_job
from cleanroom.runs.authority import RunAuthority, service_nonce
from cleanroom.runs.reader import UserReader
from cleanroom.secret import Secret
from cleanroom.settings import GovernanceSettings, Settings
from cleanroom.spark.job import JobConfig, JobParameters
from cleanroom.spark.network import NETWORK_SECRET
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import PolicySigner
from cleanroom.spark.tombstone import is_tombstone
from cleanroom.statements import RunRequest, SigningKey, sign
from cleanroom.statements.keys import KEY_LABELS, KeyDocument
from sparkapp.consent import require_consent
from tests.audit_records import CLEAN_ROOM_HOST, COLLABORATION, QUERY, SPARK_HOST
from tests.audit_world import BOOTSTRAP, AuditWorld
from tests.metric_recorder import MetricRecorder
from tests.unit.spark_support import make_profile

OUTSIDER = "mallory"
"""A registered user with a published key, and without a right to the query."""


def proof_for(world: AuditWorld, ticket: RunTicket, job: JobConfig) -> ServiceProof:
    """Report and policies of the accepted Spark service."""
    signer, profile, nonce = PolicySigner(), make_profile(), service_nonce(ticket)
    payload, policies = signer.payload(nonce), pod_policies(job, profile)
    return ServiceProof(
        report=ServiceReport(
            evidence=world.hardware.evidence(bytes.fromhex(SPARK_HOST), report_data_for(payload.encode())), payload=payload
        ),
        policies=PolicyStatement(
            statement=signer.sign(job, profile, policies, nonce).statement,
            driver_host_data=policies.driver.host_data,
            executor_host_data=policies.executor.host_data,
        ),
    )


def add_outsider(world: AuditWorld, key: SigningKey) -> None:
    """Register :data:`OUTSIDER`, who publishes a signing key."""
    world.users[OUTSIDER], world.keys[OUTSIDER] = "0" * 8 + "-0000-4000-8000-" + "0" * 12, key
    user = world.users[OUTSIDER]
    world.accept(approver_key_document_id(user), KeyDocument(user_id=user, keys=(key.public,)).to_data(), OUTSIDER, (OUTSIDER,), KEY_LABELS)


SENDER: ContextVar[str] = ContextVar("SENDER", default="")
"""Names the activity that sends a request."""


class RunGovernance:
    """Governance in memory: the clients of clean room, Spark service and users."""

    def __init__(self, world: AuditWorld, now: Callable[[], dt.datetime]) -> None:
        self.documents, self.users = dict(world.documents), dict(world.users)
        self.now, self.member_document = now, world.member_document
        self.withdrawn: set[str] = set()
        self.secrets: dict[str, Secret] = {}
        self.delegates: dict[tuple[str, str], set[str]] = {}
        self.ledger: list[Event] = []
        self.deleted_jobs: list[str] = []
        self.jobs: dict[str, str] = {}
        """Job digests by name."""
        self.hold = False
        self.held: list[tuple[str, asyncio.Future[None]]] = []
        """Writes that are on their way, with their :data:`SENDER`. Set the future's result to let a write arrive."""
        for document in self.documents.values():
            # The owners' own keys, which the clean room reads under its policy.
            for name in ("key", "connection"):
                self.secrets[f"{document.proposer_id}_{document.id}.{name}"] = encode_dataset_key(generate_dataset_key())


@dataclass
class Client:
    """What one process holds: the attested client and the user client of one :class:`RunGovernance`. A killed process sends nothing."""

    governance: RunGovernance
    alive: bool = True

    async def _arrive(self) -> None:
        self._check()
        if self.governance.hold:
            arrived = asyncio.get_running_loop().create_future()
            self.governance.held.append((SENDER.get(), arrived))
            await arrived
        self._check()

    def _check(self) -> None:
        if not self.alive:
            raise asyncio.CancelledError

    # ------------------------------------------------------------------ writes

    async def put_secret(self, name: str, value: Secret) -> str:
        await self._arrive()
        self.governance.secrets[f"cleanroom_{name}"] = value
        return f"cleanroom_{name}"

    async def set_delegate(self, delegate_type: str, delegate_id: str, kind: str, claims: dict[str, Any]) -> None:
        await self._arrive()
        held = self.governance.delegates.setdefault((delegate_type, delegate_id), set())
        held.update(claims[HOST_DATA]) if kind == "add" else held.difference_update(claims[HOST_DATA])

    async def put_event(self, data: Any, *, event_id: str | None = None, scope: str | None = None) -> None:
        await self._arrive()
        found = self.governance
        moment = str(int(found.now().timestamp() * 1000))
        seqno = len(found.ledger) + 1
        found.ledger.append(Event(scope=scope or "", id=event_id or "", seqno=seqno, timestamp=moment, data=copy.deepcopy(data)))

    # ------------------------------------------------------------------ reads

    async def get_secret(self, secret_id: str) -> Secret:
        self._check()
        if secret_id not in self.governance.secrets:
            raise NotFound("SecretNotFound", secret_id)
        return self.governance.secrets[secret_id]

    async def list_secrets(self, contract_id: str) -> list[str]:
        self._check()
        return list(self.governance.secrets)

    async def list_delegates(self, contract_id: str) -> list[Delegate]:
        self._check()
        return [Delegate(delegate_type=kind, delegate_id=name) for kind, name in self.governance.delegates]

    async def delegate_policy(self, contract_id: str, delegate_type: str, delegate_id: str) -> dict[str, list[str]]:
        self._check()
        return {HOST_DATA: sorted(self.governance.delegates.get((delegate_type, delegate_id), set()))}

    async def accepted_document(self, document_id: str) -> Document:
        return await self.get_document(document_id)

    async def get_document(self, document_id: str) -> Document:
        self._check()
        if document_id not in self.governance.documents:
            raise NotFound("UserDocumentNotFound", document_id)
        return self.governance.documents[document_id]

    async def accepted_member_document(self, document_id: str) -> MemberDocument:
        self._check()
        return self.governance.member_document(document_id)

    async def document_consent(self, *where: str) -> Consent:
        self._check()
        if where[-1] not in self.governance.withdrawn:
            return Consent(status="enabled")
        text = f"off: m[{self.governance.documents[where[-1]].proposer_id}]"
        return Consent.model_validate({"status": "disabled", "reason": {"code": "UserDocumentRuntimeOptionDisabled", "message": text}})

    async def list_identities(self) -> list[Any]:
        self._check()
        return [type("Identity", (), {"id": user}) for user in self.governance.users.values()]

    async def latest_event(self, contract_id: str, *, event_id: str, scope: str) -> Event | None:
        self._check()
        found = [event for event in self.governance.ledger if (event.id, event.scope) == (event_id, scope)]
        return found[-1] if found else None

    async def events(self, contract_id: str, *, event_id: str, scope: str, from_seqno: int = 1) -> Any:
        self._check()
        for event in [event for event in self.governance.ledger if (event.id, event.scope) == (event_id, scope)]:
            if event.seqno >= from_seqno:
                yield event

    # ------------------------------------------------------------------ Kubernetes, as the Spark service uses it

    async def submit(self, job: JobConfig, *policies: Any) -> Any:
        await self._arrive()
        name = job_name(job.contract_id, job.query_id, job.run_id)
        self.governance.jobs.setdefault(name, job.digest())
        return type("Submitted", (), {"tracking_id": name, "namespace": "n", "uid": "u"})

    async def delete(self, name: str) -> bool:
        await self._arrive()
        self.governance.deleted_jobs.append(name)
        return self.governance.jobs.pop(name, None) is not None


@dataclass(frozen=True)
class _Guest:
    world: AuditWorld

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        return self.world.hardware.evidence(bytes.fromhex(CLEAN_ROOM_HOST), report_data_for(runtime_data))


@dataclass(frozen=True)
class _Pod:
    """A pod of a job, for :func:`sparkapp.consent.require_consent`."""

    governance: RunGovernance
    of_job: JobConfig
    host_data: str

    def job(self) -> JobConfig:
        return self.of_job

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        if self.host_data not in self.governance.delegates.get(("secrets", secret_id), set()):
            raise Refused("VerifySnpAttestationFailed", secret_id)
        if secret_id not in self.governance.secrets:
            raise NotFound("SecretNotFound", secret_id)
        return self.governance.secrets[secret_id]


class Process:
    """One worker process of the clean room and of the Spark service."""

    def __init__(self, runs: RunWorld) -> None:
        self.client = Client(runs.governance)
        room: Any = self.client
        self.room = CleanRoomContext(
            runs.settings, BOOTSTRAP, room, room, origin=runs.namespace_id, now=lambda: runs.now, pause=self._pause
        )
        attestor: Any = _Guest(runs.world)
        self.room.attestor = attestor
        self.governance, self.secrets = CleanRoomGovernance(self.room), CleanRoomSecrets(self.room)
        self.cleanup = CleanRoomCleanup(self.room)
        # There is no Key Vault.
        self.secrets._release_key = self._release_key
        reader = UserReader(room, COLLABORATION)
        trust = run_trust(runs.settings, BOOTSTRAP, self.client.accepted_member_document)
        self.spark = SparkServiceActivities(runs.settings, room, reader, trust, lambda: runs.now)

    def lag_behind(self, **state: Any) -> None:
        """Answer reads of this process with ``state`` in place of members of governance, until the process writes."""
        client, primary, arrive = self.client, self.client.governance, self.client._arrive
        client.governance = copy.copy(primary)
        vars(client.governance).update(state)

        async def write() -> None:
            client.governance = primary
            await arrive()

        client.__dict__["_arrive"] = write

    async def _release_key(self, *arguments: Any) -> Secret:
        return generate_dataset_key()

    async def _pause(self, seconds: float) -> None:
        if seconds < 1:
            # The pause between two attempts to undo.
            await asyncio.sleep(0)
            return
        await self.client._arrive()


@dataclass
class RunWorld:
    """A collaboration whose query is approved, with a clock."""

    world: AuditWorld
    origin: str = ""
    """ID of the Temporal namespace that runs the activities."""
    now: dt.datetime = field(init=False)
    process: Process = field(init=False)
    metrics: MetricRecorder = field(default_factory=MetricRecorder)

    def __post_init__(self) -> None:
        self.now = self.world.now
        self.governance = RunGovernance(self.world, lambda: self.now)
        self.settings = settings_for(self.world)
        self.process = Process(self)

    async def namespace_id(self) -> str:
        """Return :attr:`origin`, as a worker asks Temporal for it."""
        return self.origin

    def restart(self) -> None:
        """Kill the worker process, and start another one."""
        self.process.client.alive = False
        self.process = Process(self)

    def ticket(self, run_id: str, *, by: str = "fabrikam", days: tuple[str, str] | None = None, hours: float = 12) -> RunTicket:
        """A signed request for a run of the query."""
        return _ticket(self.world, run_id, by, days, self.world.now + dt.timedelta(hours=hours))

    def job(self, ticket: RunTicket) -> JobConfig:
        """The job that the documents and ``ticket`` give."""
        return _job(self.world, ticket)

    def proof(self, ticket: RunTicket) -> ServiceProof:
        """What the genuine Spark service signs for ``ticket``."""
        return _proof(self.world, ticket)

    def call(self, activity: Callable[..., Any], *arguments: Any) -> Coroutine[Any, Any, Any]:
        """Run an activity as Temporal does."""
        environment = ActivityEnvironment()
        environment.metric_meter = self.metrics.meter
        run: Coroutine[Any, Any, Any] = environment.run(activity, *arguments)
        return run

    # ------------------------------------------------------------------ what pods can do

    def usable_keys(self, ticket: RunTicket) -> list[str]:
        """IDs of the dataset keys that a pod of the ticket's job can use now: it reads them, has consent and finds its peers."""
        job = self.job(ticket)
        for host in _hosts(self.world, ticket):
            pod = _Pod(self.governance, job, host)
            try:
                require_consent(pod, before="a test", now=self.now)  # type: ignore[arg-type]
                if not NETWORK_SECRET.fullmatch(pod.secret(job.network_secret_id or "").reveal()):
                    continue
            except CleanRoomError:
                continue
            found = [id for item in (*job.datasets, job.datasink) if (id := item.key_secret_id) and _opens(pod, id)]
            if found:
                return found
        return []

    def released(self, ticket: RunTicket) -> list[str]:
        """Everything that the ticket's job still has: its grants, and its secrets that are no tombstones."""
        hosts = set(_hosts(self.world, ticket))
        grants = [f"{kind} {name}" for (kind, name), held in self.governance.delegates.items() if held & hosts]
        mark = f"cleanroom_{ticket.run_id}."
        return grants + [name for name, value in self.governance.secrets.items() if name.startswith(mark) and not is_tombstone(value)]


def _opens(pod: _Pod, secret_id: str) -> bool:
    try:
        decode_dataset_key(pod.secret(secret_id))
    except CleanRoomError:
        return False
    return True


@cache
def _ticket(world: AuditWorld, run_id: str, by: str, days: tuple[str, str] | None, expires: dt.datetime) -> RunTicket:
    request = RunRequest(
        collaboration=COLLABORATION,
        signer=world.users[by],
        expires=expires,
        query=QUERY,
        digest=document_digest(str(world.documents[QUERY].data)),
        run_id=run_id,
        parameters=JobParameters(start_date=days[0], end_date=days[1]) if days else JobParameters(),
    )
    return RunTicket(collaboration=COLLABORATION, query=QUERY, run_id=run_id, request=sign(request, world.keys[by]))


@cache
def settings_for(world: AuditWorld) -> Settings:
    """Settings of the clean room."""
    return Settings(
        collaboration=COLLABORATION,
        boundary="clean-room",
        parties=world.users,
        governance=GovernanceSettings(url="https://cgs.example"),
    )


@cache
def _job(world: AuditWorld, ticket: RunTicket) -> JobConfig:
    run = run_sync(RunAuthority(world, COLLABORATION, lambda: world.now).authorise(ticket, consent=False))
    return assemble_job(run, JobEnvironment.of(world.accepted_trust, BOOTSTRAP.governance_url, BOOTSTRAP.governance_roots))


@cache
def _hosts(world: AuditWorld, ticket: RunTicket) -> tuple[str, ...]:
    """Host data of the pods of a ticket's job."""
    return pod_policies(_job(world, ticket), make_profile()).host_data()


@cache
def _proof(world: AuditWorld, ticket: RunTicket) -> ServiceProof:
    return proof_for(world, ticket, _job(world, ticket))
