"""The walk over a plan: from the registered views to the result, operator by operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cleanroom.sql.catalog import Catalog
from sparkapp.plan.canonical import Canonical
from sparkapp.plan.expressions import EXTREMES, MOMENTS, Columns, is_flag, require_conditions, require_shown, shown
from sparkapp.plan.joins import From, Pair
from sparkapp.plan.release import Groups, conjuncts, groups_of, require_contributors, require_floors, without_alias
from sparkapp.plan.rows import NOTHING, Column, Person, Rows, fresh
from sparkapp.plan.tree import Node, refused, tree
from sparkapp.plan.vocabulary import view_name

_NORMALISING = frozenset({"Lower", "Upper", "StringTrim", "Md5", "Sha1", "Sha2", "Hex", "Cast", "Encode"})
_COMPARED_AS_LONG = frozenset({"integer", "long"})


@dataclass
class _Release:
    """Groups whose conditions do not cover everything yet: joins with other groups follow."""

    groups: Groups
    source: str
    persons: list[Person]
    overlap: bool


class PlanWalk:
    """The walk over the plan of one statement.

    Args:
        catalog: The registered views.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tables: dict[str, Node] = {}
        self._table_rows: dict[str, tuple[Rows, list[int]]] = {}
        self._numbers = itertools.count(1)

    def result(self, plan: Node) -> None:
        """Check a plan and the columns of its result.

        Raises:
            Refused: The first rule that the plan breaks.
        """
        rows = self._settled(plan, {})
        if rows.persons:
            raise refused("PlanRowsOfPersons", f"the result contains rows of {rows.persons[0].view}, which are under a privacy floor")
        for column in rows.columns.values():
            require_shown(column.shows, "the result shows", self._catalog)

    # -- operators ----------------------------------------------------------------------------------------------------

    def _settled(self, node: Node, outer: Columns) -> Rows:
        """The rows of an operator that are complete: no condition of a release is missing."""
        rows, release = self._visit(node, outer)
        if release is not None:
            what = "overlapping groups are not left out" if release.overlap and not release.persons else "a kind of person is not counted"
            raise refused("PlanFloorMissing", f"a release is not complete: {what}")
        return rows

    def _visit(self, node: Node, outer: Columns) -> tuple[Rows, _Release | None]:
        if node.kind == "SubqueryAlias":
            rows, release = self._visit(node.child, outer)
            return rows.ended(), release
        if node.kind == "Project":
            return self._project(node, outer)
        if node.kind == "Filter" and node.child.kind == "Aggregate":
            return self._aggregate(node.child, node, outer)
        if node.kind == "Aggregate":
            return self._aggregate(node, None, outer)
        if node.kind in ("Filter", "Join"):
            completed = self._completed(node, outer)
            return (self._from(node, outer), None) if completed is None else completed
        return self._operator(node, outer), None

    def _operator(self, node: Node, outer: Columns) -> Rows:
        kind = node.kind
        if kind == "View":
            return self._view(node, outer)
        if kind == "WithCTE":
            for index in node.fields["cteDefs"]:
                definition = node.children[index]
                self._tables[str(definition.fields["id"])] = definition.child
            return self._settled(node.children[node.fields["plan"]], outer)
        if kind == "CTERelationRef":
            return self._table(node)
        if kind == "Union":
            return self._union(node, outer)
        if kind == "OneRowRelation":
            return Rows()
        if kind == "LocalRelation":  # constants of the text; views contain theirs
            return Rows({item.id: Column(item.id) for item in node.expressions("output")})
        if kind in ("Window", "Sort", "Distinct", "Generate", "Expand", "GlobalLimit", "LocalLimit", "Offset"):
            return self._unary(node, self._settled(node.child, outer), outer)
        if kind in ("Except", "Intersect"):
            left, right = (self._settled(child, outer) for child in node.children)
            self._require_no_persons([*left.persons, *right.persons], f"a set operation ({kind})")
            return self._positional([left, right], list(left.columns))
        raise refused("PlanLeafUnknown", f"it reads {kind}, which is no registered view")

    def _unary(self, node: Node, rows: Rows, outer: Columns) -> Rows:
        kind, columns = node.kind, {**outer, **rows.columns}
        if kind == "Sort":
            return rows
        if kind == "Window":
            return self._window(node, rows, columns)
        if kind == "Distinct":
            values = {column.value for column in rows.columns.values()}
            if not all(person.all_ids & values for person in rows.persons):
                raise refused("PlanRowsOfPersons", "DISTINCT removes rows of different persons")
            return replace(rows, unique=[*rows.unique, frozenset(values)])
        self._require_no_persons(rows.persons, f"an operator ({kind})")
        if kind == "Generate":
            shows = self._shown(node.expression("generator"), columns)
            return Rows({**rows.columns, **{item.id: Column(item.id, shows) for item in node.expressions("generatorOutput")}})
        if kind == "Expand":
            projections = [[tree(item) for item in row] for row in node.fields["projections"]]
            output = node.expressions("output")
            return Rows(
                {
                    item.id: Column(fresh(), NOTHING.union(*(self._shown(row[index], columns) for row in projections)))
                    for index, item in enumerate(output)
                }
            )
        return rows

    def _view(self, node: Node, outer: Columns) -> Rows:
        name = view_name(node)
        view = self._catalog.view(name)
        if view is None:
            return self._settled(node.child, outer).ended()
        known = {column.name.lower() for column in view.visible()} | set(view.identity_columns)
        columns, persons = {}, []
        for item in node.child.expressions("output"):
            column = item.name.lower()
            if column not in known:
                raise refused("PlanLeafUnknown", f"the view {name} has the column {column}, which queries may not read")
            identity = view.min_group_size > 0 and column in view.identity_columns
            columns[item.id] = Column(item.id, frozenset([(name, column)]), identity)
            if identity:
                persons.append(Person(name, view.min_group_size, view.max_share_percent, frozenset([item.id])))
        if view.min_group_size and len(persons) != len(view.identity_columns):
            raise refused("PlanLeafUnknown", f"the view {name} lacks an identity that its floor counts")
        return Rows(columns, persons)

    def _table(self, node: Node) -> Rows:
        key = str(node.fields["cteId"])
        if key not in self._table_rows:
            if key not in self._tables:
                raise refused("PlanUnreadable", "a common table expression is missing")
            rows = self._settled(self._tables[key], {}).ended()
            self._table_rows[key] = rows, list(rows.columns)
        return self._table_rows[key][0].renumbered([item.id for item in node.expressions("output")])

    def _project(self, node: Node, outer: Columns) -> tuple[Rows, _Release | None]:
        rows, release = self._visit(node.child, outer)
        items = node.expressions("projectList")
        if release is not None and any(without_alias(item).kind != "AttributeReference" for item in items):
            raise refused("PlanFloorMissing", "an expression reads groups whose conditions are not complete")
        columns = {**outer, **rows.columns}
        return rows.with_columns({item.id: self._column(item, columns) for item in items}), release

    def _window(self, node: Node, rows: Rows, columns: Columns) -> Rows:
        partition = {columns[id].value for item in node.expressions("partitionSpec") for id in _plain(item)}
        if not all(person.all_ids & partition for person in rows.persons):
            raise refused("PlanRowsOfPersons", "a window reads rows of several persons")
        found = dict(rows.columns)
        for item in node.expressions("windowExpressions"):
            call = item.child.children[0] if item.child.kind == "WindowExpression" else item.child
            counts = None
            if call.kind == "AggregateExpression" and call.children[0].kind == "Count" and len(call.children) == 1 and not _ordered(node):
                counts = frozenset(partition) if call.children[0].child.kind == "Literal" else None
            found[item.id] = Column(item.id, self._shown(item.child, columns), counts=counts)
        return rows.with_columns(found)

    def _union(self, node: Node, outer: Columns) -> Rows:
        parts = [self._settled(child, outer) for child in node.children]
        ids = list(parts[0].columns)
        rows = self._positional(parts, ids)
        for part in parts:
            names: dict[int, list[int]] = {}
            for id, column in zip(ids, part.columns.values(), strict=True):
                names.setdefault(column.value, []).append(rows.columns[id].value)
            rows.persons += [person.renamed(names) for person in part.persons]
        views = [person.view for part in parts for person in dict.fromkeys(part.persons)]
        if any(views.count(view) > 1 for part in parts for view in {person.view for person in part.persons} if self._shared(parts, view)):
            raise refused("PlanRowsOfPersons", "a union contains rows of a view twice")
        return rows

    @staticmethod
    def _shared(parts: Sequence[Rows], view: str) -> bool:
        return sum(any(person.view == view for person in part.persons) for part in parts) > 1

    @staticmethod
    def _positional(parts: Sequence[Rows], ids: Sequence[int]) -> Rows:
        columns = {}
        for id, group in zip(ids, zip(*(part.columns.values() for part in parts), strict=True), strict=True):
            identity = any(column.identity for column in group)
            columns[id] = Column(
                fresh(), NOTHING.union(*(column.shows for column in group)), identity, all(column.flag for column in group)
            )
        return Rows(columns, overlapping=any(part.overlapping or part.multiplied for part in parts))

    @staticmethod
    def _require_no_persons(persons: Sequence[Person], what: str) -> None:
        if persons:
            raise refused("PlanRowsOfPersons", f"{what} reads rows of {persons[0].view}, which are under a privacy floor")

    # -- expressions --------------------------------------------------------------------------------------------------

    def _column(self, item: Node, columns: Columns, *, persons: bool = False) -> Column:
        """The column that an output expression computes."""
        inner = _unchanged(without_alias(item))
        if inner.kind == "AttributeReference":
            if inner.id not in columns:
                raise refused("PlanUnreadable", f"an expression reads the unknown attribute {inner.name!r}")
            return columns[inner.id]
        require_conditions(inner, columns, self._subquery, self._catalog)
        base = _normalised(inner)
        identity = base is not None and base in columns and columns[base].identity
        return Column(fresh(), self._shown(inner, columns, persons=persons), identity, is_flag(inner, columns))

    def _shown(self, node: Node, columns: Columns, *, persons: bool = False) -> frozenset[tuple[str, str]]:
        return shown(node, columns, self._subquery, persons=persons)

    def _subquery(self, plan: Node, outer: Columns) -> Rows:
        """Rows of a subquery in an expression."""
        rows = self._settled(plan, outer)
        self._require_no_persons(rows.persons, "a subquery in an expression")
        return rows

    # -- FROM and WHERE -----------------------------------------------------------------------------------------------

    def _from(self, node: Node, outer: Columns) -> Rows:
        relations: dict[int, Rows] = {}
        pairs: list[Pair] = []
        conditions: list[tuple[Node, frozenset[int] | None]] = []
        semi: list[tuple[Rows, Node]] = []
        self._collect(node, outer, relations, conditions, semi)
        columns = {**outer, **{id: column for rows in relations.values() for id, column in rows.columns.items()}}
        added: list[Person] = []
        unique: list[frozenset[int]] = []
        for condition, restricts in conditions:
            if restricts is None and condition.kind in ("InSubquery", "Exists"):
                added += self._membership(condition, columns)
                continue
            require_conditions(condition, columns, self._subquery, self._catalog, all_of_it=True)
            pair = _pair(condition, columns, restricts)
            if pair is not None:
                pairs.append(pair)
            unique += [counts for counts in _counts_one(condition, columns) if len(relations) == 1]
        for rows, condition in semi:
            added += self._semi_persons(rows, condition, columns)
        if added:
            first = next(iter(relations))
            relations[first] = replace(relations[first], persons=[*relations[first].persons, *added])
        out = From(relations, pairs).rows()
        return replace(out, unique=[*out.unique, *unique])

    def _collect(
        self,
        node: Node,
        outer: Columns,
        relations: dict[int, Rows],
        conditions: list[tuple[Node, frozenset[int] | None]],
        semi: list[tuple[Rows, Node]],
    ) -> frozenset[int]:
        """Fill in the relations and conditions below a node, and return the numbers of its relations."""
        if node.kind == "Filter" and node.child.kind != "Aggregate":
            numbers = self._collect(node.child, outer, relations, conditions, semi)
            conditions += [(part, None) for part in conjuncts(node.expression("condition"))]
            return numbers
        if node.kind != "Join":
            number = next(self._numbers)
            rows = self._settled(node, outer)
            relations[number] = rows.with_columns({id: replace(column, relation=number) for id, column in rows.columns.items()})
            return frozenset([number])
        kind = str(node.fields["joinType"].get("object")).rpartition(".")[2].rstrip("$")
        parts = conjuncts(tree(node.fields["condition"])) if node.fields.get("condition") else []
        left = self._collect(node.children[0], outer, relations, conditions, semi)
        if kind in ("LeftSemi", "LeftAnti"):
            rows = self._settled(node.children[1], outer)
            if kind == "LeftAnti":
                self._require_no_persons(rows.persons, "LEFT ANTI JOIN")
            here = {id: column for number in left for id, column in relations[number].columns.items()}
            for part in parts:
                require_conditions(part, {**outer, **here, **rows.columns}, self._subquery, self._catalog, all_of_it=True)
                if kind == "LeftSemi":
                    semi.append((rows, part))
            if kind == "LeftSemi" and not parts and rows.persons:
                raise refused("PlanJoinNotAllowed", "a semi join with persons compares no identity")
            return left
        right = self._collect(node.children[1], outer, relations, conditions, semi)
        optional = {"Inner": None, "Cross": None, "LeftOuter": right, "RightOuter": left}
        if kind not in optional:
            persons = [person for number in left | right for person in relations[number].persons]
            self._require_no_persons(persons, f"a join ({kind})")
            return left | right
        conditions += [(part, optional[kind]) for part in parts]
        return left | right

    def _semi_persons(self, rows: Rows, condition: Node, columns: Columns) -> list[Person]:
        """Persons of the right side of a semi join, in terms of the left side."""
        pair = _pair(condition, {**columns, **rows.columns}, None)
        values = {column.value for column in rows.columns.values()}
        persons = []
        for person in rows.persons:
            if pair is None or pair.how != "same" or not person.all_ids & {pair.first, pair.second}:
                raise refused("PlanJoinNotAllowed", "a semi join with persons does not compare their identity")
            (other,) = {pair.first, pair.second} - values
            persons.append(person._replace(ids=frozenset([other]), found=frozenset()))
        return persons

    def _membership(self, condition: Node, columns: Columns) -> list[Person]:
        """Persons of ``column IN (SELECT identity …)`` and of EXISTS with an equality, in terms of the rows around it."""
        inner = condition.children[-1] if condition.kind == "InSubquery" else condition
        rows = self._settled(tree(inner.fields["plan"]), columns)
        if not rows.persons:
            require_conditions(condition, columns, self._subquery, self._catalog, all_of_it=True)
            return []
        persons = []
        first = next(iter(rows.columns.values()), None)
        for person in rows.persons:
            if condition.kind == "InSubquery":
                outer = condition.children[0]
                found = first is not None and first.value in person.all_ids and outer.kind == "AttributeReference"
                value = columns[outer.id].value if found else None
            else:
                own = {column.value for column in columns.values()}
                value = next((id for id in person.all_ids if id in own), None)
            if value is None:
                raise refused("PlanJoinNotAllowed", f"rows of {person.view} are compared by another column than their identity")
            persons.append(person._replace(ids=frozenset([value]), found=frozenset()))
        return persons

    # -- aggregates and releases --------------------------------------------------------------------------------------

    def _aggregate(self, node: Node, having: Node | None, outer: Columns) -> tuple[Rows, _Release | None]:
        lower = self._lower(node.child)
        if having is not None and lower is not None:
            source = self._settled(lower[0].child, outer)
            if source.persons and not _groups_by_persons(node, outer, source, lower):
                return self._release(having, node, lower, source, outer)
        guards, base = self._guards(node.child, outer)
        if guards:
            return self._guarded(node, having, guards, base, outer), None
        rows = self._settled(node.child, outer)
        columns = {**outer, **rows.columns}
        keys = [_unchanged(item) for item in node.expressions("groupingExpressions")]
        values = {columns[item.id].value for item in keys if item.kind == "AttributeReference" and item.id in columns}
        if not all(person.all_ids & values for person in rows.persons):
            raise refused("PlanFloorMissing", f"rows of {rows.persons[0].view} are aggregated without the conditions of its floor")
        out = self._grouped(node, rows, columns, persons=False)
        out.persons = [person._replace(ids=person.all_ids & values, found=frozenset()) for person in rows.persons]
        if len(keys) == 1:
            out.overlapping = out.multiplied = False
        if having is not None:
            require_conditions(having.expression("condition"), {**outer, **out.columns}, self._subquery, self._catalog, all_of_it=True)
        return out, None

    def _grouped(self, node: Node, rows: Rows, columns: Columns, *, persons: bool) -> Rows:
        found = {item.id: self._column(item, columns, persons=persons) for item in node.expressions("aggregateExpressions")}
        keys = {Canonical.shared(key) for key in node.expressions("groupingExpressions")}
        unique = frozenset(
            found[item.id].value for item in node.expressions("aggregateExpressions") if Canonical.shared(without_alias(item)) in keys
        )
        complete = len(unique) == len(keys)
        return replace(rows.ended(), columns=found, unique=[unique] if complete else [])

    def _lower(self, node: Node) -> tuple[Node, dict[int, int]] | None:
        """The aggregate below another one, and the output of it that each attribute is."""
        names: dict[int, int] | None = None
        while node.kind == "SubqueryAlias" or node.kind == "CTERelationRef":
            if node.kind == "SubqueryAlias":
                node = node.child
                continue
            table = self._tables.get(str(node.fields["cteId"]))
            if names is not None or table is None:
                return None
            ids = [item.id for item in node.expressions("output")]
            while table.kind == "SubqueryAlias":
                table = table.child
            if table.kind != "Aggregate":
                return None
            outputs = [item.id for item in table.expressions("aggregateExpressions")]
            names, node = dict(zip(ids, outputs, strict=True)), table
        if node.kind != "Aggregate":
            return None
        return node, names or {item.id: item.id for item in node.expressions("aggregateExpressions")}

    def _release(
        self, having: Node, node: Node, lower: tuple[Node, dict[int, int]], source: Rows, outer: Columns
    ) -> tuple[Rows, _Release | None]:
        groups = groups_of(having, node, *lower)
        columns = {**outer, **source.columns}
        values = {id: column.value for id, column in source.columns.items()}
        counted = frozenset(values[id] for id in _attributes(groups.person) if id in values)
        if groups.person.kind not in ("AttributeReference", "Coalesce") or any(
            child.kind != "AttributeReference" for child in groups.person.children
        ):
            raise refused("PlanFloorMissing", "the identity of a release is computed")
        uncovered = require_floors(groups.floors, source.persons, counted, values)
        merged = [part for value in groups.released() for part in groups.merged(value)]
        canonical = Canonical()
        text = canonical.text(lower[0].child)
        self._require_terms(merged, columns, canonical, groups, source.persons)
        read = [*groups.keys.values(), *merged]
        found = {}
        for item in groups.outputs():
            if item.id in groups.keys:
                shows = self._shown(groups.keys[item.id], columns)
                require_shown(shows, "a group key shows", self._catalog)
            else:
                parts = groups.merged(without_alias(item))
                for part in parts:
                    require_conditions(part, columns, self._subquery, self._catalog)
                shows = NOTHING.union(*(self._released(part, columns) for part in parts))
            found[item.id] = Column(fresh(), shows)
        keys = list(groups.keys.values())
        relations = {columns[id].relation for part in read for id in _attributes(part) if id in columns}
        overlap = bool(keys) and max(person.floor for person in source.persons) > 1
        overlap = overlap and (source.overlapping or (source.multiplied and len(relations) > 1))
        unique = (
            [frozenset(found[id].value for id in groups.keys)] if len(groups.keys) == len(node.expressions("groupingExpressions")) else []
        )
        release = _Release(groups, text, uncovered, overlap) if uncovered or overlap else None
        return Rows(found, unique=unique), release or None

    def _released(self, node: Node, columns: Columns) -> frozenset[tuple[str, str]]:
        """Input columns whose values an aggregate over several persons shows."""
        shows = self._shown(node, columns, persons=True)
        functions = {part.kind for part in node.walk()}
        if functions & EXTREMES:
            return shows
        return frozenset((name, column) for name, column in shows if not self._catalog.has_floor(name))

    def _require_terms(
        self, nodes: Iterable[Node], columns: Columns, canonical: Canonical, groups: Groups, persons: Sequence[Person]
    ) -> None:
        """Require the conditions on the contributors of each sum."""
        terms = []
        for node in nodes:
            for call in node.walk():
                if call.kind != "AggregateExpression" or call.children[0].kind not in MOMENTS:
                    continue
                for arg in call.children[0].children:
                    inner = arg.child if arg.kind == "Cast" else arg
                    shows = self._shown(inner, columns)
                    flag = inner.kind == "AttributeReference" and columns[inner.id].flag
                    if not flag and any(self._catalog.has_floor(name) for name, _ in shows):
                        terms.append((canonical.text(inner), call.children[0].kind))
        require_contributors(terms, groups.floors, min(person.share for person in persons))

    def _guards(self, node: Node, outer: Columns) -> tuple[list[tuple[Node, _Release]], Node]:
        """The semi joins of an aggregate with the groups that it may show, and its rows without these joins."""
        if node.kind == "Filter" and node.child.kind != "Aggregate":
            guards, base = self._guards(node.child, outer)
            return guards, Node(node.kind, node.package, node.fields, [base]) if guards else node
        if node.kind == "Join" and str(node.fields["joinType"].get("object")).endswith(("LeftSemi$", "LeftAnti$")):
            right = node.children[1]
            if right.kind == "SubqueryAlias" and str(right.fields["identifier"]["name"]).startswith("__cr_"):
                guards, base = self._guards(node.children[0], outer)
                return [*guards, (node, None)], base  # type: ignore[list-item]
        return [], node

    def _guarded(self, node: Node, having: Node | None, guards: Sequence[tuple[Node, object]], base: Node, outer: Columns) -> Rows:
        rows = self._settled(base, outer)
        canonical = Canonical()
        source = canonical.text(base)
        columns = {**outer, **rows.columns}
        keys = sorted(canonical.text(key) for key in node.expressions("groupingExpressions"))
        persons = list(rows.persons)
        overlap = bool(keys) and (rows.overlapping or rows.multiplied)
        calls = [item.child for item in node.expressions("aggregateExpressions") if item.kind == "Alias"]
        relations = {columns[id].relation for part in [*calls, *node.expressions("groupingExpressions")] for id in _attributes(part)}
        overlap = overlap and (rows.overlapping or len(relations) > 1)
        for join, _ in guards:
            parts = conjuncts(tree(join.fields["condition"]))
            if str(join.fields["joinType"]["object"]).endswith("LeftAnti$"):
                self._require_overlap(join.children[1], source)
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
            values = {id: column.value for id, column in reads.columns.items()}
            counted = frozenset(values[id] for id in _attributes(groups.person) if id in values)
            uncovered = require_floors(groups.floors, reads.persons, counted, values)
            names = [person.view for person in uncovered]
            persons = [person for person in persons if person.view in names]
            if join is guards[0][0]:
                self._require_terms(calls, columns, canonical, groups, rows.persons)
        if persons:
            raise refused("PlanFloorMissing", f"the persons of {persons[0].view} are not counted")
        if overlap:
            raise refused("PlanFloorMissing", "overlapping groups are not left out")
        found = {}
        for item in node.expressions("aggregateExpressions"):
            inner = without_alias(item)
            column = self._column(item, columns, persons=True)
            if canonical.text(inner) in keys:
                require_shown(column.shows, "a group key shows", self._catalog)
                found[item.id] = Column(fresh(), column.shows)
            else:
                found[item.id] = Column(fresh(), self._released(inner, columns))
        if having is not None:
            require_conditions(having.expression("condition"), {**outer, **found}, self._subquery, self._catalog, all_of_it=True)
        return Rows(found)

    def _guard_groups(self, node: Node, outer: Columns) -> tuple[Groups, Rows]:
        while node.kind in ("SubqueryAlias", "Project"):
            node = node.child
        lower = self._lower(node.child.child) if node.kind == "Filter" and node.child.kind == "Aggregate" else None
        if lower is None:
            raise refused("PlanFloorMissing", "a release is joined with something else than its groups")
        return groups_of(node, node.child, *lower), self._settled(lower[0].child, outer)

    def _completed(self, node: Node, outer: Columns) -> tuple[Rows, _Release | None] | None:
        """A semi join of groups with those of another kind of person, or an anti join with overlapping groups."""
        if node.kind != "Join":
            return None
        kind = str(node.fields["joinType"].get("object")).rpartition(".")[2]
        right = node.children[1]
        if kind not in ("LeftSemi$", "LeftAnti$") or right.kind != "SubqueryAlias":
            return None
        if not str(right.fields["identifier"]["name"]).startswith("__cr_"):
            return None
        rows, release = self._visit(node.children[0], outer)
        if release is None:
            raise refused("PlanFloorMissing", "groups are joined with the conditions of another release")
        compared = {
            part.children[0].id: part.children[1].id
            for part in conjuncts(tree(node.fields["condition"]))
            if part.kind == "EqualNullSafe" and all(child.kind == "AttributeReference" for child in part.children)
        }
        if not release.groups.keys.keys() <= compared.keys():
            raise refused("PlanFloorMissing", "groups are not joined with the conditions of their release by all keys")
        if kind == "LeftAnti$":
            self._require_overlap(right, release.source)
            return rows, self._remaining(replace_release(release, overlap=False))
        groups, reads = self._guard_groups(right, outer)
        first, second = Canonical(), Canonical()
        if first.text(release.groups.lower.child) != second.text(groups.lower.child):
            raise refused("PlanFloorMissing", "the groups of a release are those of other rows")
        for left, other in compared.items():
            key = groups.keys.get(other)
            if key is None or first.text(release.groups.keys[left]) != second.text(key):
                raise refused("PlanFloorMissing", "groups are joined with the conditions of other groups")
        values = {id: column.value for id, column in reads.columns.items()}
        counted = frozenset(values[id] for id in _attributes(groups.person) if id in values)
        names = {person.view for person in require_floors(groups.floors, reads.persons, counted, values)}
        return rows, self._remaining(replace_release(release, persons=[one for one in release.persons if one.view in names]))

    @staticmethod
    def _remaining(release: _Release) -> _Release | None:
        return release if release.persons or release.overlap else None

    def _require_overlap(self, node: Node, source: str) -> None:
        """Require that a subquery reads nothing but the rows per person of a release."""
        for part in node.walk():
            if part.children:
                continue
            lower = self._lower(part) if part.kind == "CTERelationRef" else None
            if lower is None or Canonical().text(lower[0].child) != source:
                raise refused("PlanFloorMissing", "overlapping groups are computed from other rows than the release")


