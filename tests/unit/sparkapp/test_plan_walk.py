"""The walk over recorded plans of Spark: it accepts what the gate writes, and refuses rewritings with a mistake."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cleanroom.errors import Refused
from cleanroom.sql import Catalog
from sparkapp.plan.tree import tree
from sparkapp.plan.vocabulary import require_known
from sparkapp.plan.walk import PlanWalk
from tests.unit.sparkapp.recorded_plans import catalogs, recorded
from tests.unit.sql.world import GUARDED


def check(catalog: Catalog, items: Any) -> None:
    """Check a recorded plan as the pod does, except whether its views are the registered ones."""
    found = tree(items)
    require_known(found, frozenset(view.name.lower() for view in catalog.views))
    PlanWalk(catalog).result(found)


@pytest.mark.parametrize("name", catalogs())
@pytest.mark.parametrize("part", range(8))
def test_plans_of_rewritten_queries_are_safe(name: str, part: int) -> None:
    refused = {}
    for text, items in recorded()["accepted"][name][part::8]:
        try:
            check(catalogs()[name], items)
        except Refused as error:
            refused[text] = error.message
    assert not refused


@pytest.mark.parametrize("number", range(len(recorded()["refused"])))
def test_plan_of_a_query_with_a_mistake_or_without_floors_is_refused(number: int) -> None:
    text, code, items = recorded()["refused"][number]
    with pytest.raises(Refused) as caught:
        check(GUARDED, items)
    assert caught.value.code == code, text


def test_view_of_the_rows_with_an_identity_is_read_like_the_dataset() -> None:
    for _, items in recorded()["accepted"]["guarded"][:20]:
        filtered = []
        for item, below in zip(items, [*items[1:], None], strict=True):
            filtered.append(item)
            if item["class"].endswith(".View"):
                condition = [
                    {"class": "org.apache.spark.sql.catalyst.expressions.IsNotNull", "num-children": 1, "child": 0},
                    *below["output"][0],
                ]
                filtered.append({"class": "org.apache.spark.sql.catalyst.plans.logical.Filter", "num-children": 1, "condition": condition})
        assert len(filtered) > len(items)
        check(GUARDED, filtered)


def test_largest_recorded_plan_is_checked_in_less_than_a_fifth_of_a_second() -> None:
    _, items = max(recorded()["accepted"]["companies"], key=lambda item: len(item[0]))
    start = time.process_time()
    check(catalogs()["companies"], items)
    assert time.process_time() - start < 0.2
