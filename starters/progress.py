"""Long work shows progress: a workflow's steps, redrawn in place on a terminal, one line a change elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from rich.live import Live
from rich.text import Text
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from starters.output import safe, talk

T = TypeVar("T")
_MARKS = {"waiting": "[dim]·[/dim]", "running": "[yellow]▶[/yellow]", "done": "[green]✔[/green]", "failed": "[red]✘[/red]", "skipped": "-"}
POLL_SECONDS = 0.5


async def follow_timeline(handle: WorkflowHandle[Any, T], title: str, *, query: str = "timeline") -> T:
    """Wait for the workflow's result while showing its steps; raises what the workflow fails with."""
    result = asyncio.ensure_future(handle.result())
    shown: tuple[str, ...] = ()
    with Live(Text(title), console=talk, refresh_per_second=4, transient=True) as live:
        while not result.done():
            try:
                answer = await handle.query(query, rpc_timeout=None, result_type=list[str] if query == "timeline" else dict[str, Any])
                lines = tuple(answer if query == "timeline" else answer.get("steps", ()))
            except RPCError:
                # No worker answers right now; the result is still awaited and the last picture stays.
                lines = shown
            if lines != shown:
                if not talk.is_terminal:
                    for line in lines:
                        if line not in shown and line.startswith(("done", "failed")):
                            talk.print(f"  {_line(line)}")
                shown = lines
                live.update(Text.from_markup("\n".join([f"[bold]{safe(title)}[/bold]", *map(_line, lines)])))
            await asyncio.wait([result], timeout=POLL_SECONDS)
    return result.result()


def _line(line: str) -> str:
    state, _, rest = line.partition(": ")
    return f"{_MARKS.get(state, '?')} {safe(rest)}"
