"""What workflows and activities record, with which labels; the gauges of the workload; and the SDK's real Prometheus endpoint."""

from __future__ import annotations

import asyncio
import inspect
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.common import TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from cleanroom.errors import PreconditionFailed, Refused, Unavailable
from cleanroom.messages.cleanup import CleanupInput, StatesFound, WorkflowState
from cleanroom.messages.run import ConsentWithdrawn, Revoked, RevokeRequest
from cleanroom.settings import Settings
from cleanroom.temporal import metrics
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.freshness import GovernanceFreshness
from cleanroom.temporal.metrics import METRICS, OTHER, bounded
from cleanroom.temporal.telemetry import worker_runtime
from cleanroom.temporal.translation import ErrorTranslation
from localcloud.launcher.processes import free_ports
from tests.metric_recorder import MetricRecorder
from tests.patience import PATIENCE
from tests.run_world import RunWorld
from tests.unit.activities.conftest import collaboration, runs
from tests.unit.activities.test_run_grants import begin
from tests.unit.workflows.driver import HELD, UNTIL_CANCELLED
from tests.unit.workflows.worlds import RUN, TICKET, cleanup, held, prepare, publish_query, run_query
from workers.workload import Workload

_ = (collaboration, runs)
NEVER_A_LABEL = {"run-1", "totals", "flights", "u-contosso"}


def require_bounded(recorder: MetricRecorder) -> None:
    """No value of a label names a query, a run, a collaboration or a user."""
    values = {value for _, labels in recorder.values for _, value in labels}
    assert values.isdisjoint(NEVER_A_LABEL), values


# ---------------------------------------------------------------------- workflows


def test_a_run_records_its_steps_and_its_outcome() -> None:
    assert RUN.ticket.run_id in NEVER_A_LABEL
    with run_query() as run:
        steps = run.metrics.of(metrics.STEP_SECONDS)
        assert {step for kind, step, result in steps if (kind, result) == ("run", "done")} == {
            *("prepare", "consent", "submit", "watch", "result", "revoke")
        }
        assert run.metrics.of(metrics.WORKFLOWS_CLOSED) == {("run", "COMPLETED"): [1]}
        assert run.metrics.of(metrics.CONSENT_WITHDRAWN) == {}
        require_bounded(run.metrics)


def test_the_duration_of_a_step_is_that_of_the_workflow_clock() -> None:
    with run_query(watch_job=HELD) as run:
        run.advance(seconds=90)
        run.finish("watch_job", Refused("JobFailed", "x"))
        assert run.metrics.of(metrics.STEP_SECONDS)["run", "watch", "failed"] == [90]
        assert run.metrics.of(metrics.WORKFLOWS_CLOSED) == {("run", "JobFailed"): [1]}


def test_withdrawn_consent_and_a_failed_cleanup_are_counted() -> None:
    withdrawn = ConsentWithdrawn(document_id="orders", message="off")
    with run_query(watch_job=UNTIL_CANCELLED, watch_consent=withdrawn, revoke_grants=Refused("NotAllowed", "x")) as run:
        assert run.metrics.of(metrics.CONSENT_WITHDRAWN) == {(): [1]}
        assert run.metrics.of(metrics.CLEANUP_FAILURES) == {("NotAllowed",): [1]}


def test_a_preparation_records_its_steps() -> None:
    with prepare() as run:
        kinds = {(kind, step) for kind, step, _ in run.metrics.of(metrics.STEP_SECONDS)}
        assert kinds >= {("prepare", "approvals"), ("prepare", "secrets"), ("prepare", "idp")}
        assert run.metrics.of(metrics.WORKFLOWS_CLOSED) == {("prepare", "succeeded"): [1]}
        require_bounded(run.metrics)


