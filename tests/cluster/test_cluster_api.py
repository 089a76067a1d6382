"""``KubernetesClient`` against an API server: rights, validation, conflicts, watches, at every place (``tests/cluster/place.py``)."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_stream import StopSignal
from cleanroom.spark.preflight import DRIVER, missing_rights, operator_versions
from tests.cluster.place import CHANGES_KEPT, Place
from tests.scenario.kubernetes.support import follow
from tests.unit.spark_support import make_job

pytestmark = pytest.mark.scenario

CHANGES = CHANGES_KEPT + 10
"""More changes than the stand-in's history holds."""


@pytest.fixture(scope="module")
def custom_objects(place: Place) -> Iterator[kubernetes.client.CustomObjectsApi]:
    """The official client's API for custom resources, as an administrator."""
    with place.api() as api:
        yield kubernetes.client.CustomObjectsApi(api)


def label(custom_objects: kubernetes.client.CustomObjectsApi, place: Place, name: str, value: str) -> dict[str, Any]:
    patch = {"metadata": {"labels": {"seen": value}}}
    found: dict[str, Any] = custom_objects.patch_namespaced_custom_object(GROUP, VERSION, place.namespace, PLURAL, name, patch)
    return found


def test_version_is_that_of_the_server(client: KubernetesClient) -> None:
    assert client.version().startswith("v1.35")


def test_wrong_or_missing_token_is_unauthorized(place: Place) -> None:
    with place.api("spark-service") as known:
        for header in ("Bearer wrong", ""):
            configuration = kubernetes.client.Configuration(host=known.configuration.host)
            configuration.ssl_ca_cert = known.configuration.ssl_ca_cert
            with kubernetes.client.ApiClient(configuration, header_name="authorization", header_value=header) as api:
                with pytest.raises(Refused) as caught:
                    KubernetesClient(api, place.namespace).applications()
                # A real API server takes a request without a token for one of the user system:anonymous.
                assert caught.value.code in (("Unauthorized",) if header else ("Unauthorized", "Forbidden"))


def test_rights_and_versions_of_others_are_an_administrators_to_ask_for(place: Place) -> None:
    with place.api("spark-service") as api:
        with pytest.raises(Refused) as versions:
            operator_versions(api, "spark-operator")
        with pytest.raises(Refused) as rights:
            missing_rights(api, "spark-operator/spark-operator-controller", place.namespace, DRIVER)
    assert (versions.value.code, rights.value.code) == ("Forbidden", "Forbidden")


def test_viewer_can_list_but_not_create_or_read_logs(place: Place) -> None:
    viewer = place.client("viewer")
    assert isinstance(viewer.applications(), list)
    with pytest.raises(Refused) as caught:
        viewer.create_or_get(place.application("viewer"))
    assert caught.value.code == "Forbidden"
    assert 'cannot create resource "sparkapplications"' in caught.value.message
    with pytest.raises(Refused):
        viewer.logs("any")


def test_spark_service_has_no_rights_in_another_namespace(place: Place) -> None:
    elsewhere = KubernetesClient.connect(place.settings().model_copy(update={"namespace": "kube-system"}))
    with pytest.raises(Refused) as caught:
        elsewhere.get("x")
    elsewhere.close()
    assert caught.value.code == "Forbidden"


def test_unreachable_server_is_unavailable_and_not_missing(place: Place, tmp_path: Path) -> None:
    with place.api("spark-service") as known:
        host = known.configuration.host
    (tmp_path / "config").write_text(place.kubeconfig("spark-service").read_text().replace(host, "https://localhost:9"))
    lost = KubernetesClient.connect(place.settings().model_copy(update={"kubeconfig": tmp_path / "config"}))
    with pytest.raises(Unavailable) as caught:
        lost.get("x")
    assert caught.value.code == "KubernetesUnreachable"
    lost.close()


