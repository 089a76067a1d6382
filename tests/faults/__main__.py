"""The long form of the fault matrix: ``make test-faults``, or a slice of it: ``python -m tests.faults --scenario run --fault lost``.

The outcomes of slices are kept, so that the page can be written after the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from cleanroom.errors import CleanRoomError
from cleanroom.temporal import attributes
from cleanroom.temporal.converter import data_converter
from localcloud.launcher import temporal_server
from localcloud.launcher.processes import free_ports
from tests.faults.expectations import exists
from tests.faults.matrix import Matrix, groups, open_matrix
from tests.faults.report import merge_outcomes, save_recording, write_page
from tests.faults.rows import Cell, Outcome
from tests.faults.scenarios import SCENARIOS
from tests.faults.services import Killable
from tests.temporal_env import TEST_KEYRING, server_options

TRIES = 4
"""How often a cell runs whose request was not sent. Which of two concurrent activities sends a shared request can vary."""


async def run_cells(matrix: Matrix, cells: Sequence[Cell]) -> list[Outcome]:
    """Run cells until each has met its fault, at most :data:`TRIES` times."""
    done: dict[Cell, Outcome] = {}
    for _ in range(TRIES):
        left = [cell for cell in cells if cell not in done or not (done[cell].hit or done[cell].wrong)]
        for group in groups(left):
            started = time.monotonic()
            try:
                outcomes = await matrix.run_group(group)
            except (CleanRoomError, RPCError, AssertionError) as error:
                # The other cells must still run.
                outcomes = [Outcome(cell, hit=False, wrong=f"{type(error).__name__}: {error}") for cell in group]
            for outcome in outcomes:
                done[outcome.cell] = outcome
                if outcome.wrong:
                    print(f"FAILED {outcome.cell}\n       {outcome.wrong}", flush=True)
            missed = sum(not outcome.hit for outcome in outcomes)
            print(f"{group[0].row.scenario}: {len(group)} cells, {missed} not met, {time.monotonic() - started:.1f} s", flush=True)
    return list(done.values())


@asynccontextmanager
async def killable_server(folder: Path) -> AsyncIterator[tuple[Client, Killable]]:
    """Run Temporal's server with a database file."""
    port, http, metrics = free_ports(3)
    keys = {key.name: key.indexed_value_type.name.title().replace("_", "") for key in attributes.ALL}
    service = temporal_server.service(
        database=folder / "temporal.db",
        port=port,
        ui_port=None,
        http_port=http,
        metrics_port=metrics,
        log=folder / "temporal.log",
        search_attributes=keys,
    )
    server = await asyncio.to_thread(Killable, service)
    try:
        converter = data_converter(TEST_KEYRING, accept_unbound=True)
        yield await Client.connect(f"127.0.0.1:{port}", data_converter=converter), server
    finally:
        await asyncio.to_thread(server.stop)


async def run_wire(folder: Path, scenarios: Sequence[str], faults: Sequence[str]) -> tuple[Matrix, list[Outcome]]:
    """Run the cells in which no process is killed."""
    outcomes: list[Outcome] = []
    server = await WorkflowEnvironment.start_local(**server_options())
    async with server, open_matrix(folder, server.client, TEST_KEYRING) as matrix:
        await matrix.record(scenarios)
        for scenario in scenarios:
            cells = [cell for cell in matrix.cells(scenario) if exists(cell) and (not faults or cell.fault in faults)]
            outcomes += await run_cells(matrix, cells)
    return matrix, outcomes


async def run_kills(folder: Path, recorded: Matrix, scenarios: Sequence[str], faults: Sequence[str]) -> list[Outcome]:
    """Run the cells in which a process is killed."""
    outcomes: list[Outcome] = []
    cells = {
        scenario: [cell for cell in recorded.cells_of_kills(scenario) if exists(cell) and (not faults or cell.fault in faults)]
        for scenario in scenarios
    }
    if not any(cells.values()):
        return []
    async with killable_server(folder) as (client, server), open_matrix(folder / "cloud", client, TEST_KEYRING, processes=True) as matrix:
        matrix.recording, matrix.restart_server = recorded.recording, server.kill
        for scenario in scenarios:
            outcomes += await run_cells(matrix, cells[scenario])
    return outcomes


async def main(arguments: argparse.Namespace) -> int:
    """Record, run the matrix, write the page; return the exit code."""
    started = time.monotonic()
    scenarios, faults = arguments.scenario or list(SCENARIOS), arguments.fault or []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        matrix, outcomes = await run_wire(Path(folder) / "wire", scenarios, faults)
        outcomes += await run_kills(Path(folder) / "kills", matrix, scenarios, faults)
    for outcome in outcomes:
        if not outcome.hit and not outcome.wrong and outcome.cell.row in matrix.recording.steady:
            outcome.wrong = f"the fault was not met in {TRIES} runs"
            print(f"FAILED {outcome.cell}: {outcome.wrong}")
    wrong, missed = [outcome for outcome in outcomes if outcome.wrong], [outcome for outcome in outcomes if not outcome.hit]
    print(f"{len(outcomes)} cells, {len(wrong)} failed, {len(missed)} not met, {time.monotonic() - started:.0f} s")
    for outcome in missed:
        print(f"not met: {outcome.cell}")
    if not arguments.scenario:
        save_recording(matrix.recording)
    known = merge_outcomes(outcomes)
    if not any(outcome.wrong for outcome in known):
        write_page(known, sum(len(matrix.all_cells(scenario)) for scenario in SCENARIOS))
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="run only this scenario; can be repeated")
    parser.add_argument("--fault", action="append", help="run only this fault; can be repeated")
    logging.disable(logging.CRITICAL)
    sys.exit(asyncio.run(main(parser.parse_args())))
