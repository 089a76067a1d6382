"""What the clean room finds of runs in governance, and to which run it attributes it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from temporalio.api.enums.v1 import NamespaceState
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.clean_room_cleanup import SETTLED_AFTER, CleanRoomCleanup
from activities.run_origin import run_origin
from cleanroom.errors import Refused, Unavailable
from cleanroom.identifiers import conclude_workflow_id, run_secret_name, run_workflow_id
from cleanroom.messages.cleanup import HeldFound, HeldRequest, RunHeld, StatesFound, StatesRequest
from cleanroom.messages.run import RunTicket
from cleanroom.runs.ledger import pinned_event_id
from cleanroom.runs.verification import RunVerifier
from tests.audit_records import COLLABORATION, QUERY
from tests.refusals import refused
from tests.run_activities import configure_idp, grant, issue_receipt, record, revoke, stage, stage_from_vault
from tests.run_world import RunWorld


async def look(runs: RunWorld, *names: str, **members: Any) -> HeldFound:
    request = HeldRequest(collaboration=COLLABORATION, runs=names or None, **members)
    found: HeldFound = await runs.call(runs.process.cleanup.find_held, request)
    return found


async def only(runs: RunWorld, *names: str) -> RunHeld:
    found = await look(runs, *names)
    assert (found.unattributed, found.more) == (0, False)
    (run,) = found.runs
    return run


# ---------------------------------------------------------------------- what is found


async def test_every_kind_is_counted_with_what_the_ledger_says(runs: RunWorld, ticket: RunTicket) -> None:
    runs.origin = "namespace-1"
    await stage(runs, ticket)
    await stage_from_vault(runs, ticket)
    await grant(runs, ticket)
    await configure_idp(runs, ticket)
    await issue_receipt(runs, ticket)
    run = await only(runs)
    # Key and connection secret of one dataset, the key of the other, receipt and network secret; two roles each.
    kinds = {"secrets": 5, "secret grants": 6, "token grants": 2, "event grants": 2, "not closed": 1}
    assert run.held == kinds
    assert (run.run_id, run.query, run.pinned, run.pinned_at, run.origin) == ("r-1", QUERY, True, runs.now, "namespace-1")
    assert run.expires == runs.now + dt.timedelta(hours=12)
    assert (run.closed, run.ticket) == (False, None)


async def test_nothing_is_found_after_a_run_has_revoked(runs: RunWorld, ticket: RunTicket) -> None:
    await stage(runs, ticket)
    await grant(runs, ticket)
    await configure_idp(runs, ticket)
    await revoke(runs, ticket)
    assert (await look(runs)).runs == ()


async def test_a_run_asked_for_by_name_comes_with_its_request(runs: RunWorld, ticket: RunTicket) -> None:
    await stage(runs, ticket)
    await stage(runs, runs.ticket("r-2"))
    run = await only(runs, "r-1")
    assert (run.run_id, run.ticket) == ("r-1", ticket)


async def test_a_run_with_a_job_is_described_even_if_it_holds_nothing(runs: RunWorld, ticket: RunTicket) -> None:
    await record(runs, ticket, "PREPARE_STARTED")
    found = await look(runs, jobs=("r-1", "r-9"))
    assert [(run.run_id, run.pinned, run.held) for run in found.runs] == [("r-1", True, {"not closed": 1}), ("r-9", False, {})]


async def test_a_release_after_the_end_is_found(runs: RunWorld, ticket: RunTicket) -> None:
    """A worker that dies between its late write and the second look leaves it behind."""
    await stage(runs, ticket)
    await revoke(runs, ticket)
    room = runs.process.room
    secret = run_secret_name("r-1", "litware-planes", "key")
    await room.client.put_secret(secret, next(iter(runs.governance.secrets.values())))
    run = await only(runs)
    assert (run.held, run.closed) == ({"secrets": 1}, True)
    await revoke(runs, ticket)
    assert (await look(runs)).runs == ()


async def test_secrets_of_other_kinds_and_owners_are_no_runs(runs: RunWorld) -> None:
    await runs.process.room.write_barrier()
    name = next(name for name in runs.governance.secrets if name.endswith(".key"))
    runs.governance.secrets["cleanroom_r-1.orders.other"] = runs.governance.secrets[name]
    runs.governance.secrets["cleanroom_R_1.orders.key"] = runs.governance.secrets[name]
    assert (await look(runs)).runs == ()


async def test_a_cleanup_of_another_collaboration_is_refused(runs: RunWorld) -> None:
    request = HeldRequest(collaboration="other")
    assert await refused(runs.call(runs.process.cleanup.find_held, request)) == "CollaborationMismatch"


# ---------------------------------------------------------------------- to which run it belongs


async def test_shared_grants_are_attributed_by_the_documents_when_no_secret_shows_them(runs: RunWorld, ticket: RunTicket) -> None:
    """The first revocation stopped after the run's own secrets."""
    await stage(runs, ticket)
    await grant(runs, ticket)
    await configure_idp(runs, ticket)
    await stage(runs, runs.ticket("r-2"))
    for place, held in runs.governance.delegates.items():
        if place[0] == "secrets":
            held.clear()
    found = await look(runs)
    counts = {run.run_id: (run.held.get("token grants"), run.held.get("event grants")) for run in found.runs}
    assert counts == {"r-1": (2, 2), "r-2": (None, None)}
    assert found.unattributed == 0


