"""Long work shows progress: a workflow's steps, redrawn in place on a terminal, one line a change elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeVar

from rich.live import Live
from rich.text import Text
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from cleanroom.errors import CleanRoomError
from cleanroom.messages.run import RunStatus
from starters.operations.worker_queries import query_workflow
from starters.operations.workflow_names import STATUS, TIMELINE
from starters.terminal.output import err, safe

T = TypeVar("T")
_MARKS = {"waiting": "[dim]·[/dim]", "running": "[yellow]▶[/yellow]", "done": "[green]✔[/green]", "failed": "[red]✘[/red]", "skipped": "-"}
POLL_SECONDS = 0.5


async def follow_timeline(client: Client, handle: WorkflowHandle[Any, T], title: str, *, query: str = TIMELINE) -> T:
    """Wait for the workflow's result while showing its steps; raises what the workflow fails with. Where no worker serves it, that is told,
    and waited for: it goes on as soon as one does. So it does when the wait is interrupted."""
    try:
        return await _followed(client, handle, title, query)
    except asyncio.CancelledError:
        err.print(f"[dim]{safe(title)} goes on by itself; only the wait for it was interrupted[/dim]")
        raise


async def _followed(client: Client, handle: WorkflowHandle[Any, T], title: str, query: str) -> T:
    result = asyncio.ensure_future(handle.result())
    shown: tuple[str, ...] = ()
    missing = False
    with Live(Text(title), console=err, refresh_per_second=4, transient=True) as live:
        while not result.done():
            asking = asyncio.ensure_future(_steps(client, handle, query))
            await asyncio.wait([result, asking], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                break
            lines = shown
            try:
                # The server is out of reach for a moment: the result is still awaited and the last picture stays.
                with suppress(RPCError):
                    lines, missing = asking.result(), False
            except CleanRoomError as error:
                if not missing:
                    err.print(f"  [yellow]waiting[/yellow]: {safe(error.message)} [green]hint:[/green] {safe(error.hint or '')}")
                missing = True
            shown = _told(lines, shown)
            live.update(Text.from_markup("\n".join([f"[bold]{safe(title)}[/bold]", *map(_line, shown)])))
            await asyncio.wait([result], timeout=POLL_SECONDS)
    if not err.is_terminal and not missing:
        # The last steps ended with the workflow.
        with suppress(RPCError, CleanRoomError):
            _told(await _steps(client, handle, query), shown)
    return await result


def _told(lines: tuple[str, ...], shown: tuple[str, ...]) -> tuple[str, ...]:
    """Say what has ended since, where a picture cannot be redrawn."""
    if not err.is_terminal:
        for line in lines:
            if line not in shown and line.startswith(("done", "failed")):
                err.print(f"  {_line(line)}")
    return lines


async def _steps(client: Client, handle: WorkflowHandle[Any, Any], query: str) -> tuple[str, ...]:
    if query == STATUS:
        return (await query_workflow(client, handle, STATUS, RunStatus)).steps
    return await query_workflow(client, handle, query, tuple[str, ...])


def _line(line: str) -> str:
    state, _, rest = line.partition(": ")
    return f"{_MARKS.get(state, '?')} {safe(rest)}"
