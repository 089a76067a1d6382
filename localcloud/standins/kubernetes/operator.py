"""The Spark Operator of the stand-in: the life cycle of SparkApplications (docs/facts/spark-applications.md), and garbage collection.

Every write to the store starts a pass. A pass moves each application by at most one state, so that watchers see all states.

Differences from the real operator: every ``restartPolicy`` is treated as ``Never``. Without ``executor_pods``, the driver pod runs the
executors in its own process (Spark's local mode), and ``executorState`` stays empty.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import uuid
from collections.abc import Callable, Iterable

from localcloud.standins.kubernetes.pod_admission import require_admission
from localcloud.standins.kubernetes.store import CONFIG_MAPS, PODS, SERVICES, SPARK_APPLICATIONS, ApiFailure, Object, Store, timestamp
from localcloud.standins.kubernetes.submission import DRIVER_CONTAINER, check_arguments, driver_pod, memory_mib, owner_of, spark_properties
from localcloud.standins.kubernetes.submission_log import submission_log

UI_PORT = 4040
UI_ADDRESS = "10.96.40.40"
_OPERATOR = "spark-operator"
_EXECUTOR_STATES = {"Running": "RUNNING", "Succeeded": "COMPLETED", "Failed": "FAILED"}
_log = logging.getLogger("localcloud.kubernetes.operator")


class Operator:
    """Reconciles every SparkApplication of the store until cancelled.

    Args:
        store: The API server's objects.
        accounts: The service accounts of the namespace of runs.
        executor_pods: Whether drivers create pods for their executors.
    """

    def __init__(self, store: Store, accounts: Iterable[str], *, executor_pods: bool = False) -> None:
        self._store, self._accounts, self._executor_pods = store, frozenset(accounts), executor_pods

    async def run(self) -> None:
        """Reconcile at every change, and when the next time to live expires."""
        with self._store.subscription() as changed:
            while True:
                changed.clear()
                self.reconcile()
                if changed.is_set():
                    # This pass wrote to the store. Let other tasks see the change, then continue with the next state.
                    await asyncio.sleep(0)
                    continue
                try:
                    async with asyncio.timeout(self._next_expiry()):
                        await changed.wait()
                except TimeoutError:
                    continue

    def reconcile(self) -> None:
        """Run one pass over all applications, then collect orphans."""
        for application in self._store.objects(SPARK_APPLICATIONS):
            try:
                self._reconcile(application)
            except ApiFailure as failure:
                _log.warning("reconcile %s: %s", application["metadata"]["name"], failure)
            except Exception:
                # An error in one application must not stop the others.
                _log.exception("reconcile %s", application["metadata"]["name"])
        self._collect()

    def _next_expiry(self) -> float | None:
        times = [left for application in self._store.objects(SPARK_APPLICATIONS) if (left := _time_to_live(application)) is not None]
        return max(0.05, min(times)) if times else None

    # --- one application

    def _reconcile(self, application: Object) -> None:
        metadata = application["metadata"]
        if metadata.get("deletionTimestamp"):
            self._finish_deletion(application)
            return
        left = _time_to_live(application)
        if left is not None and left <= 0:
            self._store.remove(SPARK_APPLICATIONS, metadata["namespace"], metadata["name"])
            return
        if self._executor_pods:
            self._count_executors(application)
        state = _state(application)
        match state:
            case "" | "PENDING_RERUN":
                self._submit(application)
            case "SUBMISSION_FAILED":
                message = _error(application)
                self._set(application, "FAILED", message, event="SparkApplicationFailed", ended=True)
            case "SUBMITTED" | "RUNNING" | "UNKNOWN":
                self._follow_driver(application)
            case "SUCCEEDING":
                self._set(application, "COMPLETED", event="SparkApplicationCompleted")
            case "FAILING":
                self._set(application, "FAILED", _error(application), event="SparkApplicationFailed")
            case "INVALIDATING":
                if self._driver_gone(application):
                    self._set(application, "PENDING_RERUN", event="SparkApplicationPendingRerun", driver={})

    def _submit(self, application: Object) -> None:
        metadata = application["metadata"]
        submission, app_id = str(uuid.uuid4()), f"spark-{uuid.uuid4().hex}"
        main_file = application["spec"].get("mainApplicationFile") or ""
        pod_name = application["spec"]["driver"].get("podName") or f"{metadata['name']}-driver"
        failure = None
        if not main_file.startswith("local://"):
            failure = f"mainApplicationFile {main_file!r} is not in the image"
        else:
            try:
                # spark-submit validates everything before it creates the pod.
                memory_mib(application["spec"]["executor"].get("memory", "1g"))
                check_arguments(application)
                pod = driver_pod(application, pod_name, submission, app_id)
                require_admission(self._store, metadata["namespace"], pod, self._accounts)
                conf_map = pod["spec"]["volumes"][-1]["configMap"]["name"]
                created = self._store.create(PODS, metadata["namespace"], pod)
                self._store.create(
                    CONFIG_MAPS,
                    metadata["namespace"],
                    {
                        "metadata": {"name": conf_map, "ownerReferences": [owner_of(created)]},
                        "data": {"spark.properties": spark_properties(application, app_id, pod_name if self._executor_pods else None)},
                    },
                )
            except ValueError as error:
                failure = str(error)
            except ApiFailure as error:
                failure = "driver pod already exist" if error.code == 409 else submission_log(error, metadata["namespace"])
        if failure is not None:
            failure = f"failed to submit spark application: failed to run spark-submit: failed to run spark-submit: {failure}"

        def apply(item: Object) -> None:
            status = item.setdefault("status", {})
            status.setdefault("driverInfo", {})
            status["submissionAttempts"] = status.get("submissionAttempts", 0) + 1
            status["lastSubmissionAttemptTime"] = timestamp()
            status["terminationTime"] = None
            if failure is None:
                status["sparkApplicationId"] = app_id
                status["submissionID"] = submission
                status["executionAttempts"] = status.get("executionAttempts", 0) + 1
                status["driverInfo"] = {"podName": pod_name}
                status["applicationState"] = {"state": "SUBMITTED"}
            else:
                status["applicationState"] = {"state": "SUBMISSION_FAILED", "errorMessage": failure}

        if failure is None:
            self._store.record(
                application,
                "SparkApplicationSubmitted",
                f"SparkApplication {metadata['name']} was submitted successfully",
                component=_OPERATOR,
            )
        else:
            # The real operator records that it added an application only if the submission fails.
            text = f"SparkApplication {metadata['name']} was added, enqueuing it for submission"
            self._store.record(application, "SparkApplicationAdded", text, component=_OPERATOR)
            text = f"failed to submit SparkApplication {metadata['name']}: {failure}"
            self._store.record(application, "SparkApplicationSubmissionFailed", text, warning=True, component=_OPERATOR)
        self._write(application, apply)

    def _count_executors(self, application: Object) -> None:
        """Write ``executorState``: executor pod to ``PENDING``, ``RUNNING``, ``COMPLETED`` or ``FAILED``."""
        metadata = application["metadata"]
        labels = {"spark-role": "executor", "spark-app-selector": (application.get("status") or {}).get("sparkApplicationId")}
        found = {
            pod["metadata"]["name"]: _EXECUTOR_STATES.get((pod.get("status") or {}).get("phase") or "", "PENDING")
            for pod in self._store.objects(PODS, metadata["namespace"])
            if labels.items() <= (pod["metadata"].get("labels") or {}).items()
        }
        if found and found != application["status"].get("executorState"):
            self._write(application, lambda item: item["status"].update(executorState=found))

    def _follow_driver(self, application: Object) -> None:
        metadata = application["metadata"]
        name = (application["status"].get("driverInfo") or {}).get("podName") or ""
        pod = self._store.find(PODS, metadata["namespace"], name)
        if pod is None or not _owned(pod, application):
            self._store.record(application, "SparkDriverNotFound", f"Driver {name} not found", warning=True, component=_OPERATOR)
            self._set(application, "FAILING", "driver pod not found", ended=True)
            return
        self._serve_ui(application)
        phase = (pod.get("status") or {}).get("phase")
        container = _terminated(pod)
        if container is not None and phase == "Running":
            # Sidecars still run, but only the Spark container counts.
            phase = "Succeeded" if container["exitCode"] == 0 else "Failed"
        if phase == "Running" and _state(application) != "RUNNING":
            self._store.record(application, "SparkDriverRunning", f"Driver {name} is running", component=_OPERATOR)
            self._set(application, "RUNNING")
        elif phase == "Succeeded":
            self._store.record(application, "SparkDriverCompleted", f"Driver {name} completed", component=_OPERATOR)
            self._set(application, "SUCCEEDING", ended=True)
        elif phase == "Failed":
            if container is not None and container["exitCode"] == 0:
                self._set(application, "SUCCEEDING", ended=True)
                return
            text = (
                f"driver container failed with ExitCode: {container['exitCode']}, Reason: {container.get('reason', 'Error')}"
                if container is not None
                else f"driver pod failed: {pod['status'].get('message') or pod['status'].get('reason') or 'no reason given'}"
            )
            self._store.record(application, "SparkDriverFailed", f"Driver {name} failed", warning=True, component=_OPERATOR)
            self._set(application, "FAILING", text, ended=True)

    def _serve_ui(self, application: Object) -> None:
        """Create the service of the driver's web UI, which exists even when the UI is off. Pods that start later get variables from it."""
        metadata = application["metadata"]
        name = f"{metadata['name']}-ui-svc"
        if self._store.find(SERVICES, metadata["namespace"], name) is not None:
            return
        port = {"name": "spark-driver-ui-port", "port": UI_PORT, "protocol": "TCP"}
        body = {"metadata": {"name": name, "ownerReferences": [owner_of(application)]}, "spec": {"clusterIP": UI_ADDRESS, "ports": [port]}}
        self._store.create(SERVICES, metadata["namespace"], body)

        def apply(item: Object) -> None:
            found = {"webUIServiceName": name, "webUIPort": UI_PORT, "webUIAddress": f"{UI_ADDRESS}:{UI_PORT}"}
            item["status"]["driverInfo"] = {**item["status"].get("driverInfo", {}), **found}

        self._write(application, apply)

    def _driver_gone(self, application: Object) -> bool:
        metadata = application["metadata"]
        pods = [pod for pod in self._store.objects(PODS, metadata["namespace"]) if _owned(pod, application)]
        for pod in pods:
            self._delete_pod(pod)
        return not pods

    def _delete_pod(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            return

        def mark(item: Object) -> None:
            item["metadata"]["deletionTimestamp"] = timestamp()
            item["metadata"]["finalizers"] = ["localcloud/kubelet"]

        self._store.update(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], mark)

    def _finish_deletion(self, application: Object) -> None:
        if self._driver_gone(application):
            metadata = application["metadata"]

            def release(item: Object) -> None:
                item["metadata"]["finalizers"] = [name for name in item["metadata"].get("finalizers", ()) if name != "foregroundDeletion"]

            self._store.update(SPARK_APPLICATIONS, metadata["namespace"], metadata["name"], release)

    def _collect(self) -> None:
        """Delete objects whose owners no longer exist."""
        alive = {item["metadata"]["uid"] for resource in (SPARK_APPLICATIONS, PODS) for item in self._store.objects(resource)}
        for resource in (PODS, CONFIG_MAPS, SERVICES):
            for item in self._store.objects(resource):
                owners = item["metadata"].get("ownerReferences") or []
                if owners and not any(owner["uid"] in alive for owner in owners):
                    if resource is PODS:
                        self._delete_pod(item)
                    else:
                        self._store.remove(resource, item["metadata"]["namespace"], item["metadata"]["name"])

    # --- writing

    def _set(
        self,
        application: Object,
        state: str,
        message: str = "",
        *,
        event: str | None = None,
        ended: bool = False,
        driver: Object | None = None,
    ) -> None:
        def apply(item: Object) -> None:
            status = item.setdefault("status", {})
            status["applicationState"] = {"state": state, **({"errorMessage": message} if message else {})}
            status.setdefault("executorState", {})
            if ended:
                status["terminationTime"] = timestamp()
            if driver is not None:
                status["driverInfo"] = driver

        if event:
            name = application["metadata"]["name"]
            text = f"SparkApplication {name} is {state.lower().replace('_', ' ')}" + (f": {message}" if message else "")
            warning = state in ("FAILED", "SUBMISSION_FAILED", "PENDING_RERUN", "RESUMING")
            self._store.record(application, event, text, warning=warning, component=_OPERATOR)
        self._write(application, apply)

    def _write(self, application: Object, apply: Callable[[Object], None]) -> None:
        metadata = application["metadata"]

        def change(item: Object) -> Object:
            apply(item)
            return item

        self._store.update(SPARK_APPLICATIONS, metadata["namespace"], metadata["name"], change)


def _owned(pod: Object, application: Object) -> bool:
    return any(owner["uid"] == application["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences") or ())


def _state(application: Object) -> str:
    return str(((application.get("status") or {}).get("applicationState") or {}).get("state") or "")


def _error(application: Object) -> str:
    return str(application["status"]["applicationState"].get("errorMessage") or "")


def _terminated(pod: Object) -> Object | None:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status["name"] == DRIVER_CONTAINER:
            found: Object | None = (status.get("state") or {}).get("terminated")
            return found
    return None


def _time_to_live(application: Object) -> float | None:
    """Return the seconds until the operator deletes the application; None if it has no time to live or has not ended."""
    seconds, ended = application["spec"].get("timeToLiveSeconds"), (application.get("status") or {}).get("terminationTime")
    if seconds is None or not ended or _state(application) not in ("COMPLETED", "FAILED"):
        return None
    end = dt.datetime.fromisoformat(ended.replace("Z", "+00:00"))
    return float(seconds) - (dt.datetime.now(dt.UTC) - end).total_seconds()