async def test_shared_grants_of_no_known_run_are_counted_and_left(runs: RunWorld, ticket: RunTicket) -> None:
    await stage(runs, ticket)
    runs.governance.delegates["events", "writer"] = {"ab" * 32}
    found = await look(runs)
    assert found.unattributed == 1
    await revoke(runs, ticket)
    assert runs.governance.delegates["events", "writer"] == {"ab" * 32}


async def test_a_run_without_secrets_of_datasets_leaves_one_before_its_first_grant(
    runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cleanup finds runs by their secrets."""
    monkeypatch.setattr("activities.clean_room_secrets.staged_secrets", lambda job: ())
    await configure_idp(runs, ticket)
    run = await only(runs)
    assert run.held == {"token grants": 2, "event grants": 2, "not closed": 1}
    await issue_receipt(runs, ticket)
    before = dict(runs.governance.secrets)
    await configure_idp(runs, ticket)
    assert runs.governance.secrets == before, "a repeated step overwrites the receipt"


# ---------------------------------------------------------------------- undoing what this version would not derive


async def test_grants_of_another_version_of_the_clean_room_are_revoked(runs: RunWorld, ticket: RunTicket) -> None:
    """Another version computed other pod policies, so the documents give other host data than what is granted."""
    await stage(runs, ticket)
    await grant(runs, ticket)
    earlier = "ab" * 32
    secret = "cleanroom_r-1.litware-planes.key"
    runs.governance.delegates["secrets", secret] = {earlier}
    runs.governance.delegates["events", "writer"] = {earlier, "cd" * 32}
    await revoke(runs, ticket)
    assert (runs.governance.delegates["secrets", secret], runs.governance.delegates["events", "writer"]) == (set(), {"cd" * 32})


async def test_a_run_whose_query_this_version_refuses_is_closed_and_revoked(
    runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage(runs, ticket)
    await grant(runs, ticket)
    await configure_idp(runs, ticket)

    async def gate(self: RunVerifier, ticket: RunTicket) -> None:
        raise Refused("QueryRefused", "this version's gate is stricter")

    monkeypatch.setattr(RunVerifier, "past_run", gate)
    revoked = await revoke(runs, ticket)
    assert (revoked.closed, runs.released(ticket)) == (True, [])
    assert (await look(runs)).runs == ()


# ---------------------------------------------------------------------- memory of runs that hold nothing


async def test_a_closed_run_that_holds_nothing_is_not_looked_at_again_after_a_day(runs: RunWorld, ticket: RunTicket) -> None:
    await stage(runs, ticket)
    await revoke(runs, ticket)
    read: list[str] = []
    original = runs.process.client.get_secret

    async def get_secret(secret_id: str) -> Any:
        read.append(secret_id)
        return await original(secret_id)

    runs.process.client.__dict__["get_secret"] = get_secret
    for _ in range(2):
        await look(runs)
    assert len(read) == 4
    runs.now += SETTLED_AFTER + dt.timedelta(seconds=1)
    for _ in range(2):
        await look(runs)
    assert len(read) == 6
    assert (await look(runs, "r-1")).runs == ()


# ---------------------------------------------------------------------- Temporal


class Temporal:
    """A client that knows some workflows."""

    namespace = "default"

    def __init__(self, known: dict[str, WorkflowExecutionStatus], error: RPCError | None = None) -> None:
        self.known, self.error, self.described = known, error, list[str]()
        self.workflow_service = self
        self.id = "namespace-1"
        self.only_workflows = False
        """Whether the error is only the answer about workflows."""
        self.namespaces: dict[str, NamespaceState.ValueType] = {}
        """States of other namespaces on the server, by ID."""

    async def describe_namespace(self, request: Any) -> Any:
        if self.error is not None and not self.only_workflows:
            raise self.error
        if request.id not in ("", *self.namespaces):
            raise RPCError("not found", RPCStatusCode.NOT_FOUND, b"")
        assert request.id or request.namespace == "default"
        info = {"id": request.id or self.id, "state": self.namespaces.get(request.id)}
        return type("Answer", (), {"namespace_info": type("Info", (), info)})

    def get_workflow_handle(self, workflow_id: str) -> Any:
        async def describe() -> Any:
            self.described.append(workflow_id)
            if self.error is not None:
                raise self.error
            if workflow_id not in self.known:
                raise RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")
            return type("Described", (), {"status": self.known[workflow_id]})

        return type("Handle", (), {"describe": staticmethod(describe)})

    async def states(self, runs: RunWorld, *names: str, lost: tuple[str, ...] = ()) -> StatesFound:
        client: Any = self
        request = StatesRequest(collaboration=COLLABORATION, runs=names, lost=lost)
        found: StatesFound = await ActivityEnvironment(client=client).run(runs.process.cleanup.describe_runs, request)
        return found


async def test_each_run_is_described_by_its_id(runs: RunWorld) -> None:
    ended, running = WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.RUNNING
    temporal = Temporal(
        {
            run_workflow_id(COLLABORATION, "r-1"): running,
            run_workflow_id(COLLABORATION, "r-2"): ended,
            run_workflow_id(COLLABORATION, "r-3"): ended,
            conclude_workflow_id(COLLABORATION, "r-3"): running,
        }
    )
    found = await temporal.states(runs, "r-1", "r-2", "r-3", "r-4")
    assert found.namespace_id == "namespace-1"
    states = {name: (state.state, state.status) for name, state in found.states.items()}
    assert states == {"r-1": ("open", ""), "r-2": ("ended", "TERMINATED"), "r-3": ("concluding", ""), "r-4": ("unknown", "")}


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("unavailable", RPCStatusCode.UNAVAILABLE),
        ("Namespace default is not found.", RPCStatusCode.NOT_FOUND),
        ("denied", RPCStatusCode.PERMISSION_DENIED),
    ],
    ids=["unavailable", "no namespace", "denied"],
)
async def test_a_server_that_does_not_answer_says_nothing_about_runs(runs: RunWorld, message: str, status: RPCStatusCode) -> None:
    temporal = Temporal({}, RPCError(message, status, b""))
    for temporal.only_workflows in (False, True):
        with pytest.raises(Unavailable, match="TemporalUnavailable"):
            await temporal.states(runs, "r-1")


async def test_a_namespace_that_the_server_has_is_not_lost(runs: RunWorld) -> None:
    temporal = Temporal({})
    temporal.namespaces = {
        "deleted": NamespaceState.NAMESPACE_STATE_DELETED,
        "in-use": NamespaceState.NAMESPACE_STATE_REGISTERED,
    }
    await temporal.states(runs, "r-1", lost=("elsewhere", "deleted"))
    with pytest.raises(Refused, match="NamespaceNotLost"):
        await temporal.states(runs, "r-1", lost=("elsewhere", "in-use"))


async def test_a_cleanup_asks_about_its_own_collaboration_only(runs: RunWorld) -> None:
    client: Any = Temporal({})
    request = StatesRequest(collaboration="other", runs=("r-1",))
    with pytest.raises(Refused, match="CollaborationMismatch"):
        await ActivityEnvironment(client=client).run(CleanRoomCleanup(runs.process.room).describe_runs, request)


# ---------------------------------------------------------------------- where a run began


async def origin_with(client: Any) -> str:
    found: str = await ActivityEnvironment(client=client).run(run_origin)
    return found


async def test_the_origin_is_read_for_each_run() -> None:
    """A worker outlives its namespace: it connects again when an operator has created it again."""
    temporal: Any = Temporal({})
    temporal.id = "namespace-2"
    environment = ActivityEnvironment(client=temporal)
    assert await environment.run(run_origin) == "namespace-2"
    temporal.id = "namespace-3"
    assert await environment.run(run_origin) == "namespace-3"


async def test_the_origin_of_a_run_is_the_id_of_the_namespace() -> None:
    assert await origin_with(Temporal({})) == "namespace-1"


async def test_a_worker_that_may_not_describe_its_namespace_gives_an_unknown_origin() -> None:
    assert await origin_with(Temporal({}, RPCError("no", RPCStatusCode.PERMISSION_DENIED, b""))) == ""


async def test_a_run_does_not_begin_with_an_unknown_origin_because_temporal_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await origin_with(Temporal({}, RPCError("no", RPCStatusCode.UNAVAILABLE, b"")))


async def test_the_pin_names_the_namespace(runs: RunWorld, ticket: RunTicket) -> None:
    runs.origin = "namespace-1"
    await record(runs, ticket, "PREPARE_STARTED")
    (entry,) = [event for event in runs.governance.ledger if event.id == pinned_event_id("r-1")]
    assert entry.data["origin"] == "namespace-1"
    pinned = await runs.process.room.authority.pinned_request("r-1")
    assert pinned is not None
    assert pinned.origin == "namespace-1"
