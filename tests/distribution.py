"""Distributes the tests over a few processes. ``tests/conftest.py`` applies it.

A file stays in one process, so that its servers start once. The files on the local cloud form two pieces, each with a cloud of
its own, because one piece would take half of the total time. Long pieces start first, so that none runs alone at the end.
"""

from __future__ import annotations

import re
from pathlib import Path

ON_THE_CLOUD = frozenset(
    path.name for path in Path(__file__).with_name("scenario").rglob("test_*.py") if re.search(r"[(, ](cloud|attacker):", path.read_text())
)
"""Scenario files with tests that use the fixture ``cloud``, directly or through ``attacker``."""
WITH_THE_DEMO = frozenset({"test_demo_result.py", "test_canary.py", "test_crashes.py", "test_audit.py", "test_diagrams.py"})
"""Scenario files on the cloud that the demo starts."""
IN_ONE_JVM = frozenset(
    f"tests/unit/{name}.py"
    for name in (
        "sql/test_on_spark",
        "sql/test_operators_on_spark",
        "sql/test_plan_on_spark",
        "sparkapp/test_files_of_spark",
        "test_sparkapp_run",
        "test_sparkapp_run_failures",
    )
)
"""Files that run Spark in the process of the tests. The JVM of the first one serves the others, with its code already compiled."""
ON_THE_STORES = frozenset(f"tests/unit/test_{name}.py" for name in ("object_stores", "blob_access", "sparkapp_listing"))
"""Files whose tests need Azurite or SeaweedFS, which then start once."""
FIRST = (
    "the demo's cloud",
    "another cloud",
    "Spark",
    "tests/scenario/test_attested_payload.py",
    "the object stores",
    "tests/scenario/test_spark_service.py",
    "tests/scenario/test_query_in_time.py",
    "the fault matrix",
    "tests/scenario/test_recovery.py",
    "tests/scenario/test_query_renewal.py",
    "tests/conformance/governance/test_model.py",
    "tests/scenario/test_governance_machine.py",
    "tests/scenario/kubernetes/test_kubelet.py",
    "tests/scenario/test_worker_lifecycle.py",
    "tests/unit/test_commands.py",
    "tests/cluster/test_cluster_api.py",
    "tests/cluster/test_cluster_runs.py",
    "tests/scenario/test_prepare_cost.py",
    "tests/scenario/test_load.py",
    "tests/scenario/test_repeated_commands.py",
    "tests/unit/audit/test_forged_records.py",
    "tests/unit/sql/test_floors.py",
    "tests/unit/sparkapp/test_plan_walk.py",
    "tests/unit/test_governance_faults.py",
    "tests/unit/test_supervisor.py",
    "tests/unit/keys/test_release_key.py",
    "tests/unit/keys/test_keyvault_release.py",
)
"""Pieces that take ten seconds or more, longest first."""


def piece(nodeid: str) -> str:
    """Return the piece of a test."""
    file = nodeid.split("::", 1)[0]
    name = file.rsplit("/", 1)[-1]
    if file.startswith("tests/faults/"):
        return "the fault matrix"
    if file in IN_ONE_JVM:
        return "Spark"
    if file in ON_THE_STORES:
        return "the object stores"
    if "scenario/" not in file or name not in ON_THE_CLOUD:
        return file
    return "the demo's cloud" if name in WITH_THE_DEMO else "another cloud"


def rank(nodeid: str) -> int:
    """Return the position of the test's piece in the order."""
    return FIRST.index(found) if (found := piece(nodeid)) in FIRST else len(FIRST)
