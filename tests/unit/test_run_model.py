"""A model of a run's life: the real activities, in any order, any number of times, by anybody with the keyring.

The invariant: a pod can use a dataset key only if its job is that of the one request that its run ID stands for, and only while
that request is approved, unexpired, has consent and is not closed, or for the lifetime of a consent receipt afterwards. A closed run
keeps nothing once its activities have ended. Nobody without a right to the query records, closes or deletes anything.

Interleavings: governance answers reads at once, and each write waits until the machine lets it arrive. So anything can happen
between a check and its effect. A killed worker process loses its activities at their next request.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from activities.clean_room_secrets import CleanRoomSecrets
from cleanroom.documents.query import RunParameters
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import job_name
from cleanroom.messages.run import RunTicket
from cleanroom.runs import verification
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.verification import RunVerifier
from cleanroom.spark.consent_receipt import RECEIPT_SECONDS, ConsentReceipt, enabled_receipt
from cleanroom.statements import load_or_create_signing_key
from tests import run_activities as acts
from tests.audit_records import COLLABORATION, QUERY
from tests.audit_world import AuditWorld
from tests.run_world import OUTSIDER, SENDER, RunWorld, add_outsider

RECEIPT = dt.timedelta(seconds=RECEIPT_SECONDS)
REQUESTS = ("january", "february", "short", "outsider")
"""The first two have one run ID, and the outsider has it too."""
ACTS: dict[str, Callable[[RunWorld, RunTicket], Any]] = {
    **acts.RELEASES,
    "submit_job": acts.submit,
    "revoke_grants": acts.revoke,
    "delete_job": acts.delete,
    "record PREPARE_STARTED": lambda runs, ticket: acts.record(runs, ticket, "PREPARE_STARTED"),
    "record RUN_FAILED": lambda runs, ticket: acts.record(runs, ticket, "RUN_FAILED"),
}
NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    folder = tmp_path_factory.mktemp("model")
    world = AuditWorld(folder, max_runs=None, bounds=RunParameters(date_range=True))
    add_outsider(world, load_or_create_signing_key(folder / OUTSIDER))
    return world


class RunLife(RuleBasedStateMachine):
    """The machine. ``world`` is set by the test."""

    world: AuditWorld
    reached: ClassVar[set[str]]
    """Situations of any of the examples, in which the invariants were checked."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.runs = RunWorld(self.world)
        self.runs.governance.hold = True
        self.tickets = {
            "january": self.runs.ticket("r-1", days=acts.JANUARY),
            "february": self.runs.ticket("r-1", days=acts.FEBRUARY),
            "short": self.runs.ticket("r-2", hours=1),
            "outsider": self.runs.ticket("r-1", by=OUTSIDER, days=acts.JANUARY),
        }
        self.tasks: dict[str, tuple[str, asyncio.Task[Any]]] = {}
        self.number = 0
        self.authorised: dict[str, dt.datetime] = dict.fromkeys(REQUESTS, NEVER)
        """When each request was last authorised, by this model's own rules."""
        self.used: dict[str, set[str]] = {}
        """Requests whose job ever had a usable key, by run ID."""
        self.disturbed: set[str] = set()
        """Requests whose activities a killed process lost, until the run is closed again."""
        self.started: dict[str, str] = {}
        """Digest of the submitted job, by name."""

    def teardown(self) -> None:
        self.runs.process.client.alive = False
        for _, task in self.tasks.values():
            task.cancel()
        self._settle()
        self.loop.close()

    # ------------------------------------------------------------------ what can happen

    @initialize(prepared=st.sampled_from(["nothing", "january", "short"]), watched=st.booleans())
    def begin(self, prepared: str, watched: bool) -> None:
        """A run may have begun already, and its consent may be watched."""
        if prepared == "nothing":
            return
        self.prepare(prepared)
        if watched:
            self.call("watch_consent", prepared)
            self.deliver(0, 1)

    @rule(request=st.sampled_from(REQUESTS))
    def prepare(self, request: str) -> None:
        """Everything that a run's workflow does before its pods start."""
        for name in ("record PREPARE_STARTED", "get_secret", "set_secret", "configure_idp", "issue_consent_receipt", "submit_job"):
            self.call(name, request)
            self.deliver_all()

    @rule(name=st.sampled_from(sorted(acts.RELEASES)), request=st.sampled_from(["january", "short"]))
    def late(self, name: str, request: str) -> None:
        """A release is on its way while its run is closed."""
        self.call(name, request)
        self.conclude(request)
        self.deliver_all()

    @rule(name=st.sampled_from(sorted(ACTS)), request=st.sampled_from(REQUESTS))
    def call(self, name: str, request: str) -> None:
        """Anybody with the keyring starts an activity. It runs until its first write is on its way."""
        if len(self.tasks) > 6:
            return
        self.number += 1
        key = f"{name} {request} {self.number}"

        async def work() -> None:
            SENDER.set(key)
            try:
                await ACTS[name](self.runs, self.tickets[request])
            except CleanRoomError:
                return

        self.tasks[key] = (request, self.loop.create_task(work()))
        self._settle()

    @precondition(lambda self: self.runs.governance.held)
    @rule(which=st.integers(0, 6), writes=st.integers(1, 8))
    def deliver(self, which: int, writes: int) -> None:
        """Some writes arrive, those of one activity first."""
        for _ in range(writes):
            held = self.runs.governance.held
            if not held:
                return
            held.pop(which % len(held))[1].set_result(None)
            self._settle()

    @rule()
    def deliver_all(self) -> None:
        """Every write arrives. Watches of consent go on waiting."""
        for _ in range(60):
            held = self.runs.governance.held
            found = next((item for item in held if not item[0].startswith("watch_consent")), None)
            if found is None:
                return
            held.remove(found)
            found[1].set_result(None)
            self._settle()

    @rule(request=st.sampled_from(["january", "february", "short"]))
    def conclude(self, request: str) -> None:
        """The run is closed, from the first write to the last, while other activities are on their way."""
        before = set(self.tasks)
        self.call("revoke_grants", request)
        name = next(iter(set(self.tasks) - before), None)
        while name is not None:
            own = next((item for item in self.runs.governance.held if item[0] == name), None)
            if own is None:
                break
            self.runs.governance.held.remove(own)
            own[1].set_result(None)
            self._settle()
        if not [key for key in self.tasks if not key.startswith("watch_consent")]:
            self.disturbed.discard(request)

    @rule(seconds=st.sampled_from([20, 60, RECEIPT_SECONDS + 1, 2 * 3600, 13 * 3600]))
    def wait(self, seconds: int) -> None:
        """Time passes; nothing arrives in the meantime."""
        self._observe()
        later = self.runs.now + dt.timedelta(seconds=seconds)
        for request in REQUESTS:
            if self._authorised(request):
                self.authorised[request] = min(later, self._expiry(request))
        self.runs.now = later
        # A watch sleeps until its next check.
        for _ in range(2):
            for item in [item for item in self.runs.governance.held if item[0].startswith("watch_consent")]:
                self.runs.governance.held.remove(item)
                item[1].set_result(None)
            self._settle()

    @rule(document=st.sampled_from([QUERY, "litware-planes", "litware-weather"]), on=st.booleans())
    def consent(self, document: str, on: bool) -> None:
        """An owner withdraws or renews consent."""
        self._observe()
        (self.runs.governance.withdrawn.discard if on else self.runs.governance.withdrawn.add)(document)

    @rule(document=st.sampled_from([QUERY, "litware-planes"]), pauses=st.lists(st.sampled_from([20, 60]), min_size=4, max_size=6))
    def outlive_consent(self, document: str, pauses: list[int]) -> None:
        """An owner withdraws consent, and time passes in which a watch could renew the receipt."""
        self.consent(document, False)
        for seconds in pauses:
            self.wait(seconds)

    @rule()
    def kill(self) -> None:
        """The worker process is killed and starts again."""
        self.disturbed |= {request for request, _ in self.tasks.values()}
        self.runs.restart()
        for _, task in self.tasks.values():
            task.cancel()
        self.runs.governance.held.clear()
        self._settle()

    def _settle(self) -> None:
        async def turn() -> None:
            for _ in range(60):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())
        self.tasks = {key: value for key, value in self.tasks.items() if not value[1].done()}
        for name, digest in self.runs.governance.jobs.items():
            self.started.setdefault(name, digest)
        self._observe()

    # ------------------------------------------------------------------ what must hold

    def _expiry(self, request: str) -> dt.datetime:
        return self.world.now + dt.timedelta(hours=1 if request == "short" else 12)

    def _closed(self, run_id: str) -> bool:
        return any(event.id == f"closed.{run_id}" for event in self.runs.governance.ledger)

    def _authorised(self, request: str) -> bool:
        ticket = self.tickets[request]
        open_ = not self._closed(ticket.run_id) and not self.runs.governance.withdrawn
        return request != "outsider" and open_ and self.runs.now < self._expiry(request)

    def _observe(self) -> None:
        for request in REQUESTS:
            if self._authorised(request):
                self.authorised[request] = self.runs.now

    def _quiet(self, run_id: str) -> bool:
        """Whether no activity of the run is on its way, and none was lost."""
        return not any(self.tickets[request].run_id == run_id for request in (*(item[0] for item in self.tasks.values()), *self.disturbed))

    @invariant()
    def a_key_is_usable_only_while_its_run_is_authorised(self) -> None:
        self._observe()
        self._note_situation()
        for request in ("january", "february", "short"):
            ticket = self.tickets[request]
            if self.runs.usable_keys(ticket):
                self.reached.add("usable key" if self._authorised(request) else "usable key after the authorisation ended")
                self.used.setdefault(ticket.run_id, set()).add(request)
                assert self.runs.now - self.authorised[request] < RECEIPT, f"{request}: usable after its authorisation ended"
                assert not (self._closed(ticket.run_id) and self._quiet(ticket.run_id)), f"{request}: usable, and its run is closed"

    def _note_situation(self) -> None:
        for request in ("january", "february", "short"):
            closed, quiet = self._closed(self.tickets[request].run_id), self._quiet(self.tickets[request].run_id)
            self.reached |= {"closed, quiet" if quiet else "closed, activity on its way"} if closed else set()
            self.reached |= {"expired"} if self.runs.now >= self._expiry(request) and self.used else set()
        self.reached |= {"consent withdrawn during use"} if self.runs.governance.withdrawn and self.used else set()
        self.reached |= {"job"} if self.runs.governance.jobs else set()
        self.reached |= {"job deleted"} if self.runs.governance.deleted_jobs else set()
        self.reached |= {"activities lost"} if self.disturbed else set()

    @invariant()
    def a_run_id_stands_for_one_request(self) -> None:
        assert all(len(requests) == 1 for requests in self.used.values()), self.used
        pinned: dict[str, set[str]] = {}
        for event in self.runs.governance.ledger:
            if event.id.startswith("query."):
                pinned.setdefault(event.data["runId"], set()).add(event.data["requestDigest"])
        assert all(len(requests) == 1 for requests in pinned.values()), pinned

    @invariant()
    def a_closed_run_keeps_nothing(self) -> None:
        for request in ("january", "february", "short"):
            ticket = self.tickets[request]
            if self._closed(ticket.run_id) and self._quiet(ticket.run_id):
                consent = self.runs.job(ticket).consent_secret_id
                left = [name for name in self.runs.released(ticket) if name != consent]
                assert left == [], f"{request}: {left}"
                value = self.runs.governance.secrets.get(consent)
                if value is not None and value.reveal().startswith(b"{"):
                    assert ConsentReceipt.model_validate_json(value.reveal()).consent != "enabled"

    @invariant()
    def outsiders_leave_no_trace(self) -> None:
        outsider = self.runs.world.users[OUTSIDER]
        assert [event for event in self.runs.governance.ledger if event.data.get("caller") == outsider] == []
        name = job_name(COLLABORATION, QUERY, "r-1")
        if name in self.runs.governance.deleted_jobs:
            # The job was deleted for its own request, which the ledger pins, or by a submission that found the run closed.
            assert any(event.id == "pinned.r-1" for event in self.runs.governance.ledger), "deleted without a pin"