def test_the_cleanup_reports_the_grants_that_remain() -> None:
    """Held: three secrets and six grants to them, of two ended runs, of which one cannot be undone."""
    with cleanup(held("run-1"), held("run-2"), revoke_grants=[Revoked(secrets=3, grants=6), Refused("NotAllowed", "x")]) as run:
        assert run.metrics.of(metrics.GRANTS_OUTSTANDING) == {("open",): [0], ("ended",): [6], ("unknown",): [0]}
    with cleanup(held("run-1"), input=CleanupInput(collaboration="flights")) as run:
        assert run.metrics.of(metrics.GRANTS_OUTSTANDING) == {("open",): [0], ("ended",): [6], ("unknown",): [0]}
    is_open = StatesFound(namespace_id="n", states={"run-1": WorkflowState(state="open")})
    with cleanup(held("run-1"), describe_runs=is_open) as run:
        assert run.metrics.of(metrics.GRANTS_OUTSTANDING) == {("open",): [6], ("ended",): [0], ("unknown",): [0]}


def test_a_proposal_is_as_old_as_its_proposal_after_a_vote() -> None:
    """A vote changes the page, but not the time since when owners have been waiting."""
    with publish_query() as run:
        run.signal("propose", {"authorisation": "s.i.g", "party": "fabrikam"})
        since = run.attributes["CrStageSince"]
        run.advance(hours=5)
        run.signal("approve", {"decision": "approve.u-contosso.signed"})
        assert run.attributes["CrPendingFor"] == ["litware"]
        assert run.attributes["CrStageSince"] == since
        run.advance(hours=1)
        run.signal("approve", {"decision": "approve.u-litware.signed"})
        assert run.attributes["CrStage"] == ["query.approved"]
        assert run.metrics.of(metrics.PROPOSAL_SECONDS) == {("approved",): [6 * 3600]}
        run.cancel()
        assert run.metrics.of(metrics.WORKFLOWS_CLOSED) == {("query", "cancelled"): [1]}
        require_bounded(run.metrics)


# ---------------------------------------------------------------------- activities


class _Body(ActivityInboundInterceptor):
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if self.error is not None:
            raise self.error


async def through(interceptor: ActivityInboundInterceptor, *arguments: Any) -> MetricRecorder:
    """Run an activity through an interceptor and return what it recorded."""
    environment, recorder = ActivityEnvironment(), MetricRecorder()
    environment.metric_meter = recorder.meter

    async def act() -> None:
        await interceptor.execute_activity(ExecuteActivityInput(fn=act, args=list(arguments), executor=None, headers={}))

    activity.defn(act)
    with suppress(ApplicationError):
        await environment.run(act)
    return recorder


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (Refused("SecretRevoked", "x"), {("SecretRevoked",): [1]}),
        (ValueError("row 4711"), {("UnexpectedError",): [1]}),
        (PreconditionFailed("NotYet", "x", retryable=True), {}),
        (Refused("a code with 'text'", "x"), {(OTHER,): [1]}),
    ],
    ids=["refused", "unexpected", "expected wait", "no code"],
)
async def test_a_failed_attempt_is_counted_by_its_code(error: Exception, counted: dict[tuple[str], list[float]]) -> None:
    recorder = await through(ErrorTranslation().intercept_activity(_Body(error)))
    assert recorder.of(metrics.ACTIVITY_FAILURES) == counted


async def test_the_wait_for_governance_is_recorded() -> None:
    async def catch_up(seen: str) -> None:
        assert seen == "2.7"

    ticket = TICKET.model_copy(update={"seen": "2.7"})
    recorder = await through(GovernanceFreshness(catch_up, lambda: "").intercept_activity(_Body()), ticket)
    assert list(recorder.of(metrics.GOVERNANCE_WAIT_SECONDS)) == [()]


async def test_governance_that_lags_too_long_is_a_counted_failure() -> None:
    async def catch_up(seen: str) -> None:
        raise Unavailable("GovernanceBehind", "x")

    ticket = TICKET.model_copy(update={"seen": "2.7"})
    recorder = await through(GovernanceFreshness(catch_up, lambda: "").intercept_activity(_Body()), ticket)
    assert recorder.of(metrics.ACTIVITY_FAILURES) == {("GovernanceBehind",): [1]}


