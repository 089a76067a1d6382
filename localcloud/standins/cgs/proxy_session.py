"""Registration of the proxy's operations, and the request that they get."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from localcloud.standins.cgs.callers import MEMBER_HEADER, MemberConfig
from localcloud.standins.cgs.constitution import Constitution
from localcloud.standins.cgs.engine import Governance
from localcloud.standins.cgs.http import Fault, Incoming, Outgoing
from localcloud.standins.cgs.javascript import Crash, parse_json
from localcloud.standins.cgs.store import VIEW, Tx


class Session:
    """A request to the proxy: its identity, its parameters, and calls to the application with that identity."""

    def __init__(
        self, governance: Governance, constitution: Constitution, request: Incoming, params: dict[str, str], identity: dict[str, str]
    ) -> None:
        self.governance, self.constitution = governance, constitution
        self.request, self.params, self.identity = request, params, identity

    def body(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object (else 400)."""
        try:
            value = parse_json(self.request.body) if self.request.body.strip() else {}
        except Crash as error:
            raise Fault(400, "InvalidInput", "The body is not JSON.") from error
        if not isinstance(value, dict):
            raise Fault(400, "InvalidInput", "The body must be a JSON object.")
        return value

    def need(self, name: str, code: str) -> Any:
        """Return a member of the body that must be present and not empty (else 400 ``code``)."""
        value = self.body().get(name)
        if value in (None, "", {}):
            raise Fault(400, code, f"{name} must be given.")
        return value

    async def app(self, method: str, path: str, body: Any = None, query: bytes | None = None) -> Outgoing:
        """Call a route of the application, without a body if it is None."""
        raw = b"" if body is None else json.dumps(body).encode("utf-8", "surrogatepass")
        return await self.governance.handle(Incoming(method, f"/app{path}", query or b"", self.identity, raw))

    async def read(self, method: str, path: str) -> dict[str, Any]:
        """Call a route of the application and return the body; an error response passes through."""
        answer = await self.app(method, path)
        if answer.status >= 300:
            raise Upstream(answer)
        return dict(answer.body)

    def member(self) -> MemberConfig:
        """Return the calling member. Governance calls need its signing key, so a user gets 500, as in the original."""
        found = self.governance.auth.member(self.identity.get(MEMBER_HEADER, ""))
        if found is None:
            raise Fault(500, "InvalidOperationException", "A member signing key is needed; this client has only a token.")
        return found

    async def govern(self, work: Callable[[Tx, Constitution, MemberConfig], Any]) -> Outgoing:
        """Run a governance write as the member."""
        who = self.member()
        result, seqno = await self.governance.store.write(lambda tx: work(tx, self.constitution, who))
        return Outgoing(200, result, {"x-ms-ccf-transaction-id": f"{VIEW}.{seqno}"})

    async def propose(self, name: str, args: dict[str, Any]) -> Outgoing:
        """Create a governance proposal with one action."""
        return await self.govern(lambda tx, constitution, who: constitution.create(tx, who, [{"name": name, "args": args}]))

    async def vote(self, proposal_id: str, yes: bool) -> Outgoing:
        """Cast a governance ballot."""
        return await self.govern(lambda tx, constitution, who: constitution.vote(tx, who, proposal_id, yes))


class Upstream(Exception):
    """An error response of the application, which passes through."""

    def __init__(self, answer: Outgoing) -> None:
        super().__init__(answer.status)
        self.answer = answer


Operation = Callable[[Session], Awaitable[Outgoing]]
OPERATIONS: dict[tuple[str, str], Operation] = {}


def at(method: str, *paths: str) -> Callable[[Operation], Operation]:
    """Register an operation at its routes."""

    def register(operation: Operation) -> Operation:
        for path in paths:
            OPERATIONS[(method, path)] = operation
        return operation

    return register


def forward_to(method: str, path: str, upstream_method: str | None = None, upstream_path: str | None = None, *, body: bool = False) -> None:
    """Register a route that forwards to the application; its parameters are filled into ``upstream_path``."""

    async def forward(session: Session) -> Outgoing:
        target = (upstream_path or path).format(**session.params)
        return await session.app(upstream_method or method, target, session.body() if body else None, session.request.query)

    OPERATIONS[(method, path)] = forward
