"""The clean room policy as governance holds it, and whether what an activity was given is that."""

from __future__ import annotations

from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.messages.publish import CleanRoomPolicy


async def read_policy(client: GovernanceUserClient, collaboration: str) -> CleanRoomPolicy:
    """The contract's clean room policy.

    Raises:
        PreconditionFailed: ``CleanRoomPolicyMissing``.
        Refused: ``CleanRoomPolicyTooWeak`` when it admits debuggable guests.
    """
    claims = (await client.clean_room_policy(collaboration)).policy
    hosts = claims.get(HOST_DATA) or []
    if not hosts:
        raise PreconditionFailed(
            "CleanRoomPolicyMissing",
            f"contract {collaboration!r} has no clean room policy that names host data.",
            party="operator",
            hint="A member proposes it and the members accept it.",
        )
    if claims.get(IS_DEBUGGABLE) != [False]:
        raise Refused(
            "CleanRoomPolicyTooWeak",
            f"contract {collaboration!r}: its clean room policy does not demand {IS_DEBUGGABLE} = false.",
            party="operator",
        )
    ordered = {name: tuple(values) for name, values in sorted(claims.items())}
    return CleanRoomPolicy(
        host_data=tuple(hosts), claims=ordered, digest=sha256_hex(canonical_json({k: list(v) for k, v in ordered.items()}))
    )


async def require_same_policy(client: GovernanceUserClient, collaboration: str, given: CleanRoomPolicy) -> None:
    """``given`` is what governance says now.

    Raises:
        Refused: ``CleanRoomPolicyMismatch``: whoever carried it here changed it, or it changed meanwhile.
    """
    held = await read_policy(client, collaboration)
    if held.digest != given.digest or held.host_data != given.host_data:
        raise Refused(
            "CleanRoomPolicyMismatch",
            "clean room policy: governance holds another one than was handed to this step.",
            details={"governance": list(held.host_data), "given": list(given.host_data)},
            hint="Start the publishing again.",
        )
