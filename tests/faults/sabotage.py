"""Checks that the matrix can fail: ``python -m tests.faults.sabotage`` breaks the product, and a cell must notice.

Each sabotage makes a repeated attempt of one activity do something wrong, as code without idempotency does, or takes a protection out. The
cell that it names must then fail, at the assertion that it names. Without the sabotage the same cell is green.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from temporalio import activity
from temporalio.testing import WorkflowEnvironment

from activities import clean_room_secrets
from cleanroom.clients import azure
from cleanroom.errors import Refused
from cleanroom.governance import CleanRoomClient, GovernanceUserClient
from cleanroom.governance.position import LedgerPosition
from cleanroom.keys import provision
from cleanroom.messages.run import Revoked
from cleanroom.secret import Secret
from cleanroom.spark.kubernetes import KubernetesClient
from sparkapp import consent
from tests.faults.cells import wire_cells
from tests.faults.labels import Attempts
from tests.faults.matrix import Matrix, open_matrix
from tests.faults.rows import Cell
from tests.temporal_env import TEST_KEYRING, server_options

Break = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Sabotage:
    """What is broken, the cell that must notice, and what is left wrong then."""

    name: str
    broken: Break
    scenario: str
    activity: str
    fault: str
    left: str
    request: str = ""
    """End of the request of the cell; empty for the boundary."""


def on_retry(owner: Any, name: str, step: str, instead: Callable[..., Any]) -> Break:
    """Replace a function in repeated attempts of the activity ``step``. ``instead`` gets the original function and its arguments."""

    @contextmanager
    def broken() -> Iterator[None]:
        original = getattr(owner, name)

        def called(*arguments: Any, **options: Any) -> Any:
            if activity.in_activity() and activity.info().activity_type == step and activity.info().attempt > 1:
                return instead(original, *arguments, **options)
            return original(*arguments, **options)

        with patch.object(owner, name, called):
            yield

    return broken


async def _other_secret(put: Any, client: Any, name: str, value: Secret) -> str:
    stored: str = await put(client, name, Secret(bytes(reversed(value.reveal()))))
    return stored


def _second_application(create: Any, client: Any, application: dict[str, Any]) -> Any:
    found = create(client, application)
    create(client, application | {"metadata": application["metadata"] | {"name": application["metadata"]["name"] + "-again"}})
    return found


async def _nothing(*arguments: Any, **options: Any) -> Revoked:
    return Revoked(secrets=0, grants=0)


async def _other_ballot(submit: Any, client: Any, proposal: str, *, accept: bool, **options: Any) -> Any:
    return await submit(client, proposal, accept=not accept, **options)


async def _numbered_event(put: Any, client: Any, data: Mapping[str, Any], **options: Any) -> None:
    await put(client, {**data, "attempt": activity.info().attempt}, **options)


async def _secret_again(put: Any, client: Any, contract: str, name: str, value: Secret) -> str:
    stored: str = await put(client, contract, f"{name}.again", value)
    return stored


def _wider_role(allow: Any, roles: Any, scope: str, role: str, principal: str) -> Any:
    allow(roles, scope.rpartition("/blobServices")[0] or scope.rpartition("/")[0], role, principal)
    return allow(roles, scope, role, principal)


def _key_again(put: Any, vault: Any, credential: Any, request: Any) -> Any:
    with vault.client(credential) as client:
        return provision._reference(provision._create(client, request), request, created=True)


async def _refused(*arguments: Any, **options: Any) -> Any:
    raise Refused("Sabotaged", "on purpose")


SABOTAGES: tuple[Sabotage, ...] = (
    Sabotage(
        "a repeated attempt stages another key", on_retry(CleanRoomClient, "put_secret", "get_key_with_skr", _other_secret),
        "run", "get_key_with_skr", "lost before", "result",
    ),
    Sabotage(
        "a repeated attempt submits another SparkApplication",
        on_retry(KubernetesClient, "create_or_get", "submit_job", _second_application),
        "run", "submit_job", "lost after", "applications",
    ),
    Sabotage(
        "a repeated attempt revokes nothing", on_retry(clean_room_secrets, "revoke_everything", "revoke_grants", _nothing),
        "run", "revoke_grants", "lost before", "grants",
    ),
    Sabotage(
        "a repeated attempt leaves what the cleanup must find",
        on_retry(clean_room_secrets, "revoke_everything", "revoke_grants", _nothing),
        "cancelled-run", "revoke_grants", "lost before", "sweeper",
    ),
    Sabotage(
        "a repeated attempt writes another entry", on_retry(CleanRoomClient, "put_event", "record_event", _numbered_event),
        "concluded-run", "record_event", "lost after", "ledger",
    ),
    Sabotage(
        "a repeated attempt casts another vote", on_retry(GovernanceUserClient, "submit_ballot", "accept_query", _other_ballot),
        "approved-query", "accept_query", "lost before", "proposals",
    ),
    Sabotage(
        "a repeated attempt does not accept", on_retry(GovernanceUserClient, "submit_ballot", "accept_document", _refused),
        "publish-s3", "accept_document", "lost before", "document",
    ),
    Sabotage(
        "a repeated attempt fails for good", on_retry(GovernanceUserClient, "submit_ballot", "accept_document", _refused),
        "publish-azure", "accept_document", "lost before", "failure",
    ),
    Sabotage(
        "a repeated attempt stores another secret", on_retry(GovernanceUserClient, "put_secret", "set_secret", _secret_again),
        "publish-s3", "set_secret", "lost after", "secrets",
    ),
    Sabotage(
        "a repeated attempt assigns another role", on_retry(azure.RoleAssignments, "allow", "allow_access_blob", _wider_role),
        "publish-azure", "allow_access_blob", "lost after", "roles",
    ),
    Sabotage(
        "a repeated attempt creates another key", on_retry(provision, "_set", "set_key_with_skr", _key_again),
        "publish-azure", "set_key_with_skr", "lost after", "keys",
    ),
    Sabotage(
        "reads of governance may go backwards", lambda: patch.object(LedgerPosition, "advance", lambda self, seen: None),
        "approved-query", "propose_query", "lagging governance", "",
    ),
    Sabotage(
        "clocks must be equal", lambda: patch.object(consent, "CLOCK_SECONDS", 0),
        "run", "issue_consent_receipt", "clock jumps", "",
    ),
)  # fmt: skip


def cell_of(matrix: Matrix, sabotage: Sabotage) -> Cell:
    """Return the cell that must notice a sabotage."""
    return next(
        cell
        for cell in wire_cells(matrix.recording, sabotage.scenario)
        if (cell.row.activity, cell.fault) == (sabotage.activity, sabotage.fault) and str(cell.row.request or "").endswith(sabotage.request)
    )


async def unnoticed(matrix: Matrix, sabotages: Sequence[Sabotage]) -> list[str]:
    """Run the cells with and without their sabotage; return what was not noticed."""
    found: list[str] = []
    done: list[str] = []
    await matrix.record(dict.fromkeys(sabotage.scenario for sabotage in sabotages))
    for sabotage in sabotages:
        cell = cell_of(matrix, sabotage)
        with sabotage.broken():
            [outcome] = await matrix.run_group([cell])
        async with matrix.stage.cloud.workers(Attempts()):
            # What this sabotage has left must not fail the next cell.
            await matrix.stage.sweep(f"after-{len(done)}", apply=True)
        done.append(sabotage.name)
        noticed = outcome.wrong and (not sabotage.left or f"{sabotage.left}: " in outcome.wrong)
        print(f"{'noticed' if noticed else 'NOT NOTICED'}: {sabotage.name}\n    {cell}\n    {outcome.wrong[:500]}", flush=True)
        if not noticed:
            found.append(sabotage.name)
    return found


async def main() -> int:
    """Run all sabotages; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        server = await WorkflowEnvironment.start_local(**server_options())
        async with server, open_matrix(Path(folder), server.client, TEST_KEYRING) as matrix:
            wanted = [item for item in SABOTAGES if not sys.argv[1:] or item.scenario in sys.argv[1:]]
            return 1 if await unnoticed(matrix, wanted) else 0


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.exit(asyncio.run(main()))
