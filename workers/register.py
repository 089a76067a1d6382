"""Prepares a namespace: ``python -m workers.register PROFILE``. Idempotent.

It registers missing search attributes. Where no version of the workers is current yet, it promotes the version of this code; later
versions are promoted by people (``cleanroom versions promote``).
"""

from __future__ import annotations

import asyncio
import sys

from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from cleanroom.errors import CleanRoomError, Conflict, Unavailable
from cleanroom.settings import load_settings
from cleanroom.temporal.attributes import ALL
from cleanroom.temporal.build import build_id
from cleanroom.temporal.client import connect
from cleanroom.temporal.versions import DEPLOYMENTS, Deployment, current_build, promote


async def register(client: Client) -> tuple[str, ...]:
    """Register the missing search attributes in the client's namespace, and return their names.

    Raises:
        Conflict: ``SearchAttributeTypeDiffers`` if one exists with another type.
        Unavailable: ``SearchAttributesNotRegistered``.
    """
    wanted = {key.name: int(key.indexed_value_type) for key in ALL}
    try:
        listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        present = dict(listed.custom_attributes)
        for name in sorted(wanted.keys() & present.keys()):
            if present[name] != wanted[name]:
                raise Conflict(
                    "SearchAttributeTypeDiffers",
                    f"search attribute {name}: it exists in namespace {client.namespace!r} with another type.",
                    hint="Use a separate namespace for the collaboration.",
                    party="operator",
                )
        missing = tuple(sorted(wanted.keys() - present.keys()))
        if missing:
            request = AddSearchAttributesRequest(namespace=client.namespace)
            for name in missing:
                request.search_attributes[name] = wanted[name]  # type: ignore[assignment]
            await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        raise Unavailable(
            "SearchAttributesNotRegistered",
            f"search attributes of namespace {client.namespace!r}: {error.status.name.lower().replace('_', ' ')}.",
            cause=error.message,
            hint="Create the namespace first. Registering requires permission to administer it.",
            party="operator",
        ) from error
    return missing


async def promote_first_version(client: Client) -> tuple[Deployment, ...]:
    """Promote the version of this code in the deployments that have no current version, and return these deployments."""
    first = tuple([deployment for deployment in DEPLOYMENTS if await current_build(client, deployment) is None])
    for deployment in first:
        await promote(client, deployment, build_id(), before_workers=True)
    return first


async def _run(profile: str) -> None:
    settings = load_settings(profile)
    client = await connect(settings.temporal, identity="prepare-namespace")
    registered = await register(client)
    print(f"registered: {', '.join(registered) or 'none missing'}", flush=True)
    promoted = await promote_first_version(client)
    print(f"promoted {build_id()}: {', '.join(promoted) or 'no deployment, because each has a current version'}", flush=True)


def main() -> int:
    """Run the command line."""
    if len(sys.argv) != 2:
        print("usage: python -m workers.register PROFILE", file=sys.stderr)
        return 2
    try:
        asyncio.run(_run(sys.argv[1]))
    except CleanRoomError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
