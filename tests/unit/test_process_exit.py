"""`run_and_exit`: exit codes, flushed output, exit handlers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

SCRIPT = """
import atexit, sys
from starters.terminal.process_exit import run_and_exit
from tests.patience import PATIENCE
atexit.register(lambda: sys.stdout.write("handled"))
def command():
    sys.stdout.write("output ")
    {body}
run_and_exit(command)
sys.stdout.write("never")
"""


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(4)", 4, ""),
        ("sys.exit('no')", 1, "no"),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise ValueError('unexpected')", 1, "unexpected"),
    ],
)
def test_process_exits_with_the_commands_code_after_flushing(body: str, code: int, stderr: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], capture_output=True, text=True, timeout=PATIENCE, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout) == (code, "output handled")
    assert stderr in done.stderr
