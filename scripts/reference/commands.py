"""The command reference, from the help texts, arguments and options of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from typer.main import get_command

from scripts.reference.markdown import code, header, page, table, wrap
from starters.commands import COMMANDS, EXIT_CODES, build

EXAMPLE = "Example: "
_COMMON = ("profile", "config", "output")
"""Parameters that most commands have. They are described once."""


class CommandHelp(NamedTuple):
    """The help of one command or group."""

    path: tuple[str, ...]
    """Words of the command, without ``cleanroom``."""
    command: Any
    """The Click command."""

    @property
    def name(self) -> str:
        """The command as a user types it."""
        return " ".join(("cleanroom", *self.path))

    @property
    def is_group(self) -> bool:
        """Whether the command only groups other commands."""
        return bool(getattr(self.command, "commands", None)) and not self.command.invoke_without_command

    @property
    def paragraphs(self) -> list[str]:
        """Summary and explanation, without the example."""
        return [text for text in self._all_paragraphs if not text.startswith(EXAMPLE)]

    @property
    def example(self) -> str:
        """The example; empty for a group."""
        return next((text.removeprefix(EXAMPLE) for text in self._all_paragraphs if text.startswith(EXAMPLE)), "")

    @property
    def _all_paragraphs(self) -> list[str]:
        # The callback of `members` lists members when it has no subcommand, and documents that in its docstring.
        text = self.command.help or ""
        if getattr(self.command, "invoke_without_command", False):
            text = self.command.callback.__doc__ or text
        return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def commands() -> Iterator[CommandHelp]:
    """Yield every command and group of ``cleanroom``, in the order of its help."""
    root = get_command(build())
    context = root.context_class(root, info_name="cleanroom")
    for name in COMMANDS:
        yield from _with_subcommands((name,), root.get_command(context, name))  # type: ignore[attr-defined]


def _with_subcommands(path: tuple[str, ...], command: Any) -> Iterator[CommandHelp]:
    yield CommandHelp(path, command)
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from _with_subcommands((*path, name), subcommand)


def render() -> str:
    """Return the text of ``docs/reference/commands.md``."""
    found = list(commands())
    typical = next(item.command for item in found if item.path == ("query", "show"))
    common = {param.name: _option_row(param) for param in typical.params if param.name in _COMMON}
    lines = header(
        "Commands",
        "starters/",
        "`cleanroom COMMAND --help` prints the same help. Every command is also a script: `python -m starters.run start …` equals "
        "`cleanroom run start …`.",
        "Results go to standard output. Status lines and errors go to standard error. With `--output json`, the result is one JSON "
        "document on standard output, and so is an error: `{code, message, cause, hint, party, category, retryable, details}`.",
    )
    lines += ["## Exit codes", "", *table(("Code", "Meaning"), ((str(number), text) for number, text in EXIT_CODES.items()))]
    lines += ["## Common options", "", *table(("Option", "Meaning", "Default"), common.values())]
    for item in found:
        lines += _section(item, common)
    return page(lines)


def _section(item: CommandHelp, common: dict[str, tuple[str, str, str]]) -> list[str]:
    lines = [f"{'##' if len(item.path) == 1 else '###'} `{item.name}`", ""]
    for paragraph in item.paragraphs:
        lines += [*wrap(paragraph), ""]
    if item.is_group:
        return lines
    arguments = [param for param in item.command.params if param.param_type_name == "argument"]
    options = {param.name: _option_row(param) for param in item.command.params if param.param_type_name == "option"}
    shared = [name for name in options if options[name] == common.get(name)]
    usage = " ".join((item.name, "[OPTIONS]" if options else "", *map(_usage, arguments)))
    lines += ["```console", f"$ {item.example}", "```", "", f"Usage: `{' '.join(usage.split())}`", ""]
    if arguments:
        rows = ((code(_usage(param)), param.help or "", _default(param)) for param in arguments)
        lines += table(("Argument", "Meaning", "Default"), rows)
    own = [row for name, row in options.items() if name not in shared]
    if own:
        lines += table(("Option", "Meaning", "Default"), own)
    if shared:
        lines += [f"Common options: {', '.join(code(f'--{name}') for name in shared)}.", ""]
    return lines


def _usage(param: Any) -> str:
    name = param.name.upper() + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _option_row(param: Any) -> tuple[str, str, str]:
    spelling = ", ".join(map(code, (*param.opts, *param.secondary_opts)))
    value = "" if param.is_flag else _value(param)
    text = param.help or ""
    if param.envvar:
        text += f" Environment variable: `{param.envvar}`."
    return " ".join(filter(None, (spelling, value))), text, "required" if param.required else _default(param)


def _value(param: Any) -> str:
    """The placeholder of an option's value: choices, or type and bounds."""
    kind = param.type_descriptor.annotation
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return code("|".join(str(choice.value) for choice in kind))
    if get_origin(kind) is Literal:
        return code("|".join(get_args(kind)))
    name = {str: "TEXT", Path: "PATH", int: "INTEGER", float: "NUMBER", datetime: "TIME"}[kind]
    if param.min is None:
        return code(name)
    bounds = f"at least {param.min:,}" if param.max is None else f"{param.min:,} to {param.max:,}"
    return f"{code(name)} ({bounds})"


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    default = param.default
    if default is None or default == "" or callable(default):
        return "required" if param.required else ""
    if getattr(param, "is_flag", False):
        names = param.opts if default else param.secondary_opts
        return code(names[0]) if names else ""
    return code(default.value if isinstance(default, Enum) else f"{default:g}" if isinstance(default, float) else default)
