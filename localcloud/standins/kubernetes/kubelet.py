"""The kubelet of the stand-in: it runs pods as local processes, each with its own SNP guest, and enforces their policies.

It does what the utility VM of a confidential virtual node does. The host data in the pod's report is the SHA-256 of its policy
annotation. A container whose layers, command or measured variables differ from the policy does not start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx

from cleanroom.spark.policy import POLICY_ANNOTATION, PodContainer
from localcloud.standins.kubernetes.admission import (
    NODE,
    POD_IP,
    ContainerDenied,
    SnpGuests,
    admit,
    environment_of,
    local_cores,
    mounts_of,
    service_variables,
    submit_arguments,
    uses_executor_pods,
)
from localcloud.standins.kubernetes.image import LocalImage, launcher_of, program_of, pull_image
from localcloud.standins.kubernetes.mounts import Mounts
from localcloud.standins.kubernetes.pods import container_of, container_status, is_active, requested_cpus, state_of
from localcloud.standins.kubernetes.process import LOST, PodProcess, start
from localcloud.standins.kubernetes.store import CONFIG_MAPS, PODS, SERVICES, ApiFailure, Object, Store, timestamp
from localcloud.standins.kubernetes.submission import DRIVER_CONTAINER

MAX_TERMINATION_MESSAGE = 4096
_SHUTDOWN_GRACE = 2.0
_BACKOFF = (2.0, 4.0, 8.0, 16.0, 32.0)
_log = logging.getLogger("localcloud.kubernetes.kubelet")


class Kubelet:
    """Runs the pods of the store on this machine.

    Args:
        store: The API server's objects.
        state: Folder for the scratch space, logs and exit codes of the pods.
        images: Folder of the images (:mod:`localcloud.standins.kubernetes.image`).
        guests: The SNP stand-in. If None, pods have no attestation.
        cpus: CPUs that pods can request in total.
    """

    def __init__(self, store: Store, state: Path, images: Path, guests: SnpGuests | None, *, cpus: float) -> None:
        self._store, self._state, self._images, self._guests, self._cpus = store, state, images, guests, cpus
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._deleting: set[str] = set()

    async def run(self) -> None:
        """Run pods until cancelled; then stop every pod, like a node that shuts down."""
        try:
            with self._store.subscription() as changed:
                while True:
                    changed.clear()
                    self._sync()
                    await changed.wait()
        finally:
            await self._shut_down()

    def log_file(self, pod: Object, container: str | None) -> Path:
        """Return the path of a container's log.

        Raises:
            ApiFailure: 400 if the container has not started, or is not part of this pod.
        """
        names = [item["name"] for item in pod["spec"]["containers"]]
        name = container or names[0]
        if name not in names:
            raise ApiFailure(400, "BadRequest", f"container {name} is not valid for pod {pod['metadata']['name']}")
        file = self._folder(pod) / f"{name}.log"
        if not file.exists():
            reason = state_of(pod).get("waiting", {}).get("reason", "ContainerCreating")
            raise ApiFailure(400, "BadRequest", f'container "{name}" in pod "{pod["metadata"]["name"]}" is waiting to start: {reason}')
        return file

    def _folder(self, pod: Object) -> Path:
        return self._state / "pods" / str(pod["metadata"]["uid"])

    def _sync(self) -> None:
        seen = set()
        for pod in self._store.objects(PODS):
            uid = pod["metadata"]["uid"]
            seen.add(uid)
            if pod["metadata"].get("deletionTimestamp"):
                if uid not in self._deleting:
                    self._deleting.add(uid)
                    running = self._tasks.pop(uid, None)
                    self._tasks[uid] = asyncio.create_task(self._delete(pod, running))
            elif uid not in self._tasks and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                self._tasks[uid] = asyncio.create_task(self._guard(pod))
        for uid in [uid for uid, task in self._tasks.items() if task.done() and uid not in seen]:
            del self._tasks[uid]
            self._deleting.discard(uid)

    async def _guard(self, pod: Object) -> None:
        try:
            await self._run_pod(pod)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.exception("pod %s", pod["metadata"]["name"])
            self._finish(pod, {"exitCode": 128, "reason": "ContainerCannotRun", "message": f"{type(error).__name__}: {error}"})

    # --- a pod's life cycle

    async def _run_pod(self, pod: Object) -> None:
        record = self._record(pod)
        if record is None:
            if (pod.get("status") or {}).get("startTime"):
                self._status(pod, phase="Failed", reason="NodeLost", message="the node restarted before the pod's container was started")
                return
            await self._schedule(pod)
            image, root = await self._pull(pod)
            policy = self._policy(pod)
            guest, url = await self._guest(pod, policy)
            try:
                record = self._start(pod, image, root, policy, guest, url)
            except ContainerDenied as denial:
                self._store.record(pod, "Failed", f"Error: {denial}", warning=True)
                self._finish(pod, {"exitCode": 128, "reason": "StartError", "message": str(denial), "startedAt": "1970-01-01T00:00:00Z"})
                await self._end_guest(guest)
                return
        process = _process(record)
        code = await process.wait()
        await self._end_guest(record["guest"])
        self._ended(pod, record, code)

    async def _schedule(self, pod: Object) -> None:
        wanted = requested_cpus(pod)
        with self._store.subscription() as changed:
            while True:
                changed.clear()
                used = sum(requested_cpus(item) for item in self._store.objects(PODS) if item["spec"].get("nodeName") and is_active(item))
                if not pod["spec"].get("nodeSelector") and used + wanted <= self._cpus:
                    break
                # The node has no labels.
                reason = "node(s) didn't match Pod's node affinity/selector" if pod["spec"].get("nodeSelector") else "Insufficient cpu"
                text = (
                    f"0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
                )
                self._store.record(pod, "FailedScheduling", text, warning=True, component="default-scheduler")
                self._status(
                    pod,
                    conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}],
                    phase="Pending",
                )
                changed.clear()
                await changed.wait()

        def bind(item: Object) -> Object:
            item["spec"]["nodeName"] = NODE
            return item

        self._store.update(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], bind)
        self._store.record(
            pod,
            "Scheduled",
            f"Successfully assigned {pod['metadata']['namespace']}/{pod['metadata']['name']} to {NODE}",
            component="default-scheduler",
        )
        conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp()}]
        self._status(pod, conditions=conditions, phase="Pending", hostIP=POD_IP, podIP=POD_IP)
        self._waiting(pod, "ContainerCreating", "")

    async def _pull(self, pod: Object) -> tuple[LocalImage, Path]:
        reference = container_of(pod)["image"]
        for attempt in range(sys.maxsize):
            try:
                return pull_image(self._images, reference)
            except LookupError as error:
                text = str(error.args[0])
                self._store.record(pod, "Failed", f'Failed to pull image "{reference}": {text}', warning=True)
                self._store.record(pod, "Failed", "Error: ErrImagePull", warning=True)
                self._waiting(pod, "ErrImagePull", text)
                delay = _BACKOFF[min(attempt, len(_BACKOFF) - 1)]
                await asyncio.sleep(delay / 2)
                self._store.record(pod, "BackOff", f'Back-off pulling image "{reference}"', warning=False)
                self._waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{reference}": ErrImagePull: {text}')
                await asyncio.sleep(delay / 2)
        raise AssertionError("unreachable")

    def _policy(self, pod: Object) -> str | None:
        text: str | None = (pod["metadata"].get("annotations") or {}).get(POLICY_ANNOTATION)
        return text

    async def _guest(self, pod: Object, policy: str | None) -> tuple[str | None, str | None]:
        if self._guests is None or policy is None:
            return None, None
        for attempt in range(sys.maxsize):
            try:
                return await self._guests.create(pod["metadata"]["name"], policy)
            except (httpx.HTTPError, OSError) as error:
                text = f"Failed to create pod sandbox: SNP hardware: {type(error).__name__}: {error}"
                self._store.record(pod, "FailedCreatePodSandBox", text, warning=True)
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
        raise AssertionError("unreachable")

    async def _end_guest(self, guest: str | None) -> None:
        if guest is None or self._guests is None:
            return
        try:
            await self._guests.delete(guest)
        except (httpx.HTTPError, OSError) as error:
            # Harmless: the guest's URL was known only to the pod.
            _log.warning("guest of an ended pod was not deleted: %s", type(error).__name__)

    def _start(self, pod: Object, image: LocalImage, root: Path, policy: str | None, guest: str | None, url: str | None) -> Object:
        folder = self._folder(pod)
        scratch = folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        termination = folder / "termination-log"
        spec = container_of(pod)
        declared = service_variables(self._store.objects(SERVICES, pod["metadata"]["namespace"])) | environment_of(pod, spec)
        if url is not None:
            declared["CLEANROOM_ATTESTATION_URL"] = url
        declared["CLEANROOM_TERMINATION_LOG"] = str(termination)
        command = (*(spec.get("command") or image.entrypoint), *spec.get("args", ()))
        container = PodContainer(
            command=command,
            environment=declared,
            layers=image.layers,
            working_dir=spec.get("workingDir") or image.working_dir,
            privileged=bool((spec.get("securityContext") or {}).get("privileged")),
            mounts=mounts_of(pod, spec),
        )
        admitted = admit(policy, container)
        properties = self._properties(pod)
        exit_file = folder / "exit-code"
        termination.touch(mode=0o600)
        arguments = list(spec.get("args", ()))
        environment = {**admitted, **self._image_environment(root, scratch)}
        if uses_executor_pods(spec["name"], properties):
            mounts = Mounts(scratch, root, self._state / f"kubeconfig-{pod['spec'].get('serviceAccountName', 'default')}.yaml")
            mounts.service_account()
            mounts.configuration(self._configuration(pod))
            program = [*launcher_of(image), *(mounts.to_local_paths(argument) for argument in arguments)]
        else:
            environment |= {"CLEANROOM_LOCAL_CORES": str(local_cores(properties)), "PYSPARK_SUBMIT_ARGS": submit_arguments(properties)}
            program = [*program_of(image), *(arguments[6:] if spec["name"] == DRIVER_CONTAINER else arguments)]
        process = start(program, environment, cwd=scratch, log=folder / f"{spec['name']}.log", exit_file=exit_file)
        record = {"pid": process.pid, "created": process.created, "exit_file": str(exit_file), "guest": guest, "started": timestamp()}
        (folder / "process.json").write_text(json.dumps(record))
        os.chmod(folder / "process.json", 0o600)
        self._store.record(pod, "Started", f"Started container {spec['name']}")
        self._status(
            pod,
            phase="Running",
            startTime=record["started"],
            conditions=[{"type": name, "status": "True", "lastTransitionTime": record["started"]} for name in ("PodScheduled", "Ready")],
            containerStatuses=[container_status(spec, {"running": {"startedAt": record["started"]}}, ready=True)],
        )
        return record

    def _image_environment(self, root: Path, scratch: Path) -> dict[str, str]:
        """Return the variables that the image sets: the paths of its program, Java and Python.

        Of the stand-in's own environment only ``PATH``, ``JAVA_HOME`` and ``JDK_JAVA_OPTIONS`` are passed on.
        """
        local = scratch / "tmp"
        local.mkdir(exist_ok=True, mode=0o700)
        return {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            **{name: os.environ[name] for name in ("JAVA_HOME", "JDK_JAVA_OPTIONS") if name in os.environ},
            "LANG": "C.UTF-8",
            "HOME": str(scratch),
            "TMPDIR": str(local),
            "SPARK_LOCAL_DIRS": str(local),
            "SPARK_CONF_DIR": str(scratch / "conf"),  # empty, unless the pod mounts a ConfigMap there
            "SPARK_LOCAL_IP": POD_IP,
            "PYTHONPATH": str(root),
            "PYTHONUNBUFFERED": "1",
            "PYSPARK_PYTHON": sys.executable,
        }

    def _configuration(self, pod: Object) -> dict[str, str]:
        for volume in pod["spec"].get("volumes", ()):
            if "configMap" in volume:
                found = self._store.get(CONFIG_MAPS, pod["metadata"]["namespace"], volume["configMap"]["name"])
                return dict(found.get("data") or {})
        return {}

    def _properties(self, pod: Object) -> dict[str, str]:
        lines = self._configuration(pod).get("spark.properties", "").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def _ended(self, pod: Object, record: Object, code: int) -> None:
        state: Object = {"startedAt": record["started"], "finishedAt": timestamp()}
        file = self._folder(pod) / "termination-log"
        message = file.read_bytes()[:MAX_TERMINATION_MESSAGE].decode("utf-8", "replace") if file.exists() else ""
        if code == LOST:
            text = "The container could not be located when the pod was terminated"
            state |= {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": text}
        else:
            state |= {"exitCode": code, "reason": "Completed" if code == 0 else "Error", **({"message": message} if message else {})}
        self._finish(pod, state)

    # --- deletion

    async def _delete(self, pod: Object, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        record = self._record(pod)
        if record is not None:
            grace = pod["metadata"].get("deletionGracePeriodSeconds", pod["spec"].get("terminationGracePeriodSeconds", 30))
            self._store.record(pod, "Killing", f"Stopping container {container_of(pod)['name']}")
            await _process(record).stop(float(grace))
            await self._end_guest(record["guest"])
        shutil.rmtree(self._folder(pod), ignore_errors=True)

        def release(item: Object) -> None:
            item["metadata"]["finalizers"] = []

        try:
            self._store.update(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], release)
        except ApiFailure as failure:
            if failure.code != 404:
                raise

    async def _shut_down(self) -> None:
        """Stop all pods and record that they ended."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.gather(*(self._stop_for_shutdown(pod) for pod in self._store.objects(PODS)))

    async def _stop_for_shutdown(self, pod: Object) -> None:
        record = self._record(pod)
        if record is None or not _process(record).alive():
            return
        await _process(record).stop(_SHUTDOWN_GRACE)
        await self._end_guest(record["guest"])
        self._finish(pod, {"exitCode": 143, "reason": "Error", "startedAt": record["started"], "finishedAt": timestamp()})
        self._status(pod, reason="Terminated", message="Pod was terminated in response to imminent node shutdown.")

    def _record(self, pod: Object) -> Object | None:
        file = self._folder(pod) / "process.json"
        try:
            value: Object = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return value

    # --- status

    def _finish(self, pod: Object, terminated: Object) -> None:
        phase = "Succeeded" if terminated["exitCode"] == 0 else "Failed"
        self._status(pod, phase=phase, containerStatuses=[container_status(container_of(pod), {"terminated": terminated}, ready=False)])

    def _waiting(self, pod: Object, reason: str, message: str) -> None:
        waiting = {"reason": reason, **({"message": message} if message else {})}
        self._status(pod, containerStatuses=[container_status(container_of(pod), {"waiting": waiting}, ready=False)])

    def _status(self, pod: Object, **values: Any) -> None:
        def apply(item: Object) -> None:
            item["status"] = {**(item.get("status") or {}), **values}

        try:
            self._store.update(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], apply)
        except ApiFailure as failure:
            if failure.code != 404:
                raise


def end_leftover_pods(state: Path) -> int:
    """Stop the pods that a killed stand-in left running, and return their number.

    Nothing is recorded: when the stand-in starts again with this state folder, it finds that these pods were lost.
    """
    processes = [_process(json.loads(file.read_text())) for file in (state / "pods").glob("*/process.json")]
    alive = [process for process in processes if process.alive()]

    async def stop() -> None:
        await asyncio.gather(*(process.stop(_SHUTDOWN_GRACE) for process in alive))

    asyncio.run(stop())
    return len(alive)


def _process(record: Object) -> PodProcess:
    return PodProcess(record["pid"], record["created"], Path(record["exit_file"]))
