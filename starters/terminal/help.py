"""Prepares the help texts of commands for printing."""

from __future__ import annotations

import inspect
from typing import Any


def join_paragraph_lines(command: Any) -> None:
    """Join the lines of each paragraph in the help of a Click command and of its subcommands.

    The help texts are docstrings, which wrap at the width of the source. Typer prints these line breaks, except in the first paragraph.
    """
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for subcommand in getattr(command, "commands", {}).values():
        # The root group loads its commands on use, and lists None until then.
        if subcommand is not None:
            join_paragraph_lines(subcommand)
