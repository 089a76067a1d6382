"""``cleanroom up``: run it also as ``python -m starters.up``."""

from __future__ import annotations

import typer

from starters.local import up
from starters.terminal.entry import main

app = typer.Typer()
app.command()(up)

if __name__ == "__main__":
    main(app)
