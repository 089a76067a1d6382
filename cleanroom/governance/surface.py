"""The two surfaces of governance, and how they differ: the application's own routes, and those of its proxy."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cleanroom.errors import InvalidInput
from cleanroom.governance.http import Channel, Closing, TokenProvider, application_url, read_certificate

Mode = Literal["app", "cgs-client"]


class Surface(Closing):
    """One caller's connection to one of them.

    Args:
        base_url: The CCF application's URL (with or without ``/app``) or, in mode ``cgs-client``, the proxy's URL.
        token: Bearer token provider. ``None`` for a member who has a client certificate, or for a proxy with its own identity.
        mode: ``app`` speaks the application's routes (spec/governance.md 3); ``cgs-client`` the proxy's (13).
        ca_file: Service certificate or CA of the server.
        client_cert: (certificate, key) PEM files of a member (mode ``app``).
        headers: Extra headers.
        ccf_endpoint, service_cert: Mode ``cgs-client``: the CCF URL and service certificate that the proxy shall use for this request.
        await_commit: Wait for CCF's commit after writes (mode ``app``; the proxy waits by itself).
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
        ccf_endpoint: str | None = None,
        service_cert: Path | None = None,
        await_commit: bool = True,
        timeout: float = 30.0,
    ) -> None:
        extra = dict(headers or {})
        if mode == "cgs-client":
            if token is not None:
                extra["x-ms-auth-mode"] = "FromAuthHeader"
            if ccf_endpoint is not None:
                extra["x-ms-ccf-endpoint"] = ccf_endpoint
            if service_cert is not None:
                extra["x-ms-service-cert"] = base64.b64encode(read_certificate(service_cert)).decode()
        self.mode: Mode = mode
        self._await_commit = await_commit
        self._root = "/app" if mode == "app" else ""
        self._channel = Channel(
            application_url(base_url) if mode == "app" else base_url,
            token=token,
            ca_file=ca_file,
            client_cert=client_cert,
            headers=extra,
            timeout=timeout,
            commit_path="/app/tx" if mode == "app" else None,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._channel.aclose()

    # -- how the two surfaces differ ------------------------------------------------------------------------------------------------

    async def _get(self, path: str, *, post: bool = False) -> Any:
        """Read ``path``; ``post`` where the application's "get" is a POST and the proxy's is a GET (trap 1)."""
        return await self._channel.call("POST" if post and self.mode == "app" else "GET", self._root + path)

    async def _write(self, method: str, path: str, body: Any = None, *, hide: Sequence[str] = ()) -> tuple[Any, str | None]:
        return await self._channel.write(method, self._root + path, json=body, await_commit=self._await_commit, hide=hide)

    def _only_app(self, what: str) -> None:
        if self.mode != "app":
            raise InvalidInput("NotThroughProxy", f"{what} has no cgs-client route; use the application's URL (mode app).")
