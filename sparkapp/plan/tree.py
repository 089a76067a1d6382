"""Catalyst's tree of a query, as Spark serialises it: one call of the JVM instead of one for each node.

``LogicalPlan.toJSON`` lists the nodes of a tree in preorder, each with its class and the number of its children. Expressions and the
plans of subqueries are lists of the same kind inside the members of a node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cleanroom.errors import Refused


def refused(code: str, message: str) -> Refused:
    """The refusal of a plan."""
    return Refused(code, f"Spark's plan of the query: {message}.", hint="Report this: the query gate should have refused the query.")


@dataclass(eq=False)
class Node:
    """A node of a plan or of an expression.

    Attributes:
        kind: Name of the class, without its package.
        package: Package of the class.
        fields: Members that are not children.
        children: Children in the order of Spark.
    """

    kind: str
    package: str
    fields: dict[str, Any]
    children: list[Node] = field(default_factory=list)
    _read: dict[int, tuple[Any, Node]] = field(default_factory=dict, init=False, repr=False)  # by the identity of a list in ``fields``

    @property
    def id(self) -> int:
        """ID of the attribute that an alias or an attribute names."""
        return int(self.fields["exprId"]["id"])

    @property
    def name(self) -> str:
        """The member ``name``."""
        return str(self.fields["name"])

    @property
    def child(self) -> Node:
        """The only child."""
        (child,) = self.children
        return child

    def expression(self, member: str) -> Node:
        """The expression in ``member``."""
        return self.read(self.fields[member])

    def expressions(self, member: str) -> list[Node]:
        """The list of expressions in ``member``."""
        return [self.read(item) for item in self.fields[member]]

    def read(self, items: list[dict[str, Any]]) -> Node:
        """The tree of a list in :attr:`fields`, which does not change."""
        if (known := self._read.get(id(items))) is None:
            known = self._read[id(items)] = items, tree(items)
        return known[1]

    def outer_reads(self) -> set[int]:
        """IDs of the attributes of plans around it that this plan, or a subquery in it, reads."""
        found = set[int]()
        waiting: list[Any] = [node.fields for node in self.walk()]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if str(value.get("class")).endswith(".OuterReference"):
                    found.add(int(value["e"][0]["exprId"]["id"]))
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)
        return found

    def with_children(self, children: list[Node]) -> Node:
        """This node with other children."""
        return self if children == self.children else replace(self, children=children)

    def walk(self) -> Iterator[Node]:
        """This node and those below it, in the order of Spark."""
        rest = [self]
        while rest:
            node = rest.pop()
            yield node
            rest.extend(reversed(node.children))


def parse_plan(text: str) -> Node:
    """Read the JSON of a plan.

    Raises:
        Refused: ``PlanUnreadable``.
    """
    try:
        return tree(json.loads(text))
    except (ValueError, KeyError, TypeError, StopIteration, RecursionError) as error:
        raise refused("PlanUnreadable", f"it cannot be read ({type(error).__name__})") from None


def tree(items: list[dict[str, Any]]) -> Node:
    """The tree whose nodes are listed in preorder."""
    rest = iter(items)

    def one() -> Node:
        item = dict(next(rest))
        package, _, kind = str(item.pop("class")).rpartition(".")
        count = item.pop("num-children")
        node = Node(kind, package, item)
        node.children = [one() for _ in range(count)]
        return node

    found = one()
    if next(rest, None) is not None:
        raise ValueError("more nodes than the tree has")
    return found


def join_kind(join: Node) -> str:
    """Kind of a join: ``Inner``, ``LeftOuter``, ``LeftSemi`` and so on."""
    return str(join.fields["joinType"].get("object")).rpartition(".")[2].rstrip("$")


def is_generated_join(node: Node) -> bool:
    """Whether a node joins groups with conditions that the gate has written into the text."""
    if node.kind != "Join" or node.children[1].kind != "SubqueryAlias":
        return False
    name = str(node.children[1].fields["identifier"]["name"])
    return name.startswith("__cr_") and join_kind(node) in ("LeftSemi", "LeftAnti")
