"""An installation without the extra ``local``: the commands work, and the local cloud names what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cleanroom.errors import PreconditionFailed
from localcloud.__main__ import LOCAL_EXTRA, run
from starters.operations import local_cloud

ABSENT = f"""
import importlib.util, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {LOCAL_EXTRA!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def test_commands_import_without_the_extra() -> None:
    done = subprocess.run([sys.executable, "-c", f"{ABSENT}\nimport starters.cli"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_local_cloud_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run() == PreconditionFailed.exit_code
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "LocalExtraMissing"
    assert "psutil" in error["message"]
    assert "cleanroom[local]" in error["hint"]


def test_up_reports_the_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport importlib.util\nimportlib.util.find_spec = lambda name: None\n"
        "from localcloud.__main__ import run\nraise SystemExit(run())\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(PreconditionFailed) as caught:
        local_cloud.start_local_cloud(tmp_path / "state")
    assert caught.value.code == "LocalExtraMissing"
