"""Runs the cells of the fault matrix. A group that fails runs again in halves, so each failure names its cell."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from temporalio.client import Client

from cleanroom.temporal.keyring import Keyring
from tests.faults.cells import FULL_DISK, WHOLE, mode_of
from tests.faults.clock import JumpingClock, jumping
from tests.faults.cloud import fault_cloud, publish_keys
from tests.faults.expectations import expected
from tests.faults.labels import RESTART, Attempts, Boundary, unlimited_attempts
from tests.faults.proxy import KILLS, Rule
from tests.faults.rows import Cell, Left, Outcome, Recording, Row
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Stage, close_stage, open_stage
from tests.faults.worker import worker_processes

RUN_SECONDS = 900
"""Limit of one run. It takes seconds, or minutes if it kills many processes on a busy machine."""
FAILURES_OF_A_GROUP = 3
"""Cells of a group that may fail before the others are not run."""


class Matrix:
    """The cloud, the recording and the numbers of the runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.recording = Recording()
        self.restart_server: Callable[[], None] | None = None
        """Kills Temporal's server and starts it on its database file."""
        self.errors: list[tuple[str, str, str]] = []
        self.profiles: tuple[str, ...] = ()
        """The workers that the present run needs."""
        self.kinds: dict[str, str] = {}
        """Types of the workflows of the latest run, by ID."""
        self.died: list[Boundary] = []
        """The boundaries at which worker processes of the latest run have killed themselves."""
        self.full: set[tuple[str, str]] = set()
        """Workflow and activity of the attempts of the latest run that could not write to a file."""
        self._numbers = count(1)

    async def _run(self, scenario: str, cells: Sequence[Cell], mode: str = "") -> tuple[Left, dict[Cell, bool], set[Row]]:
        """Run a scenario on new workers with the faults of ``cells``; return what is left, which faults happened, and the rows.

        Without cells, ``mode`` says how the workers run.
        """
        cloud, found = self.stage.cloud, SCENARIOS[scenario]
        name = f"cell-{next(self._numbers):05}"
        ids = found.ids(self.stage, name)
        kinds = self.kinds = {id: kind for kind, id in ids.items() if kind in found.workflows}
        at_boundary = {
            cell: Boundary(ids[cell.row.workflow], cell.row.activity, cell.fault.split()[-1]) for cell in cells if not cell.row.request
        }
        on_wire = {
            cell: Rule(ids[cell.row.workflow], cell.row.activity, cell.row.request, cell.fault) for cell in cells if cell.row.request
        }
        cloud.proxy.calls.clear()
        self.profiles = found.profiles
        cloud.proxy.rules = list(on_wire.values())
        attempts = Attempts(lose=list(at_boundary.values()))
        if any(rule.fault in KILLS for rule in on_wire.values()):
            attempts.backoff = RESTART
        attempts.slow = [rule for rule in on_wire.values() if rule.fault == "slow"]
        mode = mode_of(cells[0].fault) if cells else mode
        waiting = [rule for rule in on_wire.values() if rule.activity.startswith("watch")]
        watched = [boundary for boundary in at_boundary.values() if boundary.activity.startswith("watch") and mode not in WHOLE]
        self.stage.watches_wait = lambda: (
            any(rule.hits == 0 for rule in waiting) or any(item in attempts.lose and item not in self.died for item in watched)
        )
        with unlimited_attempts() if len(cells) > 1 else contextlib.nullcontext():
            async with MODES[mode](self, attempts), asyncio.timeout(RUN_SECONDS), self._lingering(on_wire.values()):
                left = await found.run(self.stage, name)
        self.errors = attempts.errors
        rows = {Row(scenario, kinds[call.workflow], call.activity, call.request) for call in cloud.proxy.calls if call.workflow in kinds}
        rows |= {Row(scenario, kinds[id], activity) for id, activity, _ in attempts.seen if id in kinds}
        hit = {cell: boundary not in attempts.lose for cell, boundary in at_boundary.items()}
        if mode in WHOLE:
            met = self.full if mode == FULL_DISK else {(id, activity) for id, activity, _ in attempts.seen}
            hit = {cell: (ids[cell.row.workflow], cell.row.activity) in met for cell in cells}
        return left, hit | {cell: rule.hits > 0 for cell, rule in on_wire.items()}, rows

    async def record(self, scenarios: Iterable[str]) -> None:
        """Run scenarios without faults, twice, and on a full disk: what they leave must be equal."""
        for scenario in scenarios:
            left, _, rows = await self._run(scenario, [])
            again, _, more = await self._run(scenario, [])
            assert left == again, f"{scenario} is not reproducible: {difference(left, again)}"
            assert left["failure"] in SCENARIOS[scenario].failures, left
            self.recording.left[scenario] = left
            focus = SCENARIOS[scenario].focus
            self.recording.rows |= {row for row in rows | more if not focus or row.activity in focus}
            self.recording.steady |= self.recording.rows & rows & more
            left, _, _ = await self._run(scenario, [], FULL_DISK)
            assert left == again, f"{scenario} on a full disk: {difference(again, left)}"
            self.recording.writers |= {row for row in self.recording.rows if not row.request and self._wrote(row)}

    def _wrote(self, row: Row) -> bool:
        """Whether an activity could not write to a file in the latest run."""
        return any(activity == row.activity and self.kinds.get(id) == row.workflow for id, activity in self.full)

    @contextlib.asynccontextmanager
    async def _lingering(self, rules: Iterable[Rule]) -> AsyncIterator[None]:
        """Let deleted pods exist until activities that wait for their end have met their faults."""
        waiting = [rule for rule in rules if rule.activity.startswith("delete") and rule.request.path.endswith("?watch")]
        if not waiting:
            yield
            return
        with self.stage.cloud.pods.lingering() as end:

            async def end_when_met() -> None:
                while any(rule.hits == 0 for rule in waiting):
                    await asyncio.sleep(0.02)
                end()

            task = asyncio.create_task(end_when_met())
            try:
                yield
            finally:
                task.cancel()

    async def run_group(self, group: Sequence[Cell]) -> list[Outcome]:
        """Run the cells of a group together, and in smaller groups if they do not end as expected."""
        scenario = group[0].row.scenario
        left, hit, _ = await self._run(scenario, group)
        wanted = self.recording.left[scenario]
        if len(group) == 1:
            wanted = expected(group[0], wanted)
        wrong = difference(wanted, left)
        if wrong:
            errors = Counter(f"{name} {code}" for _, name, code in self.errors if code != "NothingChanged")
            wrong += " (errors: " + "; ".join(f"{error} {number}x" for error, number in sorted(errors.items())) + ")"
        if not wrong or len(group) == 1:
            return [Outcome(cell, hit[cell], wrong) for cell in group]
        # Halves, down to the cells that fail alone.
        print(f"together, {len(group)} faults leave {wrong:.1000}", flush=True)
        middle = len(group) // 2
        outcomes = await self.run_group(group[:middle])
        if sum(bool(outcome.wrong) for outcome in outcomes) >= FAILURES_OF_A_GROUP:
            reason = "not run: the cells before it in its group have failed"
            return [*outcomes, *(Outcome(cell, hit=False, wrong=reason) for cell in group[middle:])]
        outcomes += await self.run_group(group[middle:])
        if not any(outcome.wrong for outcome in outcomes):
            # Only the combination fails. A fault may have met another request than in a smaller group.
            outcomes[0].wrong = f"together with {len(group) - 1} other faults: {wrong}"
        return outcomes


