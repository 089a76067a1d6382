"""The chart on a real API server, installed as docs/kubernetes.md says, with Pod Security and its network policies in force."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException

from cleanroom.secret import write_secret_file
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.service import SparkService
from tests.cluster.chart import NAMESPACE, RELEASE, Chart, documented_commands, wait_for
from tests.cluster.place import NoHardware, Place, run_in_pod
from tests.cluster.runs import finish
from tools.cluster.binaries import SPARK_OPERATOR
from tools.cluster.container_node import ADDRESS

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(600)]

BOUNDARIES = {"frontend", "clean-room", "spark-service", "collaborator-litware"}
GOVERNANCE = 443
"""The port of governance, which the chart opens by default. The test's server listens at the node's address."""
OTHER = 8443
RUN = {"app.kubernetes.io/name": "cleanroom-sparkapp"}
"""The label of a run's pods, which the policy of runs selects."""


@pytest.fixture(scope="module")
def core(place: Place) -> Iterator[kubernetes.client.CoreV1Api]:
    with place.core() as found:
        yield found


def test_page_installs_the_operator_of_the_tests_and_every_step_succeeds(chart: Chart) -> None:
    """The first namespace exists, and the operator's objects are not created: the cluster was started with both."""
    operator, release = (command for command in documented_commands() if command.startswith("helm install"))
    assert f"--version {SPARK_OPERATOR} " in operator
    assert "clusterrole.rbac.authorization.k8s.io/documented-spark-operator-controller created (server dry run)" in chart.outputs[operator]
    assert "STATUS: deployed" in chart.outputs[release]


def test_every_object_of_the_chart_is_accepted(chart: Chart) -> None:
    manifest = chart.run("helm", "get", "manifest", RELEASE, "--namespace", NAMESPACE)
    found = json.loads(chart.run("kubectl", "get", "--filename=-", "--output=json", text=manifest))["items"]
    kinds = {item["kind"] for item in found}
    assert kinds >= {"ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Role", "RoleBinding", "ServiceAccount"}
    assert len(found) == manifest.count("\nkind: ")


def test_a_worker_of_each_boundary_is_admitted_by_the_restricted_profile_and_starts(
    chart: Chart, place: Place, core: kubernetes.client.CoreV1Api
) -> None:
    assert set(chart.deployments) == BOUNDARIES
    enforced = core.read_namespace(NAMESPACE).metadata.labels["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    pods = {
        pod.metadata.labels["app.kubernetes.io/component"]: pod
        for pod in core.list_namespaced_pod(NAMESPACE).items
        if pod.status.phase == "Running"
    }
    assert set(pods) >= BOUNDARIES
    if place.tier == "full":
        # The copy of the secrets has ended, and the attestation sidecar runs.
        secrets = run_in_pod(core, NAMESPACE, pods["clean-room"].metadata.name, ["/bin/ls", "-l", "/run/cleanroom"])
        assert {line.split()[0] for line in secrets.splitlines()[1:]} == {"-r--------"}
        sidecar, copy = pods["clean-room"].status.init_container_statuses
        assert (sidecar.state.running is not None, copy.state.terminated.exit_code) == (True, 0)
        with place.api() as api:
            batch = kubernetes.client.BatchV1Api(api)
            (job,) = wait_for(batch.list_namespaced_job, lambda items: bool(items[0].status.succeeded), NAMESPACE)
        assert "-namespace-" in job.metadata.name


def test_attested_worker_with_another_command_than_its_policy_measures_does_not_start(
    chart: Chart, place: Place, core: kubernetes.client.CoreV1Api
) -> None:
    """The node holds the pods of the attested boundaries to their policies, as it does those of runs."""
    place.require("full", why="no containers")
    with place.api() as api:
        template = api.sanitize_for_serialization(chart.deployments["clean-room"].spec.template)
    worker = template["spec"]["containers"][0]
    worker["args"][worker["args"].index("--bootstrap-digest") + 1] = f"sha256:{'0' * 64}"
    template["metadata"]["labels"] = {"app": "changed"}
    core.create_namespaced_pod(NAMESPACE, {**template, "metadata": {**template["metadata"], "name": "changed"}})

    def refusal(pods: list[Any]) -> str:
        """What the node says about the container that it did not start: that of the last attempt, or of the one before."""
        found = [item for pod in pods if pod.metadata.name == "changed" for item in pod.status.container_statuses or ()]
        states = [state for item in found for state in (item.state.waiting, item.state.terminated, item.last_state.terminated)]
        return " ".join(state.message or "" for state in states if state is not None)

    pods = wait_for(core.list_namespaced_pod, lambda pods: "denied" in refusal(pods), NAMESPACE)
    core.delete_namespaced_pod("changed", NAMESPACE, grace_period_seconds=0)
    assert "invalid command" in refusal(pods)


@pytest.mark.parametrize(
    ("namespace", "security", "profile"), [(NAMESPACE, {}, "restricted"), ("analytics", {"privileged": True}, "baseline")]
)
def test_pods_outside_of_the_namespaces_profile_are_refused(
    chart: Chart, place: Place, core: kubernetes.client.CoreV1Api, namespace: str, security: dict[str, Any], profile: str
) -> None:
    assert chart.place.namespace == "analytics"
    container = {"name": "c", "image": place.image, "securityContext": security}
    with pytest.raises(ApiException) as caught:
        core.create_namespaced_pod(namespace, {"metadata": {"name": "refused"}, "spec": {"containers": [container]}})
    assert caught.value.status == 403
    assert f'violates PodSecurity "{profile}:latest"' in json.loads(caught.value.body)["message"]


