"""Measures how long a run's governance steps take when governance commits once per second.

The real workflow ``Prepare`` and the real activities run against a governance stand-in and a Temporal server on this machine, for three
datasets with two secrets each, as in the demo. The targets are for an interval of 1 s.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.clean_room_context import CleanRoomContext
from activities.clean_room_secrets import CleanRoomSecrets
from benchmarks.framework import Benchmark, at_most, reported
from cleanroom.identifiers import CLEAN_ROOM_QUEUE
from cleanroom.messages.run import ConsentReceiptRequest, RevokeRequest, RunQueryInput
from tests.prepare_world import CLEAN_ROOM_HOST, Guest, PrepareWorld, prepare_workers, prepare_world
from tests.temporal_env import server_options
from workflows.prepare import Prepare


async def measure_steps(world: PrepareWorld, env: WorkflowEnvironment, interval: float, lag: float) -> dict[str, float]:
    """Prepare a run, issue its consent receipt and revoke it, and return the seconds of each and the number of grants that are left."""
    await world.publish(2)
    ticket = await world.ticket(f"r-{uuid.uuid4().hex[:8]}")
    async with prepare_workers(world, env.client), world.user("clean-room") as user, world.clean_room(user.position) as client:
        world.nodes.interval, world.nodes.lag = interval, lag
        found: dict[str, float] = {}
        began = time.monotonic()
        prepared = await env.client.execute_workflow(
            Prepare.run, RunQueryInput(ticket=ticket, caller="fabrikam"), id=ticket.run_id, task_queue=CLEAN_ROOM_QUEUE
        )
        found["prepare"] = time.monotonic() - began
        room = CleanRoomContext(world.settings, world.bootstrap, client, user)
        guest: Any = Guest(world.hardware, CLEAN_ROOM_HOST)
        room.attestor = guest
        secrets = CleanRoomSecrets(room)
        began = time.monotonic()
        await ActivityEnvironment().run(secrets.issue_consent_receipt, ConsentReceiptRequest(ticket=ticket, proof=prepared.proof))
        found["consent receipt"] = time.monotonic() - began
        began = time.monotonic()
        await ActivityEnvironment().run(secrets.revoke_grants, RevokeRequest(ticket=ticket))
        found["revoke"] = time.monotonic() - began
        found["grants left"] = 0
        for delegate in await user.list_delegates(ticket.collaboration):
            policy = await user.delegate_policy(ticket.collaboration, delegate.delegate_type, delegate.delegate_id)
            found["grants left"] += sum(grant.host_data in str(policy) for grant in prepared.grants)
    return found


async def measure(commit_ms: int = 1000, lag_ms: int = 0) -> dict[str, float]:
    """Start the servers and measure."""
    with tempfile.TemporaryDirectory() as folder, prepare_world(Path(folder), commit_ms=1, lag_ms=min(lag_ms, 1)) as world:
        async with await WorkflowEnvironment.start_local(**server_options()) as env:
            return await measure_steps(world, env, commit_ms / 1000, lag_ms / 1000)


BENCHMARK = Benchmark(
    "governance steps of a run, when governance commits once per second",
    measure,
    [at_most("prepare", 6, "s"), reported("consent receipt", "s"), at_most("revoke", 3, "s"), at_most("grants left", 0)],
)

if __name__ == "__main__":
    BENCHMARK.main()
