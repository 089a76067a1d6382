"""The commands of the guides, executed one after the other on one local cloud. Run it with `make test-guides`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.guides import PAGES, Guides

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("CLEANROOM_TEST_GUIDES"), reason="`make test-guides` runs it; it starts a second local cloud"),
]


def test_every_command_of_the_guides_works(tmp_path: Path) -> None:
    guides = Guides(tmp_path)
    try:
        guides.bash("cleanroom up")
        for page in PAGES:
            guides.play(page)
            print(f"{page}: {len(guides.played)} commands so far")
    finally:
        guides.bash("cleanroom down")
    assert len(guides.played) > 60
