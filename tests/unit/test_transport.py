"""HTTP clients: created in one place, and independent of the process's environment."""

from __future__ import annotations

import ast
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import certifi
import httpx
import jwt
import pytest

from cleanroom.transport import async_http_client, http_client, jwks_client, ssl_context

ROOT = Path(__file__).parents[2]
PRODUCT = ("cleanroom", "workflows", "activities", "workers", "starters", "sparkapp", "localcloud")
CONSTRUCTORS = {"create_default_context", "SSLContext", "Client", "AsyncClient", "PyJWKClient"}


class _Keys(BaseHTTPRequestHandler):
    """Serves an RFC 7517 key set with one symmetric key."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/keys")
            self.end_headers()
            return
        body = json.dumps({"keys": [{"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body if self.path == "/keys" else b"[]")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server's URL, in an environment whose proxy variables name a port on which nothing listens."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), _Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_clients_ignore_proxy_variables(issuer: str) -> None:
    with http_client(timeout=5) as http:
        assert http.get(f"{issuer}/keys").status_code == 200
    async with async_http_client(timeout=5) as async_http:
        assert (await async_http.get(f"{issuer}/keys")).status_code == 200
    assert jwks_client(f"{issuer}/keys").get_signing_key("k1").key_id == "k1"


async def test_clients_do_not_follow_redirects(issuer: str) -> None:
    with http_client(timeout=5) as http:
        assert http.get(f"{issuer}/redirect").status_code == 302
    async with async_http_client(timeout=5) as async_http:
        assert (await async_http.get(f"{issuer}/redirect")).status_code == 302
    with pytest.raises(jwt.PyJWKClientConnectionError):
        jwks_client(f"{issuer}/redirect").get_signing_key("k1")


def test_a_key_set_that_is_not_an_object_is_an_error(issuer: str) -> None:
    with pytest.raises(jwt.PyJWKClientError, match="did not return a JSON object"):
        jwks_client(f"{issuer}/list").get_signing_key("k1")


def test_all_clients_share_the_operating_systems_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ssl_context()
    assert (shared.verify_mode, shared.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert ssl_context(system_roots=True) is shared
    for name in ("Client", "AsyncClient"):
        monkeypatch.setattr(httpx, name, lambda **options: options["verify"])
    assert http_client(timeout=5) is async_http_client(timeout=5) is shared  # type: ignore[comparison-overlap]
    assert ssl_context(Path(certifi.where())) is not shared


def test_an_unreadable_ca_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(OSError, match="certificate"):
        ssl_context(tmp_path / "ca.pem")


def test_product_code_creates_clients_in_the_transport_module_only() -> None:
    found = []
    for folder in PRODUCT:
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text()
            if not any(f"{module}." in text for module in ("ssl", "httpx", "jwt")):
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    name = f"{node.func.value.id}.{node.func.attr}"
                    if node.func.attr in CONSTRUCTORS and node.func.value.id in ("ssl", "httpx", "jwt"):
                        found.append((file.relative_to(ROOT).as_posix(), name))
    assert {file for file, _ in found} == {"cleanroom/transport.py"}, found


def test_certificate_files_end_with_their_process_and_are_shared_within_it() -> None:
    program = (
        "import os\nfrom cleanroom.transport import pem_file\n"
        "files = [pem_file('one'), pem_file('one'), pem_file('two')]\n"
        "child = os.fork()\nif not child: raise SystemExit\nos.waitpid(child, 0)\n"
        "print(*files, *(file.read_text() for file in files))"
    )
    first, again, other, *texts = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert (first == again, first == other, texts) == (True, False, ["one", "one", "two"])
    assert not Path(first).exists()
    assert not Path(other).exists()
