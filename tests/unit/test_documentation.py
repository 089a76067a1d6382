"""The documentation is current: commands exist, generated pages match the code, and the text keeps the house rules."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from scripts.reference.__main__ import PAGES
from scripts.reference.errors import codes_for_operators, trees
from scripts.reference.errors import render as render_errors
from starters.cli import app

ROOT = Path(__file__).resolve().parents[2]
LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard", "*.md", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
)
FILES = [ROOT / name for name in LISTED.stdout.split() if (ROOT / name).exists()]
MARKDOWN = [path for path in FILES if path.suffix == ".md"]
ELSEWHERE = re.compile(
    r"spec/(?:governance|execute|skr|attestation|users-and-threats)\.md|(?<![\w/])design\.md|(?<![\w/])perf\.md|users-and-threats"
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def command_lines() -> Iterator[tuple[str, str]]:
    """Every ``cleanroom …`` line of the code blocks, with its place."""
    for path in MARKDOWN:
        for block in re.findall(r"^```(?:console|sh)\n(.*?)^```", path.read_text("utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;|\bdo\b", line.split("  #")[0]):
                    text = part.strip().removeprefix("$ ").removeprefix("> ").strip()
                    if text.startswith("cleanroom "):
                        yield relative(path), text


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_matches_the_code(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == PAGES[name](), "run `make reference`"


@cache
def command_of(group: Any, word: str) -> Any:
    return group.get_command(typer.Context(group), word)


def test_every_documented_command_and_option_exists() -> None:
    root = typer.main.get_command(app)
    seen = 0
    for place, line in command_lines():
        words = shlex.split(line)[1:]
        command: Any = root
        while hasattr(command, "get_command") and words and not words[0].startswith("-"):
            found = command_of(command, words.pop(0))
            assert found is not None, f"{place}: {line}"
            command = found
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{place}: {line}: {word}"
        seen += 1
    assert seen > 40


def test_every_error_code_of_a_guide_exists() -> None:
    known = set(re.findall(r"`([A-Z][A-Za-z]+)`", render_errors()))
    for path in (ROOT / "docs/guides").glob("*.md"):
        for row in re.findall(r"^\| (`[A-Z].*?) \|", path.read_text("utf-8"), re.M):
            for name in re.findall(r"`([A-Z][a-z]+[A-Z][A-Za-z]+)`", row):
                assert name in known, f"{relative(path)}: {name}"


def test_every_error_code_of_the_reference_has_a_message() -> None:
    """Also one whose message is in a variable, or is chosen or joined where the error is raised."""
    rows = [line.split(" | ") for line in render_errors().splitlines() if re.match(r"\| `[A-Z]", line)]
    assert len(rows) > 500
    assert [cells[0] for cells in rows if len(cells) > 2 and not cells[1].strip(" |")] == []
    shown = {cells[0].strip("| `"): cells[1:] for cells in rows}
    assert shown["TooManySealingKeys"][0] == "user {…}: all {…} documents for sealing keys are occupied."
    assert shown["KeyringMissing"][0] == "profile {…} has no keyring."
    assert shown["RunParametersInvalid"][0] == "--{…}: {…} is not a date."


def test_the_runbook_has_every_code_that_an_operator_can_act_on() -> None:
    """Those whose party is the operator, and those of services that do not answer or answer otherwise."""
    page = (ROOT / "docs/guides/runbook.md").read_text("utf-8")
    missing = sorted(code for code in codes_for_operators() if f"`{code}`" not in page)
    assert missing == []


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_markdown_lines_are_at_most_120_characters_outside_of_tables(path: Path) -> None:
    lines = enumerate(path.read_text("utf-8").splitlines(), start=1)
    assert [(number, line) for number, line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_a_table_cell_has_at_most_two_sentences(path: Path) -> None:
    if relative(path) in PAGES:
        pytest.skip("generated from messages")
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("|"):
            for cell in line.strip("|").split(" | "):
                assert len(re.findall(r"[.!?] [A-Z]", cell)) <= 1, cell


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        built = path.parent == ROOT / "docs" and target in ("contributing.md", "changelog.md", "security.md")
        assert built or (path.parent / target).exists(), target


def test_no_text_cites_a_document_outside_of_the_repository() -> None:
    own = Path(__file__)
    places = [(relative(path), match[0]) for path in FILES if path != own for match in ELSEWHERE.finditer(path.read_text("utf-8"))]
    assert places == []


STOPWORDS = frozenset(
    {"the", "a", "an", "of", "to", "for", "in", "on", "and", "or", "is", "are", "with", "by", "from", "this", "that", "its", "it", "as"}
)


def stems(text: str) -> set[str]:
    return {re.sub(r"(ies|es|s|ed|ing)$", "", word) for word in re.findall(r"[a-z]+", text.lower()) if word not in STOPWORDS}


def definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield the functions and classes in a statement, without a look at its expressions, which have none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from definitions(child)


def test_no_docstring_merely_repeats_the_name() -> None:
    repeated = []
    for path in FILES:
        if path.suffix != ".py" or relative(path).startswith(("tests/", "benchmarks/")):
            continue
        for node in definitions(trees().get(relative(path)) or ast.parse(path.read_text("utf-8"))):
            docstring, name = ast.get_docstring(node), re.sub(r"([a-z])([A-Z])", r"\1 \2", node.name).replace("_", " ")
            if docstring and stems(docstring) <= stems(name):
                repeated.append(f"{relative(path)}:{node.lineno}: {docstring}")
    assert repeated == []
