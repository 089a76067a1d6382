"""Pods of the Kubernetes stand-in that run in its process and end at once.

A pod gets its guest, its policy is enforced, and it needs its grants: it reads the consent receipt and every secret of its job with its
own attestation, and writes the result receipt to the ledger. The digest in the receipt depends on the dataset keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from starlette.applications import Starlette

from cleanroom.attestation import GuestAttestor
from cleanroom.errors import CleanRoomError
from cleanroom.governance import CleanRoomClient
from cleanroom.secret import Secret
from cleanroom.spark.job import JOB_CONFIG_VARIABLE, JobConfig
from cleanroom.spark.policy import PodContainer
from cleanroom.spark.run_events import event_id
from localcloud.standins.kubernetes import server as kubernetes
from localcloud.standins.kubernetes.admission import admit, environment_of
from localcloud.standins.kubernetes.kubelet import Kubelet
from localcloud.standins.kubernetes.pods import container_of, container_status
from localcloud.standins.kubernetes.store import Object, Store, timestamp
from sparkapp.consent import require_consent
from tests.completion import completed_event

START_SECONDS = 300.0
"""Longest wait for a driver, and for its end."""
TERMINATION_SECONDS = 0.3
"""Time from the deletion of a running pod to its end."""


class Pods:
    """What the tests know of pods, and which they hold. Files in the state folder of the stand-in say it, which may be another process."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "pods-of-tests"
        self._folder.mkdir(parents=True, exist_ok=True)

    def start(self, run_id: str, uid: str) -> None:
        """Take note of a driver."""
        (self._folder / f"{run_id}.started.{uid}").touch()

    def started(self, run_id: str) -> set[str]:
        """Return the UIDs of the driver pods of a run that have started."""
        return {file.name.rpartition(".")[2] for file in self._folder.glob(f"{run_id}.started.*")}

    def reached(self, run_id: str, drivers: int = 1) -> None:
        """Wait until drivers of the run's job have started."""
        deadline = time.monotonic() + START_SECONDS
        while len(self.started(run_id)) < drivers:
            assert time.monotonic() < deadline, f"no driver of {run_id} has started"
            time.sleep(0.02)

    def hold(self, run_id: str) -> None:
        """Let the driver of a run run until it is deleted."""
        (self._folder / f"{run_id}.held").touch()

    def held(self, run_id: str) -> bool:
        """Whether the driver of a run runs until it is deleted."""
        return (self._folder / f"{run_id}.held").exists()

    @contextlib.contextmanager
    def lingering(self) -> Iterator[Callable[[], None]]:
        """Let pods that are deleted in the block terminate slowly. Yields a function that ends this earlier."""
        file = self._folder / "linger"
        file.touch()
        try:
            yield lambda: file.unlink(missing_ok=True)
        finally:
            file.unlink(missing_ok=True)

    def linger(self) -> bool:
        """Whether pods terminate slowly now."""
        return (self._folder / "linger").exists()


def create_app(config: kubernetes.KubernetesConfig) -> Starlette:
    """Create the stand-in with :class:`PodsInProcess`. Its kubeconfigs are not changed: they lead to the proxy before it."""
    with patch.object(kubernetes, "Kubelet", PodsInProcess):
        return kubernetes.create_app(config.model_copy(update={"port": 0}))


class PodsInProcess(Kubelet):
    """The kubelet of the stand-in, with another way to run a pod's program."""

    def __init__(self, store: Store, state: Path, *arguments: Any, **options: Any) -> None:
        super().__init__(store, state, *arguments, **options)
        self.pods = Pods(state)

    async def _run_pod(self, pod: Object) -> None:
        await self._schedule(pod)
        image, _ = await self._pull(pod)
        guest, url = await self._guest(pod, self._policy(pod))
        assert url is not None
        spec = container_of(pod)
        container = PodContainer(
            command=(*(spec.get("command") or image.entrypoint), *spec.get("args", ())),
            environment=environment_of(pod, spec) | {"CLEANROOM_ATTESTATION_URL": url, "CLEANROOM_TERMINATION_LOG": "/dev/null"},
            layers=image.layers,
            working_dir=spec.get("workingDir") or image.working_dir,
            privileged=False,
        )
        environment = admit(self._policy(pod), container)
        started = timestamp()
        conditions = [{"type": name, "status": "True", "lastTransitionTime": started} for name in ("PodScheduled", "Ready")]
        statuses = [container_status(spec, {"running": {"startedAt": started}}, ready=True)]
        self._status(pod, phase="Running", startTime=started, conditions=conditions, containerStatuses=statuses)
        state: dict[str, Any] = {"exitCode": 0, "reason": "Completed"}
        job = JobConfig.decode(environment[JOB_CONFIG_VARIABLE])
        self.pods.start(job.run_id, pod["metadata"]["uid"])
        try:
            if self.pods.held(job.run_id):
                await asyncio.Event().wait()
            await _execute(job, url, self._state / "pod-roots.pem")
        except CleanRoomError as error:
            state = {"exitCode": 1, "reason": "Error", "message": str(error)}
        await self._end_guest(guest)
        self._finish(pod, {"startedAt": started, "finishedAt": timestamp(), **state})

    async def _delete(self, pod: Object, running: asyncio.Task[None] | None) -> None:
        if running is not None and not running.done():
            # A program ends some time after SIGTERM. Until then, its pod exists.
            ended = time.monotonic() + TERMINATION_SECONDS
            longest = time.monotonic() + START_SECONDS
            while (now := time.monotonic()) < ended or (self.pods.linger() and now < longest):
                await asyncio.sleep(0.02)
        await super()._delete(pod, running)

    async def _stop_for_shutdown(self, pod: Object) -> None:
        """No process is left."""


class _Pod:
    """What :func:`require_consent` reads."""

    def __init__(self, job: JobConfig, receipt: Secret) -> None:
        self._job, self._receipt = job, receipt

    def job(self) -> JobConfig:
        return self._job

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        return self._receipt


async def _execute(job: JobConfig, attestation_url: str, roots: Path) -> None:
    """Do what the driver does, without Spark and without stores."""
    roots.write_text(job.governance.ca_pem or "")
    attestor = GuestAttestor(attestation_url, ca_file=roots)
    async with CleanRoomClient(job.governance.url, job.contract_id, attestor, ca_file=roots) as client:
        pod: Any = _Pod(job, await client.get_secret(job.consent_secret_id))
        require_consent(pod, before="the result was written")
        digest = hashlib.sha256(job.query_digest.encode())
        for dataset in sorted((*job.datasets, job.datasink), key=lambda item: item.name):
            if dataset.key_secret_id:
                digest.update((await client.get_secret(dataset.key_secret_id)).reveal())
        event = completed_event(job, rows=1, digest=digest.hexdigest(), columns=())
        await client.put_event(event.wire(), event_id=event_id(job.run_id, "QUERY_COMPLETED"), scope=job.event_scope)
