"""The console script ``cleanroom``; see :mod:`starters.commands` for the commands and the exit codes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

    app: Typer


def main() -> None:
    """Run the command line. Ctrl-C during the imports exits without a traceback, too."""
    try:
        from starters.commands import build
        from starters.terminal import entry

        app = build()
    except KeyboardInterrupt:
        sys.exit(130)
    entry.main(app)


def __getattr__(name: str) -> Typer:
    """Build ``app`` on first access, for programs that run commands in their own process."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from starters.commands import build

    globals()["app"] = build()
    return globals()["app"]  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
