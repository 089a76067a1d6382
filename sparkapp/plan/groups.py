"""Aggregates: rows per person, and the groups of persons that a plan may show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.comparisons import plain, unchanged
from sparkapp.plan.conditions import conjuncts, without_alias
from sparkapp.plan.expressions import Columns, combines, is_stored, require_conditions, require_shown
from sparkapp.plan.overlap import OverlappingGroups
from sparkapp.plan.release import Groups, Release, counted_test, groups_of, require_floors, require_merges, require_no_failures
from sparkapp.plan.rows import NOTHING, Column, InputColumn, Person, Rows, fresh
from sparkapp.plan.terms import Terms
from sparkapp.plan.tree import Node, join_kind, refused
from sparkapp.plan.walking import Lower, Walk


class Aggregates:
    """The aggregates of one plan."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._texts: dict[str, str] = {}  # of the release of each view

    def aggregate(self, node: Node, having: Node | None, outer: Columns) -> tuple[Rows, Release | None]:
        """The rows of an aggregate and of the conditions above it, and its release."""
        lower = self._walk.lower(node.child)
        if having is not None and lower is not None:
            source = self._walk.settled(lower.aggregate.child, outer)
            if source.persons and not _groups_by_persons(node, outer, source, lower):
                return self._release(having, node, lower, source, outer)
        rows = self._walk.settled(node.child, outer)
        self._walk.require_no_persons(rows.persons if rows.exploded else [], "an aggregate of exploded rows")
        columns = {**outer, **rows.columns}
        keys = [unchanged(item) for item in node.expressions("groupingExpressions")]
        values = {columns[item.id].value for item in keys if item.kind == "AttributeReference" and item.id in columns}
        if not all(person.all_ids & values for person in rows.persons):
            raise refused("PlanFloorMissing", f"rows of {rows.persons[0].view} are aggregated without the conditions of its floor")
        for item in node.expressions("groupingExpressions"):
            key = unchanged(item)  # how many rows a person has tells computed values
            if not (rows.persons and is_stored(key, columns) and all(columns[id].countable for id in plain(key) if id in columns)):
                require_conditions(item, columns, self._walk.subquery, self._walk.catalog, all_of_it=True)
        out = self._grouped(node, rows, columns)
        out.persons = [person._replace(ids=person.all_ids & values, found=frozenset()) for person in rows.persons]
        if len(keys) == 1:
            out.overlapping = out.repeats = out.chooses = False
            out.columns = {id: replace(column, mixed=0) for id, column in out.columns.items()}
        if having is not None:
            condition, columns = having.expression("condition"), {**outer, **out.columns}
            require_conditions(condition, columns, self._walk.subquery, self._walk.catalog, all_of_it=True)
            several = bool(out.persons) and len(keys) > 1
            out.chooses = out.chooses or (several and any(combines(part, columns, self._walk.catalog) for part in conjuncts(condition)))
        return out, None

    def _grouped(self, node: Node, rows: Rows, columns: Columns) -> Rows:
        found = {item.id: self._walk.column(item, columns) for item in node.expressions("aggregateExpressions")}
        if rows.repeats or rows.multiplied:
            found = {id: replace(column, step=column.step and f"{column.step} of repeated rows") for id, column in found.items()}
        keys = {Canonical.shared(key) for key in node.expressions("groupingExpressions")}
        unique = frozenset(
            found[item.id].value for item in node.expressions("aggregateExpressions") if Canonical.shared(without_alias(item)) in keys
        )
        complete = len(unique) == len(keys)
        return replace(rows.ended(), columns=found, unique=[unique] if complete else [])

    def _release(self, having: Node, node: Node, lower: Lower, source: Rows, outer: Columns) -> tuple[Rows, Release]:
        groups = groups_of(having, node, *lower)
        columns = {**outer, **source.columns}
        uncovered = self._uncovered(groups, source)
        require_merges(groups)
        calls = [call for value in groups.released() for call in value.walk() if call.kind == "AggregateExpression"]
        if source.exploded and any(call.children[0].kind != "Count" for call in calls):
            raise refused("PlanRowsOfPersons", "an aggregate reads rows of persons that EXPLODE repeats")
        merged = [part for value in groups.released() for part in groups.merged(value)]
        for part in merged:
            require_conditions(part, columns, self._walk.subquery, self._walk.catalog)
        terms = Terms(self._walk, source, columns, groups.canonical)
        calls_of_persons = [part for part in merged if part.kind == "AggregateExpression" and part.children[0].kind != "BoolOr"]
        terms.read(calls_of_persons)
        require_no_failures(groups.released())
        for call in calls:
            if call.children[0].kind == "Count":
                terms.read_persons(counted_test(call, groups))
        terms.require(groups.floors)
        terms.require_counted(groups.floors)
        keys = [groups.inputs[item.id] for item in node.expressions("groupingExpressions")]
        for key in keys:
            require_shown(self._walk.shown(key, columns), "a group key shows", self._walk.catalog)
        terms.require_no_choice(keys)
        reads = {id: Column(fresh(), self._released(part, columns)) for id, part in groups.inputs.items()}
        found = {item.id: Column(fresh(), self._walk.shown(without_alias(item), reads)) for item in groups.outputs()}
        unique = [frozenset(found[id].value for id in groups.keys)] if len(groups.keys) == len(keys) else []
        compared = self._compared(groups, source, source)
        self._require_one_release(having, source.persons, outer)
        return Rows(found, unique=unique), Release(groups, source, uncovered, compared, terms)

    def _require_one_release(self, having: Node, persons: Iterable[Person], outer: Columns) -> None:
        """Refuse a second release of a view, and one for each row around it: differences of both could show few persons."""
        if outer and not outer.keys().isdisjoint(having.outer_reads()):
            raise refused("PlanRowsOfPersons", "groups of persons depend on the rows around them")
        text = Canonical().text(having)
        for person in persons:
            if self._texts.setdefault(person.view, text) != text:
                raise refused("PlanRowsOfPersons", f"the result combines two aggregations of {person.view}")

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
        """Input columns whose values an expression over the groups shows: aggregates of several persons show none."""
        if node.kind == "AggregateExpression":
            shows = self._walk.shown(node, columns, persons=True)
            return frozenset([(name, column) for name, column in shows if not self._walk.catalog.has_floor(name)])
        if all(part.kind != "AggregateExpression" for part in node.walk()):
            return self._walk.shown(node, columns)
        return NOTHING.union(*(self._released(child, columns) for child in node.children))

    def _other_groups(self, node: Node, outer: Columns) -> tuple[Groups, Rows]:
        while node.kind in ("SubqueryAlias", "Project"):
            node = node.child
        lower = self._walk.lower(node.child.child) if node.kind == "Filter" and node.child.kind == "Aggregate" else None
        if lower is None:
            raise refused("PlanFloorMissing", "a release is joined with something else than its groups")
        return groups_of(node, node.child, *lower), self._walk.settled(lower.aggregate.child, outer)

    def completed(self, node: Node, outer: Columns) -> tuple[Rows, Release]:
        """A join of groups with those of another kind of person, or with overlapping groups."""
        how, right = join_kind(node), node.children[1]
        rows, release = self._walk.visit(node.children[0], outer)
        if release is None:
            raise refused("PlanFloorMissing", "groups are joined with the conditions of another release")
        texts = release.groups.key_texts()
        if how == "LeftAnti":
            overlap = OverlappingGroups(self._walk, release.groups.source, set(texts.values()), release.floor)
            found = overlap.columns(right)
            by = frozenset(overlap.values if release.values is None else overlap.values & release.values)
            release = replace(release, compared=release.compared - {overlap.person}, values=by)
            self._require_compared(release, (release.groups.canonical.text(part) for part in release.groups.sums()))
        else:
            groups, reads = self._other_groups(right, outer)
            found = groups.key_texts()
            self._require_same(groups.source, release)
            names = {person.view for person in self._uncovered(groups, reads)}
            if names < {person.view for person in reads.persons}:  # otherwise persons of a union
                release.terms.require(groups.floors)
            release = replace(
                release,
                persons=[one for one in release.persons if one.view in names],
                compared=release.compared | self._compared(groups, reads, release.source),
            )
        conditions = [part for part in conjuncts(node.expression("condition")) if part.kind != "Literal"]
        pairs = [[child.id for child in part.children if child.kind == "AttributeReference"] for part in conditions]
        same = all(len(pair) == 2 and texts.get(pair[0], "") == found.get(pair[1]) for pair in pairs)
        if not same or len({pair[0] for pair in pairs}) != len(texts) or any(part.kind != "EqualNullSafe" for part in conditions):
            raise refused("PlanFloorMissing", "groups are not joined with the conditions of their release by all keys")
        return rows, release

    @staticmethod
    def _require_compared(release: Release, texts: Iterable[str]) -> None:
        """Require that groups which may share persons are compared by each of some aggregates."""
        if release.values is not None and not release.values.issuperset(texts):
            raise refused("PlanFloorMissing", "groups that may share persons are not compared by what they show of them")

    @staticmethod
    def _require_same(source: str, release: Release) -> None:
        if source != release.groups.source:
            raise refused("PlanFloorMissing", "the groups of a release are those of other rows")


def _one_group(groups: Groups, reads: Rows) -> bool:
    """Whether each person is in one group, because the keys read only columns that the person's identity decides."""
    parts = [part for key in groups.keys.values() for part in key.walk()]
    if groups.person.kind != "AttributeReference" or any(part.kind == "OuterReference" or "plan" in part.fields for part in parts):
        return False
    values = {id: column.value for id, column in reads.columns.items()}
    read = {values.get(part.id, 0) for part in parts if part.kind == "AttributeReference"}
    return read <= reads.decided_by(values[groups.person.id])


def _groups_by_persons(node: Node, outer: Columns, source: Rows, lower: Lower) -> bool:
    """Whether an aggregate over an aggregate keeps persons apart. It then releases nothing."""
    aggregate, names, _ = lower
    outputs = {item.id: unchanged(without_alias(item)) for item in aggregate.expressions("aggregateExpressions")}
    columns = {**outer, **source.columns}
    values = set()
    for item in node.expressions("groupingExpressions"):
        inner = outputs.get(names.get(item.id, -1)) if item.kind == "AttributeReference" else None
        if inner is not None and inner.kind == "AttributeReference" and inner.id in columns:
            values.add(columns[inner.id].value)
    return all(person.all_ids & values for person in source.persons)
