"""HTTP as CCF does it: dispatch on raw path segments, its 404/405/401/500 bodies, its query parsing, JavaScript's truthiness.

Facts: spec/governance.md 1 (topology and conventions). Handlers are plain functions ``(Call, Tx) -> Reply``; they refuse by raising
:class:`Fault` and behave like a thrown JavaScript error by raising :class:`Crash` (500 ``InternalError``, nothing written).
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
    """A refusal with status and ``error.code``."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, details: list[dict[str, str]] | None = None
    ) -> None:
        super().__init__(code, message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})
        self.details = details

    def body(self) -> dict[str, Any]:
        """``{"error": {"code", "message"[, "details"]}}``."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return {"error": error}


@dataclass
class Reply:
    """What a handler answers. ``body`` ``None`` is an empty body; ``wrap`` asks for the wrapped answer ``{"value": ...}`` of E1."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wrap: tuple[bytes, str] | None = None
    """(plaintext, PEM of the caller's public key)"""


@dataclass
class Call:
    """One request as a handler sees it."""

    method: str
    path: str
    params: dict[str, str]
    query: dict[str, str]
    raw: bytes
    caller: Caller | None = None
    attested: Attested | None = None
    now: float = 0.0

    def json(self) -> Any:
        """The body as JSON; invalid or empty JSON throws, as ``body.json()`` does in the original."""
        return parse_json(self.raw)


def parse_query(raw: bytes) -> dict[str, str]:
    """CCF 6.0 decodes the whole query once; the app splits on ``&`` and ``=`` and keeps elements 0 and 1 (spec 1, trap 24)."""
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
    """One request: method, raw path (percent-encoded), raw query, lower-case headers, body."""

    def __init__(self, method: str, path: str, query: bytes = b"", headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.method, self.path, self.query, self.headers, self.body = method, path, query, headers or {}, body


class Outgoing:
    """One answer: status, headers, body (``None``: empty)."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers or {}


def failure(fault: Fault) -> Outgoing:
    """The answer for a refusal."""
    return Outgoing(fault.status, fault.body(), fault.headers)


Handler = Callable[[Call, Tx], Reply]


@dataclass(frozen=True)
class Route:
    """One row of the master table. ``who`` uses the letters of spec 2.1: U, U0, M, J, A, U/A, J/A, P."""

    method: str
    path: str
    who: str
    handler: Handler
    write: bool = False


class RouteTable:
    """Exact paths first, then templates with one segment a ``{name}``; segments are never percent-decoded."""

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
        """The route and its raw path parameters.

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
            raise Fault(404, "ResourceNotFound", f"There is no route {path}.")
        allow = ", ".join(sorted(allowed))
        raise Fault(405, "UnsupportedHttpVerb", f"{method} is not supported for {path}; allowed: {allow}.", headers={"allow": allow})
