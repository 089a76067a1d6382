"""The Kubernetes stand-in through the official client: API semantics, rights, life cycle, policies, and pods that survive a restart."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import psutil
import pytest
from kubernetes.client.exceptions import ApiException

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_stream import StopSignal
from cleanroom.spark.outcome import Outcome, outcome_of
from cleanroom.spark.policy import POLICY_ANNOTATION
from cleanroom.spark.status import JobStatus
from localcloud.standins.kubernetes.image import LocalImage, build_image, build_sparkapp_image, pull_image
from localcloud.standins.kubernetes.kubelet import end_leftover_pods
from localcloud.standins.kubernetes.process import LOST, start
from localcloud.standins.kubernetes.server import KubernetesConfig, kubeconfig_path
from localcloud.tls import LocalAuthority
from tests.unit.spark_support import Cluster, application, cluster, make_job, script_image

pytestmark = pytest.mark.scenario

RECEIPT = """
import json, os, pathlib
print("working on", os.environ["POD_NAME"])
pathlib.Path(os.environ["CLEANROOM_TERMINATION_LOG"]).write_text(json.dumps({"rows": 3, "variables": sorted(os.environ)}))
"""
WAITING = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import os, time; os.setpgid(0, 0); time.sleep(600)"])
print("child", child.pid, flush=True)
signal.pause()
"""

