"""The query gate: from the segments of a query and a catalogue to a verdict.

:func:`analyse` executes nothing and never raises because of a query: a query that is not allowed gets a :class:`GateVerdict` with
reasons. :attr:`GateVerdict.rewritten` is the text that Spark receives. The gate renders it from the syntax tree that it has checked,
and reads it a second time, without the owners' rules. It must then render to the same text: this shows that the parser reads the
rendering as the tree that was checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.documents.query import QuerySegment
from cleanroom.sql.catalog import Catalog
from cleanroom.sql.checking.columns import check_distinct_columns
from cleanroom.sql.checking.expressions import expression
from cleanroom.sql.checking.queries import Statement, query, statement
from cleanroom.sql.context import Context, Findings, Readers, Rules
from cleanroom.sql.lineage import card_of, lineage_of
from cleanroom.sql.model import CheckedQuery
from cleanroom.sql.privacy import release
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.tokens import END, Tokens
from cleanroom.sql.verdict import GateVerdict, OutputColumn, Reason, RewrittenSegment, Warning
from cleanroom.sql.vocabulary import NUMERIC

MAX_SEGMENTS = 50


class QueryCheck:
    """The check of one query, segment by segment.

    Attributes:
        rules: Rules of the check.
        findings: What the segments so far have in common: lineage, floors and refusals.
        views: Temporary views that the segments so far create, by lower-case name.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.findings = Findings()
        self.views: dict[str, CheckedQuery] = {}

    def statement(self, text: str, *, last: bool) -> Statement:
        """Check the statement of one segment.

        Raises:
            Refusal: The check cannot continue. Other refusals are in :attr:`findings`.
        """
        try:
            tokens = Tokens(text, rereading=self.rules.rereading)
            if tokens.kinds[0] in (";", END):
                raise Refusal("EmptySegment", "the segment contains no statement")
            ends = [index for index, kind in enumerate(tokens.kinds) if kind == ";"]
            if (ends and ends[-1] - ends[0] != len(ends) - 1) or (ends and tokens.kinds[ends[-1] + 1] != END):
                where = tokens.position(ends[0])
                raise Refusal("MultipleStatements", "a segment contains exactly one statement; put each into its own segment", where)
            with tokens.located(0):
                out = statement(Context(self.rules, self.findings, tokens, Readers(expression, query), self.views, Scope()), last=last)
        except RecursionError as error:
            raise Refusal("QueryTooComplex", "the query is nested too deeply") from error
        if out.view is not None:
            self.views[out.view.lower()] = out.query
        return out

    def check_conditions(self, segment: QuerySegment, statement: Statement) -> None:
        """Check the preconditions and post-filters of a segment."""
        view = statement.view
        for condition in segment.pre_conditions or ():
            name = condition.view_name
            if self.rules.catalog.view(name) is None and name.lower() not in self.views:
                raise Refusal("UnknownRelation", f"preConditions: unknown view {name[:80]!r}")
            if name.lower() in self.views and self.views[name.lower()].protected:
                raise Refusal(
                    "RowLevelOutput",
                    f"preConditions: {name} has rows of persons under a privacy floor, and a condition that fails would show that "
                    "it has few; name a view of the catalogue",
                )
            if view is not None and name.lower() == view.lower():
                raise Refusal("UnknownRelation", f"preConditions: this segment creates the view {view!r}")
        for post_filter in segment.post_filters or ():
            if view is not None:
                raise Refusal("PostFilterNotAllowed", "postFilters apply to the last segment; this segment creates a view")
            field = next((field for field in statement.query.fields if field.name == post_filter.column_name), None)
            if field is None:
                raise Refusal(
                    "UnknownColumn",
                    f"postFilters: the result has no column {post_filter.column_name[:80]!r} (names are case-sensitive here)",
                )
            if field.type not in NUMERIC:
                raise Refusal("TypeNotAllowed", f"postFilters: {field.name} is {field.type}; a filter compares numbers")

    def check_result(self, result: CheckedQuery) -> None:
        """Check the owners' rules for what leaves the clean room."""
        release.check_result(result)
        check_distinct_columns(result, "the result")
        for field in result.fields:
            try:
                release.check_output(field, self.rules.catalog)
            except Refusal as refusal:
                self.findings.note(refusal)


