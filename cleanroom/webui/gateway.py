"""An authenticating reverse proxy for the Temporal Web UI, on the same origin as the codec server.

A browser sends a cookie only to the host that set it. The gateway therefore serves both the Web UI and the codec (``/codec/…``): a user
with a session sees pages and decrypted payloads without further settings in the browser. Everybody else sees a login page, and nothing of
the Web UI, including its assets and API.

* ``/codec/login`` is the login page. A login code arrives in the fragment of a link, which is never part of a request line, a log or a
  ``Referer`` header. It is exchanged for a session cookie: HttpOnly, ``SameSite=Lax``, Secure over HTTPS.
* ``/codec/login-codes`` issues such a code to the holder of a bearer token (``cleanroom ui``). It is valid once, for two minutes.
* ``/codec/logout`` removes the cookie.
* Browsers send a cookie to every port of the host that set it. On loopback the gateway therefore has a host name of its own below
  ``localhost``, which nobody without the keyring can guess (:func:`private_origin`), and which it tells only to users with a token.
* Everything else is streamed from the Web UI's server. Cookies and ``SameSite`` do not distinguish ports, so a request that changes
  something must come from a page of this origin, whatever its cookie. The session cookie is not forwarded, and CORS headers of the Web UI
  are not returned.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from cleanroom.errors import CleanRoomError, InvalidInput, Refused, Unavailable
from cleanroom.temporal.keyring import Keyring
from cleanroom.transport import async_http_client, is_loopback
from cleanroom.webui import pages
from cleanroom.webui.auth import Authenticator
from cleanroom.webui.views import as_script

logger = logging.getLogger("cleanroom.codec_server")

PREFIX = "/codec"
"""Path of the codec's and the gateway's own routes."""
MAX_FORM = 16 * 1024
# RFC 9110, section 7.6.1, and the headers that RFC 2616, section 13.5.1, listed.
_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_NOT_SENT = _HOP_BY_HOP | {"host", "cookie", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "expect"}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# The Web UI long-polls histories for a minute.
_TIMEOUT = httpx.Timeout(10, read=180, write=60)


def check_upstream(url: str, *, remote: bool = False) -> str:
    """Return the URL of the Web UI's server without a trailing slash.

    Args:
        url: The URL.
        remote: Whether it may be on another machine.

    Raises:
        InvalidInput: ``UiUpstreamInvalid`` if it is not an http(s) origin, or not on loopback without ``remote``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise InvalidInput("UiUpstreamInvalid", f"ui_upstream: {url!r} is not a URL such as http://localhost:8080.")
    if not remote and not is_loopback(parts.hostname):
        raise InvalidInput(
            "UiUpstreamInvalid",
            f"ui_upstream: {parts.hostname} is not on this machine, so others could reach its server without the gateway's login.",
            hint="Protect that server, then allow it with --remote-upstream.",
        )
    return url.rstrip("/")


def private_origin(keyring: Keyring, port: int) -> str:
    """Return the origin of a gateway on loopback: ``http://ui-<secret label>.localhost:<port>``.

    Browsers resolve names below ``localhost`` to loopback (RFC 6761, section 6.3). A cookie of this name does not reach other servers
    on ``localhost``.
    """
    return f"http://ui-{keyring.private_label('web ui host name')}.localhost:{port}"


