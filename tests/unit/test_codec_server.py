"""The codec server: authentication, origins, and responses."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import WorkflowSerializationContext
from typer.testing import CliRunner

from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.secret import write_secret_file
from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.keyring import Keyring
from cleanroom.webui.auth import OidcSettings
from cleanroom.webui.codec_server import CodecServerSettings, create_app, serve
from localcloud.standins.serving import serving
from tests.shared_keys import rsa_key

UI = "http://localhost:8233"
TOKEN = "token-of-an-operator-0123456789"
KEYRING = Keyring.generate("k1")


@pytest.fixture
def configured(tmp_path: Path) -> CodecServerSettings:
    KEYRING.save(tmp_path / "keyring.json")
    write_secret_file(tmp_path / "tokens", json.dumps({"olga": TOKEN, "otto": TOKEN + "-too"}).encode())
    return CodecServerSettings(keyring_file=tmp_path / "keyring.json", tokens_file=tmp_path / "tokens", ui_origins=(UI,))


@pytest_asyncio.fixture
async def http(configured: CodecServerSettings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(configured) as client:
        yield client


def client_of(settings: CodecServerSettings) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(settings))
    return httpx.AsyncClient(transport=transport, base_url="http://codec", headers={"X-Namespace": "default"})


def body(*payloads: Payload) -> dict[str, Any]:
    return json_format.MessageToDict(Payloads(payloads=payloads))


def payloads_of(response: httpx.Response) -> list[Payload]:
    assert response.status_code == 200, response.text
    return list(json_format.Parse(response.text, Payloads()).payloads)


def sealed(text: bytes = b'"x"', workflow: str = "cr/a/query/q", namespace: str = "default") -> Payload:
    codec = PayloadCodec(KEYRING).with_context(WorkflowSerializationContext(namespace, workflow))
    return codec.seal(Payload(metadata={"encoding": b"json/plain"}, data=text))


def auth(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_decode_accepts_payloads_of_any_workflow(http: httpx.AsyncClient) -> None:
    response = await http.post("/decode", json=body(sealed(b'"one"', "w1"), sealed(b'"two"', "w2")), headers=auth())
    assert [payload.data for payload in payloads_of(response)] == [b'"one"', b'"two"']
    assert response.headers["cache-control"] == "no-store"


async def test_encode_binds_payloads_only_if_the_path_names_a_workflow(http: httpx.AsyncClient) -> None:
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')
    [unbound] = payloads_of(await http.post("/encode", json=body(plain), headers=auth()))
    workflow = PayloadCodec(KEYRING).with_context(WorkflowSerializationContext("default", "cr/a/query/q"))
    with pytest.raises(Refused, match="PayloadUnbound"):
        workflow.open(unbound)
    accepting = PayloadCodec(KEYRING, accept_unbound=True).with_context(WorkflowSerializationContext("default", "cr/a/query/q"))
    assert accepting.open(unbound) == plain
    [bound] = payloads_of(await http.post("/workflow/cr/a/query/q/encode", json=body(plain), headers=auth()))
    assert workflow.open(bound) == plain
    [back] = payloads_of(await http.post("/workflow/cr/a/query/q/decode", json=body(bound), headers=auth()))
    assert back == plain
    [other] = payloads_of(await http.post("/workflow/cr/a/query/other/decode", json=body(bound), headers=auth()))
    assert json.loads(other.data)["refused"] == "PayloadMisbound"


async def test_a_refused_payload_does_not_hide_the_others(http: httpx.AsyncClient) -> None:
    tampered = sealed(b'"secret"')
    tampered.data = tampered.data[:-1] + bytes([tampered.data[-1] ^ 1])
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"forged approval"')
    attribute = Payload(metadata={"encoding": b"json/plain", "type": b"Keyword"}, data=b'"proposed"')
    lost = PayloadCodec(Keyring.generate("lost")).with_context(WorkflowSerializationContext("default", "w")).seal(plain)
    other = sealed(namespace="other")
    answer = payloads_of(await http.post("/decode", json=body(sealed(), tampered, plain, attribute, lost, other), headers=auth()))
    assert answer[0].data == b'"x"'
    assert json.loads(answer[1].data)["refused"] == "PayloadTampered"
    assert "notAuthenticated" in json.loads(answer[2].data)
    assert answer[3] == attribute
    assert json.loads(answer[4].data)["refused"] == "CodecKeyUnknown"
    assert json.loads(answer[5].data)["refused"] == "PayloadMisbound"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "CodecUnauthenticated"),
        ({"Authorization": "Bearer "}, 401, "CodecUnauthenticated"),
        ({"Authorization": f"Basic {TOKEN}"}, 401, "CodecUnauthenticated"),
        (auth("token-that-is-unknown-0123"), 401, "CodecUnauthenticated"),
        (auth(TOKEN[:-1]), 401, "CodecUnauthenticated"),
        ({**auth(), "X-Namespace": "other"}, 403, "CodecNamespaceRefused"),
        ({**auth(), "X-Namespace": ""}, 403, "CodecNamespaceRefused"),
        ({**auth(), "Origin": "https://evil.example"}, 403, "CodecOriginRefused"),
        ({**auth(), "Origin": "null"}, 403, "CodecOriginRefused"),
        ({**auth(), "Origin": UI + "0"}, 403, "CodecOriginRefused"),
        ({**auth(), "Content-Type": "text/plain"}, 400, "CodecBodyInvalid"),
    ],
)
@pytest.mark.parametrize("path", ["/decode", "/encode", "/workflow/w/decode"])
async def test_requests_without_authentication_or_with_wrong_headers_are_refused(
    http: httpx.AsyncClient, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json", **headers}
    response = await http.post(path, content=json.dumps(body(sealed(b'"CANARY"'))), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "CANARY" not in response.text


@pytest.mark.parametrize("content", ["", "x", '{"payloads": 1}', '{"payloads": [{"data": 1}]}', "{" * 5000])
async def test_malformed_bodies_are_rejected(http: httpx.AsyncClient, content: str) -> None:
    response = await http.post("/decode", content=content, headers={**auth(), "Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "CodecBodyInvalid")


async def test_large_bodies_are_rejected(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanroom.webui.codec_server.MAX_BODY", 1000)
    response = await http.post("/decode", json=body(sealed(b"x" * 2000)), headers=auth())
    assert (response.status_code, response.json()["error"]["code"]) == (400, "CodecBodyTooLarge")


async def test_encode_can_be_disabled(configured: CodecServerSettings) -> None:
    async with client_of(configured.model_copy(update={"allow_encode": False})) as http:
        assert (await http.post("/encode", json=body(), headers=auth())).status_code == 403
        assert (await http.post("/decode", json=body(sealed()), headers=auth())).status_code == 200


class TestCors:
    async def test_a_preflight_from_the_web_ui_is_allowed(self, http: httpx.AsyncClient) -> None:
        wanted = {
            "Origin": UI,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-namespace,authorization",
        }
        response = await http.options("/decode", headers=wanted)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == UI
        assert response.headers["access-control-allow-credentials"] == "true"

    async def test_a_preflight_from_another_origin_is_not_allowed(self, http: httpx.AsyncClient) -> None:
        response = await http.options("/decode", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
        assert "access-control-allow-origin" not in response.headers

    async def test_the_web_ui_can_read_error_responses(self, http: httpx.AsyncClient) -> None:
        response = await http.post("/decode", json=body(), headers={"Origin": UI})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == UI

    @pytest.mark.parametrize("origin", ["*", "http://localhost:8233/", "localhost:8233", "http://a/b"])
    def test_a_malformed_ui_origin_is_rejected(self, configured: CodecServerSettings, origin: str) -> None:
        with pytest.raises(InvalidInput, match="CodecOriginInvalid"):
            create_app(configured.model_copy(update={"ui_origins": (origin,)}))


class TestSession:
    async def test_the_cookie_is_accepted_only_from_the_web_uis_origin(self, http: httpx.AsyncClient) -> None:
        page = await http.get("/login")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        signed_in = await http.post("/login", data={"token": TOKEN}, headers={"Origin": "http://codec"})
        assert signed_in.status_code == 200
        cookie = signed_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert TOKEN not in cookie
        assert (await http.post("/decode", json=body(sealed()), headers={"Origin": UI})).status_code == 200
        # The browser also sends the cookie from another page of the same site, and with a form without an origin.
        assert (await http.post("/decode", json=body(sealed()), headers={"Origin": "http://localhost:9999"})).status_code == 403
        assert (await http.post("/decode", json=body(sealed()))).status_code == 401

    @pytest.mark.parametrize("token", ["", "wrong-token-0123456789abcdef"])
    async def test_a_session_needs_a_valid_token(self, http: httpx.AsyncClient, token: str) -> None:
        response = await http.post("/login", data={"token": token})
        assert response.status_code == 401
        assert "set-cookie" not in response.headers

    @pytest.mark.parametrize("host", ["localhost:8234", "127.0.0.1:8234", "[::1]:8234"])
    async def test_localhost_gets_no_cookie_because_every_server_of_the_machine_would_get_it(
        self, http: httpx.AsyncClient, host: str
    ) -> None:
        response = await http.post("/login", data={"token": TOKEN}, headers={"Host": host})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "CodecLoginOnLoopback")
        assert "set-cookie" not in response.headers

    async def test_sign_in_from_another_page_is_refused(self, http: httpx.AsyncClient) -> None:
        assert (await http.post("/login", data={"token": TOKEN}, headers={"Origin": UI})).status_code == 403

    async def test_forged_and_expired_sessions_are_refused(self, configured: CodecServerSettings) -> None:
        async with client_of(configured.model_copy(update={"session_lifetime": 1e-9})) as http:
            await http.post("/login", data={"token": TOKEN})
            value = dict(http.cookies).get("cr-codec") or "WyJvbGdhIiwxXQ==.00"
        async with client_of(configured) as http:
            for cookie in (value, "", "x", "WyJvbGdhIiwgOTk5OTk5OTk5OV0=.deadbeef", "é.é".encode("latin-1").decode("latin-1")):
                response = await http.post(
                    "/decode",
                    json=body(sealed()),
                    headers=[("X-Namespace", "default"), ("Origin", UI), ("Cookie", f"cr-codec={cookie}".encode())],
                )
                assert response.status_code == 401


@pytest.fixture(scope="module")
def issuer() -> Iterator[tuple[str, rsa.RSAPrivateKey]]:
    key = rsa_key()
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "1", "use": "sig", "alg": "RS256"}

    async def keys(request: Any) -> JSONResponse:
        return JSONResponse({"keys": [jwk]})

    with serving(Starlette(routes=[Route("/keys", keys)]), "issuer") as url:
        yield f"{url}/keys", key


class TestOidc:
    def token(self, key: rsa.RSAPrivateKey, **claims: Any) -> str:
        import time

        body = {"iss": "https://login", "aud": "codec", "exp": time.time() + 60, "sub": "olga", "roles": ["codec.decode"], **claims}
        return jwt.encode({name: value for name, value in body.items() if value is not None}, key, "RS256", headers={"kid": "1"})

    @pytest.mark.parametrize(
        ("claims", "status"),
        [
            ({}, 200),
            ({"roles": "codec.decode other"}, 200),
            ({"roles": ["other"]}, 401),
            ({"roles": None}, 401),
            ({"aud": "other"}, 401),
            ({"iss": "https://other"}, 401),
            ({"exp": 1}, 401),
            ({"exp": None}, 401),
        ],
    )
    async def test_access_tokens_are_accepted_by_their_claims(
        self, configured: CodecServerSettings, issuer: tuple[str, rsa.RSAPrivateKey], claims: dict[str, Any], status: int
    ) -> None:
        url, key = issuer
        oidc = OidcSettings(issuer="https://login", audience="codec", jwks_uri=url, required_claims={"roles": "codec.decode"})
        async with client_of(configured.model_copy(update={"oidc": oidc, "tokens_file": None})) as http:
            response = await http.post("/decode", json=body(sealed()), headers=auth(self.token(key, **claims)))
            assert response.status_code == status

    async def test_access_tokens_by_other_keys_and_algorithms_are_refused(
        self, configured: CodecServerSettings, issuer: tuple[str, rsa.RSAPrivateKey]
    ) -> None:
        url, key = issuer
        oidc = OidcSettings(issuer="https://login", audience="codec", jwks_uri=url)
        stranger = rsa_key("stranger")
        unsigned = jwt.encode({"iss": "https://login", "aud": "codec", "exp": 9e9}, None, "none", headers={"kid": "1"})
        async with client_of(configured.model_copy(update={"oidc": oidc})) as http:
            for token in (self.token(stranger), unsigned, "a.b.c"):
                assert (await http.post("/decode", json=body(sealed()), headers=auth(token))).status_code == 401
            assert (await http.post("/decode", json=body(sealed()), headers=auth(self.token(key)))).status_code == 200

    async def test_an_unreachable_issuer_is_unavailable(
        self, configured: CodecServerSettings, issuer: tuple[str, rsa.RSAPrivateKey]
    ) -> None:
        oidc = OidcSettings(issuer="https://login", audience="codec", jwks_uri="http://127.0.0.1:1/keys")
        async with client_of(configured.model_copy(update={"oidc": oidc})) as http:
            response = await http.post("/decode", json=body(sealed()), headers=auth(self.token(issuer[1])))
            assert (response.status_code, response.json()["error"]["code"]) == (503, "CodecIssuerUnreachable")


class TestConfiguration:
    def test_a_server_without_authentication_does_not_start(self, configured: CodecServerSettings) -> None:
        with pytest.raises(InvalidInput, match="CodecServerOpen"):
            create_app(configured.model_copy(update={"tokens_file": None}))

    @pytest.mark.parametrize("text", ["short", "{}", '{"a": "short"}', '{"a": 1}', "{"])
    def test_a_malformed_tokens_file_is_rejected(self, configured: CodecServerSettings, text: str) -> None:
        assert configured.tokens_file
        write_secret_file(configured.tokens_file, text.encode())
        with pytest.raises(InvalidInput, match="CodecTokensMalformed"):
            create_app(configured)

    def test_missing_and_incomplete_tls_settings_are_rejected(self, configured: CodecServerSettings, tmp_path: Path) -> None:
        for update in ({"host": "0.0.0.0"}, {"tls_cert": tmp_path / "c"}, {"tls_cert": tmp_path / "c", "tls_key": tmp_path / "k"}):
            with pytest.raises(CleanRoomError, match=r"CodecTls|TlsFile"):
                serve(configured.model_copy(update=update))

    async def test_logs_contain_caller_and_counts_but_no_secrets(self, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            await http.post("/decode", json=body(sealed(b'"CANARY"')), headers=auth())
            await http.post("/login", data={"token": TOKEN})
            await http.post("/decode", json=body(), headers=auth("x" * 30))
        assert "decode by olga in default: 1 payloads" in caplog.text
        assert TOKEN not in caplog.text
        assert "CANARY" not in caplog.text


def test_the_codec_keys_command_creates_and_extends_a_keyring(tmp_path: Path) -> None:
    import typer

    from starters.codec_server import codec_keys

    app = typer.Typer()
    app.command()(codec_keys)
    file = tmp_path / "keyring.json"

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, [str(file), *arguments])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    first = run()["current"]
    added = run("--add", "--not-current")
    second = added["keys"][1]
    assert added == {"current": first, "keys": [first, second]}
    assert run("--use", second) == {"current": second, "keys": [first, second]}
    assert CliRunner().invoke(app, [str(file)]).exit_code != 0, "an existing keyring is never replaced"
    assert Keyring.load(file).key_ids == (first, second)
