"""The query gate: from the segments of a query and a catalogue to a verdict.

:func:`analyse` executes nothing and never raises because of a query: a query that is not allowed gets a :class:`GateVerdict` with
reasons. :attr:`GateVerdict.rewritten` is the text that Spark receives. The gate renders it from what it has checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cleanroom.documents.query import QuerySegment
from cleanroom.sql.catalog import Catalog
from cleanroom.sql.checking.columns import check_distinct_columns
from cleanroom.sql.checking.expressions import expression
from cleanroom.sql.checking.queries import Statement, query, statement
from cleanroom.sql.context import Context, Findings
from cleanroom.sql.lineage import card_of, lineage_of
from cleanroom.sql.model import CheckedQuery
from cleanroom.sql.privacy.exposure import check_exposed
from cleanroom.sql.privacy.release import check_result
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.tokens import Tokens
from cleanroom.sql.verdict import GateVerdict, OutputColumn, RewrittenSegment, Warning
from cleanroom.sql.vocabulary import NUMERIC

MAX_SEGMENTS = 50


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
    findings, views, rewritten, index = Findings(), dict[str, CheckedQuery](), list[RewrittenSegment](), None
    output: tuple[OutputColumn, ...] = ()
    try:
        _check_shape([segment for _, segment in ordered])
        for number, segment in ordered:
            index = number
            last = len(rewritten) == len(ordered) - 1
            context = Context(catalog, findings, Tokens(segment.data), expression, query, views, Scope())
            checked = _statement(context, last=last)
            if checked.view is not None:
                views[checked.view.lower()] = checked.query
            _check_conditions(segment, checked, views, catalog)
            if last:
                output = tuple(OutputColumn(name=field.name, type=field.type) for field in checked.query.fields)
            if last and not findings.refusals:
                _check_result(checked.query, findings, catalog)
            if findings.refusals:
                break
            conditions = {"pre_conditions": segment.pre_conditions or (), "post_filters": segment.post_filters or ()}
            rewritten.append(
                RewrittenSegment(execution_sequence=segment.execution_sequence, sql=checked.sql, view=checked.view, **conditions)
            )
    except Refusal as refusal:
        if refusal.code == "Unparsable":  # the other reasons may be misreadings
            findings.refusals.clear()
        findings.refusals.append(refusal)
    if findings.refusals:
        reasons = tuple(dict.fromkeys(refusal.reason(index) for refusal in findings.refusals))
        return GateVerdict(allowed=False, reasons=reasons, output=output)
    lineage = lineage_of(catalog, findings.uses, checked.query, findings.floors)
    warnings = tuple(Warning(code=code, message=message) for code, message in findings.warnings)
    return GateVerdict(
        allowed=True,
        lineage=lineage,
        rewritten=tuple(rewritten),
        output=output,
        required_columns=_required_columns(catalog, findings),
        warnings=warnings,
        card=card_of(lineage, tuple(rewritten), warnings),
    )


def check_sql(text: str | Sequence[str], catalog: Catalog) -> GateVerdict:
    """Check plain statements, executed in the order given; see :func:`analyse`."""
    statements = [text] if isinstance(text, str) else list(text)
    return analyse([QuerySegment(execution_sequence=index + 1, data=sql) for index, sql in enumerate(statements) if sql], catalog)


def _check_shape(segments: Sequence[QuerySegment]) -> None:
    if not segments:
        raise Refusal("EmptyQuery", "the query has no segment")
    if len(segments) > MAX_SEGMENTS:
        raise Refusal("QueryTooLarge", f"the query has {len(segments)} segments; the limit is {MAX_SEGMENTS}")
    highest = segments[-1].execution_sequence
    if sum(segment.execution_sequence == highest for segment in segments) != 1:
        raise Refusal("LastSegmentNotSingle", "exactly one segment must have the highest executionSequence: its rows are the result")


def _statement(ctx: Context, *, last: bool) -> Statement:
    """Check the statement of one segment, and the length of its rendering."""
    try:
        checked = statement(ctx, last=last)
    except RecursionError as error:
        raise Refusal("QueryTooComplex", "the query is nested too deeply") from error
    if not ctx.findings.refusals:
        try:
            Tokens(checked.sql, rewritten=True)
        except Refusal as refusal:
            what = f"the query with its aliases, * and operators written out: {refusal.message}"
            raise Refusal(refusal.code, f"{what}; shorten it or split it into several steps") from refusal
    return checked


def _check_conditions(segment: QuerySegment, checked: Statement, views: Mapping[str, CheckedQuery], catalog: Catalog) -> None:
    """Check the preconditions and post-filters of a segment."""
    for condition in segment.pre_conditions or ():
        name = condition.view_name
        view = views.get(name.lower())
        if catalog.view(name) is None and view is None:
            raise Refusal("UnknownRelation", f"preConditions: unknown view {name[:80]!r}")
        if view is not None and (view.protected or view.releases):
            raise Refusal(
                "RowLevelOutput",
                f"preConditions: {name} has rows or groups of persons under a privacy floor, and a condition that fails would show that "
                "it has few; name a view of the catalogue",
            )
        if view is checked.query:
            raise Refusal("UnknownRelation", f"preConditions: this segment creates the view {name!r}")
    for post_filter in segment.post_filters or ():
        if checked.view is not None:
            raise Refusal("PostFilterNotAllowed", "postFilters apply to the last segment; this segment creates a view")
        name = post_filter.column_name
        field = next((field for field in checked.query.fields if field.name == name), None)
        if field is None:
            raise Refusal("UnknownColumn", f"postFilters: the result has no column {name[:80]!r} (names are case-sensitive here)")
        if field.type not in NUMERIC:
            raise Refusal("TypeNotAllowed", f"postFilters: {name} is {field.type}; a filter compares numbers")


def _check_result(result: CheckedQuery, findings: Findings, catalog: Catalog) -> None:
    """Check the owners' rules for what leaves the clean room."""
    check_result(result)
    check_distinct_columns(result, "the result")
    for field in result.fields:
        try:
            check_exposed(field.exposed, f"the output column {field.name} shows", catalog)
        except Refusal as refusal:
            findings.note(refusal)


def _required_columns(catalog: Catalog, findings: Findings) -> dict[str, tuple[str, ...]]:
    """Columns to load for each view that the query reads: those that it may read, and the identity columns of the floors."""
    read = {view for view, _ in (*findings.uses, *findings.floors)}
    required = {}
    for view in catalog.views:
        if view.name.lower() in read:
            names = {column.name.lower() for column in view.visible()} | set(view.identity_columns)
            required[view.name] = tuple(column.name for column in view.columns if column.name.lower() in names)
    return required