class UiGateway:
    """The login and the reverse proxy.

    Args:
        auth: Authenticates tokens, codes and sessions.
        origin: Scheme, host and port of this server as browsers see them.
        upstream: URL of the Web UI's server.
        namespaces: Namespaces for whose lists a browser gets columns and saved views at its first login.
    """

    def __init__(self, auth: Authenticator, *, origin: str, upstream: str, namespaces: Sequence[str]) -> None:
        self._auth = auth
        self._origin = origin
        self._upstream = upstream
        self._preferences = as_script(namespaces)
        self._http = async_http_client(timeout=_TIMEOUT)
        parts = urlsplit(origin)
        self._host = parts.netloc
        self._private = (parts.hostname or "").endswith(".localhost")
        self.secure = parts.scheme == "https"
        # Browsers share cookies between ports, so two gateways on one machine need different names.
        self.cookie = f"cr-ui-{parts.port or (443 if self.secure else 80)}"

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Close the connections to the Web UI when the application ends."""
        try:
            yield
        finally:
            await self._http.aclose()

    # Login

    async def code(self, request: Request) -> Response:
        """Issue a login code to the holder of a bearer token."""
        self._check_origin(request)
        name = await self._auth.bearer(request.headers.get("authorization"))
        code, lifetime = self._auth.new_code(name)
        logger.info("login code for %s", name)
        return JSONResponse({"code": code, "expiresIn": lifetime, "origin": self._origin}, headers={"Cache-Control": "no-store"})

    async def login_page(self, request: Request) -> Response:
        """Show the login page."""
        return self._canonical(request) or self._page(200, "/")

    async def login(self, request: Request) -> Response:
        """Exchange a login code or token for the session cookie, and redirect to the requested page."""
        if not self._has_own_host(request) or request.headers.get("origin") not in (None, self._origin):
            raise Refused("CodecOriginRefused", "Sign-in is possible only from this server's own page.")
        form = parse_qs((await _form(request)).decode(errors="replace"))
        secret, wanted = form.get("code", [""])[0].strip(), _local(form.get("next", ["/"])[0])
        try:
            name = self._auth.redeem(secret) if self._auth.is_code(secret) else await self._auth.token(secret)
        except Refused as error:
            logger.warning("login refused: %s", error.code)
            return self._page(401, wanted, "This link was already used, has expired, or belongs to a gateway that has restarted since.")
        value, lifetime = self._auth.new_session(name)
        response = RedirectResponse(wanted, 303, headers={"Cache-Control": "no-store"})
        response.set_cookie(self.cookie, value, max_age=lifetime, httponly=True, secure=self.secure, samesite="lax", path="/")
        logger.info("session for %s", name)
        return response

    async def logout(self, request: Request) -> Response:
        """Remove the session cookie."""
        if request.headers.get("origin") not in (None, self._origin):
            raise Refused("CodecOriginRefused", "Sign-out is possible only from this server's own page.")
        response = RedirectResponse(f"{PREFIX}/login", 303)
        response.delete_cookie(self.cookie, path="/", httponly=True, secure=self.secure, samesite="lax")
        return response

    def session(self, request: Request) -> str:
        """Return the user of the session.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        return self._auth.session(request.cookies.get(self.cookie, ""))

    # The Web UI

    async def forward(self, request: Request) -> Response:
        """Forward a request with a session to the Web UI's server, and stream the response."""
        if (redirect := self._canonical(request)) is not None:
            return redirect
        try:
            self.session(request)
        except Refused:
            if _is_navigation(request):
                return self._page(401, _raw_path(request))
            raise
        if request.method not in _SAFE_METHODS:
            self._check_origin(request, required=True)
        elif request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not _is_navigation(request):
            raise Refused("CodecOriginRefused", "The request does not come from a page of this server.")
        outgoing = self._http.build_request(
            request.method,
            httpx.URL(self._upstream).copy_with(raw_path=_raw_path(request).encode("latin-1")),
            headers=self._headers(request),
            content=None if _has_no_body(request) else request.stream(),
        )
        try:
            answer = await self._http.send(outgoing, stream=True)
        except httpx.TransportError as error:
            logger.warning("the Web UI's server does not respond: %s", type(error).__name__)
            unavailable = Unavailable(
                "UiUnavailable",
                f"The Temporal Web UI at {self._upstream} does not respond ({type(error).__name__}).",
                hint="`cleanroom ps` shows whether Temporal runs, and `cleanroom up` starts it.",
                party="operator",
            )
            return pages.unavailable(unavailable) if _is_navigation(request) else _error(502, unavailable)
        response = StreamingResponse(_body(answer), answer.status_code)
        # A list and not a mapping, because there can be several Set-Cookie headers.
        response.raw_headers = [
            (name.lower(), self._location(value) if name.lower() == b"location" else value)
            for name, value in answer.headers.raw
            if _passes_back(name.decode("latin-1").lower(), answer)
        ]
        response.raw_headers += [(b"x-frame-options", b"DENY"), (b"referrer-policy", b"same-origin")]
        return response

    def _headers(self, request: Request) -> list[tuple[str, str]]:
        named = {item.strip().lower() for item in request.headers.get("connection", "").split(",")}
        headers = [(name, value) for name, value in request.headers.items() if name not in _NOT_SENT and name not in named]
        cookies = [item.strip() for item in request.headers.get("cookie", "").split(";")]
        if kept := [item for item in cookies if item and not item.startswith("cr-")]:
            headers.append(("cookie", "; ".join(kept)))
        return [*headers, ("x-forwarded-host", self._host), ("x-forwarded-proto", "https" if self.secure else "http")]

    def _location(self, value: bytes) -> bytes:
        upstream = self._upstream.encode()
        rest = value.removeprefix(upstream)
        return (rest or b"/") if value.startswith(upstream) and rest[:1] in (b"", b"/", b"?") else value

    def _check_origin(self, request: Request, *, required: bool = False) -> None:
        origin = request.headers.get("origin")
        if (origin is None and required) or origin not in (None, self._origin):
            raise Refused("CodecOriginRefused", "The request does not come from a page of this server.")

    def _canonical(self, request: Request) -> Response | None:
        """Redirect a navigation under another host name to the origin. Other requests get an error, which prevents DNS rebinding."""
        if self._has_own_host(request):
            return None
        if self._private:
            # The answer must not contain the name: everyone on this machine can send this request.
            refused = Refused("CodecHostRefused", "Open this page with `cleanroom ui`.")
            if _is_navigation(request):
                return self._page(421, "/", "This gateway has a host name of its own. Open it with `cleanroom ui`.")
            return _error(421, refused)
        if request.method in ("GET", "HEAD") and _is_navigation(request):
            return RedirectResponse(self._origin + _raw_path(request), 307)
        return _error(421, Refused("CodecHostRefused", f"This server is available only at {self._origin}."))

    def _has_own_host(self, request: Request) -> bool:
        return request.headers.get("host", "").lower() == self._host

    def _page(self, status: int, wanted: str, problem: str = "") -> Response:
        return pages.login(status, target=_local(wanted), problem=problem, preferences=self._preferences)


