"""The walk over a plan: from the registered views to the result, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cleanroom.sql import Catalog
from sparkapp.plan.comparisons import attributes, plain, unchanged
from sparkapp.plan.conditions import counts_rows, without_alias, without_casts
from sparkapp.plan.expressions import Columns, combined, is_flag, is_stored, power, require_conditions, require_shown, shown, step_of
from sparkapp.plan.groups import Aggregates
from sparkapp.plan.late_joins import joined_before
from sparkapp.plan.moments import computed_columns, renamed
from sparkapp.plan.release import Release
from sparkapp.plan.rows import NOTHING, Column, Person, Rows, fresh
from sparkapp.plan.sources import Sources
from sparkapp.plan.tree import Node, is_generated_join, refused
from sparkapp.plan.vocabulary import view_name
from sparkapp.plan.walking import Lower


class PlanWalk:
    """The walk over the plan of one statement.

    Args:
        catalog: The registered views.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._tables: dict[str, Node] = {}
        self._table_rows: dict[str, tuple[Rows, list[int]]] = {}
        self._sources = Sources(self)
        self._aggregates = Aggregates(self)

    def result(self, plan: Node) -> None:
        """Check a plan and the columns of its result.

        Raises:
            Refused: The first rule that the plan breaks.
        """
        rows = self.settled(plan, {})
        if rows.persons:
            raise refused("PlanRowsOfPersons", f"the result contains rows of {rows.persons[0].view}, which are under a privacy floor")
        for column in rows.columns.values():
            require_shown(column.shows, "the result shows", self.catalog)

    # -- operators ----------------------------------------------------------------------------------------------------

    def settled(self, node: Node, outer: Columns) -> Rows:
        """The rows of an operator that are complete: no condition of a release is missing."""
        rows, release = self.visit(node, outer)
        if release is not None and release.missing:
            raise refused("PlanFloorMissing", "a release is not complete: persons or overlapping groups are not counted")
        return rows

    def visit(self, node: Node, outer: Columns) -> tuple[Rows, Release | None]:
        """The rows of an operator, and the release that they are."""
        if node.kind == "SubqueryAlias":
            rows, release = self.visit(node.child, outer)
            return rows.ended(), release
        if node.kind == "Project":
            return self._project(node, outer)
        if node.kind == "Filter" and node.child.kind == "Aggregate":
            return self._aggregates.aggregate(node.child, node, outer)
        if node.kind == "Aggregate":
            return self._aggregates.aggregate(node, None, outer)
        if is_generated_join(node):
            return self._aggregates.completed(node, outer)
        if node.kind in ("Filter", "Join"):
            return self._sources.rows(node, outer), None
        return self._operator(node, outer), None

    def _operator(self, node: Node, outer: Columns) -> Rows:
        kind = node.kind
        if kind == "View":
            return self._view(node, outer)
        if kind == "WithCTE":
            for index in node.fields["cteDefs"]:
                definition = node.children[index]
                self._tables[str(definition.fields["id"])] = definition.child
            return self.settled(node.children[node.fields["plan"]], outer)
        if kind == "CTERelationRef":
            return self._table(node)
        if kind == "Union":
            return self._union(node, outer)
        if kind == "OneRowRelation":
            return Rows()
        if kind == "LocalRelation":  # constants of the text; views contain theirs
            return Rows({item.id: Column(item.id) for item in node.expressions("output")})
        if kind in ("Window", "Sort", "Distinct", "Generate", "Expand", "GlobalLimit", "LocalLimit", "Offset"):
            return self._unary(node, self.settled(node.child, outer), outer)
        if kind in ("Except", "Intersect"):
            left, right = (self.settled(child, outer) for child in node.children)
            self.require_no_persons([*left.persons, *right.persons], f"a set operation ({kind})")
            self._require_compared([*left.columns.values(), *right.columns.values()])
            return self._positional([left, right], list(left.columns))
        raise refused("PlanLeafUnknown", f"it reads {kind} instead of a registered view")

    def _unary(self, node: Node, rows: Rows, outer: Columns) -> Rows:
        kind, columns = node.kind, {**outer, **rows.columns}
        if kind == "Sort":
            self._require_read(node.expressions("order"), columns)
            return rows
        if kind == "Window":
            return self._window(node, rows, columns)
        if kind == "Distinct":
            values = {column.value for column in rows.columns.values()}
            if not all(person.all_ids & values and not person.partial for person in rows.persons):
                raise refused("PlanRowsOfPersons", "DISTINCT removes rows of different persons")
            united = node.child.kind == "Union"
            self._require_compared(column for column in rows.columns.values() if column.computed or united or not column.countable)
            return replace(rows, unique=[*rows.unique, frozenset(values)])
        if kind == "Generate":
            generator = node.expression("generator")
            self._require_read([generator], columns)
            if rows.persons and not _splits_a_column(generator, columns):
                raise refused("PlanRowsOfPersons", "EXPLODE of rows of persons reads an array that the text makes")
            shows = self.shown(generator, columns)
            made = {item.id: Column(item.id, shows) for item in node.expressions("generatorOutput")}
            persons = bool(rows.persons)
            return replace(rows.with_columns({**rows.columns, **made}), unique=[], overlapping=persons, exploded=persons)
        self.require_no_persons(rows.persons, f"an operator ({kind})")
        if kind == "Expand":
            projections = [[node.read(item) for item in row] for row in node.fields["projections"]]
            output = node.expressions("output")
            return Rows(
                {
                    item.id: Column(fresh(), NOTHING.union(*(self.shown(row[index], columns) for row in projections)))
                    for index, item in enumerate(output)
                }
            )
        return rows

    def _require_compared(self, columns: Iterable[Column]) -> None:
        """Require that rows are compared by columns that queries may filter by: how many are left tells the values."""
        for column in columns:
            require_shown(column.shows, "a comparison of rows reads", self.catalog, identities=True)

    def _require_read(self, nodes: Sequence[Node], columns: Columns) -> None:
        """Require that expressions by which rows are chosen, sorted or copied read columns that queries may filter by."""
        for node in nodes:
            require_conditions(node, columns, self.subquery, self.catalog, all_of_it=True)

    def _view(self, node: Node, outer: Columns) -> Rows:
        name = view_name(node)
        view = self.catalog.view(name)
        if view is None:
            return self.settled(node.child, outer).ended()
        known = {column.name.lower() for column in view.visible()} | set(view.identity_columns)
        columns, persons = {}, []
        leaf = node.child.child if node.child.kind == "Filter" else node.child  # the pod leaves out rows without an identity
        for item in leaf.expressions("output"):
            column = item.name.lower()
            if column not in known:
                raise refused("PlanLeafUnknown", f"the view {name} has the column {column}, which queries may not read")
            identity = view.min_group_size > 0 and column in view.identity_columns
            countable = view.min_group_size > 0 or view.may_output(column)  # otherwise the count tells whether two rows are equal
            day = item.fields.get("dataType") in ("date", "timestamp")
            columns[item.id] = Column(item.id, frozenset([(name, column)]), identity, countable=countable, day=day)
            if identity:
                persons.append(Person(name, view.min_group_size, view.max_share_percent, frozenset([item.id])))
        if view.min_group_size and len(persons) != len(view.identity_columns):
            raise refused("PlanLeafUnknown", f"the view {name} lacks an identity that its floor counts")
        names = {item.name.lower(): item.id for item in leaf.expressions("output")}
        unique_on = view.unique_on if view.unique_on is not None and view.unique_on <= names.keys() else None
        return Rows(columns, persons, [frozenset(names[name] for name in unique_on)] if unique_on is not None else [])

    def _table(self, node: Node) -> Rows:
        key = str(node.fields["cteId"])
        if key not in self._table_rows:
            if key not in self._tables:
                raise refused("PlanUnreadable", "a common table expression is missing")
            rows = self.settled(self._tables[key], {}).ended()
            self._table_rows[key] = rows, list(rows.columns)
        return self._table_rows[key][0].renumbered([item.id for item in node.expressions("output")])

    def _project(self, node: Node, outer: Columns) -> tuple[Rows, Release | None]:
        rows, release = self.visit(node.child, outer)
        items = node.expressions("projectList")
        if release is not None and release.missing and any(without_alias(item).kind != "AttributeReference" for item in items):
            raise refused("PlanFloorMissing", "an expression reads groups whose conditions are not complete")
        columns = {**outer, **rows.columns}
        return rows.with_columns({item.id: self.column(item, columns) for item in items}), release

    def _window(self, node: Node, rows: Rows, columns: Columns) -> Rows:
        partition = {columns[id].value for item in node.expressions("partitionSpec") for id in plain(item)}
        if not all(person.all_ids & partition for person in rows.persons):
            raise refused("PlanRowsOfPersons", "a window reads rows of several persons")
        found = dict(rows.columns)
        persons = NOTHING.union(*(column.shows for column in columns.values() if column.identity and column.value in partition))
        for item in node.expressions("windowExpressions"):
            call = item.child.children[0]
            counts = frozenset(partition) if counts_rows(call) and not node.fields.get("orderSpec") else None
            how = combined(item.child, {id: column for id, column in columns.items() if not column.identity})
            shows = self.shown(item.child, columns) - persons
            found[item.id] = Column(item.id, shows, counts=counts, computed=True, mixed=how.mixed)
        return replace(rows.with_columns(found), overlapping=rows.overlapping or bool(rows.persons))

    def _union(self, node: Node, outer: Columns) -> Rows:
        parts = [self.settled(child, outer) for child in node.children]
        self.require_no_persons([person for part in parts if part.exploded for person in part.persons], "a union of exploded rows")
        ids = list(parts[0].columns)
        rows = self._positional(parts, ids)
        for part in parts:
            names: dict[int, list[int]] = {}
            others = zip(*(other.columns.values() for other in parts if other is not part), strict=True)
            for id, column, group in zip(ids, part.columns.values(), others, strict=True):
                if all(other.null for other in group):  # otherwise it names persons of several views
                    names.setdefault(column.value, []).append(rows.columns[id].value)
            rows.persons += [person.renamed(names)._replace(partial=True) for person in part.persons]
        views = [view for part in parts for view in {person.view for person in part.persons}]
        if len(views) != len(set(views)):
            raise refused("PlanRowsOfPersons", "a union contains rows of a view twice")
        return rows

    @staticmethod
    def _positional(parts: Sequence[Rows], ids: Sequence[int]) -> Rows:
        columns, several = {}, len([part for part in parts if part.persons]) > 1
        for id, group in zip(ids, zip(*(part.columns.values() for part in parts), strict=True), strict=True):
            identity = any(column.identity for column in group)
            columns[id] = Column(
                fresh(),
                NOTHING.union(*(column.shows for column in group)),
                identity,
                all(column.flag for column in group),
                computed=any(column.computed for column in group) or len({column.shows for column in group}) > 1,
                power=max(column.power for column in group),
                step=" ".join(sorted({column.step for column in group} - {""})),
                capped=any(column.capped for column in group),
                united=any(column.united for column in group) or len({column.shows for column in group}) > 1,
                countable=all(column.countable for column in group),
                mixed=2 if several else max(column.mixed for column in group),
                day=all(column.day for column in group),
            )
        ended = [part.ended() for part in parts]
        return Rows(
            columns,
            overlapping=several or any(part.overlapping for part in ended),
            repeats=any(part.repeats for part in ended),
            chooses=any(part.chooses for part in ended),
        )

    @staticmethod
    def require_no_persons(persons: Sequence[Person], what: str) -> None:
        """Refuse an operator that may not read rows of persons."""
        if persons:
            raise refused("PlanRowsOfPersons", f"{what} reads rows of {persons[0].view}, which are under a privacy floor")

    # -- expressions --------------------------------------------------------------------------------------------------

    def column(self, item: Node, columns: Columns) -> Column:
        """The column that an output expression computes."""
        inner = unchanged(without_alias(item))
        if inner.kind == "AttributeReference":
            if inner.id not in columns:
                raise refused("PlanUnreadable", f"an expression reads the unknown attribute {inner.name!r}")
            return columns[inner.id]
        require_conditions(inner, columns, self.subquery, self.catalog)
        null = _is_null(inner, columns)
        how = combined(inner, columns)
        leaves = [columns[part.id] for part in inner.walk() if part.kind == "AttributeReference" and part.id in columns]
        return Column(
            fresh(),
            self.shown(inner, columns),
            flag=is_flag(inner, columns),
            null=null,
            computed=True,
            power=power(inner, columns),
            step=step_of(inner, columns),
            capped=any(leaf.capped for leaf in leaves) or any(part.kind == "Least" for part in inner.walk()),
            united=any(leaf.united for leaf in leaves),
            countable=all(leaf.countable for leaf in leaves),
            mixed=how.mixed,
            day=how.day,
        )

    def shown(self, node: Node, columns: Columns, *, persons: bool = False) -> frozenset[tuple[str, str]]:
        """Input columns whose values an expression shows; see :func:`sparkapp.plan.expressions.shown`."""
        return shown(node, columns, self.subquery, persons=persons)

    def subquery(self, plan: Node, outer: Columns) -> Rows:
        """Rows of a subquery in an expression."""
        rows = self.settled(plan, outer)
        self.require_no_persons(rows.persons, "a subquery in an expression")
        return rows

    def lower(self, node: Node) -> Lower | None:
        """The aggregate below another one."""
        ids: list[int] | None = None
        while node.kind == "SubqueryAlias" or node.kind == "CTERelationRef":
            if node.kind == "SubqueryAlias":
                node = node.child
                continue
            table = self._tables.get(str(node.fields["cteId"]))
            if ids is not None or table is None:
                return None
            ids, node = [item.id for item in node.expressions("output")], table
        if node.kind not in ("Project", "Aggregate"):
            return None
        outputs = node.expressions("projectList" if node.kind == "Project" else "aggregateExpressions")
        read = ids or [item.id for item in outputs]
        windowed = computed_columns(node)
        if windowed is not None:
            below = self.lower(windowed[0])
            if below is None or below.computed:
                return None
            values = {id: windowed[1][item.id] for id, item in zip(read, outputs, strict=True)}
            names = {id: below.names[value.id] for id, value in values.items() if value.kind == "AttributeReference"}
            return Lower(below.aggregate, names, {id: renamed(value, below.names) for id, value in values.items() if id not in names})
        if node.kind == "Project":
            return None
        lower, names = joined_before(node) or (node, {item.id: item.id for item in outputs})
        return Lower(lower, {id: names[item.id] for id, item in zip(read, outputs, strict=True)}, {})


def _splits_a_column(generator: Node, columns: Columns) -> bool:
    """Whether a generator yields the elements of a stored column, or the parts of its text."""
    array = generator
    while array.kind in ("Explode", "PosExplode", "GeneratorOuter"):
        array = array.child
    text, *others = array.children if array.kind == "StringSplit" else [array]
    return text.kind == "AttributeReference" and is_stored(text, columns) and not any(any(attributes(other)) for other in others)


def _is_null(node: Node, columns: Columns) -> bool:
    """Whether an expression is NULL in every row."""
    node = without_casts(node)
    return columns[node.id].null if node.kind == "AttributeReference" else node.kind == "Literal" and node.fields.get("value") is None
