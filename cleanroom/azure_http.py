"""What all clients that use an Azure SDK share: bounded waiting, broken connections, and the time that a service asks to wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.policies import RetryPolicy

from cleanroom.transport import retry_after_seconds

MAX_WAIT_SECONDS: Final = 5.0
"""The longest ``Retry-After`` that an SDK waits for itself. For a longer one the caller retries."""


class BoundedRetryPolicy(RetryPolicy[Any, Any]):
    """The SDK's retries, except that a long ``Retry-After`` ends the call, because the SDK would sleep for any time that it names."""

    def is_retry(self, settings: dict[str, Any], response: PipelineResponse[Any, Any]) -> bool:
        """Return whether to send the request again."""
        wait = retry_after_seconds(response.http_response.headers.get("Retry-After"))
        if wait is not None and wait > MAX_WAIT_SECONDS:
            return False
        return bool(super().is_retry(settings, response))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    current: BaseException | None = error
    for _ in range(20):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def is_connection_error(error: BaseException) -> bool:
    """Return whether the whole answer did not arrive. An error for a broken body has no HTTP status."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return True
    return isinstance(error, HttpResponseError) and not isinstance(error, ClientAuthenticationError) and error.status_code is None


def retry_after_details(error: AzureError) -> dict[str, Any]:
    """Return ``{"retryAfter": seconds}`` if the service asked to wait, else nothing."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    wait = retry_after_seconds(headers.get("Retry-After"))
    return {} if wait is None else {"retryAfter": wait}
