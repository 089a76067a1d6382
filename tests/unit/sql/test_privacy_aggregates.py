"""Privacy rules for aggregates: what each of them reveals, and how conditions divide a group."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cleanroom.sql import check_sql
from cleanroom.sql.model import Division, ProtectedInput, Value
from cleanroom.sql.privacy.aggregates import aggregate_disclosure, condition_divisions, found_row_divisions
from cleanroom.sql.vocabulary import FUNCTIONS
from tests.unit.sql.privacy_values import CATALOG, ORDERS, column, condition, refused
from tests.unit.sql.world import GUARDED


def disclosure(name: str, *args: Value, distinct: bool = False, released: tuple[ProtectedInput, ...] = (ORDERS,)) -> Any:
    return aggregate_disclosure(name, args, distinct=distinct, released=released, catalog=CATALOG)


@pytest.mark.parametrize("name", ["SUM", "AVG", "STDDEV", "VAR_POP"])
def test_mixture_of_protected_numbers_exposes_none_of_their_columns(name: str) -> None:
    result = disclosure(name, column("amount"))
    assert (result.exposed, result.degree, result.divisions) == (frozenset(), 2 if name in ("STDDEV", "VAR_POP") else 1, ())


def test_mixture_still_exposes_columns_of_other_views() -> None:
    assert disclosure("SUM", column("w", "weights")).exposed == {("weights", "w")}
    assert disclosure("SUM", column("amount"), released=()).exposed == {("orders", "amount")}


@pytest.mark.parametrize("name", ["COUNT", "APPROX_COUNT_DISTINCT"])
def test_count_takes_plain_columns_only(name: str) -> None:
    assert disclosure(name, column("age")).exposed == frozenset()
    computed = Value("age > 3", "boolean", degree=None, origins=column("age").origins)
    assert refused(disclosure, name, computed) == "ConditionalAggregate"
    polynomial = Value("age + 1", "integer", degree=1, origins=column("age").origins)
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


def test_optional_values_divide_the_group_into_found_and_not_found() -> None:
    optional = column("amount")
    optional.outer_join_markers = frozenset(["(b IS NOT NULL)", "(a IS NOT NULL)"])
    result = disclosure("SUM", optional)
    assert result.divisions == (Division("(a IS NOT NULL)", True), Division("(b IS NOT NULL)", True))
    assert result.degree is None


def test_divisions_do_not_depend_on_the_order_of_a_set() -> None:
    orders = {
        found_row_divisions([Value("x", "number", outer_join_markers=frozenset(names))])
        for names in itertools.permutations(["a", "b", "c", "d"])
    }
    assert len(orders) == 1


def test_condition_may_read_columns_that_may_be_part_of_a_result() -> None:
    listed = condition_divisions(condition(column("region")), CATALOG)
    assert listed == (Division("condition", False),)
    unlisted = condition_divisions(condition(column("device", "clicks")), CATALOG)
    assert unlisted == (Division("condition", True),)
    own_data = condition_divisions(condition(column("country", "regions")), CATALOG)
    assert own_data == (Division("condition", True),)
    nothing = condition_divisions(Value("condition", "boolean", degree=None), CATALOG)
    assert nothing == (Division("condition", True),)


@pytest.mark.parametrize("name", ["amount", "age"])
def test_condition_on_any_other_column_is_refused(name: str) -> None:
    for use in (f"COUNT_IF({name} > 3)", f"COUNT(*) FILTER (WHERE {name} > 3)", f"SUM(CASE WHEN {name} > 3 THEN discount END)"):
        assert [reason.code for reason in check_sql(f"SELECT {use} AS n FROM orders", GUARDED).reasons] == ["OutputColumnNotAllowed"]


def test_products_with_counts_or_with_columns_of_another_dataset_are_refused() -> None:
    for sql in (
        "SELECT SUM(o.amount * c.spend) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key",
        "SELECT SUM(o.amount * c.n) AS s FROM orders o JOIN (SELECT user_key, COUNT(*) AS n FROM clicks GROUP BY user_key) c "
        "ON o.user_key = c.user_key",
    ):
        (reason,) = check_sql(sql, GUARDED).reasons
        assert reason.code == "WeightsNotAllowed"
    assert check_sql("SELECT SUM(amount * discount) AS s FROM orders", GUARDED).allowed


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("SUM(CASE WHEN status = 'paid' THEN amount ELSE discount END)", "SUM(amount) FILTER (WHERE status = 'paid')"),
        ("SUM(IF(status = 'paid', 0, amount))", "SUM(amount) FILTER (WHERE status <> 'paid')"),
        ("SUM(2 * CASE WHEN status = 'paid' THEN amount END)", "2 * SUM(CASE WHEN status = 'paid' THEN amount END)"),
        ("SUM(CASE WHEN status = 'paid' THEN 1 WHEN status = 'open' THEN 1 END)", "COUNT_IF(status = 'paid') + COUNT_IF(status = 'open')"),
        ("COUNT(amount + discount)", "COUNT(amount)"),
    ],
)
def test_chosen_values_are_refused_and_their_remedies_pass(value: str, remedy: str) -> None:
    (reason,) = check_sql(f"SELECT {value} AS s FROM orders", GUARDED).reasons
    assert reason.code == "ConditionalAggregate"
    assert check_sql(f"SELECT {remedy} AS s FROM orders", GUARDED).allowed


@pytest.mark.parametrize(
    "name",
    ["CORR", "COVAR_POP", "COVAR_SAMP", "REGR_SLOPE", "REGR_INTERCEPT", "REGR_R2", "REGR_AVGX", "REGR_SXX", "REGR_SXY", "REGR_COUNT"],
)
def test_comparisons_of_two_columns_are_refused_and_their_remedy_passes(name: str) -> None:
    (reason,) = check_sql(f"SELECT {name}(amount, discount) AS c FROM orders", GUARDED).reasons
    assert (reason.code, "AVG(x * y) - AVG(x) * AVG(y)" in reason.message) == ("ValueOfOnePerson", True)
    assert check_sql("SELECT AVG(amount * discount) - AVG(amount) * AVG(discount) AS c FROM orders", GUARDED).allowed


@pytest.mark.parametrize("flag", ["CASE WHEN status = 'paid' THEN 1 END", "IF(status = 'paid', 1, NULL)"])
def test_flag_that_may_be_null_is_refused_and_the_reason_names_one_that_may_not(flag: str) -> None:
    query = "SELECT AVG(f) AS share FROM (SELECT user_key, MAX({}) AS f FROM orders GROUP BY user_key) t"
    (reason,) = check_sql(query.format(flag), GUARDED).reasons
    assert reason.code == "ConditionalAggregate"
    assert "THEN 1 ELSE 0 END" in reason.message
    assert check_sql(query.format("CASE WHEN status = 'paid' THEN 1 ELSE 0 END"), GUARDED).allowed


def test_forms_of_a_column_that_steps_per_person_compute_are_refused() -> None:
    query = "SELECT SUM(a) AS a, SUM(b) AS b FROM (SELECT user_key, {} AS a, {} AS b FROM orders GROUP BY user_key) t"
    for one, two in itertools.permutations(["SUM(amount)", "AVG(amount)", "MAX(amount)", "MIN(amount)"], 2):
        (reason,) = check_sql(query.format(one, two), GUARDED).reasons
        assert reason.code == "TooManyMoments"
        assert "in several forms" in reason.message
    assert check_sql(query.format("SUM(amount)", "SUM(discount)"), GUARDED).allowed
    assert check_sql(query.format("SUM(amount)", "COUNT(amount)"), GUARDED).allowed
