"""``cleanroom down``: run it also as ``python -m starters.down``."""

from __future__ import annotations

import typer

from starters.local import down
from starters.terminal.entry import main

app = typer.Typer()
app.command()(down)

if __name__ == "__main__":
    main(app)
