"""Errors of the governance client when the service is unreachable, throttled, malformed or another server."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
from collections.abc import Iterator
from email.utils import format_datetime
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
from cleanroom.governance import GovernanceUserClient, faults
from cleanroom.governance.endpoint import proxy_headers
from cleanroom.governance.http import HttpChannel
from cleanroom.governance.urls import query_string, segment
from cleanroom.secret import Secret
from localcloud.standins.cgs.http import parse_query
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.patience import PATIENCE

CANARY = "token-canary-93f1"


class Script:
    """A server that returns the given answers in order, repeats the last one, and records the requests."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    async def handle(self, request: Request) -> Response:
        self.requests.append((request.method, str(request.url).split("/", 3)[3], dict(request.headers)))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Script]]:
    script = Script()
    methods = ["GET", "PUT", "POST"]
    app = Starlette(routes=[Route("/{path:path}", script.handle, methods=methods)])
    with serving(app, "script") as url:
        yield url, script


async def outcome(url: str, timeout: float = PATIENCE, **options: Any) -> CleanRoomError:
    async with GovernanceUserClient(url, token=lambda: CANARY, timeout=timeout, **options) as client:
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
        (cgs(500, "InternalError"), Internal, "InternalError", True),
        # The proxy's codes when it gets no answer from the application, and for its own errors.
        (cgs(500, "HttpRequestException"), Unavailable, "HttpRequestException", True),
        (cgs(500, "TaskCanceledException"), Unavailable, "TaskCanceledException", True),
        (cgs(500, "TimeoutException"), Unavailable, "TimeoutException", True),
        (cgs(500, "InvalidOperationException"), Internal, "InvalidOperationException", True),
        (cgs(500, "PrimaryNotFound"), Unavailable, "PrimaryNotFound", True),
        (cgs(404, "FrontendNotOpen"), Unavailable, "FrontendNotOpen", True),
        (cgs(404, "404"), Unavailable, "404", True),
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
async def test_error_responses_map_to_one_category(
    server: tuple[str, Script], answer: Response, kind: type[CleanRoomError], code: str, retryable: bool
) -> None:
    url, script = server
    script.answers = [answer]
    error = await outcome(url)
    assert (type(error), error.code, error.retryable) == (kind, code, retryable)
    if "retry-after" in answer.headers:
        # The member that becomes Temporal's next retry delay.
        assert error.details["retryAfter"] == 7.0


