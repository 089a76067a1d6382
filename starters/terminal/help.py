"""Prepares the help texts of commands for printing."""

from __future__ import annotations

import inspect
from typing import Any


def make_plain(command: Any) -> None:
    """Let a Click command and its subcommands print their help as plain text, with whole summaries in lists of commands.

    Typer's panels take a third of a second to print, most of it to import a parser of Markdown.
    """
    command.rich_markup_mode = None
    command.short_help = " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())
    for subcommand in getattr(command, "commands", {}).values():
        # The root group loads its commands on use, and lists None until then.
        if subcommand is not None:
            make_plain(subcommand)
