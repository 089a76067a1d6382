"""Governance: ballots a second on the stand-in with durable writes, and what the client adds to a bare ``httpx`` call.

    python benchmarks/bench_governance.py [--ballots 2000] [--calls 1500] [--callers 20]

Targets: at least 200 ballots a second; at most 15 % over the same request by ``httpx.AsyncClient``. The stand-in runs as its own process with
TLS, as in ``cleanroom up``; every ballot is a committed SQLite transaction (WAL, ``synchronous = FULL``) before it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cleanroom.governance import GovernanceUserClient  # noqa: E402
from tests.conformance.governance.standin import StandIn  # noqa: E402
from tests.conformance.governance.target import Person, Target, fresh  # noqa: E402


def start(standin: StandIn) -> tuple[subprocess.Popen[bytes], Target]:
    """The stand-in as a process, and who speaks to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = standin.folder / "config.json"
    config.write_text(standin.config(port=port, slow_history=False).model_dump_json())
    command = [sys.executable, "-m", "localcloud.cgs", "--config", str(config)]
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


async def ballots(target: Target, context: ssl.SSLContext, count: int, callers: int) -> dict[str, float]:
    """``callers`` users vote on shared proposals, each as fast as answers come."""
    voters = [Person(fresh("voter"), target.settings.tenant) for _ in range(callers)]
    for voter in voters:
        target.govern("set_user_identity", {"id": voter.oid, "accountType": "microsoft", "data": {"tenantId": voter.tenant}})
    proposals = [target.propose(fresh("doc"), voters[0], voters) for _ in range(-(-count // callers))]
    latencies: list[float] = []

    async def vote_on_all(client: httpx.AsyncClient, voter: Person) -> None:
        headers = {"authorization": f"Bearer {target.token(voter)}"}
        for proposal_id in proposals:
            began = time.perf_counter()
            path = f"/app/users/proposals/{proposal_id}/ballots/submit"
            response = await client.post(path, headers=headers, json={"ballot": "accepted"})
            latencies.append(time.perf_counter() - began)
            assert response.status_code == 200, response.text

    async with httpx.AsyncClient(base_url=target.settings.url, verify=context, timeout=60) as client:
        began = time.perf_counter()
        await asyncio.gather(*(vote_on_all(client, voter) for voter in voters))
        seconds = time.perf_counter() - began
    # Every ballot was kept, and decided its proposal.
    for proposal_id in proposals:
        status = target.call("POST", f"/app/users/proposals/{proposal_id}/status", voters[0]).json()
        assert (status["state"], len(status["ballots"])) == ("Accepted", callers)
    ordered = sorted(latencies)
    return {
        "ballots_per_second": len(ordered) / seconds,
        "ballot_p50_ms": ordered[len(ordered) // 2] * 1000,
        "ballot_p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
    }


async def overhead(target: Target, standin: StandIn, context: ssl.SSLContext, calls: int) -> dict[str, float]:
    """The same read by bare httpx and by the client, alternating so that a busy machine disturbs both alike."""
    document_id = fresh("doc")
    target.put(document_id, target.ann, labels={"type": "dataset"})
    token = target.token(target.ann)
    bare_times: list[float] = []
    client_times: list[float] = []
    url, headers = f"{target.settings.url}/app/userdocuments/{document_id}", {"authorization": f"Bearer {token}"}
    governance = GovernanceUserClient(target.settings.url, token=lambda: token, ca_file=standin.authority.ca_file)
    async with httpx.AsyncClient(verify=context) as bare, governance:
        for number in range(calls + 50):
            began = time.perf_counter()
            response = await bare.get(url, headers=headers)
            response.json()
            middle = time.perf_counter()
            document = await governance.get_document(document_id)
            end = time.perf_counter()
            assert document.id == document_id
            if number >= 50:
                bare_times.append(middle - began)
                client_times.append(end - middle)
    bare_ms, client_ms = statistics.median(bare_times) * 1000, statistics.median(client_times) * 1000
    return {"bare_httpx_ms": bare_ms, "client_ms": client_ms, "client_overhead_percent": (client_ms / bare_ms - 1) * 100}


def main() -> None:
    """Run both and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ballots", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--callers", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        standin = StandIn(Path(folder))
        child, target = start(standin)
        context = ssl.create_default_context(cafile=str(standin.authority.ca_file))
        try:
            target.enroll()
            result = asyncio.run(ballots(target, context, arguments.ballots, arguments.callers))
            result |= asyncio.run(overhead(target, standin, context, arguments.calls))
        finally:
            target.close()
            child.terminate()
            child.wait(10)
    print(json.dumps({name: round(value, 2) for name, value in result.items()}, indent=2))
    if result["ballots_per_second"] < 200 or result["client_overhead_percent"] > 15:
        raise SystemExit("a target was missed")


if __name__ == "__main__":
    main()
