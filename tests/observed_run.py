"""Runs workflows that go wrong on a real server, traced and measured: ``python -m tests.observed_run TARGET``.

It prints the spans, and the metrics before and after. It is a process of its own, because a tracer provider and the SDK's runtime stay
for the life of a process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import urllib3
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.runtime import Runtime

from cleanroom import tracing
from cleanroom.errors import Refused
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, run_workflow_id
from cleanroom.messages.cleanup import CleanupInput
from cleanroom.messages.run import ConsentWithdrawn, RunQueryInput
from cleanroom.settings import Settings
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.freshness import GovernanceFreshness
from cleanroom.temporal.telemetry import worker_runtime
from cleanroom.temporal.trace_interceptors import trace_interceptors
from cleanroom.temporal.workers import WorkerSpec, create_worker, replayer
from cleanroom.transport import async_http_client
from localcloud.launcher.processes import free_ports
from tests.patience import PATIENCE
from tests.temporal_env import TEST_KEYRING
from tests.unit.workflows.driver import ARGUMENTS, HELD, UNTIL_CANCELLED
from tests.unit.workflows.worlds import RUN, TICKET, cleanup, held, prepare, run_query
from workers.workload import Workload
from workflows.cleanup import Cleanup
from workflows.prepare import Prepare
from workflows.run_query import RunQuery

CANARY = "CANARY-row-4711"
LAG_SECONDS = 2.1
HEALTHY_SEEN = "2.1"
COLLABORATION = "observed"
WITHDRAWN, NO_QUOTA, BROKEN = "run-2", "run-1", "run-3"
"""A run whose consent is withdrawn and whose grants cannot be revoked, one that is refused, one that hits a bug."""
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


@workflow.defn(sandboxed=False)
class Buggy:
    """Its workflow task fails."""

    @workflow.run
    async def run(self) -> None:
        raise ValueError(CANARY)


async def call_services(port: int) -> None:
    """Request a capability URL with each HTTP library: that of this project, and that under the SDKs of clouds."""
    url = f"http://localhost:{port}/guests/{CANARY}?sig={CANARY}"
    async with async_http_client(timeout=5) as client:
        await client.get(url, headers={"authorization": f"Bearer {CANARY}"})
    with urllib3.PoolManager() as pool:
        await asyncio.to_thread(pool.request, "GET", url, headers={"authorization": CANARY})


def run_of(argument: Any) -> str:
    return str(getattr(getattr(argument, "ticket", argument), "run_id", ""))


def fake(name: str, answer: Any, port: int) -> Callable[..., Any]:
    """An activity with the name and argument type of a real one."""

    async def body(argument: Any) -> Any:
        run_id = run_of(argument)
        if name == "get_users" and run_id == NO_QUOTA:
            await call_services(port)
        if name == "submit_job" and run_id in (NO_QUOTA, BROKEN):
            raise Refused("NoQuota", CANARY) if run_id == NO_QUOTA else ValueError(CANARY)
        if name == "watch_consent" and run_id == WITHDRAWN:
            return ConsentWithdrawn(document_id="orders", message="off")
        if name == "revoke_grants" and run_id == WITHDRAWN:
            raise Refused("NotAllowed", CANARY)
        if answer is UNTIL_CANCELLED or (name == "watch_job" and run_id == WITHDRAWN):
            while True:
                await asyncio.sleep(0.05)
                activity.heartbeat()
        return answer(argument) if callable(answer) else answer

    body.__annotations__ = {"argument": ARGUMENTS[name, False]}
    return activity.defn(name=name)(body)


def all_answers() -> dict[str, Any]:
    """The answers with which the workflows succeed. A cleanup finds a run that has left something."""
    with run_query() as run, prepare() as preparation, cleanup(held("run-9"), input=CleanupInput(collaboration="flights")) as sweep:
        looks = {name: sweep.answers[name] for name in ("find_held", "describe_runs", "list_jobs")}
        return {**preparation.answers, **run.answers, **looks}


async def catch_up(seen: str, lagged: set[str] = set()) -> None:  # noqa: B006 - the set outlives the call
    """Governance lags once behind each transaction, except the healthy run's."""
    if seen not in {HEALTHY_SEEN, *lagged}:
        lagged.add(seen)
        await asyncio.sleep(LAG_SECONDS)


async def lose_temporal(target: str, settings: Settings, runtime: Runtime) -> None:
    """Let a reader of the workload find that its namespace does not answer, three minutes after it was created."""
    client = await Client.connect(target, namespace="lost", runtime=runtime)
    times = iter([datetime.now(UTC) - timedelta(minutes=3)])
    await Workload(client, settings, runtime.metric_meter, now=lambda: next(times, datetime.now(UTC))).refresh()


