"""The governance application without its HTTP server: routing, authentication, transactions, and the ``/gov`` reads.

The ASGI server (:mod:`localcloud.standins.cgs.server`) and the proxy (:mod:`localcloud.standins.cgs.proxy`) call it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import Field

from cleanroom.attestation import TrustStore
from cleanroom.errors import InvalidInput
from cleanroom.keys.wrap import KeyWrapAlgorithm, wrap_key
from localcloud.standins.cgs import contracts as cgs_contracts
from localcloud.standins.cgs import documents as cgs_documents
from localcloud.standins.cgs import events as cgs_events
from localcloud.standins.cgs import oidc as cgs_oidc
from localcloud.standins.cgs import policies as cgs_policies
from localcloud.standins.cgs import proposals as cgs_proposals
from localcloud.standins.cgs import secrets as cgs_secrets
from localcloud.standins.cgs import users as cgs_users
from localcloud.standins.cgs.attested import EvidenceVerifier
from localcloud.standins.cgs.auth import Authenticator, IssuerConfig
from localcloud.standins.cgs.callers import MemberConfig, member_row
from localcloud.standins.cgs.http import Call, Fault, Incoming, Outgoing, Reply, Route, RouteTable, failure, parse_query
from localcloud.standins.cgs.javascript import Crash
from localcloud.standins.cgs.store import VIEW, Store
from localcloud.standins.serving import StandInConfig

_log = logging.getLogger("localcloud.cgs")
TABLE = RouteTable(
    [
        *cgs_contracts.ROUTES,
        *cgs_documents.ROUTES,
        *cgs_proposals.ROUTES,
        *cgs_secrets.ROUTES,
        *cgs_policies.ROUTES,
        *cgs_oidc.ROUTES,
        *cgs_users.ROUTES,
        *cgs_events.ROUTES,
    ]
)


class CgsConfig(StandInConfig):
    """Configuration of the governance stand-in."""

    members: tuple[MemberConfig, ...]
    """The consortium."""
    issuers: tuple[IssuerConfig, ...] = ()
    """Accepted issuers of user tokens."""
    trust_files: tuple[Path, ...] = ()
    """Development roots for evidence (:class:`cleanroom.attestation.TrustStore`)."""
    trust_amd: bool = False
    """Whether to trust AMD's roots as well."""
    slow_history: bool = False
    """Answer 202 to the first read of a ledger range, like a real node while it loads the range."""
    lag_ms: int = Field(default_factory=lambda: int(os.environ.get("LAG_MS") or 0), ge=0)
    """Milliseconds by which a second node lags behind. It answers the reads of every second connection. 0: there is one node."""
    commit_ms: int = Field(default_factory=lambda: int(os.environ.get("COMMIT_MS") or 0), ge=0)
    """Milliseconds between two signatures, which commit everything before them. 0: writes are committed at once."""


