"""The gateway: no access without a login, single-use login codes, and forwarding to the Web UI."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import WorkflowSerializationContext

from cleanroom.errors import InvalidInput, PreconditionFailed, Refused, Unavailable
from cleanroom.secret import write_secret_file
from cleanroom.settings import Settings
from cleanroom.temporal.attributes import ALL
from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.keyring import Keyring
from cleanroom.webui import auth as codec_auth
from cleanroom.webui import pages
from cleanroom.webui.codec_server import CodecServerSettings, create_app
from cleanroom.webui.gateway import check_upstream, private_origin
from cleanroom.webui.views import COLUMNS, VIEWS, preferences
from localcloud.launcher.azurite import node_program
from localcloud.launcher.processes import free_ports
from localcloud.standins.serving import serving
from starters.operations.web_ui import login_link
from tests.patience import PATIENCE

ORIGIN = "http://localhost:8233"
TOKEN = "token-of-an-operator-0123456789"
KEYRING = Keyring.generate("k1")
NAVIGATION = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate"}
COOKIE = "cr-ui-8233"


async def _echo(request: Request) -> Response:
    body = await request.body()
    answer = JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "headers": dict(request.headers),
            "body": body.decode(),
        },
        headers={"Access-Control-Allow-Origin": "*", "Connection": "x-hop", "X-Hop": "1", "X-Kept": "yes"},
    )
    answer.set_cookie("_csrf", "token")
    answer.set_cookie("other", "1")
    return answer


LEFT = threading.Event()
"""Set when the Web UI's server notices that its client has disconnected."""


async def _slow(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.sleep(2 * PATIENCE)
        finally:
            LEFT.set()

    return StreamingResponse(parts())


async def _redirect(request: Request) -> Response:
    return RedirectResponse(f"http://{request.headers['host']}/namespaces")


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    every = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    app = Starlette(
        routes=[Route("/slow", _slow), Route("/redirect", _redirect), Route("/{path:path}", _echo, methods=every)],
    )
    with serving(app, "web-ui") as url:
        yield url


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    write_secret_file(tmp_path / "tokens", json.dumps({"olga": TOKEN}).encode())
    return tmp_path / "tokens"


def gateway(tokens: Path, upstream: str, **settings: Any) -> Starlette:
    base = {"ui_origins": (), "public_origin": ORIGIN} | settings
    return create_app(
        CodecServerSettings(keyring_file=tokens.parent / "none", tokens_file=tokens, ui_upstream=upstream, **base), keyring=KEYRING
    )


@asynccontextmanager
async def browser(app: Starlette, origin: str = ORIGIN) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=origin) as client:
        yield client


@pytest_asyncio.fixture
async def http(tokens: Path, upstream: str) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(gateway(tokens, upstream)) as client:
        yield client


