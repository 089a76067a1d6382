"""The CGS stand-in: the governance application's routes, the ``/gov`` reads that clients use, and the cgs-client surface.

``python -m localcloud.standins.cgs --config FILE``. Contract: spec/governance.md. One base URL serves

* the app, un-prefixed and under ``/app`` (section 3, without CA and signing);
* ``/app/tx``, ``/gov/tx``, ``/gov/service/members``;
* the cgs-client proxy (section 13) under ``/cgs-client`` (see :mod:`localcloud.standins.cgs.proxy`).

Users come with a bearer token of a configured issuer. A member's TLS client certificate is replaced by a token in the header
``x-localcloud-member-token``. Clean rooms come with evidence, which is verified for real against the configured trust.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from localcloud.standins.cgs.engine import CgsConfig, Governance
from localcloud.standins.cgs.http import Incoming, Outgoing
from localcloud.standins.cgs.proxy import PREFIX, Proxy
from localcloud.standins.cgs.store import Store
from localcloud.standins.cgs.transport import Transport
from localcloud.standins.serving import health_route, main

NAME = "cgs"


def create_app(config: CgsConfig) -> Starlette:
    """The ASGI application over the state in ``config.state``."""
    store = Store(config.state)
    governance = Governance(config, store)
    proxy = Proxy(governance)

    async def handle(request: Incoming) -> Outgoing:
        if request.path.startswith(PREFIX + "/"):
            return await proxy.handle(request)
        return await governance.handle(request)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        store.close()

    return Starlette(
        routes=[health_route(NAME), Mount("/", app=Transport(handle, hide=(rf"^{PREFIX}/as/[^/]+", f"{PREFIX}/as/***")))], lifespan=lifespan
    )


def run() -> None:
    """Serve until told to stop; see :func:`localcloud.standins.serving.main`."""
    main(NAME, CgsConfig, create_app)
