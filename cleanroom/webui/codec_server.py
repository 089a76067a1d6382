"""The codec server: decrypts and encrypts payloads for authenticated users of the Temporal Web UI and the ``temporal`` command.

The protocol is ``POST …/encode`` and ``POST …/decode`` at any path, with a ``Payloads`` message in protobuf JSON and the namespace in
``X-Namespace`` (https://docs.temporal.io/codec-server). Routes:

* ``/encode`` and ``/decode`` for the Web UI, which does not name the workflow. ``/encode`` therefore produces unbound payloads, which
  only some workers accept (:mod:`cleanroom.temporal.codec`). ``/decode`` decrypts every authentic payload of the namespace, because the
  payload contains its binding.
* ``/workflow/{workflow id}/encode`` and ``…/decode``, bound to a workflow, for ``temporal … --codec-endpoint
  https://host/workflow/<id>``.
* The same routes below ``/codec``. If this server is also the Web UI's gateway (``ui_upstream``, :mod:`cleanroom.webui.gateway`), browsers
  find them on the Web UI's origin and send the session cookie without further settings.
* ``/login`` exchanges a token for a browser session, for a Web UI on another origin that has no sign-in. Not on ``localhost``.

Every request is authenticated, and requests from browsers must come from the Web UI's origin. A refused payload is replaced by a note that
gives the reason, so that one forged payload does not hide the rest of a history. Plain text is wrapped in a note that it is not
authenticated. Logs contain the caller, the namespace and counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from google.protobuf import json_format
from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import WorkflowSerializationContext

from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, Refused
from cleanroom.models import FrozenModel
from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.memory import keep_freed_memory
from cleanroom.transport import is_loopback
from cleanroom.webui import pages
from cleanroom.webui.auth import COOKIE, Authenticator, OidcSettings
from cleanroom.webui.gateway import PREFIX, UiGateway, check_upstream, private_origin

logger = logging.getLogger("cleanroom.codec_server")

MAX_BODY = 16 * 1024 * 1024
_STATUS = {"invalid-input": 400, "refused": 403, "not-found": 404, "unavailable": 503}


class CodecServerSettings(FrozenModel):
    """Configuration of a codec server."""

    keyring_file: Path
    """Keyring of the payload codec."""
    host: str = "127.0.0.1"
    """Address to listen on. Other addresses than loopback need TLS."""
    port: int = 8234
    """Port to listen on."""
    ui_origins: tuple[str, ...] = ("http://localhost:8233",)
    """Origins of the Web UI as browsers send them (scheme, host, port)."""
    namespaces: tuple[str, ...] = ("default",)
    """Namespaces whose payloads are encrypted and decrypted."""
    tokens_file: Path | None = None
    """Bearer tokens; see :class:`cleanroom.webui.auth.Authenticator`."""
    oidc: OidcSettings | None = None
    """Issuer of access tokens."""
    allow_encode: bool = True
    """Whether to serve ``/encode``."""
    tls_cert: Path | None = None
    """PEM certificate chain."""
    tls_key: Path | None = None
    """PEM key of ``tls_cert``."""
    ui_upstream: str | None = None
    """URL of the Web UI's server (``http://localhost:8080``). If set, this server is also its gateway."""
    remote_upstream: bool = False
    """Whether ``ui_upstream`` may be on another machine."""
    public_origin: str | None = None
    """Origin of the gateway for browsers. Without it, on loopback without TLS: :func:`cleanroom.webui.gateway.private_origin`."""
    session_lifetime: float = Field(default=8 * 3600, gt=0)
    """Lifetime of a browser session in seconds."""

    @property
    def origin(self) -> str:
        """Origin of the gateway as browsers send it."""
        host = "localhost" if is_loopback(self.host) else self.host
        return (self.public_origin or f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}").rstrip("/")


def with_private_origin(settings: CodecServerSettings, keyring: Keyring) -> CodecServerSettings:
    """Return the settings with the private origin, if they are those of a gateway on loopback without an origin or TLS."""
    if settings.ui_upstream is None or settings.public_origin is not None or settings.tls_cert or not is_loopback(settings.host):
        return settings
    return settings.model_copy(update={"public_origin": private_origin(keyring, settings.port)})


