"""``cleanroom up`` as a script: ``python -m starters.up``."""

from __future__ import annotations

import typer

from starters.entry import command_line
from starters.local import up

app = typer.Typer()
app.command()(up)

if __name__ == "__main__":
    command_line(app)
