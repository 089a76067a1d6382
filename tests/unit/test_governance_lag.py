"""The governance client against nodes that lag behind, and commits that take time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.errors import NotFound, Unavailable
from cleanroom.governance import GovernanceUserClient, LedgerPosition, commit_together, committed_later, committed_together
from cleanroom.governance.http import HttpChannel
from cleanroom.identifiers import TransactionId, is_older_transaction, latest_transaction
from localcloud.standins.serving import serving
from tests.patience import PATIENCE

HEADER = "x-ms-ccf-transaction-id"


class Network:
    """A governance network of two nodes. ``stale`` reads are answered by a node without the latest writes, per connection or in turns."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seqno, self.view, self.commit_after, self.lag, self.lost = 10, 2, 0.0, 0.0, False
        self.catches_up = False
        """Whether the node that lags has everything as soon as it has answered a read with an error."""
        self.written_at: dict[int, float] = {}
        self.requests: list[tuple[str, str]] = []
        self.connections: list[tuple[str, int]] = []

    def lags(self, request: Request) -> bool:
        """Every second connection leads to the node that lags."""
        assert request.client is not None
        if request.client not in self.connections:
            self.connections.append((request.client.host, request.client.port))
        return self.connections.index((request.client.host, request.client.port)) % 2 == 0

    def visible(self, request: Request) -> int:
        behind = self.lag if self.lags(request) else 0.0
        return max([10, *(seqno for seqno, at in self.written_at.items() if time.monotonic() - at >= behind)])

    async def handle(self, request: Request) -> Response:
        path = request.url.path
        self.requests.append((request.method, path))
        seen = self.visible(request)
        if path == "/app/tx":
            view, seqno = map(int, request.query_params["transaction_id"].split("."))
            known = seqno <= seen and view == self.view
            age = time.monotonic() - self.written_at.get(seqno, 0.0)
            status = "Invalid" if self.lost else "Unknown" if not known else "Committed" if age >= self.commit_after else "Pending"
            return JSONResponse({"status": status})
        if request.method == "PUT":
            self.seqno += 1
            self.written_at[self.seqno] = time.monotonic()
            return Response(status_code=200, headers={HEADER: f"{self.view}.{self.seqno}"})
        if path.endswith("/missing") or (path.startswith("/app/userdocuments/d") and seen == 10):
            self.lag = 0.0 if self.catches_up else self.lag
            return JSONResponse({"error": {"code": "UserDocumentNotFound", "message": "no"}}, 404)
        body = {"id": "d", "state": "Draft", "version": f"{self.view}.{seen}"}
        return JSONResponse(body, headers={HEADER: f"{self.view}.{seen}"})


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Network]]:
    network = Network()
    app = Starlette(routes=[Route("/{path:path}", network.handle, methods=["GET", "PUT", "POST"])])
    with serving(app, "governance") as url:
        yield url, network


@pytest.fixture
def network(served: tuple[str, Network]) -> tuple[str, Network]:
    served[1].reset()
    return served


def client(url: str, position: LedgerPosition | None = None) -> GovernanceUserClient:
    return GovernanceUserClient(url, token=lambda: "token", position=position)


# -- the order of transactions


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_transaction_id_survives_its_text(view: int, seqno: int) -> None:
    assert TransactionId.parse(f"{view}.{seqno}") == TransactionId(view, seqno)


@pytest.mark.parametrize("text", ["", None, "2", "2.", ".5", "2.5.1", "-2.5", "2.-5", "2,5", " 2.5", "2.5\n", "1e3.5", "2." + "9" * 19])
def test_another_text_is_no_transaction_id(text: str | None) -> None:
    assert TransactionId.parse(text) is None


@pytest.mark.parametrize(
    ("ledger", "transaction", "included"),
    [
        ("2.10", "2.9", True),
        ("2.10", "2.10", True),
        ("2.9", "2.10", False),
        ("2.100", "2.99", True),  # numbers, not texts
        ("3.11", "2.10", True),
        ("3.9", "2.10", False),  # a new primary without it: rolled back
        ("2.15", "3.11", False),  # longer, but of an older view
    ],
)
def test_a_ledger_includes_what_both_numbers_reach(ledger: str, transaction: str, included: bool) -> None:
    first, second = TransactionId.parse(ledger), TransactionId.parse(transaction)
    assert first is not None
    assert second is not None
    assert first.includes(second) is included


def test_a_smaller_sequence_number_is_older_in_every_view() -> None:
    assert [is_older_transaction(text, "2.10") for text in ("3.9", "2.9", "2.10", "")] == [True, True, False, False]
    assert not is_older_transaction("2.1", "")
    assert latest_transaction("2.9", "", "2.10", "x") == "2.10"
    assert latest_transaction("2.15", "3.11") == "3.11"
    assert latest_transaction("", "x") == ""


