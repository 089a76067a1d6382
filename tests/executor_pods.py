"""Runs whose executors are pods of the Kubernetes stand-in, and what these pods request from storage and governance.

Spark's own Kubernetes scheduler creates the pods. Each is a guest of its own and runs under its measured policy.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import pytest

from cleanroom.attestation import parse_report
from cleanroom.datasets.encryption import HEADER_BYTES, SEGMENT_BYTES
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.job import ResultReceipt
from cleanroom.spark.outcome import Outcome
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.profile import PodResources
from cleanroom.spark.service import SparkService
from cleanroom.spark.status import JobStatus, PodStatus
from localcloud.launcher.processes import free_ports
from localcloud.standins.kubernetes.image import build_sparkapp_image
from localcloud.tls import LocalAuthority
from tests.faults.proxy import FaultProxy, Message
from tests.payload_world import ADMIN, Prepared, World, grant, payload_world
from tests.servers import S3Server
from tests.unit.spark_support import Cluster, cluster, make_profile

BACKEND = "KubernetesExecutorBackend"
ON_REQUEST = [
    pytest.mark.scenario,
    pytest.mark.spark,
    pytest.mark.skipif(os.environ.get("CLEANROOM_TEST_EXECUTORS") != "1", reason="starts a JVM per pod; run it with make test-executors"),
]
"""Marks of tests that run Spark in pods."""


@dataclass(frozen=True)
class Read:
    """A range that a pod read from an object."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True)
class Release:
    """A request of an attested pod to governance: what it asks for, its policy, and its guest."""

    what: str
    host_data: str
    guest: str


