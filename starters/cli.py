"""The command line ``cleanroom``: nouns and verbs. Errors are ``{code, message, cause, hint}`` with stable exit codes.

0 ok, 1 internal, 2 usage, 3 not found, 4 refused by policy or approval, 5 conflict, 6 precondition, 7 upstream unavailable,
8 timed out, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

    app: Typer


def main() -> None:
    """Entry point of the console script. Ctrl-C while it imports must not print a traceback either."""
    try:
        from starters.commands import build
        from starters.terminal import entry

        app = build()
    except KeyboardInterrupt:
        sys.exit(130)
    entry.main(app)


def __getattr__(name: str) -> Typer:
    """``app``, for those who call it in their own process."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from starters.commands import build

    globals()["app"] = build()
    return globals()["app"]  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
