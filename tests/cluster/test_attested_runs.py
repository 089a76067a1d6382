"""Attested runs with driver and executors in containers, on a real cluster. The SNP hardware and the clouds' services are stand-ins."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import kubernetes
import pytest

from cleanroom.identifiers import job_name
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunResult
from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.kubernetes import APP_LABEL
from cleanroom.spark.policy import POLICY_ANNOTATION, PodPolicy
from starters.operations.consent import set_consent
from starters.operations.results import open_result, read_receipt
from starters.operations.runs import cancel_run
from starters.operations.session import run_async
from starters.terminal.result_view import result_rows
from tests.local_cloud import Cloud, World, assert_same_rows
from tools.cluster.clusters import Cluster

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.spark,
    pytest.mark.timeout(900),
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
        self.custom = kubernetes.client.CustomObjectsApi(api)

    def pods(self, run: Run) -> dict[str, Any]:
        """The pods of a run by role: ``driver``, or the names of executors."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=f"{APP_LABEL}={run.application}").items
        return {pod.metadata.name if pod.metadata.labels["spark-role"] == "executor" else "driver": pod for pod in found}

    def running_executor(self, run: Run) -> Any:
        """Wait until an executor of the run runs, and return its pod."""
        return wait_for(lambda: next((pod for name, pod in self.pods(run).items() if name != "driver" and _runs(pod)), None))

    def running_driver(self, run: Run) -> Any:
        """Wait until the run's driver runs, and return its pod."""
        return wait_for(lambda: next((pod for name, pod in self.pods(run).items() if name == "driver" and _runs(pod)), None))

    def kill(self, pod: Any) -> None:
        """Delete a pod at once."""
        self.core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)

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


@pytest.fixture
def operator(cluster: Cluster, inside: None) -> Iterator[Kubernetes]:
    with kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig("admin", inside=True))) as api:
        yield Kubernetes(api, cluster.namespace)


@pytest.fixture(scope="module")
def approved(cloud: Cloud, world: World, cluster: Cluster) -> QueryState:
    from tests.cluster.conftest import in_network

    with in_network(cluster.network):
        return cloud.approved_query(world.query(), max_runs=50)


def require_nothing_left(operator: Kubernetes, run: Run) -> None:
    """A run that has ended has no pods, no application, no grants and no readable secrets."""
    wait_for(lambda: not operator.pods(run))
    assert run.application not in {item["metadata"]["name"] for item in run.cloud.leftovers.applications()}
    assert run.cloud.leftovers.grants() == {}
    assert run.cloud.leftovers.secrets(run.run_id) == []


def require_right_result(cloud: Cloud, world: World, run: Run) -> None:
    receipt = run_async(read_receipt(cloud.fabrikam, run.run_id))
    assert_same_rows(result_rows(open_result(cloud.litware, world.output, receipt)), world.expected(), "origin")


def test_driver_and_executor_in_containers_give_the_result_of_duckdb(
    cloud: Cloud, world: World, cluster: Cluster, operator: Kubernetes, approved: QueryState
) -> None:
    run = Run(cloud, approved)
    executor, driver = operator.running_executor(run), operator.running_driver(run)
    for pod in (driver, executor):
        (status,) = pod.status.container_statuses
        assert status.image_id.endswith(cloud.pod_profile().image.partition("@")[2])
        assert pod.status.pod_ip.startswith("10.91.0.")
    assert driver.metadata.annotations[POLICY_ANNOTATION] != executor.metadata.annotations[POLICY_ANNOTATION]
    assert run.result().state == "COMPLETED"
    require_right_result(cloud, world, run)
    require_nothing_left(operator, run)


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
    require_nothing_left(operator, run)


