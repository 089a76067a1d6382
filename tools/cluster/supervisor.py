"""The process that starts a cluster's servers, keeps them, and stops them: the first one in the cluster's namespaces.

It ends when it gets SIGTERM, when one of its servers ends, or, unless it is detached, when its standard input closes.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import kubernetes

from localcloud.launcher.pod_cluster import PodCluster
from localcloud.launcher.supervisor import write_json
from tools.cluster import container_node, dns, images, simulated_node, spark_image
from tools.cluster.binaries import KUBERNETES
from tools.cluster.control_plane import LOOPBACK, ControlPlane
from tools.cluster.isolation import bring_up_loopback, relay
from tools.cluster.network_policies import NetworkPolicies
from tools.cluster.rights import DRIVER, SPARK_SERVICE, VIEWER, create_accounts, token
from tools.cluster.servers import Servers
from tools.cluster.spark_operator import SparkOperator

READY_FILE = "cluster.json"
POD_CLUSTER_FILE = "pod-cluster.json"
HARDWARE_FILE = "hardware.json"
ACCOUNTS = ("admin", SPARK_SERVICE, DRIVER, VIEWER)


class Supervisor:
    """One cluster.

    Args:
        tier: ``fast``, with a simulated node, or ``full``, with containers.
        folder: The cluster's state.
        namespace: The namespace of runs.
        listener: A listening socket of the machine, which the API server answers on.
        spark: Whether the node gets the image of a run's pods.
    """

    def __init__(self, tier: str, folder: Path, namespace: str, listener: socket.socket, *, spark: bool) -> None:
        self.tier, self.folder, self.namespace, self.listener, self.spark = tier, folder, namespace, listener, spark
        self.image: tuple[str, tuple[str, ...]] = (f"localhost/program@sha256:{'0' * 64}", ("0" * 64,))
        self.servers = Servers(folder)
        self.seconds: dict[str, float] = {}

    def start(self, cleanup: ExitStack) -> ControlPlane:
        """Start everything, and write the kubeconfigs and the ready file. ``cleanup`` stops it again."""
        cleanup.callback(self.servers.stop)
        if self.tier == "full":
            cleanup.enter_context(container_node.claimed_machine())
            container_node.prepare_network()
        plane = ControlPlane(self.folder, self.servers, container_node.ADDRESS if self.tier == "full" else None)
        with self._timed("etcd and API server"):
            plane.start()
        admin = plane.kubeconfig("admin")
        config: Any = kubernetes.config
        api: kubernetes.client.ApiClient = config.new_client_from_config(str(admin))
        cleanup.callback(api.close)
        with self._timed("CRDs, rights, webhooks"):
            create_accounts(api, self.namespace)
            operator = SparkOperator(plane, api, self.namespace)
            operator.install()
        with self._timed("Spark Operator"):
            operator.start()
        with self._timed("node"):
            self._start_node(plane, api, cleanup)
            core = kubernetes.client.CoreV1Api(api)
            # The scheduler may use a new node when its controller has removed the taint.
            self.servers.wait_until(lambda: any(map(_is_ready, core.list_node().items)), 60, "no node is ready after 60 s")
        self._write_kubeconfigs(plane, api)
        return plane

    def _start_node(self, plane: ControlPlane, api: kubernetes.client.ApiClient, cleanup: ExitStack) -> None:
        if self.tier == "full":
            images_folder = self.folder / "images"
            program, names = images.program(images_folder), images.dns(images_folder)
            pods = [spark_image.build()] if self.spark else []
            node = container_node.ContainerNode(plane, self.folder / HARDWARE_FILE)
            policies = NetworkPolicies(api, container_node.POD_NETWORK, node.programs, node.environment())
            policies.start()
            cleanup.callback(policies.stop)
            node.start([images.pause(images_folder), program, names, *pods])
            dns.install(api, names.reference)
            self.servers.wait_until(lambda: dns.is_available(api), 60, "the cluster's DNS server does not answer after 60 s")
            self.image = (program.reference, program.layer_digests)
            for image in pods:
                self._describe(image)
        else:
            simulated = simulated_node.SimulatedNode(plane, api)
            simulated.start()
            cleanup.callback(simulated.stop)

    def _describe(self, image: images.Image) -> None:
        """Write what a local cloud needs to know to run its pods here."""
        described = PodCluster(
            address=container_node.ADDRESS,
            kubeconfig=kubeconfig_path(self.folder, SPARK_SERVICE, inside=True),
            image=image.reference,
            layers=image.layer_digests,
            spark_version=importlib.metadata.version("pyspark"),
            hardware_file=self.folder / HARDWARE_FILE,
        )
        write_json(self.folder / POD_CLUSTER_FILE, described.model_dump(mode="json"))

    async def serve(self, plane: ControlPlane, *, detached: bool) -> None:
        """Relay connections to the API server until the cluster should end."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.add_signal_handler(signal.SIGINT, ended.set)
        if not detached:
            loop.add_reader(sys.stdin.fileno(), ended.set)
        async with await relay(self.listener, LOOPBACK, plane.port):
            self._write_ready_file()
            while not ended.is_set():
                self.servers.require_running()
                try:
                    async with asyncio.timeout(1):
                        await ended.wait()
                except TimeoutError:
                    continue

    def _write_kubeconfigs(self, plane: ControlPlane, api: kubernetes.client.ApiClient) -> None:
        outside = f"https://{LOOPBACK}:{self.listener.getsockname()[1]}"
        for account in ACCOUNTS:
            credential = {"file": "admin"} if account == "admin" else {"token": token(api, self.namespace, account)}
            for inside, url in ((False, outside), (True, plane.url)):
                plane.certificates.kubeconfig(kubeconfig_path(self.folder, account, inside=inside), url, self.namespace, **credential)

    def _write_ready_file(self) -> None:
        memory = {name: server.resident_mib() for name, server in self.servers.running.items()}
        image, layers = self.image
        content = {
            "kubernetes": KUBERNETES,
            "tier": self.tier,
            "namespace": self.namespace,
            "image": image,
            "layers": layers,
            "seconds": self.seconds,
            "memory_mib": memory,
        }
        write_json(self.folder / READY_FILE, content)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - began, 2)
        print(f"{self.seconds[step]:7.2f} s  {step}", flush=True)


def _is_ready(node: Any) -> bool:
    ready = any(item.type == "Ready" and item.status == "True" for item in node.status.conditions or ())
    return ready and not node.spec.taints


def kubeconfig_path(folder: Path, account: str, *, inside: bool = False) -> Path:
    """Return the path of an account's kubeconfig, for this machine's network or for a process ``inside`` of the cluster's."""
    return folder / ("kubeconfigs-inside" if inside else "kubeconfigs") / f"{account}.json"


def main(tier: str, folder: Path, namespace: str, listener: socket.socket, *, detached: bool, spark: bool) -> None:
    """Run a cluster until it should end."""
    if os.getpid() == 1:
        bring_up_loopback()
    with ExitStack() as cleanup:
        supervisor = Supervisor(tier, folder, namespace, listener, spark=spark)
        plane = supervisor.start(cleanup)
        asyncio.run(supervisor.serve(plane, detached=detached))