# -- reads


async def test_a_read_after_a_write_is_not_answered_by_a_node_without_it(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.lag = 3600.0
    async with client(url) as governance, commit_together():
        await governance.get_document("x")  # the first connection leads to the node that lags
        written = await governance.put_document("d", "c", "x")
        assert (await governance.get_document("x")).version == written
    reads = [path for _, path in nodes.requests].count("/app/userdocuments/x")
    assert reads > 2, "the node that lags was not asked first"


async def test_two_clients_of_one_process_share_what_they_have_seen(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.lag = 0.4
    async with client(url) as writer, client(url, writer.position) as reader, commit_together():
        await reader.get_document("x")  # on the node that lags
        written = await writer.put_document("d", "c", "x")
        versions = {(await reader.get_document("x")).version for _ in range(3)}
    assert versions == {written}


async def test_a_document_that_was_just_written_is_not_missing(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.lag = 0.6
    async with client(url) as governance, commit_together():
        await governance.put_document("d", "c", "x")
        assert (await governance.get_document("d")).id == "d"


async def test_a_missing_document_is_reported_at_once_by_a_node_that_has_seen_enough(network: tuple[str, Network]) -> None:
    url, nodes = network
    async with client(url) as governance:
        await governance.put_document("d", "c", "x")
        with pytest.raises(NotFound):
            await governance.get_document("missing")
    assert [path for _, path in nodes.requests].count("/app/userdocuments/missing") == 2, "one read, and one that confirms it"


async def test_an_error_of_a_node_that_catches_up_after_it_is_not_believed(network: tuple[str, Network]) -> None:
    url, nodes = network
    async with client(url) as governance:
        await governance.put_document("d1", "c", "x")
    nodes.lag, nodes.catches_up = 3600.0, True
    nodes.connections.clear()
    async with client(url, LedgerPosition(floor=TransactionId(2, 11))) as governance:
        assert (await governance.get_document("d1")).version == "2.11"


async def test_a_missing_document_is_not_believed_while_the_node_lags(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.lag = 0.5
    async with client(url) as governance, commit_together():
        await governance.put_document("d", "c", "x")
        with pytest.raises(NotFound):
            await governance.get_document("missing")
    reads = [path for method, path in nodes.requests if path.endswith("missing")]
    assert len(reads) > 1


async def test_a_node_that_stays_behind_is_an_error_that_can_be_retried(
    network: tuple[str, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanroom.governance.http.BEHIND_SECONDS", 0.3)
    url, nodes = network
    async with client(url) as governance:
        await governance.put_document("d", "c", "x")
        nodes.written_at.clear()  # the nodes no longer show the write
        for document in ("d", "other"):
            with pytest.raises(Unavailable) as behind:
                await governance.get_document(document)
            assert (behind.value.code, behind.value.retryable) == ("GovernanceBehind", True)


async def test_a_transaction_that_was_rolled_back_is_no_longer_demanded(network: tuple[str, Network]) -> None:
    url, nodes = network
    async with client(url) as governance:
        await governance.put_document("d", "c", "x")
        nodes.written_at.clear()
        nodes.view, nodes.lost = 3, True
        assert (await governance.get_document("x")).version == "3.10"
        assert str(governance.position) == "3.10"


async def test_the_proxy_repeats_an_error_that_follows_a_write(network: tuple[str, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanroom.governance.http.ABSENCE_SECONDS", PATIENCE)
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        if request.method == "PUT":
            return httpx.Response(200, headers={HEADER: "2.11"})
        if len(calls) < 5:
            return httpx.Response(404, json={"error": {"code": "UserDocumentNotFound", "message": "no"}})
        return httpx.Response(200, json={"id": "d", "state": "Draft"}, headers={HEADER: "2.11"})

    channel = HttpChannel("https://proxy", commit_path=None)
    channel._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with channel:
        await channel.write("PUT", "/userdocuments/d")
        assert (await channel.call("GET", "/userdocuments/d"))["id"] == "d"


# -- what another process has seen


async def test_catching_up_waits_for_what_another_process_has_seen(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.lag = 0.4
    async with client(url) as reader, client(url) as writer:
        await reader.get_document("x")  # on the node that lags
        hint = await writer.put_document("d", "c", "x")
        assert hint is not None
        await reader.catch_up(hint)
        assert str(reader.position) == hint
        assert (await reader.get_document("d")).version == hint


async def test_an_invented_transaction_delays_and_is_not_remembered(network: tuple[str, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanroom.governance.http.BEHIND_SECONDS", 0.2)
    url, nodes = network
    async with client(url) as governance:
        with pytest.raises(Unavailable) as behind:
            await governance.catch_up("2.99999")
        assert behind.value.code == "GovernanceBehind"
        for nothing in ("", "x", "2", "9" * 40):
            await governance.catch_up(nothing)
        nodes.lost = True
        await governance.catch_up("2.99999")
        assert str(governance.position) == ""
        await governance.get_document("x")


async def test_the_next_read_waits_for_an_expected_transaction(network: tuple[str, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    url, nodes = network
    nodes.lag = 0.4
    async with client(url) as reader, client(url) as writer:
        await reader.get_document("x")  # on the node that lags
        reader.position.expected = str(await writer.put_document("d", "c", "x"))
        assert (await reader.get_document("d")).version == str(writer.position)
        monkeypatch.setattr("cleanroom.governance.http.BEHIND_SECONDS", 0.2)
        reader.position.expected = "2.99999"
        assert (await reader.get_document("d")).version == str(writer.position), "an invented one only delays"
        assert reader.position.expected == ""


async def test_a_proxy_without_transactions_is_not_asked_to_catch_up() -> None:
    calls: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(200, json={})

    channel = HttpChannel("https://proxy", commit_path=None, probe="/probe")
    channel._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with channel:
        await channel.catch_up("2.7")
    assert calls == ["/probe"]


# -- commits


async def test_writes_sent_together_are_committed_in_one_interval_and_share_their_polls(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.commit_after = 0.5
    async with client(url) as governance:
        began = time.monotonic()
        await asyncio.gather(*(governance.put_document(f"d{number}", "c", "x") for number in range(20)))
        seconds = time.monotonic() - began
    polls = sum(path == "/app/tx" for _, path in nodes.requests)
    # One after the other, they would take 10 s and 20 polls at least.
    assert 0.4 < seconds < 8
    assert polls < 40


async def test_a_commit_is_asked_of_another_node_when_the_first_does_not_know_the_write(network: tuple[str, Network]) -> None:
    url, state = network
    state.lag = 3600.0
    async with client(url) as governance:
        await governance.put_document("late", "c", "x")
    assert [path for _, path in state.requests].count("/app/tx") > 1


async def test_a_block_of_writes_waits_once_for_their_commits(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.commit_after = 0.5
    async with client(url) as governance:
        began = time.monotonic()
        async with commit_together():
            for number in range(5):
                async with commit_together():
                    await governance.put_document(f"d{number}", "c", "x")
            assert "/app/tx" not in [path for _, path in nodes.requests]
        assert time.monotonic() - began > 0.4
        began = time.monotonic()
        await governance.put_document("d", "c", "x")
        assert time.monotonic() - began > 0.4


async def test_a_block_reports_a_write_that_was_rolled_back(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.lost = True
    async with client(url) as governance:
        with pytest.raises(Unavailable) as lost:
            async with commit_together():
                await governance.put_document("d", "c", "x")
        assert lost.value.code == "TransactionLost"
        assert str(governance.position) == ""


async def test_a_block_that_fails_waits_for_the_writes_that_undo_its_work(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.commit_after = 0.4
    async with client(url) as governance:

        @committed_together
        async def fail() -> None:
            await governance.put_document("d", "c", "x")
            raise NotFound("RunClosed", "undone")

        began = time.monotonic()
        with pytest.raises(NotFound):
            await fail()
        assert time.monotonic() - began > 0.3


async def test_a_commit_that_is_left_to_the_next_write_is_awaited_there(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.commit_after = 0.5
    async with client(url) as governance:

        @committed_later
        async def write() -> None:
            await governance.put_document("d", "c", "x")

        began = time.monotonic()
        await write()
        assert "/app/tx" not in [path for _, path in nodes.requests]
        await governance.put_document("d", "c", "x")
        assert time.monotonic() - began > 0.4
        await write()
        nodes.lost = True
        with pytest.raises(Unavailable) as lost:
            await governance.put_document("d", "c", "x")
        assert lost.value.code == "TransactionLost"


async def test_a_task_that_outlives_its_block_waits_for_its_own_commits(network: tuple[str, Network]) -> None:
    url, nodes = network
    nodes.commit_after = 0.4
    released = asyncio.Event()

    async def late(governance: GovernanceUserClient) -> float:
        await released.wait()
        began = time.monotonic()
        await governance.put_document("d", "c", "x")
        return time.monotonic() - began

    async with client(url) as governance:
        async with commit_together():
            task = asyncio.create_task(late(governance))
            await asyncio.sleep(0)
        released.set()
        assert await task > 0.3
