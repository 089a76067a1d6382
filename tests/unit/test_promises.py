"""Every test that ``docs/promises.md`` names exists, and every promise names at least one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    line for line in (ROOT / "docs/promises.md").read_text("utf-8").splitlines() if line.startswith("| ") and not line.startswith("| ---")
]


def test_every_named_test_exists() -> None:
    named = 0
    for row in ROWS:
        if row.startswith("| Promise |"):
            continue
        file, tests = "", re.findall(r"`([\w/.]+\.py)?((?:::\w+)*)`", row)
        assert any(path for path, _ in tests) or row.endswith("| the same |"), f"no test: {row}"
        for path, names in tests:
            file = path or file
            text = (ROOT / file).read_text("utf-8")
            for name in filter(None, names.split("::")):
                assert re.search(rf"^\s*((async )?def|class) {name}\b", text, re.M), f"{file}::{name}"
                named += 1
    assert named > 10
