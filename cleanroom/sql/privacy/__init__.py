"""Privacy floors: which rows an owner's floor protects, what may be computed from them, and what is released.

This package contains the rules and nothing else. Its functions take the plain values of :mod:`cleanroom.sql.model` and
:mod:`cleanroom.sql.scope`; they know neither the syntax tree nor the rendered text, and they change nothing. A rule that is broken
raises :class:`~cleanroom.sql.refusal.Refusal` without a position, which the caller adds.

Model. A row of a relation is *protected* if it comes from a view with a floor. It then carries, for every such view, the identity
of the person that it is about in a hidden column (:class:`~cleanroom.sql.model.ProtectedInput`), through subqueries, common table
expressions, temporary views, joins and unions. Protected rows leave a query only through an aggregation, and the gate adds the
conditions of the floors to it (:mod:`~cleanroom.sql.privacy.groups`). The floor is the strictest of all inputs. The aggregation is
called a *release*. Rows that are grouped by every identity form one row per person and are still protected.

The following is refused, because the condition would not mean what it says:

* two releases of one view in one result: their differences reveal the suppressed groups (:mod:`~cleanroom.sql.privacy.release`);
* rows that the query text copies or chooses: joins without an equality, constants, LATERAL VIEW that does not count persons, a union
  of a view with itself, LIMIT, and windows that are not PARTITION BY the identity (:mod:`~cleanroom.sql.privacy.rows`);
* aggregates that reveal a value of one person (MIN, MAX, FIRST, COLLECT_LIST, percentiles), except MIN and MAX of a column that its
  owner lists as publishable (:mod:`~cleanroom.sql.privacy.aggregates`);
* aggregates of expressions that can single out rows (:mod:`~cleanroom.sql.privacy.polynomials`). A CASE, IF or FILTER is allowed if
  its conditions read only columns that may be part of a result. Each part into which the conditions divide a group must then reach
  the floor. A part may be empty only if the owners have listed all of these columns as publishable; otherwise the result would
  reveal whether a part is empty or merely small;
* output columns that their owner does not allow (:mod:`~cleanroom.sql.privacy.exposure`).

Two functions decide the central questions: :func:`~cleanroom.sql.privacy.release.releases_groups` decides what a SELECT releases, and
:func:`~cleanroom.sql.privacy.aggregates.aggregate_disclosure` decides what an aggregate reveals.
"""
