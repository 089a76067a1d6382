"""Joins of relations with rows of persons, in terms of values: persons, uniqueness, and what an identity decides."""

from __future__ import annotations

import pytest

from cleanroom.errors import Refused
from sparkapp.plan.joins import From, Pair
from sparkapp.plan.rows import Column, Person, Rows

ORDERS, CLICKS, OWN = 1, 2, 3
"""Relations: two with persons, whose columns are 10 to 12 and 20 to 22 with the identities 10 and 20, and one with columns 30 to 32."""


def relation(number: int, *unique: frozenset[int], persons: bool = True) -> Rows:
    first = 10 * number
    columns = {id: Column(id, identity=persons and id == first) for id in range(first, first + 3)}
    people = [Person(f"view{number}", 5, 80, frozenset([first]))] if persons else []
    return Rows(columns, people, list(unique))


def unique(*ids: int) -> frozenset[int]:
    return frozenset(ids)


def pair(first: int, second: int, how: str = "same", restricts: frozenset[int] | None = None) -> Pair:
    return Pair(first, second, how, restricts)


def joined(relations: dict[int, Rows], *pairs: Pair) -> Rows:
    return From(relations, list(pairs)).rows()


def persons(*uniques: frozenset[int]) -> dict[int, Rows]:
    """Both relations with persons; ``uniques`` are those of the second."""
    return {ORDERS: relation(ORDERS), CLICKS: relation(CLICKS, *uniques)}


def with_own(*uniques: frozenset[int]) -> dict[int, Rows]:
    return {ORDERS: relation(ORDERS), OWN: relation(OWN, *uniques, persons=False)}


def refused(relations: dict[int, Rows], *pairs: Pair) -> bool:
    with pytest.raises(Refused) as caught:
        joined(relations, *pairs)
    assert caught.value.code == "PlanJoinNotAllowed"
    return True


# -- relations with persons -------------------------------------------------------------------------------------------


def test_persons_that_are_joined_by_identity_share_its_values() -> None:
    rows = joined(persons(), pair(10, 20), pair(20, 21))
    assert [person.ids for person in rows.persons] == [unique(10, 20, 21)] * 2
    assert rows.multiplied
    assert rows.columns.keys() == {10, 11, 12, 20, 21, 22}


def test_persons_of_an_outer_join_have_their_identity_only_in_rows_that_it_found() -> None:
    first, second = joined(persons(), pair(10, 20, restricts=unique(CLICKS))).persons
    assert (first.ids, first.found) == (unique(10), unique())
    assert (second.ids, second.found) == (unique(20), unique(10))
    assert second.all_ids == unique(10, 20)


def test_columns_in_another_form_are_not_the_identity() -> None:
    assert refused(persons(), pair(10, 20, "widened"))


def test_column_that_refers_to_another_kind_of_person_is_its_identity() -> None:
    assert [person.ids for person in joined(persons(), pair(11, 20)).persons] == [unique(10), unique(11, 20)]
    assert [person.ids for person in joined(persons(), pair(10, 21)).persons] == [unique(10, 21), unique(20)]


def test_persons_that_are_joined_by_other_columns_are_refused() -> None:
    assert refused(persons(), pair(11, 21))


def test_persons_without_a_join_are_refused() -> None:
    assert refused(persons())


def test_single_relation_keeps_its_uniqueness() -> None:
    rows = joined({ORDERS: relation(ORDERS, unique(10))})
    assert (rows.unique, rows.multiplied) == ([unique(10)], False)
    assert joined(persons(unique(20)), pair(10, 20)).unique == []


def test_persons_with_one_row_each_are_not_multiplied() -> None:
    relations = {ORDERS: relation(ORDERS, unique(10)), CLICKS: relation(CLICKS, unique(20))}
    assert not joined(relations, pair(10, 20)).multiplied
    assert joined({**relations, CLICKS: relation(CLICKS)}, pair(10, 20)).multiplied
    assert joined({**relations, CLICKS: relation(CLICKS, unique(20, 21))}, pair(10, 20)).multiplied


def test_overlap_of_a_subquery_remains() -> None:
    relations = {ORDERS: relation(ORDERS, unique(10)), CLICKS: relation(CLICKS, unique(20))}
    relations[CLICKS].overlapping = True
    rows = joined(relations, pair(10, 20))
    assert (rows.overlapping, rows.multiplied) == (True, False)
    relations[CLICKS].repeated = frozenset([CLICKS])
    assert joined(relations, pair(10, 20)).multiplied


