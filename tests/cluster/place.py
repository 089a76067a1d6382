"""Where the tests of a run's Kubernetes side run: the stand-in, or a real cluster. The tests are the same.

A driver's arguments say how it ends: ``exit CODE [MESSAGE]``, ``eat`` (more memory than it may have), or anything else, which runs
until the pod is deleted.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import kubernetes
import kubernetes.stream
import pytest

from cleanroom.attestation import AttestationEvidence
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.application import build_application
from cleanroom.spark.job import JobConfig
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service import SparkService
from tests.unit.spark_support import DIGEST, cluster, make_job, make_profile, script_image
from tools.cluster.binaries import SPARK, NotPossible
from tools.cluster.clusters import NAMESPACE, Cluster, existing, obstacle, running
from tools.cluster.simulated_node import ABSENT

TIERS = tuple(os.environ.get("CLEANROOM_TEST_TIERS", "stand-in").split())
"""``stand-in``; ``fast``: real control plane and operator, no containers; ``full``: with a kubelet and containers; ``existing``: the
cluster of ``KUBECONFIG``."""

PROGRAM = """
import os, pathlib, signal, sys
print("driver", *sys.argv[1:], flush=True)
match sys.argv[1:]:
    case ["exit", code, *message]:
        pathlib.Path(os.environ["CLEANROOM_TERMINATION_LOG"]).write_text(message[0] if message else "")
        sys.exit(int(code))
signal.pause()
"""


CHANGES_KEPT = 150
"""The stand-in forgets older changes, so that tests can watch from an expired version."""


class NoHardware:
    """Takes the place of an attestation sidecar: these tests attest nothing."""

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        raise NotImplementedError


@dataclass
class Place:
    """A cluster, and what the tests need of it."""

    tier: str
    kubeconfig: Callable[[str], Path]
    image: str
    layers: tuple[str, ...]
    namespace: str = NAMESPACE
    cluster: Cluster | None = None
    clients: list[KubernetesClient] = field(default_factory=list)

    def require(self, *tiers: str, why: str) -> None:
        """Skip the test, with the reason ``why``, except at ``tiers``."""
        if self.tier not in tiers:
            pytest.skip(why)

    @property
    def real(self) -> bool:
        """Whether API server and operator are real."""
        return self.tier != "stand-in"

    def settings(self, account: str = "spark-service") -> KubernetesSettings:
        return KubernetesSettings(kubeconfig=self.kubeconfig(account), namespace=self.namespace)

    def client(self, account: str = "spark-service") -> KubernetesClient:
        client = KubernetesClient.connect(self.settings(account))
        self.clients.append(client)
        return client

    @contextmanager
    def api(self, account: str = "admin") -> Iterator[kubernetes.client.ApiClient]:
        """The official client, as ``account``."""
        with kubernetes.config.new_client_from_config(config_file=str(self.kubeconfig(account))) as api:
            yield api

    @contextmanager
    def core(self, account: str = "admin") -> Iterator[kubernetes.client.CoreV1Api]:
        """The official client of the core API, as ``account``."""
        with self.api(account) as api:
            yield kubernetes.client.CoreV1Api(api)

    def profile(self, *arguments: str, image: str | None = None, **changes: Any) -> PodProfile:
        """A profile whose driver does what ``arguments`` say."""
        values = {"spark_version": SPARK, "arguments": arguments or ("wait",), "namespace": self.namespace}
        return make_profile(image or self.image, self.layers, **(values | changes))

    def absent_image(self) -> str:
        """An image that cannot be pulled."""
        return f"{ABSENT}@sha256:{'9' * 64}"

    def application(self, run: str | JobConfig, *arguments: str, **changes: Any) -> dict[str, Any]:
        """The SparkApplication of a run."""
        job, profile = run if isinstance(run, JobConfig) else make_job(run), self.profile(*arguments, **changes)
        return build_application(job, profile, pod_policies(job, profile), locked_conf={})

    def service(self, account: str = "spark-service", *, beat_seconds: float = 0.5) -> SparkService:
        return SparkService(NoHardware(), self.client(account), beat_seconds=beat_seconds)

    def end_driver(self, pod: str, code: Literal[0, 11]) -> None:
        """Let a driver that waits end with ``code``. The node of the fast tier reports it, as a kubelet does."""
        with self.core() as core:
            if self.tier == "fast":
                state = core.read_namespaced_pod(pod, self.namespace).status.container_statuses[0]
                terminated = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": state.state.running.started_at}
                ended = {"name": state.name, "image": state.image, "imageID": "", "ready": False, "restartCount": 0}
                ended["state"] = {"terminated": terminated | {"finishedAt": dt.datetime.now(dt.UTC)}}
                status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [ended]}
                core.patch_namespaced_pod_status(pod, self.namespace, {"status": status})
                return
            command = ["/bin/busybox", "kill", {0: "-USR1", 11: "-USR2"}[code], "1"]
            run_in_pod(core, self.namespace, pod, command)

    def close(self) -> None:
        for client in self.clients:
            client.close()


def run_in_pod(core: kubernetes.client.CoreV1Api, namespace: str, pod: str, command: list[str]) -> str:
    """Run a command in the first container of a pod, and return what it prints."""
    connect = core.connect_get_namespaced_pod_exec
    return str(kubernetes.stream.stream(connect, pod, namespace, command=command, stdout=True, stderr=True))


@contextmanager
def stand_in(folder: Path) -> Iterator[Place]:
    with cluster(folder, cpus=8, history=CHANGES_KEPT) as found:
        image = script_image(found.images, PROGRAM)
        yield Place("stand-in", lambda account: found.config.state / f"kubeconfig-{account}.yaml", image.reference, image.layers)


def started_here(tier: str) -> Callable[[Path], AbstractContextManager[Place]]:
    @contextmanager
    def start(folder: Path) -> Iterator[Place]:
        if (reason := obstacle(tier)) is not None:
            pytest.skip(reason)
        try:
            spark = tier == "full" and obstacle(tier, spark=True) is None
            with running(folder / "cluster", tier, spark=spark) as found:
                yield Place(tier, found.kubeconfig, found.image, found.layers, found.namespace, found)
        except NotPossible as error:
            pytest.fail(f"the cluster is built, but does not start: {error}")

    return start


@contextmanager
def existing_cluster(folder: Path) -> Iterator[Place]:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set")
    found = existing(Path(os.environ["KUBECONFIG"]), folder)
    image = os.environ.get("CLEANROOM_TEST_IMAGE", f"localhost/program@sha256:{DIGEST}")
    yield Place("existing", found.kubeconfig, image, (DIGEST,), found.namespace)


PLACES = {"stand-in": stand_in, "fast": started_here("fast"), "full": started_here("full"), "existing": existing_cluster}
