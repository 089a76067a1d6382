"""The commands of auditors: ``cleanroom audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.local_cloud.cloud import Cloud, command, python


def audit(*words: str, process: bool = False) -> tuple[int, Any]:
    """``cleanroom audit``, as its own process or in this one: exit code and output."""
    if process:
        done = python("starters.audit", *words, "--output", "json")
        return done.returncode, json.loads(done.stdout)
    result = command("audit", *words, "--output", "json")
    return result.exit_code, json.loads(result.stdout)


def export(cloud: Cloud, party: str, run_id: str, file: Path, *, code: int = 0, process: bool = False) -> dict[str, Any]:
    """Export a run's bundle to ``file`` as ``party``, with the exit code ``code``; return what the command prints."""
    options = ["--profile", party, "--config", str(cloud.state / "cleanroom.toml")]
    found, printed = audit("export", run_id, "--file", str(file), *options, process=process)
    assert found == code, printed
    return dict(printed)