@pytest.mark.parametrize(
    ("path", "value", "code", "text"),
    [
        (("spec", "type"), "Cobol", "Invalid", 'spec.type: Unsupported value: "Cobol"'),
        (("spec", "driver", "cores"), "one", "BadRequest", "denied the request: json: cannot unmarshal"),
        (("spec", "executor", "instances"), 0, "Invalid", "greater than or equal to 1"),
        (("spec", "sparkConf"), {"spark.x": 1}, "BadRequest", "denied the request: json: cannot unmarshal"),
        (("spec", "restartpolicy"), {"type": "Never"}, "BadRequest", 'unknown field "spec.restartpolicy"'),
        # A field of Spark Operator 2.4.
        (("spec", "suspend"), True, "BadRequest", 'unknown field "spec.suspend"'),
        (("metadata", "name"), "Upper_Case", "Invalid", "metadata.name"),
        (("metadata", "labels"), {"cleanroom/run": "-bad"}, "Invalid", "metadata.labels"),
    ],
)
def test_malformed_application_is_rejected(
    place: Place, client: KubernetesClient, path: tuple[str, ...], value: Any, code: str, text: str
) -> None:
    item = copy.deepcopy(place.application("malformed"))
    target = item
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    with pytest.raises((InvalidInput, Refused)) as caught:
        client.create_or_get(item)
    assert caught.value.code == code
    assert text in caught.value.message


def test_rejection_is_a_status_object_with_causes(place: Place, custom_objects: kubernetes.client.CustomObjectsApi) -> None:
    item = place.application("refused")
    item["spec"]["mode"] = "fast"
    with pytest.raises(ApiException) as caught:
        custom_objects.create_namespaced_custom_object(GROUP, VERSION, place.namespace, PLURAL, item)
    body = json.loads(caught.value.body)
    assert (caught.value.status, body["kind"], body["reason"], body["code"]) == (422, "Status", "Invalid", 422)
    assert body["details"]["causes"][0]["field"] == "spec.mode"


def test_create_is_idempotent_and_other_content_conflicts(place: Place, client: KubernetesClient) -> None:
    item = place.application("create-twice")
    first, created = client.create_or_get(item)
    again, created_again = client.create_or_get(item)
    assert (created, created_again, first["metadata"]["uid"]) == (True, False, again["metadata"]["uid"])
    with pytest.raises(Conflict) as caught:
        client.create_or_get(place.application(make_job("create-twice", queryDigest="1" * 64)))
    assert caught.value.code == "SparkApplicationDiffers"
    assert client.delete(item["metadata"]["name"])


def test_missing_application_is_not_found(client: KubernetesClient) -> None:
    with pytest.raises(NotFound) as caught:
        client.get("nothing")
    assert 'sparkapplications.sparkoperator.k8s.io "nothing" not found' in caught.value.message
    assert client.delete("nothing") is False


def test_stale_write_and_wrong_uid_conflict(
    place: Place, client: KubernetesClient, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    item, _ = client.create_or_get(place.application("stale"))
    name = item["metadata"]["name"]
    where = (GROUP, VERSION, place.namespace, PLURAL, name)
    with pytest.raises(ApiException) as caught:
        custom_objects.patch_namespaced_custom_object(*where, {"metadata": {"labels": {"seen": "yes"}, "resourceVersion": "1"}})
    assert caught.value.status == 409
    blind = {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}}
    with pytest.raises(ApiException) as caught:
        custom_objects.replace_namespaced_custom_object(*where, blind)
    assert caught.value.status == 422
    with pytest.raises(Conflict):
        client.delete(name, uid="00000000-0000-0000-0000-000000000000")
    patched = label(custom_objects, place, name, "yes")
    assert patched["metadata"]["labels"]["seen"] == "yes"
    assert patched["metadata"]["generation"] == 1
    assert [found["metadata"]["name"] for found in client.applications("seen in (yes, no)")] == [name]
    assert client.applications("seen=no") == []
    assert client.delete(name, uid=item["metadata"]["uid"])


def test_unsupported_field_selector_is_a_bad_request(place: Place, custom_objects: kubernetes.client.CustomObjectsApi) -> None:
    with pytest.raises(ApiException) as caught:
        custom_objects.list_namespaced_custom_object(GROUP, VERSION, place.namespace, PLURAL, field_selector="spec.type=Python")
    assert caught.value.status == 400


