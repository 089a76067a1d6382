"""The API reference: the public modules, with the first paragraph of each docstring."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts.reference.markdown import code, header, page, prose, table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workflows", "activities", "workers", "starters", "cleanroom", "sparkapp")


def render() -> str:
    """The page ``docs/reference/api.md``."""
    lines = header(
        "Modules and public names",
        "docstrings",
        "Every public module of the product with its public classes and functions. The code is the reference for signatures. "
        "Names with a leading underscore are private, and may change without notice.",
    )
    for package in PACKAGES:
        lines += [f"## {package}", ""]
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name.startswith("_") and path.name != "__init__.py":
                continue
            tree = ast.parse(path.read_text("utf-8"))
            if not (summary := prose(ast.get_docstring(tree))):
                continue
            lines += [f"### `{_module(path)}`", "", summary, ""]
            if rows := _names(tree):
                lines += table(("Name", "Summary"), rows)
    return page(lines)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _names(tree: ast.Module) -> list[tuple[str, str]]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return [(code(node.name), prose(ast.get_docstring(node))) for node in public]
