"""What the parts of the walk over a plan need from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cleanroom.sql import Catalog
from sparkapp.plan.expressions import Columns
from sparkapp.plan.release import Release
from sparkapp.plan.rows import Column, InputColumn, Person, Rows
from sparkapp.plan.tree import Node


class Lower(NamedTuple):
    """The aggregate below another one."""

    aggregate: Node
    names: dict[int, int]  # for each attribute that the upper aggregate reads, the output of the lower one that it is
    computed: dict[int, Node]  # expressions over these outputs that the upper aggregate reads


class Walk(Protocol):
    """The walk over the operators of a plan: :class:`sparkapp.plan.walk.PlanWalk`."""

    catalog: Catalog

    def visit(self, node: Node, outer: Columns) -> tuple[Rows, Release | None]:
        """The rows of an operator, and the release that they are."""

    def settled(self, node: Node, outer: Columns) -> Rows:
        """The rows of an operator. No condition of a release is missing."""

    def lower(self, node: Node) -> Lower | None:
        """The aggregate below another one."""

    def column(self, item: Node, columns: Columns) -> Column:
        """The column that an output expression computes."""

    def shown(self, node: Node, columns: Columns, *, persons: bool = False) -> frozenset[InputColumn]:
        """Input columns whose values an expression shows."""

    def subquery(self, plan: Node, outer: Columns) -> Rows:
        """Rows of a subquery in an expression."""

    def require_no_persons(self, persons: Sequence[Person], what: str) -> None:
        """Refuse an operator that may not read rows of persons."""