async def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await outcome(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (type(error), error.code, error.retryable) == (Unavailable, "GovernanceUnreachable", True)


async def test_an_unresolvable_host_name_has_its_own_code() -> None:
    error = await outcome("https://no-such-host.invalid")
    assert (type(error), error.code) == (Unavailable, "GovernanceNameNotResolved")


async def test_an_untrusted_certificate_is_refused_without_retry(tmp_path: Path) -> None:
    tls = LocalAuthority(tmp_path / "one").issue("server")
    other = LocalAuthority(tmp_path / "two").ca_file
    with serving(Starlette(), "untrusted", tls) as url:
        error = await outcome(url, ca_file=other)
    assert (type(error), error.code, error.retryable) == (Refused, "GovernanceCertificateUntrusted", False)


async def test_no_answer_is_a_timeout_and_a_truncated_answer_a_lost_connection() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def truncating(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        writer.close()

    for behaviour, code, timeout in ((silent, "GovernanceTimeout", 1.0), (truncating, "GovernanceConnectionLost", PATIENCE)):
        async with await asyncio.start_server(behaviour, "127.0.0.1", 0) as listener:
            error = await outcome(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", timeout)
        assert (type(error), error.code) == (Unavailable, code)


async def test_a_url_of_another_scheme_is_invalid_input() -> None:
    assert (await outcome("ftp://x")).code == "GovernanceUrlInvalid"


def tx(status: str) -> Response:
    return JSONResponse({"transaction_id": "2.5", "status": status})


WRITTEN = Response(status_code=200, headers={"x-ms-ccf-transaction-id": "2.5"})


async def test_a_write_waits_for_its_commit(server: tuple[str, Script]) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [WRITTEN, tx("Unknown"), tx("Pending"), tx("Committed")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        assert await client.put_document("d", "c", "x") == "2.5"
    assert [path for _, path, _ in script.requests] == ["app/userdocuments/d", *["app/tx?transaction_id=2.5"] * 3]


async def test_a_rolled_back_transaction_is_lost_and_retryable(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [WRITTEN, tx("Pending"), tx("Invalid")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        with pytest.raises(Unavailable) as lost:
            await client.put_document("d", "c", "x")
    assert (lost.value.code, lost.value.retryable) == ("TransactionLost", True)


async def test_the_proxy_waits_for_commits_itself(server: tuple[str, Script]) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [WRITTEN]
    async with GovernanceUserClient(url, token=lambda: CANARY, mode="cgs-client") as client:
        await client.put_document("d", "c", "x")
    assert len(script.requests) == 1


async def test_a_pending_transaction_has_a_deadline(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [tx("Pending")]
    async with HttpChannel(url) as channel:
        with pytest.raises(Unavailable) as pending:
            await channel.wait_for_commit("2.5", within=0.1)
    assert pending.value.code == "TransactionNotCommitted"


async def test_waiting_for_commit_survives_a_busy_node(server: tuple[str, Script]) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [WRITTEN, cgs(503, "ViewNotKnown"), Response(status_code=502), tx("Committed")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        assert await client.put_document("d", "c", "x") == "2.5"
    assert len(script.requests) == 4


async def test_a_range_that_ends_in_an_uncommitted_write_is_read_again(server: tuple[str, Script], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanroom.governance.http.UNCOMMITTED_PAUSES", (0.0, 0.0))
    url, script = server
    script.answers = [cgs(500, "InternalError"), JSONResponse({"value": []})]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        assert [event async for event in client.events("c")] == []
        script.answers = [cgs(500, "InternalError")]
        script.requests.clear()
        with pytest.raises(Internal):
            _ = [event async for event in client.events("c")]
    assert len(script.requests) == 3


async def test_a_redirect_to_the_primary_is_followed_but_not_in_a_loop(server: tuple[str, Script]) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [Response(status_code=307, headers={"location": f"{url}/primary"}), WRITTEN, tx("Committed")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        assert await client.put_document("d", "c", "x") == "2.5"
        assert [(method, path, headers["authorization"]) for method, path, headers in script.requests[:2]] == [
            ("PUT", "app/userdocuments/d", f"Bearer {CANARY}"),
            ("PUT", "primary", f"Bearer {CANARY}"),
        ]
        script.requests.clear()
        script.answers = [Response(status_code=308, headers={"location": "/again"})]
        with pytest.raises(Unavailable):
            await client.get_document("d")
    assert len(script.requests) == 4  # no redirect loop


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/elsewhere", "ftp://localhost/x", "http://[broken"])
async def test_a_redirect_to_another_host_is_not_followed(server: tuple[str, Script], location: str) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [Response(status_code=307, headers={"location": location})]
    error = await outcome(url)
    assert error.code in {"GovernanceAnswerUnexpected", "GovernanceUrlInvalid"}
    assert len(script.requests) == 1


def _reads(client: GovernanceUserClient) -> dict[str, Any]:
    return {
        "document": lambda: client.get_document("d"),
        "documents": client.list_documents,
        "proposal": lambda: client.get_proposal("p"),
        "status": lambda: client.proposal_status("p"),
        "ballot": lambda: client.submit_ballot("p", accept=True),
        "create": lambda: client.create_proposal("p", "d", {}, []),
        "consent": lambda: client.document_consent("c", "d"),
        "put_secret": lambda: client.put_secret("c", "s", Secret(b"v")),
        "secrets": lambda: client.list_secrets("c"),
        "delegate": lambda: client.delegate_policy("c", "t", "d"),
        "delegates": lambda: client.list_delegates("c"),
        "issuer": client.oidc_issuer_info,
        "key": client.generate_oidc_signing_key,
        "identities": client.list_identities,
        "invitations": client.list_invitations,
        "members": client.members,
        "contract": lambda: client.get_contract("c"),
    }


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"text"', b'{"value": 7, "claims": 7}', b'{"value": [7]}', b"[" * 100_000 + b"]" * 100_000]
)
async def test_a_success_of_another_shape_is_malformed_for_every_read(server: tuple[str, Script], body: bytes) -> None:
    url, script = server
    script.answers = [Response(body, 200, media_type="application/json")]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        for name, read in _reads(client).items():
            with pytest.raises(Internal) as malformed:
                await read()
            assert malformed.value.code == "GovernanceAnswerMalformed", name


@pytest.mark.parametrize("padding", ["", "x" * 950])
async def test_secrets_that_a_gateway_echoes_are_removed_from_the_error(server: tuple[str, Script], padding: str) -> None:
    url, script = server
    secret = 'connection-"canary"-\u00fc\n-93f1'
    for text in (
        f"{padding} you sent Bearer {CANARY} and member-canary-1",
        json.dumps({"value": secret, "of": CANARY, "by": "member-canary-1"}),
    ):
        script.answers = [Response(text, 400), JSONResponse({"error": {"code": "Odd", "message": text}}, 400)]
        async with GovernanceUserClient(url, token=lambda: CANARY, headers={"x-member": "member-canary-1"}) as client:
            for _ in range(2):
                with pytest.raises(CleanRoomError) as caught:
                    await client.put_secret("c", "s", Secret(secret.encode()))
                text_of_error = str(caught.value.to_dict())
                assert not [part for part in ("canary", "93f1", CANARY[:12]) if part in text_of_error]
                script.answers.reverse()


@pytest.mark.parametrize("token", ["", "canary\n", "canary two", "canär", "canary\r\nx-more: 1"])
async def test_a_token_with_invalid_characters_is_not_quoted(token: str) -> None:
    async with GovernanceUserClient("http://localhost:9", token=lambda: token) as client:
        with pytest.raises(InvalidInput) as malformed:
            await client.members()
    assert malformed.value.code == "BearerTokenMalformed"
    assert "can" not in str(malformed.value.to_dict()["cause"])
    with pytest.raises(InvalidInput) as header:
        GovernanceUserClient("http://localhost:9", headers={"x-member": f"canary\n{token}"})
    assert header.value.code == "GovernanceHeaderMalformed"
    assert "canary" not in str(header.value.to_dict())


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_an_invalid_certificate_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=str(file)) as invalid:
        GovernanceUserClient("https://localhost:9", ca_file=file)
    assert invalid.value.code == "GovernanceCertificateFileInvalid"
    if content is None:
        with pytest.raises(InvalidInput, match="GovernanceCertificateFileInvalid"):
            proxy_headers(None, file)


@pytest.mark.parametrize("style", ["", "/", "/app", "/app/"])
async def test_the_application_url_may_have_the_app_prefix(server: tuple[str, Script], style: str) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [JSONResponse({"value": []})]
    async with GovernanceUserClient(url + style, token=lambda: CANARY) as client:
        await client.list_documents()
        await client.members()
    assert [path for _, path, _ in script.requests] == ["app/userdocuments", "gov/service/members?api-version=2024-07-01"]


async def test_retry_after_may_be_a_date(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [cgs(503, "ViewNotKnown", **{"retry-after": format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(minutes=2))})]
    assert 100 < (await outcome(url)).details["retryAfter"] <= 120
    script.answers = [cgs(503, "ViewNotKnown", **{"retry-after": "soon"})]
    assert "retryAfter" not in (await outcome(url)).details


async def test_history_that_is_loading_is_read_again(server: tuple[str, Script]) -> None:
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


async def test_a_loop_of_page_links_is_malformed(server: tuple[str, Script]) -> None:
    url, script = server
    script.answers = [JSONResponse({"value": [], "nextLink": "/app/contracts/c/events?from_seqno=5"})]
    async with GovernanceUserClient(url, token=lambda: CANARY) as client:
        with pytest.raises(Internal, match="earlier page"):
            _ = [event async for event in client.events("c")]


async def test_proxy_mode_sends_its_headers(server: tuple[str, Script], tmp_path: Path) -> None:
    url, script = server
    script.requests.clear()
    script.answers = [JSONResponse({"value": []})]
    certificate = tmp_path / "service.pem"
    certificate.write_text("PEM")

    async def token() -> str:
        return "fresh"

    headers = proxy_headers("https://ccf.example", certificate)
    async with GovernanceUserClient(url, token=token, mode="cgs-client", headers=headers) as client:
        await client.list_documents({"type": "dataset"})
    ((method, path, headers),) = script.requests
    assert (method, path) == ("GET", "userdocuments")
    assert headers["authorization"] == "Bearer fresh"
    assert headers["x-ms-auth-mode"] == "FromAuthHeader"
    assert headers["x-ms-ccf-endpoint"] == "https://ccf.example"
    assert headers["x-ms-service-cert"] == "UEVN"


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..")))
def test_any_id_encodes_to_one_path_segment(text: str) -> None:
    try:
        encoded = segment("id", text)
    except InvalidInput:
        assert any(0xD800 <= ord(character) <= 0xDFFF for character in text)
        return
    assert not set(encoded) & set("/?#& ")


@given(st.dictionaries(st.sampled_from(["id", "scope", "sub"]), st.text(st.characters(codec="utf-8")), max_size=3))
def test_a_query_survives_being_decoded_as_a_whole(values: dict[str, str]) -> None:
    try:
        text = query_string(values)
    except InvalidInput:
        assert any(set(value) & set("&=+") for value in values.values())
        return
    assert parse_query(text.removeprefix("?").encode()) == values


def test_categories_are_concrete_error_classes() -> None:
    assert {*faults.CATEGORY_BY_CODE.values(), *faults.CATEGORY_BY_STATUS.values()} <= set(CATEGORIES.values())


@pytest.mark.parametrize(
    "url", ["http://governance.example", "http://10.1.2.3:8080/app", "http://127.0.0.1.example", "http://localhost.example"]
)
async def test_plain_http_to_another_machine_is_refused_before_a_token_is_requested(url: str) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append("asked")
        return "secret"

    for mode in ("app", "cgs-client"):
        with pytest.raises(InvalidInput, match="GovernanceUrlInsecure"):
            GovernanceUserClient(url, token=token, mode=mode)  # type: ignore[arg-type]
    assert asked == []


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "https://governance.example"])
async def test_https_and_loopback_are_accepted(url: str) -> None:
    await GovernanceUserClient(url).aclose()
