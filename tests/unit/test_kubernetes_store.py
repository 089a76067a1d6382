"""The Kubernetes stand-in's object store, selectors, patches and validation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanroom.spark.application import build_application
from cleanroom.spark.policy import pod_policies
from localcloud.standins.kubernetes.api import merge_patch
from localcloud.standins.kubernetes.selectors import field_selector, label_selector
from localcloud.standins.kubernetes.store import CONFIG_MAPS, EVENTS, PODS, SPARK_APPLICATIONS, ApiFailure, Object, Store
from localcloud.standins.kubernetes.submission import driver_pod
from localcloud.standins.kubernetes.validation import validate
from tests.unit.spark_support import make_job, make_profile


@contextmanager
def store(window: int = 100) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        made = Store(Path(folder) / "store.sqlite", window=window)
        try:
            yield made
        finally:
            made.close()


steps = st.lists(
    st.tuples(st.sampled_from(["create", "update", "remove"]), st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 30))
def test_watch_from_any_version_rebuilds_the_current_state(sequence: list[tuple[str, str, int]], start: int) -> None:
    with store() as items:
        state: dict[str, Object] = {}
        known: dict[str, Object] | None = None
        version = 0
        for number, (action, name, value) in enumerate(sequence):
            if number == start:
                known = {item["metadata"]["name"]: item for item in items.objects(CONFIG_MAPS, "ns")}
                version = items.version
            try:
                if action == "create":
                    state[name] = items.create(CONFIG_MAPS, "ns", {"metadata": {"name": name}, "data": {"v": str(value)}})
                elif action == "update":
                    state[name] = items.update(CONFIG_MAPS, "ns", name, lambda item, value=value: {**item, "data": {"v": str(value)}})
                else:
                    items.remove(CONFIG_MAPS, "ns", name)
                    del state[name]
            except ApiFailure as failure:
                if failure.code != (409 if action == "create" else 404):
                    raise
        if known is None:
            known, version = {item["metadata"]["name"]: item for item in items.objects(CONFIG_MAPS, "ns")}, items.version
        versions = [version]
        for change in items.since(version, CONFIG_MAPS, "ns"):
            versions.append(change.version)
            name = change.object["metadata"]["name"]
            assert change.object["metadata"]["resourceVersion"] == str(change.version)
            if change.kind == "DELETED":
                del known[name]
            else:
                assert (change.kind == "ADDED") == (name not in known)
                known[name] = change.object
        assert known == state
        assert versions == sorted(set(versions))


def test_version_outside_of_the_history_is_expired() -> None:
    with store(window=10) as items:
        for number in range(30):
            items.create(CONFIG_MAPS, "ns", {"metadata": {"name": f"m{number}"}})
        assert len(items.since(items.version - 10, CONFIG_MAPS, "ns")) == 10
        assert items.since(items.version, CONFIG_MAPS, "ns") == []
        # A newer version than the current one comes from a deleted database. Waiting for it would miss all changes until then.
        for version in (items.version - 11, items.version + 1):
            with pytest.raises(ApiFailure) as caught:
                items.since(version, CONFIG_MAPS, "ns")
            assert (caught.value.code, caught.value.status["reason"]) == (410, "Expired")


def test_objects_survive_a_restart_and_unchanged_ones_are_not_written() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = Store(Path(folder) / "s.sqlite")
        made = first.create(PODS, "ns", {"metadata": {"name": "p"}, "spec": {"a": 1}})
        assert first.update(PODS, "ns", "p", lambda item: item) == made
        changed = first.update(PODS, "ns", "p", lambda item: {**item, "spec": {"a": 2}, "metadata": {**item["metadata"], "uid": "forged"}})
        assert (changed["metadata"]["generation"], changed["metadata"]["uid"]) == (2, made["metadata"]["uid"])
        first.close()
        second = Store(Path(folder) / "s.sqlite")
        assert second.get(PODS, "ns", "p") == changed
        assert [change.kind for change in second.since(0, PODS, None)] == ["ADDED", "MODIFIED"]
        second.close()


def test_equal_events_are_counted_and_removed_after_an_hour() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = Store(Path(folder) / "s.sqlite")
        pod = first.create(PODS, "ns", {"metadata": {"name": "p"}, "spec": {}})
        for reason in ("BackOff", "BackOff", "Failed"):
            first.record(pod, reason, "again")
        assert {event["reason"]: event["count"] for event in first.objects(EVENTS, "ns")} == {"BackOff": 2, "Failed": 1}
        old = first.objects(EVENTS, "ns")[0]["metadata"]["name"]
        first.update(EVENTS, "ns", old, lambda item: {**item, "lastTimestamp": "2020-01-01T00:00:00Z"})
        first.close()
        second = Store(Path(folder) / "s.sqlite")
        second.record(pod, "Killing", "x")
        assert old not in [event["metadata"]["name"] for event in second.objects(EVENTS, "ns")]
        assert len(second.objects(EVENTS, "ns")) == 2
        second.close()


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("role=driver", True),
        ("role==driver,app=x", True),
        ("role!=driver", False),
        ("role in (driver, executor)", True),
        ("role notin (driver)", False),
        ("other notin (driver)", True),
        ("role", True),
        ("!role", False),
        ("missing", False),
        ("app=x,missing=1", False),
    ],
)
def test_label_selector_matches(text: str, matches: bool) -> None:
    assert label_selector(text)({"metadata": {"labels": {"role": "driver", "app": "x"}}}) is matches


def test_invalid_selector_is_rejected() -> None:
    with pytest.raises(ApiFailure):
        label_selector("a=b=c d")
    with pytest.raises(ApiFailure):
        field_selector(PODS, "spec.containers=x")
    assert field_selector(PODS, "status.phase!=Running")({"metadata": {}, "status": {"phase": "Failed"}})


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
)


@given(values, values)
def test_merge_patch_is_idempotent_and_null_removes(target: Any, patch: Any) -> None:
    """RFC 7396."""
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    if isinstance(patch, dict):
        assert all((key in once) == (value is not None) for key, value in patch.items())


METRICS = {"exposeDriverMetrics": True, "exposeExecutorMetrics": True}
PORT_FIELD = "spec.monitoring.prometheus.port"

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        ("metadata",),
        ("metadata", "name"),
        ("metadata", "labels"),
        ("metadata", "annotations"),
        ("spec",),
        ("spec", "driver"),
        ("spec", "executor"),
        ("spec", "driver", "cores"),
        ("spec", "driver", "env"),
        ("spec", "executor", "instances"),
        ("spec", "restartPolicy"),
        ("spec", "sparkConf"),
        ("spec", "arguments"),
        ("spec", "type"),
        ("spec", "nodeSelector"),
    ]
)


def submitted(path: str, value: Any) -> Any:
    """Return an application with one field set to ``value``, or removed if ``value`` is ``...``."""
    job, profile = make_job(), make_profile()
    body: Any = json.loads(json.dumps(build_application(job, profile, pod_policies(job, profile), locked_conf={})))
    target = body
    *parents, last = path.split(".")
    for part in parents:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return body


@pytest.mark.parametrize(
    ("path", "value", "field", "text"),
    [
        ("spec", ..., "spec", "Required value"),
        ("spec", [], "spec", "must be of type object"),
        *(
            (f"spec.{name}", ..., f"spec.{name}", "Required value")
            for name in ("driver", "executor", "mainApplicationFile", "sparkVersion", "type")
        ),
        ("spec.type", "Cobol", "spec.type", 'supported values: "Java", "Python", "Scala", "R"'),
        ("spec.type", 1, "spec.type", "must be of type string"),
        ("spec.mode", "in-cluster-client", "spec.mode", "Unsupported value"),
        ("spec.pythonVersion", "4", "spec.pythonVersion", "Unsupported value"),
        ("spec.restartPolicy", {"type": "Sometimes"}, "spec.restartPolicy.type", "Unsupported value"),
        ("spec.restartPolicy", {"type": 1}, "spec.restartPolicy.type", "must be of type string"),
        ("spec.restartPolicy", {"onFailureRetries": "3"}, "spec.restartPolicy.onFailureRetries", "must be of type integer"),
        ("spec.restartPolicy", {"onFailureRetryInterval": 0}, "spec.restartPolicy.onFailureRetryInterval", "greater than or equal to 1"),
        ("spec.dynamicAllocation", {"enabled": "yes"}, "spec.dynamicAllocation.enabled", "must be of type boolean"),
        ("spec.dynamicAllocation", {"maxExecutors": 1.5}, "spec.dynamicAllocation.maxExecutors", "must be of type integer"),
        ("spec.monitoring", {"exposeDriverMetrics": True}, "spec.monitoring.exposeExecutorMetrics", "Required value"),
        ("spec.deps", {"jars": "local:///a.jar"}, "spec.deps.jars", "must be of type array"),
        ("spec.timeToLiveSeconds", "60", "spec.timeToLiveSeconds", "must be of type integer"),
        ("spec.arguments", ["a", 1], "spec.arguments[1]", "must be of type string"),
        ("spec.sparkConf", {"spark.x": True}, "spec.sparkConf.spark.x", "must be of type string"),
        ("spec.volumes", [{"emptyDir": {}}], "spec.volumes[0].name", "Required value"),
        ("spec.volumes", [{"name": "v", "emptyDir": {"sizeLimit": True}}], "spec.volumes[0].emptyDir.sizeLimit", "integer,string"),
        ("spec.volumes", [{"name": "v", "emptyDir": {"sizeLimit": "much"}}], "spec.volumes[0].emptyDir.sizeLimit", "should match"),
        ("spec.monitoring", METRICS | {"prometheus": {"jmxExporterJar": "a.jar", "port": 80}}, PORT_FIELD, "greater than or equal to 1024"),
        ("spec.driver.cores", 2**31, "spec.driver.cores", "must be of format int32"),
        ("spec.driver.cores", 0, "spec.driver.cores", "greater than or equal to 1"),
        ("spec.driver.cores", True, "spec.driver.cores", "must be of type integer"),
        ("spec.driver.memory", 512, "spec.driver.memory", "must be of type string"),
        ("spec.driver.env", [{"name": "A"}, {"value": "1"}], "spec.driver.env[1].name", "Required value"),
        ("spec.driver.gpu", {"name": "nvidia.com/gpu"}, "spec.driver.gpu.quantity", "Required value"),
        ("spec.executor.instances", "2", "spec.executor.instances", "must be of type integer"),
        ("spec.executor.volumeMounts", [{"name": "v"}], "spec.executor.volumeMounts[0].mountPath", "Required value"),
        ("metadata.name", ..., "metadata.name", "Required value"),
    ],
)
def test_application_that_violates_the_crd_is_invalid(path: str, value: Any, field: str, text: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        validate(SPARK_APPLICATIONS, submitted(path, value), strict=False)
    assert (caught.value.code, caught.value.status["reason"]) == (422, "Invalid")
    causes = {cause["field"]: cause["message"] for cause in caught.value.status["details"]["causes"]}
    assert text in causes[field]


@pytest.mark.parametrize(
    "path", ["spec.restartpolicy", "spec.driver.podname", "spec.executor.kubernetesMaster", "spec.restartPolicy.retries"]
)
def test_unknown_field_is_pruned_with_a_warning_or_rejected_if_strict(path: str) -> None:
    body = submitted(path, "x")
    assert validate(SPARK_APPLICATIONS, body, strict=False) == [f'unknown field "{path}"']
    assert validate(SPARK_APPLICATIONS, body, strict=True) == []
    with pytest.raises(ApiFailure, match="strict decoding error") as caught:
        validate(SPARK_APPLICATIONS, submitted(path, "x"), strict=True)
    assert caught.value.code == 400


@given(st.lists(st.tuples(fields, documents), min_size=1, max_size=3))
def test_any_input_is_accepted_or_rejected_without_a_crash(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    job, profile = make_job(), make_profile()
    body: Any = json.loads(json.dumps(build_application(job, profile, pod_policies(job, profile), locked_conf={})))
    for path, value in changes:
        target = body
        for part in path[:-1]:
            target = target.get(part) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[path[-1]] = value
    try:
        validate(SPARK_APPLICATIONS, body, strict=False)
    except ApiFailure as failure:
        if failure.code not in (400, 403, 422):
            raise
    else:
        # The operator can process every accepted application.
        body["metadata"]["uid"] = "u"
        driver_pod(body, "p", "s", "spark-1")
        assert body["spec"]["driver"].get("cores", 1) >= 1


def test_a_pod_template_keeps_unknown_fields() -> None:
    body = submitted("spec.driver.template", {"spec": {"anything": [{"goes": 1}]}})
    assert validate(SPARK_APPLICATIONS, body, strict=True) == []
    assert body["spec"]["driver"]["template"] == {"spec": {"anything": [{"goes": 1}]}}


def test_a_missing_field_gets_its_default() -> None:
    body = submitted("spec.driver.sidecars", [{"name": "proxy", "ports": [{"containerPort": 80}]}])
    validate(SPARK_APPLICATIONS, body, strict=True)
    assert body["spec"]["driver"]["sidecars"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("pod", "code", "text"),
    [
        ({"containers": []}, 422, "spec.containers: Required value"),
        ({}, 422, "spec.containers: Required value"),
        ({"containers": [{"image": "a"}]}, 422, "spec.containers[0].name: Required value"),
        ({"containers": [{"name": "a", "image": 1}]}, 400, "spec.containers[0].image in body must be of type string"),
        ({"containers": [{"name": "a", "imagee": "b"}]}, 400, 'unknown field "spec.containers[0].imagee"'),
    ],
)
def test_a_malformed_pod_is_rejected(pod: Object, code: int, text: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        validate(PODS, {"metadata": {"name": "p"}, "spec": pod}, strict=True)
    assert caught.value.code == code
    assert text in str(caught.value)


def test_a_pod_with_resources_and_ports_is_accepted() -> None:
    container = {"name": "a", "image": "b", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "ports": [{"containerPort": 80}]}
    spec = {"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": None}
    assert validate(PODS, {"metadata": {"name": "p", "creationTimestamp": None}, "spec": spec}, strict=True) == []
