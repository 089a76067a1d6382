"""What a run leaves in governance and Kubernetes: grants, staged secrets, SparkApplications."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from cleanroom.attestation import GuestAttestor
from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.governance import CleanRoomClient
from cleanroom.settings import Settings
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.tombstone import is_tombstone
from localcloud.standins.cgs.attested import delegate_policy_table
from localcloud.standins.cgs.policies import delegate_list_table
from starters.operations.session import Session, run_async


class Leftovers:
    """Reads the state of past and current runs.

    Args:
        ledger: The database of the governance stand-in.
        member: A collaborator, who lists policies and secret IDs.
        clean_room: Settings of the clean room, which reads secrets.
        spark_service: Settings of the Spark service.
    """

    def __init__(self, ledger: Path, member: Session, clean_room: Settings, spark_service: Settings) -> None:
        self._ledger = ledger
        self._member, self._clean_room, self._spark_service = member, clean_room, spark_service

    def delegates(self) -> dict[tuple[str, str], dict[str, list[str]]]:
        """Return the claims of every delegate policy of the collaboration by type and ID, from one snapshot.

        They come from the stand-in's database: the API has one request per policy, and policies of ended runs stay in the list.
        """
        contract = self._member.collaboration
        with closing(sqlite3.connect(f"{self._ledger.as_uri()}?mode=ro", uri=True, isolation_level=None)) as database:
            database.execute("BEGIN")

            def table(name: str) -> dict[str, Any]:
                rows = database.execute("SELECT key, value FROM kv WHERE tab = ? ORDER BY key", (name,))
                return {key: json.loads(value) for key, value in rows}

            places = [(row["delegateType"], row["delegateId"]) for row in table(delegate_list_table(contract)).values()]
            return {place: table(delegate_policy_table(contract, *place)) for place in places}

    def grants(self) -> dict[str, list[str]]:
        """Host data in delegate policies, all of which belong to runs."""
        return {
            "/".join(place): [value for value in policy.get(HOST_DATA, []) if value != NOBODY]
            for place, policy in self.delegates().items()
            if policy and set(policy.get(HOST_DATA, [])) != {NOBODY}
        }

    def secrets(self, run_id: str) -> list[str]:
        """IDs of a run's staged secrets that still have a value.

        The consent receipt is left out: it is not secret, and the clean room may renew it once more when pods can no longer read it.
        """
        own = self._clean_room

        async def work() -> list[str]:
            ids = [name for name in await self._staged(run_id) if not name.endswith(".consent")]
            attestor = GuestAttestor(own.attestation.url, ca_file=own.ca_file)
            async with CleanRoomClient(own.governance.url, self._member.collaboration, attestor, ca_file=own.ca_file) as client:
                return [name for name in ids if not is_tombstone(await client.get_secret(name))]

        return run_async(work())

    def staged(self, run_id: str) -> list[str]:
        """IDs of all secrets that were staged for a run, overwritten ones included."""
        return run_async(self._staged(run_id))

    async def _staged(self, run_id: str) -> list[str]:
        async with self._member.governance() as client:
            names = await client.list_secrets(self._member.collaboration)
        return [name for name in names if name.startswith(f"cleanroom_{run_id}.")]

    def applications(self) -> list[dict[str, Any]]:
        """Return the SparkApplications in Kubernetes."""
        client = KubernetesClient.connect(self._spark_service.kubernetes)
        try:
            return client.applications()
        finally:
            client.close()
