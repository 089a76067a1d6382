"""Maps exceptions of SDKs (azure-core, azure-identity, httpx, kubernetes, botocore), sockets, TLS and files to :mod:`cleanroom.errors`.

The clients in ``cleanroom/clients`` and ``cleanroom/governance`` map their errors with more context. This module handles the rest. It
finds exception classes through :data:`sys.modules`, so that it never imports an SDK that the process has not imported itself.
"""

from __future__ import annotations

import builtins
import errno
import json
import ssl
import sys
from collections.abc import Mapping
from typing import Any

from cleanroom import entra_codes
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.redaction import redact
from cleanroom.transport import retry_after_seconds

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ROOTS = "Set ca_file in the profile to the roots of this server."


def from_upstream(error: Exception) -> CleanRoomError | None:
    """Map a known exception, or return ``None``."""
    for mapper in (_azure, _httpx, _kubernetes, _botocore, _sockets, _disk):
        known = mapper(error)
        if known is not None:
            return known
    return None


def from_status(status: int, code: str, message: str, *, cause: str | None = None, retry_after: str | None = None) -> CleanRoomError:
    """Map an HTTP error by its status.

    401 and 403 are ``Refused``, 404 is ``NotFound``, 409 ``Conflict``, 412 ``PreconditionFailed``, and 408, 425, 429 and 5xx are
    ``Unavailable``. Any other status is ``InvalidInput``.

    Args:
        status: The HTTP status.
        code: The service's own code.
        message: The message of the error.
        cause: The service's text, which is redacted here.
        retry_after: The value of the header ``Retry-After``.
    """
    details: dict[str, Any] = {"status": status}
    cause = redact(cause) if cause else None
    if status in (408, 425, 429) or status >= 500:
        if (wait := retry_after_seconds(retry_after)) is not None:
            details["retryAfter"] = wait
        return Unavailable(code, message, cause=cause, details=details)
    kind: type[CleanRoomError] = {401: Refused, 403: Refused, 404: NotFound, 409: Conflict, 412: PreconditionFailed}.get(
        status, InvalidInput
    )
    return kind(code, message, cause=cause, details=details)


def _module(name: str) -> Any:
    return sys.modules.get(name)


def _azure(error: Exception) -> CleanRoomError | None:
    core = _module("azure.core.exceptions")
    if core is None or not isinstance(error, core.AzureError):
        return None
    text = str(error)
    entra = entra_codes.CODE.search(text)
    if entra and entra_codes.NO_MATCH.get(entra.group(0)):
        return PreconditionFailed(
            entra.group(0),
            "Entra ID does not accept the new credential yet; it propagates within seconds.",
            cause=redact(text),
            retryable=True,
        )
    if entra and (message := entra_codes.TRANSIENT.get(entra.group(0))):
        return Unavailable(entra.group(0), message, cause=redact(text))
    if isinstance(error, core.HttpResponseError) and error.status_code:
        code = str(
            getattr(getattr(error, "error", None), "code", None)
            or getattr(error, "error_code", None)
            or (entra and entra.group(0))
            or error.reason
            or "AzureError"
        )
        headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
        return from_status(
            error.status_code, code, f"Azure returned {error.status_code} ({code}).", cause=text, retry_after=headers.get("Retry-After")
        )
    if isinstance(error, core.ClientAuthenticationError):
        return Refused(
            entra.group(0) if entra else "AuthenticationFailed", "Entra ID issued no token for this identity.", cause=redact(text)
        )
    # An error for a body that broke off is an HttpResponseError without a status.
    if isinstance(error, core.ServiceRequestError | core.ServiceResponseError | core.HttpResponseError):
        return Unavailable("AzureUnreachable", "The Azure service cannot be reached.", cause=redact(text))
    return Refused("AzureError", "The Azure SDK rejected the call.", cause=redact(text))


def _httpx(error: Exception) -> CleanRoomError | None:
    httpx = _module("httpx")
    if httpx is None:
        return None
    if isinstance(error, httpx.HTTPStatusError):
        status, url = error.response.status_code, error.request.url
        code, message = _json_error(error.response.text)
        return from_status(
            status,
            code or "HttpError",
            f"{error.request.method} {url.host}{url.path} returned {status}.",
            cause=message,
            retry_after=error.response.headers.get("Retry-After"),
        )
    if isinstance(error, httpx.TransportError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Refused("TlsCertificateRefused", "The server's certificate is not trusted.", cause=redact(str(error)), hint=_ROOTS)
        return Unavailable("Unreachable", "The service cannot be reached.", cause=redact(f"{type(error).__name__}: {error}"))
    return None


def _kubernetes(error: Exception) -> CleanRoomError | None:
    client = _module("kubernetes.client.exceptions")
    if client is not None and isinstance(error, client.ApiException):
        reason, message = _json_error(error.body if isinstance(error.body, str) else "")
        reason = reason or str(error.reason or "KubernetesError")
        if not error.status:
            return Unavailable("KubernetesUnreachable", "The Kubernetes API cannot be reached.", cause=redact(str(error.reason)))
        headers = error.headers or {}
        return from_status(
            error.status, reason, f"Kubernetes returned {error.status} ({reason}).", cause=message, retry_after=headers.get("Retry-After")
        )
    urllib3 = _module("urllib3.exceptions")
    if urllib3 is not None and isinstance(error, urllib3.HTTPError):
        return Unavailable("Unreachable", "The service cannot be reached.", cause=redact(str(error)))
    return None


def _botocore(error: Exception) -> CleanRoomError | None:
    botocore = _module("botocore.exceptions")
    if botocore is None:
        return None
    if isinstance(error, botocore.ClientError):
        answer = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        code = str(answer.get("Code") or "S3Error")
        status = int(meta.get("HTTPStatusCode") or (int(code) if code.isdigit() else 400))
        return from_status(
            status, code, f"S3 returned {status} ({code}) to {error.operation_name}.", cause=str(answer.get("Message") or "")
        )
    if isinstance(error, botocore.NoCredentialsError | botocore.PartialCredentialsError):
        return Refused("S3CredentialsMissing", "The call has no S3 credentials.", hint="Set AWS_PROFILE, or use a connection secret.")
    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError):
        return Unavailable("S3Unreachable", "The S3 service cannot be reached.", cause=redact(str(error)))
    return None


def _sockets(error: Exception) -> CleanRoomError | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused("TlsCertificateRefused", "The server's certificate is not trusted.", cause=redact(str(error)), hint=_ROOTS)
    if isinstance(error, builtins.TimeoutError | builtins.ConnectionError | ssl.SSLError):
        return Unavailable(
            "Unreachable", "The service cannot be reached or did not answer in time.", cause=redact(f"{type(error).__name__}: {error}")
        )
    return None


def _disk(error: Exception) -> CleanRoomError | None:
    if not isinstance(error, OSError) or error.errno not in _DISK_FULL:
        return None
    return Unavailable(
        "DiskFull",
        "A file cannot be written, because the disk, the quota or the file size limit is exhausted.",
        cause=f"{type(error).__name__}: {error.strerror}",
        hint="Free space on the disk of this process. The step is retried.",
        party="operator",
    )


def _json_error(text: str) -> tuple[str | None, str | None]:
    """Return ``(code, message)`` of an error body: ``{error: {code, message}}``, or Kubernetes' ``{reason, message}``."""
    try:
        body: Any = json.loads(text)
    except ValueError:
        return None, text or None
    if isinstance(body, dict):
        inner = body.get("error")
        if isinstance(inner, dict):
            return inner.get("code"), inner.get("message")
        return body.get("reason") or body.get("code"), body.get("message")
    return None, text