def replace_release(release: _Release, *, persons: list[Person] | None = None, overlap: bool | None = None) -> _Release:
    """``release`` with other open conditions."""
    return _Release(
        release.groups,
        release.source,
        release.persons if persons is None else persons,
        release.overlap if overlap is None else overlap,
    )


def _attributes(node: Node) -> Iterator[int]:
    return (part.id for part in node.walk() if part.kind == "AttributeReference")


def _plain(node: Node) -> list[int]:
    inner = _unchanged(node)
    return [inner.id] if inner.kind == "AttributeReference" else []


def _ordered(window: Node) -> bool:
    return bool(window.fields.get("orderSpec"))


def _groups_by_persons(node: Node, outer: Columns, source: Rows, lower: tuple[Node, Mapping[int, int]]) -> bool:
    """Whether an aggregate over an aggregate keeps persons apart, so that it is no release."""
    aggregate, names = lower
    outputs = {item.id: _unchanged(without_alias(item)) for item in aggregate.expressions("aggregateExpressions")}
    columns = {**outer, **source.columns}
    values = set()
    for item in node.expressions("groupingExpressions"):
        inner = outputs.get(names.get(item.id, -1)) if item.kind == "AttributeReference" else None
        if inner is not None and inner.kind == "AttributeReference" and inner.id in columns:
            values.add(columns[inner.id].value)
    return all(person.all_ids & values for person in source.persons)


