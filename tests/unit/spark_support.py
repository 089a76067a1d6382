"""A job, a pod profile and a running Kubernetes stand-in for the tests of ``cleanroom.spark``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cleanroom.attestation import TrustStore
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.application import build_application
from cleanroom.spark.job import JobConfig
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodMeasurement, PodProfile, PodResources
from cleanroom.trust import DevelopmentTrust, TrustDocument
from localcloud.standins.kubernetes.image import LocalImage, build_image
from localcloud.standins.kubernetes.server import KubernetesConfig, create_app, kubeconfig_path, write_kubeconfigs
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware
from localcloud.tls import LocalAuthority

DIGEST = "0" * 64
EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.0.0.7:7078",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "2048m",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.8",
    "SPARK_EXECUTOR_POD_NAME": "cr-exec-1",
    "SPARK_RESOURCE_PROFILE_ID": "0",
}
"""The variables that Spark's entry point of an executor reads."""


def make_job(run_id: str = "run-1", **changes: Any) -> JobConfig:
    """Return a job. ``changes`` are members in JSON notation."""
    dataset = {
        "name": "orders",
        "viewName": "orders",
        "ownerId": "u-contosso",
        "documentVersion": "2.14",
        "documentDigest": DIGEST,
        "format": "csv",
        "schema": [["region", "string"], ["amount", "number"]],
        "allowedFields": ["region", "amount"],
        "access": {"kind": "aws-s3", "region": "us-east-1", "bucket": "orders", "connectionSecretId": "s1"},
    }
    values = {
        "contractId": "flights",
        "runId": run_id,
        "queryId": "totals",
        "queryVersion": "2.20",
        "queryDigest": DIGEST,
        "segments": [{"executionSequence": 1, "sql": "SELECT region, sum(amount) FROM orders GROUP BY region", "sourceDigest": DIGEST}],
        "datasets": [dataset],
        "datasink": {**dataset, "name": "totals", "viewName": "totals"},
        "consentSecretId": "consent",
        "eventScope": "run-1",
        "governance": {"url": "https://cgs.example"},
    }
    return JobConfig.model_validate(values | changes)


def make_profile(image: str = f"registry.example/app@sha256:{DIGEST}", layers: tuple[str, ...] = (DIGEST,), **changes: Any) -> PodProfile:
    """Return a small pod profile with changed members."""
    resources = PodResources(driver_cores=1, driver_memory="512m", executor_cores=1, executor_memory="512m")
    return PodProfile(**{"image": image, "layers": layers, "resources": resources, **changes})


def make_measurement(image: str = f"registry.example/app@sha256:{DIGEST}", layers: tuple[str, ...] = (DIGEST,)) -> PodMeasurement:
    """Return the measured part of :func:`make_profile`."""
    return PodMeasurement(image=image, layers=layers)


def make_trust_document(hardware: DevelopmentHardware, **changes: Any) -> TrustDocument:
    """Return a trust document for the development chip ``hardware``; ``changes`` are members."""
    roots = TrustStore.load(amd=False, root_files=(hardware.trust_file,))
    values: dict[str, Any] = {
        "contract_id": "flights",
        "number": 1,
        "spark_service_host_data": ("5a" * 32,),
        "pods": make_measurement(),
        "development": DevelopmentTrust(roots=roots.roots, uvm=roots.uvm),
    }
    return TrustDocument(**(values | changes))


def script_image(images: Path, source: str) -> LocalImage:
    """Build an image whose program is the Python script ``source``."""
    return build_image(
        images, "localhost/test/script", {"payload.py": textwrap.dedent(source).encode()}, program=("{python}", "-m", "payload")
    )


def application(job: JobConfig, image: LocalImage, **changes: Any) -> dict[str, Any]:
    """Return the SparkApplication of ``job`` with ``image``; ``changes`` are members of the profile."""
    profile = make_profile(image.reference, image.layers, **changes)
    return build_application(job, profile, pod_policies(job, profile), locked_conf={})


@dataclass
class Cluster:
    """A running Kubernetes stand-in and the clients connected to it."""

    url: str
    config: KubernetesConfig
    clients: list[KubernetesClient] = field(default_factory=list)

    @property
    def images(self) -> Path:
        return self.config.images or self.config.state / "images"

    def settings(self, account: str = "spark-service") -> KubernetesSettings:
        return KubernetesSettings(kubeconfig=kubeconfig_path(self.config.state, account), namespace=self.config.namespace)

    def client(self, account: str = "spark-service") -> KubernetesClient:
        client = KubernetesClient.connect(self.settings(account))
        self.clients.append(client)
        return client


@contextmanager
def cluster(folder: Path, **changes: Any) -> Iterator[Cluster]:
    """Run a Kubernetes stand-in with its state in ``folder``."""
    tls = LocalAuthority(folder / "tls").issue("kubernetes")
    config = KubernetesConfig(**{"tls_cert": tls.cert, "tls_key": tls.key, "state": folder / "kubernetes", **changes})
    with serving(create_app(config), "kubernetes", tls) as url:
        write_kubeconfigs(config, url)
        running = Cluster(url, config)
        try:
            yield running
        finally:
            for client in running.clients:
                client.close()
