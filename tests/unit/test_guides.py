"""Every command of the guides is executed in a test, and every `make` target and script that they name exists."""

from __future__ import annotations

import re

import pytest

from tests.guides import BEFORE, ELSEWHERE, PAGES, ROOT, WHOLE, elsewhere, lines

GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/guides").glob("*.md"))
ALL = [*PAGES, *(page for page in GUIDES if page not in PAGES), "docs/kubernetes.md"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_commands_of_a_page_are_read_as_bash_reads_them() -> None:
    upload = "cleanroom dataset upload demo/litware-$name.yaml .cleanroom/demo/data/$name.parquet --profile litware"
    assert f"for name in planes weather; do\n{upload}\ndone" in lines("docs/getting-started.md")
    assert "cleanroom deputy key --profile maria > maria.json" in lines("docs/guides/data-owner.md")
    assert any(line.startswith("cleanroom audit verify run.zip --clean-room-host-data") for line in lines("docs/guides/auditor.md"))
    assert "cleanroom ps" in lines("docs/getting-started.md"), "without the comment"


@pytest.mark.parametrize("page", GUIDES)
def test_every_guide_with_commands_is_played(page: str) -> None:
    rest = [line for line in lines(page) if not elsewhere(line) and page not in (*PAGES, *WHOLE)]
    assert rest == []


def test_tests_that_execute_the_other_commands_exist() -> None:
    found = {line for page in ALL for line in lines(page)}
    for page, test in WHOLE.items():
        assert page in (ROOT / test).read_text(), f"{test} says whose commands it executes"
    for start, test in ELSEWHERE.items():
        assert (ROOT / test).exists(), test
        assert any(line.startswith(start) for line in found), f"no guide has: {start}"
    for page, start in BEFORE:
        assert any(line.startswith(start) for line in lines(page)), (page, start)


def test_make_targets_and_scripts_of_the_guides_exist() -> None:
    for page in ALL:
        for line in lines(page):
            for target in re.findall(r"^make ([a-z-]+)", line):
                assert target in TARGETS, (page, line)
            for script in re.findall(r"\b(deploy/[\w/.-]+)", line):
                assert (ROOT / script).exists(), (page, line)
