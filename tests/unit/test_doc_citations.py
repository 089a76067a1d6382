"""Every page of ``docs/`` that a Python file cites exists and, where the citation names a section, has that section."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITATION = re.compile(r"(?<![\w/])(docs/[\w/-]+\.md)(?:#([\w-]+))?")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown renderers make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_cited_pages_and_sections_exist() -> None:
    files = subprocess.run(["git", "ls-files", "*.py", ":!scripts"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    cited = {(name, *found) for name in files for found in CITATION.findall((ROOT / name).read_text("utf-8"))}
    broken = [
        (name, page, anchor)
        for name, page, anchor in sorted(cited)
        if not (ROOT / page).is_file() or (anchor and anchor not in anchors(ROOT / page))
    ]
    assert not broken
    assert len(cited) > 20
