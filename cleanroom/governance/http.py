"""HTTP to one governance endpoint: JSON, errors, redirects to the primary, commits, and answers that are not stale."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import httpx

from cleanroom.errors import Internal, InvalidInput, Unavailable
from cleanroom.governance import faults
from cleanroom.governance.certificates import tls_context
from cleanroom.governance.commits import COMMIT_SECONDS, CommitWatch, await_commit
from cleanroom.governance.position import LedgerPosition, observe
from cleanroom.governance.urls import require_encrypted
from cleanroom.identifiers import TransactionId
from cleanroom.transport import async_http_client, retry_after_seconds

TokenProvider = Callable[[], str | Awaitable[str]]
"""Returns a bearer token for one request; may be a coroutine function."""

TRANSACTION_HEADER: Final = "x-ms-ccf-transaction-id"
UNCOMMITTED_PAUSES: Final = (0.05, *(0.1,) * 40)
"""Seconds between reads of a ledger range whose end is not committed yet on the node that answers."""
BEHIND_SECONDS: Final = 10.0
"""A read waits at most this long for a node that has seen what this process has seen."""
ABSENCE_SECONDS: Final = 2.0
"""Through cgs-client, an error that follows a write is believed only after this time, because it names no transaction."""
_BEHIND_PAUSES: Final = (0.02, 0.05, 0.1, 0.2)
_STATE_ERRORS: Final = frozenset({403, 404, 409, 500})
"""Statuses with which a node that lags behind can answer a read: it does not know the document, the user or the grant yet."""
_HISTORY_ATTEMPTS: Final = 30
_HISTORY_WAIT: Final = 5.0
_EARLY_READS: Final = (0.05, 0.2)
"""Longest first waits for a range. A node usually loads one in less than the whole second that ``Retry-After`` can express."""
_MAX_REDIRECTS: Final = 3
_BEARER: Final = re.compile(r"Bearer [\x21-\x7e]+")
_HEADER: Final = re.compile(r"[\x20-\x7e]*")


class AsyncCloseable(ABC):
    """An object that ``async with`` closes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


