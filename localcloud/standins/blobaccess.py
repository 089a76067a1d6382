"""Reverse proxy with Azure's access checks for Azurite: ``python -m localcloud.standins.blobaccess --config FILE``.

Azurite checks neither a token's signature nor any role. This proxy requires a token that Entra ID has issued for storage and for the
account's tenant, and a role assignment on the account that permits the operation. It streams permitted requests to Azurite and the
responses back, unchanged. It forwards requests with a shared key or SAS, because Azurite verifies these itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import httpx
import jwt
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cleanroom.transport import async_http_client, jwks_client, ssl_context
from localcloud.standins.arm.roles import Role
from localcloud.standins.keyvault.auth import ArmRoleReader, ArmRoles, Caller
from localcloud.standins.keyvault.errors import KeyVaultError
from localcloud.standins.serving import StandInConfig, health_route, main
from localcloud.standins.tokens import STORAGE

_CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
_BLOBS = f"{_CONTAINERS}/blobs"
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
}
_ROLE_SECONDS = 1.0
_CHUNK_BYTES = 256 * 1024
_LOG = logging.getLogger("localcloud.blobaccess")


class StorageAccount(BaseModel):
    """A storage account: its tenant, and how to read its role assignments (``roles.vault_id`` is the account's resource ID)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: str
    jwks_uri: str
    roles: ArmRoles


class BlobAccessConfig(StandInConfig):
    """Configuration of the proxy."""

    azurite_url: str
    azurite_ca_file: Path
    accounts: dict[str, StorageAccount]


class StorageError(Exception):
    """An error response with the Blob service's code and XML."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(code, text)
        self.status, self.code, self.text = status, code, text

    def response(self) -> Response:
        """Return the response."""
        request_id = str(uuid.uuid4())
        stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        message = escape(f"{self.text}\nRequestId:{request_id}\nTime:{stamp}")
        body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{self.code}</Code><Message>{message}</Message></Error>'
        headers = {"x-ms-error-code": self.code, "x-ms-request-id": request_id}
        if self.status == 401:
            headers["WWW-Authenticate"] = f"Bearer resource_id={STORAGE}"
        return Response(body, self.status, headers, "application/xml")


class Account:
    """The access checks of one storage account."""

    def __init__(self, name: str, config: StorageAccount) -> None:
        self._issuer = f"https://sts.windows.net/{config.tenant_id}/"
        self._audiences = [STORAGE, f"{STORAGE}/", f"https://{name}.blob.core.windows.net"]
        self._keys = jwks_client(config.jwks_uri, config.roles.ca_file)
        self._reader = ArmRoleReader(config.roles)
        self._roles: dict[tuple[str, str], tuple[float, list[Role]]] = {}

    def check(self, token: str, data: bool, action: str, container: str) -> None:
        """Require a valid token whose holder has a role that permits ``action`` on ``container``.

        Raises:
            StorageError: 401 ``InvalidAuthenticationInfo``; 403 ``AuthorizationPermissionMismatch``; 503 ``ServerBusy``.
        """
        try:
            key = self._keys.get_signing_key_from_jwt(token).key
            options: Any = {"require": ["exp", "nbf", "iss", "aud", "oid"]}
            claims = jwt.decode(token, key, algorithms=["RS256"], audience=self._audiences, issuer=self._issuer, options=options)
        except jwt.PyJWKClientConnectionError as error:
            raise StorageError(503, "ServerBusy", "The server is busy.") from error
        except jwt.PyJWTError as error:
            text = f"Server failed to authenticate the request. Please refer to the information in the www-authenticate header. {error}"
            raise StorageError(401, "InvalidAuthenticationInfo", text) from error
        roles = self._roles_of(str(claims["oid"]), container)
        if not any(role.permits_data(action) if data else role.permits(action) for role in roles):
            _LOG.info("oid %s lacks %s", claims["oid"], action)
            raise StorageError(
                403,
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            )

    def _roles_of(self, object_id: str, container: str) -> list[Role]:
        place = (object_id, container)
        known = self._roles.get(place)
        if known is None or known[0] < time.monotonic():
            try:
                roles = self._reader.of(Caller(object_id=object_id), f"/blobServices/default/containers/{container}" if container else "")
            except KeyVaultError as error:
                raise StorageError(503, "ServerBusy", "Role assignments could not be read.") from error
            known = (time.monotonic() + _ROLE_SECONDS, roles)
            self._roles[place] = known
        return known[1]


def action_of(method: str, path: str, query: dict[str, str]) -> tuple[bool, str]:
    """Return whether an operation is a data action, and the action that a role must permit."""
    container_level = query.get("restype") == "container" or not path.strip("/").partition("/")[2]
    if query.get("restype") == "service" and query.get("comp") == "userdelegationkey":
        return False, "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"
    if container_level and query.get("restype") == "container" and query.get("comp") == "list":
        return True, f"{_BLOBS}/read"
    if container_level:
        verb = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(method, "write")
        return False, f"{_CONTAINERS}/{verb}"
    return True, f"{_BLOBS}/{ {'GET': 'read', 'HEAD': 'read', 'DELETE': 'delete'}.get(method, 'write') }"


class AccessProxy:
    """Checks requests and streams them to Azurite."""

    def __init__(self, config: BlobAccessConfig) -> None:
        self._accounts = {name: Account(name, account) for name, account in config.accounts.items()}
        tls = ssl_context(config.azurite_ca_file)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=32)
        self.http = async_http_client(tls, base_url=config.azurite_url, timeout=60, limits=limits)

    async def handle(self, request: Request) -> Response:
        """Answer a request."""
        try:
            await self._check(request)
        except StorageError as error:
            return error.response()
        return await self._forward(request)

    async def _check(self, request: Request) -> None:
        name, _, rest = request.path_params["path"].partition("/")
        account = self._accounts.get(name)
        if account is None:
            raise StorageError(404, "ResourceNotFound", "The specified resource does not exist.")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        query = dict(request.query_params)
        if kind.lower() == "sharedkey" or (not kind and "sig" in query):
            return
        if kind.lower() != "bearer" or not token:
            raise StorageError(401, "NoAuthenticationInformation", "Server failed to authenticate the request.")
        data, action = action_of(request.method, rest, query)
        await asyncio.to_thread(account.check, token, data, action, rest.partition("/")[0])

    async def _forward(self, request: Request) -> Response:
        headers = [(name, value) for name, value in request.headers.raw if name.decode().lower() not in _HOP_BY_HOP]
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        # Forward the raw path. Decoding and encoding it could change the blob's name.
        target = request.scope["raw_path"].split(b"?")[0] + (b"?" + request.scope["query_string"] if request.scope["query_string"] else b"")
        upstream = self.http.build_request(
            request.method,
            self.http.base_url.copy_with(raw_path=target),
            headers=headers,
            content=request.stream() if has_body else None,
        )
        try:
            answer = await self.http.send(upstream, stream=True)
        except httpx.HTTPError as error:
            _LOG.warning("no response from Azurite: %s", type(error).__name__)
            return StorageError(503, "ServerBusy", "The server is busy.").response()
        response = StreamingResponse(answer.aiter_raw(_CHUNK_BYTES), answer.status_code, background=BackgroundTask(answer.aclose))
        response.raw_headers = [(name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in _HOP_BY_HOP]
        return response


def create_app(config: BlobAccessConfig) -> Starlette:
    """Return the ASGI application."""
    # httpx would also log the forwarded requests, including their queries.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    proxy = AccessProxy(config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await proxy.http.aclose()

    methods = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]
    return Starlette(routes=[health_route("blobaccess"), Route("/{path:path}", proxy.handle, methods=methods)], lifespan=lifespan)


if __name__ == "__main__":
    main("blobaccess", BlobAccessConfig, create_app)
