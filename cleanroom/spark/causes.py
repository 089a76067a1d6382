"""The causes of failed runs, as ``run show`` and the Web UI name them: a closed set, each with one sentence.

An error code says exactly what failed, and its hint what to do (:mod:`cleanroom.spark.failure_rules`). A cause groups codes
that people handle alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from cleanroom.spark.failure_rules import FailureCode


class Cause(StrEnum):
    """Why a run failed."""

    IMAGE_PULL = "IMAGE_PULL"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    CAPACITY = "CAPACITY"
    MOUNT = "MOUNT"
    OOM_KILLED = "OOM_KILLED"
    EXECUTORS_FAILING = "EXECUTORS_FAILING"
    POLICY_REFUSED = "POLICY_REFUSED"
    SUBMISSION_FAILED = "SUBMISSION_FAILED"
    NODE_LOST = "NODE_LOST"
    PRECONDITION = "PRECONDITION"
    CONSENT_WITHDRAWN = "CONSENT_WITHDRAWN"
    DEADLINE = "DEADLINE"


MEANINGS: Mapping[Cause, str] = MappingProxyType(
    {
        Cause.IMAGE_PULL: "The nodes cannot pull the pods' image.",
        Cause.UNSCHEDULABLE: "No node may run the pod.",
        Cause.CAPACITY: "The nodes or the namespace's quota have no room for the pod.",
        Cause.MOUNT: "A volume of the pod cannot be mounted.",
        Cause.OOM_KILLED: "The driver or its executors used more memory than they may.",
        Cause.EXECUTORS_FAILING: "The driver ran, but its executors kept failing.",
        Cause.POLICY_REFUSED: "A pod differs from the policy that was measured for it.",
        Cause.SUBMISSION_FAILED: "The Spark Operator could not create the driver pod.",
        Cause.NODE_LOST: "The driver's pod or node went away before the query ended.",
        Cause.PRECONDITION: "The cluster lacks something that every run needs: an account, a right or a working webhook.",
        Cause.CONSENT_WITHDRAWN: "An approver withdrew consent while the query ran.",
        Cause.DEADLINE: "The run did not start or did not end in time.",
    }
)
"""What each cause means, in one sentence. What to do is the hint of the error, which knows more than the cause."""

_OF_FAILURES: Mapping[FailureCode, Cause] = MappingProxyType(
    {
        FailureCode.IMAGE_PULL: Cause.IMAGE_PULL,
        FailureCode.UNSCHEDULABLE: Cause.UNSCHEDULABLE,
        FailureCode.CAPACITY: Cause.CAPACITY,
        FailureCode.MOUNT_FAILED: Cause.MOUNT,
        FailureCode.ACCOUNT_MISSING: Cause.PRECONDITION,
        FailureCode.RIGHT_MISSING: Cause.PRECONDITION,
        FailureCode.ADMISSION: Cause.PRECONDITION,
        FailureCode.CONTAINER_START: Cause.PRECONDITION,
        FailureCode.POLICY_MISMATCH: Cause.POLICY_REFUSED,
        FailureCode.SUBMISSION: Cause.SUBMISSION_FAILED,
        FailureCode.OUT_OF_MEMORY: Cause.OOM_KILLED,
        FailureCode.EXECUTORS_FAILING: Cause.EXECUTORS_FAILING,
        FailureCode.NODE_LOST: Cause.NODE_LOST,
        FailureCode.START_DEADLINE: Cause.DEADLINE,
        FailureCode.RUN_DEADLINE: Cause.DEADLINE,
    }
)
_OF_CODES: Mapping[str, Cause] = MappingProxyType(
    {"ConsentWithdrawn": Cause.CONSENT_WITHDRAWN, **{f"Spark{failure}": cause for failure, cause in _OF_FAILURES.items()}}
)


def cause_of(code: str) -> Cause | None:
    """Return the cause behind the error code of a failed run, or None if the code says everything itself."""
    return _OF_CODES.get(code)
