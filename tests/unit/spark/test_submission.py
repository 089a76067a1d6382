"""The Spark service submits a job only when governance granted the run's secrets to exactly the pods that it would create."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.service import SparkService
from tests.unit.spark_support import make_job, make_profile

JOB = make_job()
PROFILE = make_profile()
DRIVER, EXECUTOR = pod_policies(JOB, PROFILE).host_data()


class Cluster:
    """Keeps what was created."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []

    def create_or_get(self, application: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        self.created.append(application)
        return {"metadata": {"name": application["metadata"]["name"], "uid": "u1", "namespace": "spark"}}, True


async def submit(granted: tuple[str, ...], cluster: Cluster, profile: Any = PROFILE) -> Any:
    client: Any = cluster
    attestor: Any = None
    return await SparkService(attestor, client).submit(JOB, profile, granted)


async def test_job_whose_pods_were_granted_is_created() -> None:
    cluster = Cluster()
    submission = await submit((DRIVER, EXECUTOR), cluster)
    assert (submission.uid, submission.namespace, submission.created) == ("u1", "spark", True)
    assert len(cluster.created) == 1


@pytest.mark.parametrize(
    ("granted", "roles", "retryable"),
    [
        ((), "driver and executor", True),
        ((DRIVER,), "executor", False),
        ((EXECUTOR,), "driver", False),
        (("0" * 64, "1" * 64), "driver and executor", False),
    ],
)
async def test_job_whose_pods_were_not_granted_is_refused(granted: tuple[str, ...], roles: str, retryable: bool) -> None:
    cluster = Cluster()
    with pytest.raises(CleanRoomError) as caught:
        await submit(granted, cluster)
    assert (caught.value.code, caught.value.retryable) == ("PodPolicyChanged", retryable)
    assert f"policy of its {roles} pods" in caught.value.message
    assert cluster.created == []


@pytest.mark.parametrize("message", ["no answer", "failed calling webhook"])
async def test_refusal_of_the_api_keeps_its_cause_and_is_not_its_own(message: str) -> None:
    class Refusing(Cluster):
        def create_or_get(self, application: dict[str, Any]) -> tuple[dict[str, Any], bool]:
            raise Unavailable("KubernetesUnreachable", message) from OSError("reset")

    with pytest.raises(Unavailable) as caught:
        await submit((DRIVER, EXECUTOR), Refusing())
    assert isinstance(caught.value.__cause__, OSError)


async def test_job_with_another_profile_than_the_granted_one_is_refused() -> None:
    cluster = Cluster()
    with pytest.raises(CleanRoomError) as caught:
        await submit((DRIVER, EXECUTOR), cluster, make_profile(image=f"registry.example/app@sha256:{'1' * 64}", layers=("1" * 64,)))
    assert caught.value.code == "PodPolicyChanged"
    assert cluster.created == []