class RunLifeWithDeletion(RunLife):
    """Deletes jobs more often. The search for faults needs no deletions, and is faster without them."""

    @rule(request=st.sampled_from(REQUESTS))
    def stop(self, request: str) -> None:
        """Somebody deletes the job of a run."""
        self.call("delete_job", request)
        self.deliver_all()


@contextmanager
def quick_jobs() -> Iterator[None]:
    """Assemble each job once: its query gate takes longer than all the rest of an activity."""
    known: dict[Any, Any] = {}

    def assemble(run: Any, environment: Any) -> Any:
        if run.token not in known:
            known[run.token] = original(run, environment)
        return known[run.token]

    original = verification.assemble_job
    with mock.patch.object(verification, "assemble_job", assemble):
        yield


def explore(world: AuditWorld, examples: int, steps: int, kind: type[RunLife] = RunLife) -> set[str]:
    """Run the machine; raises what it finds, and returns the situations that it reached."""
    machine = type("Machine", (kind,), {"world": world, "reached": set()})
    found = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    with quick_jobs():
        run_state_machine_as_test(machine, settings=found)  # type: ignore[no-untyped-call]
    reached: set[str] = machine.reached  # type: ignore[attr-defined]
    return reached


SITUATIONS = {
    *("usable key", "usable key after the authorisation ended", "closed, quiet", "closed, activity on its way", "expired"),
    *("consent withdrawn during use", "job", "job deleted", "activities lost"),
}


