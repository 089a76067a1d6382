"""Revokes everything that governance holds for a run that is closed in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from activities.clean_room_context import CleanRoomContext
from activities.clean_room_grants import revoke
from activities.clean_room_release import all_done
from cleanroom.concurrency import CONCURRENT_READS
from cleanroom.messages.run import Grant, Revoked
from cleanroom.runs.held import SECRETS, Held, read_held


async def revoke_everything(room: CleanRoomContext, run_id: str, derived: Collection[str]) -> Revoked:
    """Overwrite the staged secrets of a closed run, and remove its guests from every delegate policy. Idempotent.

    Args:
        room: The clean room. Its clients share their position, so that the reads show everything from before the run was closed.
        run_id: The run.
        derived: Host data of its guests, as its documents give it. That of the guests that may read its secrets is added.
    """
    found = await read_held(room.user, room.collaboration, runs={run_id})
    held = found.runs.get(run_id, Held())
    hosts = sorted(held.host_data.union(derived))
    slots = asyncio.Semaphore(CONCURRENT_READS)

    async def undo(secret_id: str) -> tuple[Grant, ...]:
        gone: tuple[Grant, ...] = ()
        async with slots:
            if secret_id in held.grants:
                gone = await revoke(room.client, room.user, room.collaboration, SECRETS, secret_id, hosts)
            if secret_id in held.secrets:
                await room.overwrite(secret_id)
        return gone

    secrets = sorted(held.secrets | held.grants.keys())
    removed = [item for grants in await all_done(map(undo, secrets)) for item in grants]
    for place, admitted in sorted(found.shared.items()):
        if not admitted.isdisjoint(hosts):
            removed += await revoke(room.client, room.user, room.collaboration, *place, hosts)
    return Revoked(secrets=len(held.secrets), grants=len(removed), removed=tuple(removed))
