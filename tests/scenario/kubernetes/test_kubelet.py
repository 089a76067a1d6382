"""The kubelet of the Kubernetes stand-in: images, policies, processes, and pods that survive a restart."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import psutil
import pytest

from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.failure_rules import FailureCode
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.outcome import outcome_of
from cleanroom.spark.policy import POLICY_ANNOTATION
from localcloud.launcher.processes import free_ports
from localcloud.standins.kubernetes.image import LocalImage, build_image, build_sparkapp_image, pull_image
from localcloud.standins.kubernetes.kubelet import end_leftover_pods
from localcloud.standins.kubernetes.process import LOST, start
from localcloud.standins.kubernetes.server import KubernetesConfig, kubeconfig_path
from localcloud.tls import LocalAuthority
from tests.patience import PATIENCE
from tests.scenario.kubernetes.support import GATED, WAITING, api_client, finish, follow, is_running
from tests.unit.spark_support import Cluster, application, cluster, make_job, script_image

pytestmark = pytest.mark.scenario


def test_unknown_image_is_a_pull_error_and_stays_submitted(client: KubernetesClient, receipt_image: LocalImage) -> None:
    missing = receipt_image.model_copy(update={"reference": f"localhost/test/gone@sha256:{'9' * 64}"})
    name = client.create_or_get(application(make_job("image"), missing))[0]["metadata"]["name"]
    status = follow(client, name, lambda status: (found := outcome_of(status)) and found.code)
    assert status.state == "SUBMITTED"
    outcome = outcome_of(status)
    assert outcome is not None
    assert outcome.code is FailureCode.IMAGE_PULL
    assert "not found" in outcome.message
    assert client.delete(name)


def test_tampered_image_does_not_start(shared: Cluster, client: KubernetesClient) -> None:
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


def _path_of_the_node(item: dict[str, Any]) -> None:
    item["spec"]["volumes"].append({"name": "node", "hostPath": {"path": "/home/operator"}})
    item["spec"]["driver"]["volumeMounts"].append({"name": "node", "mountPath": "/opt/spark/jars"})


@pytest.mark.parametrize("change", [_arguments, _job_config, _image, _no_policy, _allow_all, _privileged, _path_of_the_node])
def test_pod_that_differs_from_its_policy_does_not_start(
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


def test_pod_stays_unscheduled_while_cpus_are_missing(tmp_path: Path) -> None:
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


def test_delete_ends_all_processes_of_the_pod(client: KubernetesClient, waiting_image: LocalImage) -> None:
    name = client.create_or_get(application(make_job("kill"), waiting_image))[0]["metadata"]["name"]
    status = follow(client, name, lambda status: status.state == "RUNNING")
    pids: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while not pids and time.monotonic() < deadline:
        pids = [int(pid) for pid in re.findall(r"^child (\d+)\n", client.logs(status.driver_pod or ""), re.M)]
    (child,) = pids
    assert psutil.pid_exists(child)
    assert client.delete(name)
    assert not is_running(child)
    assert client.pods(name) == []
    with pytest.raises(NotFound):
        client.get(name)


def test_log_stream_ends_with_the_pod(shared: Cluster, client: KubernetesClient) -> None:
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
    lines = []
    with api_client(shared, "admin") as api:
        core = kubernetes.client.CoreV1Api(api)
        for line in kubernetes.watch.Watch().stream(core.read_namespaced_pod_log, f"{name}-driver", "analytics"):
            lines.append(line)
            if line == "first":
                (shared.config.state / f"{name}-driver").touch()
    assert lines == ["first", "last"]
    assert client.delete(name)


@contextmanager
def standing(config: KubernetesConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Run the stand-in as a process; the block starts when it is healthy."""
    file = config.state.parent / "kubernetes.json"
    file.write_text(config.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "localcloud.standins.kubernetes", "--config", str(file)])
    try:
        tls = ssl.create_default_context(cafile=str(config.tls_cert))
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, "the stand-in did not start"
            try:
                if httpx.get(f"https://localhost:{config.port}/healthz", verify=tls).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_pods_of_a_killed_stand_in_keep_running_and_report_their_exit_codes(tmp_path: Path) -> None:
    """One pod ends while the stand-in is down, one after its restart. Both are started once and report their own exit code."""
    tls = LocalAuthority(tmp_path / "tls").issue("kubernetes")
    [port] = free_ports(1)
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
        process.wait(PATIENCE)
        (gate / f"{names[0]}-driver").touch()
        exit_file = Path(records[0]["exit_file"])
        deadline = time.monotonic() + PATIENCE
        while not exit_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert is_running(records[1]["pid"])
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
        process.wait(PATIENCE)
    assert end_leftover_pods(config.state) == 1
    assert end_leftover_pods(config.state) == 0


