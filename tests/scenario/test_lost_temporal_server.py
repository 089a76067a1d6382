"""The database of a local cloud's Temporal server is deleted. The commands of docs/guides/backups.md bring everything back.

`make test-recovery` runs it: it starts another cloud, with Spark, and takes minutes. tests/scenario/test_recovery.py does the same in
seconds, without commands and without Spark.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from localcloud.launcher.detached import read_status
from tests.local_cloud.cloud import ROOT, python, unique

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.spark,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not os.environ.get("CLEANROOM_TEST_RECOVERY"), reason="make test-recovery"),
]
QUERY, PENDING = "fabrikam-delays", "fabrikam-pending"


class Recovered:
    """A local cloud in the folder ``state``, and the process of its second Temporal server."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._second: subprocess.Popen[bytes] | None = None

    def run(self, *words: str, profile: str = "fabrikam", exit_code: int = 0) -> Any:
        """Run a command and return its JSON output."""
        arguments = (*words, "--profile", profile, "--config", str(self.state / "cleanroom.toml"), "--output", "json")
        done = python("starters.cli", *arguments)
        assert done.returncode == exit_code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def answers(self, *words: str) -> Any:
        """Run a command, and return its JSON output if it succeeds."""
        config = str(self.state / "cleanroom.toml")
        done = python("starters.cli", *words, "--profile", "fabrikam", "--config", config, "--output", "json", seconds=120)
        return [json.loads(done.stdout.splitlines()[-1])] if done.returncode == 0 else None

    def lose_database(self) -> None:
        """Kill the Temporal server, delete its database, and start the same command."""
        status = read_status(self.state)
        assert status is not None
        entry = next(item for item in status["services"] if item["name"] == "temporal")
        process = psutil.Process(entry["pid"])
        argv, cwd = process.cmdline(), process.cwd()
        database = Path(argv[argv.index("--db-filename") + 1])
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=10)
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()
        with (self.state / "logs/temporal.log").open("ab") as log:
            self._second = subprocess.Popen(
                argv, cwd=cwd, stdout=log, stderr=log, env={**os.environ, "TEMPORAL_VERSION_CHECK_DISABLED": "1"}
            )

    def until(self, condition: Any, *, seconds: float = 180) -> Any:
        """Repeat ``condition`` until it returns something."""
        ends = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < ends
            time.sleep(0.5)
        return found

    def stop(self) -> None:
        """Stop the cloud and the second server."""
        if self._second is not None:
            self._second.terminate()
            self._second.wait(20)
        python("localcloud", "down", "--state", str(self.state))


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Recovered]:
    found = Recovered(tmp_path / "cloud")
    try:
        yield found
    finally:
        found.stop()


def pending_query(folder: Path) -> Path:
    spec = yaml.safe_load((ROOT / "demo/fabrikam-delays.yaml").read_text("utf-8"))
    sql = (ROOT / "demo" / spec.pop("sqlFile")).read_text("utf-8") if "sqlFile" in spec else spec["sql"]
    file = folder / "pending.yaml"
    file.write_text(yaml.safe_dump(spec | {"name": PENDING, "sql": sql}), "utf-8")
    return file


def test_a_lost_temporal_server_loses_no_query_and_no_result(cloud: Recovered, tmp_path: Path) -> None:
    started = python(
        "tests.local_cloud.command", "demo", "--keep", "--rows", "20000", "--output", "json", "--state", str(cloud.state), seconds=600
    )
    assert started.returncode == 0, started.stderr
    finished = json.loads(started.stdout.splitlines()[-1])["run_id"]
    cloud.run("query", "create", str(pending_query(tmp_path)))
    cloud.run("query", "propose", PENDING)
    cloud.run("query", "approve", PENDING, "--yes", profile="litware")
    lost = unique("lost")
    cloud.run("run", "start", QUERY, "--run-id", lost, "--no-wait")
    cloud.until(lambda: cloud.run("run", "show", lost)["job"])
    receipt = cloud.run("run", "show", finished)["digest"]

    cloud.lose_database()
    # The server has started, and the workers connect again by themselves.
    cloud.until(lambda: cloud.answers("run", "list"))
    cloud.until(lambda: cloud.answers("versions", "promote"))
    assert cloud.run("run", "list") == []
    cloud.run("query", "show", QUERY, exit_code=3)

    # Nothing is undone before the operator says that the namespace is lost.
    report = cloud.until(lambda: _kept(cloud, lost))
    origin = cloud.run("run", "show", lost, "--from-ledger")["origin"]
    assert origin in report["kept"][0]["reason"]
    assert cloud.run("cleanup", "--dry-run", "--lost", origin, exit_code=6)["left"][0]["run_id"] == lost
    report = cloud.run("cleanup", "--apply", "--lost", origin)
    assert [(item["run_id"], item["outcome"]) for item in report["left"]] == [(lost, "undone")]
    # Its pods may have ended by themselves; its grants have not.
    assert report["left"][0]["held"]["secret grants"] > 0
    assert cloud.run("cleanup", "--lost", origin)["left"] == []

    shown = cloud.run("run", "show", finished, "--from-ledger")
    assert (shown["state"], shown["digest"], shown["grants_held"]) == ("COMPLETED", receipt, 0)
    assert cloud.run("run", "show", lost, "--from-ledger")["state"] == "FAILED"
    assert cloud.run("run", "result", finished)["digest"] == receipt

    assert cloud.run("query", "adopt", QUERY)["state"] == "Approved"
    adopted = cloud.run("query", "adopt", PENDING)
    assert (adopted["accepted"], adopted["pending"]) == (["litware"], ["contosso"])
    cloud.run("query", "approve", PENDING, "--yes", profile="contosso")
    for query in (QUERY, PENDING):
        run_id = unique("again")
        assert cloud.run("run", "start", query, "--run-id", run_id)["state"] == "COMPLETED"
        # The workers outlived the namespace, and their new runs belong to the new one.
        assert cloud.run("run", "show", run_id, "--from-ledger")["origin"] not in ("", origin)
    assert cloud.run("cleanup")["left"] == []


def _kept(cloud: Recovered, run_id: str) -> Any:
    """Return the report of a dry run that keeps the run."""
    found = cloud.answers("cleanup")
    return found[0] if found and any(item["run_id"] == run_id for item in found[0]["kept"]) else None
