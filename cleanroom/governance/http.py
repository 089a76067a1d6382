"""HTTP to one governance endpoint: URLs, JSON, errors, redirects to the primary, and CCF's commit."""

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
"""Returns a bearer token for one request; may be a coroutine function."""

TRANSACTION_HEADER: Final = "x-ms-ccf-transaction-id"
UNCOMMITTED_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds between reads of a ledger range whose end is not committed yet."""
_COMMIT_SECONDS: Final = 10.0
_HISTORY_ATTEMPTS: Final = 30
_HISTORY_WAIT: Final = 5.0
_MAX_REDIRECTS: Final = 3
_BEARER: Final = re.compile(r"Bearer [\x21-\x7e]+")
_HEADER: Final = re.compile(r"[\x20-\x7e]*")


def segment(name: str, value: str) -> str:
    """Percent-encode an ID as one path segment.

    Raises:
        InvalidInput: ``InvalidIdentifier`` if the ID is empty, or if URL handling would change it.
    """
    try:
        encoded = quote(value, safe="")
    except UnicodeEncodeError:
        encoded = ""
    if encoded in ("", ".", ".."):
        raise InvalidInput("InvalidIdentifier", f"{name} {value!r} cannot be part of a URL.", hint="Use letters, digits, '.', '_' and '-'.")
    return encoded


def query_string(parameters: Mapping[str, str | int | None]) -> str:
    """Build ``?a=b&...`` without the parameters that are ``None``.

    The service decodes the whole query before it splits it (docs/facts/governance-service.md#requests-and-errors).

    Raises:
        InvalidInput: ``InvalidQueryValue`` if a value contains ``&``, ``=`` or ``+``, which the service would misread.
    """
    parts = []
    for name, value in parameters.items():
        if value is None:
            continue
        text = str(value)
        if re.search(r"[&=+]", text):
            raise InvalidInput(
                "InvalidQueryValue",
                f"{name} {text!r} has '&', '=' or '+', which the governance service would misread.",
                hint="Use a value without them.",
            )
        parts.append(f"{name}={quote(text, safe=':/,~@')}")
    return "?" + "&".join(parts) if parts else ""


def application_url(base_url: str) -> str:
    """Return a CCF node's URL without the application prefix ``/app``, which some tools append."""
    return base_url.rstrip("/").removesuffix("/app")


def read_certificate(file: Path) -> bytes:
    """Read a certificate file.

    Raises:
        InvalidInput: ``GovernanceCertificateFileInvalid`` if the file cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise _certificate_file([file], error) from error


def _certificate_file(files: Sequence[Path], error: OSError) -> InvalidInput:
    names = ", ".join(map(str, files))
    message = f"A certificate file of the governance service cannot be read or is not PEM: {names}."
    return InvalidInput("GovernanceCertificateFileInvalid", message, cause=str(error), hint="Check the governance settings of the profile.")


def _tls(ca_file: Path | None, client_cert: tuple[Path, Path] | None) -> ssl.SSLContext:
    try:
        return ssl_context(ca_file, client_cert=client_cert)
    except OSError as error:  # includes ssl.SSLError
        raise _certificate_file([file for file in (ca_file, *(client_cert or ())) if file is not None], error) from error


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

    Args:
        base_url: Prefix of every path.
        token: Bearer token provider, called for each request.
        ca_file: PEM roots, such as a CCF network's service certificate. Without it, the operating system's roots.
        client_cert: (certificate, key) PEM files of a member.
        headers: Sent with every request. Values of headers other than ``x-ms-*`` are treated as credentials.
        timeout: Seconds for one request.
        commit_path: Route that returns a transaction's status. ``None`` for a proxy that waits for commits itself.

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
        # Shorter than the idle timeout of common servers (5 s), so that no request goes into a connection that the server is closing.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
        self._client = async_http_client(_tls(ca_file, client_cert), headers=dict(headers or {}), timeout=timeout, limits=limits)

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
        operation = f"{method} {path.partition('?')[0]}"
        headers = await self._authorization()
        if "authorization" in headers and not _BEARER.fullmatch(headers["authorization"]):
            # Checked here, because httpx would quote the token in its error.
            raise InvalidInput(
                "BearerTokenMalformed",
                "The bearer token is empty or contains characters that HTTP does not allow.",
                hint="Check the credential.",
            )
        url = self._base + path
        try:
            response = await self._client.request(method, url, json=json, headers=headers)
            for _ in range(_MAX_REDIRECTS):
                primary = self._primary(response)
                if primary is None:
                    break
                response = await self._client.request(method, primary, json=json, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise faults.from_transport(error, operation) from error
        if not 200 <= response.status_code < 300:
            bearer = headers.get("authorization", "").removeprefix("Bearer ")
            raise faults.from_response(response, operation, hide=(bearer, *self._credentials, *hide))
        return response

    def _primary(self, response: httpx.Response) -> httpx.URL | None:
        """Return the target of a redirect to this network's primary, or ``None``."""
        if response.status_code not in (307, 308) or "location" not in response.headers:
            return None
        source = response.url
        target = source.join(response.headers["location"])
        same_host = target.host == source.host
        return target if target.scheme == source.scheme and (same_host or (self._pinned and target.scheme == "https")) else None

    async def call(self, method: str, path: str, *, json: Any = None, hide: Sequence[str] = ()) -> Any:
        """Send one request and return the JSON of the response, or ``None`` for an empty body."""
        return body_of(await self.send(method, path, json=json, hide=hide))

    async def write(self, method: str, path: str, *, json: Any = None, hide: Sequence[str] = ()) -> tuple[Any, str | None]:
        """Send one write, wait until it is committed, and return (JSON or ``None``, transaction ID)."""
        response = await self.send(method, path, json=json, hide=hide)
        transaction = response.headers.get(TRANSACTION_HEADER)
        if transaction is not None and self._commit_path is not None:
            await self.wait_for_commit(transaction)
        return body_of(response), transaction

    async def wait_for_commit(self, transaction: str, *, within: float = _COMMIT_SECONDS) -> None:
        """Wait until a transaction is globally committed (docs/facts/governance-service.md#transactions).

        Raises:
            Unavailable: ``TransactionLost`` if a new primary rolled it back; the caller may repeat the write.
                ``TransactionNotCommitted`` if it is still pending after ``within`` seconds; its effect is unknown.
        """
        deadline = time.monotonic() + within
        pause = 0.01
        while True:
            try:
                body = await self.call("GET", f"{self._commit_path}?transaction_id={transaction}")
                status = body.get("status") if isinstance(body, dict) else None
            except Unavailable as error:
                # The write succeeded. Only its status could not be read.
                status = error.code
            if status == "Committed":
                return
            if status == "Invalid":
                raise Unavailable(
                    "TransactionLost", f"The governance network rolled back transaction {transaction}.", hint="Repeat the write."
                )
            if time.monotonic() + pause > deadline:
                raise Unavailable(
                    "TransactionNotCommitted",
                    f"Transaction {transaction} is {status} after {within:g} s; whether it took effect is unknown.",
                    hint="Read the resource again before you repeat the write.",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def history(self, path: str) -> Any:
        """Read a ledger range, and wait while the node loads it (202) or commits its end (500 ``InternalError``).

        Raises:
            Unavailable: ``HistoryNotReady`` if the node still loads the range after 30 attempts.
        """
        pauses = iter(UNCOMMITTED_PAUSES)
        for _ in range(_HISTORY_ATTEMPTS):
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
    """Return the JSON of a successful response, or ``None`` for an empty body.

    Raises:
        Internal: ``GovernanceAnswerMalformed`` if the body is not JSON.
    """
    if not response.content:
        return None
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise Internal(
            "GovernanceAnswerMalformed", "The governance service returned a body that is not JSON.", hint=faults.WRONG_SERVICE
        ) from error
