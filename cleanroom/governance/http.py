"""One HTTP connection pool to a governance surface: paths, queries, JSON, errors, and waiting for CCF's commit."""

from __future__ import annotations

import asyncio
import inspect
import re
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from cleanroom.errors import Internal, InvalidInput, Unavailable
from cleanroom.governance import faults
from cleanroom.transport import async_http_client, ssl_context

TokenProvider = Callable[[], str | Awaitable[str]]
"""Gives a bearer token for each request; may be a coroutine function."""

TRANSACTION_HEADER: Final = "x-ms-ccf-transaction-id"
_COMMIT_SECONDS: Final = 10.0
_HISTORY_TRIES: Final = 30
_HISTORY_WAIT: Final = 5.0
_UNCOMMITTED_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
_REDIRECTS: Final = 3
_BEARER: Final = re.compile(r"Bearer [\x21-\x7e]+")
_HEADER: Final = re.compile(r"[\x20-\x7e]*")


def segment(name: str, value: str) -> str:
    """An id as one path segment, percent-encoded once.

    Raises:
        InvalidInput: ``InvalidIdentifier`` for an empty id or one that URL handling would change.
    """
    try:
        encoded = quote(value, safe="")
    except UnicodeEncodeError:
        encoded = ""
    if encoded in ("", ".", ".."):
        raise InvalidInput("InvalidIdentifier", f"{name} {value!r} cannot be part of a URL.", hint="Use letters, digits, '.', '_' and '-'.")
    return encoded


def query_string(parameters: Mapping[str, str | int | None]) -> str:
    """``?a=b&...`` for a server that decodes the whole query before it splits it (spec/governance.md 1).

    Raises:
        InvalidInput: ``InvalidQueryValue`` for a value with ``&``, ``=`` or ``+``, which the service would read as something else.
    """
    parts = []
    for name, value in parameters.items():
        if value is None:
            continue
        text = str(value)
        if re.search(r"[&=+]", text):
            raise InvalidInput("InvalidQueryValue", f"{name} {text!r} has '&', '=' or '+', which the governance service would misread.")
        parts.append(f"{name}={quote(text, safe=':/,~@')}")
    return "?" + "&".join(parts) if parts else ""


def application_url(base_url: str) -> str:
    """The CCF node's URL; tools write it with and without the application's prefix ``/app``."""
    return base_url.rstrip("/").removesuffix("/app")


def read_certificate(file: Path) -> bytes:
    """A certificate file's bytes. Raises ``InvalidInput`` ``GovernanceCertificateFileInvalid``."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise _certificate_file([file], error) from error


def _certificate_file(files: Sequence[Path], error: OSError) -> InvalidInput:
    names = ", ".join(map(str, files))
    message = f"Of the certificate files of the governance service ({names}), one cannot be read or is not PEM."
    return InvalidInput("GovernanceCertificateFileInvalid", message, cause=str(error))


def _tls(ca_file: Path | None, client_cert: tuple[Path, Path] | None) -> ssl.SSLContext:
    try:
        return ssl_context(ca_file, client_cert=client_cert)
    except OSError as error:  # ssl.SSLError is one
        raise _certificate_file([file for file in (ca_file, *(client_cert or ())) if file is not None], error) from error


class Closing(ABC):
    """What is closed at the end of an ``async with``."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


