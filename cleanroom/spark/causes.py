"""The causes of failed runs, as ``run show`` and the Web UI name them: a closed set, each with one sentence and a remedy.

An error code says exactly what failed (:mod:`cleanroom.spark.failure_rules`). A cause groups codes that people handle alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

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


class Explanation(NamedTuple):
    """What a cause means, and what to do."""

    sentence: str
    remedy: str


EXPLANATIONS: Mapping[Cause, Explanation] = MappingProxyType(
    {
        Cause.IMAGE_PULL: Explanation(
            "The nodes cannot pull the pods' image.", "Push the image with this digest, and give the nodes access to its registry."
        ),
        Cause.UNSCHEDULABLE: Explanation(
            "No node may run the pod.", "Compare the pod's node selector and tolerations with the labels and taints of the nodes."
        ),
        Cause.CAPACITY: Explanation(
            "The nodes or the namespace's quota have no room for the pod.",
            "Wait for other pods to end, add nodes, raise the quota, or lower the requested cores and memory.",
        ),
        Cause.MOUNT: Explanation("A volume of the pod cannot be mounted.", "Create the object that the pod's event names."),
        Cause.OOM_KILLED: Explanation(
            "The driver or its executors used more memory than they may.", "Raise spark.driver_memory or spark.executor_memory."
        ),
        Cause.EXECUTORS_FAILING: Explanation(
            "The driver ran, but its executors kept failing.",
            "Read the end of the last executor; its pod remains until the run is cleaned up.",
        ),
        Cause.POLICY_REFUSED: Explanation(
            "A pod differs from the policy that was measured for it.",
            "Find out which component changed the pod; the message names what differs.",
        ),
        Cause.SUBMISSION_FAILED: Explanation(
            "The Spark Operator could not create the driver pod.",
            "Read the operator's message, correct what it names, and start a new run.",
        ),
        Cause.NODE_LOST: Explanation(
            "The driver's pod or node went away before the query ended.", "Start a new run; the query itself did not fail."
        ),
        Cause.PRECONDITION: Explanation(
            "The cluster lacks something that every run needs: an account, a right or a working webhook.",
            "Create or repair what the message names; `cleanroom doctor` checks it.",
        ),
        Cause.CONSENT_WITHDRAWN: Explanation(
            "An approver withdrew consent while the query ran.", "Ask the approver; `cleanroom consent on` enables it again."
        ),
        Cause.DEADLINE: Explanation(
            "The run did not start or did not end in time.",
            "Read what the pod waited for; raise spark.driver_start_seconds or spark.run_seconds if the cluster is only slow.",
        ),
    }
)

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