async def code_of(http: httpx.AsyncClient) -> str:
    answer = await http.post("/codec/login-codes", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["expiresIn"] == 120
    return str(answer.json()["code"])


async def log_in(http: httpx.AsyncClient, code: str, wanted: str = "/") -> httpx.Response:
    return await http.post("/codec/login", data={"code": code, "next": wanted}, headers={"Origin": ORIGIN})


@pytest_asyncio.fixture
async def logged_in(http: httpx.AsyncClient) -> httpx.AsyncClient:
    assert (await log_in(http, await code_of(http))).status_code == 303
    return http


# Without a login


@pytest.mark.parametrize(
    "path", ["/", "/namespaces/default/workflows", "/api/v1/settings", "/_app/immutable/entry/start.js", "/codec/nothing"]
)
async def test_nothing_is_reachable_without_a_login(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path, headers={"Sec-Fetch-Mode": "cors"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "CodecUnauthenticated")
    page = await http.get(path, headers=NAVIGATION)
    assert page.status_code == 401
    assert "cleanroom ui" in page.text
    assert "raw_path" not in page.text


@pytest.mark.parametrize("cookie", ["", "x", "x.y", "W10=.0", f"{'a' * 5000}.b", "é.é"])
async def test_forged_sessions_are_refused(http: httpx.AsyncClient, cookie: str) -> None:
    answer = await http.get("/api/v1/settings", headers=[(b"cookie", f"{COOKIE}={cookie}".encode())])
    assert answer.status_code == 401


async def test_the_login_page_keeps_the_target_and_escapes_it(http: httpx.AsyncClient) -> None:
    page = await http.get('/namespaces/x"><script>alert(1)</script>?a=%22%3E', headers=NAVIGATION)
    assert "<script>alert" not in page.text
    assert "'none'" in page.headers["content-security-policy"]
    page = await http.get("/namespaces/default/workflows/cr%2Fa", headers=NAVIGATION)
    assert 'value="/namespaces/default/workflows/cr%2Fa"' in page.text


# Login


async def test_a_code_logs_in_once_and_redirects_to_the_target(http: httpx.AsyncClient) -> None:
    code = await code_of(http)
    answer = await log_in(http, code, "/namespaces/default/workflows/cr%2Fa%2Fquery%2Fq")
    assert (answer.status_code, answer.headers["location"]) == (303, "/namespaces/default/workflows/cr%2Fa%2Fquery%2Fq")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"{COOKIE}=")
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie
    assert (await http.get("/api/v1/settings")).status_code == 200
    http.cookies.clear()
    again = await log_in(http, code)
    assert again.status_code == 401
    assert "already used" in again.text
    assert (await http.get("/api/v1/settings")).status_code == 401


async def test_over_https_the_cookie_is_secure(tokens: Path, upstream: str) -> None:
    origin = "https://ui.example"
    async with browser(gateway(tokens, upstream, public_origin=origin), origin) as http:
        answer = await http.post("/codec/login", data={"code": await code_of(http)}, headers={"Origin": origin})
    assert "; secure" in answer.headers["set-cookie"].lower()
    assert "samesite=lax" in answer.headers["set-cookie"].lower()


async def test_codes_and_sessions_expire(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    late, code = await code_of(http), await code_of(http)
    # Replaces the clock only in this module, because the running event loops use time too.
    clock = SimpleNamespace(monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(codec_auth, "time", clock)
    now = time.monotonic()
    assert (await log_in(http, code)).status_code == 303
    clock.monotonic = lambda: now + codec_auth.CODE_LIFETIME + 1
    assert (await log_in(http, late)).status_code == 401
    assert (await http.get("/api/v1/settings")).status_code == 200
    wall = time.time()
    clock.time = lambda: wall + 8 * 3600 + 1
    assert (await http.get("/api/v1/settings")).status_code == 401


async def test_the_number_of_codes_is_limited(http: httpx.AsyncClient) -> None:
    first = await code_of(http)
    for _ in range(100):
        last = await code_of(http)
    assert (await log_in(http, first)).status_code == 401
    assert (await log_in(http, last)).status_code == 303


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong-token-0123456789abcdef"}])
async def test_a_code_needs_a_bearer_token(logged_in: httpx.AsyncClient, header: dict[str, str]) -> None:
    # A session is not sufficient to create codes.
    answer = await logged_in.post("/codec/login-codes", headers={**header, "Origin": ORIGIN})
    assert answer.status_code == 401


async def test_codes_tokens_and_sessions_are_not_interchangeable(http: httpx.AsyncClient) -> None:
    code = await code_of(http)
    answer = await http.post("/codec/decode", json={}, headers={"Authorization": f"Bearer {code}", "X-Namespace": "default"})
    assert answer.status_code == 401
    assert (await log_in(http, "once-")).status_code == 401
    assert (await log_in(http, "")).status_code == 401
    assert (await log_in(http, TOKEN)).status_code == 303


@pytest.mark.parametrize(
    "wanted", ["https://evil.example", "//evil.example", "/\\evil.example", "/a\r\nX: y", "evil", "", "/codec/login", "/" + "a" * 5000]
)
async def test_a_login_does_not_redirect_to_another_site(http: httpx.AsyncClient, wanted: str) -> None:
    answer = await log_in(http, await code_of(http), wanted)
    assert answer.headers["location"] == "/"


async def test_other_origins_cannot_log_a_user_in_or_out(http: httpx.AsyncClient) -> None:
    code = await code_of(http)
    for origin in ("https://evil.example", "http://localhost:9999", "null"):
        for path in ("/codec/login", "/codec/logout"):
            answer = await http.post(path, data={"code": code}, headers={"Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "CodecOriginRefused")


async def test_logout_removes_the_session(logged_in: httpx.AsyncClient) -> None:
    assert (await logged_in.post("/codec/logout", headers={"Origin": ORIGIN})).status_code == 303
    assert (await logged_in.get("/api/v1/settings")).status_code == 401


# Forwarding


async def test_requests_are_forwarded_without_the_session_cookie(logged_in: httpx.AsyncClient) -> None:
    answer = await logged_in.post(
        "/api/v1/namespaces/default/workflows/cr%2Fa%2Fquery%2Fq/signal?x=%2F&y=1",
        content=b'{"a": 1}',
        headers={"Origin": ORIGIN, "X-CSRF-Token": "t", "Connection": "x-named", "X-Named": "1", "X-Forwarded-For": "1.2.3.4"},
    )
    seen = answer.json()
    assert seen["path"] == "/api/v1/namespaces/default/workflows/cr%2Fa%2Fquery%2Fq/signal"
    assert (seen["query"], seen["body"], seen["method"]) == ("x=%2F&y=1", '{"a": 1}', "POST")
    assert seen["headers"]["x-csrf-token"] == "t"
    assert "x-named" not in seen["headers"]
    assert "x-forwarded-for" not in seen["headers"]
    # The Web UI's cookies are forwarded, the session cookie is not.
    assert answer.headers.get_list("set-cookie")[0].startswith("_csrf=token")
    assert len(answer.headers.get_list("set-cookie")) == 2
    seen = (await logged_in.get("/x")).json()
    assert seen["headers"]["cookie"].split("; ") == ["_csrf=token", "other=1"]
    assert answer.headers["x-kept"] == "yes"
    assert answer.headers["x-frame-options"] == "DENY"
    for dropped in ("x-hop", "access-control-allow-origin"):
        assert dropped not in answer.headers


async def test_redirects_of_the_web_ui_are_rewritten_to_this_origin(logged_in: httpx.AsyncClient) -> None:
    answer = await logged_in.get("/redirect")
    assert (answer.status_code, answer.headers["location"]) == (307, "/namespaces")


async def test_responses_are_streamed(tokens: Path, upstream: str) -> None:
    # With a real server, because ASGITransport collects the response.
    with serving(gateway(tokens, upstream), "gateway") as url:
        async with httpx.AsyncClient(base_url=url, headers={"Host": "localhost:8233"}) as http:
            value = (await log_in(http, await code_of(http))).headers["set-cookie"].partition(";")[0]
            async with http.stream("GET", "/slow", headers={"Cookie": value}) as answer:
                assert await asyncio.wait_for(anext(answer.aiter_raw()), PATIENCE) == b"first"
            assert await asyncio.to_thread(LEFT.wait, PATIENCE)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {}),
        ("POST", {"Origin": "https://evil.example"}),
        ("POST", {"Origin": "http://localhost:9999", "Sec-Fetch-Site": "same-site"}),
        ("DELETE", {"Origin": "null"}),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}),
    ],
)
async def test_other_origins_cannot_use_the_session(logged_in: httpx.AsyncClient, method: str, headers: dict[str, str]) -> None:
    answer = await logged_in.request(method, "/api/v1/namespaces/default/workflows/w/terminate", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "CodecOriginRefused")


