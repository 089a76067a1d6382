"""The parts into which the conditions of aggregates divide a group, and what the conditions of a release require for each of them.

Sums of some rows, and sums with factors that a CASE chooses, can be combined to the sum of one part. Enough persons, or none, contribute
to each column of a part, none dominates it, and two columns are equal for all persons of the part, or different for enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.comparisons import attributes
from sparkapp.plan.conditions import FOUND, Floors, Test, constant, covers, number_of, product_text, row_text, without_cast
from sparkapp.plan.expressions import CHOICES, conditions_of, results_of
from sparkapp.plan.tree import Node, refused

FORMS = frozenset({"Least", "Round", "BRound", "Log", "Log10", "Log2", "Log1p", "Coalesce"})
"""Functions of one column whose values are summed in place of the column's."""


@dataclass
class Parts:
    """What the aggregates of a release add up.

    Attributes:
        sums: Texts of columns and products, and whether they show values of persons.
        present: Texts of tests that a column is not NULL.
        columns: Texts of all columns that are summed.
        caps: Pairs of texts that are different where LEAST does not give its constant, or where its column is NULL.
    """

    sums: dict[str, bool] = field(default_factory=dict)
    present: dict[str, None] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    caps: dict[frozenset[str], None] = field(default_factory=dict)
    _selectors: set[tuple[str, ...]] = field(default_factory=set)
    _weighted: bool = False

    def select(self, function: Node, where: str, canonical: Canonical) -> None:
        """Note which rows an aggregate reads."""
        chosen = set()
        for arg in map(without_cast, function.children):
            if function.kind == "CountIf":
                chosen.add(canonical.text(arg))
            elif any(part.kind in CHOICES for part in arg.walk()):
                condition = _selector(arg)
                self._weighted = self._weighted or condition is None
                chosen.add("" if condition is None else canonical.text(condition))
            else:
                chosen.add("")
        self._selectors.add((where, *sorted(chosen or {""})))

    @property
    def selected(self) -> bool:
        """Whether an aggregate reads something else than identities."""
        return bool(self._selectors)

    @property
    def combined(self) -> bool:
        """Whether sums of single parts can be computed from the aggregates."""
        return self._weighted or len(self._selectors) > 1

    def add(self, value: Node, numbers: Iterable[str], canonical: Canonical, *, squares: bool, protected: Iterable[str]) -> None:
        """Add what an aggregate of ``value`` sums: ``numbers`` are the texts of its columns, some of which are ``protected``."""
        names = sorted(numbers)
        self.columns |= dict.fromkeys(names)
        forms = forms_in(value, canonical)
        for name in names:
            self.sums[forms.get(name, name)] = self.sums.get(forms.get(name, name), False) or name in protected
        if squares or any(part.kind == "Multiply" and all(any(attributes(child)) for child in part.children) for part in value.walk()):
            pairs = itertools.combinations_with_replacement(names, 2) if squares else itertools.combinations(names, 2)
            for pair in pairs:
                self.sums[" * ".join(sorted(pair))] = any(name in protected for name in pair)
        self.caps |= {pair: None for node in value.walk() if node.kind == "Least" for pair in _caps(node, canonical)}

    def require(self, floors: Floors, divisions: Iterable[Sequence[Test]], share: int, known: bool) -> None:
        """Require the conditions on each part, if the sums of a part can be computed; ``known`` if the number of rows is.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        pairs = [frozenset(pair) for pair in itertools.combinations(self.sums, 2)] + [*self.caps]
        if known:
            pairs += [frozenset({text, "1"}) for text, protected in self.sums.items() if protected and " * " not in text]
        present = {**self.present, **({f"{name}{FOUND}": None for name in self.columns} if known else {})}
        pairs += [frozenset({"1", row_text(frozenset([text]))}) for text in present]
        pairs += [frozenset(row_text(frozenset([text])) for text in pair) for pair in itertools.combinations(present, 2)]
        for tests in itertools.product(*divisions) if self.combined else ():
            part = frozenset[str]().union(*tests)
            for text in (text for text, protected in self.sums.items() if protected):
                if not covers(floors.tests, part | {f"{text} <> 0"}):
                    raise refused("PlanFloorMissing", "the persons who contribute to a sum in a part of a group are not counted")
                if floors.part_shares.get((text, part), 100) > share:
                    raise refused("PlanFloorMissing", "no condition limits the part of one person in a part of a group")
            if not all(covers(floors.tests, part | {text}) for text in present):
                raise refused("PlanFloorMissing", "the persons with a value in a part of a group are not counted")
            if any((pair, part) not in floors.part_differences for pair in pairs):
                raise refused("PlanFloorMissing", "the persons for whom two sums of a part of a group differ are not counted")


def _caps(least: Node, canonical: Canonical) -> Iterator[frozenset[str]]:
    """``LEAST(x, c) <> c`` and ``NOT (x IS NOT NULL)``: LEAST ignores NULL."""
    text = canonical.text(least)
    for child in least.children:
        inner = without_cast(child)
        if any(attributes(child)):
            yield frozenset({"1", row_text(frozenset([f"{product_text(child, canonical)}{FOUND}"]))})
        elif number_of(inner) == 1:
            yield frozenset({text, "1"})
        else:
            yield frozenset(row_text(frozenset([side])) for side in (text, canonical.text(inner)))


def forms_in(value: Node, canonical: Canonical) -> dict[str, str]:
    """For columns of which a function is summed in place of the column, the text of the function."""
    functions = [node for node in value.walk() if node.kind in FORMS]
    return {canonical.text(leaf): canonical.text(node) for node in functions for leaf in node.walk() if leaf.kind == "AttributeReference"}


def _selector(value: Node) -> Node | None:
    """The condition under which a value is a column, if it is 0 or NULL otherwise."""
    conditions = conditions_of(value)
    if value.kind not in CHOICES or len(conditions) != 1:
        return None
    results = [without_cast(result) for result in results_of(value)]
    columns = [result for result in results if result.kind == "AttributeReference"]
    others = [result for result in results if result.kind != "AttributeReference"]
    empty = all(result.kind == "Literal" and constant(result) in (None, "0", "0.0") for result in others)
    return conditions[0] if len(columns) == 1 and empty else None
