"""Runs ``RunQuery`` with tracing on a real server, then replays it, and prints the spans: ``python -m tests.traced_workflow TARGET``.

It is a process of its own because a tracer provider stays for the life of a process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import WorkflowIDReusePolicy

from cleanroom import tracing
from cleanroom.errors import Refused
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, run_workflow_id
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.trace_interceptors import trace_interceptors
from cleanroom.temporal.workers import WorkerSpec, create_worker, replayer
from cleanroom.transport import async_http_client
from tests.temporal_env import TEST_KEYRING
from tests.unit.workflows.driver import ARGUMENTS, HELD, UNTIL_CANCELLED
from tests.unit.workflows.worlds import RUN, prepare, run_query
from workflows.prepare import Prepare
from workflows.run_query import RunQuery

CANARY = "CANARY-row-4711"
_headers: list[str] = []
"""Names of the request headers that the server received."""


class _Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _headers.extend(self.headers.keys())
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


async def call_services(port: int) -> None:
    """Request a capability URL with each HTTP library: that of this project, and that under the SDKs of clouds."""
    url = f"http://localhost:{port}/guests/{CANARY}?sig={CANARY}"
    async with async_http_client(timeout=5) as client:
        await client.get(url, headers={"authorization": f"Bearer {CANARY}"})
    with urllib3.PoolManager() as pool:
        await asyncio.to_thread(pool.request, "GET", url, headers={"authorization": CANARY})


def fake(name: str, answer: Any, port: int) -> Callable[..., Any]:
    """An activity with the name and argument type of a real one."""
    kind = ARGUMENTS[name, False]

    async def body(argument: Any) -> Any:
        if name == "get_users":
            await call_services(port)
        if answer is UNTIL_CANCELLED:
            while True:
                await asyncio.sleep(0.05)
                activity.heartbeat()
        if isinstance(answer, Exception):
            raise answer
        return answer(argument) if callable(answer) else answer

    body.__annotations__ = {"argument": kind}
    return activity.defn(name=name)(body)


def all_answers() -> dict[str, Any]:
    """The answers with which both workflows succeed, except that the Spark service refuses the job."""
    with run_query() as run, prepare() as preparation:
        return {**preparation.answers, **run.answers, "submit_job": Refused("NoQuota", CANARY)}


async def main(target: str, answers: dict[str, Any]) -> None:
    """Run, replay, print."""
    exporter = InMemorySpanExporter()
    with tracing.traced("test", exporter=exporter):
        client = await Client.connect(target, data_converter=data_converter(TEST_KEYRING), interceptors=trace_interceptors())
        server = ThreadingHTTPServer(("localhost", 0), _Service)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        activities = [
            fake(name, answer, server.server_port) for name, answer in answers.items() if (name, False) in ARGUMENTS and answer is not HELD
        ]
        ticket = RUN.ticket
        async with (
            create_worker(client, WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, (RunQuery, Prepare), activities)),
            create_worker(client, WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), activities)),
        ):
            with trace.get_tracer("t").start_as_current_span("cleanroom run start"):
                with tracing.run_root(ticket.collaboration, ticket.run_id, "cleanroom run start"):
                    handle = await client.start_workflow(
                        RunQuery.run,
                        RUN,
                        id=run_workflow_id(ticket.collaboration, ticket.run_id),
                        task_queue=CLEAN_ROOM_QUEUE,
                        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    )
                with suppress(WorkflowFailureError):
                    await handle.result()
        before = len(exporter.get_finished_spans())
        history = await handle.fetch_history()
        await replayer([RunQuery], keyring=TEST_KEYRING, namespace=client.namespace, interceptors=trace_interceptors()).replay_workflow(
            history
        )
        spans = exporter.get_finished_spans()
    print(json.dumps({"replayed": len(spans) - before, "headers": _headers, "spans": [shown(span) for span in spans]}))


def shown(span: ReadableSpan) -> dict[str, Any]:
    """All that a span says."""
    return json.loads(span.to_json(indent=None))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], all_answers()))
