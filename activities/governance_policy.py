"""Reads the contract's clean room policy from governance and compares it with the policy that an activity received."""

from __future__ import annotations

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.messages.publish import CleanRoomPolicy


async def read_policy(client: GovernanceUserClient, collaboration: str) -> CleanRoomPolicy:
    """Read the contract's clean room policy.

    Raises:
        PreconditionFailed: ``CleanRoomPolicyMissing``.
        Refused: ``CleanRoomPolicyTooWeak`` if the policy accepts debuggable guests.
    """
    claims = (await client.clean_room_policy(collaboration)).policy
    hosts = claims.get(HOST_DATA)
    if not hosts:
        raise PreconditionFailed(
            "CleanRoomPolicyMissing",
            f"contract {collaboration!r} has no clean room policy that names host data.",
            party="operator",
            hint="Let a member propose the policy and the members accept it.",
        )
    if claims.get(IS_DEBUGGABLE) != [False]:
        raise Refused(
            "CleanRoomPolicyTooWeak",
            f"contract {collaboration!r}: its clean room policy does not require {IS_DEBUGGABLE} = false.",
            party="operator",
        )
    ordered = {name: tuple(values) for name, values in claims.items()}
    return CleanRoomPolicy(
        host_data=tuple(hosts), claims=ordered, digest=sha256_hex(canonical_json({k: list(v) for k, v in ordered.items()}))
    )


async def require_same_policy(client: GovernanceUserClient, collaboration: str, given: CleanRoomPolicy) -> None:
    """Require that ``given`` is the policy that governance holds now.

    Raises:
        Refused: ``CleanRoomPolicyMismatch`` if Temporal carried a changed policy, or the policy changed in governance since.
    """
    held = await read_policy(client, collaboration)
    if held.digest != given.digest or held.host_data != given.host_data:
        raise Refused(
            "CleanRoomPolicyMismatch",
            "clean room policy: the policy given to this step differs from the policy in governance.",
            details={"governance": list(held.host_data), "given": list(given.host_data)},
            hint="Publish the dataset again.",
        )