def test_watch_shows_every_state_and_resumes_from_a_resource_version(place: Place, client: KubernetesClient) -> None:
    name = client.create_or_get(place.application("resume", "exit", "7"))[0]["metadata"]["name"]
    versions: dict[str, str] = {}
    for change in client.changes(name, seconds=90):
        state = ((change.object or {}).get("status") or {}).get("applicationState", {}).get("state", "")
        versions.setdefault(state, change.resource_version)
        if state == "FAILED":
            break
    assert list(versions)[-2:] == ["FAILING", "FAILED"]
    states = []
    for change in client.changes(name, seconds=10, resource_version=list(versions.values())[-3]):
        assert change.object is not None
        states.append(change.object["status"]["applicationState"]["state"])
        if states[-1] == "FAILED":
            break
    assert [state for number, state in enumerate(states) if state not in states[:number]][-2:] == ["FAILING", "FAILED"]
    assert client.delete(name)
    assert [change.object for change in client.changes(name, seconds=5)] == [None]


def test_watch_from_an_expired_version_starts_with_the_current_object(
    place: Place, client: KubernetesClient, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    name = client.create_or_get(place.application("old"))[0]["metadata"]["name"]
    for number in range(CHANGES):
        label(custom_objects, place, name, str(number))
    stream = kubernetes.watch.Watch().stream(
        custom_objects.list_namespaced_custom_object, GROUP, VERSION, place.namespace, PLURAL, resource_version="1", timeout_seconds=5
    )
    with pytest.raises(ApiException) as caught:
        list(stream)
    assert caught.value.status == 410
    first = next(iter(client.changes(name, seconds=5, resource_version="1")))
    assert first.object is not None
    assert first.object["metadata"]["labels"]["seen"] == str(CHANGES - 1)
    client.delete(name)


def test_stop_signal_ends_a_watch(place: Place, client: KubernetesClient) -> None:
    name = client.create_or_get(place.application("stopped"))[0]["metadata"]["name"]
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
    assert seen.wait(30)
    started = time.monotonic()
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert time.monotonic() - started < 30
    assert status.driver_pod
    client.delete(name)


def test_background_delete_also_deletes_the_pods(
    place: Place, client: KubernetesClient, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    name = client.create_or_get(place.application("plain"))[0]["metadata"]["name"]
    follow(client, name, lambda status: status.state == "RUNNING")
    answer = custom_objects.delete_namespaced_custom_object(GROUP, VERSION, place.namespace, PLURAL, name)
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    # The service's own deletion waits for the pods of an application that is gone.
    assert client.delete(name) is False
    assert client.pods(name) == []


def test_changed_spec_runs_the_application_again(
    place: Place, client: KubernetesClient, custom_objects: kubernetes.client.CustomObjectsApi
) -> None:
    """The operator deletes the pods and runs the application again, so clients must not change a running application."""
    name = client.create_or_get(place.application("edit"))[0]["metadata"]["name"]
    before = follow(client, name, lambda status: status.state == "RUNNING")
    custom_objects.patch_namespaced_custom_object(
        GROUP, VERSION, place.namespace, PLURAL, name, {"spec": {"driver": {"terminationGracePeriodSeconds": 1}}}
    )
    after = follow(
        client, name, lambda status: status.state == "RUNNING" and any(pod.uid != before.pods[0].uid for pod in status.pods), 150
    )
    assert after.submission_attempts >= 1
    assert client.get(name)["metadata"]["generation"] == 2
    assert client.delete(name)


def test_ended_application_is_deleted_after_its_time_to_live(place: Place, client: KubernetesClient) -> None:
    item = place.application("ttl", "exit", "0")
    item["spec"]["timeToLiveSeconds"] = 1
    name = client.create_or_get(item)[0]["metadata"]["name"]
    changes = [change.object for change in client.changes(name, seconds=120)]
    assert changes[-1] is None


def test_log_of_a_missing_pod_or_container_is_an_error(place: Place, client: KubernetesClient) -> None:
    with pytest.raises(CleanRoomError) as caught:
        client.logs("nothing-driver")
    assert isinstance(caught.value, NotFound)
