"""Positions in governance's ledger that travel: from worker to worker with messages, through workflows, and to commands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import NotFound, Unavailable
from cleanroom.identifiers import Seen
from cleanroom.messages.base import Message
from cleanroom.messages.publish import PublishedDataset
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunQueryInput
from cleanroom.settings import Settings
from cleanroom.temporal.freshness import GovernanceFreshness
from starters.operations import datasets, runs
from starters.operations.session import Session

# -- positions that travel with workflows


class Started(Message):
    seen: Seen = ""


class Carrier(Message):
    command: Started = Started()
    seen: Seen = ""


class Answering(ActivityInboundInterceptor):
    def __init__(self, result: Any) -> None:
        self.result = result

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        return self.result


def call_of(*arguments: Any) -> ExecuteActivityInput:
    return ExecuteActivityInput(fn=lambda: None, args=arguments, executor=None, headers={})


async def test_an_activity_waits_for_what_its_input_has_seen_and_tells_what_it_has_seen() -> None:
    waited: list[str] = []

    async def catch_up(seen: str) -> None:
        waited.append(seen)

    fresh = GovernanceFreshness(catch_up, lambda: "2.50")
    argument = Carrier(command=Started(seen="2.7"), seen="2.8")
    run = ActivityEnvironment().run
    result = await run(fresh.intercept_activity(Answering(Started())).execute_activity, call_of(argument, "text"))
    assert sorted(waited) == ["2.7", "2.8"]
    assert result.seen == "2.50"
    kept = await run(fresh.intercept_activity(Answering(Started(seen="2.9"))).execute_activity, call_of())
    assert kept.seen == "2.9"
    assert await run(fresh.intercept_activity(Answering(None)).execute_activity, call_of(Carrier())) is None


class Calls(WorkflowOutboundInterceptor):
    """Answers the calls of a workflow, and remembers their arguments."""

    def __init__(self) -> None:
        self.arguments: list[Any] = []
        self.results: list[Any] = []

    def start_activity(self, input: Any) -> Any:
        self.arguments.append(input.args[0])

        async def answer() -> Any:
            result = self.results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        return asyncio.create_task(answer())

    async def start_child_workflow(self, input: Any) -> Any:
        return self.start_activity(input)


class InWorkflow(WorkflowInboundInterceptor):
    """A workflow that returns ``result``."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.outbound: Any = None

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        self.outbound = outbound

    async def execute_workflow(self, input: Any) -> Any:
        return self.result


def calling(argument: Any) -> Any:
    return SimpleNamespace(args=[argument])


async def test_a_workflow_hands_on_what_its_activities_have_seen() -> None:
    async def catch_up(seen: str) -> None: ...

    kind: Any = GovernanceFreshness(catch_up, lambda: "").workflow_interceptor_class(SimpleNamespace())  # type: ignore[arg-type]
    inner, calls = InWorkflow(Started()), Calls()
    workflow = kind(inner)
    workflow.init(calls)
    calls.results = [Started(seen="2.9"), None, Unavailable("X", "x"), Carrier(command=Started(seen="2.12")), Started(), Started()]
    await inner.outbound.start_activity(calling(Carrier(seen="2.5")))
    await inner.outbound.start_activity(calling(Carrier(seen="2.5")))
    with pytest.raises(Unavailable):
        await inner.outbound.start_activity(calling("text"))
    child = await inner.outbound.start_child_workflow(calling(Carrier(command=Started(seen="2.5"))))
    await child
    await inner.outbound.start_activity(calling(Started()))
    await inner.outbound.start_activity(calling(Started(seen="2.20")))
    assert [getattr(argument, "seen", "") for argument in calls.arguments] == ["2.5", "2.9", "", "2.9", "2.12", "2.20"]
    assert calls.arguments[3].command.seen == "2.9"
    assert (await workflow.execute_workflow(SimpleNamespace())).seen == "2.12"


