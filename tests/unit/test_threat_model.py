"""Every file and test that ``docs/threat-model.md`` names exists, and every threat names at least one test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/threat-model.md").read_text("utf-8")


def threats() -> dict[str, str]:
    """The section of each threat, by its number."""
    return {match[1]: match[0] for match in re.finditer(r"^### (T\d+)\. .*?(?=^##)", TEXT, re.M | re.S)}


def test_every_threat_has_a_section() -> None:
    assert list(threats()) == [f"T{number}" for number in range(1, 23)]


def test_every_named_file_exists() -> None:
    named = set(re.findall(r"`((?:cleanroom|activities|workflows|workers|starters|sparkapp|localcloud|tests)/[\w./-]*)`", TEXT))
    assert len(named) > 25
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_named_test_exists() -> None:
    files: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        # Two folders may have files of one name.
        files[path.name] = files.get(path.name, "") + path.read_text("utf-8")
    found = 0
    for threat, section in threats().items():
        file, tests = "", 0
        for name, test in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", section):
            file = name or file
            assert re.search(rf"^\s*(async )?def {test}\(", files.get(file, ""), re.M), f"{threat}: {file}::{test}"
            tests += 1
        assert tests, threat
        found += tests
    assert found > 50


def test_every_quoted_forgery_exists() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "tests/scenario/forged").glob("test_*.py"))
    for quoted in re.findall(r"\(rows? ([^)]*)\)", " ".join(TEXT.split())):
        for text in re.findall(r'"([^"]+)"', quoted):
            assert text.strip("… ") in source, text
