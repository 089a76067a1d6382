"""The privacy rules alone: plain values in, a decision or a refusal out. No SQL is parsed or rendered here."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cleanroom.sql.privacy
from cleanroom.sql import Catalog, Refusal
from cleanroom.sql.model import ROWS, CheckedQuery, Division, OutputField, ProtectedInput, Relation, Value
from cleanroom.sql.privacy import polynomials, release, rows
from cleanroom.sql.privacy.aggregates import aggregate_disclosure, condition_divisions, found_row_divisions
from cleanroom.sql.privacy.exposure import check_exposed, exposed_by_comparison
from cleanroom.sql.privacy.release import FloorCondition, SelectRelease
from cleanroom.sql.scope import Scope
from cleanroom.sql.vocabulary import FUNCTIONS

CATALOG = Catalog.model_validate(
    {
        "views": {
            "orders": {
                "columns": {"person": "string", "region": "string", "amount": "number", "age": "integer", "day": "date"},
                "floor": {"minGroupSize": 5, "identityColumn": "person", "allowedOutputColumns": ["region", "day"]},
            },
            "clicks": {
                "columns": {"person": "string", "device": "string", "spend": "number"},
                "floor": {"minGroupSize": 3, "identityColumn": "person"},
            },
            "regions": {"region": "string", "country": "string"},
        }
    }
)
ORDERS = ProtectedInput("orders", "person", "o.person")
CLICKS = ProtectedInput("clicks", "person", "c.person")


def column(name: str, view: str = "orders", type: str = "number") -> Value:
    """The column ``name`` of a relation whose alias is the view's first letter."""
    alias = view[0]
    key = (view, name)
    return Value.of_column(f"{alias}.{name}", type, name, frozenset([alias]), frozenset([(*key, "value")]), frozenset([key]))


def condition(*columns: Value, sql: str = "condition") -> Value:
    origins = frozenset(origin for value in columns for origin in value.origins)
    markers = frozenset(marker for value in columns for marker in value.outer_join_markers)
    return Value(sql, "boolean", degree=None, origins=origins, outer_join_markers=markers)


def scope(*protected: ProtectedInput, grouped_by: tuple[Value, ...] | None = None) -> Scope:
    out = Scope()
    out.protected = list(protected)
    if grouped_by is not None:
        out.group_keys = {key.sql for key in grouped_by}
        out.plain_group_keys = [key.sql for key in grouped_by if key.plain]
        out.per_person = rows.is_per_person(out.protected, grouped_by, out.equal)
    return out


