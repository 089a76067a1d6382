"""Starts and stops clusters, and finds those that run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes
import psutil
import yaml

from cleanroom.secret import write_secret_file
from localcloud.process_start import running_process, started
from tools.cluster import binaries, container_node, isolation, packages, rights, spark_image
from tools.cluster.binaries import NotPossible
from tools.cluster.supervisor import ACCOUNTS, POD_CLUSTER_FILE, READY_FILE, kubeconfig_path

NAMESPACE = "analytics"
START_SECONDS = 300
_PROCESS_FILE = "process.json"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    ``image`` and ``layers`` are those of drivers that do what their arguments say. ``seconds`` and ``memory_mib`` report
    its start by step, and its servers by name.
    """

    folder: Path
    namespace: str = NAMESPACE
    image: str = ""
    layers: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, int] = field(default_factory=dict)
    process: int = 0
    """The process ID of its supervisor on this machine."""

    def kubeconfig(self, account: str = "admin", *, inside: bool = False) -> Path:
        """Return the kubeconfig of ``admin`` or of a service account of the namespace of runs.

        Args:
            account: The account.
            inside: Whether it is for a process in the cluster's network.
        """
        return kubeconfig_path(self.folder, account, inside=inside)

    @property
    def network(self) -> Path:
        """The cluster's network namespace (:func:`tools.cluster.isolation.enter_network`)."""
        return Path(f"/proc/{self.process}/ns/net")

    @property
    def description(self) -> Path:
        """The file for ``python -m localcloud up --cluster``. It exists if the cluster has the image of a run's pods."""
        return self.folder / POD_CLUSTER_FILE


def obstacle(tier: str = "fast", *, spark: bool = False) -> str | None:
    """Return why a cluster cannot start here without a build, or None if it can."""
    if sys.platform != "linux":
        return f"the cluster's programs are built for Linux only; this is {sys.platform}"
    if tier == "full" and (reason := containers_obstacle()) is not None:
        return reason
    missing = binaries.missing(binaries.FULL if tier == "full" else binaries.FAST)
    missing += ["Debian packages"] if tier == "full" and packages.missing() else []
    missing += ["the image of the pods"] if spark and spark_image.missing() else []
    return f"not built: {', '.join(missing)}; `make cluster-binaries` builds them, or says why it cannot" if missing else None


def containers_obstacle() -> str | None:
    """Return why this machine cannot run pods, or None if it can."""
    if os.geteuid() != 0:
        return "only root can run containerd and a kubelet"
    prefix = isolation.prefix()
    if prefix is None:
        return "this machine allows no new namespaces, for example because it is a container without CAP_SYS_ADMIN"
    trial = ["sh", "-c", f"ip link add {container_node.BRIDGE} type bridge && mount -t tmpfs tmpfs /mnt && test -w /sys/fs/cgroup"]
    done = subprocess.run([*prefix, *trial], capture_output=True, text=True, check=False)
    return f"this machine cannot run pods: {done.stderr.strip() or 'control groups are read-only'}" if done.returncode else None


@contextmanager
def running(folder: Path, tier: str = "fast", *, spark: bool = False) -> Iterator[Cluster]:
    """Run a cluster with its state in ``folder``. It also ends when this process ends.

    Args:
        folder: The cluster's state.
        tier: ``fast`` or ``full``.
        spark: Whether the node gets the image of a run's pods.

    Raises:
        NotPossible: Its programs are not built, or it did not start.
    """
    process = _start(folder, tier, spark=spark)
    try:
        yield _wait_started(folder, process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        _wait_ended(process)


def existing(kubeconfig: Path, folder: Path, namespace: str = NAMESPACE) -> Cluster:
    """Return a cluster that runs elsewhere, with kubeconfigs of the accounts in ``folder``. Creates the accounts if they do not exist.

    Args:
        kubeconfig: An administrator's kubeconfig.
        folder: For the kubeconfigs.
        namespace: The namespace of runs, which the cluster's Spark Operator must manage.
    """
    config: Any = kubernetes.config
    content: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    context = next(item["context"] for item in content["contexts"] if item["name"] == content["current-context"])
    api: kubernetes.client.ApiClient = config.new_client_from_config(str(kubeconfig))
    with closing(api):
        rights.create_accounts(api, namespace)
        for account in ACCOUNTS:
            path = kubeconfig_path(folder, account)
            users = [] if account == "admin" else [{"name": context["user"], "user": {"token": rights.token(api, namespace, account)}}]
            write_secret_file(path, json.dumps({**content, **({"users": users} if users else {})}).encode())
    return Cluster(folder, namespace)


def up(folder: Path, tier: str = "fast", *, spark: bool = False) -> Cluster:
    """Start a cluster that outlives this process, or return the one that runs already.

    Raises:
        NotPossible: Its programs are not built, or it did not start.
    """
    if (running := _supervisor(folder)) is not None:
        return _read(folder, running.pid)
    process = _start(folder, tier, detached=True, spark=spark)
    created = started(psutil.Process(process.pid))
    (folder / _PROCESS_FILE).write_text(json.dumps({"pid": process.pid, "created": created}))
    return _wait_started(folder, process)


def down(folder: Path) -> bool:
    """Stop the cluster and remove its state. Returns whether it ran."""
    supervisor = _supervisor(folder)
    if supervisor is not None:
        _inner(supervisor).send_signal(signal.SIGTERM)
        try:
            supervisor.wait(60)
        except psutil.TimeoutExpired:
            supervisor.kill()
        isolation.remove_control_groups()
    shutil.rmtree(folder, ignore_errors=True)
    return supervisor is not None


def _start(folder: Path, tier: str, *, detached: bool = False, spark: bool = False) -> subprocess.Popen[bytes]:
    if (reason := obstacle(tier, spark=spark)) is not None:
        raise NotPossible(reason)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    prefix = isolation.prefix()
    with socket.create_server(("127.0.0.1", 0)) as listener, (folder / "supervisor.log").open("wb") as log:
        command = [*(prefix or []), sys.executable, "-m", "tools.cluster", "supervise", tier]
        command += [str(folder.resolve()), str(listener.fileno())]
        command += [*(["--detached"] if detached else []), *(["--spark"] if spark else [])]
        return subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )


def _wait_started(folder: Path, process: subprocess.Popen[bytes]) -> Cluster:
    deadline = time.monotonic() + START_SECONDS
    while not (folder / READY_FILE).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            last = (folder / "supervisor.log").read_text(errors="replace").strip()[-1500:]
            raise NotPossible(f"the cluster did not start within {START_SECONDS} s; {folder / 'supervisor.log'} ends with:\n{last}")
        time.sleep(0.1)
    return _read(folder, process.pid)


def _wait_ended(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    isolation.remove_control_groups()


def _inner(supervisor: psutil.Process) -> psutil.Process:
    """Return the supervisor itself: with namespaces it is the child of ``unshare``."""
    return next(iter(supervisor.children()), supervisor) if supervisor.name() == "unshare" else supervisor


def _read(folder: Path, process: int) -> Cluster:
    content: dict[str, Any] = json.loads((folder / READY_FILE).read_text())
    layers = tuple(content["layers"])
    inner = _inner(psutil.Process(process)).pid
    return Cluster(folder, content["namespace"], content["image"], layers, content["seconds"], content["memory_mib"], inner)


def _supervisor(folder: Path) -> psutil.Process | None:
    """Return the process of the cluster that :func:`up` started in ``folder``, or None if it does not run."""
    try:
        record = json.loads((folder / _PROCESS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return running_process(record["pid"], record["created"])