def _unchanged(node: Node) -> Node:
    """The expression without casts to the type that it has."""
    while node.kind == "Cast" and node.child.fields.get("dataType") == node.fields.get("dataType"):
        node = node.child
    return node


def _normalised(node: Node) -> int | None:
    """The attribute of which a chain of normalising functions makes a text."""
    while node.kind in _NORMALISING and node.children:
        if any(child.kind != "Literal" for child in node.children[1:]):
            return None
        node = node.children[0]
    return node.id if node.kind == "AttributeReference" else None


def _pair(condition: Node, columns: Columns, restricts: frozenset[int] | None) -> Pair | None:
    """The columns of different relations that a condition compares for equality."""
    if condition.kind not in ("EqualTo", "EqualNullSafe"):
        return None
    sides = [_unchanged(child) for child in condition.children]
    inner = []
    how = "same"
    for side in sides:
        widened = side.kind == "Cast" and side.fields.get("dataType") == "long" and side.child.fields.get("dataType") == "integer"
        if side.kind == "OuterReference":
            side = tree(side.fields["e"])
        if side.kind == "AttributeReference":
            inner.append(side.id)
        elif widened and side.child.kind == "AttributeReference":
            inner.append(side.child.id)
            how = "widened"
        elif (base := _normalised(side)) is not None and side.kind != "Cast":
            inner.append(base)
            how = "normalised"
        else:
            return None
    if any(id not in columns for id in inner):
        return None
    return Pair(columns[inner[0]].value, columns[inner[1]].value, how, restricts)


def _counts_one(condition: Node, columns: Columns) -> list[frozenset[int]]:
    """Values that a condition ``COUNT(*) OVER (PARTITION BY …) = 1`` makes unique."""
    if condition.kind != "EqualTo" or condition.children[0].kind != "AttributeReference":
        return []
    counts = columns[condition.children[0].id].counts if condition.children[0].id in columns else None
    number = condition.children[1]
    while number.kind == "Cast":
        number = number.child
    return [counts] if counts is not None and number.kind == "Literal" and str(number.fields.get("value")) == "1" else []
