"""Adds and removes the grants of one run in governance's delegate policies.

Governance merges delegate policies: ``add`` unites the values of each claim, ``remove`` fails when a value is absent, and a
claim without values disappears (docs/facts/governance-service.md#delegate-policies). This has two consequences:

* A policy that lost its last host data would keep only its debug claim, and would then admit *every* guest. So each policy
  also contains :data:`cleanroom.claims.NOBODY`, which no guest can have and which is never removed.
* Concurrent runs share the policies for ID-token subjects and for events. So a revocation removes only the run's own host
  data, never the debug claim.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.errors import Internal, Unavailable
from cleanroom.governance import CleanRoomClient, GovernanceUserClient, host_data_claims
from cleanroom.messages.run import Grant

REVOCATION_ROUNDS = 4
"""How often one policy is read and the values removed. The last read must find none."""


async def grant(client: CleanRoomClient, delegate_type: str, delegate_id: str, host_data: Sequence[str]) -> tuple[Grant, ...]:
    """Add ``host_data`` to one delegate policy. Idempotent."""
    await client.set_delegate(delegate_type, delegate_id, "add", host_data_claims([*host_data, NOBODY]))
    return tuple(Grant(delegate_type=delegate_type, delegate_id=delegate_id, host_data=value) for value in host_data)


async def revoke(
    client: CleanRoomClient, user: GovernanceUserClient, contract_id: str, delegate_type: str, delegate_id: str, host_data: Sequence[str]
) -> tuple[Grant, ...]:
    """Remove ``host_data`` from one delegate policy; returns what was removed. Idempotent: absent values are skipped.

    Both clients must share their position in the ledger. Then the reads show every grant from before the caller's last write, and the
    last read shows this function's own removal.

    Raises:
        Unavailable: ``GrantsRemain`` if other processes keep adding these values.
    """
    removed: set[str] = set()
    for _ in range(REVOCATION_ROUNDS):
        held = (await user.delegate_policy(contract_id, delegate_type, delegate_id)).get(HOST_DATA) or []
        present = [value for value in host_data if value in held]
        if not present:
            return tuple(Grant(delegate_type=delegate_type, delegate_id=delegate_id, host_data=value) for value in sorted(removed))
        try:
            await client.set_delegate(delegate_type, delegate_id, "remove", {HOST_DATA: present})
        except Internal as error:
            # A concurrent revocation of the same run may have removed the values first. The next round reads what is left.
            if error.code != "InternalError":
                raise
        else:
            removed.update(present)
    raise Unavailable(
        "GrantsRemain", f"{delegate_type} {delegate_id!r} still admits pods of the run after {REVOCATION_ROUNDS} attempts to remove them."
    )
