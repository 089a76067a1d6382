"""The Temporal Web UI behind the codec server's login: one origin for the pages and for the plain text that they show.

A browser sends a cookie by itself only to the origin that set it. So this gateway stands in front of the Web UI's server and serves
the codec on the same origin (``/codec/…``): who is logged in sees pages and payloads, without any setting in the browser; who is not sees
a login page and nothing of the Web UI, its assets and its API included.

* ``/codec/login``: the login page. A login code comes in the link's fragment (never in a request line, a log or a ``Referer``) and is
  exchanged for a session cookie: HttpOnly, ``SameSite=Lax``, Secure over HTTPS.
* ``/codec/login-codes``: a holder of a bearer token gets such a code: single use, two minutes (``cleanroom ui``).
* ``/codec/logout``: ends the browser's cookie.
* everything else: the Web UI, streamed. Ports are no boundary for cookies and for ``SameSite``, so a request that changes something must
  come from a page of this origin, whatever its cookie; our cookie is not passed on, and upstream's CORS headers are not passed back.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from html import escape
from secrets import token_urlsafe
from urllib.parse import parse_qs, urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from cleanroom.errors import CleanRoomError, InvalidInput, Refused, Unavailable
from cleanroom.transport import async_http_client
from cleanroom.webui.auth import Authenticator
from cleanroom.webui.views import as_script

logger = logging.getLogger("cleanroom.codec_server")

PREFIX = "/codec"
MAX_FORM = 16 * 1024
# RFC 9110 7.6.1 and what belonged to that list before it.
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
# Histories are long-polled for a minute.
_TIMEOUT = httpx.Timeout(10, read=180, write=60)


def check_upstream(url: str, *, remote: bool = False) -> str:
    """``url`` of the Web UI's own server, without a trailing slash.

    Raises:
        InvalidInput: ``UiUpstreamInvalid`` when it is not an http(s) origin, or not on loopback and not ``remote``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise InvalidInput("UiUpstreamInvalid", f"ui_upstream: {url!r} is not an address such as http://localhost:8080.")
    if not remote and not is_loopback(parts.hostname):
        raise InvalidInput(
            "UiUpstreamInvalid",
            f"ui_upstream: {parts.hostname} is not on this machine; its server would be asked without the login that guards it here.",
            hint="--remote-upstream allows it.",
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address) is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class UiGateway:
    """Login, and the way through to the Web UI.

    Args:
        origin: Scheme, host and port as browsers see this server.
        upstream: Where the Web UI's own server is.
        namespaces: Those whose lists get columns and saved views at a browser's first login.
    """

    def __init__(self, auth: Authenticator, *, origin: str, upstream: str, namespaces: Sequence[str]) -> None:
        self._auth = auth
        self._origin = origin
        self._upstream = upstream
        self._preferences = as_script(namespaces)
        self._http = async_http_client(timeout=_TIMEOUT)
        parts = urlsplit(origin)
        self._host = parts.netloc
        self.secure = parts.scheme == "https"
        # Cookies do not know ports: two gateways on one machine must not overwrite each other's.
        self.cookie = f"cr-ui-{parts.port or (443 if self.secure else 80)}"

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Closes the connections to the Web UI at the end."""
        try:
            yield
        finally:
            await self._http.aclose()

    # Login

    async def code(self, request: Request) -> Response:
        """A login code for whom the bearer token names."""
        self._check_origin(request)
        name = await self._auth.bearer(request.headers.get("authorization"))
        code, lifetime = self._auth.new_code(name)
        logger.info("login code for %s", name)
        return JSONResponse({"code": code, "expiresIn": lifetime}, headers={"Cache-Control": "no-store"})

    async def login_page(self, request: Request) -> Response:
        return self._canonical(request) or self._page(200, "/")

    async def login(self, request: Request) -> Response:
        """Exchange a login code, or a token, for the session cookie, and lead on to the page that was wanted."""
        if request.headers.get("origin") not in (None, self._origin):
            raise Refused("CodecOriginRefused", "Sign-in is possible from this server's own page only.")
        form = parse_qs((await _form(request)).decode(errors="replace"))
        secret, wanted = form.get("code", [""])[0].strip(), _local(form.get("next", ["/"])[0])
        try:
            name = self._auth.redeem(secret) if self._auth.is_code(secret) else await self._auth.token(secret)
        except Refused as error:
            logger.warning("login refused: %s", error.code)
            return self._page(401, wanted, "That link was used before, has expired, or is of a gateway that has been restarted.")
        value, lifetime = self._auth.new_session(name)
        response = RedirectResponse(wanted, 303, headers={"Cache-Control": "no-store"})
        response.set_cookie(self.cookie, value, max_age=lifetime, httponly=True, secure=self.secure, samesite="lax", path="/")
        logger.info("session for %s", name)
        return response

    async def logout(self, request: Request) -> Response:
        if request.headers.get("origin") not in (None, self._origin):
            raise Refused("CodecOriginRefused", "Sign-out is possible from this server's own page only.")
        response = RedirectResponse(f"{PREFIX}/login", 303)
        response.delete_cookie(self.cookie, path="/", httponly=True, secure=self.secure, samesite="lax")
        return response

    def session(self, request: Request) -> str:
        """Who is logged in.

        Raises:
            Refused: ``CodecUnauthenticated``.
        """
        return self._auth.session(request.cookies.get(self.cookie, ""))

    # The Web UI

    async def forward(self, request: Request) -> Response:
        """Pass a request of somebody who is logged in on to the Web UI."""
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
            logger.warning("the Web UI does not answer: %s", type(error).__name__)
            unavailable = Unavailable(
                "UiUnavailable",
                f"The Temporal Web UI at {self._upstream} does not answer ({type(error).__name__}).",
                hint="`cleanroom ps` shows whether Temporal runs, `cleanroom up` starts it.",
                party="operator",
            )
            return _unavailable_page(unavailable) if _is_navigation(request) else _error(502, unavailable)
        response = StreamingResponse(_body(answer), answer.status_code)
        # Not a mapping: several Set-Cookie are several.
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
        """A request under another name of this host is led to the one name that sessions, pages and codec share.

        A name that is not ours (DNS rebinding) gets nothing else.
        """
        if request.headers.get("host", "").lower() == self._host:
            return None
        if request.method in ("GET", "HEAD") and _is_navigation(request):
            return RedirectResponse(self._origin + _raw_path(request), 307)
        return _error(421, Refused("CodecHostRefused", f"This server answers as {self._origin} only."))

    def _page(self, status: int, wanted: str, problem: str = "") -> HTMLResponse:
        nonce = token_urlsafe(16)
        page = (
            _LOGIN.replace("NONCE", nonce)
            .replace("NEXT", escape(_local(wanted), quote=True))
            .replace("PROBLEM", escape(problem))
            .replace("PREFERENCES", self._preferences)
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
        return HTMLResponse(page, status, headers=headers)


def _raw_path(request: Request) -> str:
    """Path and query as they were sent: workflow ids hold ``%2F``, which must stay that."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope.get("query_string", b"")
    return (raw.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1")


def _local(target: str) -> str:
    """``target`` if it is a path of this server, else ``/``: a login must not lead elsewhere."""
    fine = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable() and "\\" not in target
    return target if fine and len(target) < 4000 and not target.startswith(PREFIX) else "/"


def _is_navigation(request: Request) -> bool:
    """Whether a person looks at the answer, rather than a page's script."""
    mode = request.headers.get("sec-fetch-mode")
    return mode == "navigate" or (mode is None and "text/html" in request.headers.get("accept", ""))


def _has_no_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers


def _passes_back(name: str, answer: httpx.Response) -> bool:
    named = {item.strip().lower() for item in answer.headers.get("connection", "").split(",")}
    # Upstream may tell other origins that they can read; here nobody else may.
    return name not in _HOP_BY_HOP and name not in named and not name.startswith("access-control-") and name != "x-frame-options"


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The answer as it comes; the connection is given back however the browser leaves."""
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


def _unavailable_page(error: CleanRoomError) -> HTMLResponse:
    nonce = token_urlsafe(16)
    page = _DOWN.replace("NONCE", nonce).replace("MESSAGE", escape(error.message)).replace("HINT", escape(error.hint or ""))
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; frame-ancestors 'none'"
    return HTMLResponse(page, 502, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>cleanroom: Temporal Web UI</title>
<style nonce="NONCE">
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 12vh auto; padding: 0 1rem; color: #18212f; }
code { background: #eef1f6; padding: .1em .4em; border-radius: 4px; }
pre { background: #18212f; color: #fff; padding: .7em 1em; border-radius: 6px; }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .4em; margin: .3em 0 .6em; }
button { font: inherit; padding: .4em 1.2em; }
.problem { color: #a01818; }
.problem:empty { display: none; }
summary { cursor: pointer; color: #556; }
</style>
"""
_LOGIN = (
    _HEAD
    + """<h1>Who is looking?</h1>
<p class="problem">PROBLEM</p>
<p>These pages show a collaboration's workflows in plain text, so they open for people who are signed in. On the machine that has your
<code>cleanroom.toml</code>, run</p>
<pre>cleanroom ui</pre>
<p>and open the link that it prints. The link works once, within two minutes; the session lasts a working day.</p>
<details><summary>I have a code or a token</summary>
<form method="post" action="/codec/login">
<label>Code or token <input name="code" type="password" autocomplete="off"></label>
<input name="next" type="hidden" value="NEXT">
<button>Sign in</button>
</form></details>
<script nonce="NONCE">
const given = new URLSearchParams(location.hash.slice(1));
const form = document.forms[0];
if (given.has("code")) {
  for (const [key, value] of Object.entries(PREFERENCES)) {
    if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
  }
  history.replaceState(null, "", location.pathname + location.search);
  form.code.value = given.get("code");
  if (given.has("next")) form.elements.next.value = given.get("next");
  form.submit();
}
</script></html>
"""
)
_DOWN = (
    _HEAD
    + """<h1>The Temporal Web UI does not answer</h1>
<p class="problem">MESSAGE</p><p>HINT</p><p>You are signed in; reload this page when it is back.</p></html>
"""
)
