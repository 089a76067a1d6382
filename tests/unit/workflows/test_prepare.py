"""The steps of a preparation, what each is asked for, what a restart of the Spark service repeats, and what a failure stops."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.errors import Conflict, Refused, Unavailable
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.messages.run import NOT_REMEMBERED, Grant, Grants, Reference
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.second_look import CONCURRENT_DATASETS
from tests.unit.spark_support import make_job
from tests.unit.workflows.driver import HELD, Driver
from tests.unit.workflows.worlds import APPROVALS, JOB, PROOF, SNAPSHOT, SPARK, TICKET, azure_job, prepare, staged

CHECKS = ("get_users", "PREPARE_STARTED", "fetch_query", "validate_access_and_approvals", "check_execution_consent", "build_job")
ATTESTATION = ("get_attestation_report", "verify_spark", "get_security_policy", "verify_security_policy")
RESTARTED = Refused("PolicySignatureInvalid", "on purpose")
LABELS = (
    "Get users, validate the caller",
    "Fetch query",
    "Validate dataset access and query approvals",
    "Check execution consent",
    "Get attestation report of the Spark service",
    "Verify Spark service",
    "Get security policy of each pod role",
    "Get secrets and set them for the pods",
    "Configure IDP for the pods",
)


def steps(driver: Driver) -> list[str]:
    """Calls in order, with ledger entries by their step."""
    return [call.argument.step if call.name == "record_event" else call.name for call in driver.calls]


def arguments(driver: Driver, name: str) -> list[Any]:
    return [call.argument for call in driver.calls if call.name == name]


def test_every_check_ends_before_anything_is_released() -> None:
    with prepare() as run:
        assert tuple(steps(run)) == (
            *CHECKS, *ATTESTATION, "get_secret", "get_secret", "set_secret", "set_secret", "configure_idp", "GRANTED", "PREPARED",
        )  # fmt: skip
        assert [line.split(" (")[0].split(" — ")[0] for line in run.query("timeline")] == [f"done: {label}" for label in LABELS]
        stages = [written["CrStage"][0] for written in run.written if "CrStage" in written]
        assert stages == [f"prepare.{name}" for name in ("checks", "attestation", "release_keys", "idp", "closed")]
        assert run.attributes["CrOutcome"] == ["succeeded"]
        assert "Prepare run run-1 of totals" in run.details.replace("\\", "")


@pytest.mark.parametrize("step", [*CHECKS, *ATTESTATION, "get_secret", "set_secret", "configure_idp"])
def test_a_refusal_ends_the_preparation(step: str) -> None:
    name = "record_event" if step == "PREPARE_STARTED" else step
    with prepare(**{name: Refused("RunClosed", "on purpose")}) as run:
        assert run.code == "RunClosed"
        assert run.attributes["CrOutcome"] == ["RunClosed"]
        assert steps(run)[-1] in (step, "get_secret", "set_secret")
        assert run.running() == []


def test_every_request_is_for_this_run_and_what_was_verified() -> None:
    nonce = service_nonce(TICKET)
    with prepare() as run:
        for name in ("get_users", "fetch_query", "validate_access_and_approvals", "check_execution_consent", "build_job"):
            assert arguments(run, name) == [TICKET]
        (report,), (verify,) = arguments(run, "get_attestation_report"), arguments(run, "verify_spark")
        assert (report.nonce, verify.ticket, verify.report) == (nonce, TICKET, PROOF.report)
        (policy,), (check,) = arguments(run, "get_security_policy"), arguments(run, "verify_security_policy")
        assert (policy.job, policy.nonce, check.ticket, check.proof) == (JOB, nonce, TICKET, PROOF)
        assert [item.dataset for item in arguments(run, "get_secret")] == ["orders", "totals"]
        assert [item.secrets for item in arguments(run, "set_secret")] == [
            staged(name, "key", "connection").secrets for name in ("orders", "totals")
        ]
        (idp,) = arguments(run, "configure_idp")
        assert (idp.ticket, idp.proof) == (TICKET, PROOF)


def test_the_result_is_what_was_verified_staged_and_granted() -> None:
    with prepare() as run:
        found = run.result
        assert (found.job, found.job_digest, found.proof, found.spark) == (JOB, JOB.digest(), PROOF, SPARK)
        assert (found.snapshot, found.approvals) == (SNAPSHOT, APPROVALS)
        assert [secret.secret_id for secret in found.secrets] == ["orders.connection", "orders.key", "totals.connection", "totals.key"]
        assert [(item.delegate_type, item.delegate_id, item.host_data[0]) for item in found.grants] == [
            ("secrets", "orders.key", "d"), ("secrets", "orders.key", "e"), ("secrets", "totals.key", "d"),
            ("secrets", "totals.key", "e"), ("events", "run", "d"), ("events", "run", "e"),
        ]  # fmt: skip


def test_the_ledger_gets_a_digest_of_every_grant_and_then_the_attested_entry() -> None:
    with prepare() as run:
        started, granted, prepared = arguments(run, "record_event")
        values = [item.model_dump(mode="json") for item in run.result.grants]
        values.sort(key=lambda item: (item["delegate_id"], item["delegate_type"], item["host_data"]))
        assert {entry.ticket for entry in (started, granted, prepared)} == {TICKET}
        assert (started.message, started.digests, started.proof) == ("checks started", {}, None)
        assert (granted.message, granted.proof) == ("6 grants", None)
        assert granted.digests == {"grants": sha256_hex(canonical_json(values))}
        assert (prepared.message, prepared.digests, prepared.proof) == ("", {}, PROOF)


def test_the_digest_of_the_grants_does_not_depend_on_their_order() -> None:
    grants = tuple(Grant(delegate_type=kind, delegate_id="run", host_data=host * 64) for kind in ("events", "secrets") for host in "de")
    found = set()
    for order in (grants, grants[::-1]):
        with prepare(configure_idp=Grants(grants=order)) as run:
            found.add(arguments(run, "record_event")[1].digests["grants"])
    assert len(found) == 1


# ---------------------------------------------------------------------- the Spark service restarts


@pytest.mark.parametrize("refusing", ["get_security_policy", "verify_security_policy"])
@pytest.mark.parametrize("restarts", [1, 2])
def test_a_service_that_restarted_is_attested_again(refusing: str, restarts: int) -> None:
    last = PROOF.policies if refusing == "get_security_policy" else None
    answers: dict[str, Any] = {refusing: [*[RESTARTED] * restarts, last]}
    with prepare(**answers) as run:
        assert run.result.proof == PROOF
        assert run.names.count("get_attestation_report") == run.names.count("verify_spark") == restarts + 1
        assert any("the service restarted, attesting it again" in line for line in run.query("timeline"))


def test_only_the_report_that_was_verified_last_counts() -> None:
    newer = PROOF.report.model_copy(update={"payload": '{"key": "new"}'})
    verdict = SPARK.model_copy(update={"product": "Genoa"})
    with prepare(
        get_attestation_report=[PROOF.report, newer], verify_spark=[SPARK, verdict], verify_security_policy=[RESTARTED, None]
    ) as run:
        assert [item.report for item in arguments(run, "verify_spark")] == [PROOF.report, newer]
        assert arguments(run, "verify_security_policy")[-1].proof.report == run.result.proof.report == newer
        assert run.result.spark == verdict


def test_a_service_whose_policies_never_match_its_report_is_attested_three_times() -> None:
    with prepare(verify_security_policy=RESTARTED) as run:
        assert run.code == "PolicySignatureInvalid"
        assert run.names.count("verify_security_policy") == 3
        assert "get_secret" not in run.names


def test_other_policies_than_those_computed_are_not_asked_for_again() -> None:
    with prepare(verify_security_policy=Refused("PolicyJobMismatch", "on purpose")) as run:
        assert run.code == "PolicyJobMismatch"
        assert run.names.count("get_attestation_report") == 1


# ---------------------------------------------------------------------- secrets


def test_only_datasets_with_a_secret_are_staged() -> None:
    azure = azure_job().datasets[0].model_dump(mode="json", by_alias=True)
    plain = azure | {"name": "plain", "keySecretId": None}
    s3_sink = JOB.datasink.model_dump(mode="json", by_alias=True)
    with prepare(build_job=make_job(datasets=[azure, plain], datasink=s3_sink)) as run:
        assert [item.dataset for item in arguments(run, "get_key_with_skr")] == ["azure"]
        assert [item.dataset for item in arguments(run, "get_secret")] == ["totals"]
        assert any("2 datasets" in line for line in run.query("timeline"))


def many(count: int) -> Any:
    dataset = JOB.datasets[0].model_dump(mode="json", by_alias=True)
    return make_job(datasets=[dataset | {"name": f"d{number}", "viewName": f"d{number}"} for number in range(count)])


def test_as_many_datasets_are_staged_at_the_same_time_as_share_their_second_look() -> None:
    with prepare(build_job=many(CONCURRENT_DATASETS + 5), get_secret=HELD) as run:
        assert run.names.count("get_secret") == CONCURRENT_DATASETS
        run.finish("get_secret", staged("d0", "key"))
        assert run.names.count("set_secret") == 1
        assert run.names.count("get_secret") == CONCURRENT_DATASETS + 1


@pytest.mark.parametrize("failing", ["orders", "totals"])
def test_a_failed_dataset_cancels_the_other_and_waits_for_its_end(failing: str) -> None:
    answers = [HELD, HELD]
    answers[("orders", "totals").index(failing)] = Unavailable("GovernanceUnreachable", "on purpose")
    with prepare(get_secret=answers) as run:
        assert not run.ended
        (other,) = [call for call in run.calls if call.name == "get_secret" and call.argument.dataset != failing]
        assert other.cancelled
        run.finish("get_secret", staged(other.argument.dataset, "key"))
        assert run.code == "GovernanceUnreachable"
        assert "set_secret" not in run.names


@pytest.mark.parametrize(("held", "answer"), [("get_secret", staged("orders", "key")), ("set_secret", Grants(grants=()))])
def test_a_cancelled_preparation_waits_for_each_release_and_starts_no_other(held: str, answer: Any) -> None:
    with prepare(**{held: HELD}) as run:
        run.cancel()
        assert not run.ended
        started = list(run.names)
        run.finish(held, answer)
        assert not run.ended
        run.finish(held, answer)
        assert run.cancelled
        assert run.names == started
        assert run.attributes["CrOutcome"] == ["CANCELLED"]


def test_a_preparation_that_is_cancelled_while_it_grants_tokens_waits_and_records_nothing() -> None:
    with prepare(configure_idp=HELD) as run:
        run.cancel()
        assert not run.ended
        run.finish("configure_idp", Grants(grants=()))
        assert run.cancelled
        assert steps(run)[-1] == "configure_idp"


def test_a_worker_that_forgets_while_it_grants_gets_ticket_and_proof_in_full() -> None:
    forgotten = Conflict(NOT_REMEMBERED, "on purpose")

    def answer(request: Any) -> Any:
        return forgotten if isinstance(request.ticket, Reference) else Grants(grants=())

    with prepare(set_secret=answer) as run:
        asked = arguments(run, "set_secret")
        assert [(item.ticket, item.proof) for item in asked[2:]] == [(TICKET, PROOF)] * 2
        assert all(len(item.secrets) == 2 for item in asked)
        assert run.result is not None
