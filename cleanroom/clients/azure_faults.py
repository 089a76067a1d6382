"""Errors of Azure SDKs as errors of :mod:`cleanroom.errors`: connections, answers of another server, and the services' own codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from azure.core.exceptions import AzureError, HttpResponseError

from cleanroom.azure_http import is_connection_error, retry_after_details
from cleanroom.clients.storage_codes import BLOB_CODES, storage_error
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable

PROXY_HINT: Final = "If this lasts, check the URL in the settings and any proxy in between."
"""Hint of errors whose answer does not come from the service."""


def service_code(error: HttpResponseError) -> str | None:
    """Return the service's own code, or None if the answer has none."""
    blob_code = getattr(error, "error_code", None)  # azure-storage-blob; an enum or a str
    if blob_code:
        return str(getattr(blob_code, "value", blob_code))
    return str(error.error.code) if error.error is not None and error.error.code else None


def azure_error(error: AzureError, doing: str) -> CleanRoomError:
    """Map an error of an Azure SDK. ``code`` is the service's own code.

    Args:
        error: The SDK's error.
        doing: The operation and its object, such as ``"create managed identity dataset-flights"``.
    """
    if is_connection_error(error):
        return Unavailable(
            "AzureUnreachable",
            f"Could not {doing}: the service cannot be reached, or the connection broke.",
            cause=str(error),
            hint="Check the URL in the settings and the network.",
        )
    if not isinstance(error, HttpResponseError):
        return Internal("AzureProtocolError", f"Could not {doing}.", cause=str(error))
    return _response_error(error, error.status_code or 0, service_code(error), doing)


def _response_error(error: HttpResponseError, status: int, code: str | None, doing: str) -> CleanRoomError:
    cause = error.message
    if 300 <= status < 400:
        return Refused("RedirectRefused", f"Could not {doing}: the service returned a redirect, which is not followed.", cause=cause)
    if status in (408, 429) or (status >= 500 and status != 501):
        return Unavailable(
            code or f"Http{status}",
            f"Could not {doing}: the service is busy or failed.",
            cause=cause,
            details=retry_after_details(error),
        )
    if code is None:
        return unexpected_answer(doing, f"HTTP {status}: {cause}")
    if known := BLOB_CODES.get(code):
        return storage_error(known, code, doing, cause)
    if code == "PrincipalNotFound":
        # ARM's text calls this a replication delay of a new identity.
        return Unavailable(code, f"Could not {doing}: the principal has not propagated yet.", cause=cause)
    if status == 401:
        return PreconditionFailed(
            code,
            f"Could not {doing}: the service rejected the token.",
            cause=cause,
            hint="Check credential.tenant_id, the subscription, and this machine's clock.",
        )
    if status == 403:
        return PreconditionFailed(
            code,
            f"Could not {doing}: the identity has no role that permits it, or the role has not propagated yet.",
            cause=cause,
            hint="A role assignment can take up to 30 minutes. After that, assign the role that the cause names.",
            retryable=True,
        )
    if status == 404:
        return NotFound(code, f"Could not {doing}: it does not exist.", cause=cause)
    if status in (409, 412):
        return Conflict(
            code, f"Could not {doing}: it conflicts with the present state.", cause=cause, hint="Compare the existing resource."
        )
    return InvalidInput(code, f"Could not {doing}: the service rejected the request.", cause=cause)


def unexpected_answer(doing: str, cause: str) -> Unavailable:
    """Return the error for an answer that the service itself does not give, such as a proxy's page."""
    return Unavailable(
        "AzureAnswerUnexpected",
        f"Could not {doing}: the answer is not from the Azure service.",
        cause=cause[:500],
        hint=PROXY_HINT,
    )


@contextmanager
def azure_errors(doing: str, *, parsing: bool = True) -> Iterator[None]:
    """Translate errors of Azure SDKs in the block with :func:`azure_error`.

    Args:
        doing: See :func:`azure_error`.
        parsing: Whether the block only parses answers. The SDKs raise Python's own errors for an answer that they do not expect.
    """
    try:
        yield
    except AzureError as error:
        raise azure_error(error, doing) from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        if not parsing:
            raise
        raise unexpected_answer(doing, f"{type(error).__name__}: {error}") from error
