"""What a command loads before it does anything: the command line starts fast because it loads no client and no parser."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from scripts.reference.commands import commands

ROOT = Path(__file__).parents[2]
HEAVY = (
    "azure", "boto3", "botocore", "cryptography", "google.protobuf", "httpx", "jwt", "kubernetes", "markdown_it", "matplotlib", "numpy",
    "plotext", "pyarrow", "pydantic_settings", "pyspark", "rich.markdown", "sqlglot", "starlette", "temporalio", "uvicorn", "yaml",
    "cleanroom.identifiers", "localcloud", "sparkapp", "workers", "workflows", "activities",
)  # fmt: skip
"""Modules that take between 20 ms and a second to import, and those that import such."""
SETTINGS_AND_FILES = {"cleanroom.identifiers", "pydantic_settings", "yaml"}
"""What a command needs to read its settings and a file."""
CONSORTIUM = {"collaboration", "invite", "accept-invitation", "members"}
"""Commands that also work without a collaboration. They find with a client of governance that its URL is not set."""
NO_SETTINGS = {
    "audit report": "reads and verifies a file",
    "doctor": "finds out what is not set",
    "init": "writes settings",
    "worker": "is not a command of a collaborator",
    "versions": "needs Temporal only",
    "secret": "stores a file",
    "logs": "reads the logs of a local cloud",
}
"""Commands that need no setting, and why."""
SCRIPT = """
import contextlib, io, json, sys
from starters.commands import build
from starters.terminal.entry import invoke

heavy, calls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for words in calls:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            invoke(build(), words)
        except SystemExit:
            pass
    loaded = [name for name in heavy if name in sys.modules]
    for name in loaded:
        heavy.remove(name)
    print(json.dumps([" ".join(words), loaded, printed.getvalue()]))
"""


def called(calls: list[list[str]], folder: Path, heavy: set[str]) -> list[tuple[str, list[str], str]]:
    """Call commands, one after the other; for each the modules that it was the first to load, and what it printed."""
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(sorted(heavy)), json.dumps(calls)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120, cwd=folder)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_help_of_every_command_loads_no_heavy_module(tmp_path: Path) -> None:
    names = [item.path for item in commands()]
    found = called([["--help"], *([*path, "--help"] for path in names)], tmp_path, set(HEAVY))
    assert len(found) > 60
    assert {("query", "list"), ("run", "start"), ("audit", "verify"), ("members", "admit")} <= set(names)
    assert {command: modules for command, modules, _ in found if modules} == {}
    assert all(text.startswith("Usage: ") for _, _, text in found)


def test_wrong_arguments_of_every_command_load_no_heavy_module(tmp_path: Path) -> None:
    found = called([[*item.path, "--no-such-option", "--output", "json"] for item in commands()], tmp_path, set(HEAVY))
    assert {json.loads(text)["code"] for _, _, text in found} == {"UsageError"}
    assert {command: modules for command, modules, _ in found if modules} == {}


def test_every_command_finds_that_nothing_is_set_before_it_loads_a_client(tmp_path: Path) -> None:
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "empty.toml").write_text("")
    calls, governance = [], []
    for item in commands():
        options = {param.name for param in item.command.params}
        if item.is_group or "config" not in options or not NO_SETTINGS.keys().isdisjoint({item.path[0], " ".join(item.path)}):
            continue
        words = shlex.split(item.example.partition(" < ")[0])[1:]
        if "--profile" in words:
            del words[words.index("--profile") : words.index("--profile") + 2]
        (governance if item.path[0] in CONSORTIUM else calls).append([*words, "--config", "empty.toml", "--output", "json"])
    assert len(calls) > 35
    found = called(calls, tmp_path, set(HEAVY) - SETTINGS_AND_FILES)
    codes = {command: json.loads(text)["code"] for command, _, text in found}
    # The others miss a file of their example first.
    assert sum(code == "SettingMissing" for code in codes.values()) > 25
    assert set(codes.values()) <= {"SettingMissing", "FileNotFound"}, codes
    assert {command: modules for command, modules, _ in found if modules} == {}
    clients = {"httpx"}
    found = called(governance, tmp_path, set(HEAVY) - SETTINGS_AND_FILES - clients)
    assert {json.loads(text)["code"] for _, _, text in found} <= {"SettingMissing", "NotAMember"}
    assert {command: modules for command, modules, _ in found if modules} == {}
