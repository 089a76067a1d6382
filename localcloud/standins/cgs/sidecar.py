"""The ``ccr-governance`` sidecar of a local guest: plain localhost routes in, attested requests to governance out.

Run it as ``python -m localcloud.standins.cgs.sidecar --config FILE``. Like the original, it does not authenticate its callers:
every caller acts as the sidecar's guest, so only that guest may be able to connect to it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount

from cleanroom.attestation import GuestAttestor
from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.governance.envelopes import Enveloper
from cleanroom.governance.http import TRANSACTION_HEADER, query_string, segment
from cleanroom.transport import async_http_client, ssl_context
from localcloud.standins.cgs.http import Call, Fault, Incoming, Outgoing, Reply, Route, RouteTable, failure, parse_query
from localcloud.standins.cgs.javascript import Crash, parse_json
from localcloud.standins.cgs.store import Tx
from localcloud.standins.cgs.transport import Transport
from localcloud.standins.serving import StandInConfig, health_route, main

NAME = "cgs-sidecar"
PREFIX_HEADER = "x-ms-ccr-governance-api-path-prefix"
_COMMIT_SECONDS = 5.0


class SidecarConfig(StandInConfig):
    """``cgs_url`` with its CA, the default prefix (``app/contracts/<id>``), and where this guest gets its evidence."""

    cgs_url: str
    cgs_ca_file: Path | None = None
    api_path_prefix: str = ""
    attestation_url: str
    attestation_ca_file: Path | None = None


class Upstream(Exception):
    """An answer of CGS that is passed through unchanged."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(answer.status_code)
        headers = {name: answer.headers[name] for name in (TRANSACTION_HEADER, "retry-after") if name in answer.headers}
        self.answer = Outgoing(answer.status_code, _json(answer), headers)


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else None
    except ValueError as error:
        raise Fault(
            500, "JsonException", f"The governance service answered {answer.status_code} with something that is not JSON."
        ) from error


