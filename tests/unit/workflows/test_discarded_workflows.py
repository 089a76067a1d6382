"""A worker that shuts down may discard a workflow's coroutines without evicting the workflow first. They then run nothing more."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

from tests.unit.workflows import worlds
from tests.unit.workflows.driver import HELD, Driver

WORKFLOWS: dict[str, Callable[..., AbstractContextManager[Driver]]] = {
    "PublishAzureDataset": partial(worlds.publish_dataset, "azure-blob"),
    "PublishS3Dataset": partial(worlds.publish_dataset, "aws-s3"),
    "PublishQuery": worlds.publish_query,
    "Prepare": worlds.prepare,
    "RunQuery": worlds.run_query,
    "ConcludeRun": worlds.conclude_run,
    "Cleanup": worlds.cleanup,
}


def activities_of(workflow: str) -> list[str]:
    with WORKFLOWS[workflow]() as driver:
        return list(dict.fromkeys(driver.names))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflow_whose_coroutines_are_discarded_runs_nothing_more(workflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = activities_of(workflow)
    # The collections below look at new objects only. Earlier ones stay frozen, as those of the collection of tests (tests/conftest.py).
    gc.collect()
    gc.freeze()
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: complaints.append((name, found.exc_value)))
    monkeypatch.setattr(Driver, "close", lambda driver: None)
    for name in names:
        with WORKFLOWS[workflow](**{name: HELD}) as driver:
            assert name in driver.running()
        del driver
        gc.collect()
    assert complaints == []