async def test_service_account_of_the_chart_runs_an_application(chart: Chart, place: Place, core: kubernetes.client.CoreV1Api) -> None:
    account = chart.deployments["spark-service"].spec.template.spec.service_account_name
    token = core.create_namespaced_service_account_token(account, NAMESPACE, {"spec": {"expirationSeconds": 3600}}).status.token
    content = json.loads(place.kubeconfig("spark-service").read_text())
    content["users"][0]["user"] = {"token": token}
    kubeconfig = chart.folder / "spark-service.json"
    write_secret_file(kubeconfig, json.dumps(content).encode())
    client = KubernetesClient.connect(KubernetesSettings(kubeconfig=kubeconfig, namespace=place.namespace))
    place.clients.append(client)
    outcome = await finish(place, SparkService(NoHardware(), client), "of-the-chart", place.profile("exit", "0"))
    assert outcome.succeeded


# --- network policies


@pytest.fixture(scope="module")
def network(chart: Chart, place: Place, core: kubernetes.client.CoreV1Api) -> Callable[..., str]:
    """Return a function that connects from a pod to an address and a port, and says whether that worked.

    Pods: ``governance`` at the node's address, ``run`` and ``peer`` with the label of runs, ``other`` without, in the namespace of runs.
    """
    place.require("full", why="no containers, so no network")
    start(core, "default", "governance", place.image, {}, (GOVERNANCE, OTHER), hostNetwork=True)
    for name, labels in (("run", RUN), ("peer", RUN), ("other", {"app": "other"})):
        start(core, place.namespace, name, place.image, labels, (7078,))
    wait_for(core.list_namespaced_pod, lambda items: are_ready(items, "governance"), "default")
    wait_for(core.list_namespaced_pod, lambda items: are_ready(items, "run", "peer", "other"), place.namespace)
    addresses = {pod.metadata.name: pod.status.pod_ip for pod in core.list_namespaced_pod(place.namespace).items}
    addresses["governance"] = ADDRESS

    def connect(source: str, target: str, port: int, namespace: str = place.namespace) -> str:
        request = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 5 {addresses.get(target, target)} {port}"
        return run_in_pod(core, namespace, source, ["/bin/sh", "-c", request])

    return connect


def start(
    core: kubernetes.client.CoreV1Api, namespace: str, name: str, image: str, labels: dict[str, str], ports: tuple[int, ...], **spec: Any
) -> None:
    """Create a pod that answers at ports with the text ``reached``."""
    servers = "".join(f"httpd -p {port} -h /tmp/served; " for port in ports)
    script = f"mkdir /tmp/served; echo reached >/tmp/served/index.html; {servers}exec sleep 86400"
    container = {"name": "c", "image": image, "command": ["/bin/sh", "-euc", script], "imagePullPolicy": "IfNotPresent"}
    container["readinessProbe"] = {"tcpSocket": {"port": ports[-1]}, "periodSeconds": 1}
    pod = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec}}
    core.create_namespaced_pod(namespace, pod)


def are_ready(pods: list[Any], *names: str) -> bool:
    ready = {
        pod.metadata.name for pod in pods if any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or ())
    }
    return ready >= set(names)


@pytest.mark.parametrize(
    ("source", "target", "port", "reached"),
    [
        ("run", "governance", GOVERNANCE, True),
        ("other", "governance", GOVERNANCE, False),
        # The port is not among those that the chart opens.
        ("run", "governance", OTHER, False),
        ("run", "peer", 7078, True),
        ("other", "peer", 7078, False),
        ("run", "other", 7078, False),
    ],
)
def test_network_policies_of_runs_are_in_force(network: Callable[..., str], source: str, target: str, port: int, reached: bool) -> None:
    answer = network(source, target, port)
    assert answer.endswith("reached\n") if reached else "can't connect to remote host" in answer, answer


def test_workers_reach_governance_and_runs_do_not_reach_workers(
    chart: Chart, network: Callable[..., str], core: kubernetes.client.CoreV1Api
) -> None:
    worker = next(
        pod for pod in core.list_namespaced_pod(NAMESPACE).items if pod.metadata.labels["app.kubernetes.io/component"] == "frontend"
    )
    name, address = worker.metadata.name, worker.status.pod_ip
    assert network(name, "governance", GOVERNANCE, namespace=NAMESPACE).endswith("reached\n")
    assert "can't connect" in network(name, "governance", OTHER, namespace=NAMESPACE)
    # The kubelet's probes reach the same port.
    assert worker.status.container_statuses[0].ready
    assert "can't connect" in network("run", address, 8080)


def test_runs_resolve_names_and_reach_the_api_server_through_its_service(
    network: Callable[..., str], place: Place, core: kubernetes.client.CoreV1Api
) -> None:
    names = run_in_pod(core, place.namespace, "run", ["/bin/nslookup", "kubernetes.default.svc.cluster.local"])
    assert "10.96.0.1" in names
    # The answer of the API server to a request without TLS.
    assert "400 Bad Request" in network("run", "10.96.0.1", 443)
    assert "can't connect" in network("other", "10.96.0.1", 443)
