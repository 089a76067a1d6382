"""Client of the attestation sidecar inside a confidential container group.

The real one listens on ``http://localhost:8284`` in the same group; its routes are in the confidential-sidecar-containers project. A report
is made for whatever runtime data the caller names, so it must be reachable from inside the guest only.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from cleanroom.attestation.evidence import AttestationEvidence
from cleanroom.errors import CleanRoomError, Internal, Refused, Unavailable
from cleanroom.transport import async_http_client, http_client, ssl_context

# Imported by whoever asks: most importers of this package verify only, and HTTP is a third of its import.
if TYPE_CHECKING:
    import httpx

_TIMEOUT: Final = (5.0, 30.0, 30.0, 30.0)
"""Seconds to connect, to read, to write, and to wait for a connection."""
_ROUTE: Final = "/attest/combined"


class GuestAttestor:
    """Asks the sidecar for this guest's own evidence.

    Args:
        base_url: Of the sidecar, without the route.
        ca_file: PEM roots to trust for TLS; None for the system's, or for plain HTTP inside the guest.
    """

    def __init__(self, base_url: str, *, ca_file: Path | None = None) -> None:
        self._url = base_url.rstrip("/") + _ROUTE
        # Created once: reading the system's roots takes milliseconds.
        self._tls = ssl_context(ca_file)

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        """Evidence whose report data is ``report_data_for(runtime_data)``.

        Raises:
            Unavailable: ``GuestAttestationUnavailable``: no answer, or a server error. Retryable.
            Refused: ``GuestAttestationRefused``: the sidecar answered with a client error.
            Internal: ``GuestAttestationMalformed``: the answer is no evidence.
        """
        import httpx

        try:
            async with async_http_client(self._tls, timeout=_TIMEOUT) as client:
                response = await client.post(self._url, json=_body(runtime_data))
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return _evidence(response)

    def attest_sync(self, runtime_data: bytes) -> AttestationEvidence:
        """:meth:`attest` for code without an event loop."""
        import httpx

        try:
            with http_client(self._tls, timeout=_TIMEOUT) as client:
                response = client.post(self._url, json=_body(runtime_data))
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return _evidence(response)


def _body(runtime_data: bytes) -> dict[str, Any]:
    return {"runtime_data": base64.b64encode(runtime_data).decode()}


def _unreachable(error: httpx.HTTPError) -> CleanRoomError:
    # Without the URL: in development its path is the guest's capability.
    return Unavailable(
        "GuestAttestationUnavailable",
        "The guest's attestation sidecar did not answer.",
        cause=type(error).__name__,
        hint="Check that the sidecar runs in the same container group and that its address is configured.",
        party="operator",
    )


def _evidence(response: httpx.Response) -> AttestationEvidence:
    if response.status_code >= 500:
        raise Unavailable(
            "GuestAttestationUnavailable",
            f"The guest's attestation sidecar answered {response.status_code}.",
            cause=response.text[:500],
            party="operator",
        )
    if response.status_code != 200:
        raise Refused(
            "GuestAttestationRefused",
            f"The guest's attestation sidecar answered {response.status_code}.",
            cause=response.text[:500],
            party="operator",
        )
    try:
        return AttestationEvidence.model_validate_json(response.content)
    except ValidationError as error:
        raise Internal(
            "GuestAttestationMalformed",
            "The guest's attestation sidecar answered something that is no evidence.",
            cause=str(error.error_count()) + " invalid members",
            party="operator",
        ) from error
