"""What the Spark service's activities verify, what they pass on to the service, and what they undo."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.errors import CleanRoomError, PreconditionFailed, Unavailable
from cleanroom.identifiers import job_name
from cleanroom.messages.cleanup import JobsRequest, RunJob, UnpinnedJob
from cleanroom.messages.run import (
    AuditEvent,
    ConsentReceiptRequest,
    PolicyRequest,
    ReportRequest,
    RevokeRequest,
    RunTicket,
    SubmitRequest,
    TrackingId,
    WatchRequest,
)
from cleanroom.settings import SparkSettings
from cleanroom.spark.job import JobParameters
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import SIZES, PodProfile
from cleanroom.spark.service import SparkService
from cleanroom.spark.status import JobStatus
from cleanroom.statements import load_or_create_signing_key
from tests.audit_records import COLLABORATION, QUERY
from tests.audit_world import AuditWorld
from tests.run_world import OUTSIDER, RunWorld, add_outsider
from tests.unit.spark_support import make_profile


@dataclass
class Service:
    """Notes what it is asked for."""

    runs: RunWorld
    submitted: list[tuple[Any, PodProfile, frozenset[str]]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    watched: list[Any] = field(default_factory=list)
    outcome: Any = None
    on_submit: Any = None

    async def attestation_report(self, nonce: str) -> Any:
        return f"report for {nonce}"

    async def security_policy(self, job: Any, profile: PodProfile, nonce: str) -> Any:
        policies = pod_policies(job, profile)
        return type("Signed", (), {"statement": f"{profile.resources.driver_cores} cores, {nonce}", "policies": policies})

    async def submit(self, job: Any, profile: PodProfile, granted: frozenset[str]) -> Any:
        self.submitted.append((job, profile, granted))
        if self.on_submit is not None:
            await self.on_submit()
        name = job_name(job.contract_id, job.query_id, job.run_id)
        return type("Submitted", (), {"tracking_id": name, "namespace": "spark", "uid": "uid-1"})

    async def watch(self, name: str, report: Any, deadlines: Any, *, uid: str | None) -> Any:
        self.watched.append((name, deadlines, uid))
        report(JobStatus(tracking_id=name, uid="uid-1", state="RUNNING"))
        report(JobStatus(tracking_id=name, uid="uid-1", state=""))
        return self.outcome

    async def delete(self, name: str, *, uid: str | None = None) -> bool:
        assert uid in (None, "uid-9")
        self.deleted.append(name)
        return True


@pytest.fixture(scope="module")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    folder = Path(tmp_path_factory.mktemp("spark-activities"))
    world = AuditWorld(folder, max_runs=5)
    add_outsider(world, load_or_create_signing_key(folder / OUTSIDER))
    return world


@pytest.fixture
def service(runs: RunWorld, monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service(runs)
    monkeypatch.setattr(runs.process.spark, "_service", found)
    return found


async def prepared(runs: RunWorld, run_id: str = "r-1") -> RunTicket:
    """A run whose consent receipt is issued and granted."""
    ticket = runs.ticket(run_id)
    await runs.call(runs.process.secrets.issue_consent_receipt, ConsentReceiptRequest(ticket=ticket, proof=runs.proof(ticket)))
    return ticket


async def pinned(runs: RunWorld, run_id: str = "r-1") -> RunTicket:
    ticket = runs.ticket(run_id)
    await runs.call(runs.process.governance.record_event, AuditEvent(ticket=ticket, step="PREPARE_STARTED"))
    return ticket


async def refused(work: Any) -> CleanRoomError:
    with pytest.raises(CleanRoomError) as caught:
        await work
    return caught.value


def name_of(ticket: RunTicket) -> str:
    return job_name(COLLABORATION, QUERY, ticket.run_id)


# ---------------------------------------------------------------------- report and policies


async def test_the_report_is_for_the_nonce_of_the_run(runs: RunWorld, service: Service) -> None:
    assert await runs.process.spark.get_attestation_report(ReportRequest(nonce="a" * 64)) == f"report for {'a' * 64}"


async def test_the_policies_are_those_of_the_accepted_pods_with_this_deployments_resources(runs: RunWorld, service: Service) -> None:
    runs.settings.__dict__["spark"] = SparkSettings()
    job = runs.job(runs.ticket("r-1"))
    found = await runs.process.spark.get_security_policy(PolicyRequest(job=job, nonce="a" * 64))
    expected = pod_policies(job, make_profile())
    assert (found.driver_host_data, found.executor_host_data) == (expected.driver.host_data, expected.executor.host_data)
    assert found.driver_host_data != found.executor_host_data
    assert found.statement.endswith(f"cores, {'a' * 64}")


async def test_a_size_that_is_not_offered_ends_the_preparation(runs: RunWorld, service: Service) -> None:
    runs.settings.__dict__["spark"] = SparkSettings(largest_size="small")
    job = runs.job(runs.ticket("r-1"))
    sizes = {size: job.model_copy(update={"parameters": JobParameters(size=size)}) for size in ("small", "medium")}
    found = await runs.process.spark.get_security_policy(PolicyRequest(job=sizes["small"], nonce="a" * 64))
    assert found.statement.startswith(f"{SIZES['small'].driver_cores} cores")
    error = await refused(runs.process.spark.get_security_policy(PolicyRequest(job=sizes["medium"], nonce="a" * 64)))
    assert (error.code, error.retryable) == ("SizeNotOffered", False)


# ---------------------------------------------------------------------- submission


async def test_a_job_is_submitted_for_the_pods_that_the_receipt_is_granted_to(runs: RunWorld, service: Service) -> None:
    ticket = await prepared(runs)
    job = runs.job(ticket)
    # Another grant of the run, and the host that no guest has, do not count.
    runs.governance.delegates["secrets", "cleanroom_other"] = {"ab" * 32}
    runs.governance.delegates["secrets", job.consent_secret_id].add(NOBODY)
    tracking = await runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=job))
    assert tracking == TrackingId(name=name_of(ticket), namespace="spark", uid="uid-1")
    [(submitted, profile, granted)] = service.submitted
    assert (submitted, granted) == (job, frozenset(pod_policies(job, make_profile()).host_data()))
    assert pod_policies(job, profile) == pod_policies(job, make_profile())
    assert service.deleted == []
    assert HOST_DATA not in granted


async def test_a_job_that_differs_from_what_governance_gives_is_not_submitted(runs: RunWorld, service: Service) -> None:
    ticket = await prepared(runs)
    other = runs.job(ticket).model_copy(update={"event_scope": "mine"})
    error = await refused(runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=other)))
    assert (error.code, error.party) == ("JobMismatch", "operator")
    assert error.details == {"asked": other.digest(), "assembled": runs.job(ticket).digest()}
    assert service.submitted == []


async def test_a_run_that_the_ledger_does_not_pin_is_not_submitted(runs: RunWorld, service: Service) -> None:
    ticket = runs.ticket("r-1")
    error = await refused(runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=runs.job(ticket))))
    assert (error.code, service.submitted) == ("RunNotPinned", [])


async def test_a_run_that_is_not_authorised_any_longer_is_not_submitted(runs: RunWorld, service: Service) -> None:
    ticket = await prepared(runs)
    runs.governance.withdrawn.add(QUERY)
    assert (await refused(runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=runs.job(ticket))))).code
    runs.governance.withdrawn.clear()
    runs.now += dt.timedelta(hours=13)
    assert (await refused(runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=runs.job(ticket))))).code
    assert service.submitted == []


async def test_a_run_that_was_closed_while_it_was_submitted_is_deleted(runs: RunWorld, service: Service) -> None:
    ticket = await prepared(runs)

    async def close() -> None:
        await runs.call(runs.process.secrets.revoke_grants, RevokeRequest(ticket=ticket))

    service.on_submit = close
    error = await refused(runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=runs.job(ticket))))
    assert (error.code, service.deleted) == ("RunClosed", [name_of(ticket)])


async def test_a_submission_whose_check_cannot_be_made_is_repeated_and_not_deleted(
    runs: RunWorld, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = await prepared(runs)
    genuine = runs.process.client.latest_event

    async def fails() -> None:
        async def away(*arguments: Any, **options: Any) -> Any:
            raise Unavailable("GovernanceUnreachable", "on purpose")

        monkeypatch.setattr(runs.process.client, "latest_event", away)

    service.on_submit = fails
    request = SubmitRequest(ticket=ticket, job=runs.job(ticket))
    error = await refused(runs.call(runs.process.spark.submit_job, request))
    assert (error.retryable, service.deleted) == (True, [])
    service.on_submit = None
    monkeypatch.setattr(runs.process.client, "latest_event", genuine)
    assert (await runs.call(runs.process.spark.submit_job, request)).uid == "uid-1"


# ---------------------------------------------------------------------- watching and deleting


def watch(ticket: RunTicket, **changes: Any) -> WatchRequest:
    tracking = {"name": name_of(ticket), "namespace": "spark", "uid": "uid-1"} | changes
    return WatchRequest(ticket=ticket, tracking=TrackingId(**tracking), driver_start_seconds=11, run_seconds=22)


async def test_a_job_is_watched_by_name_and_uid_with_its_deadlines(runs: RunWorld, service: Service) -> None:
    ticket = await pinned(runs)
    service.outcome = _outcome(None)
    environment = ActivityEnvironment()
    heartbeats: list[Any] = []
    environment.on_heartbeat = lambda *details: heartbeats.append(details)
    found = await environment.run(runs.process.spark.watch_job, watch(ticket))
    assert (found.completed, found.error, found.may_have_completed) == (True, None, False)
    [(name, deadlines, uid)] = service.watched
    assert (name, uid) == (name_of(ticket), "uid-1")
    assert (deadlines.driver_start_seconds, deadlines.run_seconds) == (11, 22)
    assert [details[0].split(" at ")[0] for details in heartbeats if details] == ["RUNNING", "NEW: the driver pod does not exist yet"]
    await runs.call(runs.process.spark.watch_job, watch(ticket, uid=""))
    assert service.watched[-1][2] is None


def _outcome(error: CleanRoomError | None, *, may: bool = False) -> Any:
    return type("Found", (), {"error": lambda self: error, "may_have_completed": may})()


@pytest.mark.parametrize("may", [True, False])
async def test_the_outcome_of_a_failed_job_says_whether_it_may_have_completed(runs: RunWorld, service: Service, may: bool) -> None:
    ticket = await pinned(runs)
    error = PreconditionFailed("JobFailed", "on purpose", party="operator")
    service.outcome = _outcome(error, may=may)
    found = await runs.call(runs.process.spark.watch_job, watch(ticket))
    assert (found.completed, found.error, found.may_have_completed) == (False, error.to_dict(), may)
    service.outcome = _outcome(None, may=True)
    assert (await runs.call(runs.process.spark.watch_job, watch(ticket))).may_have_completed is False


async def test_the_responsible_owner_of_a_failed_job_is_named(runs: RunWorld, service: Service) -> None:
    ticket = await pinned(runs)
    user = runs.settings.parties["contosso"]
    service.outcome = _outcome(PreconditionFailed("DATASET_NOT_UNIQUE", f"of {user}", party=user))
    error = (await runs.call(runs.process.spark.watch_job, watch(ticket))).error
    assert error is not None
    assert (error["party"], error["message"]) == ("contosso", "of contosso")


async def test_a_job_of_another_run_and_the_job_of_another_request_are_not_watched(runs: RunWorld, service: Service) -> None:
    ticket = await pinned(runs)
    other = runs.ticket("r-2")
    assert (await refused(runs.call(runs.process.spark.watch_job, watch(ticket, name=name_of(other))))).code == "JobMismatch"
    assert (await refused(runs.call(runs.process.spark.watch_job, watch(other)))).code == "RunNotPinned"
    outsider = runs.ticket("r-1", by=OUTSIDER)
    assert (await refused(runs.call(runs.process.spark.watch_job, watch(outsider)))).code == "RunPinnedToAnotherRequest"
    forged = ticket.model_copy(update={"request": ticket.request[:-8] + "AAAAAAAA"})
    assert (await refused(runs.call(runs.process.spark.watch_job, watch(forged)))).code == "SignatureInvalid"
    assert service.watched == []


async def test_the_watch_of_a_run_whose_request_has_expired_continues(runs: RunWorld, service: Service) -> None:
    ticket = await pinned(runs)
    service.outcome = _outcome(None)
    runs.now += dt.timedelta(days=2)
    assert (await runs.call(runs.process.spark.watch_job, watch(ticket))).completed
    assert len(service.watched) == 1


async def test_only_the_pinned_request_deletes_the_job_of_its_run(runs: RunWorld, service: Service) -> None:
    ticket = await pinned(runs)
    assert (await refused(runs.call(runs.process.spark.delete_job, runs.ticket("r-1", by=OUTSIDER)))).code == "RunPinnedToAnotherRequest"
    assert (await refused(runs.call(runs.process.spark.delete_job, runs.ticket("r-2")))).code == "RunNotPinned"
    assert service.deleted == []
    assert await runs.call(runs.process.spark.delete_job, ticket) is True
    assert service.deleted == [name_of(ticket)]


# ---------------------------------------------------------------------- what exists


def application(run_id: str, **changes: Any) -> dict[str, Any]:
    """A SparkApplication of a run, as the API returns it."""
    name = changes.pop("name", job_name(COLLABORATION, QUERY, run_id))
    state = {"status": {"applicationState": {"state": changes.pop("state")}}} if "state" in changes else {}
    metadata = {
        "name": name,
        "uid": f"uid-{run_id}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"cleanroom/run": run_id, "cleanroom/query": QUERY},
        "annotations": {"cleanroom/contract": COLLABORATION},
    }
    return {"metadata": metadata | changes} | state


class Applications:
    """A cluster with these applications."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found, self.selectors = list(found), list[str]()

    def applications(self, label_selector: str) -> list[dict[str, Any]]:
        self.selectors.append(label_selector)
        return self.found


