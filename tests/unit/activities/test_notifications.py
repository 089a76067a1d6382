"""Reminders that a worker posts to its webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from activities.notifications import Notifications
from cleanroom.errors import CleanRoomError
from cleanroom.messages.query import NotifyRequest
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.settings import NotificationSettings, Settings
from localcloud.standins.serving import serving
from tests.hostile_server import RESET, HostileServer, hostile_server, http_response
from tests.refusals import refused
from tests.unit.activities.governance import COLLABORATION, Caller, Governance

PATH = "/hooks/a-secret-token"
REQUEST = NotifyRequest(
    collaboration=COLLABORATION,
    query="totals",
    proposal_id="p-1",
    kind="reminder",
    recipient="contosso",
    expires=datetime(2026, 12, 14, 9, 30, tzinfo=UTC),
)


class Worker:
    """A worker whose governance holds a query that is proposed to two owners."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.governance, self.file = Governance(), folder / "url"
        parties = {name: f"u-{name}" for name in ("contosso", "litware", "fabrikam")}
        settings = Settings(collaboration=COLLABORATION, party="contosso", parties=parties)
        if url is not None:
            self.file.write_text(f"{url}\n")
            self.file.chmod(0o600)
            settings = settings.model_copy(update={"notifications": NotificationSettings(url_file=self.file)})
        client: Any = Caller(self.governance, "u-fabrikam")
        self.documents = UserDocuments(client, COLLABORATION)
        self.notifications = Notifications(settings, self.documents)

    async def propose(self) -> None:
        version = await self.documents.put_draft("totals", "SELECT secret_column", {}, ["u-contosso", "u-litware"])
        await self.documents.propose("totals", version, "p-1")

    async def vote(self, *users: str) -> None:
        for user in users:
            await Caller(self.governance, user).submit_ballot("p-1", accept=True)

    async def notify(self, **changes: Any) -> tuple[bool, str]:
        found = await self.notifications.notify(REQUEST.model_copy(update=changes))
        return found.sent, found.reason


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, list[tuple[dict[str, str], dict[str, Any]]]]]:
    """A webhook: its URL, and the headers and bodies that it received."""
    received: list[tuple[dict[str, str], dict[str, Any]]] = []

    async def receive(request: Request) -> Response:
        received.append((dict(request.headers), json.loads(await request.body())))
        return Response(status_code=202)

    with serving(Starlette(routes=[Route(PATH, receive, methods=["POST"])]), "hook") as url:
        yield url, received


@pytest.fixture
async def worker(hook: tuple[str, list[Any]], tmp_path: Path) -> Worker:
    hook[1].clear()
    found = Worker(tmp_path, hook[0] + PATH)
    await found.propose()
    return found


async def test_a_reminder_names_the_query_and_whom_governance_waits_for_and_retries_have_one_id(worker: Worker, hook: Any) -> None:
    await worker.vote("u-litware")
    assert [await worker.notify(), await worker.notify()] == [(True, "")] * 2
    (first, body), (second, again) = hook[1]
    assert body == again == {
        "type": "cleanroom.query.reminder", "collaboration": COLLABORATION, "query": "totals", "recipient": "contosso",
        "waitingFor": ["contosso"], "expires": "2026-12-14T09:30:00+00:00",
        "text": "Query totals waits for the decision of contosso until 2026-12-14 09:30 UTC.",
    }  # fmt: skip
    assert first["webhook-id"] == second["webhook-id"] == first["idempotency-key"]
    assert (await worker.notify(kind="escalation"))[0]
    assert hook[1][-1][0]["webhook-id"] != first["webhook-id"]


@pytest.mark.parametrize("kind", ["reminder", "escalation", "last-reminder"])
async def test_nothing_is_posted_that_governance_does_not_confirm(worker: Worker, hook: Any, kind: Any) -> None:
    """Anyone who reaches Temporal can schedule the activity."""
    late = (False, "governance does not wait any longer")
    assert await worker.notify(kind=kind, proposal_id="p-2") == late
    assert await worker.notify(kind=kind, query="another") == late
    assert await worker.notify(kind="renewal") == late
    await worker.vote("u-contosso", "u-litware")
    assert await worker.notify(kind=kind) == late
    assert await refused(worker.notify(collaboration="other")) == "CollaborationMismatch"
    assert hook[1] == []
    assert (await worker.notify(kind="renewal"))[0]


async def test_a_worker_without_a_webhook_posts_nothing(tmp_path: Path) -> None:
    worker = Worker(tmp_path, None)
    await worker.propose()
    assert await worker.notify() == (False, "no webhook is set")


@pytest.mark.parametrize("url", ["http://hooks.example/x", "ftp://hooks.example", "https://", "", "x", "http://[bad", "//localhost/x"])
async def test_only_https_urls_and_this_machine_are_accepted(tmp_path: Path, url: str) -> None:
    worker = Worker(tmp_path, url)
    await worker.propose()
    assert await refused(worker.notify()) in ("WebhookUrlRefused", "SecretEmpty")


async def test_a_url_file_that_others_can_read_is_refused(worker: Worker) -> None:
    worker.file.chmod(0o644)
    assert await refused(worker.notify()) == "SecretFileTooOpen"


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (http_response("503 Busy", retry_after="7"), "WebhookFailed", True),
        (http_response("429 Slow", retry_after="7"), "WebhookFailed", True),
        (http_response("404 Gone"), "WebhookFailed", False),
        (http_response("302 Found", location="http://169.254.169.254/"), "WebhookFailed", False),
        (RESET, "WebhookUnreachable", True),
        (b"not http", "WebhookUnreachable", True),
    ],
)
async def test_a_webhook_that_fails_is_retried_if_it_may_recover_and_its_url_is_in_no_error(
    tmp_path: Path, answer: bytes, code: str, retryable: bool
) -> None:
    server: HostileServer
    with hostile_server(None) as server:
        server.answer = answer
        worker = Worker(tmp_path, server.url + PATH)
        await worker.propose()
        with pytest.raises(CleanRoomError) as caught:
            await worker.notify()
        assert (caught.value.code, caught.value.retryable, len(server.requests)) == (code, retryable, 1)
        assert "secret" not in str(caught.value.to_dict())
        assert caught.value.__cause__ is None