class Sidecar:
    """Translates one localhost request into one attested request."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        self.client = async_http_client(ssl_context(config.cgs_ca_file), base_url=config.cgs_url.rstrip("/"), timeout=30)
        self._enveloper = Enveloper(GuestAttestor(config.attestation_url, ca_file=config.attestation_ca_file))

    async def handle(self, request: Incoming) -> Outgoing:
        """Answer a request; upstream errors pass through."""
        try:
            route, params = _TABLE.find(request.method, request.path)
            return await _OPERATIONS[(route.method, route.path)](self, request, params)
        except Upstream as error:
            return error.answer
        except Fault as fault:
            return failure(fault)
        except Crash as crash:
            return failure(Fault(400, "InvalidInput", str(crash)))
        except (CleanRoomError, httpx.HTTPError) as error:
            return failure(Fault(500, _exception_name(error), str(error)))

    def prefix(self, request: Incoming) -> str:
        """The contract's path: of the request's header, else of the configuration."""
        prefix = request.headers.get(PREFIX_HEADER) or self._config.api_path_prefix
        if not prefix:
            raise Fault(500, "InvalidOperationException", f"No API path prefix: configure one or send {PREFIX_HEADER}.")
        return "/" + prefix.strip("/")

    async def send(self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None, commit: bool = False) -> Any:
        """One upstream request; its JSON, or :class:`Upstream` for anything but success."""
        answer = await self.client.request(method, path, json=body, headers=headers)
        if answer.status_code >= 300:
            raise Upstream(answer)
        if commit and TRANSACTION_HEADER in answer.headers:
            await self._committed(answer.headers[TRANSACTION_HEADER])
        return _json(answer)

    async def _committed(self, transaction: str) -> None:
        deadline = time.monotonic() + _COMMIT_SECONDS
        while time.monotonic() < deadline:
            body = _json(await self.client.get(f"/app/tx?transaction_id={transaction}"))
            if isinstance(body, dict) and body.get("status") == "Committed":
                return
            await asyncio.sleep(0.05)
        raise Fault(500, "TimeoutException", f"Transaction {transaction} was not committed in {_COMMIT_SECONDS:g} s.")

    async def unwrapped(self, path: str) -> str:
        """An E1 read, opened."""
        answer = await self.send("POST", path, body=await self._enveloper.read_envelope())
        return (await self._enveloper.open(answer)).reveal_text()

    async def signed(self, path: str, payload: Any, *, commit: bool) -> Any:
        """An E2 write."""
        return await self.send("PUT", path, body=await self._enveloper.write_envelope(payload), commit=commit)

    async def consent(self, path: str) -> Any:
        """An E3 check."""
        return await self.send("POST", path, body=await self._enveloper.consent_envelope())


def _exception_name(error: Exception) -> str:
    """The .NET exception that the original would name."""
    if isinstance(error, httpx.TimeoutException):
        return "TaskCanceledException"
    return "HttpRequestException" if isinstance(error, httpx.HTTPError | Unavailable) else "InvalidOperationException"


Operation = Callable[[Sidecar, Incoming, dict[str, str]], Awaitable[Outgoing]]
_OPERATIONS: dict[tuple[str, str], Operation] = {}


def _at(method: str, *paths: str) -> Callable[[Operation], Operation]:
    def register(operation: Operation) -> Operation:
        for path in paths:
            _OPERATIONS[(method, path)] = operation
        return operation

    return register


@_at("PUT", "/secrets/{s}")
async def _put_secret(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, await sidecar.signed(f"{sidecar.prefix(request)}/secrets/{params['s']}", parse_json(request.body), commit=True))


@_at("POST", "/secrets/{s}")
async def _get_secret(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, {"value": await sidecar.unwrapped(f"{sidecar.prefix(request)}/secrets/{params['s']}")})


@_at("POST", "/secrets/{d}/cleanroompolicy", "/cleanroompolicy/delegates/{t}/{d}")
async def _set_delegate(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    path = f"{sidecar.prefix(request)}/cleanroompolicy/delegates/{params.get('t', 'secrets')}/{params['d']}"
    return Outgoing(200, await sidecar.signed(path, parse_json(request.body), commit=False))


@_at("POST", "/userdocuments/{d}")
async def _user_document(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, json.loads(await sidecar.unwrapped(f"{sidecar.prefix(request)}/userdocuments/accepted/{params['d']}")))


@_at("POST", "/memberdocuments/{d}", "/documents/{d}")
async def _member_document(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, json.loads(await sidecar.unwrapped(f"{sidecar.prefix(request)}/memberdocuments/accepted/{params['d']}")))


@_at("POST", "/consentcheck/{o}")
async def _contract_consent(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, await sidecar.consent(f"{sidecar.prefix(request)}/runtimeoptions/{params['o']}/status"))


@_at("POST", "/userdocuments/{d}/consentcheck/{o}")
async def _document_consent(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    path = f"{sidecar.prefix(request)}/userdocuments/{params['d']}/runtimeoptions/{params['o']}/status"
    return Outgoing(200, await sidecar.consent(path))


@_at("PUT", "/events")
async def _put_event(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    query = f"?{request.query.decode('latin-1')}" if request.query else ""
    await sidecar.signed(f"{sidecar.prefix(request)}/events{query}", parse_json(request.body), commit=True)
    # The application answers 204, the sidecar 200 (trap 30).
    return Outgoing(200)


@_at("POST", "/oauth/token")
async def _token(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    query = parse_query(request.query)
    missing = {name: [f"The {name} field is required."] for name in ("sub", "tenantId", "aud") if not query.get(name)}
    if missing:
        # ASP.NET's problem details, not the error envelope.
        return Outgoing(400, {"title": "One or more validation errors occurred.", "status": 400, "errors": missing})
    now = int(time.time())
    times: dict[str, str | int | None] = {"nbf": now, "exp": now + 300, "iat": now, "jti": str(uuid.uuid4())}
    text = query_string({**times, "sub": query["sub"], "tid": query["tenantId"], "aud": query["aud"], "iss": query.get("iss")})
    return Outgoing(200, {"value": await sidecar.unwrapped(f"{sidecar.prefix(request)}/oauth/token?&{text[1:]}")})


@_at("POST", "/users/isactive")
async def _is_active(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    token = request.headers.get("authorization")
    if token is None:
        raise Fault(500, "InvalidOperationException", "The Authorization header is missing.")
    return Outgoing(200, await sidecar.send("POST", "/app/users/identities/self/status", headers={"authorization": token}))


@_at("POST", "/members")
async def _members(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, await sidecar.send("GET", "/gov/service/members?api-version=2024-07-01"))


@_at("GET", "/show")
async def _show(sidecar: Sidecar, request: Incoming, params: dict[str, str]) -> Outgoing:
    return Outgoing(200, {"ccrgovEndpoint": str(sidecar.client.base_url), "serviceCert": "", "serviceCertDiscovery": None})


def _unused(call: Call, tx: Tx) -> Reply:
    raise AssertionError("sidecar routes are dispatched by operation")


_TABLE = RouteTable([Route(method, path, "P", _unused) for method, path in _OPERATIONS])


def contract_prefix(contract_id: str) -> str:
    """The API path prefix of a contract."""
    return f"app/contracts/{segment('contract id', contract_id)}"


def create_app(config: SidecarConfig) -> Starlette:
    """The ASGI application of one guest's sidecar."""
    sidecar = Sidecar(config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await sidecar.client.aclose()

    return Starlette(routes=[health_route(NAME), Mount("/", app=Transport(sidecar.handle))], lifespan=lifespan)


if __name__ == "__main__":
    main(NAME, SidecarConfig, create_app)
