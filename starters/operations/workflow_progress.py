"""Shows the steps of a workflow while a command waits for its result.

On a terminal the list of steps is redrawn in place. Otherwise each step is printed once, when it has ended.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeVar

from rich.live import Live
from rich.text import Text
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import CleanRoomError
from cleanroom.messages.run import RunStatus
from starters.operations.pending_activities import unserved_activities
from starters.operations.worker_queries import require_worker, send_query, start_worker_hint
from starters.operations.workflow_names import STATUS, TIMELINE
from starters.terminal.output import err, safe

T = TypeVar("T")
_MARKS = {"waiting": "[dim]·[/dim]", "running": "[yellow]▶[/yellow]", "done": "[green]✔[/green]", "failed": "[red]✘[/red]", "skipped": "-"}
POLL_SECONDS = 0.5
LOOK_SECONDS = 3.0
"""How often a command looks for steps whose worker does not run."""


async def follow_timeline(client: Client, handle: WorkflowHandle[Any, T], title: str, *, query: str = TIMELINE) -> T:
    """Wait for a workflow's result and show its steps; raise the workflow's failure.

    A worker that polled a minute ago may just be replaced: this prints a warning once and keeps waiting. It also names the activities
    that wait for a worker of another task queue.

    Args:
        client: Temporal client.
        handle: Handle of the workflow.
        title: Heading of the steps.
        query: Name of the query that returns the steps.

    Raises:
        Unavailable: ``NoWorker`` if no worker serves the workflow. The workflow continues when one starts.
    """
    try:
        return await _follow(client, handle, title, query)
    except asyncio.CancelledError:
        err.print(f"[dim]{safe(title)} continues in the background; this command no longer follows it[/dim]")
        raise


async def _follow(client: Client, handle: WorkflowHandle[Any, T], title: str, query: str) -> T:
    result = asyncio.ensure_future(handle.result())
    shown: tuple[str, ...] = ()
    no_worker = False
    unserved = _UnservedQueues(client, handle, title)
    try:
        with Live(Text(title), console=err, refresh_per_second=4, transient=True) as live:
            while not result.done():
                steps = asyncio.ensure_future(_steps(client, handle, query))
                await asyncio.wait([result, steps], return_when=asyncio.FIRST_COMPLETED)
                if not steps.done():
                    steps.cancel()
                    break
                lines = shown
                try:
                    lines, no_worker = steps.result(), False
                    await unserved.report()
                except RPCError as error:
                    # A workflow whose first task waits for a worker cannot answer. While the server is unreachable, the last steps
                    # stay on the screen.
                    if error.status is RPCStatusCode.FAILED_PRECONDITION:
                        await require_worker(client, (await handle.describe()).task_queue)
                except CleanRoomError as error:
                    if queue := error.details.get("queue"):
                        await require_worker(client, queue)
                    if not no_worker:
                        err.print(f"  [yellow]waiting[/yellow]: {safe(error.message)} [green]hint:[/green] {safe(error.hint or '')}")
                    no_worker = True
                shown = _print_ended(lines, shown)
                live.update(Text.from_markup("\n".join([f"[bold]{safe(title)}[/bold]", *map(_line, shown)])))
                await asyncio.wait([result], timeout=POLL_SECONDS)
        if not err.is_terminal and not no_worker:
            # The last steps end together with the workflow, after the loop's last query.
            with suppress(RPCError, CleanRoomError):
                _print_ended(await _steps(client, handle, query), shown)
        return await result
    finally:
        result.cancel()


class _UnservedQueues:
    """Says once per task queue that a step waits for its worker."""

    def __init__(self, client: Client, handle: WorkflowHandle[Any, Any], title: str) -> None:
        self._client, self._handle, self._title = client, handle, title
        self._reported: set[str] = set()
        self._next = 0.0

    async def report(self) -> None:
        """Look, at most every few seconds."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        for queue, activity in (await unserved_activities(self._client, self._handle)).items():
            if queue not in self._reported:
                self._reported.add(queue)
                text = f"step {activity} of {self._title} waits for task queue {queue!r}, which no worker polls."
                err.print(f"  [yellow]waiting[/yellow]: {safe(text)} [green]hint:[/green] {safe(start_worker_hint(queue))}")


def _print_ended(lines: tuple[str, ...], shown: tuple[str, ...]) -> tuple[str, ...]:
    """Print the steps in ``lines`` that have ended since ``shown``, unless the terminal redraws them all; return ``lines``."""
    if not err.is_terminal:
        for line in lines:
            if line not in shown and line.startswith(("done", "failed")):
                err.print(f"  {_line(line)}")
    return lines


async def _steps(client: Client, handle: WorkflowHandle[Any, Any], query: str) -> tuple[str, ...]:
    if query == STATUS:
        return (await send_query(client, handle, STATUS, RunStatus)).steps
    return await send_query(client, handle, query, tuple[str, ...])


def _line(line: str) -> str:
    """Format a step, ``<state>: <text>``, as a mark and its text."""
    state, _, rest = line.partition(": ")
    return f"{_MARKS.get(state, '?')} {safe(rest)}"
