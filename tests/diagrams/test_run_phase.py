"""Diagram "Run Phase". Most of its lines are drawn inside of the Kubernetes cluster, where no Temporal worker is involved."""

from __future__ import annotations

from tests.diagrams.deviations import (
    CHILD_WORKFLOW,
    COLLECT_RESULT,
    CONSENT_FIRST,
    CONSENT_RECEIPT,
    LEDGER,
    REVOKE,
    WATCH_CONSENT,
    WATCH_JOB,
)
from tests.diagrams.history import recorded_events
from tests.diagrams.lines import Arrow, Diagram, Loop, Note, Step

CLEAN_ROOM = "clean-room"
SPARK = "spark-service"

# fmt: off
DIAGRAM = Diagram(
    "Run Phase",
    [
        Step(event="start RunQuery", deviation=CHILD_WORKFLOW),
        Step(event="child Prepare", deviation=CHILD_WORKFLOW),
        Step(activity="issue_consent_receipt", queue=CLEAN_ROOM, deviation=CONSENT_RECEIPT),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
        Arrow("TEE", "Spark", "Submit Job {query, datasets[]}", activity="submit_job", queue=SPARK),
        Note("Spark", "Prepare Spark CR[ Spark Application, Payload, Storage & Privacy Sidecars]", part_of="submit_job"),
        Arrow("Spark", "AKS", "Submit Spark CR", part_of="submit_job"),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
        Arrow("AKS", "SparkOperator", "Spark CR", outside="Kubernetes"),
        Arrow("SparkOperator", "AKS", "Deploy Pod", outside="Spark Operator"),
        Arrow("AKS", "Pod", "create", outside="Kubernetes"),
        Loop("Datasets", [
            Arrow("Pod", "CGS", "Get Secret", outside="sparkapp/identity.py"),
            Note("Pod", "Mount Dataset", outside="sparkapp/splits.py"),
        ]),
        Arrow("Pod", "CGS", "Check Consent", outside="sparkapp/consent.py", deviation=CONSENT_FIRST),
        Note("Pod", "Execute Payload", outside="sparkapp/execution.py"),
        Loop("Until Complete", [
            Arrow("SparkOperator", "AKS", "Get Job Status", outside="Spark Operator"),
        ]),
        Arrow("SparkOperator", "AKS", "job_result", outside="Spark Operator"),
        Arrow("TEE", "Spark", "Get Status {tracking_id}", activity="watch_job", queue=SPARK, deviation=WATCH_JOB),
        Arrow("Spark", "AKS", "Get Spark CR", part_of="watch_job"),
        Step(activity="watch_consent", queue=CLEAN_ROOM, deviation=WATCH_CONSENT),
        Step(activity="collect_result", queue=CLEAN_ROOM, deviation=COLLECT_RESULT),
        Step(activity="revoke_grants", queue=CLEAN_ROOM, deviation=REVOKE),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
        Step(activity="record_event", queue=CLEAN_ROOM, deviation=LEDGER),
    ],
)
# fmt: on


async def test_run_phase() -> None:
    DIAGRAM.check_drawing()
    DIAGRAM.check_history(await recorded_events("run-query"))