class HttpChannel(AsyncCloseable):
    """Sends requests to one base URL. Each returns a 2xx response or raises a :class:`~cleanroom.errors.CleanRoomError`.

    A CCF node that is not the primary redirects with 307 or 308. The channel follows such a redirect to the same host, or to any host
    whose certificate chains to ``ca_file``, because only nodes of this network have one. It follows no other redirect.

    Reads never go backwards: an answer that is older than ``position`` is requested again, from another node if there is one.

    Args:
        base_url: Prefix of every path.
        token: Bearer token provider, called for each request.
        ca_file: PEM roots, such as a CCF network's service certificate. Without it, the operating system's roots.
        client_cert: (certificate, key) PEM files of a member.
        headers: Sent with every request. Values of headers other than ``x-ms-*`` are treated as credentials.
        timeout: Seconds for one request.
        commit_path: Route that returns a transaction's status. ``None`` for a proxy that waits for commits itself.
        probe: A read that any caller may send, for such a proxy.
        position: What this process has seen in the ledger. Clients of one process that depend on each other share it.

    Raises:
        InvalidInput: ``GovernanceUrlInsecure`` for plain HTTP to another machine; ``GovernanceCertificateFileInvalid``,
            ``GovernanceHeaderMalformed``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: TokenProvider | None = None,
        ca_file: Path | None = None,
        client_cert: tuple[Path, Path] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        commit_path: str | None = "/app/tx",
        probe: str = "",
        position: LedgerPosition | None = None,
    ) -> None:
        require_encrypted(base_url)
        self._base = base_url.rstrip("/")
        self._token = token
        self._commit_path = commit_path
        self._probe = probe
        self.position = LedgerPosition() if position is None else position
        self._commits = CommitWatch(self._transaction_status)
        self._unknown_status = False
        """Whether the last node that was asked for a commit did not know the transaction."""
        self._nodes: weakref.WeakKeyDictionary[Any, TransactionId] = weakref.WeakKeyDictionary()
        """The latest transaction that each connection has shown. A connection leads to one node."""
        self._pinned = ca_file is not None
        self._credentials = [
            value.removeprefix("Bearer ") for name, value in (headers or {}).items() if not name.lower().startswith("x-ms-")
        ]
        for name, value in (headers or {}).items():
            if not _HEADER.fullmatch(value):
                raise InvalidInput(
                    "GovernanceHeaderMalformed",
                    f"The value of header {name} contains characters that HTTP does not allow.",
                    hint="Check the member token file.",
                )
        # As many as the releases of a run use at the same time. All are kept: a TLS handshake costs more than several requests.
        # Shorter than the idle timeout of common servers (5 s), so that no request goes into a connection that the server is closing.
        limits = httpx.Limits(max_connections=50, max_keepalive_connections=50, keepalive_expiry=4.0)
        self._client = async_http_client(tls_context(ca_file, client_cert), headers=dict(headers or {}), timeout=timeout, limits=limits)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._commits.close()
        await self._client.aclose()

    async def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        token = self._token()
        if inspect.isawaitable(token):
            token = await token
        return {"authorization": f"Bearer {token}"}

    async def send(self, method: str, path: str, *, json: Any = None, hide: Sequence[str] = ()) -> httpx.Response:
        """Send one request.

        Args:
            method: The HTTP method.
            path: The path with its query.
            json: The body.
            hide: Texts that no error may repeat, such as the body's secrets.

        Raises:
            CleanRoomError: The status is not 2xx, or there was no response; see :mod:`cleanroom.governance.faults`.
        """
        return self._successful(await self._exchange(method, path, json=json), method, path, hide)

    async def _exchange(self, method: str, path: str, *, json: Any = None, close: bool = False) -> httpx.Response:
        """Send one request and return the response, whatever its status. ``close`` gives up the connection afterwards."""
        headers = await self._authorization()
        if "authorization" in headers and not _BEARER.fullmatch(headers["authorization"]):
            # Checked here, because httpx would quote the token in its error.
            raise InvalidInput(
                "BearerTokenMalformed",
                "The bearer token is empty or contains characters that HTTP does not allow.",
                hint="Check the credential.",
            )
        if close:
            headers["connection"] = "close"
        url = self._base + path
        try:
            response = await self._client.request(method, url, json=json, headers=headers)
            for _ in range(_MAX_REDIRECTS):
                primary = self._primary(response)
                if primary is None:
                    break
                response = await self._client.request(method, primary, json=json, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise faults.from_transport(error, f"{method} {path.partition('?')[0]}") from error
        return response

    def _successful(self, response: httpx.Response, method: str, path: str, hide: Sequence[str]) -> httpx.Response:
        if not 200 <= response.status_code < 300:
            bearer = response.request.headers.get("authorization", "").removeprefix("Bearer ")
            raise faults.from_response(response, f"{method} {path.partition('?')[0]}", hide=(bearer, *self._credentials, *hide))
        return response

    def _primary(self, response: httpx.Response) -> httpx.URL | None:
        """Return the target of a redirect to this network's primary, or ``None``."""
        if response.status_code not in (307, 308) or "location" not in response.headers:
            return None
        source = response.url
        target = source.join(response.headers["location"])
        same_host = target.host == source.host
        return target if target.scheme == source.scheme and (same_host or (self._pinned and target.scheme == "https")) else None

    # -- reads --------------------------------------------------------------------------------------------------------------------------

    async def read(self, method: str, path: str, *, json: Any = None, hide: Sequence[str] = ()) -> httpx.Response:
        """Send one read until a node answers that has seen what this process had seen before the call.

        Raises:
            Unavailable: ``GovernanceBehind`` if no node has after :data:`BEHIND_SECONDS`.
            CleanRoomError: As :meth:`send`.
        """
        expected, self.position.expected = self.position.expected, ""
        if expected:
            # The transaction is another process's word. If no node has it, the answer is as recent as it can be.
            with suppress(Unavailable):
                await self.catch_up(expected)
        floor = self.position.floor
        deadline = time.monotonic() + BEHIND_SECONDS
        attempt = 0
        while True:
            response = await self._exchange(method, path, json=json, close=attempt > 1)
            if floor is None or await self._is_current(response, floor):
                seen = TransactionId.parse(response.headers.get(TRANSACTION_HEADER))
                if seen is not None and response.is_success:
                    self._note(response, seen)
                return self._successful(response, method, path, hide)
            if self.position.floor is None:
                floor = None  # It was rolled back.
                continue
            pause = _BEHIND_PAUSES[min(attempt, len(_BEHIND_PAUSES) - 1)]
            if time.monotonic() + pause > deadline:
                raise _behind(floor, f"{method} {path.partition('?')[0]}")
            await asyncio.sleep(pause)
            attempt += 1

    def _note(self, response: httpx.Response, seen: TransactionId) -> None:
        """Take note of what the answer to a read has shown of its node."""
        self.position.advance(seen)
        observe(seen)
        node = response.extensions.get("network_stream")
        if node is not None:
            known = self._nodes.get(node)
            if known is None or seen.includes(known):
                self._nodes[node] = seen

    async def _is_current(self, response: httpx.Response, floor: TransactionId) -> bool:
        """Whether the node that sent ``response`` has seen ``floor``."""
        if response.status_code == 202 or not (response.is_success or response.status_code in _STATE_ERRORS):
            return True
        seen = TransactionId.parse(response.headers.get(TRANSACTION_HEADER))
        if seen is not None:
            if seen.view > floor.view and seen.seqno < floor.seqno:
                await self._node_status(floor)
            return seen.includes(floor)
        # The answer names no transaction; errors of CCF do not.
        if self._commit_path is None:
            return time.monotonic() - self.position.wrote_at > ABSENCE_SECONDS
        node = response.extensions.get("network_stream")
        known = self._nodes.get(node) if node is not None else None
        if known is not None and known.includes(floor):
            return True
        # The node may have caught up after its answer. What it says now counts for the next question to it.
        _, has = await self._node_status(floor)
        return has and node is None

    async def _node_status(self, floor: TransactionId) -> tuple[Any, bool]:
        """Ask a node whether it has ``floor``. Return its connection and the answer. A transaction that was rolled back is forgotten."""
        path = f"{self._commit_path}?transaction_id={floor}"
        response = self._successful(await self._exchange("GET", path), "GET", path, ())
        status = _status_of(response)
        node = response.extensions.get("network_stream")
        if status == "Invalid":
            self.position.forget(floor)
        has = status in ("Committed", "Pending")
        if has and node is not None:
            known = self._nodes.get(node)
            if known is None or floor.includes(known):
                self._nodes[node] = floor
        return node, has

    async def call(self, method: str, path: str, *, json: Any = None, hide: Sequence[str] = ()) -> Any:
        """Send one read and return the JSON of the response, or ``None`` for an empty body. See :meth:`read`."""
        return body_of(await self.read(method, path, json=json, hide=hide))

    async def catch_up(self, hint: str) -> None:
        """Wait until governance shows the transaction ``hint``, which another process has seen.

        The hint can delay this process, and nothing else: a transaction that governance does not confirm is not remembered, and one
        that was rolled back is ignored.

        Args:
            hint: A transaction ID, or any other text, which is ignored.

        Raises:
            Unavailable: ``GovernanceBehind``.
        """
        wanted = TransactionId.parse(hint)
        deadline = time.monotonic() + BEHIND_SECONDS
        attempt = 0
        while wanted is not None:
            if self.position.floor is not None and self.position.floor.includes(wanted):
                return
            status = "Unknown"
            if self._commit_path is None:
                if TRANSACTION_HEADER not in (await self.read("GET", self._probe)).headers:
                    return  # Nothing would ever show that the proxy's node has it.
            else:
                path = f"{self._commit_path}?transaction_id={wanted}"
                status = _status_of(self._successful(await self._exchange("GET", path, close=attempt > 1), "GET", path, ()))
            if status == "Invalid":
                return
            if status in ("Committed", "Pending"):
                self.position.advance(wanted)
                return
            pause = _BEHIND_PAUSES[min(attempt, len(_BEHIND_PAUSES) - 1)]
            if time.monotonic() + pause > deadline:
                raise _behind(wanted, "GET transaction status")
            await asyncio.sleep(pause)
            attempt += 1

    # -- writes -------------------------------------------------------------------------------------------------------------------------

    async def write(self, method: str, path: str, *, json: Any = None, hide: Sequence[str] = ()) -> tuple[Any, str | None]:
        """Send one write, wait until it is committed, and return (JSON or ``None``, transaction ID).

        Later reads demand at least this transaction. Inside of :func:`~cleanroom.governance.commits.commit_together`, the end of that
        block waits for the commit.
        """
        response = await self.send(method, path, json=json, hide=hide)
        transaction = response.headers.get(TRANSACTION_HEADER)
        written = TransactionId.parse(transaction)
        self.position.wrote(written)
        if written is not None and self._commit_path is not None:
            await await_commit(self._commits, written)
        return body_of(response), transaction

    async def wait_for_commit(self, transaction: str, *, within: float = COMMIT_SECONDS) -> None:
        """Wait until a transaction is globally committed (docs/facts/governance-service.md#transactions).

        Raises:
            Unavailable: ``TransactionLost``, ``TransactionNotCommitted``, as :meth:`CommitWatch.wait`.
        """
        written = TransactionId.parse(transaction)
        if written is not None:
            await self._commits.wait(written, within=within)

    async def _transaction_status(self, transaction: TransactionId) -> str:
        path = f"{self._commit_path}?transaction_id={transaction}"
        # A node that does not know the transaction yet may never know it. So the next question goes to another one.
        response = await self._exchange("GET", path, close=self._unknown_status)
        status = _status_of(self._successful(response, "GET", path, ()))
        self._unknown_status = status == "Unknown"
        if status == "Invalid":
            self.position.forget(transaction)
        return status

    async def history(self, path: str) -> Any:
        """Read a ledger range, and wait while the node loads it (202) or commits its end (500 ``InternalError``).

        Raises:
            Unavailable: ``HistoryNotReady`` if the node still loads the range after 30 attempts.
        """
        pauses = iter(UNCOMMITTED_PAUSES)
        early = iter(_EARLY_READS)
        for _ in range(_HISTORY_ATTEMPTS):
            try:
                response = await self.read("GET", path)
            except Internal as error:
                pause = next(pauses, None)
                if error.code != "InternalError" or pause is None:
                    raise
                await asyncio.sleep(pause)
                continue
            if response.status_code != 202:
                return body_of(response)
            wait = retry_after_seconds(response.headers.get("retry-after"))
            await asyncio.sleep(min(1.0 if wait is None else wait, next(early, _HISTORY_WAIT)))
        raise Unavailable("HistoryNotReady", "The governance node has not loaded the ledger range yet.", hint="Try again in a minute.")


