"""``cleanroom demo --cluster``: its result, its time, and what it leaves. It starts a cluster of its own (``make test-demo-cluster``)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.local_cloud import assert_same_rows, python
from tests.local_cloud.demo import expected_rows
from tools.cluster.clusters import obstacle

VARIABLE = "CLEANROOM_TEST_DEMO_CLUSTER"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.spark,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get(VARIABLE) != "1", reason=f"starts a cluster with containers: {VARIABLE}=1, `make test-demo-cluster`"),
]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "state"


@pytest.fixture(scope="module")
def demo(state: Path) -> dict[str, Any]:
    """What the demo printed. It would build what is missing, which takes longer than a test should."""
    if (reason := obstacle("full", spark=True)) is not None:
        pytest.skip(reason)
    done = python("starters.cli", "demo", "--cluster", "--output", "json", "--state", str(state), seconds=1700)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_result_of_the_pods_equals_that_of_duckdb(demo: dict[str, Any], tmp_path: Path) -> None:
    assert demo["state"] == "COMPLETED"
    assert_same_rows(demo["rows"], expected_rows(tmp_path), "manufacturer")
    print(json.dumps({"seconds": demo["seconds"], "spark_seconds": demo["spark_seconds"], "parts": demo["parts"]}))


def test_nothing_of_the_cluster_is_left(demo: dict[str, Any], state: Path) -> None:
    assert not (state / "cluster").exists()
    assert [process.pid for process in psutil.process_iter(["cmdline"]) if str(state) in " ".join(process.info["cmdline"] or ())] == []
    assert not [interface for interface in psutil.net_if_addrs() if interface in ("cni0", "node0")]
    assert str(state) not in Path("/proc/mounts").read_text()
    assert [*CONTROL_GROUPS.glob("kubepods"), *CONTROL_GROUPS.glob("*/kubepods")] == []
