"""Aggregates: rows per person, and the groups of persons that a plan may show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.comparisons import attributes, unchanged
from sparkapp.plan.expressions import COUNTS, EXTREMES, MOMENTS, Columns, require_conditions, require_shown
from sparkapp.plan.release import (
    Floors,
    Groups,
    PartialRelease,
    compares_groups,
    conjuncts,
    groups_of,
    require_contributors,
    require_floors,
    require_merges,
    without_alias,
)
from sparkapp.plan.rows import NOTHING, Column, InputColumn, Person, Rows, fresh
from sparkapp.plan.tree import Node, is_generated_join, join_kind, refused, tree
from sparkapp.plan.walking import Walk


class Aggregates:
    """The aggregates of one plan."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def aggregate(self, node: Node, having: Node | None, outer: Columns) -> tuple[Rows, PartialRelease | None]:
        """The rows of an aggregate and of the conditions above it, and its release if that is not complete."""
        lower = self._walk.lower(node.child)
        if having is not None and lower is not None:
            source = self._walk.settled(lower[0].child, outer)
            if source.persons and not _groups_by_persons(node, outer, source, lower):
                return self._release(having, node, lower, source, outer)
        guards, base = self._guards(node.child, outer)
        if guards:
            return self._guarded(node, having, guards, base, outer), None
        rows = self._walk.settled(node.child, outer)
        self._walk.require_no_persons(rows.persons if rows.exploded else [], "an aggregate of exploded rows")
        columns = {**outer, **rows.columns}
        keys = [unchanged(item) for item in node.expressions("groupingExpressions")]
        values = {columns[item.id].value for item in keys if item.kind == "AttributeReference" and item.id in columns}
        if not all(person.all_ids & values for person in rows.persons):
            raise refused("PlanFloorMissing", f"rows of {rows.persons[0].view} are aggregated without the conditions of its floor")
        if not rows.persons:
            for item in node.expressions("groupingExpressions"):
                require_conditions(item, columns, self._walk.subquery, self._walk.catalog, all_of_it=True)
        out = self._grouped(node, rows, columns, persons=False)
        out.persons = [person._replace(ids=person.all_ids & values, found=frozenset()) for person in rows.persons]
        if len(keys) == 1:
            out.overlapping = out.multiplied = False
        if having is not None:
            self._require_having(having, {**outer, **out.columns})
        return out, None

    def _require_having(self, having: Node, columns: Columns) -> None:
        require_conditions(having.expression("condition"), columns, self._walk.subquery, self._walk.catalog, all_of_it=True)

    def _grouped(self, node: Node, rows: Rows, columns: Columns, *, persons: bool) -> Rows:
        found = {item.id: self._walk.column(item, columns, persons=persons) for item in node.expressions("aggregateExpressions")}
        keys = {Canonical.shared(key) for key in node.expressions("groupingExpressions")}
        unique = frozenset(
            found[item.id].value for item in node.expressions("aggregateExpressions") if Canonical.shared(without_alias(item)) in keys
        )
        complete = len(unique) == len(keys)
        return replace(rows.ended(), columns=found, unique=[unique] if complete else [])

    def _release(
        self, having: Node, node: Node, lower: tuple[Node, dict[int, int]], source: Rows, outer: Columns
    ) -> tuple[Rows, PartialRelease | None]:
        groups = groups_of(having, node, *lower)
        columns = {**outer, **source.columns}
        uncovered = self._uncovered(groups, source)
        require_merges(groups)
        released = [call for value in groups.released() for call in value.walk() if call.kind == "AggregateExpression"]
        if source.exploded and any(call.children[0].kind != "CountIf" for call in released):
            raise refused("PlanRowsOfPersons", "an aggregate reads rows of persons that EXPLODE repeats")
        merged = [part for value in groups.released() for part in groups.merged(value)]
        canonical = Canonical()
        text = canonical.text(lower[0].child)
        self._require_terms(merged, columns, canonical, groups, source.persons)
        keys = [groups.inputs[item.id] for item in node.expressions("groupingExpressions")]
        for key in keys:
            require_shown(self._walk.shown(key, columns), "a group key shows", self._walk.catalog)
        for part in merged:
            require_conditions(part, columns, self._walk.subquery, self._walk.catalog)
        reads = {id: Column(fresh(), self._released(part, columns)) for id, part in groups.inputs.items()}
        found = {item.id: Column(fresh(), self._walk.shown(without_alias(item), reads)) for item in groups.outputs()}
        relations = {columns[id].relation for part in (*keys, *merged) for id in attributes(part) if id in columns}
        floor = max(person.floor for person in source.persons)
        overlap = bool(keys) and floor > 1 and (source.overlapping or (source.multiplied and len(relations) > 1))
        unique = [frozenset(found[id].value for id in groups.keys)] if len(groups.keys) == len(keys) else []
        release = PartialRelease(groups, text, uncovered, overlap, floor)
        return Rows(found, unique=unique), self._remaining(release)

    @staticmethod
    def _uncovered(groups: Groups, source: Rows) -> list[Person]:
        """The persons of the rows whom the conditions of the groups do not count."""
        parts = [groups.person] if groups.person.kind == "AttributeReference" else groups.person.children
        values = {id: column.value for id, column in source.columns.items()}
        counted = {values[part.id] for part in parts if part.kind == "AttributeReference" and part.id in values}
        identities = {id for person in source.persons for id in person.all_ids}
        plain = groups.person.kind in ("AttributeReference", "Coalesce") and all(part.kind == "AttributeReference" for part in parts)
        if not plain or not counted <= identities:
            raise refused("PlanFloorMissing", "a release counts something else than identities")
        return require_floors(groups.floors, source.persons, frozenset(counted), values)

    def _released(self, node: Node, columns: Columns) -> frozenset[InputColumn]:
        """Input columns whose values an expression over the groups shows: aggregates of several persons show none, except extremes."""
        if node.kind == "AggregateExpression":
            shows = self._walk.shown(node, columns, persons=True)
            if node.children[0].kind in EXTREMES:
                return shows
            return frozenset([(name, column) for name, column in shows if not self._walk.catalog.has_floor(name)])
        if all(part.kind != "AggregateExpression" for part in node.walk()):
            return self._walk.shown(node, columns)
        return NOTHING.union(*(self._released(child, columns) for child in node.children))

    def _require_terms(
        self, nodes: Iterable[Node], columns: Columns, canonical: Canonical, groups: Groups, persons: Sequence[Person]
    ) -> None:
        """Require the conditions on the contributors of each sum."""
        terms = []
        for node in nodes:
            for call in node.walk():
                if call.kind == "AggregateExpression":
                    self._require_no_overflow(call, columns)
                if call.fields.get("isDistinct") and call.children[0].kind == "Count" and groups.floors.persons > 1:
                    self._require_differences(call.children[0], groups.floors, canonical)
                if call.kind != "AggregateExpression" or call.children[0].kind in COUNTS | EXTREMES:
                    continue
                if call.children[0].kind not in MOMENTS or call.fields.get("isDistinct"):
                    raise refused("PlanRowsOfPersons", f"{call.children[0].kind.upper()} shows values of single persons")
                for arg in call.children[0].children:
                    inner = arg.child if arg.kind == "Cast" else arg
                    shows = self._walk.shown(inner, columns)
                    flag = inner.kind == "AttributeReference" and columns[inner.id].flag
                    if not flag and any(self._walk.catalog.has_floor(name) for name, _ in shows):
                        terms.append((canonical.text(inner), call.children[0].kind))
        require_contributors(terms, groups.floors, min(person.share for person in persons))

    @staticmethod
    def _require_differences(count: Node, floors: Floors, canonical: Canonical) -> None:
        """Require a condition on the persons whom ``COUNT(DISTINCT CASE …)`` does not count."""
        texts = [canonical.text(part) for part in count.children if part.kind in ("CaseWhen", "If")]
        if not all(any(text in test for test in floors.differences) for text in texts):
            raise refused("PlanFloorMissing", "the persons whom a condition leaves out are not counted")

    def _require_no_overflow(self, call: Node, columns: Columns) -> None:
        """Refuse arithmetic with whole numbers that queries may not filter by: it fails if one of them is large."""
        for part in call.walk():
            types = {str(leaf.fields.get("dataType")) for leaf in part.walk() if leaf.kind in ("AttributeReference", "Cast", "Literal")}
            if part.kind in ("Add", "Subtract", "Multiply") and types <= {"integer", "long", "short", "byte"}:
                require_shown(self._walk.shown(part, columns), "arithmetic with whole numbers reads", self._walk.catalog)

    def _guards(self, node: Node, outer: Columns) -> tuple[list[Node], Node]:
        """The semi joins of an aggregate with the groups that it may show, and its rows without these joins."""
        if node.kind == "Filter" and node.child.kind != "Aggregate":
            guards, base = self._guards(node.child, outer)
            return guards, Node(node.kind, node.package, node.fields, [base]) if guards else node
        if is_generated_join(node):
            guards, base = self._guards(node.children[0], outer)
            return [*guards, node], base
        return [], node

    def _guarded(self, node: Node, having: Node | None, guards: Sequence[Node], base: Node, outer: Columns) -> Rows:
        rows = self._walk.settled(base, outer)
        self._walk.require_no_persons(rows.persons if rows.exploded else [], "an aggregate of exploded rows")
        canonical = Canonical()
        source = canonical.text(base)
        columns = {**outer, **rows.columns}
        keys = sorted(canonical.text(key) for key in node.expressions("groupingExpressions"))
        persons = list(rows.persons)
        overlap = bool(keys) and (rows.overlapping or rows.multiplied)
        calls = [item.child for item in node.expressions("aggregateExpressions") if item.kind == "Alias"]
        relations = {columns[id].relation for part in [*calls, *node.expressions("groupingExpressions")] for id in attributes(part)}
        overlap = overlap and (rows.overlapping or len(relations) > 1)
        for join in guards:
            parts = conjuncts(tree(join.fields["condition"]))
            if join_kind(join) == "LeftAnti":
                self._require_overlap(join.children[1], source, max(person.floor for person in rows.persons))
                overlap = False
                continue
            groups, reads = self._guard_groups(join.children[1], outer)
            other = Canonical()
            if other.text(groups.lower.child) != source:
                raise refused("PlanFloorMissing", "the groups of a release are those of other rows")
            pairs = {}
            for part in parts:
                if part.kind == "EqualNullSafe" and part.children[1].kind == "AttributeReference":
                    key = groups.keys.get(part.children[1].id)
                    if key is not None and other.text(key) == canonical.text(part.children[0]):
                        pairs[part.children[1].id] = canonical.text(part.children[0])
            if sorted(pairs.values()) != keys or len(groups.keys) != len(keys):
                raise refused("PlanFloorMissing", "a release is not joined with its groups by all of its keys")
            names = [person.view for person in self._uncovered(groups, reads)]
            persons = [person for person in persons if person.view in names]
            if join is guards[0]:
                self._require_terms(calls, columns, canonical, groups, rows.persons)
        if persons:
            raise refused("PlanFloorMissing", f"the persons of {persons[0].view} are not counted")
        if overlap:
            raise refused("PlanFloorMissing", "overlapping groups are not left out")
        for key in node.expressions("groupingExpressions"):
            require_shown(self._walk.shown(key, columns), "a group key shows", self._walk.catalog)
        found = {}
        for item in node.expressions("aggregateExpressions"):
            require_conditions(without_alias(item), columns, self._walk.subquery, self._walk.catalog)
            found[item.id] = Column(fresh(), self._released(without_alias(item), columns))
        if having is not None:
            self._require_having(having, {**outer, **found})
        return Rows(found)

    def _guard_groups(self, node: Node, outer: Columns) -> tuple[Groups, Rows]:
        while node.kind in ("SubqueryAlias", "Project"):
            node = node.child
        lower = self._walk.lower(node.child.child) if node.kind == "Filter" and node.child.kind == "Aggregate" else None
        if lower is None:
            raise refused("PlanFloorMissing", "a release is joined with something else than its groups")
        return groups_of(node, node.child, *lower), self._walk.settled(lower[0].child, outer)

    def completed(self, node: Node, outer: Columns) -> tuple[Rows, PartialRelease | None] | None:
        """A semi join of groups with those of another kind of person, or an anti join with overlapping groups."""
        if not is_generated_join(node):
            return None
        kind, right = join_kind(node), node.children[1]
        rows, release = self._walk.visit(node.children[0], outer)
        if release is None:
            raise refused("PlanFloorMissing", "groups are joined with the conditions of another release")
        compared = {
            part.children[0].id: part.children[1].id
            for part in conjuncts(tree(node.fields["condition"]))
            if part.kind == "EqualNullSafe" and all(child.kind == "AttributeReference" for child in part.children)
        }
        if not release.groups.keys.keys() <= compared.keys():
            raise refused("PlanFloorMissing", "groups are not joined with the conditions of their release by all keys")
        if kind == "LeftAnti":
            self._require_overlap(right, release.source, release.floor)
            return rows, self._remaining(replace(release, overlap=False))
        groups, reads = self._guard_groups(right, outer)
        first, second = Canonical(), Canonical()
        if first.text(release.groups.lower.child) != second.text(groups.lower.child):
            raise refused("PlanFloorMissing", "the groups of a release are those of other rows")
        for left, other in compared.items():
            key = groups.keys.get(other)
            if key is None or first.text(release.groups.keys[left]) != second.text(key):
                raise refused("PlanFloorMissing", "groups are joined with the conditions of other groups")
        names = {person.view for person in self._uncovered(groups, reads)}
        return rows, self._remaining(replace(release, persons=[one for one in release.persons if one.view in names]))

    @staticmethod
    def _remaining(release: PartialRelease) -> PartialRelease | None:
        return release if release.persons or release.overlap else None

    def _require_overlap(self, node: Node, source: str, floor: int) -> None:
        """Require that a subquery names every group that differs from another one by fewer than ``floor`` persons."""
        for part in node.walk():
            if part.children:
                continue
            lower = self._walk.lower(part) if part.kind == "CTERelationRef" else None
            if lower is None or Canonical().text(lower[0].child) != source:
                raise refused("PlanFloorMissing", "overlapping groups are computed from other rows than the release")
        filters = [part.expression("condition") for part in node.walk() if part.kind == "Filter"]
        if len(filters) != 2 or not compares_groups(filters[0], filters[1], floor):
            raise refused("PlanFloorMissing", "the condition on overlapping groups is not that of the floor")


def _groups_by_persons(node: Node, outer: Columns, source: Rows, lower: tuple[Node, Mapping[int, int]]) -> bool:
    """Whether an aggregate over an aggregate keeps persons apart. It then releases nothing."""
    aggregate, names = lower
    outputs = {item.id: unchanged(without_alias(item)) for item in aggregate.expressions("aggregateExpressions")}
    columns = {**outer, **source.columns}
    values = set()
    for item in node.expressions("groupingExpressions"):
        inner = outputs.get(names.get(item.id, -1)) if item.kind == "AttributeReference" else None
        if inner is not None and inner.kind == "AttributeReference" and inner.id in columns:
            values.add(columns[inner.id].value)
    return all(person.all_ids & values for person in source.persons)
