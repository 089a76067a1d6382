"""What the aggregates of a release require of its conditions.

* The persons who contribute to a sum or a count are counted, and none of them dominates a sum.
* Two sums or counts of a row are the same for all persons, or differ for enough of them, and no person dominates the difference.
* So it is in each part into which the conditions of aggregates divide a group, and the persons in a part are none or enough.
* Persons whom differences of counts of persons show are none or enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from sparkapp.plan.conditions import (
    EMPTY,
    FOUND,
    NOT_TRUE,
    TRUE,
    Floors,
    Sum,
    Test,
    covers,
    found_text,
)
from sparkapp.plan.shown import Shown, present
from sparkapp.plan.tree import refused


class Terms(Shown):
    """The aggregates of a release, and the conditions that they need."""

    def require(self, floors: Floors) -> None:
        """Require the conditions on the contributors of each aggregate, and on the persons for whom two sums or counts differ.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        protected = [sum for sum, shows_persons in self._sums.items() if shows_persons]
        if protected and floors.unguarded and self._is_partial():
            raise refused("PlanFloorMissing", "the part of one person is one of a sum that includes rows about no person")
        self._require_contributors(floors, protected)
        if floors.persons < 2:
            return
        if not all(_counts(floors, test, none) for test, none in self._found.items()):
            raise refused("PlanFloorMissing", "the persons who contribute to a count are not counted")
        counted = self._all_counts()
        self._require_equal(floors, self._sums, counted, self._limits)
        for test in counted:  # a mean of all rows may show how many there are
            self._require_equal(floors, [], [test & self._conditions(), test] if test - self._conditions() else [], [])
        self._require_divisions(floors)
        sums = dict.fromkeys((text, test - self._conditions()) for text, test in self._sums)
        shown = dict.fromkeys((text, test - self._conditions()) for text, test in protected)
        tests = [test - self._conditions() for test in counted]
        for divided in itertools.product(*self._all_divisions(floors.tests)) if len(self._selected) > 1 else ():
            part = Test().union(*divided)
            self._require_contributors(floors, [(text, part | test) for text, test in shown], none=True)
            counts = dict.fromkeys([part, *(part | test for test in tests)])
            if not all(covers(floors.tests, test) for test in counts if test != part):
                raise refused("PlanFloorMissing", "the persons with a value in a part of a group are not counted")
            self._require_equal(floors, [(text, part | test) for text, test in sums], counts, [(limit, part) for limit, _ in self._limits])

    def _all_counts(self) -> dict[Test, None]:
        """The counts, and those of values of which a sum and a mean, or three means, show how many there are."""
        found = dict(self._counts)
        for uses in self._uses.values():
            functions = {function for function, _ in uses}
            if len(functions) > 1 or (len(uses) > 2 and "Sum" not in functions):
                found |= dict.fromkeys(uses.values())
        return found

    def _conditions(self) -> Test:
        """Texts of the tests that conditions of aggregates are."""
        return Test(text + TRUE for text in self._divisions)

    def _require_contributors(self, floors: Floors, sums: Iterable[Sum], *, none: bool = False) -> None:
        """Require that enough persons contribute to each sum, or none if it may be empty, and that no person dominates it."""
        share = min(person.share for person in self.source.persons)
        for text, test in sums:
            each = [{f"{text} <> 0"}, {f"{factor} <> 0" for factor in text.split(" * ")}]  # all factors are not 0
            if not any(_counts(floors, test | one, none or bool(test)) for one in each):
                raise refused("PlanFloorMissing", "the persons who contribute to a sum are not counted")
            if floors.shares.get((text, test), share + 1) > share:
                raise refused("PlanFloorMissing", "no condition limits the part of one person in a sum")

    def _require_equal(self, floors: Floors, sums: Iterable[Sum], counts: Iterable[Test], limits: Iterable[tuple[str, Test]]) -> None:
        """Require that two sums or counts are equal for all persons, or differ for enough, of whom none dominates the difference."""
        sums, counts = list(sums), list(counts)
        pairs = [*itertools.combinations(sums, 2)]
        shown = {text for (text, _), shows_persons in self._sums.items() if shows_persons}
        for text, test in sums if self._known else ():
            pairs += [((text, test), ("1", count)) for count in {test | present(text), *counts} if text in shown]
        share = min(person.share for person in self.source.persons)
        similar = [pair for pair in itertools.combinations(sums, 2) if len({" * " in text for text, _ in pair}) == 1]
        if any(floors.difference_shares.get(frozenset(pair), 100) > share for pair in similar):
            raise refused("PlanFloorMissing", "no condition limits the part of one person in a difference of two sums")
        pairs += itertools.combinations([("1", test) for test in counts], 2) if self._known else ()
        if not {frozenset(pair) for pair in pairs} <= floors.differences:
            raise refused("PlanFloorMissing", "the persons for whom two sums differ are not counted")
        for (text, test), (other, where) in itertools.permutations(sums, 2):
            own, numbers = test | present(text), [where | present(other)] if other in self._means else counts
            for number in numbers if text in self._means and other in shown else ():
                both = {frozenset({(text, test), (other, where)}), frozenset({("1", own), ("1", number)})}
                if number != own and frozenset(both) not in floors.means:
                    raise refused("PlanFloorMissing", "the persons for whom a mean and another sum differ are not counted")
        for count in counts:
            columns = {text for text in count if text.endswith(FOUND)}
            rest = count - columns
            none = rest | {column.removesuffix(FOUND) + EMPTY for column in columns}
            if len(columns) > 1 and all(rest | {column} in counts for column in columns) and not covers(floors.tests, none):
                raise refused("PlanFloorMissing", "the persons without a value in several columns are not counted")
        if not all(covers(floors.tests, test | {limit}) for limit, test in limits):
            raise refused("PlanFloorMissing", "the persons below a limit are not counted")

    def _always(self) -> tuple[str, ...]:
        """Ends of the texts of the tests which find an identity: every row about its person meets them."""
        values = frozenset[int]().union(*(person.all_ids for person in self.source.persons))
        ids = [id for id, column in self.source.columns.items() if column.value in values]
        return tuple(f"#{self.canonical.number(id)}){FOUND}" for id in ids)

    def _is_partial(self) -> bool:
        """Whether some rows are about no person of some kind, because they come from another part of a union."""
        always = frozenset[int]().union(*(person.ids for person in self.source.persons if not person.partial))
        return any(person.partial and always.isdisjoint(person.ids) for person in self.source.persons)

    def _require_divisions(self, floors: Floors) -> None:
        """Require that enough persons are in each part of a group, or none if the part may be empty."""
        strict = bool(self._optional) or any(self._divisions.values())
        found = floors.strict if strict else floors.tests
        divisions = self._all_divisions(found)
        for parts in itertools.product(*divisions) if divisions else ():
            if not covers(found, Test().union(*parts), self._always()):
                raise refused("PlanFloorMissing", "the persons in a part of a group are not counted")

    def _all_divisions(self, tests: Iterable[Test]) -> set[tuple[Test, ...]]:
        return {*map(_parts, self._divisions), *(self._of_join(group, tests) for group in self._optional)}

    def _of_join(self, group: frozenset[int], tests: Iterable[Test]) -> tuple[Test, ...]:
        """The parts with and without a row of an outer join. Any of the compared columns tells them apart."""
        ids = [id for id, column in self.source.columns.items() if column.value in group]
        texts = [found_text(self.canonical.number(id)) for id in ids]
        known = frozenset[str]().union(*tests)
        text = next((text for text in texts if text + TRUE in known), "")
        optional = {column.value for column in self.source.columns.values() if group in column.optional}
        found, without = _parts(text)
        # The rows without one are about no person, if none is on the other side of the join.
        return (found,) if all(person.ids <= optional for person in self.source.persons) else (found, without)

    def require_counted(self, floors: Floors) -> None:
        """Require the conditions on persons whom differences of counts of persons show.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        if floors.persons < 2:
            return
        made = self.source.overlapping or self.source.multiplied
        divided = [part for text in self._divisions for part in _parts(text)]
        divided += [part for group in self._optional for part in self._of_join(group, floors.tests)]
        several = made or any(len(ids) > 1 for ids in self.source.unique) or (self._counts_persons and bool(self._selected))
        tests = self._counted + (divided if several else [])
        if not floors.counted >= _conditions(tests) or (made and self._counts_rows and self._counts_persons and not floors.repeated):
            raise refused("PlanFloorMissing", "the persons whom a difference of counts shows are not counted")


def _conditions(tests: Sequence[Test]) -> set[frozenset[tuple[Test, bool]]]:
    """Conditions on persons who meet none of each test, none of all, both of two, or one of two."""
    found = {frozenset([(test, False)]) for test in tests} | ({frozenset((test, False) for test in tests)} if tests else set())
    for one, two in itertools.combinations(dict.fromkeys(tests), 2):
        found |= {frozenset([(one, first), (two, second)]) for first, second in ((True, True), (True, False), (False, True))}
    return found


def _counts(floors: Floors, test: Test, none: bool) -> bool:
    """Whether conditions require that enough persons meet a test, or ``none``.

    If enough persons meet a test that contains the parts of another one, they also meet the other one.
    """
    return covers(floors.tests, test) if none else any(test <= strict for strict in floors.strict)


def _parts(text: str) -> tuple[Test, Test]:
    """The rows that meet a condition, and the others."""
    return Test([text + TRUE]), Test([text + NOT_TRUE])