def test_cancelled_run_stops_the_pods(cloud: Cloud, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    operator.running_executor(run)
    shown = run_async(cancel_run(cloud.fabrikam, run.run_id))
    assert (shown["state"], shown["failure"]["code"]) == ("CANCELLED", "RunCancelled")
    require_nothing_left(operator, run)


def test_killed_executor_is_replaced_by_one_that_attests_itself(
    cloud: Cloud, world: World, operator: Kubernetes, approved: QueryState
) -> None:
    run = Run(cloud, approved)
    first = operator.running_executor(run)
    operator.kill(first)
    second = wait_for(
        lambda: next((pod for name, pod in operator.pods(run).items() if name not in ("driver", first.metadata.name) and _runs(pod)), None)
    )
    assert second.metadata.annotations[POLICY_ANNOTATION] == first.metadata.annotations[POLICY_ANNOTATION]
    assert run.result().state == "COMPLETED"
    require_right_result(cloud, world, run)
    require_nothing_left(operator, run)


def test_killed_driver_is_lost_and_leaves_nothing(cloud: Cloud, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    operator.kill(operator.running_driver(run))
    result = run.result()
    assert result.failure is not None
    assert (result.state, result.failure.code) == ("FAILED", "NodeLost")
    require_nothing_left(operator, run)


def test_drained_node_loses_the_run_and_runs_the_next_one(cloud: Cloud, world: World, operator: Kubernetes, approved: QueryState) -> None:
    run = Run(cloud, approved)
    driver = operator.running_driver(run)
    node = driver.spec.node_name
    operator.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        for pod in operator.pods(run).values():
            eviction = kubernetes.client.V1Eviction(metadata={"name": pod.metadata.name, "namespace": operator.namespace})
            operator.core.create_namespaced_pod_eviction(pod.metadata.name, operator.namespace, eviction)
        result = run.result()
    finally:
        operator.core.patch_node(node, {"spec": {"unschedulable": None}})
    assert result.failure is not None
    assert (result.state, result.failure.code) == ("FAILED", "NodeLost")
    require_nothing_left(operator, run)
    again = Run(cloud, approved)
    assert again.result().state == "COMPLETED"
    require_right_result(cloud, world, again)


@pytest.fixture
def copied(operator: Kubernetes) -> Iterator[Callable[[Any, str, Callable[[Any], None]], Any]]:
    """Copies a pod of a run under another name, with a change, as a cluster's operator can; the copies are deleted afterwards."""
    names: list[str] = []

    def copy_pod(pod: Any, name: str, change: Callable[[Any], None]) -> Any:
        spec = copy.deepcopy(pod.spec)
        spec.node_name = None
        metadata = kubernetes.client.V1ObjectMeta(name=name, annotations=dict(pod.metadata.annotations))
        made = kubernetes.client.V1Pod(metadata=metadata, spec=spec)
        change(made)
        names.append(name)
        operator.core.create_namespaced_pod(operator.namespace, made)
        return made

    yield copy_pod
    for name in names:
        operator.core.delete_namespaced_pod(name, operator.namespace, grace_period_seconds=0)


def test_pods_that_differ_from_their_policy_do_not_start(
    cloud: Cloud, cluster: Cluster, operator: Kubernetes, approved: QueryState, copied: Callable[..., Any]
) -> None:
    """Another image, another program, a path of the node: the runtime refuses each, whatever the API server accepts."""
    run = Run(cloud, approved)
    driver = operator.running_driver(run)

    def another_image(pod: Any) -> None:
        pod.spec.containers[0].image = cluster.image

    def another_program(pod: Any) -> None:
        pod.spec.containers[0].command = ["/bin/sh"]
        pod.spec.containers[0].args = ["-c", "env"]

    def path_of_the_node(pod: Any) -> None:
        pod.spec.volumes.append({"name": "host", "hostPath": {"path": "/etc"}})
        pod.spec.containers[0].volume_mounts.append({"name": "host", "mountPath": "/host"})

    def small(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def apply(pod: Any) -> None:
            pod.spec.containers[0].resources = None
            pod.spec.restart_policy = "Never"
            change(pod)

        return apply

    wanted = {
        "other-image": (another_image, "no matching containers for overlay"),
        "other-program": (another_program, "invalid command"),
        "host-path": (path_of_the_node, "invalid mount list"),
    }
    for name, (change, _) in wanted.items():
        copied(driver, f"tampered-{name}", small(change))
    for name, (_, reason) in wanted.items():
        assert reason in wait_for(lambda name=name: operator.refusal(f"tampered-{name}"))
    assert run.result().state == "COMPLETED"


def test_pods_with_another_policy_get_no_secret(cloud: Cloud, operator: Kubernetes, approved: QueryState, cluster: Cluster) -> None:
    """The operator changes the policy of a driver: the pod starts, but its report names the other policy, and governance refuses it."""
    run = Run(cloud, approved)
    operator.running_driver(run)
    place = {"group": GROUP, "version": VERSION, "namespace": operator.namespace, "plural": PLURAL}
    found: Any = operator.custom.get_namespaced_custom_object(**place, name=run.application)
    driver = found["spec"]["driver"]
    other = PodPolicy.of(rego_of(driver["annotations"][POLICY_ANNOTATION]) + "\n# of the operator\n")
    driver |= {"coreRequest": "100m", "annotations": {**driver["annotations"], POLICY_ANNOTATION: other.rego_base64}}
    body = {key: found[key] for key in ("apiVersion", "kind", "spec")}
    body["metadata"] = {"name": "tampered-policy", "labels": found["metadata"]["labels"], "annotations": found["metadata"]["annotations"]}
    operator.custom.create_namespaced_custom_object(**place, body=body)
    try:
        state = wait_for(lambda: _ended(operator.custom.get_namespaced_custom_object_status(**place, name="tampered-policy")))
        pod = operator.core.read_namespaced_pod("tampered-policy-driver", operator.namespace)
        message = pod.status.container_statuses[0].state.terminated.message or ""
    finally:
        operator.custom.delete_namespaced_custom_object(**place, name="tampered-policy")
    assert state == "FAILED"
    assert "VerifySnpAttestationFailed" in message
    assert run.result().state == "COMPLETED"


def rego_of(annotation: str) -> str:
    return base64.b64decode(annotation).decode()


def _ended(application: Any) -> str | None:
    state = application.get("status", {}).get("applicationState", {}).get("state")
    return state if state in ("FAILED", "COMPLETED") else None
