"""Runs and datasets are ended in every way, by commands and by the buttons of the Web UI; no place contradicts another.

The world is that of :mod:`tests.life_world`: ``RunQuery``, ``ConcludeRun`` and ``PublishS3Dataset`` are real, and their activities wait for
the test.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import CancelledError, TimeoutError, TimeoutType, WorkflowAlreadyStartedError

from cleanroom.errors import Refused, Unavailable
from cleanroom.identifiers import dataset_workflow_id, run_workflow_id
from cleanroom.lifecycle import dataset, run
from cleanroom.messages.run import AuditEvent, JobOutcome, Revoked, RevokeRequest, RunQueryInput, RunTicket
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, event_scope, pin_entry, pinned_event_id, run_facts
from cleanroom.spark.causes import MEANINGS, Cause, cause_of
from cleanroom.spark.run_events import event_id
from cleanroom.statements import RunRequest
from cleanroom.statements.signing import peek
from cleanroom.temporal.attributes import start_attributes
from starters.operations.dataset_states import list_datasets, show_dataset
from tests.life_world import OWNERS, QUERY, Life, LifeWorld, budget, life_world, live
from tests.temporal_in_memory import STATUS
from tests.unit.activities.governance import COLLABORATION
from tests.unit.activities.publishing import publish_dataset
from tests.unit.workflows.driver import CONVERTER, HELD
from tests.unit.workflows.worlds import PREPARED, PUBLISHED, publication, publish_dataset_answers, run_query_answers
from workflows.conclude_run import ConcludeRun
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery

RUN = "r-1"
OPEN = {state.word for state in (run.PREPARING, run.SUBMITTING, run.RUNNING, run.CONCLUDING)}
DATASET = "flights"


class Ledger:
    """The clean room's entries of runs, as its activities write them."""

    def __init__(self, world: LifeWorld) -> None:
        self._world = world

    def _put(self, data: dict[str, Any], id: str, scope: str) -> None:
        client: Any = self._world.owners["fabrikam"].client
        asyncio.run(client.put_event(data, event_id=id, scope=scope, at=self._world.now))

    def pin(self, ticket: RunTicket) -> None:
        request = peek(RunRequest, ticket.request)
        self._put(pin_entry(request, ticket.request), pinned_event_id(ticket.run_id), RUNS_SCOPE)

    def record(self, event: AuditEvent) -> None:
        ticket = event.ticket
        ends = {each.id for each in self._world.governance.ledger if ".run-" in each.id}
        if event.step.startswith("RUN_") and event.step != "RUN_STARTED" and ends - {event_id(ticket.run_id, "RUN_STARTED")}:
            return
        body = run_facts(peek(RunRequest, ticket.request), ticket.request) | {"name": event.step, "message": event.message}
        self._put(body, event_id(ticket.run_id, event.step), event_scope(ticket.run_id))

    def revoke(self, request: RevokeRequest) -> Revoked:
        ticket = request.ticket
        pinned = any(each.id == pinned_event_id(ticket.run_id) for each in self._world.governance.ledger)
        if pinned:
            self._put({"runId": ticket.run_id}, closed_event_id(ticket.run_id), RUNS_SCOPE)
        return Revoked(secrets=3, grants=8, closed=pinned)


def run_world(folder: Path, patch: pytest.MonkeyPatch) -> LifeWorld:
    """A world with an approved query, whose runs and publications wait for the test."""
    world = life_world(folder, patch)
    ledger = Ledger(world)
    held = {"Prepare": HELD, "watch_job": HELD, "record_event": ledger.record, "revoke_grants": ledger.revoke}
    kinds = world.temporal.kinds
    kinds["RunQuery"] = (RunQuery, lambda input: run_query_answers() | held)
    concluding = {"record_event": ledger.record, "revoke_grants": ledger.revoke, "delete_job": True}
    kinds["ConcludeRun"] = (ConcludeRun, lambda input: concluding)
    kinds["PublishS3Dataset"] = (PublishS3Dataset, lambda input: publish_dataset_answers() | {"accept_document": HELD})
    for words, by in (
        (f"cleanroom query create {world.file(0)}", "fabrikam"),
        (f"cleanroom query propose {QUERY}", "fabrikam"),
        *((f"cleanroom query approve {QUERY}", owner) for owner in OWNERS),
    ):
        code, answer = world.command(words, by)
        assert code == 0, answer
    return world


class WorkflowLife(Life):
    """The life of something that has one workflow at a time."""

    shown = ""
    """The state that was shown last."""
    id: str
    """That of the workflow."""

    @property
    def execution(self) -> Any:
        return self.world.temporal.executions.get(self.id)

    @property
    def open(self) -> bool:
        return self.execution is not None and self.execution.status is STATUS.RUNNING

    def finish(self, name: str, answer: Any) -> None:
        self.world.temporal.run_here(lambda: self.execution.driver.finish(name, answer))

    def show_state(self, state: str) -> None:
        if self.shown and self.shown != state:
            self.moves.add((self.shown, state))
        self.shown = state


