"""Client of the attestation sidecar inside a confidential container group.

It listens on ``http://localhost:8284`` in the same group (https://github.com/microsoft/confidential-sidecar-containers). It attests any
runtime data that a caller sends, so it must only be reachable from inside the guest.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from cleanroom.errors import CleanRoomError, Internal, Refused, Unavailable
from cleanroom.snp_evidence import AttestationEvidence
from cleanroom.transport import async_http_client, retry_after_seconds, ssl_context

# httpx is imported on use: most users of this package only verify, and httpx takes a third of the import time.
if TYPE_CHECKING:
    import httpx

_TIMEOUT: Final = (5.0, 30.0, 30.0, 30.0)
"""Seconds to connect, to read, to write, and to wait for a connection."""
_ROUTE: Final = "/attest/combined"


class GuestAttestor:
    """Requests this guest's evidence from the sidecar.

    Args:
        base_url: The sidecar's URL without the route.
        ca_file: PEM roots to trust for TLS. None means the system's roots, or plain HTTP inside the guest.
    """

    def __init__(self, base_url: str, *, ca_file: Path | None = None) -> None:
        self._url = base_url.rstrip("/") + _ROUTE
        # Without own roots the client reads the system's, and not before the first request.
        self._tls = None if ca_file is None else ssl_context(ca_file)

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        """Return evidence whose report data is ``report_data_for(runtime_data)``.

        Raises:
            Unavailable: ``GuestAttestationUnavailable``: no response, or a server error. Retryable.
            Refused: ``GuestAttestationRefused``: the sidecar responded with a client error.
            Internal: ``GuestAttestationMalformed``: the response is not evidence.
        """
        import httpx

        try:
            async with async_http_client(self._tls, timeout=_TIMEOUT) as client:
                response = await client.post(self._url, json=_body(runtime_data))
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return _evidence(response)


def _body(runtime_data: bytes) -> dict[str, Any]:
    return {"runtime_data": base64.b64encode(runtime_data).decode()}


def _unreachable(error: httpx.HTTPError) -> CleanRoomError:
    # The URL is left out: in development its path is a secret that identifies the guest.
    return Unavailable(
        "GuestAttestationUnavailable",
        "The guest's attestation sidecar did not respond.",
        cause=type(error).__name__,
        hint="Check that the sidecar runs in the same container group and that its address is configured.",
        party="operator",
    )


def _evidence(response: httpx.Response) -> AttestationEvidence:
    status = response.status_code
    try:
        document = response.json()
    except (ValueError, RecursionError):
        document = None
    if status >= 500 or status in (408, 425, 429) or not isinstance(document, dict):
        # The sidecar answers in JSON, also if it refuses. Another answer comes from something in between.
        wait = retry_after_seconds(response.headers.get("retry-after"))
        raise Unavailable(
            "GuestAttestationUnavailable",
            f"The guest's attestation sidecar responded with status {status}" + (" and no JSON object." if document is None else "."),
            cause=response.text[:500],
            party="operator",
            details={} if wait is None else {"retryAfter": wait},
        )
    if status != 200:
        raise Refused(
            "GuestAttestationRefused",
            f"The guest's attestation sidecar responded with status {status}.",
            cause=response.text[:500],
            party="operator",
        )
    try:
        return AttestationEvidence.model_validate(document)
    except ValidationError as error:
        raise Internal(
            "GuestAttestationMalformed",
            "The response of the guest's attestation sidecar is not attestation evidence.",
            cause=str(error.error_count()) + " invalid members",
            party="operator",
        ) from error
