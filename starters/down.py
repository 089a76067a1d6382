"""``cleanroom down`` as a script: ``python -m starters.down``."""

from __future__ import annotations

import typer

from starters.entry import command_line
from starters.local import down

app = typer.Typer()
app.command()(down)

if __name__ == "__main__":
    command_line(app)