class RunLife(WorkflowLife):
    """The life of one run."""

    id = run_workflow_id(COLLABORATION, RUN)

    @initialize()
    def begin(self) -> None:
        self.world = run_world(self.new_folder(), self.patch)
        self.ledger = Ledger(self.world)
        code, answer = self.world.command(f"cleanroom run start {QUERY} --run-id {RUN} --no-wait", "fabrikam")
        assert code == 0, answer

    def running(self) -> list[str]:
        found: list[str] = self.execution.driver.running()
        return found

    # ------------------------------------------------------------------ what happens

    @precondition(lambda self: self.open and "Prepare" in self.running())
    @rule(how=st.sampled_from(["prepared", "prepared", "prepared", "refused", "cancelled", "pinned"]))
    def preparation_ends(self, how: str) -> None:
        """``cancelled``: its own workflow was, and not the run's. ``pinned``: it goes on, and has released something."""
        if how != "refused":
            self.ledger.pin(RunQueryInput.model_validate(self.execution.input).ticket)
        if how != "pinned":
            self.finish(
                "Prepare", {"prepared": PREPARED, "refused": Refused("ApprovalExpired", "on purpose")}.get(how, CancelledError("x"))
            )

    @precondition(lambda self: self.open and "watch_job" in self.running())
    @rule(how=st.sampled_from(["completed", "failed", "lost"]))
    def job_ends(self, how: str) -> None:
        lost = TimeoutError("heartbeat", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[])
        failed = JobOutcome(completed=False, error=Refused("SparkOutOfMemory", "on purpose").to_dict())
        self.finish("watch_job", {"completed": JobOutcome(completed=True), "failed": failed, "lost": lost}[how])
        if how == "lost":
            assert self.show()["failure"]["code"] == "WorkerLost"

    @precondition(lambda self: self.open)
    @rule(how=st.sampled_from(["cancel", "terminate", "time out"]))
    def stop(self, how: Literal["cancel", "terminate", "time out"]) -> None:
        """The buttons of the Web UI, and the timeout of the workflow."""
        if how == "time out":
            self.execution.stopped = STATUS.TIMED_OUT
            return
        self.press(self.execution, how)

    @precondition(lambda self: self.open and self.running())
    @rule()
    def worker_is_killed(self) -> None:
        """The server retries the step."""
        item = self.execution.pending.pending_activities.add(attempt=2)
        item.activity_type.name = self.running()[0]
        lost = TimeoutError("heartbeat", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[])
        CONVERTER.failure_converter.to_failure(lost, CONVERTER.payload_converter, item.last_failure)
        [text] = self.show()["retrying"].values()
        assert text.startswith("WorkerLost: ")
        del self.execution.pending.pending_activities[:]

    @rule()
    def cancel(self) -> None:
        code, answer = self.world.command(f"cleanroom run cancel {RUN}", "contosso")
        assert (code == 0) is (self.show()["state"] == "CANCELLED") or answer["code"] == "RunEnded"

    @rule()
    def conclude(self) -> None:
        """Concluding a run that needs it changes its state, and a second time changes nothing."""
        before = self.show()
        code, answer = self.world.command(f"cleanroom run conclude {RUN}", "litware")
        after = self.show()
        if before["state"] == "TERMINATED":
            assert code == 0, answer
            assert (after["state"], after["failure"]["code"]) == ("FAILED", "RunTerminated")
        elif before["state"] in OPEN or before["state"] == "COMPLETED":
            assert answer["code"] == {"COMPLETED": "RunCompleted"}.get(before["state"], "RunStillRuns")
            assert f"`cleanroom run {'show' if before['state'] == 'COMPLETED' else 'cancel'} {RUN}`" in answer["hint"]
        assert before["state"] == "TERMINATED" or after["state"] == before["state"]

    # ------------------------------------------------------------------ invariants

    def show(self) -> Any:
        code, record = self.world.command(f"cleanroom run show {RUN}", "litware")
        assert code == 0, record
        return record

    @invariant()
    def every_place_shows_the_same(self) -> None:
        record = self.show()
        _, [row] = self.world.command("cleanroom run list", "contosso")
        failure = record["failure"]["code"] if record["failure"] else ""
        assert (row["state"], row["failure"]) == (record["state"], failure)
        assert (record["failure"] or {}).get("cause") == cause_of(failure)
        assert ("conclude" in record["next"]) is (record["state"] == "TERMINATED")
        hints = str(record["failure"] or "")
        assert ("run conclude" in hints) is (record["state"] == "TERMINATED")
        if not self.open and record["state"] != "TERMINATED":
            code, ledger = self.world.command(f"cleanroom run show {RUN} --from-ledger", "contosso")
            # A run that was refused before it began is not in the ledger.
            assert code or ledger["state"] in (record["state"], "CLOSED")
        self.show_state(record["state"])


