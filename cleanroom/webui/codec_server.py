"""The codec server: lets the Temporal Web UI and the ``temporal`` command show and send encrypted payloads to people who may see them.

Protocol (temporalio/samples-go, ``codec-server/protocol.md``): ``POST …/encode`` and ``POST …/decode`` with a ``Payloads`` message in
protobuf JSON, at any depth of URL, namespace in ``X-Namespace``. Ours:

* ``/encode`` and ``/decode``: what the Web UI calls. It names no workflow, so ``/encode`` seals unbound payloads, which only workers that
say so accept
  (:mod:`cleanroom.temporal.codec`), and ``/decode`` opens whatever is authentic and of that namespace: the binding is inside.
* ``/workflow/{workflow id}/encode`` and ``…/decode``: the same bound to a workflow, for ``temporal … --codec-endpoint
https://host/workflow/<id>``.
* the same below ``/codec``, where a browser finds them on the Web UI's own origin when this server is its gateway
  (:mod:`cleanroom.webui.gateway`, ``ui_upstream``): with a session cookie, no setting in the browser is needed.
* ``/login``: exchanges a token for a browser session (cookie), for a Web UI on another origin without sign-in of its own.

Every call is authenticated and, from a browser, must come from the Web UI's origin. A payload that is refused is answered as a note in
its place that says why, so that one forged payload does not hide the rest of a history. Plaintext is shown inside a note that it is not
authenticated. Logs hold caller, namespace and counts.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import WorkflowSerializationContext

from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, Refused
from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.keyring import Keyring
from cleanroom.webui.auth import COOKIE, Authenticator, OidcSettings
from cleanroom.webui.gateway import PREFIX, UiGateway, check_upstream, is_loopback

logger = logging.getLogger("cleanroom.codec_server")

MAX_BODY = 16 * 1024 * 1024
_STATUS = {"invalid-input": 400, "refused": 403, "not-found": 404, "unavailable": 503}


class CodecServerSettings(BaseModel):
    """How a codec server runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyring_file: Path
    host: str = "127.0.0.1"
    port: int = 8234
    ui_origins: tuple[str, ...] = ("http://localhost:8233",)
    """Origins of the Web UI, as browsers spell them (scheme, host, port)."""
    namespaces: tuple[str, ...] = ("default",)
    tokens_file: Path | None = None
    oidc: OidcSettings | None = None
    allow_encode: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    ui_upstream: str | None = None
    """Address of the Web UI's own server (``http://localhost:8080``); this server is then its gateway."""
    remote_upstream: bool = False
    """Allow an upstream that is not on this machine."""
    public_origin: str | None = None
    """How browsers reach the gateway, where that is not ``http(s)://localhost:<port>``."""
    session_lifetime: float = Field(default=8 * 3600, gt=0)

    @property
    def origin(self) -> str:
        """Origin of the gateway as browsers spell it."""
        host = "localhost" if is_loopback(self.host) else self.host
        return (self.public_origin or f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}").rstrip("/")


