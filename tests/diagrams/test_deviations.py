"""All diagrams have a test, and the architecture page has the table of their deviations."""

from __future__ import annotations

from tests.diagrams import deviations
from tests.diagrams.deviations import Deviation
from tests.diagrams.diagrams import DIAGRAMS
from tests.diagrams.drawing import drawings


def test_every_drawing_has_a_diagram() -> None:
    assert [diagram.title for diagram in DIAGRAMS] == list(drawings())


def test_every_deviation_is_used() -> None:
    declared = [value for value in vars(deviations).values() if isinstance(value, Deviation)]
    used = {deviation for diagram in DIAGRAMS for deviation in diagram.deviations()}
    assert used == set(declared)


def test_the_architecture_page_has_the_current_table() -> None:
    page = deviations.PAGE.read_text("utf-8")
    assert page == deviations.page_with_table(page), "run `python -m tests.diagrams.deviations`"
