"""The paths of the workflows: what collaborators do, and what must be true afterwards.

A scenario runs once under a name of its own and returns what it left everywhere, without the names and random values in it. A run with
faults must leave the same as a run without.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError

from cleanroom.attestation import GuestAttestor
from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.datasets.encryption import encode_dataset_key
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import CleanRoomError
from cleanroom.governance import CleanRoomClient, Document, GovernanceUserClient
from cleanroom.identifiers import (
    conclude_workflow_id,
    dataset_workflow_id,
    decision_document_id,
    identity_name,
    job_name,
    key_encryption_key_name,
    prepare_workflow_id,
    query_workflow_id,
    run_workflow_id,
)
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, event_scope, pinned_event_id, runs_event_id
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, event_id
from cleanroom.spark.tombstone import is_tombstone
from cleanroom.temporal.failures import error_from_failure
from starters.operations.conclude import conclude_run
from starters.operations.datasets import publish_dataset
from starters.operations.decisions import read_card, send_decision, sign_decision
from starters.operations.queries import create_query, propose_query, update_query, withdraw_query
from starters.operations.query_workflow import read_state
from starters.operations.runs import start_run
from starters.operations.session import Session
from tests.faults.cloud import FaultCloud
from tests.faults.rows import Left
from tests.local_cloud.world import World, flights_spec, output_spec, planes_spec


class Stage:
    """The open cloud with the collaborators' sessions and with clients for looking at it."""

    def __init__(self, cloud: FaultCloud, governance: GovernanceUserClient, clean_room: CleanRoomClient, temporal: Client) -> None:
        self.cloud, self.governance, self.clean_room, self.temporal = cloud, governance, clean_room, temporal
        self.people: dict[str, Session] = {name: cloud.session(name) for name in ("contosso", "litware", "fabrikam")}
        self.kubernetes = KubernetesClient.connect(cloud.settings("spark-service").kubernetes)
        self.collaboration = self.people["fabrikam"].collaboration
        self.flights, self.planes, self.output = (
            flights_spec(name="flights-0"),
            planes_spec(name="planes-0"),
            output_spec(name="output-0"),
        )
        self.approved = ""
        """Digest of the approved query ``approved-0``."""

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
        await create_query(self.people["fabrikam"], self.query("approved-0"), reconcile_seconds=1)
        await propose_query(self.people["fabrikam"], "approved-0")
        for owner in ("litware", "contosso"):
            await self.decide(owner, "approved-0", "approve")
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

    async def decide(self, owner: str, query: str, decision: Any) -> None:
        """Sign and send a decision, and wait until it is counted."""
        session = self.people[owner]
        message = sign_decision(session, await read_card(session, query), decision)
        session.expect((await send_decision(session, query, decision, message)).seen)

    # ------------------------------------------------------------------ what is left

    def settle(self) -> None:
        """Let governance show everything from now on. Only the workflows meet a node that lags behind."""
        if self.cloud.services.nodes is not None:
            self.cloud.services.nodes.lag = 0.0

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
        """The versions of a ledger entry that differ, oldest first."""
        found: list[Any] = []
        async for event in self.governance.events(self.collaboration, event_id=id, scope=scope):
            if event.data not in found:
                found.append(event.data)
        return found

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
        found = (await self.temporal.get_workflow_handle(id).describe()).status
        return "running" if found is WorkflowExecutionStatus.RUNNING else "ended"

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


class Scenario:
    """A path. ``ids`` maps the types of its workflows to their IDs for a name."""

    name: str
    workflows: tuple[str, ...]
    focus: tuple[str, ...] = ()
    """Activities with cells; all of the workflows if empty."""
    failures: tuple[str, ...] = ("",)
    """Codes with which the run without faults ends; empty for success."""

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        """Return the workflow IDs of a run of this scenario."""
        raise NotImplementedError

    async def run(self, stage: Stage, name: str) -> Left:
        """Act, wait until the workflows have ended, and return what is left."""
        raise NotImplementedError


