"""Forged inputs of the activities that prepare, run, record and undo a run."""

from __future__ import annotations

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, job_name
from cleanroom.messages.run import (
    AuditEvent,
    CollectRequest,
    RunQueryInput,
    ServiceProof,
    StagedSecret,
    SubmitRequest,
    TrackingId,
    VerifyPolicyRequest,
    VerifySparkRequest,
    WatchRequest,
)
from starters.operations.consent import set_consent
from starters.operations.session import run_async
from tests.local_cloud import Cloud, World, ticket_of
from tests.scenario.forged.attacker import Attacker, call_activity, prepare_run, refusal_of_workflow, releasable_state, revoke_run
from tests.scenario.forged.builders import (
    RELEASES,
    Forgery,
    at_each_release,
    edited_job,
    grant_request,
    idp_request,
    job_for,
    replace_parts,
    same_run_id,
    stage_request,
)
from tests.scenario.forged.conftest import Refuse
from workflows.prepare import Prepare

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]

FORGERIES = [
    *at_each_release("another run's proof", "NonceMismatch", lambda attacker: replace_parts(attacker.run, ticket=attacker.fresh_ticket)),
    *at_each_release("a closed run, replayed", "RunClosed", lambda attacker: attacker.closed_run),
    *at_each_release(
        "the attacker's own Spark service",
        "HostDataMismatch",
        lambda attacker: replace_parts(attacker.run, proof=attacker.own_service(attacker.run.ticket)),
    ),
    *at_each_release(
        "a request under another run's id",
        "TicketMismatch",
        lambda attacker: replace_parts(attacker.run, ticket=attacker.run.ticket.model_copy(update={"run_id": "r-other"})),
    ),
    *at_each_release(
        "a request that was edited",
        "SignatureInvalid",
        lambda attacker: replace_parts(attacker.run, ticket=attacker.edited_ticket),
    ),
    *at_each_release(
        "policies that the genuine service signed for an edited job",
        "PolicyJobMismatch",
        lambda attacker: replace_parts(attacker.run, proof=attacker.genuine_service(attacker.run.ticket, edited_job(attacker.run))),
    ),
    *at_each_release(
        "another request with this run's ID",
        "RunPinnedToAnotherRequest",
        lambda attacker: replace_parts(attacker.run, ticket=same_run_id(attacker)),
    ),
    Forgery(
        name="an end of the run by another request with its ID",
        queue=CLEAN_ROOM_QUEUE,
        activity="record_event",
        code="RunPinnedToAnotherRequest",
        argument=lambda attacker: AuditEvent(ticket=same_run_id(attacker), step="RUN_FAILED", message="it failed"),
    ),
    Forgery(
        name="an attested end of the run",
        queue=CLEAN_ROOM_QUEUE,
        activity="record_event",
        code="AuditStepNotAttested",
        argument=lambda attacker: AuditEvent(ticket=attacker.run.ticket, step="RUN_COMPLETED", proof=attacker.run.proof),
    ),
    Forgery(
        name="a second job of the run",
        queue=SPARK_SERVICE_QUEUE,
        activity="submit_job",
        code="RunPinnedToAnotherRequest",
        argument=lambda attacker: SubmitRequest(ticket=same_run_id(attacker), job=attacker.run.result.job),
    ),
    Forgery(
        name="deleting the job with another request",
        queue=SPARK_SERVICE_QUEUE,
        activity="delete_job",
        code="RunPinnedToAnotherRequest",
        argument=same_run_id,
    ),
    Forgery(
        name="the report of this run with the policies of another run",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="NonceMismatch",
        argument=lambda attacker: grant_request(
            attacker.run,
            proof=ServiceProof(
                report=attacker.run.proof.report,
                policies=attacker.genuine_service(attacker.fresh_ticket, attacker.run.result.job).policies,
            ),
        ),
    ),
    Forgery(
        name="a ticket for another collaboration",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="CollaborationMismatch",
        argument=lambda attacker: grant_request(attacker.run, ticket=attacker.run.ticket.model_copy(update={"collaboration": "other"})),
    ),
    Forgery(
        name="a request for another query of the same caller",
        queue=CLEAN_ROOM_QUEUE,
        activity="get_secret",
        code="TicketMismatch",
        argument=lambda attacker: stage_request(
            attacker.run, ticket=attacker.run.ticket.model_copy(update={"query": attacker.proposed_query.query})
        ),
    ),
    Forgery(
        name="an owner's decision in place of a run request",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="StatementMalformed",
        argument=lambda attacker: grant_request(
            attacker.run,
            ticket=attacker.run.ticket.model_copy(update={"request": attacker.decision(attacker.cloud.contosso)}),
        ),
    ),
    Forgery(
        name="the owner's own secret instead of the run's copy",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="SecretNotInJob",
        argument=lambda attacker: grant_request(
            attacker.run,
            secret=StagedSecret(
                dataset=attacker.world.planes.name,
                kind="key",
                secret_id=f"{attacker.cloud.litware.user_id}_{attacker.world.planes.name}.key",
            ),
        ),
    ),
    Forgery(
        name="another run's secret",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="SecretNotInJob",
        argument=lambda attacker: grant_request(attacker.run, secret=attacker.closed_run.result.secrets[0]),
    ),
    Forgery(
        name="no secret",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="PayloadMalformed",
        argument=lambda attacker: {**grant_request(attacker.run).model_dump(mode="json"), "secret": None},
    ),
    Forgery(
        name="the consent receipt in place of a dataset's secret",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="SecretNotInJob",
        argument=lambda attacker: grant_request(
            attacker.run,
            secret=StagedSecret(dataset=attacker.world.planes.name, kind="consent", secret_id=attacker.run.result.job.consent_secret_id),
        ),
    ),
    Forgery(
        name="an unknown pod role",
        queue=CLEAN_ROOM_QUEUE,
        activity="set_secret",
        code="PayloadMalformed",
        argument=lambda attacker: {**grant_request(attacker.run).model_dump(mode="json"), "role": "attacker"},
    ),
    Forgery(
        name="a dataset that the query does not name",
        queue=CLEAN_ROOM_QUEUE,
        activity="get_secret",
        code="DatasetNotInQuery",
        argument=lambda attacker: stage_request(attacker.run, dataset=attacker.pending_spec.name),
    ),
    Forgery(
        name="get_secret for a dataset whose key is in Key Vault",
        queue=CLEAN_ROOM_QUEUE,
        activity="get_secret",
        code="UnexpectedSecretBackingResourceType",
        argument=lambda attacker: stage_request(attacker.run, dataset=attacker.world.flights.name),
    ),
    Forgery(
        name="get_key_with_skr for a dataset without Key Vault",
        queue=CLEAN_ROOM_QUEUE,
        activity="get_key_with_skr",
        code="AccessIdentityMissing",
        argument=lambda attacker: stage_request(attacker.run, dataset=attacker.world.planes.name),
    ),
    Forgery(
        name="a report made for another run",
        queue=CLEAN_ROOM_QUEUE,
        activity="verify_spark",
        code="NonceMismatch",
        argument=lambda attacker: VerifySparkRequest(ticket=attacker.fresh_ticket, report=attacker.run.proof.report),
    ),
    Forgery(
        name="a statement of the attacker's own Spark service",
        queue=CLEAN_ROOM_QUEUE,
        activity="verify_security_policy",
        code="HostDataMismatch",
        argument=lambda attacker: VerifyPolicyRequest(ticket=attacker.run.ticket, proof=attacker.own_service(attacker.run.ticket)),
    ),
    Forgery(
        name="an unknown audit step",
        queue=CLEAN_ROOM_QUEUE,
        activity="record_event",
        code="AuditStepUnknown",
        argument=lambda attacker: AuditEvent(ticket=attacker.run.ticket, step="ALL_OWNERS_AGREED", message="they did"),
    ),
    Forgery(
        name="an audit entry with another run's proof",
        queue=CLEAN_ROOM_QUEUE,
        activity="record_event",
        code="NonceMismatch",
        argument=lambda attacker: AuditEvent(
            ticket=attacker.fresh_ticket, step="PREPARED", message="pods may run", proof=attacker.run.proof
        ),
    ),
    Forgery(
        name="an audit entry for an edited request",
        queue=CLEAN_ROOM_QUEUE,
        activity="record_event",
        code="SignatureInvalid",
        argument=lambda attacker: AuditEvent(ticket=attacker.edited_ticket, step="RUN_STARTED", message="it runs"),
    ),
    Forgery(
        name="the result of a run that was not submitted",
        queue=CLEAN_ROOM_QUEUE,
        activity="collect_result",
        code="CompletionEvidenceMissing",
        argument=lambda attacker: CollectRequest(ticket=attacker.run.ticket, job_digest=attacker.run.result.job_digest),
    ),
    Forgery(
        name="an edited job",
        queue=SPARK_SERVICE_QUEUE,
        activity="submit_job",
        code="JobMismatch",
        argument=lambda attacker: SubmitRequest(ticket=attacker.run.ticket, job=edited_job(attacker.run)),
    ),
    Forgery(
        name="another run's job",
        queue=SPARK_SERVICE_QUEUE,
        activity="submit_job",
        code="JobMismatch",
        argument=lambda attacker: SubmitRequest(ticket=attacker.fresh_ticket, job=attacker.run.result.job),
    ),
    Forgery(
        name="the job of a closed run",
        queue=SPARK_SERVICE_QUEUE,
        activity="submit_job",
        code="RunClosed",
        argument=lambda attacker: SubmitRequest(ticket=attacker.closed_run.ticket, job=attacker.closed_run.result.job),
    ),
    Forgery(
        name="the job of an edited request",
        queue=SPARK_SERVICE_QUEUE,
        activity="submit_job",
        code="SignatureInvalid",
        argument=lambda attacker: SubmitRequest(ticket=attacker.edited_ticket, job=job_for(attacker, attacker.edited_ticket)),
    ),
    Forgery(
        name="watching another run's job",
        queue=SPARK_SERVICE_QUEUE,
        activity="watch_job",
        code="JobMismatch",
        argument=lambda attacker: WatchRequest(
            ticket=attacker.fresh_ticket,
            tracking=TrackingId(
                name=job_name(attacker.cloud.collaboration, attacker.run.ticket.query, attacker.run.ticket.run_id),
                namespace="analytics",
                uid="",
            ),
            driver_start_seconds=1,
            run_seconds=1,
        ),
    ),
    Forgery(
        name="deleting another run's job",
        queue=SPARK_SERVICE_QUEUE,
        activity="delete_job",
        code="TicketMismatch",
        argument=lambda attacker: attacker.fresh_ticket.model_copy(update={"run_id": attacker.run.ticket.run_id}),
    ),
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_forged_input_is_refused_and_changes_nothing(attacker: Attacker, refused: Refuse, forgery: Forgery) -> None:
    refused(forgery)


def test_genuine_inputs_are_accepted(attacker: Attacker) -> None:
    """Control: the activities do not refuse every input."""
    before = releasable_state(attacker)
    run_async(call_activity(attacker.cloud, CLEAN_ROOM_QUEUE, "set_secret", grant_request(attacker.run)))
    run_async(call_activity(attacker.cloud, CLEAN_ROOM_QUEUE, "configure_idp", idp_request(attacker.run)))
    assert releasable_state(attacker) == before, "the preparation made these grants already"


def test_revoking_with_a_forged_request_removes_nothing(attacker: Attacker) -> None:
    """The activity derives host data and secrets from the signed request."""
    before = releasable_state(attacker)
    forged = attacker.fresh_ticket.model_copy(update={"run_id": attacker.run.ticket.run_id})
    for ticket in (attacker.edited_ticket, forged, same_run_id(attacker)):
        assert revoke_run(attacker.cloud, ticket).grants == 0
    assert releasable_state(attacker) == before
    assert attacker.run.ticket.run_id in str(before["delegates"])


def test_nothing_is_released_after_consent_was_withdrawn(attacker: Attacker) -> None:
    """No activity releases anything while one approver has disabled consent."""
    cloud, name = attacker.cloud, attacker.query.query
    run_async(set_consent(cloud.litware, name, enabled=False))
    try:
        before = releasable_state(attacker)
        for activity, build in RELEASES.items():
            with pytest.raises(CleanRoomError) as caught:
                run_async(call_activity(cloud, CLEAN_ROOM_QUEUE, activity, build(attacker.run)))
            assert (activity, caught.value.code) == (activity, "UserDocumentRuntimeOptionDisabled")
        request = SubmitRequest(ticket=attacker.run.ticket, job=attacker.run.result.job)
        with pytest.raises(CleanRoomError) as caught:
            run_async(call_activity(cloud, SPARK_SERVICE_QUEUE, "submit_job", request))
        assert caught.value.code == "UserDocumentRuntimeOptionDisabled"
        assert releasable_state(attacker) == before
    finally:
        run_async(set_consent(cloud.litware, name, enabled=True))


def test_run_limit_holds_when_activities_are_called_alone(cloud: Cloud, world: World) -> None:
    """With an approval for one run, the second run gets no consent receipt, although the attacker skips the workflow."""
    state = cloud.approved_query(world.query("once"), max_runs=1)
    others = cloud.leftovers.grants()
    runs = [prepare_run(cloud, ticket_of(cloud, state.query, state.digest)[0]) for _ in range(2)]
    try:
        request = RELEASES["issue_consent_receipt"](runs[0])
        run_async(call_activity(cloud, CLEAN_ROOM_QUEUE, "issue_consent_receipt", request, StagedSecret))
        with pytest.raises(CleanRoomError) as caught:
            run_async(call_activity(cloud, CLEAN_ROOM_QUEUE, "issue_consent_receipt", RELEASES["issue_consent_receipt"](runs[1])))
        assert caught.value.code == "ApprovalRunsExhausted"
    finally:
        for run in runs:
            revoke_run(cloud, run.ticket)
    assert cloud.leftovers.grants() == others


def test_preparation_of_a_closed_run_is_refused(attacker: Attacker) -> None:
    before = releasable_state(attacker)
    request = RunQueryInput(ticket=attacker.closed_run.ticket, caller="fabrikam")
    assert refusal_of_workflow(attacker.cloud, Prepare.run, request, CLEAN_ROOM_QUEUE, query=attacker.query.query) == "RunClosed"
    assert releasable_state(attacker) == before


def test_delegate_policies_in_the_database_are_those_of_the_api(attacker: Attacker) -> None:
    """The checks after each forgery read the database of the stand-in, the product reads the API."""
    cloud = attacker.cloud

    async def served() -> dict[tuple[str, str], dict[str, list[str]]]:
        async with cloud.fabrikam.governance() as client:
            places = [(item.delegate_type, item.delegate_id) for item in await client.list_delegates(cloud.collaboration)]
            return {place: await client.delegate_policy(cloud.collaboration, *place) for place in places}

    assert cloud.leftovers.delegates() == run_async(served())
    assert cloud.leftovers.grants() != {}
