"""Pod programs, and waiting for an application."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import kubernetes
import psutil

from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.outcome import Outcome, outcome_of
from cleanroom.spark.status import JobStatus
from localcloud.standins.kubernetes.server import kubeconfig_path
from tests.patience import PATIENCE
from tests.unit.spark_support import Cluster

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


def api_client(running: Cluster, account: str = "spark-service") -> kubernetes.client.ApiClient:
    """Return an official client for a service account; close it after use."""
    return kubernetes.config.new_client_from_config(config_file=str(kubeconfig_path(running.config.state, account)))


def follow(client: KubernetesClient, name: str, until: Callable[[JobStatus], Any], seconds: float = PATIENCE) -> JobStatus:
    """Wait until ``until`` accepts the status, and return the status."""
    deadline = time.monotonic() + seconds
    version = None
    while time.monotonic() < deadline:
        status = client.status(name)
        if until(status):
            return status
        version = client.await_pod_change(name, 1, version)
    raise AssertionError(f"{name} did not reach the expected status: {client.status(name)}")


def finish(client: KubernetesClient, name: str) -> Outcome:
    """Wait until the application has ended, and return its outcome."""
    states = []
    for change in client.changes(name, seconds=PATIENCE):
        if change.object is not None:
            states.append(change.object.get("status", {}).get("applicationState", {}).get("state", ""))
            if states[-1] in ("COMPLETED", "FAILED"):
                break
    outcome = outcome_of(client.status(name))
    assert outcome is not None, states
    return outcome


def is_running(pid: int) -> bool:
    """Whether a process runs and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