async def test_grants_made_equal_grants_revoked_and_released_secrets_are_counted(runs: RunWorld) -> None:
    ticket = runs.ticket("run-1")
    await begin(runs, ticket)
    await runs.call(runs.process.secrets.revoke_grants, RevokeRequest(ticket=ticket))
    counted = {key: sum(values) for key, values in runs.metrics.of(metrics.GRANTS).items()}
    assert counted["made",] == counted["revoked",] > 0
    assert set(runs.metrics.of(metrics.KEY_RELEASES)) <= {("governance",), ("key-vault",)}
    require_bounded(runs.metrics)


def test_the_number_of_values_of_a_label_is_bounded() -> None:
    values = [bounded("test", f"Code{number}") for number in range(2_000)]
    assert len(set(values)) <= 401
    assert values[-1] == OTHER
    assert bounded("test", "Code0") == "Code0"


def test_a_label_that_the_table_does_not_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        metrics.ACTIVITY_FAILURES.add(MetricRecorder().meter, code="x", run="r-1")


MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("metric", "buckets"),
    [
        (metrics.STEP_SECONDS, (0.1, 0.5, 1, 2.5, 5, 10, 30, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 6 * HOUR)),
        (
            metrics.PROPOSAL_SECONDS,
            (MINUTE, 10 * MINUTE, HOUR, 4 * HOUR, DAY, 3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY),
        ),
        (metrics.GOVERNANCE_WAIT_SECONDS, (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)),
    ],
    ids=["steps", "proposals", "governance"],
)
def test_histograms_have_the_buckets_of_the_dashboard(metric: metrics.Metric, buckets: tuple[float, ...]) -> None:
    """A recorded series continues only while its buckets stay."""
    assert tuple(metric.buckets) == buckets


def test_only_the_name_of_a_counter_loses_its_suffix() -> None:
    """The exporter adds the suffix to counters."""
    values = {kind: metrics.Metric("x_total", kind, (), "all", "") for kind in ("counter", "gauge", "histogram")}
    assert {kind: metric.recorded_name for kind, metric in values.items()} == {"counter": "x", "gauge": "x_total", "histogram": "x_total"}


# ---------------------------------------------------------------------- the workload

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Found:
    """A workflow in the answer of the visibility store."""

    id: str
    typed_search_attributes: TypedSearchAttributes
    start_time: datetime = NOW


@dataclass
class Visibility:
    """A client whose visibility store answers by the text of the query."""

    answers: dict[str, list[Found]]
    asked: list[str] = field(default_factory=list)
    on_list: Callable[[], Any] = lambda: None

    async def list_workflows(self, query: str) -> AsyncIterator[Found]:
        self.asked.append(query)
        self.on_list()
        for text, found in self.answers.items():
            if text in query:
                for item in found:
                    yield item


def workload(answers: dict[str, list[Found]]) -> tuple[Workload, MetricRecorder, Visibility]:
    recorder, visibility = MetricRecorder(), Visibility(answers)
    settings = Settings(collaboration="flights", boundary="frontend", parties={"contosso": "u1", "litware": "u2"})
    return Workload(cast(Client, visibility), settings, recorder.meter, interval=0, now=lambda: NOW), recorder, visibility


def last(recorder: MetricRecorder, metric: metrics.Metric) -> dict[tuple[str, ...], float]:
    """Latest values that are not zero."""
    return {key: values[-1] for key, values in recorder.of(metric).items() if values[-1]}


async def test_approvals_are_counted_by_approver_and_age() -> None:
    def proposed(hours: float, *pending: str) -> Found:
        return Found("cr/flights/query/q", start_attributes(pending_for=pending, stage_since=NOW - timedelta(hours=hours)))

    found = [proposed(0.5, "contosso", "litware"), proposed(30, "contosso"), proposed(24 * 8, "litware", "outsider")]
    reader, recorder, visibility = workload({"CrStage = 'query.proposed'": found})
    await reader.read()
    assert last(recorder, metrics.APPROVALS_PENDING) == {
        ("contosso", "1h"): 1,
        ("litware", "1h"): 1,
        ("contosso", "7d"): 1,
        ("litware", "older"): 1,
        (OTHER, "older"): 1,
    }
    assert last(recorder, metrics.OLDEST_APPROVAL_SECONDS)["contosso",] == 30 * 3600
    assert all("CrCollab = 'flights'" in text for text in visibility.asked)
    visibility.answers.clear()
    await reader.read()
    assert last(recorder, metrics.APPROVALS_PENDING) == {}, "a gauge keeps its value until it is set"