def refused(rule: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Code of the refusal that ``rule`` raises."""
    with pytest.raises(Refusal) as caught:
        rule(*args, **kwargs)
    assert caught.value.position is None
    return caught.value.code


def test_rules_do_not_depend_on_the_parser_or_the_checks() -> None:
    for path in Path(cleanroom.sql.privacy.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith(("sqlglot", "cleanroom.sql.checking", "cleanroom.sql.text", "cleanroom.sql.context")), path


# -- rows -------------------------------------------------------------------------------------------------------------


def test_strictest_floor_is_the_largest_of_all_views() -> None:
    assert rows.strictest_floor([ORDERS, CLICKS], CATALOG) == 5
    assert rows.strictest_floor([CLICKS], CATALOG) == 3
    assert rows.strictest_floor([], CATALOG) == 0


def test_inner_join_keeps_every_protected_input() -> None:
    joined = rows.join_rows("JOIN", [ORDERS], [CLICKS], [], ["c"], "c")
    assert joined == rows.JoinedRows([ORDERS, CLICKS], "")


@pytest.mark.parametrize(
    ("join", "left", "right"), [("FULL JOIN", [ORDERS], []), ("FULL JOIN", [], [CLICKS]), ("LEFT ANTI JOIN", [ORDERS], [CLICKS])]
)
def test_join_that_selects_persons_by_absence_is_refused(join: str, left: list[ProtectedInput], right: list[ProtectedInput]) -> None:
    assert refused(rows.join_rows, join, left, right, [], ["c"], "c") == "JoinOverFloor"


def test_anti_join_with_unprotected_rows_keeps_the_left_side() -> None:
    assert rows.join_rows("LEFT ANTI JOIN", [ORDERS], [], [], [], "r").protected == [ORDERS]


def test_outer_join_marks_the_optional_side() -> None:
    pair = (column("person", type="string"), column("person", "clicks", "string"))
    left = rows.join_rows("LEFT JOIN", [ORDERS], [CLICKS], [pair], ["c"], "c")
    assert left.marker == "(c.person IS NOT NULL)"
    assert [item.outer_join_marker for item in left.protected] == ["", "(c.person IS NOT NULL)"]
    right = rows.join_rows("RIGHT JOIN", [ORDERS], [CLICKS], [pair], ["o"], "c")
    assert [item.outer_join_marker for item in right.protected] == ["(o.person IS NOT NULL)", ""]


def test_outer_join_without_an_equality_is_refused() -> None:
    assert refused(rows.join_rows, "LEFT JOIN", [ORDERS], [CLICKS], [], ["c"], "c") == "JoinOverFloor"


def test_semi_join_protects_rows_by_the_column_that_equals_the_identity() -> None:
    pair = (column("person", "weights", "string"), column("person", "clicks", "string"))
    joined = rows.join_rows("LEFT SEMI JOIN", [], [CLICKS], [pair], [], "c")
    assert joined.protected == [ProtectedInput("clicks", "person", "w.person")]
    other = (column("seg", "weights", "string"), column("device", "clicks", "string"))
    assert refused(rows.join_rows, "LEFT SEMI JOIN", [], [CLICKS], [other], [], "c") == "JoinOverFloor"


@pytest.mark.parametrize(
    ("aliases", "links", "expected"),
    [
        ([], [], True),
        (["a"], [], True),
        (["a", "b"], [], False),
        (["a", "b"], [("b", "a")], True),
        (["a", "b", "c"], [("a", "b")], False),
        (["a", "b", "c", "d"], [("a", "b"), ("c", "d"), ("b", "c")], True),
    ],
)
def test_relations_are_connected_by_equalities(aliases: list[str], links: list[tuple[str, str]], expected: bool) -> None:
    assert rows.connected(aliases, links) is expected


def test_copied_rows_are_refused_only_where_a_floor_applies() -> None:
    rows.check_fan_out([], may_copy_rows=True)
    rows.check_fan_out([ORDERS], may_copy_rows=False)
    assert refused(rows.check_fan_out, [ORDERS], may_copy_rows=True) == "FanOutOverFloor"


def test_self_join_of_a_view_without_a_floor_copies_rows() -> None:
    regions, orders = frozenset(["regions"]), frozenset(["orders"])
    assert rows.self_join_copies_rows(regions, regions | orders, CATALOG)
    assert not rows.self_join_copies_rows(orders, orders, CATALOG)
    assert not rows.self_join_copies_rows(regions, orders, CATALOG)


def test_too_many_protected_inputs_are_refused() -> None:
    rows.check_protected_inputs([ORDERS] * rows.MAX_PROTECTED_INPUTS)
    assert refused(rows.check_protected_inputs, [ORDERS] * (rows.MAX_PROTECTED_INPUTS + 1)) == "QueryTooComplex"


def test_limit_over_protected_rows_is_refused() -> None:
    rows.check_limit([ORDERS], False)
    rows.check_limit([], True)
    assert refused(rows.check_limit, [ORDERS], True) == "LimitOverFloor"


def test_union_of_different_protected_views_is_allowed_and_every_other_is_refused() -> None:
    rows.check_union("UNION ALL", [[ORDERS], [CLICKS], []])
    rows.check_union("EXCEPT", [[], []])
    assert refused(rows.check_union, "UNION", [[ORDERS], [CLICKS]]) == "UnionOverFloor"
    assert refused(rows.check_union, "UNION ALL", [[ORDERS], [CLICKS, ORDERS]]) == "FanOutOverFloor"
    assert rows.union_mixes_rows([[ORDERS], []])
    assert not rows.union_mixes_rows([[ORDERS], [CLICKS]])
    assert not rows.union_mixes_rows([[], []])


def test_groups_are_persons_if_the_keys_include_every_identity_or_a_column_that_equals_it() -> None:
    person, other = column("person", type="string"), column("person", "clicks", "string")
    one = scope(ORDERS)
    assert rows.is_per_person(one.protected, [column("region"), person], one.equal)
    assert not rows.is_per_person(one.protected, [column("region")], one.equal)
    both = scope(ORDERS, CLICKS)
    assert not rows.is_per_person(both.protected, [person], both.equal)
    both.equal.equate(person, other)
    assert rows.is_per_person(both.protected, [person], both.equal)
    assert not rows.is_per_person([], [person], both.equal)


def test_window_over_protected_rows_sees_one_person_at_a_time() -> None:
    person, region = column("person", type="string"), column("region", type="string")
    person.identity = True
    assert rows.window_parts(scope(ORDERS), [person, region]) == [region]
    assert refused(rows.window_parts, scope(ORDERS), [region]) == "WindowOverFloor"
    assert refused(rows.window_parts, scope(ORDERS, grouped_by=(person,)), [person]) == "WindowOverFloor"
    assert rows.window_parts(scope(ORDERS, grouped_by=(region,)), [region]) == [region]
    assert rows.window_parts(scope(), [person]) == [person]


def test_subquery_in_an_expression_protects_rows_only_by_an_equality_with_the_identity() -> None:
    inner = ORDERS._replace(output_position=0)
    person = column("person", "weights", "string")
    assert rows.membership_inputs([inner], person) == [ProtectedInput("orders", "person", "w.person")]
    assert refused(rows.membership_inputs, [ORDERS], person) == "SubqueryOverFloor"
    assert refused(rows.membership_inputs, [inner], condition(person)) == "SubqueryOverFloor"
    correlated = ORDERS._replace(enclosing_column=person)
    assert rows.existence_inputs([correlated], ["w"]) == [ProtectedInput("orders", "person", "w.person")]
    assert refused(rows.existence_inputs, [correlated], ["x"]) == "SubqueryOverFloor"
    assert refused(rows.existence_inputs, [ORDERS], ["w"]) == "SubqueryOverFloor"
    rows.check_no_rows([])
    assert refused(rows.check_no_rows, [ORDERS]) == "SubqueryOverFloor"


def test_remaining_inputs_name_a_group_key_and_the_place_of_the_identity_in_the_output() -> None:
    person, other = column("person", type="string"), column("person", "weights", "string")
    grouped = Scope()
    grouped.relations = {"o": Relation("o", "o", {}), "w": Relation("w", "w", {})}
    grouped.protected = [ORDERS]
    grouped.equal.equate(person, other)
    grouped.group_keys, grouped.plain_group_keys, grouped.per_person = {"w.person"}, ["w.person"], True
    (item,) = rows.remaining_inputs(grouped, [column("region"), other])
    assert (item.reference, item.output_position, item.enclosing_column) == ("w.person", 1, None)
    inner = Scope(Scope())
    inner.relations = {"o": Relation("o", "o", {})}
    inner.protected = [ORDERS]
    inner.equal.equate(person, other)
    (item,) = rows.remaining_inputs(inner, [])
    assert (item.reference, item.output_position, item.enclosing_column) == ("o.person", None, other)


# -- aggregates -------------------------------------------------------------------------------------------------------


def disclosure(name: str, *args: Value, distinct: bool = False, released: tuple[ProtectedInput, ...] = (ORDERS,)) -> Any:
    return aggregate_disclosure(name, args, distinct=distinct, released=released, catalog=CATALOG)


@pytest.mark.parametrize("name", ["SUM", "AVG", "STDDEV", "VAR_POP", "TRY_SUM"])
def test_mixture_of_protected_numbers_exposes_none_of_their_columns(name: str) -> None:
    result = disclosure(name, column("amount"))
    assert (result.exposed, result.degree, result.divisions) == (frozenset(), 1, ())


def test_mixture_still_exposes_columns_of_other_views() -> None:
    assert disclosure("SUM", column("w", "weights")).exposed == {("weights", "w")}
    assert disclosure("SUM", column("amount"), released=()).exposed == {("orders", "amount")}


@pytest.mark.parametrize("name", ["COUNT", "APPROX_COUNT_DISTINCT"])
def test_count_takes_plain_columns_only(name: str) -> None:
    assert disclosure(name, column("age")).exposed == frozenset()
    computed = Value("age > 3", "boolean", degree=None, origins=column("age").origins)
    assert refused(disclosure, name, computed) == "ConditionalAggregate"
    polynomial = Value("age + 1", "integer", degree=1, origins=column("age").origins)
    assert disclosure(name, polynomial).divisions == ()
    assert refused(disclosure, name, polynomial, distinct=True) == "ConditionalAggregate"


@pytest.mark.parametrize(
    "value",
    [Value("ROUND(amount)", "number", degree=None), Value("region", "string", degree=1), Value("amount > 3", "boolean", degree=1)],
)
def test_mixture_of_anything_but_polynomials_of_numbers_is_refused(value: Value) -> None:
    assert refused(disclosure, "SUM", value) == "ConditionalAggregate"


def test_sum_of_distinct_values_is_refused() -> None:
    assert refused(disclosure, "SUM", column("amount"), distinct=True) == "ValueOfOnePerson"


@pytest.mark.parametrize(
    "name", [name for name, item in FUNCTIONS.items() if item.kind == "aggregate" and item.disclosure in ("value", "extreme")]
)
def test_aggregate_that_keeps_a_single_value_is_refused_only_over_protected_rows(name: str) -> None:
    assert refused(disclosure, name, column("amount")) == "ValueOfOnePerson"
    assert disclosure(name, column("amount"), released=()).divisions == ()


def test_extremes_of_a_listed_column_are_publishable_unless_it_is_text_or_optional() -> None:
    assert disclosure("MAX", column("day", type="date")).exposed == {("orders", "day")}
    assert refused(disclosure, "MAX", column("region", type="string")) == "ValueOfOnePerson"
    assert refused(disclosure, "MIN", column("spend", "clicks")) == "ValueOfOnePerson"
    optional = column("day", type="date")
    optional.outer_join_markers = frozenset(["(x IS NOT NULL)"])
    assert refused(disclosure, "MAX", optional) == "ValueOfOnePerson"


def test_optional_values_divide_the_group_into_found_and_not_found() -> None:
    optional = column("amount")
    optional.outer_join_markers = frozenset(["(b IS NOT NULL)", "(a IS NOT NULL)"])
    result = disclosure("SUM", optional)
    assert result.divisions == (Division(("(a IS NOT NULL)",), True), Division(("(b IS NOT NULL)",), True))
    assert result.degree is None


def test_divisions_do_not_depend_on_the_order_of_a_set() -> None:
    orders = {
        found_row_divisions([Value("x", "number", outer_join_markers=frozenset(names))])
        for names in itertools.permutations(["a", "b", "c", "d"])
    }
    assert len(orders) == 1


def test_condition_may_read_columns_that_may_be_part_of_a_result() -> None:
    listed = condition_divisions([condition(column("region"))], CATALOG)
    assert listed == (Division(("condition",), False),)
    unlisted = condition_divisions([condition(column("device", "clicks"))], CATALOG)
    assert unlisted == (Division(("condition",), True),)
    own_data = condition_divisions([condition(column("country", "regions"))], CATALOG)
    assert own_data == (Division(("condition",), True),)
    nothing = condition_divisions([Value("condition", "boolean", degree=None)], CATALOG)
    assert nothing == (Division(("condition",), True),)


@pytest.mark.parametrize("name", ["amount", "age", "person", ROWS])
def test_condition_on_any_other_column_is_refused(name: str) -> None:
    assert refused(condition_divisions, [condition(column(name))], CATALOG) == "ConditionalAggregate"
    assert refused(disclosure, "COUNT_IF", condition(column(name))) == "ConditionalAggregate"


# -- releases ---------------------------------------------------------------------------------------------------------


def select_release(of: Scope, *outputs: Value, distinct: bool = False, qualified: bool = False) -> SelectRelease:
    return release.select_release(of, outputs, distinct=distinct, qualified=qualified, catalog=CATALOG)


def test_select_releases_groups_of_several_persons() -> None:
    region, person = column("region", type="string"), column("person", type="string")
    assert select_release(scope(ORDERS, grouped_by=(region,)), region) == SelectRelease(True)
    assert select_release(scope(ORDERS, grouped_by=()), region) == SelectRelease(True)
    assert select_release(scope(ORDERS, grouped_by=(person,)), region) == SelectRelease(False)
    assert select_release(scope(ORDERS), region) == SelectRelease(False)
    assert select_release(scope(grouped_by=(region,)), region) == SelectRelease(False)


def test_distinct_over_protected_rows_becomes_a_grouping() -> None:
    region, person = column("region", type="string"), column("person", type="string")
    assert select_release(scope(ORDERS), region, Value("'k'", "string"), region, distinct=True) == SelectRelease(True, ("o.region",))
    assert select_release(scope(ORDERS), Value("'k'", "string"), distinct=True) == SelectRelease(True, ())
    assert select_release(scope(ORDERS), region, person, distinct=True) == SelectRelease(False)
    assert select_release(scope(ORDERS, grouped_by=(region,)), region, distinct=True) == SelectRelease(True)
    assert select_release(scope(), region, distinct=True) == SelectRelease(False)


def test_distinct_that_cannot_become_a_grouping_is_refused() -> None:
    region, person = column("region", type="string"), column("person", type="string")
    windowed = Value("ROW_NUMBER()", "integer", windowed=True)
    assert refused(select_release, scope(ORDERS, grouped_by=(person,)), region, distinct=True) == "RowLevelOutput"
    assert refused(select_release, scope(ORDERS), region, distinct=True, qualified=True) == "RowLevelOutput"
    assert refused(select_release, scope(ORDERS), region, windowed, distinct=True) == "RowLevelOutput"
    assert refused(select_release, scope(ORDERS), column("age"), distinct=True) == "OutputColumnNotAllowed"


def test_floor_applies_to_every_input_of_the_group() -> None:
    assert release.floor_conditions([ORDERS, CLICKS], {}, 5) == [FloorCondition("o.person", 5), FloorCondition("c.person", 5)]


def test_every_part_of_a_divided_group_reaches_the_floor_or_is_empty() -> None:
    conditions = release.floor_conditions([ORDERS], {("a", "b"): False}, 5)
    assert conditions[0] == FloorCondition("o.person", 5)
    assert [(item.part, item.or_empty) for item in conditions[1:]] == [
        (((("a", True),),), True),
        (((("a", False), ("b", True)),), True),
        (((("a", False), ("b", False)),), True),
    ]


def test_no_part_may_be_empty_if_one_division_is_not_publishable() -> None:
    conditions = release.floor_conditions([ORDERS], {("a",): False, ("b",): True}, 5)
    assert len(conditions) == 1 + 4
    assert not any(item.or_empty for item in conditions[1:])


def test_floor_of_one_needs_no_parts_unless_they_must_not_be_empty() -> None:
    assert release.floor_conditions([ORDERS], {("a",): False}, 1) == [FloorCondition("o.person", 1)]
    assert len(release.floor_conditions([ORDERS], {("a",): True}, 1)) == 3


def test_rows_without_a_person_of_an_optional_input_need_no_floor_of_that_input() -> None:
    optional = CLICKS._replace(outer_join_marker="(m)")
    conditions = release.floor_conditions([ORDERS, optional], {("(m)",): True}, 5)
    parts = [(item.identity, item.part) for item in conditions if item.part]
    found, missing = (((("(m)", True),),), ((("(m)", False),),))
    assert parts == [("o.person", found), ("c.person", found), ("o.person", missing)]


def test_too_many_parts_are_refused() -> None:
    divisions = {(str(index),): False for index in range(5)}
    assert len(release.floor_conditions([ORDERS], divisions, 5)) == 1 + release.MAX_PARTS
    assert refused(release.floor_conditions, [ORDERS], {**divisions, ("more",): False}, 5) == "ConditionalAggregate"


def test_result_contains_neither_protected_rows_nor_two_releases_of_one_view() -> None:
    release.check_result(CheckedQuery("", [], releases=frozenset([(1, "orders"), (2, "clicks")])))
    assert refused(release.check_result, CheckedQuery("", [], protected=[ORDERS])) == "RowLevelOutput"
    twice = frozenset([(1, "orders"), (2, "orders")])
    assert refused(release.check_result, CheckedQuery("", [], releases=twice)) == "DifferencingRisk"


def test_release_does_not_depend_on_the_rows_around_it() -> None:
    release.check_correlation(frozenset(), [column("region")])
    release.check_correlation(frozenset([(1, "orders")]), [])
    assert refused(release.check_correlation, frozenset([(1, "orders")]), [column("region")]) == "DifferencingRisk"


def test_grouping_sets_over_protected_rows_are_refused() -> None:
    release.check_grouping_sets([])
    assert refused(release.check_grouping_sets, [ORDERS]) == "DifferencingRisk"


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
    field = OutputField("x", "string", frozenset(), frozenset([("orders", "age")]), 1, True, False)
    assert refused(release.check_output, field, CATALOG) == "OutputColumnNotAllowed"


def test_column_compared_with_a_withheld_column_exposes_it_through_any_number_of_conditions() -> None:
    secret, first, second = column("amount"), column("x", "a", "number"), column("y", "b", "number")
    outer = column("z", "z", "number")
    withheld = frozenset([("orders", "amount")])
    found = exposed_by_comparison([(first, second), (secret, first), (second, outer)], ["o", "a", "b"], withheld)
    assert {value.name: value_exposed - value.exposed for value, value_exposed in found} == {"x": withheld, "y": withheld}
    assert first.exposed == {("a", "x")}, "the rule changes nothing"
    assert exposed_by_comparison([(first, second)], ["a", "b"], withheld) == []


# -- polynomials ------------------------------------------------------------------------------------------------------


def number(value: float) -> Value:
    return Value(str(value), "number", scale=polynomials.scale_of(value), constant=value)


@pytest.mark.parametrize(
    ("symbol", "left", "right", "degree"),
    [
        ("+", column("a"), column("b"), 1),
        ("*", column("a"), column("b"), 2),
        ("*", column("a"), number(1000), 1),
        ("/", column("a"), number(7), 1),
        ("/", column("a"), number(0), None),
        ("/", number(1), column("a"), None),
        ("%", column("a"), number(2), None),
        ("+", column("a"), Value("f(b)", "number", degree=None), None),
        ("*", Value("a * b * c", "number", degree=3), column("d"), None),
        ("*", Value("a", "number", degree=1, scale=1e4), number(1000), None),
        ("+", number(2), number(3), 0),
        ("*", number(1e5), number(1e5), None),
        ("*", number(1e308), number(1e308), None),
    ],
)
def test_degree_of_arithmetic(symbol: str, left: Value, right: Value, degree: int | None) -> None:
    assert polynomials.arithmetic(symbol, left, right)[0] == degree


def test_scale_is_the_largest_factor_or_its_inverse() -> None:
    assert [polynomials.scale_of(value) for value in (0, 1, -4, 0.01)] == [1.0, 1.0, 4.0, 100.0]
    assert polynomials.arithmetic("*", Value("x", "number", degree=1, scale=10.0), number(0.5))[1] == 20.0


def test_degree_of_calls() -> None:
    date = column("day", type="date")
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), number(3)]) == (1, 3.0)
    assert polynomials.call(FUNCTIONS["COALESCE"], [column("a"), column("b")]) == (None, math.inf)
    assert polynomials.call(FUNCTIONS["DATEDIFF"], [date, date]) == (1, 1.0)
    assert polynomials.call(FUNCTIONS["DATEDIFF"], [date, column("a")]) == (None, math.inf)
    assert polynomials.call(FUNCTIONS["ROUND"], [column("a")]) == (None, math.inf)


@pytest.mark.parametrize(
    ("word", "source", "target", "sizes", "exact"),
    [
        ("CAST", "integer", "long", [], True),
        ("CAST", "integer", "number", [], True),
        ("CAST", "integer", "decimal", ["12", "0"], True),
        ("CAST", "integer", "decimal", ["9", "0"], False),
        ("CAST", "long", "decimal", ["18", "0"], False),
        ("CAST", "number", "long", [], False),
        ("CAST", "number", "decimal", ["30", "2"], False),
        ("TRY_CAST", "integer", "long", [], False),
        ("CAST", "string", "number", [], False),
        ("CAST", "integer", "string", [], False),
    ],
)
def test_only_casts_that_never_fail_nor_round_keep_the_value(word: str, source: str, target: str, sizes: list[str], exact: bool) -> None:
    assert polynomials.keeps_value(word, source, target, sizes) is exact