def test_pods_of_a_stopped_stand_in_are_node_lost(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        client = running.client()
        name = client.create_or_get(application(make_job("down"), script_image(running.images, WAITING)))[0]["metadata"]["name"]
        status = follow(client, name, lambda status: status.state == "RUNNING")
        record = json.loads((running.config.state / "pods" / status.pods[0].uid / "process.json").read_text())
        assert is_running(record["pid"])
    assert not is_running(record["pid"])
    with cluster(tmp_path) as again:
        client = again.client()
        outcome = finish(client, name)
        assert (outcome.code, outcome.retryable) == (FailureCode.NODE_LOST, True)
        assert client.delete(name)


async def test_process_that_starts_after_the_signal_is_terminated_too(tmp_path: Path) -> None:
    """A signal between fork and exec is lost. The pod must not run until the end of its grace period."""
    program = ["/bin/sh", "-c", "trap 'exec sleep 600' TERM; touch ready; sleep 600 & wait"]
    process = start(program, {"PATH": os.environ["PATH"]}, cwd=tmp_path, log=tmp_path / "log", exit_file=tmp_path / "exit")
    async with asyncio.timeout(PATIENCE):
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.01)
        await process.stop(30)
    assert process.exit_code() == 128 + signal.SIGTERM


async def test_killed_shim_is_lost_and_not_success(tmp_path: Path) -> None:
    process = start(["/bin/sleep", "600"], {"PATH": os.environ["PATH"]}, cwd=tmp_path, log=tmp_path / "log", exit_file=tmp_path / "exit")
    assert process.alive()
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == LOST
    await process.stop(1)


async def test_exit_code_of_a_signal_is_128_plus_its_number(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    for number, (script, code) in enumerate([("exit 0", 0), ("exit 52", 52), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]):
        process = start(
            ["/bin/sh", "-c", script], environment, cwd=tmp_path, log=tmp_path / f"log{number}", exit_file=tmp_path / f"exit{number}"
        )
        assert await process.wait() == code


def test_image_reference_depends_on_content_and_program(tmp_path: Path) -> None:
    first = build_image(tmp_path, "localhost/a", {"x.py": b"1"}, program=["{python}", "x.py"])
    assert build_image(tmp_path, "localhost/a", {"x.py": b"1"}, program=["{python}", "x.py"]) == first
    assert build_image(tmp_path, "localhost/a", {"x.py": b"2"}, program=["{python}", "x.py"]).layers != first.layers
    assert build_image(tmp_path, "localhost/a", {"x.py": b"1"}, program=["{python}", "y.py"]).reference != first.reference
    assert pull_image(tmp_path, first.reference)[0] == first
    with pytest.raises(LookupError):
        pull_image(tmp_path, f"localhost/b@sha256:{first.reference.rpartition(':')[2]}")


def test_payload_image_contains_sparkapp_and_cleanroom_only(tmp_path: Path) -> None:
    image = build_sparkapp_image(tmp_path)
    root = pull_image(tmp_path, image.reference)[1]
    assert (root / "sparkapp" / "__main__.py").is_file()
    assert (root / "cleanroom" / "spark" / "job.py").is_file()
    assert not (root / "localcloud").exists()
    assert image == build_sparkapp_image(tmp_path)
