"""``cleanroom ps`` as a script: ``python -m starters.ps``."""

from __future__ import annotations

import typer

from starters.entry import command_line
from starters.local import ps

app = typer.Typer()
app.command()(ps)

if __name__ == "__main__":
    command_line(app)