class Channel(Closing):
    """Requests to one base URL. Answers 2xx or raises a :class:`cleanroom.errors.CleanRoomError`.

    A node that is not the primary may answer 307 or 308; that is followed to the same host, or to whichever host shows a certificate
    under ``ca_file``, which is what makes it a node of this network. Nothing else is followed.

    Args:
        base_url: Route paths are appended to it.
        token: Bearer token provider, asked for each request.
        ca_file: PEM roots of the service (a CCF network's service certificate); ``None`` uses the system's.
        client_cert: (certificate, key) PEM files of a member.
        headers: Sent with every request.
        timeout: Seconds for one request.

    Raises:
        InvalidInput: ``GovernanceCertificateFileInvalid``, ``GovernanceHeaderMalformed``.
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
    ) -> None:
        self._base = base_url.rstrip("/")
        self._token = token
        self._commit_path = commit_path
        self._pinned = ca_file is not None
        # What a caller gives beyond the proxy's own headers is a credential of theirs.
        self._hidden = [value.removeprefix("Bearer ") for name, value in (headers or {}).items() if not name.lower().startswith("x-ms-")]
        for name, value in (headers or {}).items():
            if not _HEADER.fullmatch(value):
                raise InvalidInput("GovernanceHeaderMalformed", f"The value of header {name} has characters that a header cannot carry.")
        context = _tls(ca_file, client_cert)
        # Idle connections go before a server's usual five seconds do, so that no request is sent into one that is just closing.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
        self._client = async_http_client(context, headers=dict(headers or {}), timeout=timeout, limits=limits)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        token = self._token()
        if inspect.isawaitable(token):
            token = await token
        return {"authorization": f"Bearer {token}"}

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        operation: str | None = None,
        hide: Sequence[str] = (),
    ) -> httpx.Response:
        """One request; raises for everything but 2xx (202 included in success). ``hide``: texts that no error may repeat."""
        what = operation or f"{method} {path.partition('?')[0]}"
        merged = await self._authorization()
        if headers:
            merged |= headers
        if "authorization" in merged and not _BEARER.fullmatch(merged["authorization"]):
            # An HTTP library would quote the token in its complaint.
            raise InvalidInput("BearerTokenMalformed", "The bearer token is empty or has characters that a header cannot carry.")
        url = self._base + path
        try:
            response = await self._client.request(method, url, json=json, headers=merged)
            for _ in range(_REDIRECTS):
                primary = self._primary(response)
                if primary is None:
                    break
                response = await self._client.request(method, primary, json=json, headers=merged)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise faults.from_transport(error, what) from error
        if not 200 <= response.status_code < 300:
            bearer = merged.get("authorization", "").removeprefix("Bearer ")
            raise faults.from_response(response, what, hide=(bearer, *self._hidden, *hide))
        return response

    def _primary(self, response: httpx.Response) -> httpx.URL | None:
        """Where a 307 or 308 leads, when that is this network's business."""
        if response.status_code not in (307, 308) or "location" not in response.headers:
            return None
        here = response.url
        there = here.join(response.headers["location"])
        same_host = there.host == here.host
        return there if there.scheme == here.scheme and (same_host or (self._pinned and there.scheme == "https")) else None

    async def call(
        self, method: str, path: str, *, json: Any = None, headers: Mapping[str, str] | None = None, hide: Sequence[str] = ()
    ) -> Any:
        """One request; the JSON of the answer, ``None`` for an empty body."""
        return body_of(await self.send(method, path, json=json, headers=headers, hide=hide))

    async def write(
        self, method: str, path: str, *, json: Any = None, await_commit: bool = True, hide: Sequence[str] = ()
    ) -> tuple[Any, str | None]:
        """A request with an effect: (JSON or ``None``, transaction id). With ``await_commit`` it returns when the effect cannot be lost."""
        response = await self.send(method, path, json=json, hide=hide)
        transaction = response.headers.get(TRANSACTION_HEADER)
        if await_commit and transaction is not None and self._commit_path is not None:
            await self.committed(transaction)
        return body_of(response), transaction

    async def committed(self, transaction: str, *, within: float = _COMMIT_SECONDS) -> None:
        """Wait until a transaction is globally committed.

        Raises:
            Unavailable: ``TransactionLost`` when a new primary rolled it back (safe to repeat), ``TransactionNotCommitted`` when it is
                still pending after ``within`` seconds (its effect is unknown).
        """
        deadline = time.monotonic() + within
        pause = 0.01
        while True:
            try:
                body = await self.call("GET", f"{self._commit_path}?transaction_id={transaction}")
                status = body.get("status") if isinstance(body, dict) else None
            except Unavailable as error:
                # The write was answered; whether it stays can be asked again.
                status = error.code
            if status == "Committed":
                return
            if status == "Invalid":
                raise Unavailable(
                    "TransactionLost", f"Transaction {transaction} was rolled back by the governance network; repeat the call."
                )
            if time.monotonic() + pause > deadline:
                raise Unavailable(
                    "TransactionNotCommitted",
                    f"Transaction {transaction} is {status} after {within:g} s; whether it took effect is unknown.",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def history(self, path: str) -> Any:
        """GET from the ledger: 202 with ``retry-after`` means that the node is still loading the range.

        A range that ends in a write that is not committed yet is ``InternalError`` (spec 11) for a moment, so that is asked again.

        Raises:
            Unavailable: ``HistoryNotReady`` when it still is after 30 tries.
        """
        pauses = iter(_UNCOMMITTED_PAUSES)
        for _ in range(_HISTORY_TRIES):
            try:
                response = await self.send("GET", path)
            except Internal as error:
                pause = next(pauses, None)
                if error.code != "InternalError" or pause is None:
                    raise
                await asyncio.sleep(pause)
                continue
            if response.status_code != 202:
                return body_of(response)
            wait = faults.retry_after(response)
            await asyncio.sleep(1.0 if wait is None else min(wait, _HISTORY_WAIT))
        raise Unavailable("HistoryNotReady", "The governance node has not loaded the ledger range yet.", hint="Try again in a minute.")


def body_of(response: httpx.Response) -> Any:
    """The JSON of a success; ``None`` for an empty body.

    Raises:
        Internal: ``GovernanceAnswerMalformed`` when a success is not JSON.
    """
    if not response.content:
        return None
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise Internal("GovernanceAnswerMalformed", "The governance service answered something that is not JSON.") from error