async def start(client: Client, run_id: str, seen: str = "") -> Any:
    """Start a run and wait until it has ended."""
    ticket = TICKET.model_copy(update={"collaboration": COLLABORATION, "run_id": run_id, "seen": seen})
    input: RunQueryInput = RUN.model_copy(update={"ticket": ticket})
    identity = run_workflow_id(COLLABORATION, run_id)
    with trace.get_tracer("t").start_as_current_span("cleanroom run start"), tracing.run_root(COLLABORATION, run_id, "cleanroom run start"):
        handle = await client.start_workflow(RunQuery.run, input, id=identity, task_queue=CLEAN_ROOM_QUEUE)
    with suppress(WorkflowFailureError):
        await handle.result()
    return handle


async def fill_visibility(client: Client) -> None:
    """Start workflows without a worker: a proposal that waits for five days, a stuck run, and one that is terminated."""
    since = datetime.now(UTC) - timedelta(days=5)
    for name, kind, stage in (
        ("query/q", "query", "query.proposed"),
        ("run/r-stuck", "run", "run.watch"),
        ("run/r-cut", "run", "run.submit"),
    ):
        attributes = start_attributes(collaboration=COLLABORATION, kind=kind, stage=stage, stage_since=since, pending_for=["contosso"])
        handle = await client.start_workflow("None", id=f"cr/{COLLABORATION}/{name}", task_queue="none", search_attributes=attributes)
        if name == "run/r-cut":
            await handle.terminate()


async def until(workload: Workload, scrape: Callable[[], str], *texts: str) -> None:
    """Read the workload until its metrics contain the texts: the visibility store follows the workflows."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await workload.read()
            if all(text in scrape() for text in texts):
                return
            await asyncio.sleep(0.1)


async def main(target: str, answers: dict[str, Any]) -> None:
    """Run, replay, print."""
    exporter, address = InMemorySpanExporter(), f"127.0.0.1:{free_ports(1)[0]}"
    runtime: Runtime = worker_runtime("clean-room", metrics_address=address)

    def scrape() -> str:
        return httpx.get(f"http://{address}/metrics", trust_env=False).text

    with tracing.traced("test", exporter=exporter):
        client = await Client.connect(
            target, data_converter=data_converter(TEST_KEYRING), interceptors=trace_interceptors(), runtime=runtime
        )
        untraced = await Client.connect(target, data_converter=data_converter(TEST_KEYRING))
        server = ThreadingHTTPServer(("localhost", 0), _Service)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        activities = [
            fake(name, answer, server.server_port) for name, answer in answers.items() if (name, False) in ARGUMENTS and answer is not HELD
        ]
        settings = Settings(collaboration=COLLABORATION, boundary="frontend", parties={"contosso": "u1", "litware": "u2"})
        workload = Workload(client, settings, runtime.metric_meter)
        workflows = (RunQuery, Prepare, Cleanup, Buggy)
        fresh = GovernanceFreshness(catch_up, lambda: "")
        async with (
            create_worker(client, WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, workflows, activities)),
            create_worker(client, WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), activities, (fresh,))),
        ):
            await start(untraced, "run-0", seen=HEALTHY_SEEN)
            await workload.refresh()
            before = scrape()
            buggy = await client.start_workflow(Buggy.run, id="buggy", task_queue=CLEAN_ROOM_QUEUE)
            refused, *_ = await asyncio.gather(
                start(client, NO_QUOTA),
                start(client, WITHDRAWN, seen="2.7"),
                start(client, BROKEN),
                client.execute_workflow(Cleanup.run, CleanupInput(collaboration=COLLABORATION), id="sweep", task_queue=CLEAN_ROOM_QUEUE),
                fill_visibility(client),
            )
            await until(
                workload,
                scrape,
                'cleanroom_runs_stuck{stage="run.watch",boundary="clean-room"} 1',
                'not_concluded{boundary="clean-room"} 1',
            )
            await lose_temporal(target, settings, runtime)
            after = scrape()
            await buggy.terminate()
        spans = len(exporter.get_finished_spans())
        history = await refused.fetch_history()
        await replayer([RunQuery], keyring=TEST_KEYRING, namespace=client.namespace, interceptors=trace_interceptors()).replay_workflow(
            history
        )
        finished = exporter.get_finished_spans()
    print(
        json.dumps(
            {
                "replayed": len(finished) - spans,
                "headers": _headers,
                "spans": [shown(span) for span in finished],
                "scrapes": [before, after],
            }
        )
    )


def shown(span: ReadableSpan) -> dict[str, Any]:
    """All that a span says."""
    found: dict[str, Any] = json.loads(span.to_json(indent=None))
    return found


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], all_answers()))
