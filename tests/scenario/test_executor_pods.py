"""A driver creates executors on the Kubernetes stand-in: its mounts, its permissions, and the executor's policy.

A script takes the place of Spark, so the tests need no JVM. ``test_executors.py`` runs Spark itself.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.service import SparkService
from localcloud.standins.kubernetes.image import build_image
from localcloud.standins.kubernetes.server import service_account_tokens
from tests.patience import PATIENCE
from tests.unit.spark_support import Cluster, cluster, make_job, make_profile

pytestmark = pytest.mark.scenario

DRIVER = """
import json, os, ssl, sys, time, urllib.request
from pathlib import Path

role, arguments = sys.argv[1], sys.argv[2:]
if role == "executor":
    print("executor", os.environ["SPARK_EXECUTOR_POD_IP"], "SPARK_JAVA_OPT_0" in os.environ, flush=True)
    sys.exit(0)
properties = dict(line.split("=", 1) for line in Path(arguments[1]).read_text().splitlines())
prefix = "spark.kubernetes.authenticate.driver.mounted."
token = Path(properties[prefix + "oauthTokenFile"]).read_text()
tls = ssl.create_default_context(cafile=properties[prefix + "caCertFile"])
base = properties["spark.kubernetes.driver.master"] + "/api/v1/namespaces/analytics/pods"

def call(method, url, body=None):
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), context=tls) as answer:
        return json.loads(answer.read())

executor = "spark.kubernetes.executor."
me = call("GET", base + "/" + properties["spark.kubernetes.driver.pod.name"])
def make(name, job):
    owner = {"apiVersion": "v1", "kind": "Pod", "name": me["metadata"]["name"], "uid": me["metadata"]["uid"], "controller": True}
    labels, annotations = ({key[len(prefix):]: value for key, value in properties.items() if key.startswith(prefix)}
                           for prefix in (executor + "label.", executor + "annotation."))
    labels |= {"spark-role": "executor", "spark-app-selector": properties["spark.app.id"]}
    address = {"name": "SPARK_EXECUTOR_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    env = [{"name": "JOB_CONFIG", "value": job}, {"name": "SPARK_JAVA_OPT_0", "value": "-javaagent:x"}, address]
    image = properties["spark.kubernetes.container.image"]
    # As Spark does: the volumes of local directories that it is given, else one at the path of its own.
    local = executor + "volumes.emptyDir."
    paths = {key[len(local):-len(".mount.path")]: value for key, value in properties.items() if key.startswith(local)}
    paths = paths or {"spark-local-dir-1": os.environ["SPARK_LOCAL_DIRS"]}
    mounts = [{"name": volume, "mountPath": path} for volume, path in paths.items()]
    container = {"name": "spark-kubernetes-executor", "image": image, "args": ["executor"], "env": env, "volumeMounts": mounts}
    metadata = {"name": name, "labels": labels, "annotations": annotations, "ownerReferences": [owner]}
    volumes = [{"name": volume, "emptyDir": {}} for volume in paths]
    spec = {"containers": [container], "volumes": volumes}
    call("POST", base, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    for _ in range(1000):
        pod = call("GET", base + "/" + name)
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            return [pod["status"]["phase"], state.get("message", "")]
        time.sleep(0.05)

job = os.environ["JOB_CONFIG"]
report = {
    "arguments": arguments[2:],
    "master": properties["spark.master"],
    "right": make("exec-1", job),
    "another job": make("exec-2", job[:-8] + "AAAAAAA="),
    "labels": me["metadata"]["labels"]["spark-role"],
}
Path(os.environ["CLEANROOM_TERMINATION_LOG"]).write_text(json.dumps(report))
"""


@pytest.fixture
def running(tmp_path: Path) -> Any:
    with cluster(tmp_path, executor_pods=True) as found:
        yield found


async def test_driver_creates_executors_under_their_policy(running: Cluster, tmp_path: Path) -> None:
    entry = ("{python}", "-m", "entry")
    image = build_image(running.images, "localhost/test/entry", {"entry.py": DRIVER.encode()}, program=entry, launcher=entry)
    profile, job = make_profile(image.reference, image.layers), make_job("executors")
    service = SparkService(None, running.client())  # type: ignore[arg-type]
    submission = await service.submit(job, profile, pod_policies(job, profile).host_data())
    deadlines = Deadlines(driver_start_seconds=PATIENCE, run_seconds=PATIENCE)
    outcome = await service.watch(submission.tracking_id, lambda status: None, deadlines)
    assert outcome.succeeded, outcome.message
    report = json.loads(outcome.termination_message)
    root = running.images / image.reference.rpartition(":")[2] / "root"
    assert report["arguments"] == ["--class", "org.apache.spark.deploy.PythonRunner", f"local://{root}/sparkapp/__main__.py"]
    assert report["master"] == f"k8s://{running.url}"
    assert (report["right"], report["labels"]) == (["Succeeded", ""], "driver")
    phase, message = report["another job"]
    assert phase == "Failed"
    assert "JOB_CONFIG has another value than the policy measures" in message
    pods = {pod.name: pod for pod in outcome.status.pods}
    assert (pods["exec-1"].role, pods["exec-1"].policy_host_data) == ("executor", pod_policies(job, profile).executor.host_data)
    counted = outcome.status.executors
    assert (counted.completed, counted.failed) == (1, 1)
    # The variable that the policy does not allow was dropped.
    assert running.client("admin").logs("exec-1", container=None) == "executor 127.0.0.1 False\n"
    assert await service.delete(submission.tracking_id)
    assert running.client().pods(submission.tracking_id) == []
    service.close()


def test_driver_service_account_can_only_manage_its_pods(running: Cluster) -> None:
    headers = {"authorization": f"Bearer {service_account_tokens(running.config.state)['spark']}"}
    tls = ssl.create_default_context(cafile=str(running.config.tls_cert))
    with httpx.Client(base_url=f"{running.url}/api/v1/namespaces/analytics", headers=headers, verify=tls) as http:
        for name in ("a", "b", "c"):
            body = {"metadata": {"name": name, "labels": {"app": "x" if name != "c" else "y"}}, "data": {}}
            assert http.post("/configmaps", json=body).status_code == 201
        assert http.delete("/configmaps", params={"labelSelector": "app=x"}).status_code == 200
        assert [item["metadata"]["name"] for item in http.get("/configmaps").json()["items"]] == ["c"]
        assert http.delete("/persistentvolumeclaims").status_code == 200
        assert http.get("/services").json()["items"] == []
        # Spark's client first requests a WebSocket and falls back to a plain watch if the server does not support it.
        websocket = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "x", "sec-websocket-version": "13"}
        assert http.get("/pods", params={"watch": "true"}, headers=websocket).status_code == 503
        with http.stream("GET", "/pods", params={"watch": "true", "timeoutSeconds": "1"}) as watching:
            assert watching.status_code == 200
        for method, path in (("POST", "/services"), ("GET", "/events"), ("PUT", "/configmaps/c"), ("GET", "/pods/x/log")):
            assert http.request(method, path, json={}).status_code == 403, path
        elsewhere = f"{running.url}/apis/sparkoperator.k8s.io/v1beta2/namespaces/analytics/sparkapplications"
        assert http.get(elsewhere).status_code == 403
        assert http.get(f"{running.url}/api/v1/namespaces/default/pods").status_code == 403
