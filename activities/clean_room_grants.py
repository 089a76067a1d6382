"""Grants of one run in governance's delegate policies: given per pod role, taken back without touching anybody else's.

CGS merges: ``add`` unions values, ``remove`` fails on what is absent, and an emptied claim vanishes (spec/governance.md 8.1). Two
consequences are dealt with here. A policy whose last host data is removed would keep its debug claim alone and so admit
*every* guest; therefore each policy also holds :data:`NOBODY`, which no guest can have and which stays. And the subject and
event policies are shared by concurrent runs; therefore only this run's host data is removed, never the debug claim.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.claims import HOST_DATA
from cleanroom.errors import Internal
from cleanroom.governance import CleanRoomClient, GovernanceUserClient, host_data_claims
from cleanroom.messages.run import Grant

NOBODY = "f" * 64
"""Host data without a known preimage: no security policy hashes to it."""


async def grant(client: CleanRoomClient, delegate_type: str, delegate_id: str, host_data: str) -> Grant:
    """Let guests with ``host_data`` use one delegate policy; repeatable."""
    await client.set_delegate(delegate_type, delegate_id, "add", host_data_claims([host_data, NOBODY]))
    return Grant(delegate_type=delegate_type, delegate_id=delegate_id, host_data=host_data)


async def revoke(
    client: CleanRoomClient, user: GovernanceUserClient, contract_id: str, delegate_type: str, delegate_id: str, host_data: Sequence[str]
) -> tuple[Grant, ...]:
    """Take ``host_data`` out of one delegate policy; what is not there counts as taken out. Returns what was removed."""
    held = (await user.delegate_policy(contract_id, delegate_type, delegate_id)).get(HOST_DATA) or []
    present = [value for value in host_data if value in held]
    if not present:
        return ()
    try:
        await client.set_delegate(delegate_type, delegate_id, "remove", {HOST_DATA: present})
    except Internal as error:
        # A concurrent revocation of the same run was faster: then nothing of ours is left.
        left = (await user.delegate_policy(contract_id, delegate_type, delegate_id)).get(HOST_DATA) or []
        if error.code != "InternalError" or any(value in left for value in present):
            raise
    return tuple(Grant(delegate_type=delegate_type, delegate_id=delegate_id, host_data=value) for value in present)
