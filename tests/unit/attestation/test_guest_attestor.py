"""How a guest requests its evidence from the sidecar, and which answers are errors of which kind."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cleanroom.attestation import AttestationEvidence, GuestAttestor, guest
from cleanroom.errors import CleanRoomError
from cleanroom.transport import ssl_context

ANSWER = {"evidence": "ZQ==", "endorsements": "Yw==", "uvm_endorsements": "dQ==", "endorsed_tcb": "t"}


class Sidecar:
    """Answers every request with ``answer``, or raises it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: httpx.Response | Exception = httpx.Response(200, json=ANSWER)
        self.requests: list[httpx.Request] = []
        self.options: list[tuple[Any, Any]] = []
        monkeypatch.setattr(guest, "async_http_client", self._client)
        monkeypatch.setattr(guest, "ssl_context", lambda file: ("roots", file))

    def _client(self, tls: Any, *, timeout: Any) -> httpx.AsyncClient:
        self.options.append((tls or ssl_context(), timeout))
        return httpx.AsyncClient(transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def attest(self, url: str = "http://localhost:8284", **options: Any) -> AttestationEvidence:
        return asyncio.run(GuestAttestor(url, **options).attest(b"\0data"))

    def failure(self, answer: httpx.Response | Exception) -> CleanRoomError:
        self.answer = answer
        with pytest.raises(CleanRoomError) as caught:
            self.attest("http://localhost:1/secret-path")
        assert caught.value.party == "operator"
        assert "secret-path" not in str(caught.value.to_dict())
        return caught.value


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Sidecar:
    return Sidecar(monkeypatch)


@pytest.mark.parametrize("url", ["http://localhost:8284", "http://localhost:8284/"])
def test_runtime_data_is_sent_as_base64(sidecar: Sidecar, url: str) -> None:
    evidence = sidecar.attest(url, ca_file=Path("/roots"))
    assert evidence == AttestationEvidence(**ANSWER)
    (request,) = sidecar.requests
    assert (request.method, str(request.url)) == ("POST", "http://localhost:8284/attest/combined")
    assert json.loads(request.content) == {"runtime_data": base64.b64encode(b"\0data").decode()}
    assert sidecar.options == [(("roots", Path("/roots")), (5.0, 30.0, 30.0, 30.0))]


def test_system_roots_are_the_default(sidecar: Sidecar) -> None:
    sidecar.attest()
    assert sidecar.options[0][0] is ssl_context()


@pytest.mark.parametrize("error", [httpx.ConnectError("secret-path"), httpx.ReadTimeout("x")])
def test_sidecar_that_does_not_respond_is_unavailable(sidecar: Sidecar, error: Exception) -> None:
    failure = sidecar.failure(error)
    assert (failure.code, failure.retryable, failure.cause) == ("GuestAttestationUnavailable", True, type(error).__name__)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, "GuestAttestationUnavailable") for status in (500, 503, 408, 425, 429)),
        *((status, "GuestAttestationRefused") for status in (499, 400, 307, 201)),
    ],
)
def test_status_of_a_failure(sidecar: Sidecar, status: int, code: str) -> None:
    text = '{"error": "' + "x" * 600 + '"}'
    failure = sidecar.failure(httpx.Response(status, text=text))
    assert (failure.code, failure.retryable, failure.cause) == (code, code.endswith("Unavailable"), text[:500])
    assert str(status) in failure.message
    assert failure.details == {}


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"[]", b"5"])
def test_answer_that_is_no_json_object_is_not_the_sidecars(sidecar: Sidecar, status: int, body: bytes) -> None:
    failure = sidecar.failure(httpx.Response(status, content=body, headers={"Retry-After": "7"}))
    assert (failure.code, failure.retryable, failure.details) == ("GuestAttestationUnavailable", True, {"retryAfter": 7})
    assert ("no JSON object" in failure.message) is (body not in (b"[]", b"5"))


@pytest.mark.parametrize("body", [b"{}", b'{"evidence": "ZQ=="}', b'{"evidence": 5, "endorsements": ""}'])
def test_answer_that_is_no_evidence_is_malformed(sidecar: Sidecar, body: bytes) -> None:
    failure = sidecar.failure(httpx.Response(200, content=body))
    assert (failure.code, failure.retryable) == ("GuestAttestationMalformed", False)
    assert str(failure.cause).endswith("invalid members")
