"""Three companies from nothing to a result, with the commands and files of docs/getting-started.md. Run it with `make test-companies`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.local_cloud import assert_same_rows
from tests.three_companies import section, write_data

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("CLEANROOM_TEST_COMPANIES"), reason="`make test-companies` runs it; it starts a second local cloud"
    ),
]
LIMIT_SECONDS = 15 * 60
CLEANROOM = str(Path(sys.executable).parent / "cleanroom")


def run(*words: str, folder: Path) -> str:
    done = subprocess.run([CLEANROOM, *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_three_companies_from_nothing_to_a_result(tmp_path: Path) -> None:
    expected, found, began = write_data(tmp_path), section(), time.monotonic()
    for name, text in found.files.items():
        (tmp_path / name).write_text(text)
    try:
        for command in found.commands:
            start = time.monotonic()
            run(*command[1:], folder=tmp_path)
            print(f"{time.monotonic() - start:6.1f} s  {' '.join(command)}")
        seconds = time.monotonic() - began
        print(f"{seconds:6.1f} s  {len(found.commands)} commands, {len(found.files)} files")
        rows = json.loads(run(*found.commands[-1][1:], "-o", "json", folder=tmp_path))["rows"]
        repeated = json.loads(run(*found.commands[1][1:], "-o", "json", folder=tmp_path))
    finally:
        subprocess.run([CLEANROOM, "down"], cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert_same_rows(rows, expected, "city")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert {row["state"] for row in repeated} == {"unchanged"}
    assert seconds < LIMIT_SECONDS
