"""Hooks of the documentation site: pages that live outside of ``docs/``, or that are generated at build time."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from scripts.reference import api

ROOT = Path(__file__).resolve().parents[1]
BORROWED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
"""Pages of the site by their source at the top of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the borrowed pages and the API reference."""
    for name, source in BORROWED.items():
        files.append(File.generated(config, name, content=_site_links((ROOT / source).read_text("utf-8"))))
    files.append(File.generated(config, "reference/api.md", content=api.render()))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave ``docs/`` at the page's own copy, or drop them where the site has none."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)([\w./-]+\.(?:py|yaml|toml)|README\.md|tests/[^)]*)\)", r"`\2`", markdown)


def _site_links(text: str) -> str:
    """Rewrite links that are relative to the top of the repository."""
    text = text.replace("](docs/", "](")
    for name, source in BORROWED.items():
        text = text.replace(f"]({source})", f"]({name})")
    return text
