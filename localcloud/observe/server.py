"""The server of the page: ``python -m localcloud.observe --port PORT --worker NAME=PORT ...``. It listens on the loopback interface."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from cleanroom.transport import async_http_client
from localcloud.observe.store import Store

SCRAPE_SECONDS = 5.0
MAX_BODY = 16 << 20
PAGE = Path(__file__).with_name("page.html")
HEADERS = {"content-security-policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"}


def create_app(store: Store, workers: Mapping[str, int], *, interval: float = SCRAPE_SECONDS) -> Starlette:
    """Create the application.

    Args:
        store: What it receives and shows.
        workers: Port of the metrics of each worker.
        interval: Seconds between two scrapes.
    """

    async def receive(request: Request) -> Response:
        body = await request.body()
        try:
            if request.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if len(body) > MAX_BODY:
                return Response(status_code=413)
            store.add_spans(body)
        except (DecodeError, OSError, zlib.error, EOFError):
            return Response(status_code=400)
        return Response(media_type="application/x-protobuf")

    async def page(request: Request) -> Response:
        return FileResponse(PAGE, media_type="text/html; charset=utf-8", headers=HEADERS)

    async def traces(request: Request) -> Response:
        return JSONResponse(store.summaries())

    async def trace(request: Request) -> Response:
        return JSONResponse(store.trace(request.path_params["trace_id"]))

    async def spans(request: Request) -> Response:
        return JSONResponse(store.all_spans())

    async def metrics(request: Request) -> Response:
        return JSONResponse(store.series())

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def scraping(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_scrape(store, workers, interval))
        try:
            yield
        finally:
            task.cancel()

    return Starlette(
        routes=[
            Route("/v1/traces", receive, methods=["POST"]),
            Route("/", page),
            Route("/api/traces", traces),
            Route("/api/traces/{trace_id}", trace),
            Route("/api/spans", spans),
            Route("/api/metrics", metrics),
            Route("/healthz", healthz),
        ],
        # Another name would be a page of another site that was rebound to this address.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"])],
        lifespan=scraping,
    )


async def _scrape(store: Store, workers: Mapping[str, int], interval: float) -> None:
    async with async_http_client(timeout=2) as client:

        async def read(port: int) -> str | None:
            try:
                return (await client.get(f"http://127.0.0.1:{port}/metrics")).raise_for_status().text
            except httpx.HTTPError:
                return None

        while True:
            found = await asyncio.gather(*(read(port) for port in workers.values()))
            store.add_scrape(time.time(), dict(zip(workers, found, strict=True)))
            await asyncio.sleep(interval)


def main() -> None:
    """Run the server until a signal."""
    parser = argparse.ArgumentParser(prog="python -m localcloud.observe", description="Traces and metrics of a local cloud.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--worker", action="append", default=[], metavar="NAME=PORT", help="a worker whose metrics are read")
    arguments = parser.parse_args()
    workers = {name: int(port) for name, _, port in (item.partition("=") for item in arguments.worker)}
    uvicorn.run(create_app(Store(), workers), host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)