# -- other relations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uniques", "pairs"),
    [
        ([unique(30)], [pair(11, 30)]),
        ([unique(30)], [pair(30, 11, "widened")]),
        ([unique(30, 31)], [pair(11, 30), pair(12, 31)]),
        ([unique(32), unique(30)], [pair(11, 30)]),
        ([unique(30)], [pair(11, 30, restricts=unique(OWN))]),
        ([unique(30)], [pair(11, 30, restricts=unique(ORDERS))]),
    ],
)
def test_relation_that_is_unique_on_the_compared_columns_repeats_no_row(uniques: list[frozenset[int]], pairs: list[Pair]) -> None:
    assert not joined(with_own(*uniques), *pairs).multiplied


@pytest.mark.parametrize(
    ("uniques", "pairs"),
    [
        ([], [pair(11, 30)]),
        ([unique(30, 31)], [pair(11, 30)]),
        ([unique(31)], [pair(11, 30)]),
        ([unique(30)], []),
        ([], [pair(10, 30, "widened")]),
        ([], [pair(10, 30)]),
        ([unique(31)], [pair(10, 30)]),
        ([unique(30)], [pair(11, 30, restricts=unique(4))]),
        ([unique(30)], [pair(10, 30, restricts=unique(4))]),
    ],
)
def test_relation_that_may_repeat_rows_is_refused(uniques: list[frozenset[int]], pairs: list[Pair]) -> None:
    assert refused(with_own(*uniques), *pairs)


def test_relation_is_attached_through_another_one() -> None:
    relations = {**with_own(unique(30)), 4: relation(4, unique(40), persons=False)}
    assert not joined(relations, pair(11, 30), pair(31, 40)).multiplied
    assert refused(relations, pair(31, 40))
    relations[4] = relation(4, persons=False)
    assert refused(relations, pair(11, 30), pair(31, 40))
    relations[OWN] = relation(OWN, persons=False)
    assert refused(relations, pair(10, 30), pair(31, 40))


def test_persons_of_a_semi_join_alone_count_as_multiplied() -> None:
    rows = relation(OWN, persons=False)
    rows.persons = [Person("orders", 5, 80, unique(10))]
    relations = {OWN: replaced_persons(rows), 4: relation(4, persons=False)}
    assert refused(relations)


def replaced_persons(rows: Rows) -> Rows:
    return Rows(rows.columns, rows.persons)


def test_rows_without_persons_need_no_rule() -> None:
    assert not joined({OWN: relation(OWN, persons=False), 4: relation(4, persons=False)}).multiplied


# -- what an identity decides -----------------------------------------------------------------------------------------


def test_identity_decides_the_columns_of_a_relation_with_one_row_per_person() -> None:
    rows = joined(persons(unique(20)), pair(10, 20))
    assert rows.decided_by(10) == unique(10, 20, 21, 22)
    assert rows.decided_by(11) == unique(11)
    assert rows.ended().decided_by(10) == unique()


@pytest.mark.parametrize(
    "found",
    [pair(10, 20, restricts=unique(CLICKS)), pair(10, 20, restricts=unique(ORDERS))],
)
def test_only_equalities_of_every_row_decide(found: Pair) -> None:
    assert joined(persons(unique(20)), found).decided_by(10) == unique(10)


def test_relation_that_is_unique_on_more_columns_is_not_decided() -> None:
    assert joined(persons(unique(20, 21)), pair(10, 20)).decided_by(10) == unique(10, 20)


def test_column_of_a_decided_relation_decides_another_one() -> None:
    relations = {**persons(unique(20)), 4: relation(4, unique(40), persons=False)}
    assert joined(relations, pair(40, 21), pair(10, 20)).decided_by(10) == unique(10, 20, 21, 22, 40, 41, 42)
    assert joined(relations, pair(40, 11), pair(10, 20)).decided_by(10) == unique(10, 20, 21, 22)


# -- renaming ---------------------------------------------------------------------------------------------------------


def test_renumbered_rows_have_new_values_and_the_same_facts() -> None:
    rows = relation(ORDERS, unique(10, 11), unique(99))
    rows.columns[12] = Column(10, counts=unique(11))
    rows.persons = [Person("orders", 5, 80, unique(10, 99), unique(11))]
    out = rows.renumbered([1, 2, 3])
    first, second, third = (out.columns[id] for id in (1, 2, 3))
    assert first.value == third.value
    assert len({first.value, second.value, 10, 11}) == 4
    assert first.identity
    assert third.counts == unique(second.value)
    assert out.unique == [unique(first.value, second.value)]
    assert out.persons == [Person("orders", 5, 80, unique(first.value), unique(second.value))]


def test_ended_rows_overlap_if_their_joins_multiplied_them() -> None:
    rows = relation(ORDERS)
    assert not rows.ended().overlapping
    rows.repeated = frozenset([1])
    assert (rows.ended().overlapping, rows.ended().multiplied) == (True, False)
