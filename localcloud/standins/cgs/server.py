"""The HTTP server of the governance stand-in: ``python -m localcloud.standins.cgs --config FILE``.

One base URL serves the application (with and without the prefix ``/app``), the reads of ``/gov`` that clients use, and the
``cgs-client`` proxy under ``/cgs-client``. docs/facts/governance-service.md describes the original.

With ``lag_ms`` or the environment variable ``LAG_MS``, every second connection is answered by a node that lags behind. With ``commit_ms``
or ``COMMIT_MS``, writes are committed with a signature at this interval, not at once.

Users send a bearer token of a configured issuer. Members send a token in the header ``x-localcloud-member-token``, which replaces
their TLS client certificate. The evidence of clean rooms is verified against the configured trust.
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
    """Return the ASGI application; its state is in the folder ``config.state``."""
    store = Store(config.state, lag=config.lag_ms / 1000, interval=config.commit_ms / 1000)
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

    app = Starlette(
        routes=[health_route(NAME), Mount("/", app=Transport(handle, hide=(rf"^{PREFIX}/as/[^/]+", f"{PREFIX}/as/***")))], lifespan=lifespan
    )
    app.state.nodes = store.nodes
    return app


def run() -> None:
    """Run the server from the command line (:func:`localcloud.standins.serving.main`)."""
    main(NAME, CgsConfig, create_app)