class DatasetLife(WorkflowLife):
    """The life of one dataset."""

    id = dataset_workflow_id(COLLABORATION, DATASET)

    @initialize()
    def begin(self) -> None:
        self.world = run_world(self.new_folder(), self.patch)

    @rule()
    def publish(self) -> None:
        """What `cleanroom dataset publish FILE` starts."""
        values = start_attributes(collaboration=COLLABORATION, kind="dataset", proposer="contosso", datasets=[DATASET])
        input = publication("aws-s3")
        again = self.shown in {state.word for state in (dataset.CANCELLED, dataset.TERMINATED, dataset.FAILED, dataset.NO_WORKFLOW)}
        work = self.world.temporal.start_workflow(
            "PublishS3Dataset",
            input,
            id=self.id,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            search_attributes=values,
        )
        try:
            asyncio.run(work)
        except WorkflowAlreadyStartedError:
            assert not again, "the command that is advised works"

    @precondition(lambda self: self.open)
    @rule(how=st.sampled_from(["accepted", "accepted", "refused"]))
    def publication_ends(self, how: str) -> None:
        if how == "accepted":
            asyncio.run(publish_dataset(self.world.governance, DATASET, "u-contosso", "read"))
        answer: Any = PUBLISHED if how == "accepted" else Refused("DocumentDiffers", "on purpose")
        self.finish("accept_document", answer)

    @precondition(lambda self: self.open)
    @rule(how=st.sampled_from(["cancel", "terminate"]))
    def stop(self, how: Literal["cancel", "terminate"]) -> None:
        self.press(self.execution, how)

    @rule()
    def lose(self) -> None:
        self.world.temporal.lose(self.id)
        self.shown = ""

    @precondition(lambda self: self.shown in ("Accepted", "Consent Withdrawn"))
    @rule(word=st.sampled_from(["on", "off"]))
    def consent(self, word: str) -> None:
        code, answer = self.world.command(f"cleanroom consent {word} {DATASET}", "contosso")
        assert code == 0, answer

    @invariant()
    def list_and_show_agree(self) -> None:
        session = self.world.sessions["litware"]
        rows = {row["dataset"]: row for row in asyncio.run(list_datasets(session))}
        if DATASET not in rows:
            assert self.execution is None
            return
        record = asyncio.run(show_dataset(session, DATASET))
        assert (rows[DATASET]["state"], rows[DATASET]["owner"]) == (record["state"], record["owner"])
        if DATASET in self.world.governance.accepted:
            expected = "Consent Withdrawn" if self.world.governance.refusing[DATASET] else "Accepted"
        else:
            words = {STATUS.RUNNING: "Publishing", STATUS.CANCELED: "Cancelled", STATUS.TERMINATED: "Terminated", STATUS.FAILED: "Failed"}
            expected = words[self.execution.status]
        assert record["state"] == expected
        assert record["failure"] == ("DocumentDiffers" if record["state"] == "Failed" else None)
        self.show_state(record["state"])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("machine", "drawn"), [(RunLife, run.TRANSITIONS), (DatasetLife, dataset.TRANSITIONS)], ids=["run", "dataset"])
def test_no_place_contradicts_another(machine: Any, drawn: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    live(machine, monkeypatch, tmp_path, budget(4, 8))
    assert machine.moves <= {(each.before.word, each.after.word) for each in drawn if each.before} | skipped(machine)


def test_run_show_names_cause_meaning_and_remedy_of_a_failed_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = run_world(tmp_path, monkeypatch)
    code, answer = world.command(f"cleanroom run start {QUERY} --run-id {RUN} --no-wait", "fabrikam")
    assert code == 0, answer
    error = Unavailable("SparkNodeLost", "the driver pod was deleted", hint="Start a new run.", party="operator")
    driver = world.temporal.executions[RunLife.id].driver
    world.temporal.run_here(lambda: driver.finish("Prepare", PREPARED))
    world.temporal.run_here(lambda: driver.finish("watch_job", JobOutcome(completed=False, error=error.to_dict())))
    _, record = world.command(f"cleanroom run show {RUN}", "litware")
    world.temporal.close()
    failure = record["failure"]
    assert (failure["code"], failure["cause"], failure["meaning"]) == ("SparkNodeLost", "NODE_LOST", MEANINGS[Cause.NODE_LOST])
    assert (failure["hint"], failure["party"]) == ("Start a new run.", "operator")


def skipped(machine: Any) -> set[tuple[str, str]]:
    """Moves through states that last no time here: a job is submitted, and a run cleans up, as soon as it can."""
    return {("Preparing", "Running"), ("Running", "COMPLETED")} if machine is RunLife else set()
