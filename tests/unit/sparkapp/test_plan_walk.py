"""The walk over recorded plans of Spark: it accepts what the gate writes, and refuses rewritings with a mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cleanroom.errors import Refused
from cleanroom.sql import Catalog
from sparkapp.plan.conditions import conjuncts
from sparkapp.plan.rows import Column
from sparkapp.plan.tree import Node, tree
from sparkapp.plan.vocabulary import require_known
from sparkapp.plan.walk import PlanWalk
from tests.unit.sparkapp.recorded_plans import catalogs, recorded, rewritten
from tests.unit.sparkapp.test_plan_operators import attribute
from tests.unit.sparkapp.test_plan_tree import EXPRESSIONS, LOGICAL
from tests.unit.sparkapp.test_plan_tree import node as written
from tests.unit.sql.plan_attacks import MISTAKES, QUERIES, TEXTS
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


REFUSED = len(MISTAKES) + len(TEXTS)


def test_plan_of_each_mistake_is_recorded() -> None:
    assert len(recorded()["refused"]) == REFUSED


@pytest.mark.parametrize("number", range(REFUSED))
def test_plan_of_a_query_with_a_mistake_or_without_floors_is_refused(number: int) -> None:
    text, code, items = recorded()["refused"][number]
    with pytest.raises(Refused) as caught:
        check(GUARDED, items)
    assert caught.value.code == code, text


def test_view_of_the_rows_with_an_identity_is_read_like_the_dataset() -> None:
    for _, items in recorded()["accepted"]["guarded"][:20]:
        names = [item["class"].rpartition(".")[2] for item in items]
        pairs = zip(["", *names], names, items, strict=False)
        whole = [item for above, name, item in pairs if (above, name) != ("View", "Filter")]
        assert len(whole) < len(items)
        check(GUARDED, items)
        check(GUARDED, whole)


def _plan(query: str) -> list[Any]:
    (text,) = rewritten(QUERIES[query], GUARDED)
    return next(items for known, items in recorded()["accepted"]["guarded"] if known == text)


def test_result_contains_one_release_of_a_view() -> None:
    union = written(f"{LOGICAL}.Union", _plan("sum"), _plan("sum"))
    check(GUARDED, union)
    with pytest.raises(Refused, match="two aggregations of orders"):
        check(GUARDED, written(f"{LOGICAL}.Union", _plan("sum"), _plan("sum and persons")))


def test_release_does_not_depend_on_the_rows_around_it() -> None:
    outer = {"class": f"{EXPRESSIONS}.OuterReference", "num-children": 0, "e": attribute(999)}
    plan = json.loads(json.dumps(_plan("deviation")), object_hook=lambda part: outer if part.get("value") == "paid" else part)
    check(GUARDED, _plan("deviation"))
    assert tree(plan).outer_reads() == {999}
    columns = {999: Column(999)}
    assert PlanWalk(GUARDED).settled(tree(_plan("deviation")), columns)
    with pytest.raises(Refused, match="depend on the rows around"):
        PlanWalk(GUARDED).settled(tree(plan), columns)


AND = {"class": f"{EXPRESSIONS}.And", "num-children": 2, "left": 0, "right": 1}
IMPLIED = {
    # The persons in a part of a group have a row with a value or one without, whom other conditions count. A sum of the rows of one part
    # is a sum of the part, and in it the persons who contribute to a square contribute to its root.
    "products": 2,
    "filtered moment": 4,
    "own sum": 2,
    "union": 28,  # the same for the other kind of person
    "found": 3,
    "optional rows": 3,
    "optional rows of two": 3,
    "outer": 3,
}
"""Conditions of :data:`QUERIES` that follow from others, or are about persons or values of the author alone."""


def listed(node: Node) -> list[dict[str, Any]]:
    """A tree as Spark serialises it."""
    return [
        {"class": f"{node.package}.{node.kind}", "num-children": len(node.children), **node.fields},
        *(item for child in node.children for item in listed(child)),
    ]


def with_one_condition_less(plan: Node) -> Iterator[str]:
    """Leave out each condition of each release of ``plan`` in turn; yields the class of the condition."""
    for node in plan.walk():
        if (
            node.kind == "Filter"
            and node.child.kind == "Aggregate"
            and node.child.child.fields.get("identifier", {}).get("name") == "__cr_r"
        ):
            whole, shown = node.fields["condition"], node.child.fields["aggregateExpressions"]
            parts = conjuncts(node.expression("condition"))
            for left_out in parts if len(parts) > 1 else ():
                first, *others = (listed(part) for part in parts if part is not left_out)
                node.fields["condition"] = [*[AND] * len(others), *first, *(item for other in others for item in other)]
                read = {part.id for part in node.expression("condition").walk() if part.kind == "AttributeReference"}
                node.child.fields["aggregateExpressions"] = [
                    item for item in shown if tree(item).name[:5] == "__cr_" or tree(item).id in read
                ]
                yield left_out.kind
            node.fields["condition"], node.child.fields["aggregateExpressions"] = whole, shown


def code_of(plan: Node) -> str:
    try:
        PlanWalk(GUARDED).result(plan)
    except Refused as error:
        return error.code
    return ""


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_every_condition_of_a_release_is_needed(name: str) -> None:
    (text,) = rewritten(QUERIES[name], GUARDED)
    (items,) = (items for known, items in recorded()["accepted"]["guarded"] if known == text)
    plan = tree(items)
    codes = [code_of(plan) for _ in with_one_condition_less(plan)]
    assert codes.count("") == IMPLIED.get(name, 0)
    assert {*codes} <= {"", "PlanFloorMissing"}
