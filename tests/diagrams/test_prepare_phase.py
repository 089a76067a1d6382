"""Diagram "Prepare Phase"."""
# ruff: noqa: E501 - one line per arrow

from __future__ import annotations

from tests.diagrams.deviations import (
    BUILD_JOB,
    CHILD_WORKFLOW,
    CONSENT_APART,
    LEDGER,
    ONE_ACTIVITY_FOR_ALL_POLICIES,
    PER_DATASET,
    STAGED_SECRETS,
    VERIFY_POLICY,
)
from tests.diagrams.history import recorded_events
from tests.diagrams.lines import Alternatives, Arrow, Diagram, Heading, Loop, Note, Step

CLEAN_ROOM = "clean-room"
SPARK = "spark-service"

# fmt: off
DIAGRAM = Diagram(
    "Prepare Phase",
    [
        Step(event="start Prepare", deviation=CHILD_WORKFLOW),
        Arrow("TEE", "CGS", "Get users", activity="get_users", queue=CLEAN_ROOM),
        Note("TEE", "Validate caller is allowed to fetch and execute query", part_of="get_users"),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
        Arrow("TEE", "CGS", "Fetch Query", activity="fetch_query", queue=CLEAN_ROOM),
        Note("TEE", "Validate dataset access & query approvals Check execution consent", activity="validate_access_and_approvals", queue=CLEAN_ROOM),
        Step(activity="check_execution_consent", queue=CLEAN_ROOM, deviation=CONSENT_APART),
        Step(activity="build_job", queue=CLEAN_ROOM, deviation=BUILD_JOB),
        Arrow("TEE", "Spark", "Get Attestation Report", activity="get_attestation_report", queue=SPARK),
        Note("TEE", "Verify spark", activity="verify_spark", queue=CLEAN_ROOM),
        Arrow("TEE", "Spark", "Get Security Policy {query, datasets[]}", activity="get_security_policy", queue=SPARK),
        Step(activity="verify_security_policy", queue=CLEAN_ROOM, deviation=VERIFY_POLICY),
        Heading("CGS, Spark", "Propagate secrets to Spark Service"),
        Loop("foreach dataset_secret_id", [
            Alternatives([
                ("AKV as Secret Store", [
                    Arrow("TEE", "AKV", "Get Key with SKR(dataset_secret_id, cleanroom_policy)", activity="get_key_with_skr", queue=CLEAN_ROOM, deviation=STAGED_SECRETS),
                ]),
                ("CGS as Secret Store", [
                    Arrow("TEE", "CGS", "Get Secret(dataset_secret_id, cleanroom_policy)", activity="get_secret", queue=CLEAN_ROOM, deviation=STAGED_SECRETS),
                ]),
            ]),
            Loop("foreach spark_policy", [
                Arrow("TEE", "CGS", "Set Secret(dataset_secret, spark_policy)", activity="set_secret", queue=CLEAN_ROOM, deviation=ONE_ACTIVITY_FOR_ALL_POLICIES),
            ]),
        ], deviation=PER_DATASET),
        Heading("CGS, Spark", "Configure IDP to issue tokens to Spark Service (for MI federated credential)"),
        Loop("foreach policy", [
            Arrow("TEE", "CGS", "Configure IDP(policy)", activity="configure_idp", queue=CLEAN_ROOM, deviation=ONE_ACTIVITY_FOR_ALL_POLICIES),
        ]),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
    ],
)
# fmt: on


async def test_prepare_phase() -> None:
    DIAGRAM.check_drawing()
    DIAGRAM.check_history(await recorded_events("prepare"))