def test_no_order_of_activities_breaks_the_invariants(collaboration: AuditWorld) -> None:
    assert explore(collaboration, 25, 20, RunLifeWithDeletion) == SITUATIONS


# ---------------------------------------------------------------------- the same machine with a fix taken out


def verification_at_each_renewal_taken_out(stack: ExitStack) -> None:
    """Point 2: a watch proves once and renews for ever."""

    async def renew(self: CleanRoomSecrets, request: Any) -> None:
        snapshot = self._room.verifier.snapshot(request.ticket)
        assert snapshot is not None
        job = snapshot.job
        receipt = enabled_receipt(job, verified_at=self._room.now(), authorised_until=NEVER.replace(year=9999))
        await self._write_receipt(job, receipt)

    stack.enter_context(mock.patch.object(CleanRoomSecrets, "_renew", renew))


def pin_taken_out(stack: ExitStack) -> None:
    """Point 3: a run is what its ID says."""

    async def pin(self: RunVerifier, ticket: RunTicket) -> Any:
        return (await self.authority.verify_caller(ticket, past=True))[0]

    async def no_pin(self: RunVerifier, run: Any) -> None: ...

    stack.enter_context(mock.patch.object(RunVerifier, "_pin", no_pin))
    no_pin_demanded(stack)
    stack.enter_context(mock.patch.object(RunVerifier, "pin", pin))


