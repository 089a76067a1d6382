"""What the governance client says when the service misbehaves: unreachable, throttled, foreign or lossy is never "not found"."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.errors import (
    CATEGORIES,
    CleanRoomError,
    Conflict,
    Internal,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Refused,
    Unavailable,
)
from cleanroom.governance import GovernanceUserClient
from cleanroom.governance.http import query_string, segment
from localcloud.serving import serving
from localcloud.tls import LocalAuthority

CANARY = "token-canary-93f1"


class Script:
    """A server that answers what the test says, in order; the last answer repeats. It remembers what was asked."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    async def handle(self, request: Request) -> Response:
        self.asked.append((request.method, str(request.url).split("/", 3)[3], dict(request.headers)))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Script]]:
    script = Script()
    methods = ["GET", "PUT", "POST"]
    app = Starlette(routes=[Route("/{path:path}", script.handle, methods=methods)])
    with serving(app, "script") as url:
        yield url, script


async def outcome(url: str, **options: Any) -> CleanRoomError:
    async with GovernanceUserClient(url, token=lambda: CANARY, timeout=1.0, **options) as client:
        with pytest.raises(CleanRoomError) as caught:
            await client.get_document("d")
    assert CANARY not in str(caught.value.to_dict())
    return caught.value


def cgs(status: int, code: str, **headers: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": "why"}}, status, headers=headers)


@pytest.mark.parametrize(
    ("answer", "kind", "code", "retryable"),
    [
        (cgs(404, "UserDocumentNotFound"), NotFound, "UserDocumentNotFound", False),
        (cgs(404, "ResourceNotFound"), InvalidInput, "ResourceNotFound", False),
        (cgs(404, "OidClaimMissing"), Refused, "OidClaimMissing", False),
        (Response("<h1>404</h1>", 404, media_type="text/html"), Unavailable, "GovernanceAnswerUnexpected", True),
        (JSONResponse({"detail": "not here"}, 404), Unavailable, "GovernanceAnswerUnexpected", True),
        (cgs(429, "TooManyRequests", **{"retry-after": "7"}), Unavailable, "TooManyRequests", True),
        (Response(status_code=429), Unavailable, "GovernanceThrottled", True),
        (cgs(503, "ViewNotKnown"), Unavailable, "ViewNotKnown", True),
        (Response("bad gateway", 502), Unavailable, "GovernanceUnavailable", True),
        (Response(status_code=500), Unavailable, "GovernanceUnavailable", True),
        (cgs(500, "InternalError"), Internal, "InternalError", False),
        (cgs(401, "InvalidAuthenticationInfo"), Refused, "InvalidAuthenticationInfo", False),
        (Response(status_code=401), Refused, "InvalidAuthenticationInfo", False),
        (cgs(403, "NotProposalApprover"), Refused, "NotProposalApprover", False),
        (cgs(400, "VerifySnpAttestationFailed"), Refused, "VerifySnpAttestationFailed", False),
        (cgs(400, "ReportDataMismatch"), Refused, "ReportDataMismatch", False),
        (cgs(400, "UserDocumentNotAccepted"), PreconditionFailed, "UserDocumentNotAccepted", False),
        (cgs(400, "UserDocumentModified"), Conflict, "UserDocumentModified", False),
        (cgs(400, "DataMissing"), InvalidInput, "DataMissing", False),
        (JSONResponse({"title": "validation", "errors": {}}, 400), InvalidInput, "BadRequest", False),
        (cgs(405, "UserDocumentAlreadyAccepted"), Conflict, "UserDocumentAlreadyAccepted", False),
        (cgs(405, "SigningKeyNotAvailable"), PreconditionFailed, "SigningKeyNotAvailable", False),
        (cgs(409, "BallotAlreadySubmitted"), Conflict, "BallotAlreadySubmitted", False),
        (cgs(412, "PreconditionFailed"), Conflict, "PreconditionFailed", False),
        (cgs(418, "Teapot"), Internal, "Teapot", False),
        (Response("no json", 200), Internal, "GovernanceAnswerMalformed", False),
        (JSONResponse({"id": "d"}, 200), Internal, "GovernanceAnswerMalformed", False),
        (Response(status_code=302, headers={"location": "http://127.0.0.1:9/"}), Unavailable, "GovernanceAnswerUnexpected", True),
    ],
)
async def test_every_answer_has_one_category(
    server: tuple[str, Script], answer: Response, kind: type[CleanRoomError], code: str, retryable: bool
) -> None:
    url, script = server
    script.answers = [answer]
    error = await outcome(url)
    assert (type(error), error.code, error.retryable) == (kind, code, retryable)
    if "retry-after" in answer.headers:
        assert error.details["retry_after"] == "7"


async def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await outcome(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (type(error), error.code, error.retryable) == (Unavailable, "GovernanceUnreachable", True)


async def test_an_unknown_host_name_is_kept_apart() -> None:
    error = await outcome("http://no-such-host.invalid")
    assert (type(error), error.code) == (Unavailable, "GovernanceNameNotResolved")


async def test_an_untrusted_certificate_is_refused_and_not_retried(tmp_path: Path) -> None:
    tls = LocalAuthority(tmp_path / "one").issue("server")
    other = LocalAuthority(tmp_path / "two").ca_file
    with serving(Starlette(), "untrusted", tls) as url:
        error = await outcome(url, ca_file=other)
    assert (type(error), error.code, error.retryable) == (Refused, "GovernanceCertificateUntrusted", False)


async def test_silence_is_a_timeout_and_a_broken_answer_a_lost_connection() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        writer.close()

    for behaviour, code in ((silent, "GovernanceTimeout"), (rude, "GovernanceConnectionLost")):
        async with await asyncio.start_server(behaviour, "127.0.0.1", 0) as listener:
            error = await outcome(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        assert (type(error), error.code) == (Unavailable, code)


async def test_a_url_that_is_none_is_invalid_input() -> None:
    assert (await outcome("ftp://x")).code == "GovernanceUrlInvalid"


def tx(status: str) -> Response:
    return JSONResponse({"transaction_id": "2.5", "status": status})


WRITTEN = Response(status_code=200, headers={"x-ms-ccf-transaction-id": "2.5"})


async def test_a_write_waits_for_its_commit(server: tuple[str, Script]) -> None:
    url, script = server
    script.asked.clear()
    script.answers = [WRITTEN, tx("Unknown"), tx("Pending"), tx("Committed")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        assert await client.put_document("d", "c", "x") == "2.5"
    assert [path for _, path, _ in script.asked] == ["app/userdocuments/d", *["app/tx?transaction_id=2.5"] * 3]


async def test_a_rolled_back_transaction_is_lost_and_may_be_repeated(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [WRITTEN, tx("Pending"), tx("Invalid")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        with pytest.raises(Unavailable) as lost:
            await client.put_document("d", "c", "x")
    assert (lost.value.code, lost.value.retryable) == ("TransactionLost", True)


async def test_waiting_for_commit_is_an_option_and_the_proxys_own_business(server: tuple[str, Script]) -> None:
    url, script = server
    for options in ({"await_commit": False}, {"mode": "cgs-client"}):
        script.asked.clear()
        script.answers = [WRITTEN]
        async with GovernanceUserClient(url, token=lambda: CANARY, **options) as client:  # type: ignore[arg-type]
            await client.put_document("d", "c", "x")
        assert len(script.asked) == 1


async def test_a_pending_transaction_has_a_deadline(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [tx("Pending")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        with pytest.raises(Unavailable) as pending:
            await client._channel.committed("2.5", within=0.1)
    assert pending.value.code == "TransactionNotCommitted"


async def test_history_that_is_loading_is_asked_again(server: tuple[str, Script]) -> None:
    url, script = server
    loading = Response(status_code=202, headers={"retry-after": "0"})
    script.answers = [loading, loading, JSONResponse({"value": [], "nextLink": "/app/contracts/c/events?from_seqno=5"}), loading]
    script.answers += [JSONResponse({"value": [{"scope": "", "id": "c", "seqno": 5, "timestamp": "0000000000005", "timestampIso": "x"}]})]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        events = [event async for event in client.events("c")]
    assert [event.seqno for event in events] == [5]


async def test_history_that_never_loads_is_unavailable(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [Response(status_code=202, headers={"retry-after": "0"})]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        with pytest.raises(Unavailable) as never:
            await client.latest_event("c")
    assert never.value.code == "HistoryNotReady"


@pytest.mark.parametrize("link", ["https://elsewhere.example/app/x", "//elsewhere.example/x"])
async def test_a_link_that_leaves_the_service_is_not_followed(server: tuple[str, Script], link: str) -> None:
    url, script = server
    script.answers = [JSONResponse({"value": [], "nextLink": link})]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        with pytest.raises(CleanRoomError) as leaving:
            _ = [event async for event in client.events("c")]
    assert leaving.value.code == "GovernanceLinkInvalid"


async def test_the_proxys_headers(server: tuple[str, Script], tmp_path: Path) -> None:
    url, script = server
    script.asked.clear()
    script.answers = [JSONResponse({"value": []})]
    certificate = tmp_path / "service.pem"
    certificate.write_text("PEM")

    async def token() -> str:
        return "fresh"

    options: dict[str, Any] = {"ccf_endpoint": "https://ccf.example", "service_cert": certificate}
    async with GovernanceUserClient(url, token=token, mode="cgs-client", **options) as client:
        await client.list_documents({"type": "dataset"})
    ((method, path, headers),) = script.asked
    assert (method, path) == ("GET", "userdocuments?labelSelector=type:dataset")
    assert headers["authorization"] == "Bearer fresh"
    assert headers["x-ms-auth-mode"] == "FromAuthHeader"
    assert headers["x-ms-ccf-endpoint"] == "https://ccf.example"
    assert headers["x-ms-service-cert"] == "UEVN"


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..")))
def test_an_id_is_always_one_segment(text: str) -> None:
    try:
        encoded = segment("id", text)
    except InvalidInput:
        assert any(0xD800 <= ord(character) <= 0xDFFF for character in text)
        return
    assert not set(encoded) & set("/?#& ")


@given(st.dictionaries(st.sampled_from(["id", "scope", "sub"]), st.text(st.characters(codec="utf-8")), max_size=3))
def test_a_query_says_what_was_meant_after_being_decoded_whole(values: dict[str, str]) -> None:
    from localcloud.cgs_http import parse_query

    try:
        text = query_string(values)
    except InvalidInput:
        assert any(set(value) & set("&=+") for value in values.values())
        return
    assert parse_query(text.removeprefix("?").encode()) == values


def test_every_category_is_one_of_the_vocabulary() -> None:
    from cleanroom.governance import faults

    assert set(faults._BY_CODE.values()) | set(faults._BY_STATUS.values()) <= set(CATEGORIES.values())
