"""The JSON lines of a worker: what they are about, and what they do not contain."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from temporalio import activity
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from cleanroom.identifiers import dataset_workflow_id, prepare_workflow_id, query_workflow_id, run_workflow_id, workflow_subject
from cleanroom.messages.run import RevokeRequest
from cleanroom.temporal.json_logs import JsonFormatter, LogSubject
from tests.unit.workflows.worlds import TICKET, run_query

logger = logging.getLogger("cleanroom.test")
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Returns the lines so far."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("clean-room"))
    targets = (logger, logging.getLogger("temporalio.workflow"))
    for target in targets:
        target.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for target in targets:
        target.removeHandler(handler)


def test_a_line_is_one_object_with_time_and_boundary(lines: Lines) -> None:
    logger.info("two\nlines %d", 1)
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {"level": "INFO", "logger": "cleanroom.test", "message": "two\nlines 1", "boundary": "clean-room"}


async def test_a_line_of_an_activity_names_its_run_and_query(lines: Lines) -> None:
    async def revoke_grants() -> None:
        logger.warning("slow")

    class Body(ActivityInboundInterceptor):
        def __init__(self) -> None:
            pass

        async def execute_activity(self, input: ExecuteActivityInput) -> Any:
            await revoke_grants()

    environment = ActivityEnvironment()
    environment.info = replace(
        environment.default_info(), workflow_id=run_workflow_id("flights", "run-1"), activity_type="revoke_grants", attempt=3
    )

    @activity.defn
    async def act() -> None:
        request = RevokeRequest(ticket=TICKET)
        body = LogSubject().intercept_activity(Body())
        await body.execute_activity(ExecuteActivityInput(fn=act, args=[request], executor=None, headers={}))
        logger.info("after")

    await environment.run(act)
    inside, after = lines()
    assert {key: inside[key] for key in ("collaboration", "query", "run", "activity", "attempt", "workflow")} == {
        "collaboration": TICKET.collaboration,
        "query": TICKET.query,
        "run": TICKET.run_id,
        "activity": "revoke_grants",
        "attempt": 3,
        "workflow": "cr/flights/run/run-1",
    }
    assert "query" not in after


def test_a_line_of_a_workflow_names_its_workflow(lines: Lines) -> None:
    with run_query(revoke_grants=ValueError("x")):
        pass
    assert [line["workflow"] for line in lines() if "cleanup step failed" in line["message"]] == ["w"]


def test_credentials_and_the_texts_of_exceptions_are_removed(lines: Lines) -> None:
    try:
        raise ValueError("row 4711 of CANARY")
    except ValueError:
        logger.exception("call with Bearer abcdefgh12345678")
    (line,) = lines()
    assert line["message"] == "call with Bearer [removed]"
    assert line["error"]["type"] == "ValueError"
    assert "test_credentials_and" in line["error"]["frames"][-1]
    assert "CANARY" not in json.dumps(line)


@pytest.mark.parametrize(
    ("workflow_id", "subject"),
    [
        (run_workflow_id("c", "r-1"), {"collaboration": "c", "run": "r-1"}),
        (prepare_workflow_id("c", "r-1"), {"collaboration": "c", "run": "r-1"}),
        (query_workflow_id("c", "q"), {"collaboration": "c", "query": "q"}),
        (dataset_workflow_id("c", "d"), {"collaboration": "c", "dataset": "d"}),
        ("other/system", {}),
    ],
)
def test_a_workflow_id_tells_what_it_is_about(workflow_id: str, subject: dict[str, str]) -> None:
    assert workflow_subject(workflow_id) == subject
