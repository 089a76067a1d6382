"""Measures how long a run's governance steps take when governance commits once per second.

    python benchmarks/bench_commits.py [--commit-ms 1000] [--lag-ms 0]

The real workflow ``Prepare`` and the real activities run against a governance stand-in and a Temporal server on this machine, for three
datasets with two secrets each, as in the demo. Targets with an interval of 1 s: prepare at most 6 s, revoke at most 3 s.
The exit code is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from activities.clean_room_context import CleanRoomContext  # noqa: E402
from activities.clean_room_secrets import CleanRoomSecrets  # noqa: E402
from cleanroom.identifiers import CLEAN_ROOM_QUEUE  # noqa: E402
from cleanroom.messages.run import ConsentReceiptRequest, RevokeRequest, RunQueryInput  # noqa: E402
from tests.prepare_world import CLEAN_ROOM_HOST, Guest, PrepareWorld, prepare_workers, prepare_world  # noqa: E402
from tests.temporal_env import server_options  # noqa: E402
from workflows.prepare import Prepare  # noqa: E402

TARGETS = {"prepare": 6.0, "revoke": 3.0}
"""Seconds per second of the commit interval."""


async def measure(world: PrepareWorld, env: WorkflowEnvironment, interval: float, lag: float) -> dict[str, Any]:
    """Prepare a run, issue its consent receipt and revoke it, and return the seconds of each."""
    await world.publish(2)
    ticket = await world.ticket(f"r-{uuid.uuid4().hex[:8]}")
    async with prepare_workers(world, env.client), world.user("clean-room") as user, world.clean_room(user.position) as client:
        world.nodes.interval, world.nodes.lag = interval, lag
        seconds: dict[str, float] = {}
        began = time.monotonic()
        prepared = await env.client.execute_workflow(
            Prepare.run, RunQueryInput(ticket=ticket, caller="fabrikam"), id=ticket.run_id, task_queue=CLEAN_ROOM_QUEUE
        )
        seconds["prepare"] = time.monotonic() - began
        room = CleanRoomContext(world.settings, world.bootstrap, client, user)
        guest: Any = Guest(world.hardware, CLEAN_ROOM_HOST)
        room.attestor = guest
        secrets = CleanRoomSecrets(room)
        began = time.monotonic()
        await ActivityEnvironment().run(secrets.issue_consent_receipt, ConsentReceiptRequest(ticket=ticket, proof=prepared.proof))
        seconds["consent_receipt"] = time.monotonic() - began
        began = time.monotonic()
        revoked = await ActivityEnvironment().run(secrets.revoke_grants, RevokeRequest(ticket=ticket))
        seconds["revoke"] = time.monotonic() - began
        left = 0
        for delegate in await user.list_delegates(ticket.collaboration):
            policy = await user.delegate_policy(ticket.collaboration, delegate.delegate_type, delegate.delegate_id)
            left += sum(grant.host_data in str(policy) for grant in prepared.grants)
    return {"seconds": seconds, "secrets": revoked.secrets, "grants": revoked.grants, "grants_left": left}


async def run(commit_ms: int, lag_ms: int) -> dict[str, Any]:
    """Start the servers and measure."""
    with tempfile.TemporaryDirectory() as folder, prepare_world(Path(folder), commit_ms=1, lag_ms=min(lag_ms, 1)) as world:
        async with await WorkflowEnvironment.start_local(**server_options()) as env:
            return await measure(world, env, commit_ms / 1000, lag_ms / 1000)


def main() -> int:
    """Measure and print one JSON object; returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit-ms", type=int, default=1000)
    parser.add_argument("--lag-ms", type=int, default=0)
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.commit_ms, arguments.lag_ms))
    print(json.dumps(found, indent=2))
    return int(any(found["seconds"][name] > limit * max(arguments.commit_ms / 1000, 1) for name, limit in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
