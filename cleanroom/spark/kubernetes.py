"""The Kubernetes client of a run: its SparkApplication, and the pods, events and logs of that application.

Synchronous, over the official ``kubernetes`` package; call it from threads. Errors are those of
:mod:`cleanroom.spark.kubernetes_api`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cleanroom.errors import Conflict, NotFound, TimedOut, Unavailable
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.application import GROUP, JOB_DIGEST_ANNOTATION, PLURAL, POLICY_DIGEST_ANNOTATION, VERSION
from cleanroom.spark.kubernetes_api import call_bytes, call_json, connect, watch
from cleanroom.spark.kubernetes_objects import cluster_event, job_status, pod_status
from cleanroom.spark.kubernetes_stream import ReconnectPauses, StopSignal
from cleanroom.spark.status import ClusterEvent, JobStatus, PodStatus

if TYPE_CHECKING:
    import kubernetes

APP_LABEL = "sparkoperator.k8s.io/app-name"
"""Label that the Spark Operator puts on every pod of an application."""

DRIVER_CONTAINER = "spark-kubernetes-driver"
MAX_LOG_BYTES = 1 << 20
_MAX_RELISTS = 20


@dataclass(frozen=True)
class Change:
    """One step of a watch: the current object, or None once it is deleted, and the resource version to resume from."""

    object: dict[str, Any] | None
    resource_version: str


class KubernetesClient:
    """SparkApplications and their pods in one namespace."""

    def __init__(self, api: kubernetes.client.ApiClient, namespace: str) -> None:
        import kubernetes

        self.namespace = namespace
        self._api = api
        self._custom = kubernetes.client.CustomObjectsApi(api)
        self._core = kubernetes.client.CoreV1Api(api)
        self._resource = (GROUP, VERSION, namespace, PLURAL)
        self._pod_watch_errors = ReconnectPauses()

    @staticmethod
    def connect(settings: KubernetesSettings) -> KubernetesClient:
        """Return a client for the cluster and the namespace in ``settings``.

        Raises:
            PreconditionFailed: ``KubeconfigInvalid``.
        """
        return KubernetesClient(connect(settings), settings.namespace)

    def close(self) -> None:
        """Close the connections."""
        api: Any = self._api
        api.close()

    def version(self) -> str:
        """Return the API server's version. A cheap check that the API server answers."""
        import kubernetes

        get_code = kubernetes.client.VersionApi(self._api).get_code
        return str(call_json("read the cluster's version", get_code, members=["gitVersion"])["gitVersion"])

    def pod_quotas(self) -> dict[str, int]:
        """Return how many more pods each quota of the namespace allows, by the quota's name."""
        body = call_json("list quotas", self._core.list_namespaced_resource_quota, self.namespace, members=["items"])
        left = {}
        for item in body["items"]:
            status = item.get("status") or {}
            hard, used = (status.get(name) or {} for name in ("hard", "used"))
            # A quota counts pods as "pods", or as any other object.
            for kind in ("pods", "count/pods"):
                if kind in hard:
                    left[item["metadata"]["name"]] = int(hard[kind]) - int(used.get(kind, 0))
        return left

    # --- SparkApplications

    def create_or_get(self, application: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create ``application``, or find the one that an earlier attempt created. Idempotent.

        An existing object counts as the same application only if its job digest and policy digest are equal.

        Returns:
            The object, and whether this call created it.

        Raises:
            Conflict: ``SparkApplicationDiffers`` if an object with this name has other content.
            Unavailable: ``SparkApplicationTerminating`` while an object with this name is still being deleted.
        """
        name = application["metadata"]["name"]
        try:
            create = self._custom.create_namespaced_custom_object
            created = call_json(f"create SparkApplication {name}", create, *self._resource, application, field_validation="Strict")
            return created, True
        except Conflict as error:
            if error.code != "AlreadyExists":
                raise
        existing = self.get(name)
        if existing["metadata"].get("deletionTimestamp"):
            raise Unavailable("SparkApplicationTerminating", f"SparkApplication {name}: the previous one is still being deleted.")
        expected, actual = _digests(application), _digests(existing)
        if expected != actual:
            raise Conflict(
                "SparkApplicationDiffers",
                f"SparkApplication {name}: already exists with other content.",
                hint="Use a new run ID; a SparkApplication is never reused.",
                details={"wanted": expected, "found": actual},
            )
        return existing, False

    def get(self, name: str) -> dict[str, Any]:
        """Return the SparkApplication.

        Raises:
            NotFound: ``NotFound``. An unreachable API raises ``Unavailable`` instead.
        """
        read = self._custom.get_namespaced_custom_object
        return call_json(f"read SparkApplication {name}", read, *self._resource, name, members=["metadata"])

    def applications(self, label_selector: str = "") -> list[dict[str, Any]]:
        """Return all SparkApplications that match ``label_selector``, for operators who look for applications of lost runs."""
        return list(self._list("list SparkApplications", label_selector=label_selector)["items"])

    def changes(
        self, name: str, *, seconds: float, resource_version: str | None = None, stop: StopSignal | None = None
    ) -> Iterator[Change]:
        """Yield the application's states for ``seconds``: first the current one, then every change.

        Resumes broken watches at the last resource version. After ``410 Gone`` it reads the object again, a limited
        number of times. Ends after the deletion, at the deadline, or when ``stop`` is set.

        Args:
            name: The application's name.
            seconds: How long to watch.
            resource_version: Start after this version instead of at the current state.
            stop: Ends the watch from another thread.

        Raises:
            Unavailable: The API is unreachable, or it expires every resource version.
        """
        deadline = time.monotonic() + seconds
        relists = 0
        pauses = ReconnectPauses()
        while not (stop and stop.is_set()):
            if resource_version is None:
                found = self._list(f"list SparkApplication {name}", field_selector=f"metadata.name={name}")
                resource_version = found["metadata"]["resourceVersion"]
                yield Change(found["items"][0] if found["items"] else None, resource_version)
                if not found["items"]:
                    return
            started = time.monotonic()
            remaining = deadline - started
            if remaining <= 0:
                return
            try:
                for kind, item in self._watch(name, resource_version, remaining, stop):
                    resource_version = item["metadata"]["resourceVersion"]
                    if kind == "BOOKMARK":
                        continue
                    yield Change(None if kind == "DELETED" else item, resource_version)
                    if kind == "DELETED":
                        return
            except _Expired:
                relists += 1
                if relists > _MAX_RELISTS:
                    raise Unavailable(
                        "ResourceVersionExpired", f"watch SparkApplication {name}: the API keeps expiring resource versions."
                    ) from None
                resource_version = None
            pauses.wait(started, stop, at_most=deadline - time.monotonic())

    def _list(self, what: str, **kwargs: Any) -> dict[str, Any]:
        return call_json(what, self._custom.list_namespaced_custom_object, *self._resource, members=["items", "metadata"], **kwargs)

    def _watch(self, name: str, resource_version: str, seconds: float, stop: StopSignal | None) -> Iterator[tuple[str, dict[str, Any]]]:
        events = watch(
            f"watch SparkApplication {name}",
            self._custom.list_namespaced_custom_object,
            *self._resource,
            field_selector=f"metadata.name={name}",
            resource_version=resource_version,
            allow_watch_bookmarks=True,
            seconds=seconds,
            stop=stop,
        )
        with closing(events):
            for event in events:
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise _Expired
                    raise Unavailable(str(event["object"].get("reason") or "WatchFailed"), str(event["object"].get("message")))
                yield event["type"], event["object"]

    def delete(self, name: str, *, uid: str | None = None, seconds: float = 60) -> bool:
        """Delete the application and wait until its pods are gone. Idempotent.

        The Spark Operator may create a driver pod while the application is being deleted, and it removes pods after
        the application. Therefore this waits for the pods, then for the object, and then looks at the pods again.

        Args:
            name: The application's name.
            uid: If given, an object with another UID is left alone.
            seconds: How long to wait.

        Returns:
            Whether the application existed.

        Raises:
            Conflict: The object with this name has another UID.
            TimedOut: ``PodsRemain`` if pods outlive ``seconds``, ``SparkApplicationRemains`` if the object does.
        """
        deadline = time.monotonic() + seconds
        found = self._request_deletion(name, uid)
        object_gone = found is None
        while True:
            listing = self._pod_list(name)
            remaining = deadline - time.monotonic()
            if not listing["items"]:
                if object_gone or found is None:
                    return found is not None
                self._await_deleted(name, found, remaining)
                object_gone = True
                continue
            if remaining <= 0:
                names = ", ".join(pod["metadata"]["name"] for pod in listing["items"])
                raise TimedOut(
                    "PodsRemain", f"SparkApplication {name}: deleted, but after {seconds:.0f} s pods remain: {names}.", retryable=True
                )
            self._next_pod_event(name, listing["metadata"]["resourceVersion"], remaining)

    def _request_deletion(self, name: str, uid: str | None) -> str | None:
        """Delete the object and return its UID, or None if it does not exist."""
        import kubernetes

        found: str | None = None
        # If the object is gone, its pods may still exist.
        with contextlib.suppress(NotFound):
            found = self.get(name)["metadata"]["uid"]
            options = kubernetes.client.V1DeleteOptions(
                propagation_policy="Foreground", preconditions=kubernetes.client.V1Preconditions(uid=uid) if uid else None
            )
            call_json(f"delete SparkApplication {name}", self._custom.delete_namespaced_custom_object, *self._resource, name, body=options)
        return found

    def _await_deleted(self, name: str, uid: str, seconds: float) -> None:
        """Wait until the object with ``uid`` is gone, so that its name is free."""
        for change in self.changes(name, seconds=max(1.0, seconds)):
            if change.object is None or change.object["metadata"]["uid"] != uid:
                return
        raise TimedOut("SparkApplicationRemains", f"SparkApplication {name}: its pods are gone, but the object remains.", retryable=True)

    # --- pods, events and logs of an application

    def await_pod_change(
        self, name: str, seconds: float, resource_version: str | None = None, *, stop: StopSignal | None = None
    ) -> str | None:
        """Wait until a pod of the application changes.

        Args:
            name: The application's name.
            seconds: How long to wait; at least 1 s.
            resource_version: Start after this version; None starts at the current state.
            stop: Ends the wait from another thread.

        Returns:
            The resource version to resume from, or None to start at the current state again.
        """
        version = resource_version or self._pod_list(name)["metadata"]["resourceVersion"]
        event = self._next_pod_event(name, version, seconds, stop)
        if event is None:
            return str(version)
        return None if event["type"] == "ERROR" else str(event["object"]["metadata"]["resourceVersion"])

    def _next_pod_event(self, name: str, resource_version: str, seconds: float, stop: StopSignal | None = None) -> dict[str, Any] | None:
        """Return the next event of the application's pods, or None after ``seconds``."""
        deadline = time.monotonic() + max(1.0, seconds)
        pauses = ReconnectPauses()
        while not (stop and stop.is_set()):
            started = time.monotonic()
            if started >= deadline:
                break
            events = watch(
                f"watch pods of {name}",
                self._core.list_namespaced_pod,
                self.namespace,
                label_selector=f"{APP_LABEL}={name}",
                resource_version=resource_version,
                seconds=deadline - started,
                stop=stop,
            )
            with closing(events):
                event = next(events, None)
            if event is not None:
                if event["type"] == "ERROR":
                    self._pod_watch_errors.wait(started, stop, at_most=deadline - time.monotonic())
                return event
            pauses.wait(started, stop, at_most=deadline - time.monotonic())
        return None

    def status(self, name: str, application: dict[str, Any] | None = None) -> JobStatus:
        """Read the application, its pods and their events.

        Args:
            name: The application's name.
            application: The application, if it has just been read.

        Raises:
            NotFound: ``NotFound``.
        """
        item = application or self.get(name)
        pods = self.pods(name)
        # The events of a driver pod that is gone say why it is gone.
        driver = ((item.get("status") or {}).get("driverInfo") or {}).get("podName")
        return job_status(item, pods, self.events(name, [*(pod.name for pod in pods), *([driver] if driver else [])]))

    def pods(self, name: str) -> list[PodStatus]:
        """Return the application's pods, found by the operator's label."""
        return [pod_status(item) for item in self._pod_list(name)["items"]]

    def _pod_list(self, name: str) -> dict[str, Any]:
        return call_json(
            f"list pods of {name}",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=f"{APP_LABEL}={name}",
            members=["items", "metadata"],
        )

    def events(self, name: str, pods: list[str] | None = None) -> list[ClusterEvent]:
        """Return events about the application and its pods, oldest first. Clusters keep events for about an hour."""
        names = {name, *(pods if pods is not None else [pod.name for pod in self.pods(name)])}
        result: list[ClusterEvent] = []
        for subject in sorted(names):
            found = call_json(
                f"list events of {subject}",
                self._core.list_namespaced_event,
                self.namespace,
                field_selector=f"involvedObject.name={subject}",
                members=["items"],
            )
            result += [cluster_event(item) for item in found["items"]]
        return sorted(result, key=lambda event: event.last_seen.timestamp() if event.last_seen else 0.0)

    def logs(self, pod: str, *, tail: int = 200, container: str | None = DRIVER_CONTAINER) -> str:
        """Return the last ``tail`` lines of a container's log, at most 1 MiB.

        Raises:
            NotFound: ``NotFound`` if the pod does not exist.
            InvalidInput: ``BadRequest`` while the container has not started.
        """
        data = call_bytes(
            f"read the log of {pod}",
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container=container,
            tail_lines=tail,
            limit_bytes=MAX_LOG_BYTES,
        )
        return data.decode("utf-8", "replace")


class _Expired(Exception):
    """The watch's resource version is too old (410 Gone)."""


def _digests(application: dict[str, Any]) -> dict[str, str | None]:
    annotations = application["metadata"].get("annotations") or {}
    return {key: annotations.get(key) for key in (JOB_DIGEST_ANNOTATION, POLICY_DIGEST_ANNOTATION)}
