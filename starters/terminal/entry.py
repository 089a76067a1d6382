"""The entry point of every command, whether started as ``cleanroom …`` or as ``python -m starters.<name> …``."""

from __future__ import annotations

import gc
import logging
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.main import get_command

from cleanroom.errors import CleanRoomError, InvalidInput
from cleanroom.tracing import command_span
from starters.terminal.extras import missing_extra
from starters.terminal.help import make_plain
from starters.terminal.output import Format, print_error, print_status
from starters.terminal.process_exit import run_and_exit
from starters.terminal.streams import tolerant_streams

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the number of SIGINT."""
MOST_NAMED = 5
"""Commands of other groups that a hint names."""

# Recent versions of Typer vendor Click, and older ones depend on it. Typer's own exception leads to the right `UsageError` in both.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def main(app: typer.Typer) -> NoReturn:
    """Run ``app`` with the arguments of the process, then exit with its exit code."""
    # What is imported stays. By default Python looks for garbage in it so often that this takes a tenth of the start.
    gc.set_threshold(20_000, 20)
    run_and_exit(lambda: invoke(app, sys.argv[1:]))


def invoke(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run ``app`` with ``arguments`` and print any error once, in the format that the arguments request.

    Raises:
        SystemExit: Always, with the exit code.
    """
    # azure-identity logs every credential that it tries.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    tolerant_streams()
    output = Format.JSON if _requests_json(arguments) else Format.TABLE
    command = get_command(app)
    # Subcommands inherit it.
    command.context_settings["help_option_names"] = ["-h", "--help"]
    make_plain(command)
    try:
        with command_span(lambda: span_name(command, arguments)):
            code = command(list(arguments), standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            typer.echo(context.get_help())
            sys.exit(InvalidInput.exit_code)
        hint = f"Run `{context.command_path} --help` to see its arguments and options." if context is not None else None
        if other := _other_command(command, context, str(error)):
            hint = f"{other} {hint}"
        usage_error = InvalidInput("UsageError", _usage_message(error), hint=hint)
        if context is not None and output is Format.TABLE:
            typer.echo(context.get_usage(), err=True)
        print_error(usage_error, output)
        sys.exit(usage_error.exit_code)
    except CleanRoomError as error:
        print_error(error, output)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        print_error(missing, output)
        sys.exit(missing.exit_code)
    except typer.Abort:
        # The user declined a confirmation, or standard input ended before an answer.
        print_status("Aborted. Nothing was changed.")
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        code = INTERRUPTED
    # Typer catches Ctrl-C in a command and returns this code.
    if code == INTERRUPTED and output is Format.JSON:
        interrupted = CleanRoomError("Interrupted", "The command was interrupted.", hint="A workflow that it started keeps running.")
        print_error(interrupted, output)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_message(error: Any) -> str:
    """Return the message of a usage error, with the value that is wrong."""
    message = str(error.format_message()).replace("Value error, ", "")
    validation = error.__cause__ or error.__context__
    if not hasattr(validation, "errors"):
        return message
    value = validation.errors()[0].get("input")
    return message if repr(value) in message else f"{message.partition(', unable')[0].rstrip('.')}, not {value!r}."


def _other_command(root: Any, context: Any, message: str) -> str:
    """Return a sentence about commands of other groups with the name of an unknown one, or about an option before its command."""
    if message.startswith("No such option") and hasattr(getattr(context, "command", None), "list_commands"):
        return "Options stand after the command, as in `cleanroom query list --profile NAME`."
    unknown = re.match(r"No such command '([\w-]+)'", message)
    if unknown is None or not hasattr(root, "list_commands"):
        return ""
    name, start = unknown[1], root.context_class(root)
    groups = {group: root.get_command(start, group) for group in root.list_commands(start)}
    paths = [name] if name in groups else []
    paths += [f"{group} {name}" for group, found in groups.items() if name in getattr(found, "commands", {})]
    return f"There is {', '.join(f'`cleanroom {path}`' for path in paths)}." if 0 < len(paths) <= MOST_NAMED else ""


def span_name(command: Any, arguments: Sequence[str]) -> str:
    """Return the names of the command and its subcommands, without arguments: ``cleanroom run start``."""
    names = [] if command.name in (None, "cleanroom") else [command.name]
    for word in arguments:
        if not hasattr(command, "get_command") or (found := command.get_command(command.context_class(command), word)) is None:
            break
        names.append(word)
        command = found
    return " ".join(["cleanroom", *names])


def _requests_json(arguments: Sequence[str]) -> bool:
    """Whether ``arguments`` request JSON; read without the parser, because parsing may be what failed."""
    return any(
        word in ("--output=json", "-ojson") or (word in ("--output", "-o") and list(arguments[index + 1 : index + 2]) == ["json"])
        for index, word in enumerate(arguments)
    )
