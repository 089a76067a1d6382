"""The open cloud from the point of view of a scenario: the collaborators, and clients that look at what is left."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.attestation import GuestAttestor
from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.datasets.encryption import encode_dataset_key
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.governance import CleanRoomClient, Document, GovernanceUserClient
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    job_name,
    query_workflow_id,
)
from cleanroom.messages.cleanup import CleanupInput, CleanupReport
from cleanroom.messages.query import DecisionMessage
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.tombstone import is_tombstone
from cleanroom.temporal.failures import error_from_failure
from starters.operations.datasets import publish_dataset
from starters.operations.decisions import read_card, send_decision, sign_decision
from starters.operations.doctor.governance import governance_checks
from starters.operations.queries import create_query, propose_query
from starters.operations.query_workflow import read_state
from starters.operations.session import Session
from starters.operations.workflow_names import APPROVE, REJECT
from tests.faults.cloud import FaultCloud
from tests.faults.rows import Left
from tests.local_cloud.world import World, flights_spec, output_spec, planes_spec
from workflows.cleanup import Cleanup

T = TypeVar("T")
REPETITIONS = 20
"""How often a command is repeated whose connection breaks."""
LOOKS = 30
"""How often the cleanup looks for something that an activity may still undo."""


class Stage:
    """The open cloud with the collaborators' sessions and with clients for looking at it."""

    def __init__(self, cloud: FaultCloud, governance: GovernanceUserClient, clean_room: CleanRoomClient, temporal: Client) -> None:
        self.cloud, self.governance, self.clean_room, self.temporal = cloud, governance, clean_room, temporal
        self.people: dict[str, Session] = {name: cloud.session(name) for name in ("contosso", "litware", "fabrikam")}
        self.collaboration = self.people["fabrikam"].collaboration
        self.flights, self.planes, self.output = (
            flights_spec(name="flights-0"),
            planes_spec(name="planes-0"),
            output_spec(name="output-0"),
        )
        self.signals = ""
        """How signals arrive: in order, or ``duplicated``, ``reordered`` or ``early``."""
        self._late: list[DecisionMessage] = []
        self._card: Any = None
        self.approved = ""
        """Digest of the approved query ``approved-0``."""
        self.watches_wait: Callable[[], bool] = lambda: False
        """Whether faults of activities that watch a job have not happened yet."""

    def query(self, name: str, **options: Any) -> QuerySpec:
        """Return a query on the shared datasets."""
        sql = " ".join(World.SQL.split())
        inputs = {"flights": self.flights.name, "planes": self.planes.name}
        return QuerySpec(**{"name": name, "inputs": inputs, "output": self.output.name, "sql": sql, **options})

    async def prepare(self) -> None:
        """Publish the shared datasets and have a query approved."""
        await publish_dataset(self.people["contosso"], self.flights)
        await publish_dataset(self.people["litware"], self.planes)
        await publish_dataset(self.people["litware"], self.output)
        await create_query(self.people["fabrikam"], self.query("approved-0"))
        await propose_query(self.people["fabrikam"], "approved-0")
        self._card = await read_card(self.people["litware"], "approved-0")
        await self.decide({"litware": "approve", "contosso": "approve"}, "approved-0")
        state = await read_state(self.people["fabrikam"], "approved-0")
        assert state.stage == "Approved"
        self.approved = state.digest

    def expected_digest(self) -> str:
        """The digest of a result that was computed with the owners' own keys."""
        digest = hashlib.sha256(self.approved.encode())
        owners = {self.flights.name: "contosso", self.planes.name: "litware", self.output.name: "litware"}
        for name, owner in sorted(owners.items()):
            keys = KeyStore(self.people[owner].settings.keys_dir, self.collaboration)
            digest.update(encode_dataset_key(keys.get(name)).reveal())
        return digest.hexdigest()

    # ------------------------------------------------------------------ signals

    async def create(self, query: QuerySpec) -> None:
        """Create a query."""
        created = asyncio.create_task(repeated(lambda: create_query(self.people["fabrikam"], query)))
        if self.signals == "early":
            await self._send_early(query.name)
        await created

    async def change_draft(self, query: str) -> None:
        """Write the draft again in governance, outside of its workflow, and wait until the workflow has seen the new version."""
        author = self.people["fabrikam"]
        before = await repeated(lambda: read_state(author, query))

        async def write() -> None:
            async with author.governance() as client:
                held = await client.get_document(query)
                if held.version == before.version:
                    await client.put_document(
                        query, self.collaboration, held.data, version=held.version, labels=held.labels, approvers=held.approvers
                    )

        await repeated(write)
        async with asyncio.timeout(300):
            while (await repeated(lambda: read_state(author, query))).version == before.version:
                await asyncio.sleep(0.1)

    async def propose(self, query: str) -> str:
        """Propose a query, and return the ID of the proposal."""
        await repeated(lambda: propose_query(self.people["fabrikam"], query))
        if self.signals == "early":
            await self._send_early(query)
        if self.signals == "reordered":
            # Arrives after other signals, and possibly after another proposal.
            session = self.people["contosso"]
            self._late.append(sign_decision(session, await repeated(lambda: read_card(session, query)), "approve", reason="late"))
        return (await repeated(lambda: read_state(self.people["fabrikam"], query))).proposal_id

    async def _send_early(self, query: str) -> None:
        """Send an approval before there is something to approve: the one of another query, as soon as the workflow exists."""
        session = self.people["litware"]
        handle = self.temporal.get_workflow_handle(query_workflow_id(self.collaboration, query))
        message = sign_decision(session, self._card, "approve")
        while True:
            try:
                await handle.signal(APPROVE, message.model_dump())
                return
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(0.005)

    async def decide(self, decisions: Mapping[str, Any], query: str) -> None:
        """Sign and send decisions by owner, one after the other, and wait until they are counted."""
        copies = 2 if self.signals == "duplicated" else 0
        for owner, decision in reversed(decisions.items()) if self.signals == "reordered" else decisions.items():
            session, kind = self.people[owner], APPROVE if decision == "approve" else REJECT
            card = await repeated(partial(read_card, session, query))
            if card.document.state != "Proposed":
                # One of the late signals has counted.
                continue
            message = sign_decision(session, card, decision)
            for _ in range(copies):
                await self._signal(query, kind, message)
            session.expect((await repeated(partial(send_decision, session, query, decision, message))).seen)
            for late in self._late:
                await self._signal(query, APPROVE, late)
            for _ in range(copies):
                await self._signal(query, kind, message)
        self._late.clear()

    async def _signal(self, query: str, kind: str, message: DecisionMessage) -> None:
        handle = self.temporal.get_workflow_handle(query_workflow_id(self.collaboration, query))
        await repeated(partial(handle.signal, kind, message.model_dump()))

    # ------------------------------------------------------------------ what is left

    async def settle(self) -> None:
        """Let governance show everything from now on, on new connections. Only the workflows meet faults."""
        if self.cloud.services.nodes is not None:
            self.cloud.services.nodes.lag = 0.0
        await close_stage(self)
        self.governance, self.clean_room = _clients(self.cloud)

    async def grants(self) -> dict[str, list[str]]:
        """Host data in delegate policies."""
        left: dict[str, list[str]] = {}
        for item in await self.governance.list_delegates(self.collaboration):
            policy = await self.governance.delegate_policy(self.collaboration, item.delegate_type, item.delegate_id)
            if hosts := sorted(set(policy.get(HOST_DATA, [])) - {NOBODY}):
                left[f"{item.delegate_type}/{item.delegate_id}"] = hosts
        return left

    async def secrets(self, run_id: str) -> dict[str, bool]:
        """The run's staged secrets, and whether each is overwritten."""
        names = await self.governance.list_secrets(self.collaboration)
        # The consent receipt is not secret, and the clean room may renew it once more when pods can no longer read it.
        own = sorted(name for name in names if name.startswith(f"cleanroom_{run_id}.") and not name.endswith(".consent"))
        return {name.replace(run_id, "*"): is_tombstone(await self.clean_room.get_secret(name)) for name in own}

    async def events(self, id: str, scope: str) -> list[Any]:
        """The versions of a ledger entry that differ, oldest first.

        A write whose answer was lost is repeated, which makes another version of the same entry. Auditors read all of them.
        """
        found: list[Any] = []
        async for event in self.governance.events(self.collaboration, event_id=id, scope=scope):
            # Each report over the same statement has another signature.
            data = {key: value for key, value in event.data.items() if key != "attestation"}
            if data not in found:
                found.append(data)
        return found

    async def sweep(self, id: str, *, apply: bool) -> CleanupReport:
        """Run the cleanup of ended runs."""
        input = CleanupInput(collaboration=self.collaboration, apply=apply, grace_seconds=0)
        start = partial(self.temporal.start_workflow, Cleanup.run, input, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
        handle = await repeated(lambda: start(id=id, task_queue=CLEAN_ROOM_QUEUE))
        return await repeated(handle.result)

    async def found_by_sweeper(self, run_id: str) -> list[dict[str, int]]:
        """What the cleanup finds of a run, when activities that were under way at its end have ended."""
        for number in count(1):
            report = await self.sweep(f"look-{run_id}-{number}", apply=False)
            held = [row.held for row in report.left if row.run_id == run_id]
            # The SparkApplication of a completed run stays for a while, so that its logs can be read.
            if all(set(item) == {"application"} for item in held) or number == LOOKS:
                return held
            await asyncio.sleep(0.5)
        raise AssertionError("unreachable")

    async def found_by_doctor(self) -> str:
        """What ``cleanroom doctor`` finds of ended runs: ``nothing``, or a code."""
        [check] = [check for check in governance_checks(self.people["fabrikam"]) if check.name == "left of ended runs"]
        try:
            return await check.look()
        except PreconditionFailed as error:
            return error.code

    async def document(self, name: str) -> Left:
        """A document, its votes, and its text without names and wrapped keys."""
        try:
            document: Document = await self.governance.get_document(name)
        except CleanRoomError as error:
            return {"document": error.code}
        data = json.dumps(json.loads(str(document.data)) if isinstance(document.data, str) else document.data, sort_keys=True)
        votes = [[vote.approver_id, vote.ballot] for vote in document.final_votes or ()]
        return {"document": document.state, "proposer": document.proposer_id, "votes": sorted(votes), "text": without_names(data, name)}

    async def open_workflows(self, ids: Mapping[str, str]) -> dict[str, str]:
        """Types of the workflows that have not ended, and of those that do not exist."""
        return {kind: status for kind, id in ids.items() if (status := await self._status(id)) != "ended"}

    async def _status(self, id: str) -> str:
        found = (await repeated(self.temporal.get_workflow_handle(id).describe)).status
        return "running" if found is WorkflowExecutionStatus.RUNNING else "ended"

    def applications(self, run_id: str) -> int:
        """Number of SparkApplications of a run, whatever their names are."""
        client = KubernetesClient.connect(self.cloud.settings("spark-service").kubernetes)
        try:
            return sum(run_id in item["metadata"].get("labels", {}).values() for item in client.applications())
        finally:
            client.close()

    def copy_application(self, name: str, run_id: str, copy: str) -> None:
        """Create a SparkApplication that differs from that of a run in the run ID only, as someone with access to the cluster can."""
        client = KubernetesClient.connect(self.cloud.settings("spark-service").kubernetes)
        try:
            found = client.get(name)
            found.pop("status", None)
            found["metadata"] = {key: found["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
            found["metadata"]["name"] = job_name(self.collaboration, "approved-0", copy)
            found["metadata"]["labels"] = {key: copy if value == run_id else value for key, value in found["metadata"]["labels"].items()}
            client.create_or_get(found)
        finally:
            client.close()

    def rows(self, stand_in: str, file: str, sql: str, *values: str) -> list[Any]:
        """Read from the database of a stand-in."""
        path = self.cloud.layout.data(stand_in) / file
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()


def without_names(text: str, name: str) -> str:
    """Return ``text`` without a dataset's or query's name, and without what is random: IDs, suffixes, key versions, wrapped keys."""
    text = re.sub(r"eyJ[\w+/]+=*", lambda found: base64.b64decode(found[0]).decode(), text).replace(name, "*")
    for pattern, replacement in _RANDOM:
        text = re.sub(pattern, replacement, text)
    return text


_RANDOM = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"\b[0-9a-f]{64}\b", "<digest>"),
    (r"\*-[0-9a-z]{20,}", "*"),
    (r"(/keys/[^/]+)/\w+", r"\1"),
    (r"localhost:\d+", "localhost"),
    (r"\b2\.\d+\b", "<version>"),
    (r"[\w+/=-]{200,}", "<long>"),
)


def _clients(cloud: FaultCloud) -> tuple[GovernanceUserClient, CleanRoomClient]:
    """Clients of a collaborator and of the clean room."""
    own, session = cloud.settings("clean-room"), cloud.session("fabrikam")
    attestor = GuestAttestor(own.attestation.url, ca_file=own.ca_file)
    return session.governance(), CleanRoomClient(own.governance.url, session.collaboration, attestor, ca_file=own.ca_file)


LOST_CONNECTIONS = ("TemporalUnavailable", "NoWorker", "GovernanceConnectionLost", "GovernanceUnreachable")
"""Codes with which a command fails whose service is restarted. Workers connect again within seconds; until then, the server knows none."""


async def repeated(act: Callable[[], Awaitable[T]]) -> T:
    """Repeat a command that lost its connection, as its user would. Commands can be repeated."""
    for _ in range(REPETITIONS):
        try:
            return await act()
        except (RPCError, Unavailable) as error:
            if error_from_failure(error).code not in LOST_CONNECTIONS:
                raise
            await asyncio.sleep(0.5)
    return await act()


async def open_stage(cloud: FaultCloud, temporal: Client) -> Stage:
    """Open the clients that look at the cloud. Close them with :func:`close_stage`."""
    return Stage(cloud, *_clients(cloud), temporal)


async def close_stage(stage: Stage) -> None:
    """Close the clients."""
    await stage.governance.aclose()
    await stage.clean_room.aclose()
