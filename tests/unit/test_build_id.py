"""The build ID follows the code that workflows and activities execute, and the image's build writes it down."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.common import VersioningBehavior

from cleanroom.temporal.build import BUILD_FILE, LOCK, PACKAGES, ROOT, build_id, compute_build_id
from workers import boundaries


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for package in PACKAGES:
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "part/module.py").write_text(f"NAME = {package!r}\n")
    (tmp_path / LOCK).write_text("temporalio==1\n")
    return tmp_path


def test_build_id_is_a_kubernetes_label_and_equal_in_another_process() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", build_id())
    command = [sys.executable, "-S", str(ROOT / "cleanroom/temporal/build.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == build_id()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_change_of_the_code_changes_the_build_id(code: Path, package: str) -> None:
    before = compute_build_id(code)
    module = code / package / "part/module.py"
    module.write_text(module.read_text() + "\n")
    changed = compute_build_id(code)
    module.rename(module.with_name("renamed.py"))
    assert len({before, changed, compute_build_id(code)}) == 3


def test_locked_dependencies_change_the_build_id_and_other_files_do_not(code: Path) -> None:
    before = compute_build_id(code)
    (code / "README.md").write_text("text")
    (code / "starters").mkdir()
    (code / "starters/cli.py").write_text("command = 1")
    shutil.copytree(code / "cleanroom/part", code / "cleanroom/part/__pycache__", ignore=lambda *_: ["module.py"])
    assert compute_build_id(code) == before
    (code / LOCK).write_text("temporalio==2\n")
    assert compute_build_id(code) != before


def test_the_image_states_its_build_id(code: Path) -> None:
    assert build_id(code) == compute_build_id(code)
    (code / BUILD_FILE).write_text("0123456789abcdef\n")
    assert build_id(code) == "0123456789abcdef"
    finish = (ROOT / "deploy/finish.sh").read_text()
    assert f'build.py" >"$root/{BUILD_FILE}"' in finish
    assert "COPY pyproject.toml requirements.lock" in (ROOT / "deploy/Containerfile").read_text()
    assert "cp requirements.lock" in finish


def test_every_workflow_says_how_it_moves_between_versions() -> None:
    """A run ends on the version on which it began. A query is open for weeks and a watcher for ever, so they move."""
    kinds = [kind for kind in vars(boundaries).values() if isinstance(kind, type) and kind.__module__.startswith("workflows.")]
    found = {definition.name: definition.versioning_behavior for definition in map(workflow._Definition.must_from_class, kinds)}
    assert {name for name, behaviour in found.items() if behaviour is VersioningBehavior.AUTO_UPGRADE} == {"PublishQuery", "WatchQueries"}
    assert {name for name, behaviour in found.items() if behaviour is VersioningBehavior.UNSPECIFIED} == set()
    assert {"RunQuery", "Prepare", "ConcludeRun", "PublishAzureDataset", "PublishS3Dataset"} <= set(found)