def create_app(settings: CodecServerSettings, *, keyring: Keyring | None = None) -> Starlette:
    """The ASGI application.

    Raises:
        InvalidInput: No authentication is configured, an origin is not one, or the keyring or tokens file is malformed.
    """
    for origin in (*settings.ui_origins, settings.origin):
        if origin == "*" or origin.count("/") != 2 or not origin.startswith(("http://", "https://")):
            raise InvalidInput("CodecOriginInvalid", f"ui_origins: {origin!r} is not an origin such as http://localhost:8233.")
    server = _CodecServer(settings, keyring or Keyring.load(settings.keyring_file))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.ui_origins),
        allow_methods=["POST"],
        # The Web UI sends these; more of its own are harmless and none is trusted.
        allow_headers=["content-type", "x-namespace", "authorization", "caller-type"],
        allow_credentials=True,
        max_age=600,
    )
    routes = [
        Route(prefix + path, endpoint, methods=["POST"])
        for prefix in ("", PREFIX)
        for path, endpoint in (
            ("/workflow/{workflow:path}/encode", server.encode),
            ("/workflow/{workflow:path}/decode", server.decode),
            ("/encode", server.encode),
            ("/decode", server.decode),
        )
    ]
    routes.append(Route("/healthz", server.health, methods=["GET"]))
    if (gateway := server.gateway) is None:
        routes += [Route("/login", server.login_page, methods=["GET"]), Route("/login", server.login, methods=["POST"])]
        return Starlette(routes=routes, middleware=[cors], exception_handlers={CleanRoomError: _on_error})
    every = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    routes += [
        Route(f"{PREFIX}/login", gateway.login_page, methods=["GET"]),
        Route(f"{PREFIX}/login", gateway.login, methods=["POST"]),
        Route(f"{PREFIX}/login-codes", gateway.code, methods=["POST"]),
        Route(f"{PREFIX}/logout", gateway.logout, methods=["POST"]),
        Route("/{path:path}", gateway.forward, methods=every),
    ]
    return Starlette(routes=routes, middleware=[cors], exception_handlers={CleanRoomError: _on_error}, lifespan=gateway.lifespan)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CleanRoomError)
    status = 401 if error.code == "CodecUnauthenticated" else _STATUS.get(error.category, 500)
    logger.warning("%s %s refused: %s", request.method, request.url.path, error.code)
    headers = {"WWW-Authenticate": 'Bearer realm="codec"'} if status == 401 else None
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, status, headers)


