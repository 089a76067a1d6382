"""The Kubernetes client of a run: create-or-get, watch with resume, pods, events, logs, and a delete that waits for the pods to be gone.

Synchronous, over the official ``kubernetes`` package; call it from threads. Errors keep the API's own reason as their code
(``AlreadyExists``, ``Forbidden``, ``Invalid`` …).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from cleanroom.errors import Conflict, NotFound, PreconditionFailed, TimedOut, Unavailable
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.application import GROUP, JOB_DIGEST_ANNOTATION, PLURAL, POLICY_DIGEST_ANNOTATION, VERSION
from cleanroom.spark.kubernetes_objects import cluster_event, job_status, pod_status
from cleanroom.spark.kubernetes_stream import StopSignal, api_error, read_lines
from cleanroom.spark.status import ClusterEvent, JobStatus, PodStatus

# The package has annotations in parts only; strict checking cannot see through the rest.
_config: Any = kubernetes.config

APP_LABEL = "sparkoperator.k8s.io/app-name"
DRIVER_CONTAINER = "spark-kubernetes-driver"
MAX_LOG_BYTES = 1 << 20

_WATCH_SECONDS = 30
_REQUEST_TIMEOUT = (5.0, 30.0)
_MAX_RELISTS = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """One step of a watch: the object as it now is, or None once it is deleted. ``resource_version`` is where to go on from."""

    object: dict[str, Any] | None
    resource_version: str


class KubernetesClient:
    """SparkApplications, and what belongs to them, in one namespace."""

    def __init__(self, api: kubernetes.client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._api = api
        self._custom = kubernetes.client.CustomObjectsApi(api)
        self._core = kubernetes.client.CoreV1Api(api)

    @staticmethod
    def connect(settings: KubernetesSettings) -> KubernetesClient:
        """A client for the kubeconfig in ``settings``, else the pod's own service account, else the user's default kubeconfig.

        Raises:
            PreconditionFailed: ``KubeconfigInvalid``.
        """
        configuration = kubernetes.client.Configuration()
        try:
            if settings.kubeconfig is not None:
                _config.load_kube_config(config_file=str(settings.kubeconfig), context=settings.context, client_configuration=configuration)
            else:
                try:
                    _config.load_incluster_config(client_configuration=configuration)
                except _config.ConfigException:
                    _config.load_kube_config(context=settings.context, client_configuration=configuration)
        except (_config.ConfigException, OSError) as error:
            raise PreconditionFailed(
                "KubeconfigInvalid",
                f"kubernetes.kubeconfig: {settings.kubeconfig or 'the default kubeconfig'} cannot be used.",
                cause=str(error),
                hint="Name a kubeconfig in kubernetes.kubeconfig, or run in the cluster with a service account.",
                party="operator",
            ) from error
        # Retries belong to the caller, who knows what may be repeated.
        configuration.retries = False
        return KubernetesClient(kubernetes.client.ApiClient(configuration), settings.namespace)

    def close(self) -> None:
        """Close the connections."""
        api: Any = self._api
        api.close()

    def version(self) -> str:
        """The API server's version: a cheap proof that it answers."""
        return str(self._call("read the cluster's version", kubernetes.client.VersionApi(self._api).get_code).git_version)

    # --- SparkApplications

    def create_or_get(self, application: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create ``application``, or find the one that an earlier attempt made; the flag tells which.

        An object of this name counts as ours only if its job and policy digests are ours (users-and-threats.md S3).

        Raises:
            Conflict: ``SparkApplicationDiffers`` when the name is taken by other content.
            Unavailable: ``SparkApplicationTerminating`` while an object of this name is still being deleted.
        """
        name = application["metadata"]["name"]
        try:
            created: dict[str, Any] = self._call(
                f"create SparkApplication {name}",
                self._custom.create_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                application,
                field_validation="Strict",
            )
            return created, True
        except Conflict as error:
            if error.code != "AlreadyExists":
                raise
        existing = self.get(name)
        if existing["metadata"].get("deletionTimestamp"):
            raise Unavailable(
                "SparkApplicationTerminating", f"SparkApplication {name}: an earlier one of this name is still being deleted."
            )
        wanted, found = _digests(application), _digests(existing)
        if wanted != found:
            raise Conflict(
                "SparkApplicationDiffers",
                f"SparkApplication {name}: exists already with other content.",
                hint="Use a new run id; a SparkApplication is never reused.",
                details={"wanted": wanted, "found": found},
            )
        return existing, False

    def get(self, name: str) -> dict[str, Any]:
        """The SparkApplication.

        Raises:
            NotFound: ``NotFound``; never because the API could not be asked.
        """
        result: dict[str, Any] = self._call(
            f"read SparkApplication {name}", self._custom.get_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, name
        )
        return result

    def applications(self, label_selector: str = "") -> list[dict[str, Any]]:
        """All SparkApplications that the selector takes."""
        result = self._call(
            "list SparkApplications",
            self._custom.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            PLURAL,
            label_selector=label_selector,
        )
        return list(result["items"])

    def changes(
        self, name: str, *, seconds: float, resource_version: str | None = None, stop: StopSignal | None = None
    ) -> Iterator[Change]:
        """The application's states, first the present one (unless ``resource_version`` says what is known already), for ``seconds``.

        Watches and resumes at the last resource version; on 410 Gone it reads the object anew, a bounded number of times. Ends after
        the deletion, at the deadline, or soon after ``stop`` is set.

        Raises:
            Unavailable: the API stayed away, or expired every resource version.
        """
        deadline = time.monotonic() + seconds
        relists = 0
        while not (stop and stop.is_set()):
            if resource_version is None:
                items = self._list_one(name)
                resource_version = items["metadata"]["resourceVersion"]
                yield Change(items["items"][0] if items["items"] else None, resource_version)
                if not items["items"]:
                    return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            try:
                for kind, item in self._watch_once(name, resource_version, min(_WATCH_SECONDS, remaining), stop):
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
                        "ResourceVersionExpired", f"watch SparkApplication {name}: the API keeps expiring its versions."
                    ) from None
                resource_version = None

    def _list_one(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self._call(
            f"list SparkApplication {name}",
            self._custom.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            PLURAL,
            field_selector=f"metadata.name={name}",
        )
        return result

    def _watch_once(
        self, name: str, resource_version: str, seconds: float, stop: StopSignal | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        response = self._call(
            f"watch SparkApplication {name}",
            self._custom.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            PLURAL,
            field_selector=f"metadata.name={name}",
            resource_version=resource_version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=max(1, int(seconds)),
            _preload_content=False,
            # Past the server's own end of the watch, silence means that the connection is dead.
            _request_timeout=(5.0, seconds + 15),
        )
        try:
            for line in read_lines(response, stop):
                if not line:
                    continue
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise _Expired
                    raise Unavailable(str(event["object"].get("reason") or "WatchFailed"), str(event["object"].get("message")))
                yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # A cut stream is the normal end of a long watch; the caller resumes where it was.
            _log.info("watch of %s ended: %s", name, type(error).__name__)
        finally:
            response.close()
            response.release_conn()

    def delete(self, name: str, *, uid: str | None = None, seconds: float = 60) -> bool:
        """Delete the application and wait until no pod of it is left (users-and-threats.md S7); whether there was one.

        With ``uid``, another object that took the name meanwhile is left alone.

        Raises:
            Conflict: the object of this name has another uid.
            TimedOut: ``PodsRemain`` when pods outlive ``seconds``, ``SparkApplicationRemains`` when the object itself does.
        """
        deadline = time.monotonic() + seconds
        body = kubernetes.client.V1DeleteOptions(
            propagation_policy="Foreground", preconditions=kubernetes.client.V1Preconditions(uid=uid) if uid else None
        )
        found: str | None = None
        try:
            found = self.get(name)["metadata"]["uid"]
            self._call(
                f"delete SparkApplication {name}",
                self._custom.delete_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                name,
                body=body,
            )
        except NotFound:
            # Its pods may still be there: the operator removes them after it.
            pass
        gone = found is None
        while True:
            listing = self._pod_list(name)
            if not listing["items"]:
                if gone or found is None:
                    return found is not None
                # And then look at the pods again: a submission under way may have made one meanwhile.
                self._await_gone(name, found, deadline - time.monotonic())
                gone = True
                continue
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                names = ", ".join(pod["metadata"]["name"] for pod in listing["items"])
                raise TimedOut(
                    "PodsRemain", f"SparkApplication {name}: deleted, but after {seconds:.0f} s pods remain: {names}.", retryable=True
                )
            self._await_pod_change(name, listing["metadata"]["resourceVersion"], remaining)

    def _await_gone(self, name: str, uid: str, seconds: float) -> None:
        """Wait until the object itself is gone as well, so that its name is free."""
        for change in self.changes(name, seconds=max(1.0, seconds)):
            if change.object is None or change.object["metadata"]["uid"] != uid:
                return
        raise TimedOut("SparkApplicationRemains", f"SparkApplication {name}: its pods are gone, but it is still there.", retryable=True)

    def await_pod_change(
        self, name: str, seconds: float, resource_version: str | None = None, *, stop: StopSignal | None = None
    ) -> str | None:
        """Wait until a pod of the application changes, at most ``seconds`` (at least 1); the resource version to go on from.

        None as ``resource_version`` starts at the present; None as the result asks to start there again.
        """
        version = resource_version or self._pod_list(name)["metadata"]["resourceVersion"]
        line = self._await_pod_change(name, version, seconds, stop)
        if line is None:
            return str(version)
        found = json.loads(line)
        return None if found["type"] == "ERROR" else str(found["object"]["metadata"]["resourceVersion"])

    def _await_pod_change(self, name: str, resource_version: str, seconds: float, stop: StopSignal | None = None) -> str | None:
        response = self._call(
            f"watch pods of {name}",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=f"{APP_LABEL}={name}",
            resource_version=resource_version,
            watch=True,
            timeout_seconds=max(1, int(min(seconds, _WATCH_SECONDS))),
            _preload_content=False,
            _request_timeout=(5.0, seconds + 15),
        )
        try:
            return next((line for line in read_lines(response, stop) if line), None)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            _log.info("watch of pods of %s ended: %s", name, type(error).__name__)
            return None
        finally:
            response.close()
            response.release_conn()

    # --- What belongs to an application

    def status(self, name: str, application: dict[str, Any] | None = None) -> JobStatus:
        """One reading of the application, its pods and their events.

        Raises:
            NotFound: ``NotFound``.
        """
        item = application or self.get(name)
        pods = self.pods(name)
        return job_status(item, pods, self.events(name, [pod.name for pod in pods]))

    def pods(self, name: str) -> list[PodStatus]:
        """The application's pods, by the operator's label."""
        return [pod_status(item) for item in self._pod_list(name)["items"]]

    def _pod_list(self, name: str) -> dict[str, Any]:
        response = self._call(
            f"list pods of {name}",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=f"{APP_LABEL}={name}",
            _preload_content=False,
        )
        return dict(json.loads(response.data))

    def events(self, name: str, pods: list[str] | None = None) -> list[ClusterEvent]:
        """Events about the application and its pods, oldest first. Clusters forget them after about an hour."""
        names = {name, *(pods if pods is not None else [pod.name for pod in self.pods(name)])}
        result: list[ClusterEvent] = []
        for subject in sorted(names):
            response = self._call(
                f"list events of {subject}",
                self._core.list_namespaced_event,
                self.namespace,
                field_selector=f"involvedObject.name={subject}",
                _preload_content=False,
            )
            result += [cluster_event(item) for item in json.loads(response.data)["items"]]
        return sorted(result, key=lambda event: event.last_seen.timestamp() if event.last_seen else 0.0)

    def logs(self, pod: str, *, tail: int = 200, container: str | None = DRIVER_CONTAINER) -> str:
        """The last ``tail`` lines of a container's log, at most 1 MiB.

        Raises:
            NotFound: ``NotFound`` when there is no such pod.
            InvalidInput: ``BadRequest`` while the container has not started.
        """
        response = self._call(
            f"read the log of {pod}",
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container=container,
            tail_lines=tail,
            limit_bytes=MAX_LOG_BYTES,
            _preload_content=False,
        )
        return bytes(response.data).decode("utf-8", "replace")

    def _call(self, what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("_request_timeout", _REQUEST_TIMEOUT)
        try:
            return function(*args, **kwargs)
        except ApiException as error:
            raise api_error(what, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(
                "KubernetesUnreachable",
                f"{what}: the Kubernetes API did not answer.",
                cause=f"{type(error).__name__}: {error}",
                party="operator",
            ) from error


class _Expired(Exception):
    """The watch's resource version is too old (410 Gone)."""


def _digests(application: dict[str, Any]) -> dict[str, str | None]:
    annotations = application["metadata"].get("annotations") or {}
    return {key: annotations.get(key) for key in (JOB_DIGEST_ANNOTATION, POLICY_DIGEST_ANNOTATION)}
