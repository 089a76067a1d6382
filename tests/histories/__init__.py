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
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def recorded_history(name: str) -> WorkflowHistory:
    """Read one of :data:`NAMES`."""
    workflow_id, _, text = gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()).decode().partition("\n")
    return WorkflowHistory.from_json(workflow_id, text)


def recorded_keyring() -> Keyring:
    """Read the keyring of the recorded demo. It was made for this purpose and protects nothing."""
    held = json.loads((FOLDER / "keyring.json").read_text())
    return Keyring(held["current"], {name: Secret(base64.b64decode(key)) for name, key in held["keys"].items()})
