"""The query gate: from the author's segments and the catalogue to a verdict (design.md section 5, users-and-threats.md T6, T10).

``analyse`` never runs anything and never raises over a query: bad queries get a refusing :class:`GateVerdict`. What Spark will
parse is :attr:`GateVerdict.rewritten`, text that the gate wrote from the tree that it has checked. Before an answer is given
that text goes through the gate a second time, without any owner's rule, and must come out unchanged: the parser reads our
rendering as the tree that we meant.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.documents.query import QuerySegment
from cleanroom.sql.catalog import Catalog
from cleanroom.sql.collection import collection_waits
from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.lexical import Refusal, parse_statement
from cleanroom.sql.lineage import card_of, lineage_of
from cleanroom.sql.names import MAX_REASONS
from cleanroom.sql.queries import Queries
from cleanroom.sql.values import NUMERIC, Result, Value, quote
from cleanroom.sql.verdict import GateVerdict, OutputColumn, Reason, RewrittenSegment

MAX_SEGMENTS = 50


class Checker(Queries):
    """One pass over the segments of one query."""

    def __init__(self, catalog: Catalog, *, trusted: bool = False) -> None:
        self.catalog = catalog
        self.trusted = trusted
        self.withheld = frozenset() if trusted else frozenset(pair for view in catalog.views for pair in view.withheld())
        self.named: dict[str, Result] = {}
        self.uses: dict[tuple[str, str], set[str]] = {}
        self.floors: dict[tuple[str, str], int] = {}
        self.notes: list[Refusal] = []
        self.releases = 0
        self.expansion = 0
        self.context = "output"
        self.aggregate = ""
        self.in_window = False
        self.in_qualify = False
        self.allow_aggregate = False
        none = Value("", "null")
        self.equal_sides = (none, none)

    def note(self, refusal: Refusal) -> None:
        self.notes.append(refusal)
        if len(self.notes) > MAX_REASONS:
            raise refusal

    def segment(self, text: str, *, last: bool) -> tuple[str, str | None, Result]:
        """One segment: its own rendering, the view that it makes (or None), and what is known about its rows."""
        node = parse_statement(text, trusted=self.trusted)
        if isinstance(node, exp.Create):
            return self._view(node, last)
        if not isinstance(node, exp.Query):
            raise Refusal(
                "StatementNotAllowed",
                f"{type(node).__name__.upper()} is not allowed; only SELECT and CREATE OR REPLACE TEMP VIEW … AS SELECT",
                position_of(node),
            )
        if not last:
            raise Refusal(
                "SelectNotLast", "only the last segment is a SELECT; the segments before it make temporary views", position_of(node)
            )
        result = self.query(node, None, hidden=False)
        return result.sql, None, result

    def _view(self, node: exp.Create, last: bool) -> tuple[str, str | None, Result]:
        if str(node.args.get("kind")).upper() != "VIEW":
            raise Refusal("StatementNotAllowed", f"CREATE {node.args.get('kind')} is not allowed", position_of(node))
        only(node, "this", "kind", "replace", "expression", "properties")
        properties = node.args["properties"].expressions if node.args.get("properties") else []
        if [type(part) for part in properties] != [exp.TemporaryProperty] or any(properties[0].args.values()):
            raise Refusal("StatementNotAllowed", "only CREATE OR REPLACE TEMP VIEW <name> AS SELECT … is allowed", position_of(node))
        if last:
            raise Refusal("LastSegmentNotSelect", "the last segment must be a SELECT: its rows are the result", position_of(node))
        target, columns = node.this, []
        if isinstance(target, exp.Schema):
            only(target, "this", "expressions")
            if not all(isinstance(column, exp.Identifier) for column in target.expressions):
                raise Refusal("StatementNotAllowed", "the columns of a temporary view are plain names", position_of(node))
            columns = [column.name for column in target.expressions]
            target = target.this
        if (
            not isinstance(target, exp.Table)
            or target.args.get("db")
            or target.args.get("catalog")
            or not isinstance(target.this, exp.Identifier)
        ):
            raise Refusal("StatementNotAllowed", "a temporary view has one plain name", position_of(node))
        only(target, "this")
        if not isinstance(node.args.get("expression"), exp.Query):
            raise Refusal("StatementNotAllowed", "a temporary view is made AS SELECT …", position_of(node))
        self.claim_name(target.name, target)
        result = self.query(node.args["expression"], None, hidden=True)
        if columns:
            result = self.renamed(result, columns, node)
        self.check_unique(result, f"the view {target.name}", node)
        self.named[target.name.lower()] = result
        return f"CREATE OR REPLACE TEMPORARY VIEW {quote(target.name)} AS\n{result.sql}", target.name, result

    def check_result(self, result: Result, node_names: str) -> None:
        """Owners' rules over what leaves the clean room."""
        if result.slots:
            views = sorted({slot.view for slot in result.slots})
            raise Refusal(
                "RowLevelOutput",
                f"rows of {', '.join(views)} are under a privacy floor and may leave only through an aggregation (GROUP BY)",
            )
        seen: dict[str, int] = {}
        for number, view in sorted(result.releases):
            if seen.setdefault(view, number) != number:
                raise Refusal(
                    "DifferencingRisk",
                    f"the result combines two aggregations of {view}: their difference could show a group that the floor suppresses; "
                    "make two queries of it",
                )
        self.check_unique(result, "the result", exp.Null())
        for field in result.fields:
            try:
                self.check_exposed(Value("", field.type, exposed=field.exposed), f"the output column {field.name} shows", None)
            except Refusal as refusal:
                self.note(refusal)


