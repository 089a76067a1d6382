"""Hints of errors contain commands in a form that programs can read: in backticks, complete, and such that the command line has them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

import pytest
import typer

from cleanroom.lifecycle import dataset, query, run
from scripts.reference.commands import CommandHelp, commands
from scripts.reference.errors import trees
from starters.terminal import error_hints

QUOTED = re.compile(r"`([^`]*)`")
VALUE = "{…}"
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""What Typer raises for arguments that a command does not accept."""


def text_of(node: ast.AST) -> str:
    """Return a text as far as the code states it, with :data:`VALUE` in place of values."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return VALUE
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)}\n{text_of(node.orelse)}"
    return ""


def hints_in_code() -> Iterator[tuple[str, str]]:
    """Yield each hint in the code, with its place."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                for hint in filter(None, text_of(node.value).split("\n")):
                    yield f"{path}:{node.value.lineno}", hint
    for code, hint in error_hints.HINTS.items():
        yield f"error_hints {code}", hint
    for state in (*query.STATES, *run.STATES, *dataset.STATES):
        yield f"state {state}", f"`{state.command.format(name='NAME', query='QUERY', document='NAME')}`"


@pytest.fixture(scope="module")
def hints() -> list[tuple[str, str]]:
    return list(hints_in_code())


@pytest.fixture(scope="module")
def known() -> list[CommandHelp]:
    """The commands of the command line."""
    return list(commands())


def problem(command: str, known: list[CommandHelp]) -> str:
    """Return what is wrong with a command of a hint; empty if the command line accepts it."""
    words = tuple(shlex.split(command))[1:]
    groups = {item.path[0] for item in known if item.is_group and item.path}
    if (words and VALUE in words[0]) or (len(words) > 1 and VALUE in words[1] and words[0] in groups):
        # The name of the command is a value of the hint.
        return ""
    matching = [item for item in known if words[: len(item.path)] == item.path]
    found = max(matching, key=lambda item: len(item.path), default=None)
    if found is None or found.is_group:
        return "no such command"
    try:
        found.command.make_context(found.name, list(words[len(found.path) :]))
    except USAGE_ERROR as error:
        return str(error)
    return ""


def test_there_are_hints_with_commands(hints: list[tuple[str, str]]) -> None:
    assert sum("cleanroom" in hint for _, hint in hints) > 60


def test_commands_in_hints_are_quoted_and_exist(hints: list[tuple[str, str]], known: list[CommandHelp]) -> None:
    names = "|".join(sorted({item.path[0] for item in known if item.path}))
    problems = []
    for where, hint in hints:
        outside = QUOTED.sub("", hint)
        problems += [f"{where}: not in backticks: {hint}"] if re.search(rf"\bcleanroom ({names})\b", outside) else []
        quoted = (command for command in QUOTED.findall(hint) if command.startswith("cleanroom ") and not command.endswith("…"))
        problems += [f"{where}: {found}: `{command}`" for command in quoted if (found := problem(command, known))]
    assert problems == []
