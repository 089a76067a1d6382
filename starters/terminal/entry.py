"""How every command is entered: as ``cleanroom …`` and as ``python -m starters.<name> …``, with the same errors and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from cleanroom.errors import CleanRoomError, InvalidInput
from starters.terminal.output import Format, print_error, print_status, tolerant_streams
from starters.terminal.process_exit import run_and_exit

INTERRUPTED = 130

# Typer has Click inside since 0.2x, and depended on it before: its own exception leads to the right one.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def main(app: typer.Typer) -> NoReturn:
    """Run ``app`` on the process's arguments and end the process with its exit code."""
    run_and_exit(lambda: invoke(app, sys.argv[1:]))


def invoke(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run ``app``; what goes wrong is told once, by us, in the format that the arguments ask for.

    Raises:
        SystemExit: with the exit code, always.
    """
    # Libraries that narrate every attempt are asked to be quiet.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    tolerant_streams()
    output = Format.JSON if _wants_json(arguments) else Format.TABLE
    try:
        code = app(list(arguments), standalone_mode=False)
    except _UsageError as error:
        if output is Format.TABLE:
            from typer.rich_utils import rich_format_error

            rich_format_error(error)  # type: ignore[arg-type]
            sys.exit(InvalidInput.exit_code)
        context = getattr(error, "ctx", None)
        hint = f"`{context.command_path} --help` says what it takes." if context is not None else None
        wrong = InvalidInput("UsageError", getattr(error, "format_message", error.__str__)(), hint=hint)
        print_error(wrong, output)
        sys.exit(wrong.exit_code)
    except CleanRoomError as error:
        print_error(error, output)
        sys.exit(error.exit_code)
    except typer.Abort:
        # A question was answered with no, or by nobody.
        print_status("Aborted; nothing was done.")
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        code = INTERRUPTED
    # Typer has a code of its own for it, which it returns.
    if code == INTERRUPTED and output is Format.JSON:
        print_error(CleanRoomError("Interrupted", "The command was interrupted.", hint="What it had asked for goes on."), output)
    sys.exit(code if isinstance(code, int) else 0)


def _wants_json(arguments: Sequence[str]) -> bool:
    return any(
        word in ("--output=json", "-ojson") or (word in ("--output", "-o") and list(arguments[index + 1 : index + 2]) == ["json"])
        for index, word in enumerate(arguments)
    )