def body_of(response: httpx.Response) -> Any:
    """Return the JSON of a successful response, or ``None`` for an empty body.

    Raises:
        Unavailable: ``GovernanceAnswerUnexpected`` if the body is a web page.
        Internal: ``GovernanceAnswerMalformed`` if it is not JSON otherwise.
    """
    if not response.content:
        return None
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        message = "The governance service returned a body that is not JSON."
        if faults.is_page(response):
            raise Unavailable("GovernanceAnswerUnexpected", message, hint=faults.WRONG_SERVICE) from error
        raise Internal("GovernanceAnswerMalformed", message, hint=faults.WRONG_SERVICE) from error


def _status_of(response: httpx.Response) -> str:
    """Return the status in an answer about a transaction; ``Unknown`` for an answer of another shape."""
    body = body_of(response)
    return str(body.get("status")) if isinstance(body, dict) else "Unknown"


def _behind(floor: TransactionId, operation: str) -> Unavailable:
    return Unavailable(
        "GovernanceBehind",
        f"No node of the governance service that answered has seen transaction {floor} after {BEHIND_SECONDS:g} s.",
        hint="Check that its nodes replicate. Restart this process if the service was replaced or recovered from a backup.",
        party="governance operator",
        details={"operation": operation, "transaction": str(floor)},
    )