def analyse(segments: Sequence[QuerySegment], catalog: Catalog) -> GateVerdict:
    """Check a query and rewrite it.

    Args:
        segments: As the query document holds them; they run in ascending ``execution_sequence``, equal ones in the order given.
        catalog: Every view the query may name, with its owners' rules.

    Returns:
        The verdict; ``allowed`` is False as soon as there is one reason. Nothing is executed and nothing is raised.
    """
    with collection_waits():
        return _analyse(segments, catalog)


def _analyse(segments: Sequence[QuerySegment], catalog: Catalog) -> GateVerdict:
    ordered = sorted(enumerate(segments), key=lambda pair: (pair[1].execution_sequence, pair[0]))
    reasons = _check_shape([segment for _, segment in ordered])
    if reasons:
        return GateVerdict(allowed=False, reasons=tuple(reasons))
    checker = Checker(catalog)
    rewritten: list[RewrittenSegment] = []
    result: Result | None = None
    for place, (index, segment) in enumerate(ordered):
        last = place == len(ordered) - 1
        try:
            sql, view, result = checker.segment(segment.data, last=last)
            _check_conditions(checker, segment, result, view)
            if last and not checker.notes:
                checker.check_result(result, "")
        except Refusal as refusal:
            checker.notes.append(refusal)
        except RecursionError:
            checker.notes.append(Refusal("QueryTooComplex", "the query is nested too deeply"))
        if checker.notes:
            reasons = [note.reason(index) for note in checker.notes]
            return GateVerdict(allowed=False, reasons=tuple(dict.fromkeys(reasons)))
        rewritten.append(
            RewrittenSegment(
                execution_sequence=segment.execution_sequence,
                sql=sql,
                view=view,
                pre_conditions=segment.pre_conditions or (),
                post_filters=segment.post_filters or (),
            )
        )
    assert result is not None
    unstable = _unstable(rewritten, catalog)
    if unstable is not None:
        return GateVerdict(allowed=False, reasons=(unstable,))
    lineage = lineage_of(catalog, checker.uses, result, checker.floors)
    output = tuple(OutputColumn(name=field.name, type=field.type) for field in result.fields)
    return GateVerdict(
        allowed=True,
        lineage=lineage,
        rewritten=tuple(rewritten),
        output=output,
        required_columns=_required(catalog, checker),
        card=card_of(lineage, tuple(rewritten)),
    )


def check_sql(text: str | Sequence[str], catalog: Catalog) -> GateVerdict:
    """``analyse`` for plain statements, executed in the order given."""
    statements = [text] if isinstance(text, str) else list(text)
    return analyse([QuerySegment(execution_sequence=index + 1, data=sql) for index, sql in enumerate(statements) if sql], catalog)