def create_app(settings: CodecServerSettings, *, keyring: Keyring | None = None) -> Starlette:
    """Create the ASGI application.

    Args:
        settings: The configuration.
        keyring: Replaces the one in ``settings.keyring_file``.

    Raises:
        InvalidInput: ``CodecServerOpen``, ``CodecOriginInvalid``, ``UiUpstreamInvalid``, ``CodecTokensMalformed``, ``KeyringMalformed``.
    """
    keyring = keyring or Keyring.load(settings.keyring_file)
    settings = with_private_origin(settings, keyring)
    for origin in (*settings.ui_origins, settings.origin):
        if origin == "*" or origin.count("/") != 2 or not origin.startswith(("http://", "https://")):
            raise InvalidInput(
                "CodecOriginInvalid", f"ui_origins: {origin!r} is not an origin.", hint="For example http://localhost:8233, without a path."
            )
    server = _CodecServer(settings, keyring)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.ui_origins),
        allow_methods=["POST"],
        # The headers that the Web UI sends.
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
            raise Refused("CodecEncodeDisabled", "This codec server does not encrypt payloads.", hint="Start it without --decode-only.")
        return await self._transform(request, "encode", lambda codec, payloads: [codec.seal(payload) for payload in payloads])

    async def decode(self, request: Request) -> Response:
        return await self._transform(request, "decode", lambda codec, payloads: [_open(codec, payload) for payload in payloads])

    async def _transform(
        self, request: Request, verb: str, transform: Callable[[PayloadCodec, Sequence[Payload]], list[Payload]]
    ) -> Response:
        caller = await self._caller(request)
        namespace = request.headers.get("x-namespace", "")
        if namespace not in self.settings.namespaces:
            raise Refused("CodecNamespaceRefused", "X-Namespace does not name a namespace of this codec server.")
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
            # CORS would only hide the response from the page.
            raise Refused("CodecOriginRefused", "The request does not come from a page of the Web UI.")
        header = request.headers.get("authorization")
        cookie = request.cookies.get(self.gateway.cookie if self.gateway else COOKIE)
        if cookie is not None and origin is not None:
            # Accepted only from the Web UI's own pages, because browsers also add the cookie to requests of other pages.
            try:
                return self.auth.session(cookie)
            except Refused:
                if header is None:
                    raise
        return await self.auth.bearer(header)

    async def login_page(self, request: Request) -> Response:
        return pages.codec_login()

    async def login(self, request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host', '')}":
            raise Refused("CodecOriginRefused", "Sign-in is possible only from this server's own page.")
        if is_loopback(request.url.hostname or ""):
            # Browsers send a cookie of localhost to every port. A gateway on loopback has a name of its own.
            raise Refused(
                "CodecLoginOnLoopback",
                "On this host name, the session cookie would reach every other server of this machine.",
                hint="Start the codec server as the Web UI's gateway: --ui-upstream URL.",
            )
        form = parse_qs((await _body(request)).decode(errors="replace"))
        name = await self.auth.token(form.get("token", [""])[0].strip())
        value, lifetime = self.auth.new_session(name)
        response = pages.codec_login_done()
        secure = request.url.scheme == "https"
        # Over HTTPS, the Web UI may be on another site.
        response.set_cookie(COOKIE, value, max_age=lifetime, httponly=True, secure=secure, samesite="none" if secure else "lax")
        logger.info("session for %s", name)
        return response


def _open(codec: PayloadCodec, payload: Payload) -> Payload:
    try:
        return codec.open(payload)
    except Refused as error:
        if error.code == "PayloadNotEncrypted":
            if "type" in payload.metadata:
                # A search attribute, which is never encrypted.
                return payload
            return _note({"notAuthenticated": json_format.MessageToDict(payload)})
        return _note({"refused": error.code, "message": error.message})
    except CleanRoomError as error:
        return _note({"refused": error.code, "message": error.message})


def _note(value: dict[str, Any]) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


async def _read(request: Request) -> Payloads:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Forms of other sites can send other types without a CORS preflight.
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
        InvalidInput: ``CodecTlsIncomplete``; ``CodecTlsRequired`` on an address that is not loopback; see also :func:`create_app`.
        NotFound: ``TlsFileNotFound``.
    """
    import uvicorn

    keep_freed_memory()
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidInput("CodecTlsIncomplete", "Only one of tls_cert and tls_key is set.", hint="Set both.")
    if settings.tls_cert is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidInput(
            "CodecTlsRequired",
            f"A codec server on {settings.host} needs TLS, because it returns decrypted payloads.",
            hint="Set tls_cert and tls_key, or listen on 127.0.0.1.",
        )
    for file in (settings.tls_cert, settings.tls_key):
        if file is not None and not file.exists():
            raise NotFound("TlsFileNotFound", f"The file {file} does not exist.", hint="Check tls_cert and tls_key.")
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