def no_pin_demanded(stack: ExitStack) -> None:
    async def verify_pinned(self: RunAuthority, ticket: RunTicket) -> Any:
        return (await self.verify_caller(ticket, past=True))[0]

    stack.enter_context(mock.patch.object(RunAuthority, "verify_pinned", verify_pinned))
    stack.enter_context(mock.patch.object(RunAuthority, "require_pinned_to", return_value=None))


def second_look_taken_out(stack: ExitStack) -> None:
    """Point 5: a release does not look again."""

    async def confirm(self: RunVerifier, *arguments: Any) -> None: ...

    stack.enter_context(mock.patch.object(RunVerifier, "confirm", confirm))


def pin_for_records_taken_out(stack: ExitStack) -> None:
    """Point 6: whoever signs a request with the run's ID may record and delete."""

    async def pin(self: RunVerifier, ticket: RunTicket) -> Any:
        return (await self.authority.verify_caller(ticket, past=True))[0]

    no_pin_demanded(stack)
    stack.enter_context(mock.patch.object(RunVerifier, "pin", pin))


FAULTS = {
    verification_at_each_renewal_taken_out: "usable after its authorisation ended",
    pin_taken_out: "january",
    second_look_taken_out: "usable|r-1|r-2",
    pin_for_records_taken_out: "RUN_FAILED|PREPARE_STARTED|deleted without a pin",
}


@pytest.mark.parametrize("take_out", FAULTS, ids=lambda fault: fault.__name__)
def test_the_machine_finds_the_fault_when_a_fix_is_taken_out(collaboration: AuditWorld, take_out: Callable[[ExitStack], None]) -> None:
    with ExitStack() as stack:
        take_out(stack)
        with pytest.raises(AssertionError, match=FAULTS[take_out]):
            explore(collaboration, 1_000, 15)