async def test_only_applications_of_this_collaborations_runs_that_have_not_ended_are_listed(
    runs: RunWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster: Any = Applications(
        application("r-1", state="RUNNING"),
        application("r-2"),
        application("r-3", state="COMPLETED"),
        application("r-4", state="FAILED"),
        application("r-5", name="made-by-another-program"),
        application("r-6", annotations={"cleanroom/contract": "other"}),
        application("r-7", annotations=None),
        application("r-8", labels=None),
        application("r-9", creationTimestamp=None),
    )
    attestor: Any = None
    monkeypatch.setattr(runs.process.spark, "_service", SparkService(attestor, cluster))
    found = await runs.call(runs.process.spark.list_jobs, JobsRequest(collaboration=COLLABORATION))
    assert [(job.run_id, job.uid, job.query) for job in found.jobs] == [("r-1", "uid-r-1", QUERY), ("r-2", "uid-r-2", QUERY)]
    assert cluster.selectors == ["cleanroom/run,cleanroom/query"]


async def test_applications_of_another_collaboration_are_not_listed_for_it(runs: RunWorld) -> None:
    error = await refused(runs.call(runs.process.spark.list_jobs, JobsRequest(collaboration="other")))
    assert error.code == "CollaborationMismatch"


def unpinned(run_id: str = "r-9", **changes: Any) -> UnpinnedJob:
    name = job_name(COLLABORATION, QUERY, run_id)
    job = {"name": name, "uid": "uid-9", "run_id": run_id, "query": QUERY, "created_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
    return UnpinnedJob(collaboration=changes.pop("collaboration", COLLABORATION), job=RunJob.model_validate(job | changes))


async def test_an_application_of_a_run_that_the_ledger_does_not_know_is_deleted(runs: RunWorld, service: Service) -> None:
    assert await runs.call(runs.process.spark.delete_unpinned_job, unpinned()) is True
    assert service.deleted == [job_name(COLLABORATION, QUERY, "r-9")]


async def test_an_application_of_a_run_is_not_deleted_as_one_that_the_ledger_does_not_know(runs: RunWorld, service: Service) -> None:
    await pinned(runs, "r-1")
    for request, code in (
        (unpinned("r-1"), "RunPinned"),
        (unpinned(name="of-another-program"), "JobMismatch"),
        (unpinned(collaboration="other"), "CollaborationMismatch"),
    ):
        assert (await refused(runs.call(runs.process.spark.delete_unpinned_job, request))).code == code
    assert service.deleted == []
