"""The walk over recorded plans of Spark: it accepts what the gate writes, and refuses rewritings with a mistake."""

from __future__ import annotations

import time

import pytest

from cleanroom.errors import Refused
from cleanroom.sql import Catalog
from sparkapp.plan.vocabulary import require_known
from sparkapp.plan.walk import PlanWalk
from tests.unit.sparkapp.recorded_plans import accepted, mistakes, plan
from tests.unit.sql.plan_attacks import TEXTS
from tests.unit.sql.world import GUARDED

ACCEPTED = accepted()


def check(catalog: Catalog, name: str, text: str) -> None:
    """Check the recorded plan of ``text`` as the pod does, except whether its views are the registered ones."""
    found = plan(name, text)
    require_known(found, frozenset(view.name.lower() for view in catalog.views))
    PlanWalk(catalog).result(found)


def code_of(text: str) -> str:
    with pytest.raises(Refused) as caught:
        check(GUARDED, "guarded", text)
    return caught.value.code


@pytest.mark.parametrize("name", ACCEPTED)
def test_plans_of_rewritten_queries_are_safe(name: str) -> None:
    catalog, texts = ACCEPTED[name]
    refused = {}
    for text in texts:
        try:
            check(catalog, name, text)
        except Refused as error:
            refused[text] = error.message
    assert not refused


@pytest.mark.parametrize("number", range(len(mistakes())))
def test_plan_of_a_rewritten_query_with_a_mistake_is_refused(number: int) -> None:
    text, code = mistakes()[number]
    assert code_of(text) == code, text


@pytest.mark.parametrize("text", TEXTS)
def test_plan_of_a_text_that_was_not_rewritten_is_refused(text: str) -> None:
    assert code_of(text) == TEXTS[text]


def test_largest_recorded_plan_is_checked_in_less_than_a_fifth_of_a_second() -> None:
    catalog, texts = ACCEPTED["companies"]
    text = max(texts, key=len)
    start = time.process_time()
    check(catalog, "companies", text)
    assert time.process_time() - start < 0.2
