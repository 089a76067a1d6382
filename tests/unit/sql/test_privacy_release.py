"""Privacy rules for releases: what a SELECT and a whole query release, and which columns they expose."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cleanroom.sql.privacy
from cleanroom.sql.model import CheckedQuery, Value
from cleanroom.sql.privacy import release
from cleanroom.sql.privacy.exposure import check_exposed
from tests.unit.sql.privacy_values import CATALOG, CLICKS, ORDERS, column, refused, scope


def test_rules_do_not_depend_on_the_parser_or_the_checks() -> None:
    for path in Path(cleanroom.sql.privacy.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith(("sqlglot", "cleanroom.sql.checking", "cleanroom.sql.text", "cleanroom.sql.context")), path


def test_select_releases_groups_of_several_persons() -> None:
    region, person = column("region", type="string"), column("person", type="string")
    for distinct in (False, True):
        assert release.releases_groups(scope(ORDERS, grouped_by=(region,)), [region], distinct=distinct)
        assert release.releases_groups(scope(ORDERS, grouped_by=()), [region], distinct=distinct)
        assert not release.releases_groups(scope(grouped_by=(region,)), [region], distinct=distinct)
        assert not release.releases_groups(scope(ORDERS, grouped_by=(person,)), [person], distinct=distinct)
    assert not release.releases_groups(scope(ORDERS), [region], distinct=False)


def test_distinct_over_protected_rows_keeps_their_identities() -> None:
    region, person = column("region", type="string"), column("person", type="string")
    assert not release.releases_groups(scope(ORDERS), [region, person], distinct=True)
    assert not release.releases_groups(scope(), [region], distinct=True)
    for of in (scope(ORDERS), scope(ORDERS, grouped_by=(person,))):
        assert refused(release.releases_groups, of, [region], distinct=True) == "RowLevelOutput"


def test_floor_applies_to_every_input_of_the_group() -> None:
    assert release.counted_parts([ORDERS, CLICKS], {}, 5) == [(ORDERS, ()), (CLICKS, ())]


def test_persons_of_every_part_of_a_divided_group_are_counted() -> None:
    parts = [(("a", first), ("b", second)) for first in (True, False) for second in (True, False)]
    assert release.counted_parts([ORDERS], {"a": False, "b": False}, 5) == [(ORDERS, part) for part in ((), *parts)]


def test_floor_of_one_needs_no_parts_unless_they_must_not_be_empty() -> None:
    assert release.counted_parts([ORDERS], {"a": False}, 1) == [(ORDERS, ())]
    assert len(release.counted_parts([ORDERS], {"a": True}, 1)) == 3


def test_rows_without_a_person_of_an_optional_input_need_no_floor_of_that_input() -> None:
    optional = CLICKS._replace(outer_join_marker="(m)")
    found, missing = (("(m)", True),), (("(m)", False),)
    parts = [(ORDERS, ()), (optional, ()), (ORDERS, found), (optional, found), (ORDERS, missing)]
    assert release.counted_parts([ORDERS, optional], {"(m)": True}, 5) == parts


def test_too_many_parts_are_refused() -> None:
    divisions = {str(index): False for index in range(5)}
    assert len(release.counted_parts([ORDERS], divisions, 5)) == 1 + release.MAX_PARTS
    assert refused(release.counted_parts, [ORDERS], {**divisions, "more": False}, 5) == "ConditionalAggregate"


def test_result_contains_neither_protected_rows_nor_two_releases_of_one_view() -> None:
    release.check_result(CheckedQuery("", [], releases=frozenset([(1, "orders"), (2, "clicks")])))
    assert refused(release.check_result, CheckedQuery("", [], protected=[ORDERS])) == "RowLevelOutput"
    twice = frozenset([(1, "orders"), (2, "orders")])
    assert refused(release.check_result, CheckedQuery("", [], releases=twice)) == "DifferencingRisk"


def test_release_does_not_depend_on_the_rows_around_it() -> None:
    release.check_correlation(frozenset(), [column("region")])
    release.check_correlation(frozenset([(1, "orders")]), [])
    assert refused(release.check_correlation, frozenset([(1, "orders")]), [column("region")]) == "DifferencingRisk"


def test_optional_and_windowed_outputs_are_no_polynomials() -> None:
    optional = column("amount")
    optional.outer_join_markers = frozenset(["m"])
    field = release.output_field("x", optional, protected=True)
    assert (field.degree, field.plain) == (None, False)
    assert release.output_field("x", Value("w", "number", degree=1, windowed=True), protected=True).degree is None
    assert release.output_field("x", column("amount"), protected=True).degree == 1


# -- exposure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (("orders", "person"), "IdentityInOutput"),
        (("orders", "amount"), "OutputColumnNotAllowed"),
        (("clicks", "person"), "IdentityInOutput"),
    ],
)
def test_exposed_column_that_may_not_be_part_of_a_result_is_refused(key: tuple[str, str], code: str) -> None:
    assert refused(check_exposed, [("regions", "region"), key], "shows", CATALOG) == code


def test_exposed_columns_that_owners_allow_are_accepted() -> None:
    check_exposed([("orders", "region"), ("clicks", "spend"), ("regions", "country")], "shows", CATALOG)
    assert refused(check_exposed, [("orders", "age")], "shows", CATALOG) == "OutputColumnNotAllowed"
