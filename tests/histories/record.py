"""Record the histories that :mod:`tests.unit.test_replay` replays and :mod:`tests.diagrams` reads, from a demo that is still running.

``make histories`` runs these commands::

    cleanroom demo --keep --rows 20000 --state /tmp/histories
    python -m tests.histories.record /tmp/histories
    cleanroom down --state /tmp/histories

It records the demo's workflows and a run that governance refuses. The keyring that comes with them was made for this demo and is
used for nothing else. No history contains a secret, so the keyring protects nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from temporalio.client import Client, WorkflowFailureError

from cleanroom.settings import load_settings
from starters.demo import QUERY
from starters.operations.runs import start_run
from starters.operations.session import Session, new_run_id
from tests.histories import FOLDER, write_history


async def record(state: Path) -> None:
    """Write one file per workflow, and the keyring."""
    session = Session(load_settings("fabrikam", path=state / "cleanroom.toml"))
    client = await session.temporal()
    refused = await start_run(session, QUERY, "0" * 64, new_run_id())
    try:
        await refused.result()
    except WorkflowFailureError:
        await _write(client, refused.id, "run-refused")
        await _write(client, f"{refused.id}/prepare", "prepare-refused")
    prefix = f"cr/{session.collaboration}"
    await _write(client, f"{prefix}/dataset/contosso-flights", "publish-azure-dataset")
    await _write(client, f"{prefix}/dataset/litware-planes", "publish-s3-dataset")
    await _write(client, f"{prefix}/query/{QUERY}", "publish-query")
    completed = "WorkflowType = 'RunQuery' AND ExecutionStatus = 'Completed'"
    runs = [item.id async for item in client.list_workflows(completed)]
    await _write(client, runs[0], "run-query")
    await _write(client, f"{runs[0]}/prepare", "prepare")
    assert session.settings.temporal.keyring_file is not None
    shutil.copyfile(session.settings.temporal.keyring_file, FOLDER / "keyring.json")


async def _write(client: Client, workflow_id: str, name: str) -> None:
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    write_history(FOLDER, name, history)
    print(f"{name}: {len(history.events)} events of {workflow_id}")


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