class Governance:
    """The application; :meth:`handle` answers one request to ``/app`` or ``/gov``."""

    def __init__(self, config: CgsConfig, store: Store) -> None:
        self.config = config
        self.store = store
        self.auth = Authenticator(store, config.members, config.issuers)
        self._verifier = EvidenceVerifier(TrustStore.load(amd=config.trust_amd, root_files=config.trust_files))
        self._asked: set[tuple[str, bytes]] = set()

    async def handle(self, request: Incoming) -> Outgoing:
        """Answer a request. Invalid requests get an error response."""
        try:
            return await self._answer(request)
        except Fault as fault:
            return failure(fault)
        except Crash as crash:
            return failure(Fault(500, "InternalError", f"The application threw: {crash}."))
        except Exception:
            _log.exception("%s %s failed", request.method, request.path)
            return failure(Fault(500, "InternalError", "The application failed; see its log."))

    async def _answer(self, request: Incoming) -> Outgoing:
        path = request.path
        if path in ("/app/tx", "/gov/tx", "/tx", "/node/tx"):
            return self._transaction(request)
        if path.startswith("/gov/"):
            return self._gov(request)
        path = path.removeprefix("/app") if path.startswith("/app/") else path
        try:
            route, params = TABLE.find(request.method, path)
        except Fault as fault:
            if request.method == "OPTIONS" and fault.status == 405:
                return Outgoing(204, headers=fault.headers)
            raise
        caller = await self.auth.authenticate(route.access.policies, request.headers)
        call = Call(request.method, path, params, parse_query(request.query), request.body, caller, now=time.time())
        if route.access.attested and (caller is None or caller.policy == "no_auth"):
            call.attested = await asyncio.to_thread(self._verifier.examine, request.body)
        return await self._run(route, call, request)

    async def _run(self, route: Route, call: Call, request: Incoming) -> Outgoing:
        reply: Reply
        if route.write:
            reply, seqno = await self.store.write(lambda tx: route.handler(call, tx))
        else:
            reply, seqno = self.store.read(lambda tx: route.handler(call, tx), lagging=self._lags(request))
        if self._history_is_cold(call, request):
            return Outgoing(202, headers={"retry-after": "1"})
        headers = {**reply.headers, "x-ms-ccf-transaction-id": f"{VIEW}.{seqno}"}
        if reply.wrap is not None:
            return Outgoing(200, {"value": await asyncio.to_thread(_wrapped, *reply.wrap)}, headers)
        return Outgoing(reply.status, reply.body, headers)

    def _lags(self, request: Incoming) -> bool:
        return request.lagging and self.config.lag_ms > 0

    def _history_is_cold(self, call: Call, request: Incoming) -> bool:
        ranged = call.query.get("from_seqno") or call.query.get("to_seqno")
        if not self.config.slow_history or request.method != "GET" or not ranged:
            return False
        handle = (call.path, request.query)
        cold = handle not in self._asked
        (self._asked.add if cold else self._asked.discard)(handle)
        return cold

    def _transaction(self, request: Incoming) -> Outgoing:
        if request.method != "GET":
            raise Fault(405, "UnsupportedHttpVerb", f"{request.method} is not supported for {request.path}.", headers={"allow": "GET"})
        text = parse_query(request.query).get("transaction_id", "")
        view, _, number = text.partition(".")
        if not re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,18}", text):
            raise Fault(400, "InvalidQueryParameterValue", f"transaction_id is {text!r}; it must be <view>.<seqno>.")
        nodes, lagging = self.store.nodes, self._lags(request)
        if int(number) > nodes.seen(lagging=lagging) or int(view) > VIEW:
            status = "Unknown"
        elif int(view) < VIEW:
            status = "Invalid"
        else:
            status = "Committed" if int(number) <= nodes.committed(lagging=lagging) else "Pending"
        return Outgoing(200, {"transaction_id": text, "status": status})

    def _gov(self, request: Incoming) -> Outgoing:
        if request.path == "/gov/service/info" and request.method == "GET":
            return Outgoing(200, {"status": "Open", "currentView": VIEW, "configuration": {"confidential": False}})
        if request.path != "/gov/service/members":
            raise Fault(404, "ResourceNotFound", f"The path {request.path} does not exist.")
        if request.method != "GET":
            raise Fault(405, "UnsupportedHttpVerb", f"{request.method} is not supported for {request.path}.", headers={"allow": "GET"})
        return Outgoing(200, {"value": [member_row(member) for member in self.auth.members]})


def _wrapped(plain: bytes, pem: str) -> str:
    try:
        key = serialization.load_pem_public_key(pem.encode())
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("not an RSA key")
        return base64.b64encode(wrap_key(key, plain, KeyWrapAlgorithm.RSA_OAEP_AES_KWP)).decode()
    except (ValueError, InvalidInput) as error:
        raise Crash("encrypt.publicKey cannot wrap the answer") from error
