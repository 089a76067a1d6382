"""Aggregates: rows per person, and the groups of persons that a plan may show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.comparisons import attributes, plain, unchanged
from sparkapp.plan.conditions import conjuncts, number_of, row_test, without_alias
from sparkapp.plan.expressions import EXTREMES, Columns, require_conditions, require_shown
from sparkapp.plan.overlap import OverlappingGroups
from sparkapp.plan.release import Groups, PartialRelease, counted_test, groups_of, require_floors, require_merges
from sparkapp.plan.rows import NOTHING, Column, InputColumn, Person, Rows, fresh
from sparkapp.plan.terms import Terms
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
        calls = [call for value in groups.released() for call in value.walk() if call.kind == "AggregateExpression"]
        if source.exploded and any(call.children[0].kind != "Count" for call in calls):
            raise refused("PlanRowsOfPersons", "an aggregate reads rows of persons that EXPLODE repeats")
        merged = [part for value in groups.released() for part in groups.merged(value)]
        terms = Terms(self._walk, source, columns, groups.canonical)
        calls_of_persons = [part for part in merged if part.kind == "AggregateExpression" and part.children[0].kind != "BoolOr"]
        terms.read(calls_of_persons, merged=True)
        for call in calls:
            if call.children[0].kind == "Count":
                test = counted_test(call, groups)
                terms.read_persons(row_test(test, groups.canonical) if test is not None else None, _counted(groups, source))
        terms.require(groups.floors)
        terms.require_counted([(groups, _counted(groups, source))])
        keys = [groups.inputs[item.id] for item in node.expressions("groupingExpressions")]
        for key in keys:
            require_shown(self._walk.shown(key, columns), "a group key shows", self._walk.catalog)
        for part in merged:
            require_conditions(part, columns, self._walk.subquery, self._walk.catalog)
        reads = {id: Column(fresh(), self._released(part, columns)) for id, part in groups.inputs.items()}
        found = {item.id: Column(fresh(), self._walk.shown(without_alias(item), reads)) for item in groups.outputs()}
        unique = [frozenset(found[id].value for id in groups.keys)] if len(groups.keys) == len(keys) else []
        compared = self._compared(groups, source, source)
        return Rows(found, unique=unique), self._remaining(PartialRelease(groups, source, uncovered, compared))

    @staticmethod
    def _compared(groups: Groups, reads: Rows, source: Rows) -> frozenset[str]:
        """The identity by which the groups must be compared, because its persons may be in several of them with the same data.

        Args:
            groups: The groups.
            reads: Their rows.
            source: The rows of the release.
        """
        floor = max(person.floor for person in source.persons)
        if not groups.keys or floor < 2 or not (source.overlapping or source.multiplied) or _one_group(groups, reads):
            return frozenset()
        return frozenset([groups.canonical.text(groups.person)])

    @staticmethod
    def _uncovered(groups: Groups, source: Rows) -> list[Person]:
        """The persons of the rows whom the conditions of the groups do not count."""
        parts = [groups.person] if groups.person.kind == "AttributeReference" else groups.person.children
        plain = groups.person.kind in ("AttributeReference", "Coalesce") and all(part.kind == "AttributeReference" for part in parts)
        values = {id: column.value for id, column in source.columns.items()}
        identities = {column.value for column in source.columns.values() if column.identity}
        identities.update(*(person.all_ids for person in source.persons))
        if not plain or not all(values.get(part.id) in identities for part in parts):
            raise refused("PlanFloorMissing", "a release counts something else than identities")
        return require_floors(groups.floors, source.persons, frozenset(values[part.id] for part in parts), values)

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
        keys = node.expressions("groupingExpressions")
        texts = {canonical.text(key) for key in keys}
        persons = list(rows.persons)
        calls = [item.child for item in node.expressions("aggregateExpressions") if item.kind == "Alias"]
        compared: frozenset[str] = frozenset()
        releases: list[tuple[Groups, frozenset[int]]] = []
        terms = Terms(self._walk, rows, columns, canonical)
        terms.read(calls)
        for join in guards:
            if join_kind(join) == "LeftAnti":
                overlap = OverlappingGroups(self._walk, source, texts, max(person.floor for person in rows.persons))
                found = overlap.columns(join.children[1])
                compared -= {overlap.person}
            else:
                groups, reads = self._guard_groups(join.children[1], outer)
                found = groups.key_texts()
                if groups.source != source:
                    raise refused("PlanFloorMissing", "the groups of a release are those of other rows")
                releases.append((groups, _counted(groups, reads)))
                names = [person.view for person in self._uncovered(groups, reads)]
                persons = [person for person in persons if person.view in names]
                compared |= self._compared(groups, reads, rows)
            pairs = {
                part.children[1].id: canonical.text(part.children[0])
                for part in conjuncts(tree(join.fields["condition"]))
                if part.kind == "EqualNullSafe" and part.children[1].kind == "AttributeReference"
            }
            if {id: text for id, text in found.items() if pairs.get(id) == text} != found or set(found.values()) != texts:
                raise refused("PlanFloorMissing", "a release is not joined with its groups by all of its keys")
        terms.require(releases[0][0].floors)
        terms.require_counted(releases)
        self._require_values(node, having, canonical, columns, releases[0][0].floors.persons)
        if persons:
            raise refused("PlanFloorMissing", f"the persons of {persons[0].view} are not counted")
        if compared:
            raise refused("PlanFloorMissing", "overlapping groups are not left out")
        for key in keys:
            require_shown(self._walk.shown(key, columns), "a group key shows", self._walk.catalog)
        out = {}
        for item in node.expressions("aggregateExpressions"):
            require_conditions(without_alias(item), columns, self._walk.subquery, self._walk.catalog)
            out[item.id] = Column(fresh(), self._released(without_alias(item), columns))
        if having is not None:
            self._require_having(having, {**outer, **out})
        return Rows(out)

    @staticmethod
    def _require_values(node: Node, having: Node | None, canonical: Canonical, columns: Columns, floor: int) -> None:
        """Require that HAVING demands enough different values where the aggregates count them."""
        counts = [part for item in node.expressions("aggregateExpressions") for part in item.walk() if part.kind == "AggregateExpression"]
        counts = [part for part in counts if part.fields.get("isDistinct") or part.children[0].kind == "HyperLogLogPlusPlus"]
        found = {
            canonical.text(part)
            for part in counts
            if not any(columns[id].identity for arg in part.children[0].children for id in attributes(arg) if id in columns)
        }
        outputs = {item.id: canonical.text(item.child) for item in node.expressions("aggregateExpressions") if item.kind == "Alias"}
        for part in conjuncts(having.expression("condition")) if having is not None else ():
            if part.kind == "GreaterThanOrEqual" and (number_of(part.children[1]) or 0) >= floor:
                found -= {outputs.get(id, "") for id in plain(part.children[0])}
        if found:
            raise refused("PlanFloorMissing", "groups with few different values are not left out")

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
        source, texts = release.groups.source, release.groups.key_texts()
        if kind == "LeftAnti":
            overlap = OverlappingGroups(self._walk, source, set(texts.values()), release.floor)
            found = overlap.columns(right)
            release = replace(release, compared=release.compared - {overlap.person})
        else:
            groups, reads = self._guard_groups(right, outer)
            found = groups.key_texts()
            if groups.source != source:
                raise refused("PlanFloorMissing", "the groups of a release are those of other rows")
            names = {person.view for person in self._uncovered(groups, reads)}
            release = replace(
                release,
                persons=[one for one in release.persons if one.view in names],
                compared=release.compared | self._compared(groups, reads, release.source),
            )
        if {text for id, text in texts.items() if found.get(compared.get(id, -1)) == text} != set(texts.values()):
            raise refused("PlanFloorMissing", "groups are not joined with the conditions of their release by all keys")
        return rows, self._remaining(release)

    @staticmethod
    def _remaining(release: PartialRelease) -> PartialRelease | None:
        return release if release.persons or release.compared else None


def _counted(groups: Groups, reads: Rows) -> frozenset[int]:
    """Numbers of the attributes that are the identity which the groups count, in the rows about its persons."""
    values = {reads.columns[part.id].value for part in groups.person.walk() if part.kind == "AttributeReference"}
    same = values.union(*(person.all_ids for person in reads.persons if person.all_ids & values))
    return frozenset(groups.canonical.number(id) for id, column in reads.columns.items() if column.value in same)


def _one_group(groups: Groups, reads: Rows) -> bool:
    """Whether each person is in one group, because the keys read only columns that the person's identity decides."""
    parts = [part for key in groups.keys.values() for part in key.walk()]
    if groups.person.kind != "AttributeReference" or any(part.kind == "OuterReference" or "plan" in part.fields for part in parts):
        return False
    values = {id: column.value for id, column in reads.columns.items()}
    read = {values.get(part.id, 0) for part in parts if part.kind == "AttributeReference"}
    return read <= reads.decided_by(values[groups.person.id])


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