@pytest.mark.parametrize(
    ("stage", "minutes", "stuck"),
    [
        # Six hours for the run, 15 minutes for the start of its driver, and 15 minutes.
        *(("run.watch", 60 * 6 + 30, 0), ("run.watch", 60 * 6 + 31, 1), ("run.prepare", 30, 0), ("run.prepare", 31, 1)),
        *((f"run.{stage}", minutes, minutes - 15) for stage in ("submit", "conclude", "cleanup") for minutes in (15, 16)),
    ],
)
async def test_a_run_is_stuck_after_the_longest_time_of_its_stage(stage: str, minutes: int, stuck: int) -> None:
    run = Found("cr/flights/run/r-1", start_attributes(stage=stage, stage_since=NOW - timedelta(minutes=minutes)))
    reader, recorder, _ = workload({"CrKind = 'run'": [run], "Terminated": []})
    await reader.read()
    assert last(recorder, metrics.RUNS_OPEN) == {(stage,): 1}
    assert last(recorder, metrics.RUNS_STUCK) == ({(stage,): 1} if stuck else {})


async def test_a_run_that_no_worker_has_taken_is_stuck_in_its_preparation() -> None:
    run = Found("cr/flights/run/r-1", TypedSearchAttributes.empty, NOW - timedelta(hours=2))
    reader, recorder, _ = workload({"ExecutionStatus = 'Running' AND CrKind = 'run'": [run]})
    await reader.read()
    assert last(recorder, metrics.RUNS_STUCK) == {("run.prepare",): 1}


async def test_a_proposal_without_search_attributes_waits_for_nobody() -> None:
    """The server may list a workflow before it has them."""
    found = [
        Found("cr/flights/query/new", TypedSearchAttributes.empty, NOW - timedelta(hours=2)),
        Found("cr/flights/query/old", start_attributes(pending_for=["litware"]), NOW - timedelta(hours=2)),
        Found("cr/flights/query/now", start_attributes(pending_for=["contosso"], stage_since=NOW - timedelta(seconds=0.5))),
    ]
    reader, recorder, _ = workload({"CrStage = 'query.proposed'": found})
    await reader.read()
    assert last(recorder, metrics.APPROVALS_PENDING) == {("litware", "1d"): 1, ("contosso", "1h"): 1}
    assert last(recorder, metrics.OLDEST_APPROVAL_SECONDS) == {("litware",): 7200, ("contosso",): 0.5}


async def test_runs_that_ended_without_revoking_are_counted_until_they_are_concluded() -> None:
    cut = [Found(f"cr/flights/run/r-{number}", TypedSearchAttributes.empty) for number in (1, 2)]
    reader, recorder, visibility = workload({"'Terminated'": cut})
    await reader.read()
    assert last(recorder, metrics.RUNS_NOT_CONCLUDED) == {(): 2}
    visibility.answers["CrKind = 'conclude'"] = [Found("cr/flights/run/r-1/conclude", TypedSearchAttributes.empty)]
    await reader.read()
    assert last(recorder, metrics.RUNS_NOT_CONCLUDED) == {(): 1}


@pytest.mark.parametrize(
    ("age", "label"),
    [
        (timedelta(minutes=59), "1h"),
        (timedelta(hours=1), "1d"),
        (timedelta(hours=23), "1d"),
        (timedelta(days=1), "7d"),
        (timedelta(days=6), "7d"),
        (timedelta(days=7), "older"),
    ],
    ids=str,
)
async def test_an_age_is_below_its_label(age: timedelta, label: str) -> None:
    found = Found("cr/flights/query/q", start_attributes(pending_for=["litware"], stage_since=NOW - age))
    reader, recorder, _ = workload({"CrStage = 'query.proposed'": [found]})
    await reader.read()
    assert last(recorder, metrics.APPROVALS_PENDING) == {("litware", label): 1}