def analyse(segments: Sequence[QuerySegment], catalog: Catalog) -> GateVerdict:
    """Check a query and rewrite it.

    Args:
        segments: Segments of the query document. They run in ascending order of ``execution_sequence``; segments with the same
            sequence keep their order.
        catalog: Every view that the query may name, with its owners' rules.

    Returns:
        The verdict. ``allowed`` is False if there is a reason against the query.
    """
    ordered = sorted(enumerate(segments), key=lambda pair: (pair[1].execution_sequence, pair[0]))
    misshapen = _shape_problem([segment for _, segment in ordered])
    if misshapen is not None:
        return _refused(misshapen)
    check = QueryCheck(Rules(catalog))
    refusals = check.findings.refusals
    rewritten: list[RewrittenSegment] = []
    for place, (index, segment) in enumerate(ordered, start=1):
        last = place == len(ordered)
        try:
            statement = check.statement(segment.data, last=last)
            check.check_conditions(segment, statement)
            if last and not refusals:
                check.check_result(statement.query)
        except Refusal as refusal:
            if refusal.code == "Unparsable":  # the other reasons may be misreadings
                refusals.clear()
            refusals.append(refusal)
        if refusals:
            return _refused(*(refusal.reason(index) for refusal in refusals))
        rewritten.append(_rewritten(segment, statement))
    unstable = _stability_problem(rewritten, catalog)
    if unstable is not None:
        return _refused(unstable)
    lineage = lineage_of(catalog, check.findings.uses, statement.query, check.findings.floors)
    warnings = tuple(Warning(code=code, message=message) for code, message in check.findings.warnings)
    return GateVerdict(
        allowed=True,
        lineage=lineage,
        rewritten=tuple(rewritten),
        output=tuple(OutputColumn(name=field.name, type=field.type) for field in statement.query.fields),
        required_columns=_required_columns(catalog, check.findings),
        warnings=warnings,
        card=card_of(lineage, tuple(rewritten), warnings),
    )


def check_sql(text: str | Sequence[str], catalog: Catalog) -> GateVerdict:
    """Check plain statements, executed in the order given; see :func:`analyse`."""
    statements = [text] if isinstance(text, str) else list(text)
    return analyse([QuerySegment(execution_sequence=index + 1, data=sql) for index, sql in enumerate(statements) if sql], catalog)


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
    check = QueryCheck(Rules(catalog, rereading=True))
    for index, text in enumerate(statements):
        try:
            statement = check.statement(text, last=index == len(statements) - 1)
        except Refusal as error:
            refusal = error if isinstance(error, Refusal) else Refusal("UnstableRendering", "it is not a rendering of the gate")
            check.findings.refusals.append(refusal)
        if check.findings.refusals:
            return check.findings.refusals[0].reason(index)
        if statement.sql != text:
            return Reason(code="UnstableRendering", message="it renders to a different text", segment=index)
    return None


def _refused(*reasons: Reason) -> GateVerdict:
    return GateVerdict(allowed=False, reasons=tuple(dict.fromkeys(reasons)))


def _rewritten(segment: QuerySegment, statement: Statement) -> RewrittenSegment:
    return RewrittenSegment(
        execution_sequence=segment.execution_sequence,
        sql=statement.sql,
        view=statement.view,
        pre_conditions=segment.pre_conditions or (),
        post_filters=segment.post_filters or (),
    )


def _shape_problem(segments: Sequence[QuerySegment]) -> Reason | None:
    if not segments:
        return Reason(code="EmptyQuery", message="the query has no segment")
    if len(segments) > MAX_SEGMENTS:
        return Reason(code="QueryTooLarge", message=f"the query has {len(segments)} segments; the limit is {MAX_SEGMENTS}")
    highest = segments[-1].execution_sequence
    if sum(segment.execution_sequence == highest for segment in segments) != 1:
        return Reason(
            code="LastSegmentNotSingle", message="exactly one segment must have the highest executionSequence: its rows are the result"
        )
    return None


def _stability_problem(rewritten: Sequence[RewrittenSegment], catalog: Catalog) -> Reason | None:
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


def _required_columns(catalog: Catalog, findings: Findings) -> dict[str, tuple[str, ...]]:
    """Columns to load for each view that the query reads: those that it may read, and the identity columns of the floors."""
    read = {view for view, _ in (*findings.uses, *findings.floors)}
    required = {}
    for view in catalog.views:
        if view.name.lower() in read:
            names = {column.name.lower() for column in view.visible()} | set(view.identity_columns)
            required[view.name] = tuple(column.name for column in view.columns if column.name.lower() in names)
    return required