@dataclass
class Traffic:
    """What pods have requested since the last :meth:`clear`."""

    reads: list[Read] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)

    def note(self, service: str, request: Message) -> None:
        """Note a request."""
        method, target, _ = request.start.split(" ")
        self.requests[service] += 1
        path = unquote(target.partition("?")[0])
        if service == "s3" and (found := re.fullmatch(r"bytes=(\d+)-(\d+)", request.get("range"))):
            self.reads.append(Read(path, int(found[1]), int(found[2]) + 1 - int(found[1])))
        if service == "cgs" and method == "POST" and request.body:
            evidence = json.loads(request.body).get("attestation", {}).get("evidence")
            if isinstance(evidence, str):
                report = parse_report(base64.b64decode(evidence))
                self.releases.append(Release(path.rpartition("/contracts/")[2], report.host_data.hex(), report.report_id.hex()))

    def clear(self) -> None:
        """Forget everything."""
        self.reads.clear()
        self.releases.clear()
        self.requests.clear()

    def segments(self, dataset: str) -> Counter[tuple[str, int]]:
        """How often each segment of a dataset's objects was read. Reads of headers alone are left out."""
        return Counter(
            (read.path, segment)
            for read in self.reads
            if f"/{dataset}/" in read.path and read.length > HEADER_BYTES
            for segment in range(read.offset // SEGMENT_BYTES, -(-(read.offset + read.length) // SEGMENT_BYTES))
        )

    def stored_bytes(self, dataset: str) -> int:
        """Bytes that were read of a dataset's objects."""
        return sum(read.length for read in self.reads if f"/{dataset}/" in read.path)


@contextmanager
def watched(world: World, authority: LocalAuthority) -> Iterator[tuple[World, Traffic]]:
    """Put a proxy before storage and governance, and yield the world whose pods use it."""
    proxy, traffic = FaultProxy(), Traffic()
    proxy.on_request = traffic.note
    certificate = authority.issue("traffic")
    ports = dict(zip(("s3", "cgs"), free_ports(2), strict=True))
    with proxy.running():
        for service, url in (("s3", world.s3.url), ("cgs", world.cgs.settings.url)):
            proxy.forward(service, url)
            proxy.listen(service, ports[service], certificate)
        yield replace(world, s3_url=f"https://localhost:{ports['s3']}", governance_url=f"https://localhost:{ports['cgs']}"), traffic


@pytest.fixture(scope="module")
def watched_world(
    tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority, seaweedfs: S3Server
) -> Iterator[tuple[World, Traffic]]:
    """A contract whose pods are watched."""
    with payload_world(tmp_path_factory.mktemp("executors"), local_authority, seaweedfs) as made, watched(made, local_authority) as found:
        yield found


def size_of(instances: int, memory: str = "512m") -> PodResources:
    """Executors with one core each, and memory of every JVM."""
    return PodResources(driver_memory=memory, executor_cores=1, executor_memory=memory, executor_instances=instances)


@dataclass
class PodRun:
    """A finished run."""

    outcome: Outcome
    policies: PodPolicies
    seconds: float
    """From the submission to the end."""
    most_executors: int
    """The most executors that ran at the same time."""

    def executors(self) -> list[PodStatus]:
        """The executors' pods, also those that have ended."""
        assert self.outcome.status is not None
        return [pod for pod in self.outcome.status.pods if pod.role == "executor"]

    def receipt(self) -> ResultReceipt:
        """The result receipt."""
        assert self.outcome.succeeded, self.outcome
        return ResultReceipt.model_validate_json(self.outcome.termination_message)


def rows_of(world: World, prepared: Prepared, run: PodRun) -> list[dict[str, Any]]:
    """The rows of a result of :mod:`tests.executor_data`, in the order of their makers."""
    rows: list[dict[str, Any]] = world.result(prepared, run.receipt()).sort_by("maker").to_pylist()
    return rows


def figures(run: PodRun, traffic: Traffic, stored: dict[str, int]) -> dict[str, float]:
    """Return what the pods of a run have read and requested.

    Args:
        run: The run.
        traffic: The requests of its pods.
        stored: Stored bytes by dataset.
    """
    by_executors = [item.what for item in traffic.releases if item.host_data == run.policies.executor.host_data]
    return {
        "seconds from submission to the end": run.seconds,
        **{f"{name}: bytes read, against stored": traffic.stored_bytes(name) / size for name, size in stored.items()},
        "requests to storage": traffic.requests["s3"],
        "requests to governance": traffic.requests["cgs"],
        "secrets requested by executors": len([what for what in by_executors if "/secrets/" in what]),
        "dataset keys requested by executors": len([what for what in by_executors if ".key" in what]),
    }


@dataclass(frozen=True)
class ExecutorPod:
    """A running executor: its folder on the node, its local directory, and its JVM."""

    folder: Path
    local: Path
    jvm: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """The JVM and all processes that it or its entry point has started."""
        return [self.jvm, *self.jvm.children(recursive=True)]


def running_executors(running: Cluster) -> list[ExecutorPod]:
    """Return the executors whose JVM runs."""
    found = []
    for record in sorted((running.config.state / "pods").glob("*/process.json")):
        try:
            for process in psutil.Process(json.loads(record.read_text())["pid"]).children():
                if BACKEND in " ".join(process.cmdline()):
                    found.append(ExecutorPod(record.parent, record.parent / "scratch" / "tmp", process))
        except (psutil.NoSuchProcess, FileNotFoundError, json.JSONDecodeError):
            continue
    return found


async def run_on_pods(
    world: World,
    prepared: Prepared,
    folder: Path,
    resources: PodResources,
    during: Callable[[Cluster, JobStatus], None] = lambda running, status: None,
) -> PodRun:
    """Run a job on the Kubernetes stand-in with executors in pods.

    Args:
        world: Where the pods read.
        prepared: The run. Its secrets are granted to the pods here.
        folder: State of the stand-in.
        resources: Resources of the pods.
        during: Called with every new reading of the job's state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "snp-token"
    token.write_text(ADMIN)
    changes = {"executor_pods": True, "snp_url": world.snp, "snp_token_file": token, "snp_ca_file": world.ca_file}
    with cluster(folder, **changes) as running:
        image = build_sparkapp_image(running.images)
        profile = make_profile(image.reference, image.layers, resources=resources)
        policies = pod_policies(prepared.job, profile)
        for host_data in policies.host_data():
            await grant(world, prepared, host_data)
        service = SparkService(None, running.client(), beat_seconds=0.5)  # type: ignore[arg-type]
        seen: list[int] = [0]

        def progress(status: JobStatus) -> None:
            seen.append(status.executors.running)
            during(running, status)

        started = time.monotonic()
        submission = await service.submit(prepared.job, profile, policies.host_data())
        outcome = await service.watch(submission.tracking_id, progress, Deadlines(driver_start_seconds=90, run_seconds=900))
        seconds = time.monotonic() - started
        await service.delete(submission.tracking_id)
        service.close()
    return PodRun(outcome, policies, seconds, max(seen))
