"""A user's or member's connection to governance: to the CCF application itself, or to its proxy ``cgs-client``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cleanroom.governance.certificates import read_certificate
from cleanroom.governance.http import AsyncCloseable, HttpChannel, TokenProvider
from cleanroom.governance.position import LedgerPosition
from cleanroom.governance.urls import application_url

Mode = Literal["app", "cgs-client"]
"""Whose routes an endpoint has: the application's or the proxy's (docs/facts/governance-service.md#cgs-client)."""


def proxy_headers(ccf_endpoint: str | None, service_cert: Path | None) -> dict[str, str]:
    """Headers that tell ``cgs-client`` which CCF service to call, instead of the one that it is configured with.

    Args:
        ccf_endpoint: The URL of the CCF service.
        service_cert: PEM file of its service certificate.

    Raises:
        InvalidInput: ``GovernanceCertificateFileInvalid``.
    """
    headers = {} if ccf_endpoint is None else {"x-ms-ccf-endpoint": ccf_endpoint}
    if service_cert is not None:
        headers["x-ms-service-cert"] = base64.b64encode(read_certificate(service_cert)).decode()
    return headers


class Endpoint(AsyncCloseable):
    """One caller's connection.

    Args:
        base_url: The CCF application's URL (with or without ``/app``), or in mode ``cgs-client`` the proxy's URL.
        token: Bearer token provider. ``None`` for a member with a client certificate, or a proxy that has its own identity.
        mode: Whose routes ``base_url`` has.
        ca_file: The CCF network's service certificate, or the proxy's CA.
        client_cert: (certificate, key) PEM files of a member (mode ``app``).
        headers: Sent with every request, such as :func:`proxy_headers`.
        timeout: Seconds for one request.
        position: What this process has seen in the ledger; see :class:`HttpChannel`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: TokenProvider | None = None,
        mode: Mode = "app",
        ca_file: Path | None = None,
        client_cert: tuple[Path, Path] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        position: LedgerPosition | None = None,
    ) -> None:
        direct = mode == "app"
        self.mode: Mode = mode
        self._root = "/app" if direct else ""
        self._channel = HttpChannel(
            application_url(base_url) if direct else base_url,
            token=token,
            ca_file=ca_file,
            client_cert=client_cert,
            headers=dict(headers or {}) | ({} if direct or token is None else {"x-ms-auth-mode": "FromAuthHeader"}),
            timeout=timeout,
            commit_path="/app/tx" if direct else None,
            probe="/oidc/issuerInfo",
            position=position,
        )

    @property
    def position(self) -> LedgerPosition:
        """What this client has seen in the ledger."""
        return self._channel.position

    async def catch_up(self, hint: str) -> None:
        """Wait until governance shows the transaction ``hint``; see :meth:`HttpChannel.catch_up`."""
        await self._channel.catch_up(hint)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._channel.aclose()

    async def _get(self, path: str, *, post: bool = False) -> Any:
        """Read ``path``. ``post`` marks reads that are a POST on the application and a GET on the proxy."""
        return await self._channel.call("POST" if post and self.mode == "app" else "GET", self._root + path)

    async def _write(self, method: str, path: str, body: Any = None, *, hide: Sequence[str] = ()) -> tuple[Any, str | None]:
        return await self._channel.write(method, self._root + path, json=body, hide=hide)
