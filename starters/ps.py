"""``cleanroom ps``: run it also as ``python -m starters.ps``."""

from __future__ import annotations

import typer

from starters.local import ps
from starters.terminal.entry import main

app = typer.Typer()
app.command()(ps)

if __name__ == "__main__":
    main(app)
