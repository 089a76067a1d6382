"""Attested runs with driver and executors in containers, on a real cluster. The SNP hardware and the clouds' services are stand-ins."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import kubernetes
import pytest

from cleanroom.identifiers import job_name
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunResult
from cleanroom.spark.kubernetes import APP_LABEL
from cleanroom.spark.policy import POLICY_ANNOTATION, PodPolicy
from starters.operations.consent import set_consent
from starters.operations.results import open_result, read_receipt
from starters.operations.runs import cancel_run
from starters.operations.session import run_async
from starters.terminal.result_view import result_rows
from tests.cluster.network import in_network
from tests.cluster.place import TIERS
from tests.local_cloud import Cloud, World, assert_same_rows
from tools.cluster.clusters import Cluster

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.spark,
    pytest.mark.timeout(900),
    pytest.mark.skipif("full" not in TIERS, reason="needs containers: `make test-cluster TIERS=full`"),
    pytest.mark.parametrize("place", ["full"], indirect=True, scope="session"),
    pytest.mark.usefixtures("inside"),
]
SECONDS = 300
"""Longest wait for a step of a run, on a machine that other work uses."""
T = TypeVar("T")


class Kubernetes:
    """What the cluster's operator sees and can do."""

    def __init__(self, api: kubernetes.client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self.core = kubernetes.client.CoreV1Api(api)

    def pods(self, run: Run) -> dict[str, Any]:
        """The pods of a run by role: ``driver``, or the names of executors."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=f"{APP_LABEL}={run.application}").items
        return {pod.metadata.name if pod.metadata.labels["spark-role"] == "executor" else "driver": pod for pod in found}

    def running_executor(self, run: Run, *, other_than: str = "") -> Any:
        """Wait until an executor of the run runs, one with another name than ``other_than``, and return its pod."""
        return self._running(run, lambda name: name not in ("driver", other_than))

    def running_driver(self, run: Run) -> Any:
        """Wait until the run's driver runs, and return its pod."""
        return self._running(run, lambda name: name == "driver")

    def _running(self, run: Run, wanted: Callable[[str], bool]) -> Any:
        return wait_for(lambda: next((pod for name, pod in self.pods(run).items() if wanted(name) and _runs(pod)), None))

    def kill(self, pod: Any) -> None:
        """Delete a pod at once."""
        self.core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)

    def copy(self, pod: Any, name: str, change: Callable[[Any], None]) -> None:
        """Create a copy of a pod with a change. It requests no resources, because the run has those of the node."""
        spec = copy.deepcopy(pod.spec)
        spec.node_name, spec.restart_policy, spec.containers[0].resources = None, "Never", None
        metadata = kubernetes.client.V1ObjectMeta(name=name, annotations=dict(pod.metadata.annotations))
        made = kubernetes.client.V1Pod(metadata=metadata, spec=spec)
        change(made)
        self.core.create_namespaced_pod(self.namespace, made)

    def termination(self, name: str) -> str | None:
        """The message of a pod's container that has ended."""
        statuses = self.core.read_namespaced_pod(name, self.namespace).status.container_statuses
        terminated = statuses[0].state.terminated if statuses else None
        return None if terminated is None else terminated.message or str(terminated.exit_code)

    def refusal(self, name: str) -> str | None:
        """The event of a pod that says that its container was refused, if there is one."""
        found = self.core.list_namespaced_event(self.namespace, field_selector=f"involvedObject.name={name}").items
        return next((event.message for event in found if "denied due to policy" in (event.message or "")), None)


class Run:
    """A run that was started."""

    def __init__(self, cloud: Cloud, query: QueryState) -> None:
        self.cloud, self.query = cloud, query.query
        self.run_id = cloud.start(query.query, query.digest)
        self.application = job_name(cloud.collaboration, query.query, self.run_id)

    def result(self) -> RunResult:
        """Wait for the end of the run."""
        return self.cloud.result(self.run_id, seconds=SECONDS)


def _runs(pod: Any) -> bool:
    return bool(pod.status.phase == "Running")


def wait_for(find: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + SECONDS
    while (found := find()) is None or found is False:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@contextmanager
def operator_of(cluster: Cluster) -> Iterator[Kubernetes]:
    with kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig("admin", inside=True))) as api:
        yield Kubernetes(api, cluster.namespace)


@pytest.fixture
def operator(cluster: Cluster, inside: None) -> Iterator[Kubernetes]:
    with operator_of(cluster) as found:
        yield found


@pytest.fixture(scope="module")
def approved(cloud: Cloud, world: World, cluster: Cluster) -> QueryState:
    with in_network(cluster.network):
        return cloud.approved_query(world.query(), max_runs=50)


def require_nothing_left(operator: Kubernetes, run: Run, *, stopped: bool = False) -> None:
    """A run that has ended has no grants, no readable secrets and no running pods; one that was ``stopped`` has no application."""
    wait_for(lambda: not any(_runs(pod) or pod.status.phase == "Pending" for pod in operator.pods(run).values()))
    if stopped:
        assert run.application not in {item["metadata"]["name"] for item in run.cloud.leftovers.applications()}
    assert run.cloud.leftovers.grants() == {}
    assert run.cloud.leftovers.secrets(run.run_id) == []


def require_right_result(cloud: Cloud, world: World, run: Run) -> None:
    receipt = run_async(read_receipt(cloud.fabrikam, run.run_id))
    assert_same_rows(result_rows(open_result(cloud.litware, world.output, receipt)), world.expected(), "origin")


@dataclass
class Observed:
    """A run that completed while the cluster's operator tried to start changed copies of its driver's pod."""

    run: Run
    driver: Any
    executor: Any
    result: RunResult
    refusals: dict[str, str]
    message: str
    """What the copy with another policy reported when it ended."""