@pytest.mark.parametrize("stage", ["run.prepare", "run.submit", "run.watch", "run.conclude", "run.cleanup"])
async def test_each_stage_of_a_run_has_its_gauge(stage: str) -> None:
    run = Found("cr/flights/run/r-1", start_attributes(stage=stage, stage_since=NOW))
    reader, recorder, _ = workload({"ExecutionStatus = 'Running' AND CrKind = 'run'": [run]})
    await reader.read()
    assert last(recorder, metrics.RUNS_OPEN) == {(stage,): 1}


async def test_without_workflows_every_gauge_is_zero() -> None:
    reader, recorder, _ = workload({})
    await reader.refresh()
    assert {value for values in recorder.values.values() for value in values} == {0}
    assert recorder.of(metrics.RUNS_NOT_CONCLUDED) == {(): [0]}
    assert len(recorder.of(metrics.APPROVALS_PENDING)) == 3 * 4


async def test_the_reader_reads_until_its_context_ends() -> None:
    reader, recorder, visibility = workload({})
    reads = asyncio.Event()
    visibility.on_list = lambda: reads.set() if len(visibility.asked) > 6 else None
    names = [task.get_name() for task in asyncio.all_tasks()]
    async with reader, asyncio.timeout(PATIENCE):
        await reads.wait()
        assert sorted(task.get_name() for task in asyncio.all_tasks()) == sorted((*names, "workload-metrics"))
    assert sorted(task.get_name() for task in asyncio.all_tasks()) == sorted(names)
    asked = len(visibility.asked)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(visibility.asked) == asked
    assert recorder.of(metrics.VISIBILITY_AGE_SECONDS)


def test_the_workload_is_read_four_times_a_minute() -> None:
    assert inspect.signature(Workload).parameters["interval"].default == 15


async def test_without_an_answer_the_age_grows_and_the_gauges_stay() -> None:
    recorder, times = MetricRecorder(), iter([NOW, NOW + timedelta(minutes=3), NOW + timedelta(minutes=3)])
    visibility = Visibility({})
    visibility.on_list = lambda: (_ for _ in ()).throw(RPCError("down", RPCStatusCode.UNAVAILABLE, b""))
    settings = Settings(collaboration="flights", boundary="frontend", parties={})
    await Workload(cast(Client, visibility), settings, recorder.meter, now=lambda: next(times)).refresh()
    assert recorder.of(metrics.VISIBILITY_AGE_SECONDS) == {(): [180]}
    assert recorder.of(metrics.RUNS_OPEN) == {}


# ---------------------------------------------------------------------- the endpoint


def test_the_endpoint_shows_every_metric_under_its_documented_name() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    runtime = worker_runtime("frontend", metrics_address=address)  # the endpoint ends with the runtime
    meter = runtime.metric_meter
    for metric in METRICS:
        labels = dict.fromkeys(metric.labels, "x")
        {"counter": metric.add, "gauge": metric.set, "histogram": metric.record}[metric.kind](meter, 1, **labels)
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE).read().decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        for bound in metric.buckets:
            assert f'le="{bound if bound % 1 else int(bound)}"' in text
    assert all('boundary="frontend"' in line for line in text.splitlines() if line.startswith("cleanroom_"))


def test_buckets_grow_and_reach_what_they_measure() -> None:
    for metric in METRICS:
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert sorted(set(metric.buckets)) == list(metric.buckets)
    assert {6 * 3600, 60} <= set(metrics.STEP_SECONDS.buckets), "the longest run, and a minute"
    assert {86400, 14 * 86400} <= set(metrics.PROPOSAL_SECONDS.buckets), "a day, and the life of a proposal"
    assert {1, 2} <= set(metrics.GOVERNANCE_WAIT_SECONDS.buckets), "the pace of commits, and the limit of the alert"


def test_an_address_in_use_is_an_error_with_a_remedy() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    first = worker_runtime("frontend", metrics_address=address)
    with pytest.raises(PreconditionFailed, match=address) as raised:
        worker_runtime("frontend", metrics_address=address)
    assert raised.value.code == "MetricsAddressUnavailable"
    assert first is not None
