"""The project as a user installs it: from a wheel, into a new environment, without the checkout. Run it with `make test-install`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("CLEANROOM_TEST_INSTALL"), reason="`make test-install` runs it; it installs a gigabyte"),
]
ROOT = Path(__file__).resolve().parents[2]
UV = str(Path(sys.executable).parent / "uv")
SMALL_MEGABYTES = 250


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that installs the wheel with an extra, and returns the program ``cleanroom``."""

    def installed(extra: str) -> Path:
        environment = tmp_path_factory.mktemp("environment")
        subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True, timeout=60)
        # Copies, because links into the cache of uv have no size of their own.
        options = ["--quiet", "--link-mode=copy", "--python", str(environment / "bin/python"), "-c", str(ROOT / "requirements.lock")]
        subprocess.run([UV, "pip", "install", *options, f"cleanroom{extra} @ {wheel.as_uri()}"], check=True, timeout=600)
        return environment / "bin/cleanroom"

    return installed


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


def run(program: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a new user: in a folder without a checkout, with a HOME in which nothing is."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "CLEANROOM"))}
    environment["HOME"] = str(folder / "home")
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.run([str(program), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_small_installation_is_small_and_names_the_extra_that_a_command_needs(install: Callable[[str], Path], tmp_path: Path) -> None:
    program = install("")
    assert megabytes(program.parents[1]) < SMALL_MEGABYTES
    assert run(program, "--version", folder=tmp_path).stdout.startswith("cleanroom ")
    for words in (["query", "approve", "--help"], ["key", "publish", "--help"], ["worker", "--help"]):
        assert run(program, *words, folder=tmp_path).returncode == 0
    up = run(program, "up", "--state", "state", "-o", "json", folder=tmp_path)
    assert (up.returncode, json.loads(up.stdout)["code"]) == (6, "LocalExtraMissing")
    demo = run(program, "demo", "--state", "demo", "-o", "json", folder=tmp_path)
    assert (demo.returncode, json.loads(demo.stdout)["code"]) == (6, "LocalExtraMissing")
    (tmp_path / "buyers.csv").write_text("buyer\na\nb\n")
    init = run(program, "dataset", "init", "buyers.csv", "-o", "json", folder=tmp_path)
    assert (init.returncode, json.loads(init.stdout)["columns"]) == (0, {"buyer": "string"})
    assert run(program, "dataset", "check", "buyers.yaml", folder=tmp_path).returncode == 0
    (tmp_path / "shop.parquet").write_bytes(b"PAR1")
    parquet = run(program, "dataset", "init", "shop.parquet", "-o", "json", folder=tmp_path)
    assert (parquet.returncode, json.loads(parquet.stdout)["hint"]) == (6, "Install it: pip install 'cleanroom[rows]'")


def test_demo_plays_from_an_installed_wheel(install: Callable[[str], Path], tmp_path: Path) -> None:
    done = run(install("[local]"), "demo", "--rows", "20000", "-o", "json", folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    shown = json.loads(done.stdout)
    assert shown["state"] == "COMPLETED"
    assert shown["rows"]
    assert (tmp_path / shown["chart"]).read_bytes().startswith(b"\x89PNG")
