"""The API server of the Kubernetes stand-in, through the official client: rights, validation, conflicts, watches."""

from __future__ import annotations

import copy
import json
import threading
import time
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException

from cleanroom.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_stream import StopSignal
from localcloud.standins.kubernetes.image import LocalImage
from localcloud.standins.kubernetes.server import kubeconfig_path
from tests.scenario.kubernetes.support import GATED, WAITING, api_client, follow
from tests.unit.spark_support import Cluster, application, cluster, make_job, script_image

pytestmark = pytest.mark.scenario


def test_discovery_lists_the_served_groups_and_resources(shared: Cluster, client: KubernetesClient) -> None:
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


def test_wrong_or_missing_token_is_unauthorized(shared: Cluster) -> None:
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


def test_viewer_can_list_but_not_create_or_read_logs(shared: Cluster, receipt_image: LocalImage) -> None:
    viewer = shared.client("viewer")
    assert viewer.applications() == []
    with pytest.raises(Refused) as caught:
        viewer.create_or_get(application(make_job("viewer"), receipt_image))
    assert caught.value.code == "Forbidden"
    assert 'cannot create resource "sparkapplications"' in caught.value.message
    with pytest.raises(Refused):
        viewer.logs("any")
    elsewhere = KubernetesClient.connect(shared.settings().model_copy(update={"namespace": "kube-system"}))
    with pytest.raises(Refused) as caught:
        elsewhere.get("x")
    elsewhere.close()
    assert caught.value.code == "Forbidden"


def test_unreachable_server_is_unavailable_and_not_missing(shared: Cluster, tmp_path: Path) -> None:
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
def test_malformed_application_is_rejected(
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


def test_rejection_is_a_status_object_with_causes(
    shared: Cluster, client: KubernetesClient, receipt_image: LocalImage, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    item = application(make_job("refused"), receipt_image)
    item["spec"]["mode"] = "fast"
    with pytest.raises(ApiException) as caught:
        custom_objects.create_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, item)
    body = json.loads(caught.value.body)
    assert (caught.value.status, body["kind"], body["reason"], body["code"]) == (422, "Status", "Invalid", 422)
    assert body["details"]["causes"][0]["field"] == "spec.mode"


def test_create_is_idempotent_and_other_content_conflicts(client: KubernetesClient, waiting_image: LocalImage) -> None:
    item = application(make_job("twice"), waiting_image)
    first, created = client.create_or_get(item)
    again, created_again = client.create_or_get(item)
    assert (created, created_again, first["metadata"]["uid"]) == (True, False, again["metadata"]["uid"])
    other = application(make_job("twice", queryDigest="1" * 64), waiting_image)
    with pytest.raises(Conflict) as caught:
        client.create_or_get(other)
    assert caught.value.code == "SparkApplicationDiffers"
    assert client.delete(item["metadata"]["name"])


def test_missing_application_is_not_found(client: KubernetesClient) -> None:
    with pytest.raises(NotFound) as caught:
        client.get("nothing")
    assert 'sparkapplications.sparkoperator.k8s.io "nothing" not found' in caught.value.message
    assert client.delete("nothing") is False


def test_stale_write_and_wrong_uid_conflict(
    client: KubernetesClient, waiting_image: LocalImage, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    item, _ = client.create_or_get(application(make_job("stale"), waiting_image))
    name = item["metadata"]["name"]
    patch = {"metadata": {"labels": {"seen": "yes"}, "resourceVersion": "1"}}
    with pytest.raises(ApiException) as caught:
        custom_objects.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, patch)
    assert caught.value.status == 409
    blind = {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}}
    with pytest.raises(ApiException) as caught:
        custom_objects.replace_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, blind)
    assert caught.value.status == 422
    with pytest.raises(Conflict):
        client.delete(name, uid="00000000-0000-0000-0000-000000000000")
    patched = custom_objects.patch_namespaced_custom_object(
        GROUP, VERSION, "analytics", PLURAL, name, {"metadata": {"labels": {"seen": "yes"}}}
    )
    assert patched["metadata"]["labels"]["seen"] == "yes"
    assert patched["metadata"]["generation"] == 1
    assert [found["metadata"]["name"] for found in client.applications("seen in (yes, no)")] == [name]
    assert client.applications("seen=no") == []
    assert client.delete(name, uid=item["metadata"]["uid"])


def test_unsupported_field_selector_is_a_bad_request(client: KubernetesClient, custom_objects: kubernetes.client.CustomObjectsApi) -> None:
    with pytest.raises(ApiException) as caught:
        custom_objects.list_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, field_selector="spec.type=Python")
    assert caught.value.status == 400


def test_watch_resumes_from_a_resource_version(shared: Cluster, client: KubernetesClient) -> None:
    name = client.create_or_get(application(make_job("resume"), script_image(shared.images, GATED)))[0]["metadata"]["name"]
    version = ""
    for change in client.changes(name, seconds=20):
        version = change.resource_version
        if change.object and change.object.get("status", {}).get("applicationState", {}).get("state") == "RUNNING":
            break
    (shared.config.state / f"{name}-driver").touch()
    follow(client, name, lambda status: status.state == "FAILED")
    # Every change since then, once and in order.
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


def test_watch_from_an_expired_version_starts_with_the_current_object(tmp_path: Path) -> None:
    with cluster(tmp_path, history=10) as running:
        client = running.client()
        item, _ = client.create_or_get(application(make_job("old"), script_image(running.images, WAITING)))
        name = item["metadata"]["name"]
        follow(client, name, lambda status: status.state == "RUNNING")
        with api_client(running, "admin") as api:
            custom = kubernetes.client.CustomObjectsApi(api)
            for number in range(15):
                change = {"metadata": {"labels": {"n": str(number)}}}
                custom.patch_namespaced_custom_object(GROUP, VERSION, "analytics", PLURAL, name, change)
            stream = kubernetes.watch.Watch().stream(
                custom.list_namespaced_custom_object, GROUP, VERSION, "analytics", PLURAL, resource_version="1", timeout_seconds=5
            )
            with pytest.raises(ApiException) as caught:
                list(stream)
        assert caught.value.status == 410
        first = next(iter(client.changes(name, seconds=5, resource_version="1")))
        assert first.object is not None
        assert first.object["metadata"]["labels"]["n"] == "14"
        client.delete(name)


def test_stop_signal_ends_a_watch(client: KubernetesClient, waiting_image: LocalImage) -> None:
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