class PublishAzure(Scenario):
    """Contosso publishes a dataset from Blob Storage."""

    name, workflows = "publish-azure", ("PublishAzureDataset",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishAzureDataset": dataset_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        store = {"kind": "azure-blob", "container": "flights", "subdirectory": name}
        left = await _publish(stage, "contosso", flights_spec(name=name, store=store), self.ids(stage, name))
        identity = f"%/{identity_name(stage.collaboration, name)}"
        roles = "SELECT scope FROM assignments JOIN identities USING (principal_id) WHERE id LIKE ?"
        found = Counter(without_names(scope, name) for (scope,) in stage.rows("entra", "entra.sqlite", roles, identity))
        left["roles"] = [list(item) for item in sorted(found.items())]
        federated = stage.rows("entra", "entra.sqlite", "SELECT subject FROM federated WHERE identity_id LIKE ?", identity)
        left["federations"] = len(federated)
        key = key_encryption_key_name(stage.collaboration, name)
        left["keys"] = len(stage.rows("keyvault", "keyvault.sqlite", "SELECT version FROM versions WHERE name = ?", key))
        return left


class PublishS3(Scenario):
    """Litware publishes a dataset from S3."""

    name, workflows = "publish-s3", ("PublishS3Dataset",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishS3Dataset": dataset_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        store = {"kind": "aws-s3", "bucket": "litware", "subdirectory": name, "connectionSecret": "secret:s3"}
        left = await _publish(stage, "litware", planes_spec(name=name, store=store), self.ids(stage, name))
        names = await stage.governance.list_secrets(stage.collaboration)
        left["secrets"] = sorted(found.replace(name, "*") for found in names if f"_{name}." in found)
        return left


async def _publish(stage: Stage, owner: str, spec: DatasetSpec, ids: Mapping[str, str]) -> Left:
    failure = ""
    try:
        await publish_dataset(stage.people[owner], spec)
    except (CleanRoomError, WorkflowFailureError) as error:
        failure = error_from_failure(error).code
    stage.settle()
    return {"failure": failure, "open": await stage.open_workflows(ids), **await stage.document(spec.name)}


class ApprovedQuery(Scenario):
    """Fabrikam creates, updates, proposes, withdraws and proposes a query. Both owners approve it."""

    name, workflows = "approved-query", ("PublishQuery",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishQuery": query_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        author, proposals = stage.people["fabrikam"], []

        async def act() -> None:
            text = stage.query(name)
            await create_query(author, text, reconcile_seconds=1)
            await update_query(author, stage.query(name, sql=text.sql.replace(">= 25", ">= 26")))
            await propose_query(author, name)
            proposals.append((await read_state(author, name)).proposal_id)
            await withdraw_query(author, name)
            await propose_query(author, name)
            proposals.append((await read_state(author, name)).proposal_id)
            for owner in ("litware", "contosso"):
                await stage.decide(owner, name, "approve")

        return await _query(stage, name, act, proposals)


class RejectedQuery(Scenario):
    """Litware rejects a query of Fabrikam, who then closes the draft."""

    name, workflows = "rejected-query", ("PublishQuery",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishQuery": query_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        author, proposals = stage.people["fabrikam"], []

        async def act() -> None:
            await create_query(author, stage.query(name), reconcile_seconds=1)
            await propose_query(author, name)
            proposals.append((await read_state(author, name)).proposal_id)
            await stage.decide("litware", name, "reject")
            await withdraw_query(author, name)

        return await _query(stage, name, act, proposals)


async def _query(stage: Stage, name: str, act: Callable[[], Any], proposals: list[str]) -> Left:
    failure = ""
    handle = stage.temporal.get_workflow_handle(query_workflow_id(stage.collaboration, name))
    try:
        await act()
    except (CleanRoomError, WorkflowFailureError) as error:
        failure = error_from_failure(error).code
    stage.settle()
    state = await read_state(stage.people["fabrikam"], name)
    if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
        await handle.cancel()
        with contextlib.suppress(WorkflowFailureError):
            await handle.result()
    decisions = []
    for number, proposal in enumerate(proposals):
        statuses = await stage.governance.proposal_status(proposal)
        decisions.append([number, statuses.state, sorted([ballot.approver_id, ballot.ballot] for ballot in statuses.ballots)])
    documents = {item.id for item in await stage.governance.list_documents()}
    users = stage.people["fabrikam"].settings.parties.values()
    statements = [sum(decision_document_id(proposal, user) in documents for user in users) for proposal in proposals]
    return {
        "failure": failure,
        "stage": state.stage,
        "pending": sorted(state.pending),
        "accepted": sorted(state.accepted),
        "rejected": sorted(state.rejected),
        "refused": [item.code for item in state.refused],
        "history": [entry.event for entry in state.history if entry.event != "governance cannot be read"],
        "proposals": decisions,
        "decisions": statements,
        **await stage.document(name),
    }


class Run(Scenario):
    """Fabrikam runs the approved query."""

    name, workflows = "run", ("RunQuery", "Prepare")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"RunQuery": run_workflow_id(stage.collaboration, name), "Prepare": prepare_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        handle = await start_run(stage.people["fabrikam"], "approved-0", stage.approved, name, consent_check_seconds=1)
        left: Left = {"failure": ""}
        try:
            result = await handle.result()
            left |= {"state": result.state, "result": result.receipt is not None and result.receipt.digest == stage.expected_digest()}
        except WorkflowFailureError as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, self.ids(stage, name))


class CancelledRun(Scenario):
    """Fabrikam runs the approved query, and cancels the run while its job runs."""

    name, workflows, failures = "cancelled-run", ("RunQuery",), ("Cancelled",)
    focus = ("watch_job", "watch_consent", "delete_job", "revoke_grants", "record_event")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return Run().ids(stage, name)

    async def run(self, stage: Stage, name: str) -> Left:
        pods = stage.cloud.pods
        pods.hold.add(name)
        handle = await start_run(stage.people["fabrikam"], "approved-0", stage.approved, name, consent_check_seconds=1)
        await asyncio.to_thread(pods.reached, name)
        await handle.cancel()
        left: Left = {"failure": ""}
        try:
            await handle.result()
        except WorkflowFailureError as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, self.ids(stage, name))


class ConcludedRun(Scenario):
    """A run is terminated while its job runs. Litware concludes it."""

    name, workflows = "concluded-run", ("ConcludeRun",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"ConcludeRun": conclude_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        pods = stage.cloud.pods
        pods.hold.add(name)
        handle = await start_run(stage.people["fabrikam"], "approved-0", stage.approved, name, consent_check_seconds=1)
        await asyncio.to_thread(pods.reached, name)
        await handle.terminate()
        left: Left = {"failure": ""}
        try:
            left["stopped"] = (await conclude_run(stage.people["litware"], name))["job_stopped"]
        except (CleanRoomError, WorkflowFailureError) as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, Run().ids(stage, name) | self.ids(stage, name))


async def _run_left(stage: Stage, name: str, ids: Mapping[str, str]) -> Left:
    stage.settle()
    job = job_name(stage.collaboration, "approved-0", name)
    applications = [item for item in await asyncio.to_thread(stage.kubernetes.applications) if item["metadata"]["name"] == job]
    pods = stage.cloud.pods
    started = await stage.events(runs_event_id("approved-0"), RUNS_SCOPE)
    entries = {step: await stage.events(event_id(name, step), event_scope(name)) for step in (*CLEAN_ROOM_STEPS, "QUERY_COMPLETED")}
    return {
        "open": await stage.open_workflows(ids),
        "applications": len(applications),
        "drivers": len(pods.started[name]),
        "grants": await stage.grants(),
        "secrets": await stage.secrets(name),
        "starts": sum(item["runId"] == name for item in started),
        "pinned": len(await stage.events(pinned_event_id(name), RUNS_SCOPE)),
        "closed": len(await stage.events(closed_event_id(name), RUNS_SCOPE)),
        "ledger": {step: len(versions) for step, versions in entries.items() if versions},
    }


SCENARIOS: dict[str, Scenario] = {
    item.name: item for item in (PublishAzure(), PublishS3(), ApprovedQuery(), RejectedQuery(), Run(), CancelledRun(), ConcludedRun())
}
"""All scenarios by name."""


async def open_stage(cloud: FaultCloud, temporal: Client) -> Stage:
    """Open the clients that look at the cloud. Close them with :func:`close_stage`."""
    own = cloud.settings("clean-room")
    attestor = GuestAttestor(own.attestation.url, ca_file=own.ca_file)
    session = cloud.session("fabrikam")
    clean_room = CleanRoomClient(own.governance.url, session.collaboration, attestor, ca_file=own.ca_file)
    return Stage(cloud, session.governance(), clean_room, temporal)


async def close_stage(stage: Stage) -> None:
    """Close the clients."""
    await stage.governance.aclose()
    await stage.clean_room.aclose()
    stage.kubernetes.close()
