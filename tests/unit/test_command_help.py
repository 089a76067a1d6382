"""The help of every command, and the commands in the documentation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scripts.reference.commands import CommandHelp, commands, render

ROOT = Path(__file__).parents[2]
COMMANDS = list(commands())
LEAVES = [item for item in COMMANDS if not item.is_group]


@pytest.mark.parametrize("item", COMMANDS, ids=lambda item: item.name)
def test_help_has_a_summary_of_one_line_and_documents_every_parameter(item: CommandHelp) -> None:
    summary = item.paragraphs[0]
    assert summary.endswith(".")
    assert len(summary) <= 125
    undocumented = [param.name for param in item.command.params if not param.help]
    assert not undocumented


@pytest.mark.parametrize("item", LEAVES, ids=lambda item: item.name)
def test_example_is_valid_usage_of_its_command(item: CommandHelp) -> None:
    words = shlex.split(item.example)
    assert words[: 1 + len(item.path)] == ["cleanroom", *item.path]
    arguments = words[1 + len(item.path) : words.index("<") if "<" in words else None]
    item.command.make_context(item.name, arguments)


def test_reference_is_independent_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    page = render()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert render() == page
    assert "\x1b" not in page
    assert all(f"`{item.name}`" in page for item in COMMANDS)


def documented_commands() -> list[str]:
    """Every ``cleanroom`` command in a code block of the documentation."""
    found = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
            found |= {
                " ".join(text.split()) for text in re.findall(r"(?:^(?:[$>] +)?|; do |&& )(cleanroom [a-z][^;&|<>#\n]*)", block, re.M)
            }
    return sorted(found)


@pytest.mark.parametrize("text", documented_commands())
def test_documented_command_is_valid_usage(text: str) -> None:
    words = tuple(shlex.split(text)[1:])
    item = max((item for item in COMMANDS if words[: len(item.path)] == item.path), key=lambda item: len(item.path))
    assert not item.is_group
    item.command.make_context(item.name, list(words[len(item.path) :]))
