"""The node of the full tier: containerd with runc, kubelet, kube-proxy, and a bridge for its pods.

It needs root and the network namespace of :mod:`tools.cluster.isolation`. The settings that differ from the defaults
exist because such machines lack a right or a device; each says which.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.cluster import packages
from tools.cluster.binaries import KUBE
from tools.cluster.control_plane import DNS_SERVICE, ControlPlane
from tools.cluster.images import Image
from tools.cluster.servers import ServerFailed

NAME = "node-1"
ADDRESS = "10.90.0.1"
BRIDGE = "node0"
POD_NETWORK = "10.91.0.0/24"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_RUNTIME = Path(__file__).with_name("confidential-runc")
_CRI = "io.containerd.grpc.v1.cri"
_IPTABLES = tuple(f"{family}{command}" for family in ("iptables", "ip6tables") for command in ("", "-save", "-restore"))


@contextmanager
def claimed_machine() -> Iterator[None]:
    """Hold the lock of this machine's only full cluster: two kubelets would remove each other's control groups.

    Raises:
        ServerFailed: Another one runs.
    """
    lock = os.open(CONTROL_GROUPS, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerFailed("another full cluster runs on this machine; its kubelet would remove the pods of a second one") from error
        yield
    finally:
        os.close(lock)


def prepare_network() -> None:
    """Give the namespace the node's address, on a bridge without ports, and a default route: the API server advertises no loopback."""
    for command in (
        ["ip", "link", "add", BRIDGE, "type", "bridge"],
        ["ip", "addr", "add", f"{ADDRESS}/32", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
        ["ip", "route", "add", "default", "dev", BRIDGE],
        # Sockets, shims and network namespaces of the pods: all of that vanishes with this mount.
        ["mount", "-t", "tmpfs", "tmpfs", "/run"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    Path("/run/netns").mkdir()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class ContainerNode:
    """The only node of a full tier.

    Args:
        plane: The control plane.
        hardware_file: Where :mod:`tools.cluster.confidential_runtime` reads which hardware stand-in its guests have.
    """

    def __init__(self, plane: ControlPlane, hardware_file: Path) -> None:
        self._plane, self._root, self._hardware_file = plane, packages.root(), hardware_file
        self._folder = plane.folder / "node"
        self._folder.mkdir()
        # A socket's path has at most 107 bytes.
        self._run = Path("/run/cluster")
        self._run.mkdir()
        self._socket = self._run / "containerd.sock"
        self._runtime_socket = self._run / "confidential.sock"
        self._images_file = self._folder / "images.json"
        self._link_iptables()

    def start(self, images: Sequence[Image]) -> None:
        """Start the node's programs and import ``images``.

        Raises:
            ServerFailed: A program has ended, or containerd does not answer.
        """
        runtime = [sys.executable, "-m", "tools.cluster.confidential_runtime"]
        files = [self._runtime_socket, self._images_file, self._hardware_file]
        self._plane.servers.start("confidential-runtime", [*runtime, *map(str, files)])
        self._start("containerd", self._root / "usr/bin/containerd", "--config", self._containerd_config())
        self._plane.servers.wait_until(self._answers, 30, "containerd does not answer after 30 s")
        for image in images:
            self._import(image)
        names = {name: image.layer_digests for image in images for name in (image.reference, f"localhost/{image.name}:latest")}
        self._images_file.write_text(json.dumps(names))
        self._plane.servers.wait_until(self._runtime_socket.exists, 60, "the confidential runtime does not answer after 60 s")
        issue = self._plane.certificates.issue
        issue("kubelet", f"system:node:{NAME}", groups=("system:nodes",), hosts=(NAME, ADDRESS))
        self._start(
            "kubelet",
            KUBE.path,
            "kubelet",
            f"--config={self._kubelet_config()}",
            f"--kubeconfig={self._plane.kubeconfig('kubelet')}",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS}",
            f"--root-dir={self._folder / 'kubelet'}",
            f"--cert-dir={self._folder / 'kubelet-certificates'}",
        )
        self._start("kube-proxy", KUBE.path, "kube-proxy", f"--config={self._proxy_config()}", f"--hostname-override={NAME}")

    def _start(self, name: str, *command: str | Path) -> None:
        self._plane.servers.start(name, command, self.environment())

    @property
    def programs(self) -> Path:
        """The folder with the programs of iptables."""
        return self._folder / "bin"

    def environment(self) -> dict[str, str]:
        """Return the variables with which the node's programs find each other."""
        library = self._root / "usr/lib/x86_64-linux-gnu"
        folders = [self.programs, self._root / "usr/sbin", self._root / "usr/bin", os.environ["PATH"], "/usr/sbin", "/sbin"]
        unpacked = {"LD_LIBRARY_PATH": str(library), "XTABLES_LIBDIR": str(library / "xtables")}
        runtime = {
            "CONFIDENTIAL_RUNC": str(self._root / "usr/sbin/runc"),
            "CONFIDENTIAL_PYTHON": sys.executable,
            "CONFIDENTIAL_CLIENT": str(_RUNTIME.with_name("runtime_client.py")),
            "CONFIDENTIAL_SOCKET": str(self._runtime_socket),
        }
        return {"PATH": ":".join(str(folder) for folder in folders), **runtime, **(unpacked if self._root != Path("/") else {})}

    def _link_iptables(self) -> None:
        self.programs.mkdir()
        for name in _IPTABLES:
            (self.programs / name).symlink_to(self._root / "usr/sbin/xtables-nft-multi")

    def _answers(self) -> bool:
        done = subprocess.run(self._ctr("version"), capture_output=True, check=False, env={**os.environ, **self.environment()})
        return done.returncode == 0

    def _import(self, image: Image) -> None:
        """Give containerd an image. The archive is written into a pipe: one with Spark has a gigabyte."""
        options = ["--digests", "--base-name", f"localhost/{image.name}", "--no-unpack"]
        command = self._ctr("--namespace", "k8s.io", "images", "import", *options, "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **self.environment()}
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as archive:
                image.write(archive)
            message = process.stderr.read().decode(errors="replace")
        if process.returncode != 0:
            raise ServerFailed(f"the image {image.name} was not imported: {message.strip()[-300:]}")

    def _ctr(self, *arguments: str) -> list[str]:
        """Return a command of containerd's own client."""
        return [str(self._root / "usr/bin/ctr"), "--address", str(self._socket), *arguments]

    # --- configurations

    def _containerd_config(self) -> Path:
        networks = self._folder / "cni"
        networks.mkdir()
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipMasq": False,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_NETWORK}]], "dataDir": str(self._folder / "addresses")},
        }
        (networks / "10-pods.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}))
        runtime = f'plugins."{_CRI}".containerd.runtimes.runc'
        path = self._folder / "containerd.toml"
        path.write_text(
            f"""\
version = 2
root = "{self._folder}/containerd"
state = "{self._run}/containerd"
[grpc]
  address = "{self._socket}"
[plugins."{_CRI}"]
  sandbox_image = "localhost/pause:latest"
  disable_apparmor = true
  # A sandbox asks for an out-of-memory score of -998, which needs CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
[plugins."{_CRI}".cni]
  bin_dir = "{self._root}/usr/lib/cni"
  conf_dir = "{networks}"
[{runtime}]
  runtime_type = "io.containerd.runc.v2"
  pod_annotations = ["microsoft.containerinstance.*"]
[{runtime}.options]
  BinaryName = "{_RUNTIME}"
  SystemdCgroup = false
"""
        )
        return path

    def _kubelet_config(self) -> Path:
        files = self._plane.certificates
        return self._json(
            "kubelet",
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": ADDRESS,
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(files.certificate("ca"))},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": str(files.certificate("kubelet")),
                "tlsPrivateKeyFile": str(files.key("kubelet")),
                "cgroupDriver": "cgroupfs",
                # Kubernetes 1.35 refuses control groups of version 1 by default.
                "failCgroupV1": False,
                "failSwapOn": False,
                "oomScoreAdj": 0,
                "clusterDNS": [DNS_SERVICE],
                "clusterDomain": "cluster.local",
                "resolvConf": "",
                "containerRuntimeEndpoint": f"unix://{self._socket}",
                "podLogsDir": str(self._folder / "logs"),
                "makeIPTablesUtilChains": False,
                "healthzPort": 0,
                # The machine's disk is not this cluster's: it evicts no pod and removes no image because the disk is almost full.
                "imageGCHighThresholdPercent": 100,
                "evictionHard": dict.fromkeys(("nodefs.available", "imagefs.available", "nodefs.inodesFree"), "1%"),
                "nodeStatusUpdateFrequency": "2s",
                "volumePluginDir": str(self._folder / "volume-plugins"),
            },
        )

    def _proxy_config(self) -> Path:
        return self._json(
            "proxy",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": str(self._plane.kubeconfig("proxy"))},
                "mode": "iptables",
                "oomScoreAdj": 0,
                "clusterCIDR": POD_NETWORK,
                # These settings of the kernel are outside of the namespace.
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
                "healthzBindAddress": "",
                "metricsBindAddress": "127.0.0.1:10249",
            },
        )

    def _json(self, name: str, value: dict[str, Any]) -> Path:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(value))
        return path
