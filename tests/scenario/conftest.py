"""Fixtures of the scenario tests: the local cloud of the session (:mod:`tests.local_cloud.fixtures`), and watched pods."""

from tests.executor_pods import watched_world
from tests.local_cloud.ended_runs import completed_run, withdrawn_run
from tests.local_cloud.fixtures import cloud, pytest_runtest_makereport, pytest_runtest_setup, world

__all__ = ["cloud", "completed_run", "pytest_runtest_makereport", "pytest_runtest_setup", "watched_world", "withdrawn_run", "world"]
