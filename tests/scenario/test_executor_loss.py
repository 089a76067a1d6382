"""Runs with one, two and four executors in attested pods: what they read, and what they leave on their disks (``make test-executors``)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fnmatch
import os
import threading
from pathlib import Path

import psutil

from cleanroom.spark.status import JobStatus
from tests.executor_data import CANARY, RESULT, SPILLED, SPILLING, copies, planes
from tests.executor_pods import ON_REQUEST, ExecutorPod, Traffic, rows_of, run_on_pods, running_executors, size_of
from tests.payload_world import NETWORK_SECRET, World, prepare
from tests.unit.spark_support import Cluster

pytestmark = ON_REQUEST


class Killer:
    """Kills the first executor that has spilled rows, and keeps what it leaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.visible = b""
        """Command lines and environments of all processes of the executor."""
        self.killed = False
        self._cluster: Cluster | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="killer")

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._cluster is not None:
            self._thread.join()

    def observe(self, running: Cluster, status: JobStatus) -> None:
        """Watch the executors of a run from its first reading on."""
        if self._cluster is None:
            self._cluster = running
            self._thread.start()

    def _watch(self) -> None:
        assert self._cluster is not None
        while not self._ended.wait(0.02):
            for pod in running_executors(self._cluster):
                if any(present(pod, "temp_local_*").values()):
                    self._kill(pod)
                    return

    def _kill(self, pod: ExecutorPod) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in pod.processes():
                self.visible += "\0".join([*process.cmdline(), *map("=".join, process.environ().items())]).encode()
        pod.jvm.kill()
        pod.jvm.wait()
        self.files = {str(file.relative_to(pod.folder)): file.read_bytes() for file in present(pod, "*")}
        self.killed = True


def present(pod: ExecutorPod, pattern: str) -> dict[Path, int]:
    """The files of a pod and their sizes. Its processes may be deleting some."""
    found = {}
    for folder, _, names in os.walk(pod.folder):
        for file in (Path(folder, name) for name in names if fnmatch.fnmatch(name, pattern)):
            with contextlib.suppress(FileNotFoundError):
                if file.is_file():
                    found[file] = file.stat().st_size
    return found


async def test_dead_executor_is_replaced_by_an_attested_one_and_leaves_no_row_on_its_disk(
    watched_world: tuple[World, Traffic], tmp_path: Path
) -> None:
    """The query's rows do not fit into the executor's memory. It is killed when it has spilled, and the next one starts again."""
    world, traffic = watched_world
    prepared = await prepare(world, "r-spill", SPILLING, [planes(tmp_path), copies(tmp_path)], RESULT)
    traffic.clear()
    with Killer() as killer:
        run = await run_on_pods(world, prepared, tmp_path / "node", size_of(1), killer.observe)
    assert await asyncio.to_thread(rows_of, world, prepared, run) == SPILLED
    assert killer.killed
    executors = run.executors()
    assert [pod.phase for pod in executors].count("Failed") == 1, executors
    assert {pod.policy_host_data for pod in executors} == {run.policies.executor.host_data}
    # Each executor is a guest of its own, and reads every secret with its own report: first that of the network, then the keys.
    asked: dict[str, list[str]] = {}
    for release in traffic.releases:
        if release.host_data == run.policies.executor.host_data:
            asked.setdefault(release.guest, []).append(release.what)
    assert len(asked) == len(executors) == 2
    for names in asked.values():
        assert "r-spill.run.network" in names[0]
        assert any("r-spill.planes.key" in name for name in names[1:])
    # The killed one has spilled, and could not tidy up.
    spilled = {name: data for name, data in killer.files.items() if "temp_local_" in name and data}
    assert sum(map(len, spilled.values())) > 1 << 20
    secrets = [NETWORK_SECRET, world.s3.litware.secret_access_key.reveal()]
    secrets += [form for key in prepared.keys.values() for form in (key.reveal(), key.reveal().hex().encode())]
    for secret in [*secrets, *map(base64.b64encode, secrets)]:
        assert secret not in killer.visible
        assert [name for name, data in killer.files.items() if secret in data] == []
    assert [name for name, data in killer.files.items() if CANARY.encode() in data] == []
    assert b"JOB_CONFIG=" in killer.visible
