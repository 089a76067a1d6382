"""Calls to the Kubernetes API: connection, timeouts, watches, and the API's errors as this project's errors.

An error keeps the API's own reason (``AlreadyExists``, ``Forbidden``, ``Invalid`` ...) as its code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import urllib3

from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.settings import KubernetesSettings
from cleanroom.spark.kubernetes_stream import StopSignal, read_lines
from cleanroom.transport import retry_after_seconds

# The package takes 75 MB, and only the worker of the Spark service has it (the extra `cluster`), so it is imported on use.
if TYPE_CHECKING:
    import kubernetes
    from kubernetes.client.exceptions import ApiException

WATCH_SECONDS = 30
"""The longest single watch request."""

_REQUEST_TIMEOUT = (5.0, 30.0)
_log = logging.getLogger(__name__)


def connect(settings: KubernetesSettings) -> kubernetes.client.ApiClient:
    """Return an API client for the kubeconfig in ``settings``, else the pod's service account, else the user's default kubeconfig.

    Raises:
        PreconditionFailed: ``KubeconfigInvalid``.
    """
    import kubernetes

    # The package is only partly annotated, so strict type checks treat these members as Any.
    config: Any = kubernetes.config
    configuration = kubernetes.client.Configuration()
    try:
        if settings.kubeconfig is not None:
            config.load_kube_config(config_file=str(settings.kubeconfig), context=settings.context, client_configuration=configuration)
        else:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                config.load_kube_config(context=settings.context, client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise PreconditionFailed(
            "KubeconfigInvalid",
            f"kubernetes.kubeconfig: {settings.kubeconfig or 'the default kubeconfig'} cannot be used.",
            cause=str(error),
            hint="Set kubernetes.kubeconfig to a valid kubeconfig, or run in the cluster with a service account.",
            party="operator",
        ) from error
    # The caller retries, because only the caller knows which calls are idempotent.
    configuration.retries = False
    return kubernetes.client.ApiClient(configuration)


def call(what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of the ``kubernetes`` package.

    Args:
        what: The operation, for error messages.
        function: The function to call.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        CleanRoomError: As :func:`api_error`.
        Unavailable: ``KubernetesUnreachable``.
    """
    from kubernetes.client.exceptions import ApiException

    kwargs.setdefault("_request_timeout", _REQUEST_TIMEOUT)
    try:
        return function(*args, **kwargs)
    except ApiException as error:
        raise api_error(what, error) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(what, f"{type(error).__name__}: {error}") from error


def call_json(what: str, function: Callable[..., Any], *args: Any, members: Sequence[str] = (), **kwargs: Any) -> dict[str, Any]:
    """Call a function of the ``kubernetes`` package and return the JSON object of the answer.

    Args:
        what: The operation, for error messages.
        function: The function to call.
        args: Its positional arguments.
        members: Members that the object must have.
        kwargs: Its keyword arguments.

    Raises:
        CleanRoomError: As :func:`call`.
        Unavailable: ``KubernetesAnswerUnexpected`` if the answer is not such an object, because a proxy sent it.
    """
    data = call_bytes(what, function, *args, **kwargs)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any(member not in found for member in members):
        raise _unexpected(what, "The answer is not the JSON object that the API defines.", {})
    return found


def call_bytes(what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    """Call a function of the ``kubernetes`` package and return the whole body of the answer; errors are those of :func:`call`."""

    def read(*positional: Any, **named: Any) -> bytes:
        return bytes(function(*positional, _preload_content=False, **named).data)

    data: bytes = call(what, read, *args, **kwargs)
    return data


def watch(
    what: str, function: Callable[..., Any], *args: Any, seconds: float, stop: StopSignal | None = None, **kwargs: Any
) -> Generator[dict[str, Any], None, None]:
    """Yield the events of one watch request, until the server ends it, the connection breaks or ``stop`` is set.

    Args:
        what: The operation, for error messages.
        function: A list function of the ``kubernetes`` package.
        args: Its positional arguments.
        seconds: How long to watch; at least 1 and at most :data:`WATCH_SECONDS`.
        stop: Ends the watch from another thread.
        kwargs: Its keyword arguments.
    """
    limit = max(1, int(min(seconds, WATCH_SECONDS)))
    response = call(
        what,
        function,
        *args,
        watch=True,
        timeout_seconds=limit,
        _preload_content=False,
        # The server ends the watch at its limit; silence beyond that means that the connection is dead.
        _request_timeout=(5.0, limit + 15),
        **kwargs,
    )
    try:
        for line in read_lines(response, stop):
            if line:
                yield json.loads(line)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # A connection that is cut, also within a line, is the normal end of a long watch. The caller resumes at its
        # last resource version.
        _log.info("%s: ended with %s", what, type(error).__name__)
    finally:
        response.close()
        response.release_conn()


def api_error(what: str, error: ApiException) -> CleanRoomError:
    """Return the API's error with the ``reason`` of its Status object as the code."""
    try:
        status = json.loads(error.body or "{}")
    except (ValueError, TypeError, RecursionError):
        status = {}
    status = status if isinstance(status, dict) else {}
    if not error.status:
        # TLS errors, which the package reports without a status.
        return _unreachable(what, str(error.reason or "no answer"))
    reason = str(status.get("reason") or (error.reason or "Unknown").replace(" ", ""))
    text = str(status.get("message") or error.reason or "no message")
    details: dict[str, Any] = {"status": error.status}
    if error.status in (408, 425, 429, 500, 502, 503, 504):
        if (wait := retry_after_seconds((error.headers or {}).get("Retry-After"))) is not None:
            details["retryAfter"] = wait
        return Unavailable(reason, f"{what}: {text}", details=details)
    # The API server answers in plain text for a resource that it does not have, such as a CRD that is not installed.
    if not status and "page not found" not in str(error.body):
        return _unexpected(what, f"HTTP {error.status} without a Status object.", details)
    match error.status:
        case 400 | 422:
            return InvalidInput(reason, f"{what}: {text}", details=details)
        case 401:
            return Refused(reason, f"{what}: the Kubernetes API rejected the credentials.", cause=text, party="operator", details=details)
        case 403:
            return Refused(reason, f"{what}: {text}", party="operator", hint="Grant the service account this right.", details=details)
        case 404:
            return NotFound(reason, f"{what}: {text}", details=details)
        case 409:
            return Conflict(reason, f"{what}: {text}", details=details)
    return Internal(reason, f"{what}: HTTP {error.status}: {text}", details=details)


def _unreachable(what: str, cause: str) -> Unavailable:
    return Unavailable("KubernetesUnreachable", f"{what}: the Kubernetes API did not answer.", cause=cause, party="operator")


def _unexpected(what: str, cause: str, details: dict[str, Any]) -> Unavailable:
    return Unavailable(
        "KubernetesAnswerUnexpected",
        f"{what}: the answer is not from the Kubernetes API.",
        cause=cause,
        hint="If this lasts, check the address in the kubeconfig and any proxy in between.",
        party="operator",
        details=details,
    )
