"""Requests, responses and routes as in CCF (docs/facts/governance-service.md#requests-and-errors).

Handlers are functions ``(Call, Tx) -> Reply``. They reject a request with :class:`Fault`, and raise
:class:`~localcloud.standins.cgs.javascript.Crash` where the original throws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from localcloud.standins.cgs.callers import Attested, Caller
from localcloud.standins.cgs.javascript import parse_json
from localcloud.standins.cgs.store import Tx


class Fault(Exception):
    """An error response with a status and an error code."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, details: list[dict[str, str]] | None = None
    ) -> None:
        super().__init__(code, message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})
        self.details = details

    def body(self) -> dict[str, Any]:
        """Return ``{"error": {"code", "message"[, "details"]}}``."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return {"error": error}


@dataclass
class Reply:
    """The result of a handler. A ``body`` of None is empty; ``wrap`` requests a wrapped answer."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wrap: tuple[bytes, str] | None = None
    """Plaintext, and PEM of the caller's public key. The response is ``{"value": ...}`` with the wrapped text."""


@dataclass
class Call:
    """A routed request, as its handler gets it."""

    method: str
    path: str
    params: dict[str, str]
    query: dict[str, str]
    raw: bytes
    caller: Caller | None = None
    attested: Attested | None = None
    now: float = 0.0

    def json(self) -> Any:
        """Parse the body. Invalid or empty JSON throws, like ``body.json()`` in the original."""
        return parse_json(self.raw)


def parse_query(raw: bytes) -> dict[str, str]:
    """Parse a query like CCF 6.0 and the application.

    CCF decodes the whole query once. The application then splits it at ``&`` and ``=`` and keeps the first two parts of each pair.
    """
    text = unquote_plus(raw.decode("latin-1"))
    result: dict[str, str] = {}
    for piece in text.split("&"):
        name, equals, rest = piece.partition("=")
        if equals:
            result[name] = rest.split("=", 1)[0]
        else:
            result.pop(name, None)
    return result


class Incoming:
    """A request: method, raw path (percent-encoded), raw query, lower-case headers, body.

    ``lagging`` is set if its connection leads to the node that lags behind.
    """

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        lagging: bool = False,
    ) -> None:
        self.lagging = lagging
        self.method, self.path, self.query, self.headers, self.body = method, path, query, headers or {}, body


class Outgoing:
    """A response: status, body (None: empty), headers."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers or {}


def failure(fault: Fault) -> Outgoing:
    """Return the error response of a fault."""
    return Outgoing(fault.status, fault.body(), fault.headers)


@dataclass(frozen=True)
class Access:
    """Which callers a route admits."""

    policies: tuple[str, ...] = ()
    """CCF's authentication policies, in the order in which they are tried. Without any, the route is unauthenticated."""
    attested: bool = False
    """Whether a clean room can call the route, with its attestation in the body."""


PUBLIC = Access()
MEMBER = Access(("member_cert",))
USER = Access(("jwt",))
MEMBER_OR_USER = Access(("member_cert", "user_cert", "jwt"))
CLEAN_ROOM = Access(attested=True)
USER_OR_CLEAN_ROOM = Access(("jwt", "no_auth"), attested=True)
ANY_CALLER = Access((*MEMBER_OR_USER.policies, "no_auth"), attested=True)
"""Members, users and clean rooms."""

Handler = Callable[[Call, Tx], Reply]


@dataclass(frozen=True)
class Route:
    """A route of the application."""

    method: str
    path: str
    access: Access
    handler: Handler
    write: bool = False
    """Whether the handler runs in a write transaction."""


class RouteTable:
    """Finds routes: exact paths first, then templates, whose ``{name}`` matches one segment. Segments are not percent-decoded."""

    def __init__(self, routes: list[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._templates: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._exact.setdefault(route.path, {})[route.method] = route
                continue
            segments = route.path.split("/")
            rows = self._templates.setdefault(len(segments), [])
            for known, verbs in rows:
                if known == segments:
                    verbs[route.method] = route
                    break
            else:
                rows.append((segments, {route.method: route}))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and its raw path parameters.

        Raises:
            Fault: 404 ``ResourceNotFound`` for an unknown path, 405 ``UnsupportedHttpVerb`` with ``Allow`` for a wrong verb.
        """
        allowed: set[str] = set()
        exact = self._exact.get(path)
        if exact is not None:
            if method in exact:
                return exact[method], {}
            allowed |= exact.keys()
        segments = path.split("/")
        for pattern, verbs in self._templates.get(len(segments), []):
            params: dict[str, str] = {}
            for want, have in zip(pattern, segments, strict=True):
                if want.startswith("{"):
                    if not have:
                        break
                    params[want[1:-1]] = have
                elif want != have:
                    break
            else:
                if method in verbs:
                    return verbs[method], params
                allowed |= verbs.keys()
        if not allowed:
            raise Fault(404, "ResourceNotFound", f"The path {path} does not exist.")
        allow = ", ".join(sorted(allowed))
        raise Fault(405, "UnsupportedHttpVerb", f"{method} is not supported for {path}; allowed: {allow}.", headers={"allow": allow})