def _raw_path(request: Request) -> str:
    """Return path and query as sent, because ``%2F`` in workflow IDs must not be decoded."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope.get("query_string", b"")
    return (raw.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1")


def _local(target: str) -> str:
    """Return ``target`` if it is a path of this server, else ``/``, so that a login cannot redirect to another site."""
    valid = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable() and "\\" not in target
    return target if valid and len(target) < 4000 and not target.startswith(PREFIX) else "/"


def _is_navigation(request: Request) -> bool:
    """Return whether the browser shows the response as a page, as opposed to a request of a script."""
    mode = request.headers.get("sec-fetch-mode")
    return mode == "navigate" or (mode is None and "text/html" in request.headers.get("accept", ""))


def _has_no_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers


def _passes_back(name: str, answer: httpx.Response) -> bool:
    named = {item.strip().lower() for item in answer.headers.get("connection", "").split(",")}
    # The Web UI's server may allow other origins to read its responses. The gateway does not.
    return name not in _HOP_BY_HOP and name not in named and not name.startswith("access-control-") and name != "x-frame-options"


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Stream the response, and release the connection even if the browser disconnects."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _form(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise InvalidInput("CodecBodyTooLarge", f"The form is larger than {MAX_FORM} bytes.")
    return bytes(body)


def _error(status: int, error: CleanRoomError) -> JSONResponse:
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, status)