GATED = """
import os, pathlib, sys, time
gate = pathlib.Path(os.environ["HOME"]).parents[2] / os.environ["POD_NAME"]
print("waiting", flush=True)
while not gate.exists():
    time.sleep(0.02)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def client(shared: Cluster) -> KubernetesClient:
    return shared.client()


@pytest.fixture(scope="module")
def receipt_image(shared: Cluster) -> LocalImage:
    return script_image(shared.images, RECEIPT)


@pytest.fixture(scope="module")
def waiting_image(shared: Cluster) -> LocalImage:
    return script_image(shared.images, WAITING)


def follow(client: KubernetesClient, name: str, until: Callable[[JobStatus], Any], seconds: float = 20) -> JobStatus:
    """The first reading that ``until`` takes; wakes at changes of the application and of its pods."""
    deadline = time.monotonic() + seconds
    version = None
    while time.monotonic() < deadline:
        status = client.status(name)
        if until(status):
            return status
        version = client.await_pod_change(name, 1, version)
    raise AssertionError(f"{name} did not get there: {client.status(name)}")


def finish(client: KubernetesClient, name: str) -> Outcome:
    states = []
    for change in client.changes(name, seconds=20):
        if change.object is not None:
            states.append(change.object.get("status", {}).get("applicationState", {}).get("state", ""))
            if states[-1] in ("COMPLETED", "FAILED"):
                break
    outcome = outcome_of(client.status(name))
    assert outcome is not None, states
    return outcome


# --- API


def test_versions_and_discovery(shared: Cluster, client: KubernetesClient) -> None:
    assert client.version().startswith("v1.")
    api = kubernetes.config.new_client_from_config(config_file=str(kubeconfig_path(shared.config.state)))
    try:
        groups = [group.name for group in kubernetes.client.ApisApi(api).get_api_versions().groups]
        assert groups == [GROUP]
        assert kubernetes.client.CoreApi(api).get_api_versions().versions == ["v1"]
        resources = kubernetes.client.CustomObjectsApi(api).get_api_resources(GROUP, VERSION).resources
        assert [resource.name for resource in resources] == [PLURAL]
    finally:
        api.close()


def test_a_wrong_token_and_no_token_are_unauthorized(shared: Cluster) -> None:
    for token in ("Bearer wrong", ""):
        configuration = kubernetes.client.Configuration(host=shared.url)
        configuration.ssl_ca_cert = str(shared.config.tls_cert)
        api = kubernetes.client.ApiClient(configuration, header_name="authorization", header_value=token)
        try:
            with pytest.raises(Refused) as caught:
                KubernetesClient(api, "analytics").applications()
            assert caught.value.code == "Unauthorized"
        finally:
            api.close()


def test_a_viewer_may_look_and_nothing_else(shared: Cluster, receipt_image: LocalImage) -> None:
    viewer = shared.client("viewer")
    assert viewer.applications() == []
    with pytest.raises(Refused) as caught:
        viewer.create_or_get(application(make_job("viewer"), receipt_image))
    assert caught.value.code == "Forbidden"
    assert 'cannot create resource "sparkapplications"' in caught.value.message
    with pytest.raises(Refused):
        viewer.logs("any")
    elsewhere = KubernetesClient(shared.client()._api, "kube-system")
    with pytest.raises(Refused) as caught:
        elsewhere.get("x")
    assert caught.value.code == "Forbidden"


def test_an_unreachable_api_is_not_a_missing_object(shared: Cluster, tmp_path: Path) -> None:
    text = kubeconfig_path(shared.config.state).read_text().replace(shared.url, "https://localhost:9")
    (tmp_path / "config").write_text(text)
    lost = KubernetesClient.connect(shared.settings().model_copy(update={"kubeconfig": tmp_path / "config"}))
    with pytest.raises(Unavailable) as caught:
        lost.get("x")
    assert caught.value.code == "KubernetesUnreachable"
    lost.close()


@pytest.mark.parametrize(
    ("path", "value", "code", "text"),
    [
        (("spec", "type"), "Cobol", "Invalid", 'spec.type: Unsupported value: "Cobol"'),
        (("spec", "driver", "cores"), "one", "Invalid", "spec.driver.cores in body must be of type integer"),
        (("spec", "executor", "instances"), 0, "Invalid", "greater than or equal to 1"),
        (("spec", "driver"), None, "Invalid", "spec.driver"),
        (("spec", "sparkConf"), {"spark.x": 1}, "Invalid", "spec.sparkConf"),
        (("spec", "driver", "annotations", "big"), "x" * 10, "", ""),
        (("spec", "restartpolicy"), {"type": "Never"}, "BadRequest", 'unknown field "spec.restartpolicy"'),
        (("metadata", "name"), "Upper_Case", "Invalid", "metadata.name"),
        (("metadata", "name"), "1-starts-with-a-digit", "Forbidden", "DNS-1035"),
        (("metadata", "labels"), {"cleanroom/run": "-bad"}, "Invalid", "metadata.labels"),
    ],
)
def test_malformed_objects_are_refused(
    client: KubernetesClient, receipt_image: LocalImage, path: tuple[str, ...], value: Any, code: str, text: str
) -> None:
    item = copy.deepcopy(application(make_job("malformed"), receipt_image))
    target = item
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    if not code:
        name = client.create_or_get(item)[0]["metadata"]["name"]
        assert client.delete(name)
        return
    with pytest.raises((InvalidInput, Refused)) as caught:
        client.create_or_get(item)
    assert caught.value.code == code
    assert text in caught.value.message


def test_status_object_of_a_refusal_is_kubernetes_own(shared: Cluster, client: KubernetesClient, receipt_image: LocalImage) -> None:
    item = application(make_job("refused"), receipt_image)
    item["spec"]["mode"] = "fast"
    custom = kubernetes.client.CustomObjectsApi(client._api)
    with pytest.raises(ApiException) as caught:
        custom.create_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, item)
    body = json.loads(caught.value.body)
    assert (caught.value.status, body["kind"], body["reason"], body["code"]) == (422, "Status", "Invalid", 422)
    assert body["details"]["causes"][0]["field"] == "spec.mode"


def test_create_twice_is_once_and_other_content_is_a_conflict(client: KubernetesClient, waiting_image: LocalImage) -> None:
    item = application(make_job("twice"), waiting_image)
    first, created = client.create_or_get(item)
    again, created_again = client.create_or_get(item)
    assert (created, created_again, first["metadata"]["uid"]) == (True, False, again["metadata"]["uid"])
    other = application(make_job("twice", queryDigest="1" * 64), waiting_image)
    with pytest.raises(Conflict) as caught:
        client.create_or_get(other)
    assert caught.value.code == "SparkApplicationDiffers"
    assert client.delete(item["metadata"]["name"])


def test_missing_things_are_not_found(client: KubernetesClient) -> None:
    with pytest.raises(NotFound) as caught:
        client.get("nothing")
    assert 'sparkapplications.sparkoperator.k8s.io "nothing" not found' in caught.value.message
    assert client.delete("nothing") is False


def test_stale_writes_and_wrong_uids_conflict(client: KubernetesClient, waiting_image: LocalImage) -> None:
    item, _ = client.create_or_get(application(make_job("stale"), waiting_image))
    name = item["metadata"]["name"]
    custom = kubernetes.client.CustomObjectsApi(client._api)
    patch = {"metadata": {"labels": {"seen": "yes"}, "resourceVersion": "1"}}
    with pytest.raises(ApiException) as caught:
        custom.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, patch)
    assert caught.value.status == 409
    blind = {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}}
    with pytest.raises(ApiException) as caught:
        custom.replace_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, blind)
    assert caught.value.status == 422
    with pytest.raises(Conflict):
        client.delete(name, uid="00000000-0000-0000-0000-000000000000")
    patched = custom.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, {"metadata": {"labels": {"seen": "yes"}}})
    assert patched["metadata"]["labels"]["seen"] == "yes"
    assert patched["metadata"]["generation"] == 1
    assert [found["metadata"]["name"] for found in client.applications("seen in (yes, no)")] == [name]
    assert client.applications("seen=no") == []
    assert client.delete(name, uid=item["metadata"]["uid"])


def test_unsupported_selectors_are_bad_requests(client: KubernetesClient) -> None:
    custom = kubernetes.client.CustomObjectsApi(client._api)
    with pytest.raises(ApiException) as caught:
        custom.list_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, field_selector="spec.type=Python")
    assert caught.value.status == 400


# --- watching


def test_a_watch_resumes_where_it_was(shared: Cluster, client: KubernetesClient) -> None:
    name = client.create_or_get(application(make_job("resume"), script_image(shared.images, GATED)))[0]["metadata"]["name"]
    version = ""
    for change in client.changes(name, seconds=20):
        version = change.resource_version
        if change.object and change.object.get("status", {}).get("applicationState", {}).get("state") == "RUNNING":
            break
    (shared.config.state / f"{name}-driver").touch()
    follow(client, name, lambda status: status.state == "FAILED")
    # Everything that happened while nobody watched, in order and once.
    states = []
    for change in client.changes(name, seconds=5, resource_version=version):
        assert change.object is not None
        states.append(change.object["status"]["applicationState"]["state"])
        if states[-1] == "FAILED":
            break
    assert states == ["FAILING", "FAILED"]
    assert client.delete(name)
    last = list(client.changes(name, seconds=5))
    assert [change.object for change in last] == [None]


def test_a_version_that_is_too_old_is_read_anew(tmp_path: Path) -> None:
    with cluster(tmp_path, history=10) as running:
        client = running.client()
        item, _ = client.create_or_get(application(make_job("old"), script_image(running.images, WAITING)))
        name = item["metadata"]["name"]
        follow(client, name, lambda status: status.state == "RUNNING")
        custom = kubernetes.client.CustomObjectsApi(client._api)
        for number in range(15):
            custom.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, {"metadata": {"labels": {"n": str(number)}}})
        stream = kubernetes.watch.Watch().stream(
            custom.list_namespaced_custom_object, GROUP, VERSION, "analytics", PLURAL, resource_version="1", timeout_seconds=5
        )
        with pytest.raises(ApiException) as caught:
            list(stream)
        assert caught.value.status == 410
        change = next(iter(client.changes(name, seconds=5, resource_version="1")))
        assert change.object is not None
        assert change.object["metadata"]["labels"]["n"] == "14"
        client.delete(name)


def test_a_stop_signal_ends_a_watch_at_once(client: KubernetesClient, waiting_image: LocalImage) -> None:
    name = client.create_or_get(application(make_job("stopped"), waiting_image))[0]["metadata"]["name"]
    status = follow(client, name, lambda status: status.state == "RUNNING")
    stop, seen = StopSignal(), threading.Event()

    def read() -> None:
        for _ in client.changes(name, seconds=60, stop=stop):
            seen.set()

    threads = [
        threading.Thread(target=read),
        threading.Thread(target=client.await_pod_change, args=(name, 60), kwargs={"stop": stop}),
    ]
    for thread in threads:
        thread.start()
    assert seen.wait(10)
    started = time.monotonic()
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert time.monotonic() - started < 3
    assert status.driver_pod
    client.delete(name)


# --- life cycle


def test_life_of_an_application(client: KubernetesClient, receipt_image: LocalImage) -> None:
    os.environ["CLEANROOM_TEST_CANARY"] = "do-not-leak"
    try:
        name = client.create_or_get(application(make_job("life"), receipt_image))[0]["metadata"]["name"]
        outcome = finish(client, name)
    finally:
        del os.environ["CLEANROOM_TEST_CANARY"]
    assert outcome.succeeded
    receipt = json.loads(outcome.termination_message)
    assert receipt["rows"] == 3
    # The pod has what it declared and what its image sets, and nothing of the stand-in's own environment.
    assert "JOB_CONFIG" in receipt["variables"]
    assert "CLEANROOM_TEST_CANARY" not in receipt["variables"]
    status = outcome.status
    assert status is not None
    assert (status.submission_attempts, status.driver_pod) == (1, f"{name}-driver")
    assert client.logs(status.driver_pod or "", tail=1) == f"working on {name}-driver\n"
    assert {"SparkApplicationAdded", "SparkApplicationSubmitted", "SparkApplicationCompleted", "SparkDriverCompleted"} <= {
        event.reason for event in status.events
    }
    assert client.delete(name)
    assert client.pods(name) == []


def test_exit_code_and_message_of_a_failure(shared: Cluster, client: KubernetesClient) -> None:
    image = script_image(
        shared.images,
        """
        import json, os, sys
        error = {"code": "SCHEMA_MISMATCH", "message": "orders: amount", "category": "invalid-input"}
        open(os.environ["CLEANROOM_TERMINATION_LOG"], "w").write(json.dumps(error))
        sys.exit(10)
        """,
    )
    name = client.create_or_get(application(make_job("failure"), image))[0]["metadata"]["name"]
    outcome = finish(client, name)
    assert (outcome.code, outcome.exit_code) == (FailureCode.DRIVER_EXIT, 10)
    error = outcome.error()
    assert isinstance(error, InvalidInput)
    assert error.code == "SCHEMA_MISMATCH"
    assert client.delete(name)


def test_deleting_ends_every_process(client: KubernetesClient, waiting_image: LocalImage) -> None:
    name = client.create_or_get(application(make_job("kill"), waiting_image))[0]["metadata"]["name"]
    status = follow(client, name, lambda status: status.state == "RUNNING")
    pids: list[int] = []
    deadline = time.monotonic() + 10
    while not pids and time.monotonic() < deadline:
        pids = [int(line.split()[1]) for line in client.logs(status.driver_pod or "").splitlines() if line.startswith("child")]
    (child,) = pids
    assert psutil.pid_exists(child)
    assert client.delete(name)
    assert not _runs(child)
    assert client.pods(name) == []
    with pytest.raises(NotFound):
        client.get(name)


def test_an_unknown_image_is_told_and_stays_submitted(client: KubernetesClient, receipt_image: LocalImage) -> None:
    missing = receipt_image.model_copy(update={"reference": f"localhost/test/gone@sha256:{'9' * 64}"})
    name = client.create_or_get(application(make_job("image"), missing))[0]["metadata"]["name"]
    status = follow(client, name, lambda status: (found := outcome_of(status)) and found.code)
    assert status.state == "SUBMITTED"
    outcome = outcome_of(status)
    assert outcome is not None
    assert outcome.code is FailureCode.IMAGE_PULL
    assert "not found" in outcome.message
    assert client.delete(name)


def test_a_tampered_image_is_not_run(shared: Cluster, client: KubernetesClient) -> None:
    image = script_image(shared.images, "print('honest')\n")
    file = shared.images / image.reference.rpartition(":")[2] / "root" / "payload.py"
    file.write_text("print('evil')\n")
    name = client.create_or_get(application(make_job("tampered"), image))[0]["metadata"]["name"]
    status = follow(client, name, outcome_of)
    outcome = outcome_of(status)
    assert outcome is not None
    assert outcome.code is FailureCode.IMAGE_PULL
    assert "does not match" in outcome.message
    assert client.delete(name)


def _arguments(item: dict[str, Any]) -> None:
    item["spec"]["arguments"] = ["--debug"]


def _job_config(item: dict[str, Any]) -> None:
    item["spec"]["driver"]["env"][0]["value"] = make_job("another").encode()


def _image(item: dict[str, Any]) -> None:
    item["spec"]["image"] = item["evil"]


def _no_policy(item: dict[str, Any]) -> None:
    del item["spec"]["driver"]["annotations"][POLICY_ANNOTATION]


def _allow_all(item: dict[str, Any]) -> None:
    item["spec"]["driver"]["annotations"][POLICY_ANNOTATION] = "cGFja2FnZSBwb2xpY3k="


def _privileged(item: dict[str, Any]) -> None:
    item["spec"]["driver"]["securityContext"]["privileged"] = True


@pytest.mark.parametrize("change", [_arguments, _job_config, _image, _no_policy, _allow_all, _privileged])
def test_a_pod_that_differs_from_its_policy_does_not_start(
    shared: Cluster, client: KubernetesClient, receipt_image: LocalImage, change: Callable[[dict[str, Any]], None]
) -> None:
    evil = script_image(shared.images, "print('evil')\n")
    item = application(make_job(f"policy{change.__name__.replace('_', '-')}"), receipt_image)
    change({**item, "evil": evil.reference})
    name = client.create_or_get(item)[0]["metadata"]["name"]
    outcome = finish(client, name)
    assert outcome.code is FailureCode.POLICY_MISMATCH
    assert outcome.status is not None
    assert any(event.reason == "Failed" and "denied" in event.message for event in outcome.status.events)
    with pytest.raises(CleanRoomError):
        client.logs(f"{name}-driver")
    assert client.delete(name)


def test_a_full_node_makes_pods_wait(tmp_path: Path) -> None:
    with cluster(tmp_path, cpus=1) as running:
        client = running.client()
        image = script_image(running.images, WAITING)
        first, second = (client.create_or_get(application(make_job(run), image))[0]["metadata"]["name"] for run in ("first", "second"))
        follow(client, first, lambda status: status.state == "RUNNING")
        waiting = follow(client, second, lambda status: (pod := status.driver()) and not pod.scheduled)
        assert "Insufficient cpu" in (waiting.pods[0].scheduling_message or "")
        assert client.delete(first)
        follow(client, second, lambda status: status.state == "RUNNING")
        assert client.delete(second)


def test_editing_the_spec_runs_it_again(client: KubernetesClient, waiting_image: LocalImage) -> None:
    """spec/execute.md G1: the operator kills and reruns, so nobody may edit a running application."""
    item, _ = client.create_or_get(application(make_job("edit"), waiting_image))
    name = item["metadata"]["name"]
    before = follow(client, name, lambda status: status.state == "RUNNING")
    custom = kubernetes.client.CustomObjectsApi(client._api)
    custom.patch_namespaced_custom_object(
        GROUP, VERSION, "analytics", PLURAL, name, {"spec": {"driver": {"terminationGracePeriodSeconds": 1}}}
    )
    after = follow(client, name, lambda status: status.state == "RUNNING" and status.pods[0].uid != before.pods[0].uid)
    assert after.submission_attempts == 2
    assert client.get(name)["metadata"]["generation"] == 2
    assert client.delete(name)


def test_time_to_live_is_a_net(client: KubernetesClient, receipt_image: LocalImage) -> None:
    item = application(make_job("ttl"), receipt_image)
    item["spec"]["timeToLiveSeconds"] = 0
    name = client.create_or_get(item)[0]["metadata"]["name"]
    changes = [change.object for change in client.changes(name, seconds=20)]
    assert changes[-1] is None


def test_a_plain_delete_takes_the_pods_with_it(client: KubernetesClient, waiting_image: LocalImage) -> None:
    name = client.create_or_get(application(make_job("plain"), waiting_image))[0]["metadata"]["name"]
    follow(client, name, lambda status: status.state == "RUNNING")
    custom = kubernetes.client.CustomObjectsApi(client._api)
    answer = custom.delete_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name)
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    with pytest.raises(NotFound):
        client.get(name)
    assert client.delete(name) is False
    assert client.pods(name) == []


def _remote_file(item: dict[str, Any]) -> None:
    item["spec"]["mainApplicationFile"] = "https://evil.example/x.py"


def _odd_memory(item: dict[str, Any]) -> None:
    item["spec"]["executor"]["memory"] = "much"


def _long_argument(item: dict[str, Any]) -> None:
    item["spec"]["driver"]["annotations"]["x"] = "y" * 131_072


@pytest.mark.parametrize("change", [_remote_file, _odd_memory, _long_argument])
def test_a_failed_submission_goes_on_to_failed(
    client: KubernetesClient, receipt_image: LocalImage, change: Callable[[dict[str, Any]], None]
) -> None:
    item = application(make_job(f"submission{change.__name__.replace('_', '-')}"), receipt_image)
    change(item)
    name = client.create_or_get(item)[0]["metadata"]["name"]
    outcome = finish(client, name)
    assert outcome.code is FailureCode.SUBMISSION
    assert outcome.status is not None
    assert "SparkApplicationSubmissionFailed" in {event.reason for event in outcome.status.events}
    assert client.delete(name)


def test_suspending_stops_the_driver_and_resuming_starts_another(client: KubernetesClient, waiting_image: LocalImage) -> None:
    name = client.create_or_get(application(make_job("suspend"), waiting_image))[0]["metadata"]["name"]
    before = follow(client, name, lambda status: status.state == "RUNNING")
    custom = kubernetes.client.CustomObjectsApi(client._api)
    custom.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, {"spec": {"suspend": True}})
    suspended = follow(client, name, lambda status: status.state == "SUSPENDED")
    assert (suspended.pods, suspended.driver_pod, outcome_of(suspended)) == ((), None, None)
    custom.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, {"spec": {"suspend": False}})
    after = follow(client, name, lambda status: status.state == "RUNNING")
    assert after.pods[0].uid != before.pods[0].uid
    assert client.delete(name)


def test_a_log_can_be_followed_to_the_end_of_the_pod(shared: Cluster, client: KubernetesClient) -> None:
    source = """
    import os, pathlib, time
    print("first", flush=True)
    gate = pathlib.Path(os.environ["HOME"]).parents[2] / os.environ["POD_NAME"]
    while not gate.exists():
        time.sleep(0.02)
    print("last", flush=True)
    """
    name = client.create_or_get(application(make_job("follow"), script_image(shared.images, source)))[0]["metadata"]["name"]
    follow(client, name, lambda status: status.state == "RUNNING")
    admin = shared.client("admin")
    core = kubernetes.client.CoreV1Api(admin._api)
    stream = kubernetes.watch.Watch().stream(core.read_namespaced_pod_log, f"{name}-driver", "analytics")
    lines = []
    for line in stream:
        lines.append(line)
        if line == "first":
            (shared.config.state / f"{name}-driver").touch()
    assert lines == ["first", "last"]
    assert client.delete(name)


# --- restarts


@contextmanager
def standing(config: KubernetesConfig) -> Iterator[subprocess.Popen[bytes]]:
    """The stand-in as a process of its own, once it is healthy."""
    file = config.state.parent / "kubernetes.json"
    file.write_text(config.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "localcloud.standins.kubernetes", "--config", str(file)])
    try:
        tls = ssl.create_default_context(cafile=str(config.tls_cert))
        for _ in range(200):
            try:
                if httpx.get(f"https://localhost:{config.port}/healthz", verify=tls).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            raise AssertionError("the stand-in did not start")
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_pods_outlive_a_killed_stand_in(tmp_path: Path) -> None:
    """SIGKILL: pods run on. One ends while nobody watches, one after the restart; both are told with their own exit code, started once."""
    tls = LocalAuthority(tmp_path / "tls").issue("kubernetes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = KubernetesConfig(tls_cert=tls.cert, tls_key=tls.key, state=tmp_path / "kubernetes", port=port)
    image = script_image(config.state / "images", GATED)
    settings = KubernetesSettings(kubeconfig=kubeconfig_path(config.state))
    gate = config.state
    with standing(config) as process:
        client = KubernetesClient.connect(settings)
        names = [client.create_or_get(application(make_job(run), image))[0]["metadata"]["name"] for run in ("away", "later")]
        before = [follow(client, name, lambda status: status.state == "RUNNING").pods[0] for name in names]
        client.close()
        records = [json.loads((gate / "pods" / pod.uid / "process.json").read_text()) for pod in before]
        process.kill()
        process.wait(10)
        (gate / f"{names[0]}-driver").touch()
        exit_file = Path(records[0]["exit_file"])
        deadline = time.monotonic() + 10
        while not exit_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert _runs(records[1]["pid"])
    with standing(config) as process:
        client = KubernetesClient.connect(settings)
        assert finish(client, names[0]).exit_code == 7
        assert client.status(names[1]).state == "RUNNING"
        (gate / f"{names[1]}-driver").touch()
        assert finish(client, names[1]).exit_code == 7
        for name, pod in zip(names, before, strict=True):
            status = client.status(name)
            assert (status.submission_attempts, status.pods[0].uid) == (1, pod.uid)
            assert client.delete(name)
        name = client.create_or_get(application(make_job("left"), image))[0]["metadata"]["name"]
        follow(client, name, lambda status: status.state == "RUNNING")
        client.close()
        process.kill()
        process.wait(10)
    assert end_leftover_pods(config.state) == 1
    assert end_leftover_pods(config.state) == 0


def test_a_node_that_shuts_down_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        client = running.client()
        name = client.create_or_get(application(make_job("down"), script_image(running.images, WAITING)))[0]["metadata"]["name"]
        status = follow(client, name, lambda status: status.state == "RUNNING")
        record = json.loads((running.config.state / "pods" / status.pods[0].uid / "process.json").read_text())
        assert _runs(record["pid"])
    assert not _runs(record["pid"])
    with cluster(tmp_path) as again:
        client = again.client()
        outcome = finish(client, name)
        assert (outcome.code, outcome.retryable) == (FailureCode.NODE_LOST, True)
        assert client.delete(name)


async def test_a_process_that_comes_after_the_signal_is_told_too(tmp_path: Path) -> None:
    """A signal that arrives before a program is started in its process is lost; the pod must not go on for its whole grace."""
    program = ["/bin/sh", "-c", "trap 'exec sleep 600' TERM; touch ready; sleep 600 & wait"]
    process = start(program, {"PATH": os.environ["PATH"]}, cwd=tmp_path, log=tmp_path / "log", exit_file=tmp_path / "exit")
    async with asyncio.timeout(10):
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.01)
        await process.stop(30)
    assert process.exit_code() == 128 + signal.SIGTERM


async def test_a_lost_shim_is_not_taken_for_success(tmp_path: Path) -> None:
    process = start(["/bin/sleep", "600"], {"PATH": os.environ["PATH"]}, cwd=tmp_path, log=tmp_path / "log", exit_file=tmp_path / "exit")
    assert process.alive()
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == LOST
    await process.stop(1)


async def test_signals_end_in_their_exit_codes(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    for number, (script, code) in enumerate([("exit 0", 0), ("exit 52", 52), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]):
        process = start(
            ["/bin/sh", "-c", script], environment, cwd=tmp_path, log=tmp_path / f"log{number}", exit_file=tmp_path / f"exit{number}"
        )
        assert await process.wait() == code


# --- images


def test_images_are_addressed_by_content(tmp_path: Path) -> None:
    first = build_image(tmp_path, "localhost/a", {"x.py": b"1"}, program=["{python}", "x.py"])
    assert build_image(tmp_path, "localhost/a", {"x.py": b"1"}, program=["{python}", "x.py"]) == first
    assert build_image(tmp_path, "localhost/a", {"x.py": b"2"}, program=["{python}", "x.py"]).layers != first.layers
    assert build_image(tmp_path, "localhost/a", {"x.py": b"1"}, program=["{python}", "y.py"]).reference != first.reference
    assert pull_image(tmp_path, first.reference)[0] == first
    with pytest.raises(LookupError):
        pull_image(tmp_path, f"localhost/b@sha256:{first.reference.rpartition(':')[2]}")


def test_the_payloads_image_is_a_snapshot(tmp_path: Path) -> None:
    image = build_sparkapp_image(tmp_path)
    root = pull_image(tmp_path, image.reference)[1]
    assert (root / "sparkapp" / "__main__.py").is_file()
    assert (root / "cleanroom" / "spark" / "job.py").is_file()
    assert not (root / "localcloud").exists()
    assert image == build_sparkapp_image(tmp_path)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
