"""Reads from governance what runs hold: staged secrets, and grants in delegate policies.

A run leaves a secret in governance before its first grant. So the list of secrets names every run that can hold something.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.concurrency import gather_limited
from cleanroom.governance import Delegate
from cleanroom.identifiers import run_of_secret

SECRETS, SUBJECTS, EVENTS = "secrets", "oauth-federation-subjects", "events"
"""Types of delegate policies in governance."""
WRITER = "writer"
"""ID of the delegate policy that lets guests write audit events."""

Place = tuple[str, str]
"""Type and ID of a delegate policy."""


class HeldReader(Protocol):
    """The reads of governance that :func:`read_held` needs; :class:`cleanroom.governance.GovernanceUserClient` has them."""

    async def list_secrets(self, contract_id: str) -> list[str]:
        """List the IDs of the contract's secrets."""
        ...

    async def list_delegates(self, contract_id: str) -> list[Delegate]:
        """List all delegate policies that were ever set."""
        ...

    async def delegate_policy(self, contract_id: str, delegate_type: str, delegate_id: str) -> dict[str, list[Any]]:
        """Read the claims of a delegate policy."""
        ...


@dataclass
class Held:
    """What one run has in governance."""

    secrets: set[str] = field(default_factory=set)
    """IDs of its staged secrets, also of those that are overwritten."""
    grants: dict[str, frozenset[str]] = field(default_factory=dict)
    """Host data of the guests that may read each of its secrets."""

    @property
    def host_data(self) -> frozenset[str]:
        """Host data of all its guests. Only a run's own guests are granted its secrets."""
        return frozenset(value for values in self.grants.values() for value in values)


@dataclass(frozen=True)
class HeldByRuns:
    """What governance holds for runs."""

    runs: Mapping[str, Held]
    shared: Mapping[Place, frozenset[str]]
    """Host data in the delegate policies that runs share: subjects of ID tokens, and writers of events."""


async def read_held(
    client: HeldReader, contract_id: str, *, runs: Collection[str] | None = None, settled: Container[str] = ()
) -> HeldByRuns:
    """Read what runs hold.

    Args:
        client: A registered user's client.
        contract_id: The contract.
        runs: IDs of the runs to look at. Without it, all runs.
        settled: IDs of runs that are known to hold nothing. They are left out.
    """

    def wanted(secret_id: str) -> str | None:
        run_id = run_of_secret(secret_id)
        return run_id if run_id is not None and run_id not in settled and (runs is None or run_id in runs) else None

    found: dict[str, Held] = {}
    for secret_id in await client.list_secrets(contract_id):
        if (run_id := wanted(secret_id)) is not None:
            found.setdefault(run_id, Held()).secrets.add(secret_id)
    places = [(item.delegate_type, item.delegate_id) for item in await client.list_delegates(contract_id)]
    own = [place for place in places if place[0] == SECRETS and wanted(place[1]) is not None]
    common = [place for place in places if place[0] == SUBJECTS or place == (EVENTS, WRITER)]

    async def hosts(place: Place) -> frozenset[str]:
        claims = await client.delegate_policy(contract_id, *place)
        return frozenset(str(value) for value in claims.get(HOST_DATA) or ()) - {NOBODY}

    read = dict(zip((*own, *common), await gather_limited(hosts, (*own, *common)), strict=True))
    for place in own:
        if (run_id := wanted(place[1])) is not None and read[place]:
            found.setdefault(run_id, Held()).grants[place[1]] = read[place]
    return HeldByRuns(found, {place: read[place] for place in common if read[place]})
