"""What a command loads before it does anything: the command line starts fast because it loads no client and no parser."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "azure", "boto3", "botocore", "cryptography", "google.protobuf", "httpx", "jwt", "kubernetes", "matplotlib", "numpy", "plotext",
    "pyarrow", "pyspark", "sqlglot", "starlette", "temporalio", "uvicorn", "yaml", "localcloud", "sparkapp", "workers", "workflows",
    "activities",
)  # fmt: skip
"""Modules that take between 20 ms and a second to import."""
SCRIPT = """
import contextlib, io, json, sys
from typer.main import get_command
from starters.commands import build

heavy, found = json.loads(sys.argv[1]), {}

def visit(command, words):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        root.main([*words[1:], "--help"], prog_name="cleanroom")
    loaded = [name for name in heavy if name in sys.modules]
    found[" ".join(words)] = loaded
    for name in loaded:
        heavy.remove(name)
    if hasattr(command, "list_commands"):
        context = command.context_class(command)
        for name in command.list_commands(context):
            visit(command.get_command(context, name), [*words, name])

root = get_command(build())
visit(root, ["cleanroom"])
print(json.dumps(found))
"""


def test_help_of_every_command_loads_no_heavy_module() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(HEAVY)], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert len(found) > 60
    assert {"cleanroom query list", "cleanroom run start", "cleanroom audit verify", "cleanroom members admit"} <= found.keys()
    assert {command: modules for command, modules in found.items() if modules} == {}