async def test_a_link_on_another_site_opens(logged_in: httpx.AsyncClient) -> None:
    answer = await logged_in.get("/namespaces", headers={**NAVIGATION, "Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200


async def test_other_host_names_are_redirected_to_the_origin(logged_in: httpx.AsyncClient) -> None:
    answer = await logged_in.get("/namespaces?x=1", headers={**NAVIGATION, "Host": "127.0.0.1:8233"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"{ORIGIN}/namespaces?x=1")
    rebound = await logged_in.get("/api/v1/settings", headers={"Host": "evil.example"})
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (421, "CodecHostRefused")


async def test_an_unreachable_web_ui_is_reported(tokens: Path) -> None:
    with serving(Starlette(), "gone") as gone:
        pass
    async with browser(gateway(tokens, gone)) as http:
        await log_in(http, await code_of(http))
        page = await http.get("/namespaces", headers=NAVIGATION)
        assert page.status_code == 502
        assert "does not respond" in page.text
        assert "cleanroom up" in page.text
        answer = await http.get("/api/v1/settings")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "UiUnavailable")


# The codec on the same origin


async def test_the_session_decodes_only_from_pages_of_the_gateway(logged_in: httpx.AsyncClient) -> None:
    codec = PayloadCodec(KEYRING).with_context(WorkflowSerializationContext("default", "w"))
    body = json_format.MessageToDict(Payloads(payloads=[codec.seal(Payload(metadata={"encoding": b"json/plain"}, data=b'"x"'))]))

    async def decode(**headers: str) -> httpx.Response:
        return await logged_in.post("/codec/decode", json=body, headers={"X-Namespace": "default", **headers})

    answer = await decode(Origin=ORIGIN)
    assert json_format.Parse(answer.text, Payloads()).payloads[0].data == b'"x"'
    assert (await decode(Origin="http://localhost:9999")).status_code == 403
    assert (await decode()).status_code == 401
    assert (await decode(Authorization=f"Bearer {TOKEN}")).status_code == 200
    logged_in.cookies.clear()
    assert (await decode(Origin=ORIGIN)).status_code == 401


# Configuration


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://127.0.0.1:8080/", "http://[::1]:8080", "https://localhost"])
def test_upstreams_on_loopback_are_accepted(url: str) -> None:
    assert check_upstream(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://ui.example:8080",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "localhost:8080",
        "ftp://localhost",
        "http://localhost/x",
    ],
)
def test_other_upstreams_are_rejected(url: str) -> None:
    with pytest.raises(InvalidInput, match="UiUpstreamInvalid"):
        check_upstream(url)


def test_a_remote_upstream_must_be_allowed() -> None:
    assert check_upstream("https://ui.example", remote=True) == "https://ui.example"


def test_saved_views_use_registered_search_attributes() -> None:
    known = {key.name for key in ALL}
    assert {label for label in COLUMNS if label.startswith("Cr")} <= known
    for _, query in VIEWS:
        assert set(re.findall(r"\bCr\w+", query)) <= known
    assert set(preferences(["a", "b"])["saved-workflow-queries"]) == {"a", "b"}


# The command `cleanroom ui`


def settings_for(url: str, tokens: Path) -> Settings:
    return Settings.model_validate({"profile": "olga", "temporal": {"ui_url": url, "codec_token_file": tokens}})


def test_the_login_link_contains_a_code_and_not_the_token(tmp_path: Path, tokens: Path, upstream: str) -> None:
    write_secret_file(tmp_path / "token", TOKEN.encode() + b"\n")
    with serving(gateway(tokens, upstream), "gateway") as url:
        link = login_link(settings_for(url, tmp_path / "token"), f"{url}/namespaces/default/workflows/cr%2Fa")
        assert link["url"].startswith(f"{url}/codec/login#code=once-")
        assert link["url"].endswith("&next=%2Fnamespaces%2Fdefault%2Fworkflows%2Fcr%252Fa")
        assert TOKEN not in link["url"]
        write_secret_file(tmp_path / "token", b"another-token-0123456789abcdef")
        with pytest.raises(Refused, match="CodecUnauthenticated"):
            login_link(settings_for(url, tmp_path / "token"), url)
    with pytest.raises(Unavailable, match="UiUnavailable"):
        login_link(settings_for(url, tmp_path / "token"), url)


def test_the_token_is_sent_only_to_a_gateway(tmp_path: Path, upstream: str) -> None:
    write_secret_file(tmp_path / "token", TOKEN.encode())
    with pytest.raises(InvalidInput, match="UiUrlInsecure"):
        login_link(settings_for("http://ui.example", tmp_path / "token"), "http://ui.example/")
    with pytest.raises(PreconditionFailed, match="UiIsNoGateway"):
        login_link(settings_for(upstream, tmp_path / "token"), upstream)
    with pytest.raises(PreconditionFailed, match="CodecTokenMissing"):
        login_link(Settings.model_validate({"profile": "olga", "temporal": {"ui_url": upstream}}), upstream)


# A private host name on loopback


@pytest_asyncio.fixture
async def private(tokens: Path, upstream: str) -> AsyncIterator[httpx.AsyncClient]:
    origin = private_origin(KEYRING, 8233)
    async with browser(gateway(tokens, upstream, public_origin=None, port=8233), origin) as client:
        yield client


def test_private_origin_depends_on_the_keyring_and_survives_rotation() -> None:
    origin = private_origin(KEYRING, 8233)
    assert re.fullmatch(r"http://ui-[0-9a-f]{20}\.localhost:8233", origin)
    assert private_origin(KEYRING.rotated(), 8233) == origin
    assert private_origin(Keyring.generate(), 8233) != origin


async def test_session_cookie_belongs_to_the_private_name_alone(private: httpx.AsyncClient) -> None:
    code = await code_of(private)
    answer = await private.post("/codec/login", data={"code": code, "next": "/"}, headers={"Origin": str(private.base_url)})
    assert answer.status_code == 303
    assert "domain" not in answer.headers["set-cookie"].lower()
    assert (await private.get("/namespaces", headers=NAVIGATION)).status_code == 200
    (cookie,) = [item for item in private.cookies.jar if item.name == COOKIE]
    assert cookie.domain.startswith("ui-")
    assert cookie.domain.removesuffix(".local").endswith(".localhost")


@pytest.mark.parametrize("path", ["/", "/namespaces", "/codec/login", "/api/v1/settings", "/codec/login?x"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("host", ["localhost:8233", "127.0.0.1:8233", "evil.example", "ui-0.localhost:8233"])
@pytest.mark.parametrize("headers", [{}, {"accept": "text/html"}, {"sec-fetch-mode": "navigate"}])
async def test_the_private_name_is_told_only_to_holders_of_a_token(
    private: httpx.AsyncClient, path: str, method: str, host: str, headers: dict[str, str]
) -> None:
    """A hostile server on this machine can ask the gateway. With the name, it could make a browser send it the cookie."""
    answer = await private.request(method, path, headers={**headers, "Host": host})
    label = KEYRING.private_label("web ui host name")
    assert answer.status_code in (401, 403, 421)
    assert label not in answer.text + str(answer.headers)


async def test_login_under_another_host_name_sets_no_cookie(private: httpx.AsyncClient) -> None:
    code = await code_of(private)
    answer = await private.post("/codec/login", data={"code": code, "next": "/"}, headers={"Host": "localhost:8233"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "CodecOriginRefused")
    assert "set-cookie" not in answer.headers


def test_login_link_of_a_private_gateway_has_its_name(tmp_path: Path, tokens: Path, upstream: str) -> None:
    write_secret_file(tmp_path / "token", TOKEN.encode() + b"\n")
    (port,) = free_ports(1)
    origin = private_origin(KEYRING, port)
    with serving(gateway(tokens, upstream, public_origin=None, port=port), "gateway", port=port) as url:
        for configured in (url, f"http://localhost:{port}", origin):
            link = login_link(settings_for(configured, tmp_path / "token"), f"{configured}/namespaces")
            assert link["url"].startswith(f"{origin}/codec/login#code=once-")
            assert link["url"].endswith("&next=%2Fnamespaces")


BROWSER = """
const page = require("fs").readFileSync(0, "utf-8");
const script = /<script[^>]*>([^]*)<\\/script>/.exec(page)[1];
const submitted = [], listeners = {};
const fields = { code: {}, next: { value: "/" }, token: {} };
const form = { ...fields, elements: fields, submit: () => submitted.push([fields.code.value ?? fields.token.value, fields.next.value]) };
globalThis.document = { forms: [form] };
globalThis.location = { hash: "", pathname: "/codec/login", search: "" };
globalThis.history = { replaceState: () => { location.hash = ""; } };
globalThis.localStorage = { getItem: () => null, setItem: () => {} };
globalThis.addEventListener = (name, act) => { listeners[name] = act; };
new Function(script)();
for (const hash of JSON.parse(process.argv[1])) { location.hash = hash; listeners.hashchange?.(); }
console.log(JSON.stringify(submitted));
"""


@pytest.mark.parametrize(
    ("page", "hashes", "submitted"),
    [
        (
            pages.login(200, target="/", problem="", preferences="{}"),
            ["", "#code=one&next=%2Fa", "#code=two&next=%2Fb"],
            [["one", "/a"], ["two", "/b"]],
        ),
        (pages.codec_login(), ["#token=one", "", "#token=two"], [["one", "/"], ["two", "/"]]),
    ],
    ids=["gateway", "codec server"],
)
def test_login_link_that_is_pasted_into_the_open_login_page_signs_in(
    page: HTMLResponse, hashes: list[str], submitted: list[list[str]]
) -> None:
    command = [node_program(), "-e", BROWSER, json.dumps(hashes)]
    done = subprocess.run(command, input=bytes(page.body), capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == submitted
