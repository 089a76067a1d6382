"""Executes runs and commands with secrets in their inputs, and keeps what they leave."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from cleanroom.documents.query import PreCondition
from starters.operations.runs import cancel_run
from starters.operations.session import run_async
from tests.canary.known_secrets import every_secret
from tests.canary.places import Watcher, observe_url
from tests.canary.scanner import Place, Scanner
from tests.local_cloud import ROOT, Cloud, World, unique, until_heartbeat


@dataclass
class Played:
    """The runs and commands that were executed, and what they left to read."""

    cloud: Cloud
    queries: list[str]
    runs: dict[str, str]
    terminal: list[Place]
    watcher: Watcher
    scanner: Scanner

    @property
    def keyring(self) -> Path:
        """The payload codec's keyring, which decodes the histories."""
        return self.cloud.state / "secrets/codec-keyring.json"


def command(cloud: Cloud, *arguments: str, ok: bool = True, env: Mapping[str, str] = {}) -> Place:
    """Run one command in a separate process; return all that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "starters.cli", *arguments, "--config", str(cloud.state / "cleanroom.toml")],
        capture_output=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **env},
    )
    assert (done.returncode == 0) == ok, (arguments, done.stderr.decode()[-2000:])
    return f"terminal: {' '.join(arguments)}", done.stdout + done.stderr


def play(cloud: Cloud, world: World, folder: Path) -> Played:
    """Execute a successful, a failing and a cancelled run, and commands that fail on wrong secrets; collect all secrets."""
    scanner, terminal = Scanner(), []
    spec = world.query("canary")
    failing = world.query("canary-fails", pre_conditions=(PreCondition(view_name="flights", min_row_count=10**9),))
    good, bad = cloud.approved_query(spec), cloud.approved_query(failing)
    runs = {name: unique("r") for name in ("success", "failure", "cancel")}
    with Watcher(cloud) as watcher:
        start = ("run", "start", good.query, "--run-id", runs["success"], "--profile", "fabrikam")
        terminal.append(command(cloud, *start, env={"OTEL_EXPORTER_OTLP_ENDPOINT": observe_url(cloud)}))
        terminal.append(
            command(cloud, "run", "start", bad.query, "--run-id", runs["failure"], "--profile", "fabrikam", "--output", "json", ok=False)
        )
        run_async(_cancelled(cloud, good.query, good.digest, runs["cancel"]))
    for arguments in (("show", runs["failure"]), ("show", runs["cancel"]), ("list",), ("result", runs["success"])):
        terminal.append(command(cloud, "run", *arguments, "--profile", "fabrikam", "--output", "json"))
    terminal += _failing_commands(cloud, world, scanner, folder)
    every_secret(cloud, scanner)
    for key, plain in watcher.network.items():
        scanner.know(f"network secret {key}", plain)
    return Played(cloud, [good.query, bad.query], runs, terminal, watcher, scanner)


async def _cancelled(cloud: Cloud, query: str, digest: str, run_id: str) -> None:
    await asyncio.to_thread(cloud.start, query, digest, run_id=run_id)
    await until_heartbeat(cloud.run_handle(await cloud.fabrikam.temporal(), run_id), "watch_job")
    await cancel_run(cloud.fabrikam, run_id)


def _failing_commands(cloud: Cloud, world: World, scanner: Scanner, folder: Path) -> Iterator[Place]:
    """Publish datasets with wrong and malformed secrets, which the scanner then knows."""
    for word, content in {
        "wrong": '{{"awsAccessKeyId": "LITWARE", "awsSecretAccessKey": "{canary}"}}',
        "malformed": '{{"awsSecretAccessKey": "{canary}", "oops": ',
        "incomplete": '{{"secret": "{canary}"}}',
    }.items():
        canary = f"canary-{os.urandom(12).hex()}"
        scanner.know(f"{word} connection secret", canary.encode())
        secret, file = folder / f"{word}.json", folder / f"{word}.yaml"
        secret.write_text(content.format(canary=canary))
        secret.chmod(0o600)
        spec = world.planes.model_dump(mode="json", by_alias=True, exclude_none=True)
        spec["name"] = unique("planes")
        spec["store"]["connectionSecret"] = f"file:{secret}"
        file.write_text(yaml.safe_dump(spec))
        yield command(cloud, "dataset", "publish", str(file), "--profile", "litware", ok=False)
    canary, file = f"canary-{os.urandom(12).hex()}", folder / "inline.yaml"
    scanner.know("secret in place of its reference", canary.encode())
    spec = world.planes.model_dump(mode="json", by_alias=True, exclude_none=True)
    spec["store"]["connectionSecret"] = canary
    file.write_text(yaml.safe_dump(spec))
    yield command(cloud, "dataset", "publish", str(file), "--profile", "litware", ok=False)
