"""A collaboration whose approvals allow five runs, for the tests of activities that need no other one."""

from __future__ import annotations

import pytest

from cleanroom.messages.run import RunTicket
from tests.audit_world import AuditWorld
from tests.run_world import RunWorld


@pytest.fixture(scope="module")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("activities"), max_runs=5)


@pytest.fixture
def runs(collaboration: AuditWorld) -> RunWorld:
    return RunWorld(collaboration)


@pytest.fixture
def ticket(runs: RunWorld) -> RunTicket:
    return runs.ticket("r-1")
