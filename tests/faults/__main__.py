"""The long form of the fault matrix: ``make test-faults``, or a slice of it: ``python -m tests.faults --scenario run --fault lost``.

Outcomes are kept as soon as they are known (:mod:`tests.faults.outcomes`). ``--resume`` runs only the cells that are not green yet.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from cleanroom.errors import CleanRoomError
from tests.faults.cells import PER_ACTIVITY, all_cells, groups, kill_cells, wire_cells
from tests.faults.expectations import exists
from tests.faults.matrix import Matrix, open_matrix
from tests.faults.outcomes import Outcomes
from tests.faults.report import load_recording, save_recording, states, write_page
from tests.faults.rows import Cell, Outcome, Recording
from tests.faults.scenarios import SCENARIOS
from tests.faults.services import killable_server
from tests.temporal_env import TEST_KEYRING, server_options

TRIES = (PER_ACTIVITY, 4, 2, 1, 1, 1)
"""How many cells of an activity run together, by the number of the try. A cell runs again if its request was not sent.

Which of two concurrent activities sends a shared request can vary, and an attempt that follows another one leaves requests out.
"""


class Slice:
    """The cells that one call of the program runs, and where their outcomes are kept."""

    def __init__(self, scenarios: Sequence[str], faults: Sequence[str], outcomes: Outcomes, *, resume: bool, recorded: bool) -> None:
        self.scenarios, self.outcomes, self.recorded = scenarios, outcomes, recorded
        self._faults = faults
        self._green = {cell for cell, outcome in outcomes.known().items() if resume and outcome.hit and not outcome.wrong}

    def of(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return those of ``cells`` that are to be run."""
        return [cell for cell in cells if exists(cell) and cell not in self._green and (not self._faults or cell.fault in self._faults)]


async def run_cells(matrix: Matrix, cells: Sequence[Cell], kept: Outcomes) -> list[Outcome]:
    """Run cells until each has met its fault, or was met elsewhere, with the numbers of :data:`TRIES`."""
    done: dict[Cell, Outcome] = {}
    for number in TRIES:
        state = states(cells, done)
        for group in groups([cell for cell in cells if state[cell] in ("not run", "not met")], number):
            started = time.monotonic()
            try:
                outcomes = await matrix.run_group(group)
            except (CleanRoomError, RPCError, AssertionError, TimeoutError) as error:
                # The other cells must still run.
                outcomes = [Outcome(cell, hit=False, wrong=f"{type(error).__name__}: {error}") for cell in group]
            for outcome in outcomes:
                done[outcome.cell] = outcome
                if outcome.wrong:
                    print(f"FAILED {outcome.cell}\n       {outcome.wrong}", flush=True)
            kept.keep(outcomes)
            missed = sum(not outcome.hit for outcome in outcomes)
            print(f"{group[0].row.scenario}: {len(group)} cells, {missed} not met, {time.monotonic() - started:.1f} s", flush=True)
    return list(done.values())


async def run_wire(folder: Path, slice: Slice) -> list[Outcome]:
    """Run the cells in which no process is killed."""
    outcomes: list[Outcome] = []
    server = await WorkflowEnvironment.start_local(**server_options())
    async with server, open_matrix(folder, server.client, TEST_KEYRING) as matrix:
        if slice.recorded:
            matrix.recording = load_recording()
        else:
            await matrix.record(slice.scenarios)
        if set(slice.scenarios) == set(SCENARIOS):
            save_recording(matrix.recording)
        for scenario in slice.scenarios:
            outcomes += await run_cells(matrix, slice.of(wire_cells(matrix.recording, scenario)), slice.outcomes)
    return outcomes


async def run_kills(folder: Path, recording: Recording, slice: Slice) -> list[Outcome]:
    """Run the cells in which a process is killed."""
    outcomes: list[Outcome] = []
    async with killable_server(folder) as (client, server), open_matrix(folder / "cloud", client, TEST_KEYRING, processes=True) as matrix:
        matrix.recording, matrix.restart_server = recording, server.kill
        for scenario in slice.scenarios:
            outcomes += await run_cells(matrix, slice.of(kill_cells(recording, scenario)), slice.outcomes)
    return outcomes


async def main(arguments: argparse.Namespace) -> int:
    """Record, run the matrix, write the page; return the exit code."""
    started = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    kept = Outcomes()
    slice = Slice(arguments.scenario or list(SCENARIOS), arguments.fault or [], kept, resume=arguments.resume, recorded=arguments.recorded)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        if "wire" in arguments.part:
            outcomes = await run_wire(Path(folder) / "wire", slice)
        if "kills" in arguments.part:
            outcomes += await run_kills(Path(folder) / "kills", load_recording(), slice)
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    print(f"{len(outcomes)} cells, {len(wrong)} failed, {time.monotonic() - started:.0f} s")
    cells = all_cells(load_recording())
    existing = [cell for cell in cells if exists(cell)]
    write_page(list(kept.known().values()), existing, len(cells) - len(existing))
    ran = {outcome.cell for outcome in outcomes}
    unmet = [cell for cell, state in states(existing, kept.known()).items() if cell in ran and state == "not met"]
    for cell in unmet:
        print(f"not met: {cell}")
    return 1 if wrong or unmet else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="run only this scenario; can be repeated")
    parser.add_argument("--fault", action="append", help="run only this fault; can be repeated")
    parser.add_argument(
        "--part", choices=("wire", "kills"), nargs="*", default=("wire", "kills"), help="faults on the wire, or killed processes"
    )
    parser.add_argument("--resume", action="store_true", help="run only cells that have not met their fault and ended as expected")
    parser.add_argument("--recorded", action="store_true", help="use the recording in the repository, made for the present workflows")
    logging.disable(logging.CRITICAL)
    sys.exit(asyncio.run(main(parser.parse_args())))