async def test_an_activity_that_cannot_catch_up_fails_and_can_be_retried() -> None:
    async def catch_up(seen: str) -> None:
        raise Unavailable("GovernanceBehind", f"no node has seen {seen}")

    async def activity_body() -> None:
        fresh = GovernanceFreshness(catch_up, lambda: "")
        await fresh.intercept_activity(Answering(None)).execute_activity(call_of(Started(seen="2.7")))

    with pytest.raises(ApplicationError) as failed:
        await ActivityEnvironment().run(activity_body)
    assert (failed.value.type, failed.value.non_retryable) == ("GovernanceBehind", False)


@pytest.mark.parametrize("seen", ["2", "2.x", "two", "2.5 ", "-1.5"])
def test_a_message_with_another_text_as_position_is_rejected(seen: str) -> None:
    with pytest.raises(ValidationError):
        Started(seen=seen)


# -- positions in commands


def session_of(folder: Path) -> Session:
    settings = Settings(profile="fabrikam", party="fabrikam", parties={"fabrikam": "u-1"}, collaboration="c", keys_dir=folder / "keys")
    return Session(settings, plaintext=True)


def test_a_session_expects_the_latest_transaction_with_its_first_client_and_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "credential", lambda self: SimpleNamespace(get_token=lambda scope: SimpleNamespace(token="t")))
    session = session_of(tmp_path)
    session.settings.governance.__dict__["url"] = "https://localhost:1"
    for seen in ("2.7", "2.9", "2.8", ""):
        session.expect(seen)
    position = session.governance().position
    assert position.expected == "2.9"
    position.expected = ""
    assert session.governance().position is position
    assert position.expected == "", "each is awaited once"
    session.expect("2.10")
    assert position.expected == "2.10"


@pytest.mark.parametrize(("answers", "seen"), [(True, "2.9"), (False, "")], ids=["workflow", "no workflow"])
async def test_a_run_request_carries_what_the_query_has_seen(
    tmp_path: Path, answers: bool, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_state(session: Session, query: str) -> QueryState:
        if not answers:
            raise NotFound("WorkflowNotFound", query)
        return QueryState(query=query, stage="Approved", seen="2.9")

    started: list[RunQueryInput] = []

    async def start_workflow(name: str, input: RunQueryInput, **options: Any) -> None:
        started.append(input)

    async def temporal(session: Session) -> Any:
        return SimpleNamespace(start_workflow=start_workflow)

    monkeypatch.setattr(runs, "read_state", read_state)
    monkeypatch.setattr(Session, "temporal", temporal)
    await runs.start_run(session_of(tmp_path), "q", "0" * 64, "r-1")
    assert [input.ticket.seen for input in started] == [seen]


async def test_after_a_publication_the_session_reads_the_accepted_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PublishedDataset(document_id="d", version="2.31", digest="0" * 64, proposal_id="p", owner_id="u-1")
    expected: list[str] = []

    async def follow(*arguments: Any) -> PublishedDataset:
        return published

    async def start_workflow(*arguments: Any, **options: Any) -> None: ...

    async def temporal(session: Session) -> Any:
        return SimpleNamespace(start_workflow=start_workflow)

    monkeypatch.setattr(datasets, "pin_manifest", lambda session, spec: spec)
    monkeypatch.setattr(datasets, "follow_timeline", follow)
    monkeypatch.setattr(Session, "temporal", temporal)
    monkeypatch.setattr(Session, "expect", lambda self, seen: expected.append(seen))
    store = {"kind": "aws-s3", "bucket": "rows", "connectionSecret": "secret:s3"}
    spec = DatasetSpec.model_validate({"name": "d", "format": "csv", "access": "read", "schema": {"a": "string"}, "store": store})
    assert (await datasets.publish_dataset(session_of(tmp_path), spec))["version"] == "2.31"
    assert expected == ["2.31"]
