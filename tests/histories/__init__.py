"""Recorded histories of the workflows. ``make histories`` records them again (:mod:`tests.histories.record`)."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

from temporalio.client import WorkflowHistory

from cleanroom.secret import Secret
from cleanroom.temporal.keyring import Keyring

FOLDER = Path(__file__).resolve().parent
OUTCOMES_FOLDER = FOLDER / "outcomes"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))
"""Histories of a demo."""
OUTCOME_NAMES = sorted(path.name.removesuffix(".json.gz") for path in OUTCOMES_FOLDER.glob("*.json.gz"))
"""Histories of :mod:`tests.histories.outcomes`."""


def recorded_history(name: str) -> WorkflowHistory:
    """Read one of :data:`NAMES` or :data:`OUTCOME_NAMES`."""
    folder = FOLDER if name in NAMES else OUTCOMES_FOLDER
    workflow_id, _, text = gzip.decompress((folder / f"{name}.json.gz").read_bytes()).decode().partition("\n")
    return WorkflowHistory.from_json(workflow_id, text)


def write_history(folder: Path, name: str, history: WorkflowHistory) -> None:
    """Write a history."""
    folder.mkdir(exist_ok=True)
    # mtime 0, so that the same history gives the same file.
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(f"{history.workflow_id}\n{history.to_json()}".encode(), mtime=0))


def recorded_keyring() -> Keyring:
    """Read the keyring of the recorded demo. It was made for this purpose and protects nothing."""
    held = json.loads((FOLDER / "keyring.json").read_text())
    return Keyring(held["current"], {name: Secret(base64.b64decode(key)) for name, key in held["keys"].items()})
