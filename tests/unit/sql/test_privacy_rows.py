"""Privacy rules for rows: joins, copies, windows, unions and subqueries."""

from __future__ import annotations

import pytest

from cleanroom.sql import check_sql
from cleanroom.sql.model import Equality, ProtectedInput, Relation
from cleanroom.sql.privacy import rows
from cleanroom.sql.scope import Scope
from tests.unit.sql.privacy_values import CATALOG, CLICKS, ORDERS, column, condition, refused, scope
from tests.unit.sql.test_leaks import CATALOGS


def test_strictest_floor_is_the_largest_of_all_views() -> None:
    assert rows.strictest_floor([ORDERS, CLICKS], CATALOG) == 5
    assert rows.strictest_floor([CLICKS], CATALOG) == 3
    assert rows.strictest_floor([], CATALOG) == 0


def test_inner_join_keeps_every_protected_input() -> None:
    joined = rows.join_rows("JOIN", [ORDERS], [CLICKS], [], ["c"])
    assert joined == ([ORDERS, CLICKS], "")


@pytest.mark.parametrize(
    ("join", "left", "right"), [("FULL JOIN", [ORDERS], []), ("FULL JOIN", [], [CLICKS]), ("LEFT ANTI JOIN", [ORDERS], [CLICKS])]
)
def test_join_that_selects_persons_by_absence_is_refused(join: str, left: list[ProtectedInput], right: list[ProtectedInput]) -> None:
    assert refused(rows.join_rows, join, left, right, [], ["c"]) == "JoinOverFloor"


def test_anti_join_with_unprotected_rows_keeps_the_left_side() -> None:
    assert rows.join_rows("LEFT ANTI JOIN", [ORDERS], [], [], []) == ([ORDERS], "")


def test_outer_join_marks_the_optional_side() -> None:
    pair = (column("person", type="string"), column("person", "clicks", "string"))
    left, marker = rows.join_rows("LEFT JOIN", [ORDERS], [CLICKS], [pair], ["c"])
    assert marker == "(c.person IS NOT NULL)"
    assert [item.outer_join_marker for item in left] == ["", "(c.person IS NOT NULL)"]
    right, marker = rows.join_rows("RIGHT JOIN", [ORDERS], [CLICKS], [pair], ["o"])
    assert marker == "(o.person IS NOT NULL)"
    assert [item.outer_join_marker for item in right] == ["(o.person IS NOT NULL)", ""]


def test_outer_join_without_an_equality_is_refused() -> None:
    assert refused(rows.join_rows, "LEFT JOIN", [ORDERS], [CLICKS], [], ["c"]) == "JoinOverFloor"


def test_too_many_protected_inputs_are_refused() -> None:
    rows.check_inputs(scope(*[ORDERS] * rows.MAX_PROTECTED_INPUTS))
    assert refused(rows.check_inputs, scope(*[ORDERS] * (rows.MAX_PROTECTED_INPUTS + 1))) == "QueryTooComplex"


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
    both.equal.record(Equality(person, other, in_every_row=True))
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
    assert rows.membership_inputs([inner], person, person.type) == [ProtectedInput("orders", "person", "w.person", chooses=True)]
    assert refused(rows.membership_inputs, [ORDERS], person, person.type) == "SubqueryOverFloor"
    assert refused(rows.membership_inputs, [inner], condition(person), "string") == "SubqueryOverFloor"
    assert refused(rows.membership_inputs, [inner], person, "integer") == "JoinNotOnIdentity"
    rows.check_no_rows([])
    assert refused(rows.check_no_rows, [ORDERS]) == "SubqueryOverFloor"


def test_remaining_inputs_name_a_group_key_and_the_place_of_the_identity_in_the_output() -> None:
    person, other = column("person", type="string"), column("person", "weights", "string")
    grouped = Scope()
    grouped.relations = {"o": Relation("o", "o", {}), "w": Relation("w", "w", {})}
    grouped.protected = [ORDERS]
    grouped.equal.record(Equality(person, other, in_every_row=True))
    grouped.group_keys, grouped.plain_group_keys, grouped.per_person = {"w.person": "w.person"}, ["w.person"], True
    (item,) = rows.remaining_inputs(grouped, [column("region"), other])
    assert (item.reference, item.output_position) == ("w.person", 1)
    inner = Scope()
    inner.relations = {"o": Relation("o", "o", {})}
    inner.protected = [ORDERS]
    (item,) = rows.remaining_inputs(inner, [])
    assert (item.reference, item.output_position) == ("o.person", None)


@pytest.mark.parametrize("text", ["STRING(o.user_id)", "CAST(o.user_id AS STRING)", "UPPER(STRING(o.user_id))", "HEX(o.user_id)"])
def test_cast_of_an_identity_in_a_join_is_refused_with_what_to_write(text: str) -> None:
    (reason,) = check_sql(
        f"SELECT m.seg, SUM(o.amount) AS s\nFROM orders o JOIN mine m ON {text} = m.k GROUP BY m.seg", CATALOGS["num"]
    ).reasons
    assert reason.code == "IdentityUse"
    assert "without a cast" in reason.message
    assert reason.position is not None
    assert reason.position.line == 2


def test_column_of_own_data_that_is_cast_to_an_identity_is_refused() -> None:
    (reason,) = check_sql("SELECT SUM(o.amount) AS s FROM orders o, clicks c WHERE o.user_key = SUBSTR(c.device, 2)", CATALOGS["g"]).reasons
    assert reason.code == "JoinNotOnIdentity"