def _check_shape(segments: Sequence[QuerySegment]) -> list[Reason]:
    if not segments:
        return [Reason(code="EmptyQuery", message="the query has no segment")]
    if len(segments) > MAX_SEGMENTS:
        return [Reason(code="QueryTooLarge", message=f"the query has {len(segments)} segments; the limit is {MAX_SEGMENTS}")]
    highest = segments[-1].execution_sequence
    if sum(segment.execution_sequence == highest for segment in segments) != 1:
        return [
            Reason(
                code="LastSegmentNotSingle", message="the highest executionSequence must have exactly one segment: its rows are the result"
            )
        ]
    return []


def _check_conditions(checker: Checker, segment: QuerySegment, result: Result, view: str | None) -> None:
    for condition in segment.pre_conditions or ():
        if checker.catalog.view(condition.view_name) is None and condition.view_name.lower() not in checker.named:
            raise Refusal("UnknownRelation", f"preConditions: there is no view {condition.view_name[:80]!r}")
        if view is not None and condition.view_name.lower() == view.lower():
            raise Refusal("UnknownRelation", f"preConditions: the view {view!r} is made by this segment")
    for post in segment.post_filters or ():
        if view is not None:
            raise Refusal("PostFilterNotAllowed", "postFilters apply to the last segment; this one makes a view")
        field = next((field for field in result.fields if field.name == post.column_name), None)
        if field is None:
            raise Refusal(
                "UnknownColumn", f"postFilters: the result has no column {post.column_name[:80]!r} (names are case-sensitive here)"
            )
        if field.type not in NUMERIC:
            raise Refusal("TypeNotAllowed", f"postFilters: {field.name} is {field.type}; a filter compares numbers")


def rendering_problem(statements: Sequence[str], catalog: Catalog) -> Reason | None:
    """Read statements that the gate rendered, and say what is wrong if they do not render to the same text again.

    Owners' rules do not apply: the statements contain them. Only names of views in ``catalog`` and the gate's language are accepted.

    Args:
        statements: Rendered statements in the order in which they run; the last one is the SELECT.
        catalog: Views with the columns that the statements may read.

    Returns:
        None if every statement renders to itself. Otherwise the reason, with the index of the statement as ``segment``; its code is
        ``UnstableRendering`` if the statement is accepted but renders to a different text.
    """
    checker = Checker(catalog, trusted=True)
    for index, statement in enumerate(statements):
        try:
            sql, _, _ = checker.segment(statement, last=index == len(statements) - 1)
        except Refusal as refusal:
            checker.notes.append(refusal)
        except RecursionError:
            checker.notes.append(Refusal("QueryTooComplex", "it is nested too deeply"))
        if checker.notes:
            return checker.notes[0].reason(index)
        if sql != statement:
            return Reason(code="UnstableRendering", message="it renders to a different text", segment=index)
    return None


def _unstable(rewritten: Sequence[RewrittenSegment], catalog: Catalog) -> Reason | None:
    """Check that the parser reads the rewritten query as the tree that was checked, and not as a different one."""
    problem = rendering_problem([segment.sql for segment in rewritten], catalog)
    if problem is None:
        return None
    if problem.code in ("QueryTooLarge", "QueryTooComplex"):
        message = f"the query with its aliases, * and operators written out: {problem.message}; shorten it or split it into several steps"
        return Reason(code=problem.code, message=message, segment=problem.segment)
    why = "" if problem.code == "UnstableRendering" else f" ({problem.code}: {problem.message})"
    return Reason(
        code="UnstableRendering",
        message=f"the rewritten query does not read back as itself and is refused for safety{why}",
        segment=problem.segment,
    )


def _required(catalog: Catalog, checker: Checker) -> dict[str, tuple[str, ...]]:
    used = {view for view, _ in checker.uses}
    required = {}
    for view in catalog.views:
        if view.name.lower() in used or any(name == view.name.lower() for name, _ in checker.floors):
            names = {column.name.lower() for column in view.visible()} | set(view.identity_columns)
            required[view.name] = tuple(column.name for column in view.columns if column.name.lower() in names)
    return required
