"""``pytest --processes``: every test is reported, also those of a process that ends early."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = """
import os, warnings
import pytest

@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    yield tmp_path_factory.getbasetemp()
    print("left", flush=True)

def test_first(folder): assert folder.name.startswith("process-")
def test_ends_its_process(): os._exit(7 if "one" in __file__ else 0)
def test_after_that(folder): warnings.warn("seen")
def test_fails(folder): assert folder is None
"""


def run_tests(folder: Path, *options: str) -> str:
    """Run the tests in ``folder`` in two processes, and return what pytest prints."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.processes", "-p", "no:cacheprovider", "--processes", "2", *options, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False).stdout


def test_every_test_is_reported_also_after_the_end_of_its_process(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / f"test_{name}.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    output = run_tests(tmp_path, "--rootdir", str(tmp_path), "-c", str(tmp_path / "pytest.ini"))
    assert "4 failed, 4 passed, 2 warnings" in output, output
    assert sorted(re.findall(r"FAILED \S*test_(\w+).py::test_(\w+)", output)) == [
        ("one", "ends_its_process"),
        ("one", "fails"),
        ("other", "ends_its_process"),
        ("other", "fails"),
    ]
    ends = re.findall(r"process \d ended with (\d) while it ran test_(\w+).py::test_ends_its_process\n", output)
    assert sorted(ends) == [("0", "other"), ("7", "one")]
