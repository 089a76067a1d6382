"""A call to ARM: its caller, its resource, the role check, and ARM's errors."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localcloud.standins.arm.roles import role_of
from localcloud.standins.directory import Account, Directory, Subscription


class ArmError(Exception):
    """An error response: HTTP status, ARM code, message."""

    def __init__(self, status: int, code: str, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(code, text)
        self.status, self.code, self.text, self.headers = status, code, text, headers

    def response(self) -> JSONResponse:
        """Return ``{"error": {"code", "message"}}``."""
        return JSONResponse({"error": {"code": self.code, "message": self.text}}, self.status, headers=self.headers)


@dataclass(frozen=True)
class Call:
    """An authenticated call; ``match`` holds the parts of the path that its route names."""

    directory: Directory
    request: Request
    caller: Account
    subscription: Subscription
    path: str
    match: re.Match[str]

    def group(self, name: str) -> str:
        """Return a named part of the path."""
        return self.match[name]

    async def body(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object.

        Raises:
            ArmError: ``InvalidRequestContent``.
        """
        try:
            value = await self.request.json()
        except ValueError as error:
            raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized.") from error
        if not isinstance(value, dict):
            raise ArmError(400, "InvalidRequestContent", "The request content was invalid: an object is expected.")
        return value

    def require(self, action: str, scope: str) -> None:
        """Require that an effective role of the caller permits ``action`` on ``scope``.

        Raises:
            ArmError: ``AuthorizationFailed``.
        """
        now = time.time()
        for assignment in self.directory.assignments(self.caller.object_id):
            role = role_of(assignment.role_id)
            if role is not None and assignment.effective_at <= now and covers(assignment.scope, scope) and role.permits(action):
                return
        raise ArmError(
            403,
            "AuthorizationFailed",
            f"The client '{self.caller.client_id}' with object id '{self.caller.object_id}' does not have authorization to perform action"
            f" '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
        )


Handler = Callable[[Call], Coroutine[Any, Any, Response]]
Routes = Mapping[str, Mapping[str, Handler]]
"""Path pattern (case-insensitive) to HTTP method to handler."""


def covers(outer: str, inner: str) -> bool:
    """Whether the scope ``outer`` equals or contains ``inner``."""
    a, b = outer.rstrip("/").lower(), inner.rstrip("/").lower()
    return a == b or b.startswith(f"{a}/")
