"""The real Web UI behind the gateway: a login link gives access to decrypted workflows, and other requests get no data."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
import pytest_asyncio
from google.protobuf import json_format
from temporalio.api.common.v1 import Payloads
from temporalio.testing import WorkflowEnvironment

from cleanroom.secret import write_secret_file
from cleanroom.settings import Settings
from cleanroom.temporal.workers import WorkerSpec, create_worker
from cleanroom.webui.codec_server import CodecServerSettings, create_app
from localcloud.launcher.processes import free_ports
from localcloud.standins.serving import serving
from starters.operations.web_ui import login_link
from tests.codec_models import Note
from tests.codec_workflows import Waiting
from tests.patience import PATIENCE
from tests.temporal_env import FAST, TEST_KEYRING, server_options

TOKEN = "token-of-an-operator-0123456789"
CANARY = "CANARY-in-a-payload"


@pytest_asyncio.fixture
async def web_ui(tmp_path: Path) -> AsyncIterator[tuple[WorkflowEnvironment, str, Settings]]:
    """A server with its Web UI, the gateway in front of it, and a user's settings."""
    gateway_port, ui_port = free_ports(2)
    origin = f"http://localhost:{gateway_port}"
    extra = [part for key, value in FAST.items() for part in ("--dynamic-config-value", f"{key}={value}")]
    options = server_options(dev_server_extra_args=[*extra, "--ui-codec-endpoint", f"{origin}/codec", "--ui-disable-news-fetch"])
    write_secret_file(tmp_path / "token", TOKEN.encode())
    settings = CodecServerSettings(
        keyring_file=tmp_path / "none", tokens_file=tmp_path / "token", port=gateway_port, ui_origins=(),
        ui_upstream=f"http://localhost:{ui_port}", public_origin=origin,
    )  # fmt: skip
    async with await WorkflowEnvironment.start_local(ui=True, ui_port=ui_port, **options) as env:
        with serving(create_app(settings, keyring=TEST_KEYRING), "gateway", port=gateway_port):
            profile = {"profile": "olga", "temporal": {"ui_url": origin, "codec_token_file": tmp_path / "token"}}
            yield env, origin, Settings.model_validate(profile)


def cors(origin: str) -> dict[str, str]:
    """Headers that a browser sends with a request from a page of the Web UI."""
    return {"Origin": origin, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "X-Namespace": "default"}


def payloads_in(value: Any) -> list[dict[str, Any]]:
    """Return all payloads of a history in JSON."""
    if isinstance(value, dict):
        if "metadata" in value and "data" in value:
            return [value]
        return [found for item in value.values() for found in payloads_in(item)]
    return [found for item in value for found in payloads_in(item)] if isinstance(value, list) else []


async def test_a_login_link_shows_decrypted_payloads(web_ui: tuple[WorkflowEnvironment, str, Settings]) -> None:
    env, origin, settings = web_ui
    workflow_id = f"cr/test/query/{uuid.uuid4().hex[:8]}"
    queue = f"q-{uuid.uuid4().hex[:8]}"
    async with (
        create_worker(env.client, WorkerSpec("web-ui", queue, workflows=[Waiting])),
        httpx.AsyncClient(base_url=origin, timeout=30) as browser,
    ):
        handle = await env.client.start_workflow(
            Waiting.run, Note(text="w", number=1), id=workflow_id, task_queue=queue, static_summary=f"summary {CANARY}"
        )
        api = f"/api/v1/namespaces/default/workflows/{quote(workflow_id, safe='')}"
        assert (await browser.get(f"{api}/history", headers=cors(origin))).status_code == 401
        page = await browser.get("/namespaces/default/workflows", headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
        assert (page.status_code, "cleanroom ui" in page.text) == (401, True)

        # As the page of the link does.
        link = login_link(settings, f"{origin}/namespaces/default/workflows")
        form = {name: values[0] for name, values in parse_qs(urlsplit(link["url"]).fragment).items()}
        answer = await browser.post("/codec/login", data=form, headers={"Origin": origin})
        assert (answer.status_code, answer.headers["location"]) == (303, "/namespaces/default/workflows")

        page = await browser.get("/namespaces/default/workflows", headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
        assert page.status_code == 200
        assert "/_app/immutable/" in page.text
        told = (await browser.get("/api/v1/settings", headers=cors(origin))).json()
        assert told["Codec"]["Endpoint"] == f"{origin}/codec"

        # A signal as the Web UI's form sends it: encoded by the gateway, with the Web UI's CSRF token.
        plain = {"metadata": {"encoding": base64.b64encode(b"json/plain").decode()}}
        plain["data"] = base64.b64encode(json.dumps(Note(text=CANARY).model_dump()).encode()).decode()  # type: ignore[assignment]
        encoded = await browser.post("/codec/encode", json={"payloads": [plain]}, headers=cors(origin))
        assert CANARY not in base64.b64decode(encoded.json()["payloads"][0]["data"]).decode(errors="replace")
        csrf = browser.cookies.get("_csrf") or ""
        # The Web UI connects to its server at start, and reconnects only after some time if that was too early.
        async with asyncio.timeout(PATIENCE):
            while (await browser.get(f"{api}/history", headers=cors(origin))).status_code == 503:
                await asyncio.sleep(0.05)
        signalled = await browser.post(f"{api}/signal/hear", json={"input": encoded.json()}, headers=cors(origin) | {"X-CSRF-Token": csrf})
        assert signalled.status_code == 200, signalled.text
        assert await handle.result() == [Note(text=CANARY)]

        history = (await browser.get(f"{api}/history", headers=cors(origin))).json()
        described = (await browser.get(api, headers=cors(origin))).json()
        sealed = payloads_in([history, described])
        assert CANARY not in json.dumps([base64.b64decode(item["data"]).decode(errors="replace") for item in sealed])
        decoded = await browser.post("/codec/decode", json={"payloads": sealed}, headers=cors(origin))
        shown = [item.data.decode() for item in json_format.Parse(decoded.text, Payloads()).payloads]
        assert any(f"summary {CANARY}" in text for text in shown)
        assert any(f'"{CANARY}"' in text for text in shown)
        assert not any("refused" in text for text in shown)

        browser.cookies.clear()
        assert (await browser.post("/codec/decode", json={"payloads": sealed}, headers=cors(origin))).status_code == 401


@pytest.mark.parametrize("header", ["", "Bearer wrong-token-0123456789abcdef"])
async def test_a_login_link_needs_the_token(web_ui: tuple[WorkflowEnvironment, str, Settings], header: str) -> None:
    _, origin, _ = web_ui
    async with httpx.AsyncClient(base_url=origin) as http:
        answer = await http.post("/codec/login-codes", headers={"Authorization": header} if header else {})
        assert answer.status_code == 401
        assert "once-" not in answer.text
