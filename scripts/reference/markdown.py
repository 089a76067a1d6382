"""Markdown of generated pages, and the docstrings that they are generated from."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from types import ModuleType

WIDTH = 116


def header(title: str, source: str, *paragraphs: str) -> list[str]:
    """Title, a notice that names the generator's source, and introductory paragraphs."""
    notice = f"<!-- Generated from {source} by `make reference`. Do not edit. -->"
    return [f"# {title}", "", notice, "", *(line for text in paragraphs for line in (*wrap(text), ""))]


def wrap(text: str) -> list[str]:
    """``text`` as one paragraph of lines."""
    return textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table. Cells are single lines; pipes in them are escaped."""
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(cell(item) for item in row)} |" for row in rows]
    return [*lines, ""]


def cell(text: str) -> str:
    """``text`` as the content of a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """``text`` as inline code, or an empty cell."""
    return f"`{text}`" if str(text) else ""


def page(lines: Iterable[str]) -> str:
    """The lines of a page as a file's text."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def prose(docstring: str | None) -> str:
    """The first paragraph of a docstring, with reStructuredText roles and literals as Markdown code."""
    first = inspect.cleandoc(docstring or "").split("\n\n", 1)[0]
    first = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", first)
    return " ".join(first.replace("``", "`").split())


def attribute_docs(node: ast.Module | ast.ClassDef) -> dict[str, str]:
    """The string literals below assignments of a module or a class, by the name that is assigned."""
    docs: dict[str, str] = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        else:
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) and isinstance(following.value.value, str):
            docs[name] = following.value.value
    return docs


def parsed(module: ModuleType) -> ast.Module:
    """The syntax tree of a module's source."""
    return ast.parse(inspect.getsource(module))
