"""A local cloud for the scenario tests: every server and worker of the project, as ``cleanroom up`` starts them.

``cloud`` controls and observes it, ``world`` has small datasets on it, ``fixtures`` starts it once per test session.
"""

from tests.local_cloud.assertions import assert_same_rows, code_of, duckdb_rows
from tests.local_cloud.cloud import ROOT, Cloud, Guest, command, python, ticket_of, unique
from tests.local_cloud.histories import until_heartbeat, until_scheduled
from tests.local_cloud.world import World, flights_spec, output_spec, planes_spec, small_files

__all__ = [
    "ROOT",
    "Cloud",
    "Guest",
    "World",
    "assert_same_rows",
    "code_of",
    "command",
    "duckdb_rows",
    "flights_spec",
    "output_spec",
    "planes_spec",
    "python",
    "small_files",
    "ticket_of",
    "unique",
    "until_heartbeat",
    "until_scheduled",
]