def difference(expected: Left, found: Left) -> str:
    """Describe how two states differ; empty if they do not."""
    keys = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    return "; ".join(f"{key}: {found.get(key)!r:.300} instead of {expected.get(key)!r:.300}" for key in keys)


@contextlib.asynccontextmanager
async def _in_process(matrix: Matrix, attempts: Attempts) -> AsyncIterator[None]:
    async with matrix.stage.cloud.workers(attempts):
        yield


@contextlib.asynccontextmanager
async def _lagging(matrix: Matrix, attempts: Attempts) -> AsyncIterator[None]:
    """Let every second connection to governance lead to a node that lags behind."""
    nodes = matrix.stage.cloud.services.nodes
    nodes.lag = LAG_SECONDS
    try:
        async with matrix.stage.cloud.workers(attempts):
            yield
    finally:
        nodes.lag = 0.0


@contextlib.asynccontextmanager
async def _jumping(matrix: Matrix, attempts: Attempts) -> AsyncIterator[None]:
    """Set the clock of all workers forward and back by turns, before each attempt."""
    clock = JumpingClock()
    attempts.on_start = clock.jump
    with jumping(clock):
        async with matrix.stage.cloud.workers(attempts):
            yield


@contextlib.asynccontextmanager
async def _signalling(matrix: Matrix, attempts: Attempts, *, how: str) -> AsyncIterator[None]:
    """Let the signals of a query arrive in another way."""
    matrix.stage.signals = how
    try:
        async with matrix.stage.cloud.workers(attempts):
            yield
    finally:
        matrix.stage.signals = ""


@contextlib.asynccontextmanager
async def _worker_processes(matrix: Matrix, attempts: Attempts, **options: Any) -> AsyncIterator[None]:
    boundaries = list(attempts.lose)
    options["profiles"] = matrix.profiles
    with ExitStack() as stack:
        start = partial(stack.enter_context, worker_processes(matrix.stage.cloud.layout.state, boundaries, **options))
        processes = await asyncio.to_thread(start)
        matrix.died, matrix.full = processes.died, processes.full
        yield
        attempts.lose = [item for item in boundaries if item not in processes.died]


@contextlib.asynccontextmanager
async def _killed_server(matrix: Matrix, attempts: Attempts) -> AsyncIterator[None]:
    restart = matrix.restart_server
    assert restart is not None

    def killed(boundary: Boundary) -> bool:
        restart()
        return False

    attempts.on_loss = killed
    async with matrix.stage.cloud.workers(attempts):
        yield


LAG_SECONDS = 0.4
MODES: dict[str, Callable[[Matrix, Attempts], Any]] = {
    "": _in_process,
    "lagging governance": _lagging,
    "clock jumps": _jumping,
    FULL_DISK: partial(_worker_processes, full_disk=True),
    **{f"{how} signals": partial(_signalling, how=how) for how in ("duplicated", "reordered", "early")},
    "worker": _worker_processes,
    "server": _killed_server,
}
"""How workers run, by :func:`mode_of` the fault."""


@contextlib.asynccontextmanager
async def open_matrix(folder: Path, temporal: Client, keyring: Keyring, *, processes: bool = False) -> AsyncIterator[Matrix]:
    """Start the cloud, publish what runs need, and yield an empty matrix; arguments as :func:`tests.faults.cloud.fault_cloud`."""
    with ExitStack() as stack:
        # In a thread, because the set-up of the cloud runs other event loops.
        cloud = await asyncio.to_thread(stack.enter_context, fault_cloud(folder, temporal, keyring, processes=processes))
        await publish_keys(cloud)
        stage = await open_stage(cloud, await cloud.session("fabrikam").temporal())
        try:
            async with cloud.workers(Attempts()):
                await stage.prepare()
            yield Matrix(stage)
        finally:
            await close_stage(stage)