class _CodecServer:
    def __init__(self, settings: CodecServerSettings, keyring: Keyring) -> None:
        self.settings = settings
        self.codec = PayloadCodec(keyring)
        self.auth = Authenticator(settings.tokens_file, settings.oidc, session_lifetime=settings.session_lifetime)
        self.gateway = None
        self.origins = settings.ui_origins
        if settings.ui_upstream is not None:
            upstream = check_upstream(settings.ui_upstream, remote=settings.remote_upstream)
            self.gateway = UiGateway(self.auth, origin=settings.origin, upstream=upstream, namespaces=settings.namespaces)
            self.origins = (*settings.ui_origins, settings.origin)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "service": "codec-server"})

    async def encode(self, request: Request) -> Response:
        if not self.settings.allow_encode:
            raise Refused("CodecEncodeDisabled", "This codec server only decodes.")
        return await self._transform(request, "encode", lambda codec, payloads: [codec.seal(payload) for payload in payloads])

    async def decode(self, request: Request) -> Response:
        return await self._transform(request, "decode", lambda codec, payloads: [_open(codec, payload) for payload in payloads])

    async def _transform(
        self, request: Request, verb: str, transform: Callable[[PayloadCodec, Sequence[Payload]], list[Payload]]
    ) -> Response:
        caller = await self._caller(request)
        namespace = request.headers.get("x-namespace", "")
        if namespace not in self.settings.namespaces:
            raise Refused("CodecNamespaceRefused", "X-Namespace does not name a namespace that this codec server serves.")
        codec = self.codec.unbound(namespace)
        workflow = request.path_params.get("workflow")
        if workflow:
            codec = self.codec.with_context(WorkflowSerializationContext(namespace=namespace, workflow_id=workflow))
        incoming = await _read(request)
        outgoing = Payloads(payloads=transform(codec, incoming.payloads))
        logger.info("%s by %s in %s: %d payloads", verb, caller, namespace, len(incoming.payloads))
        return Response(
            json_format.MessageToJson(outgoing, indent=None), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def _caller(self, request: Request) -> str:
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.origins:
            # CORS only hides the answer from the page; this does not make one.
            raise Refused("CodecOriginRefused", "The request comes from a page that is not the Web UI.")
        header = request.headers.get("authorization")
        cookie = request.cookies.get(self.gateway.cookie if self.gateway else COOKIE)
        if cookie is not None and origin is not None:
            # A cookie counts only from the Web UI's own page: browsers add it by themselves.
            try:
                return self.auth.session(cookie)
            except Refused:
                if header is None:
                    raise
        return await self.auth.bearer(header)

    async def login_page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(
            _LOGIN.replace("NONCE", nonce),
            headers={
                "Content-Security-Policy": f"default-src 'none'; form-action 'self'; script-src 'nonce-{nonce}'; frame-ancestors 'none'",
                "Referrer-Policy": "same-origin",
                "Cache-Control": "no-store",
            },
        )

    async def login(self, request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host', '')}":
            raise Refused("CodecOriginRefused", "Sign-in is possible from this server's own page only.")
        form = parse_qs((await _body(request)).decode(errors="replace"))
        name = await self.auth.token(form.get("token", [""])[0].strip())
        value, lifetime = self.auth.new_session(name)
        response = HTMLResponse(_DONE, headers={"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'"})
        secure = request.url.scheme == "https"
        # Over HTTPS the Web UI may be on another site; on plain loopback it is the same site whatever its port.
        response.set_cookie(COOKIE, value, max_age=lifetime, httponly=True, secure=secure, samesite="none" if secure else "lax")
        logger.info("session for %s", name)
        return response


def _open(codec: PayloadCodec, payload: Payload) -> Payload:
    try:
        return codec.open(payload)
    except Refused as error:
        if error.code == "PayloadNotEncrypted":
            if "type" in payload.metadata:
                # A search attribute: plain by design.
                return payload
            return _note({"notAuthenticated": json_format.MessageToDict(payload)})
        return _note({"refused": error.code, "message": error.message})
    except CleanRoomError as error:
        return _note({"refused": error.code, "message": error.message})


def _note(value: dict[str, Any]) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


async def _read(request: Request) -> Payloads:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A form of another site could send any other type without asking.
        raise InvalidInput("CodecBodyInvalid", "Content-Type must be application/json.")
    try:
        return json_format.Parse(await _body(request), Payloads(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("CodecBodyInvalid", "The body is not a Payloads message in protobuf JSON.") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise InvalidInput("CodecBodyTooLarge", f"The body is larger than {MAX_BODY} bytes.")
    return bytes(body)


def serve(settings: CodecServerSettings) -> None:
    """Run the server until SIGTERM or SIGINT.

    Raises:
        InvalidInput: TLS is half configured, or missing on an address that is not loopback.
        NotFound: The certificate or key file does not exist.
    """
    import uvicorn

    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidInput("CodecTlsIncomplete", "tls_cert and tls_key belong together.")
    if settings.tls_cert is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidInput("CodecTlsRequired", f"A codec server on {settings.host} needs TLS: it answers with plain text.")
    for file in (settings.tls_cert, settings.tls_key):
        if file is not None and not file.exists():
            raise NotFound("TlsFileNotFound", f"There is no file {file}.")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        ssl_certfile=str(settings.tls_cert) if settings.tls_cert else None,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
        access_log=False,
        server_header=False,
        log_level="warning",
    )


_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>cleanroom codec server</title>
<h1>Sign in to the codec server</h1>
<p>Paste a token of its tokens file. The session is a cookie that the Temporal Web UI sends along.</p>
<form method="post" action="/login">
<input name="token" type="password" size="60" autocomplete="off" autofocus> <button>Sign in</button>
</form>
<script nonce="NONCE">
const token = location.hash.replace(/^#token=/, "");
if (token) {
  history.replaceState(null, "", "/login");
  document.forms[0].token.value = decodeURIComponent(token);
  document.forms[0].submit();
}
</script></html>
"""
_DONE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>cleanroom codec server</title>
<h1>Signed in</h1>
<p>In the Temporal Web UI open the data encoder settings (the glasses, top right), choose to use the browser's setting, enter this
server's address and tick &ldquo;include cross-origin credentials&rdquo;. Encrypted payloads are then shown in the clear to you
alone.</p></html>
"""
