"""Key Vault stand-in: a premium vault or a managed HSM, for ``azure-keyvault-keys`` (docs/facts/key-release.md).

Run it as ``python -m localcloud.standins.keyvault --config FILE``. Clients need ``verify_challenge_resource=False`` and the local CA.
NOT CONFIDENTIAL: the "HSM" is a process that can read all keys.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.jose.encoding import strict_json
from localcloud.standins.keyvault.auth import ArmRoleReader, ArmRoles, Authenticator, Caller, StaticRoles, TokenIssuer, require
from localcloud.standins.keyvault.errors import KeyVaultError, bad_parameter
from localcloud.standins.keyvault.release import AssertionVerifier, AttestationIssuer, ReleaseSigner
from localcloud.standins.keyvault.store import KeyStore
from localcloud.standins.keyvault.vault import Vault
from localcloud.standins.serving import StandInConfig, health_route, main

_LOG = logging.getLogger("localcloud.keyvault")
_MAXIMUM_BODY = 256 * 1024
_PAGE = 25
API_VERSIONS = frozenset(
    {
        "2016-10-01",
        *(
            "7.0",
            "7.1",
            "7.2",
            "7.3-preview",
            "7.3",
            "7.4-preview.1",
            "7.4",
            "7.5-preview.1",
            "7.5",
            "7.6-preview.1",
            "7.6-preview.2",
            "7.6",
        ),
        *("2025-06-01-preview", "2025-07-01"),
    }
)
_RESOURCES = {"vault": "https://vault.azure.net", "managed-hsm": "https://managedhsm.azure.net"}


class KeyVaultConfig(StandInConfig):
    """Configuration of the stand-in."""

    mode: Literal["vault", "managed-hsm"] = "vault"
    authority_url: str = "https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000"
    """``authorization`` of the bearer challenge: ``<Entra authority>/<tenant>``."""
    issuers: tuple[TokenIssuer, ...] = ()
    """Issuers of accepted access tokens."""
    arm: ArmRoles | None = None
    """How to read role assignments from ARM. If None, ``roles`` applies."""
    roles: dict[str, list[str]] = Field(default_factory=dict)
    """Names of built-in roles by object ID (``*``: all callers), for a vault without ARM."""
    static_tokens: dict[str, str] = Field(default_factory=dict)
    """Opaque bearer tokens and their object IDs, for tests."""
    attestation: tuple[AttestationIssuer, ...] = ()
    """Attestation authorities whose tokens can be verified."""
    release_hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    """Names in the certificate that signs release responses."""
    release_authority: Path | None = None
    """Folder of the local CA (``ca.pem``, ``ca-key.pem``) that issues this certificate (default: a new CA, ``<state>/release-ca.pem``)."""


@dataclass
class Fault:
    """A response that replaces the real one once, for tests of retries."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class KeyVaultServer:
    """The HTTP routes: they check the token, the role, the API version and the body, and call the vault."""

    def __init__(self, config: KeyVaultConfig, vault: Vault) -> None:
        self._config = config
        self._vault = vault
        self._authenticator = Authenticator(list(config.issuers), _RESOURCES[config.mode], config.static_tokens)
        self._roles = ArmRoleReader(config.arm) if config.arm is not None else StaticRoles(config.roles)
        self.faults: list[Fault] = []

    def routes(self) -> list[Route]:
        """Return the routes. The SDKs send a double slash for the latest version; it must not be normalized."""
        vault, route = self._vault, self._route
        found = [
            route("POST", "/keys/{name}/create", "create/action", lambda c: vault.create(c.host, c.name, c.required_body(), c.api_version)),
            route("PUT", "/keys/{name}", "import/action", lambda c: vault.import_key(c.host, c.name, c.required_body(), c.api_version)),
            route("GET", "/keys", "read", lambda c: c.page(vault.items(c.host))),
            route("GET", "/keys/{name}/versions", "read", lambda c: c.page(vault.version_items(c.host, c.name))),
            route("DELETE", "/keys/{name}", "delete", lambda c: vault.delete(c.host, c.name)),
            route("GET", "/deletedkeys", "read", lambda c: c.page(vault.items(c.host, deleted=True))),
            route("GET", "/deletedkeys/{name}", "read", lambda c: vault.get_deleted(c.host, c.name)),
            route("POST", "/deletedkeys/{name}/recover", "recover/action", lambda c: vault.recover(c.host, c.name)),
            route("DELETE", "/deletedkeys/{name}", "purge/action", lambda c: vault.purge(c.name)),
        ]
        for path in ("/keys/{name}/release", "/keys/{name}//release", "/keys/{name}/{version}/release"):
            found.append(route("POST", path, "release/action", lambda c: vault.release(c.host, c.name, c.version, c.body, c.api_version)))
        for operation, action in (
            ("encrypt", "encrypt"),
            ("decrypt", "decrypt"),
            ("wrapkey", "wrap"),
            ("unwrapkey", "unwrap"),
            ("sign", "sign"),
            ("verify", "verify"),
        ):
            for path in (f"/keys/{{name}}//{operation}", f"/keys/{{name}}/{{version}}/{operation}"):
                found.append(route("POST", path, f"{action}/action", partial(self._use, operation)))
        for path in ("/keys/{name}", "/keys/{name}/", "/keys/{name}/{version}"):
            found.append(route("GET", path, "read", lambda c: vault.get(c.host, c.name, c.version)))
            found.append(route("PATCH", path, "update/action", lambda c: vault.update(c.host, c.name, c.version, c.required_body())))
        return [*found, Route("/{rest:path}", self._unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])]

    def _use(self, operation: str, call: Call) -> dict[str, Any]:
        return self._vault.use(call.host, call.name, call.version, operation, call.required_body())

    def _route(self, method: str, path: str, action: str, operation: Callable[[Call], Mapping[str, Any] | None]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await self._answer(request, action, operation)

        return Route(path, endpoint, methods=[method])

    async def _unknown(self, request: Request) -> Response:
        def refuse(call: Call) -> None:
            raise KeyVaultError(404, "NotFound", f"This stand-in has no operation {request.method} {request.url.path}.")

        return await self._answer(request, "read", refuse)

    async def _answer(self, request: Request, action: str, operation: Callable[[Call], Mapping[str, Any] | None]) -> Response:
        try:
            if self.faults:
                fault = self.faults.pop(0)
                return JSONResponse(dict(fault.body), fault.status, dict(fault.headers))
            # The SDK's first request has neither a token nor a body, so authentication comes before the body.
            caller = await run_in_threadpool(self._authenticator.authenticate, request.headers.get("authorization"))
            call = await Call.read(request)
            result = await run_in_threadpool(self._perform, caller, action, call, operation)
            response: Response = Response(status_code=204) if result is None else JSONResponse(dict(result))
        except KeyVaultError as error:
            if error.why is not None:
                _LOG.info("request denied: %s", error.why)
            response = self._refusal(error)
        except Exception:
            _LOG.exception("unexpected error")
            response = JSONResponse({"error": {"code": "InternalServerError", "message": "An internal error has occurred."}}, 500)
        response.headers.update(_headers(request, self._config.mode))
        return response

    def _perform(
        self, caller: Caller, action: str, call: Call, operation: Callable[[Call], Mapping[str, Any] | None]
    ) -> Mapping[str, Any] | None:
        require(self._roles.of(caller, f"/keys/{call.name}" if call.name else ""), caller, action, f"https://{call.host}/keys/{call.name}")
        return operation(call)

    def _refusal(self, error: KeyVaultError) -> Response:
        if error.status != 401:
            return JSONResponse(error.body(), error.status)
        challenge = f'Bearer authorization="{self._config.authority_url}", resource="{_RESOURCES[self._config.mode]}"'
        if self._config.mode == "managed-hsm":
            return Response(status_code=401, headers={"WWW-Authenticate": challenge})
        return JSONResponse(error.body(), 401, {"WWW-Authenticate": challenge})


@dataclass(frozen=True)
class Call:
    """One authenticated request."""

    host: str
    name: str
    version: str | None
    api_version: str
    body: Mapping[str, Any] | None
    """None if the body is empty or not a JSON object."""
    path: str
    skip: int
    limit: int

    @staticmethod
    async def read(request: Request) -> Call:
        """Read a request.

        Raises:
            KeyVaultError: 400 if the API version, the paging parameters or the size of the body are not valid.
        """
        api_version = request.query_params.get("api-version")
        if api_version not in API_VERSIONS:
            raise bad_parameter(f"api-version {api_version!r} is missing or not supported; use one of {', '.join(sorted(API_VERSIONS))}.")
        raw = b""
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > _MAXIMUM_BODY:
                raise bad_parameter(f"The request body is longer than {_MAXIMUM_BODY} bytes.")
        try:
            body = strict_json(raw) if raw else None
        except ValueError:
            body = None
        parameters = request.path_params
        return Call(
            host=request.headers.get("host", "localhost"),
            name=parameters.get("name", ""),
            version=parameters.get("version") or None,
            api_version=api_version,
            body=body if isinstance(body, dict) else None,
            path=request.url.path,
            skip=_number(request, "$skiptoken", 0, 10**6),
            limit=_number(request, "maxresults", _PAGE, _PAGE) or _PAGE,
        )

    def required_body(self) -> Mapping[str, Any]:
        """Return the body.

        Raises:
            KeyVaultError: 400 if it is not a JSON object.
        """
        if self.body is None:
            raise bad_parameter("The request body is not a JSON object.")
        return self.body

    def page(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Return one page of a list, with the link to the next page."""
        end = self.skip + self.limit
        following = f"https://{self.host}{quote(self.path)}?api-version={self.api_version}&%24skiptoken={end}&maxresults={self.limit}"
        return {"value": items[self.skip : end], "nextLink": following if end < len(items) else None}


def _number(request: Request, name: str, default: int, maximum: int) -> int:
    value = request.query_params.get(name)
    if value is None:
        return default
    if not value.isdecimal() or len(value) > len(str(maximum)) or int(value) > maximum:
        raise bad_parameter(f"{name}={value[:40]} is not a number from 0 to {maximum}.")
    return int(value)


def _headers(request: Request, mode: str) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-cache",
        "x-ms-keyvault-region": "local",
        "x-ms-keyvault-service-version": "0.0.0-not-confidential",
        "x-ms-request-id": secrets.token_hex(16),
        "Strict-Transport-Security": "max-age=31536000;includeSubDomains",
        "X-Content-Type-Options": "nosniff",
    }
    client_id = request.headers.get("x-ms-client-request-id")
    return headers if client_id is None else {**headers, "x-ms-client-request-id": client_id}


def _wall_clock() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def create_app(config: KeyVaultConfig, *, clock: Callable[[], dt.datetime] = _wall_clock) -> Starlette:
    """Return the ASGI application. Tests append to ``app.state.server.faults`` and replace the ``clock``."""
    store = KeyStore(config.state)
    signer = ReleaseSigner(config.state, config.release_hosts, config.release_authority, config.mode)
    verifier = AssertionVerifier(list(config.attestation))
    vault = Vault(store, config.mode, verifier, signer, clock=clock)
    server = KeyVaultServer(config, vault)
    app = Starlette(routes=[health_route("keyvault"), *server.routes()])
    app.router.redirect_slashes = False
    app.state.server = server
    return app


def run() -> None:
    """Run the server from the command line (:func:`localcloud.standins.serving.main`)."""
    main("keyvault", KeyVaultConfig, create_app)