def another_image(pod: Any) -> None:
    pod.spec.containers[0].image = "localhost/program:latest"


def another_program(pod: Any) -> None:
    pod.spec.containers[0].command = ["/bin/sh"]
    pod.spec.containers[0].args = ["-c", "env"]


def volume_over_the_program(pod: Any) -> None:
    pod.spec.containers[0].volume_mounts.append(
        kubernetes.client.V1VolumeMount(name="spark-local-dir-1", mount_path="/opt/cleanroom/sparkapp")
    )


def another_policy(pod: Any) -> None:
    rego = base64.b64decode(pod.metadata.annotations[POLICY_ANNOTATION]).decode()
    assert "LANG=C.UTF-8" in rego
    pod.metadata.annotations[POLICY_ANNOTATION] = PodPolicy.of(rego.replace("LANG=C.UTF-8", "LANG=C")).rego_base64


REFUSED = {
    "another-image": (another_image, "no matching containers for overlay"),
    "another-program": (another_program, "invalid command"),
    "volume-over-the-program": (volume_over_the_program, "invalid mount list"),
}


@pytest.fixture(scope="module")
def observed(cloud: Cloud, cluster: Cluster, approved: QueryState) -> Iterator[Observed]:
    changes = {name: change for name, (change, _) in REFUSED.items()} | {"another-policy": another_policy}
    with in_network(cluster.network), operator_of(cluster) as operator:
        run = Run(cloud, approved)
        driver = operator.running_driver(run)
        for name, change in changes.items():
            operator.copy(driver, name, change)
        executor = operator.running_executor(run)
        refusals = {name: wait_for(lambda name=name: operator.refusal(name)) for name in REFUSED}
        message = wait_for(lambda: operator.termination("another-policy"))
        found = Observed(run, driver, executor, run.result(), refusals, message)
    yield found
    with in_network(cluster.network), operator_of(cluster) as operator:
        for name in changes:
            operator.core.delete_namespaced_pod(name, operator.namespace, grace_period_seconds=0)


def test_driver_and_executor_in_containers_give_the_result_of_duckdb(
    cloud: Cloud, world: World, operator: Kubernetes, observed: Observed
) -> None:
    for pod in (observed.driver, observed.executor):
        (status,) = pod.status.container_statuses
        assert status.image_id.endswith(cloud.pod_profile().image.partition("@")[2])
        assert pod.status.pod_ip.startswith("10.91.0.")
    annotations = [pod.metadata.annotations[POLICY_ANNOTATION] for pod in (observed.driver, observed.executor)]
    assert annotations[0] != annotations[1]
    assert observed.result.state == "COMPLETED"
    require_right_result(cloud, world, observed.run)
    require_nothing_left(operator, observed.run)


@pytest.mark.parametrize("name", list(REFUSED))
def test_pod_that_differs_from_its_policy_does_not_start(observed: Observed, name: str) -> None:
    """The runtime of the node refuses the container, whatever the API server accepts."""
    assert REFUSED[name][1] in observed.refusals[name]


def test_pod_with_another_policy_gets_no_secret(observed: Observed) -> None:
    """It starts, because it fits its policy. Its report names that policy, and governance has no grant for it."""
    assert "VerifySnpAttestationFailed" in observed.message


def test_withdrawn_consent_stops_the_pods(cloud: Cloud, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    operator.running_driver(run)
    run_async(set_consent(cloud.contosso, approved.query, enabled=False))
    try:
        result = run.result()
    finally:
        run_async(set_consent(cloud.contosso, approved.query, enabled=True))
    assert result.failure is not None
    assert (result.state, result.failure.code) == ("FAILED", "ConsentWithdrawn")
    require_nothing_left(operator, run, stopped=True)


def test_cancelled_run_stops_the_pods(cloud: Cloud, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    operator.running_executor(run)
    shown = run_async(cancel_run(cloud.fabrikam, run.run_id))
    assert (shown["state"], shown["failure"]["code"]) == ("CANCELLED", "RunCancelled")
    require_nothing_left(operator, run, stopped=True)


def test_killed_driver_is_lost_and_leaves_nothing(cloud: Cloud, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    operator.running_executor(run)
    operator.kill(operator.running_driver(run))
    result = run.result()
    assert result.failure is not None
    assert (result.state, result.failure.code) == ("FAILED", "SparkNodeLost")
    require_nothing_left(operator, run)


def test_drained_node_loses_the_run(cloud: Cloud, world: World, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    node = operator.running_executor(run).spec.node_name
    operator.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        for pod in operator.pods(run).values():
            eviction = kubernetes.client.V1Eviction(metadata={"name": pod.metadata.name, "namespace": operator.namespace})
            operator.core.create_namespaced_pod_eviction(pod.metadata.name, operator.namespace, eviction)
        result = run.result()
    finally:
        operator.core.patch_node(node, {"spec": {"unschedulable": None}})
    assert result.failure is not None
    assert (result.state, result.failure.code) == ("FAILED", "SparkNodeLost")
    require_nothing_left(operator, run)


def test_killed_executor_is_replaced_by_one_that_attests_itself(
    cloud: Cloud, world: World, operator: Kubernetes, approved: QueryState
) -> None:
    """Also the first run after a killed driver and a drained node."""
    run = Run(cloud, approved)
    first = operator.running_executor(run)
    operator.kill(first)
    second = operator.running_executor(run, other_than=first.metadata.name)
    assert second.metadata.annotations[POLICY_ANNOTATION] == first.metadata.annotations[POLICY_ANNOTATION]
    assert run.result().state == "COMPLETED"
    require_right_result(cloud, world, run)
    require_nothing_left(operator, run)
