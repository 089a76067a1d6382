"""A command's exit code is what it promised, its output is complete, and its exit handlers ran."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import atexit, sys
from starters.terminal.process_exit import run_and_exit
atexit.register(lambda: sys.stdout.write("handled"))
def command():
    sys.stdout.write("said ")
    {body}
run_and_exit(command)
sys.stdout.write("never")
"""


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(4)", 4, ""),
        ("sys.exit('no')", 1, "no"),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise ValueError('unforeseen')", 1, "unforeseen"),
    ],
)
def test_exit_codes_and_output(body: str, code: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout) == (code, "said handled")
    assert told in done.stderr
