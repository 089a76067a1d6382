"""Measures governance: ballots per second of the stand-in with durable writes, and the client's overhead over ``httpx``.

The stand-in runs as a process with TLS, as in ``cleanroom up``. Every ballot is a committed SQLite transaction (WAL,
``synchronous = FULL``) before the response.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.framework import Benchmark, at_least, at_most, reported
from benchmarks.page import ROOT
from cleanroom.governance import GovernanceUserClient
from tests.conformance.governance.standin import StandIn
from tests.conformance.governance.target import Person, Target, fresh


def start(standin: StandIn, *, slow_history: bool = False) -> tuple[subprocess.Popen[bytes], Target]:
    """Start the stand-in as a process, and return it with its client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = standin.folder / "config.json"
    config.write_text(standin.config(port=port, slow_history=slow_history).model_dump_json())
    command = [sys.executable, "-m", "localcloud.standins.cgs", "--config", str(config)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    target = Target(standin.settings(f"https://localhost:{port}"))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if target.http.get("/healthz").is_success:
                return child, target
        except httpx.TransportError:
            time.sleep(0.05)
    raise SystemExit("the stand-in did not start")


async def measure_ballots(target: Target, context: ssl.SSLContext, count: int, callers: int) -> dict[str, float]:
    """Measure ``callers`` users who vote on shared proposals, each as fast as responses arrive."""
    voters = [Person(fresh("voter"), target.settings.tenant) for _ in range(callers)]
    for voter in voters:
        target.govern("set_user_identity", {"id": voter.oid, "accountType": "microsoft", "data": {"tenantId": voter.tenant}})
    proposals = [target.propose(fresh("doc"), voters[0], voters) for _ in range(-(-count // callers))]
    latencies: list[float] = []

    port = httpx.URL(target.settings.url).port

    async def vote_on_all(voter: Person) -> None:
        # One plain HTTP/1.1 connection per caller, because an HTTP library would use more CPU than the server under test.
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        for proposal_id in proposals:
            request = (
                f"POST /app/users/proposals/{proposal_id}/ballots/submit HTTP/1.1\r\nhost: localhost\r\n"
                f"authorization: Bearer {tokens[voter.oid]}\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n"
                '{"ballot":"accepted"}'
            )
            began = time.perf_counter()
            writer.write(request.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
            body = await reader.readexactly(int(length.partition(":")[2]))
            latencies.append(time.perf_counter() - began)
            assert head.startswith("HTTP/1.1 200"), body
        writer.close()

    tokens = {voter.oid: target.token(voter) for voter in voters}
    began = time.perf_counter()
    await asyncio.gather(*(vote_on_all(voter) for voter in voters))
    seconds = time.perf_counter() - began
    # Every ballot was stored and counted.
    for proposal_id in proposals:
        status = target.call("POST", f"/app/users/proposals/{proposal_id}/status", voters[0]).json()
        assert (status["state"], len(status["ballots"])) == ("Accepted", callers)
    ordered = sorted(latencies)
    return {
        "ballots per second": len(ordered) / seconds,
        "ballot, median": ordered[len(ordered) // 2] * 1000,
        "ballot, 99th percentile": ordered[int(len(ordered) * 0.99)] * 1000,
    }


async def overhead(target: Target, standin: StandIn, context: ssl.SSLContext, calls: int) -> dict[str, float]:
    """Measure the same read by httpx and by the client, in turns, so that other load affects both."""
    document_id = fresh("doc")
    target.put(document_id, target.ann, labels={"type": "dataset"})
    token = target.token(target.ann)
    times: dict[str, list[float]] = {"bare": [], "client": []}
    url, headers = f"{target.settings.url}/app/userdocuments/{document_id}", {"authorization": f"Bearer {token}"}
    governance = GovernanceUserClient(target.settings.url, token=lambda: token, ca_file=standin.authority.ca_file)
    async with httpx.AsyncClient(verify=context) as bare, governance:

        async def once(kind: str) -> None:
            began = time.perf_counter()
            if kind == "bare":
                (await bare.get(url, headers=headers)).json()
            else:
                await governance.get_document(document_id)
            times[kind].append(time.perf_counter() - began)

        for number in range(calls + 50):
            if number == 50:
                times["bare"].clear()
                times["client"].clear()
            for kind in ("bare", "client", "client", "bare"):
                await once(kind)
    # The lower quartile, because other processes only make calls slower.
    bare_ms, client_ms = (statistics.quantiles(times[kind], n=4)[0] * 1000 for kind in ("bare", "client"))
    return {"read by httpx": bare_ms, "read by the client, more than httpx": (client_ms / bare_ms - 1) * 100}


def measure(ballots: int = 2000, calls: int = 800, callers: int = 20) -> dict[str, float]:
    """Run both measurements."""
    with tempfile.TemporaryDirectory() as folder:
        standin = StandIn(Path(folder))
        child, target = start(standin)
        context = ssl.create_default_context(cafile=str(standin.authority.ca_file))
        try:
            target.enroll()
            return asyncio.run(measure_ballots(target, context, ballots, callers)) | asyncio.run(overhead(target, standin, context, calls))
        finally:
            target.close()
            child.terminate()
            child.wait(10)


BENCHMARK = Benchmark(
    "ballots of the stand-in with durable writes, and the client against httpx",
    measure,
    [
        at_least("ballots per second", 200),
        reported("ballot, median", "ms"),
        reported("ballot, 99th percentile", "ms"),
        reported("read by httpx", "ms"),
        at_most("read by the client, more than httpx", 15, "%"),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
