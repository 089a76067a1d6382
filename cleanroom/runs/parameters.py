"""Checks the parameters of a run against the bounds that the owners approved."""

from __future__ import annotations

import datetime as dt

from cleanroom.documents.query import QueryDocument
from cleanroom.errors import InvalidInput, Refused
from cleanroom.spark.job import JobParameters


def require_days(parameters: JobParameters) -> None:
    """Require that the parameters name no days, or a range of days.

    Raises:
        InvalidInput: ``InvalidDateRange``, ``InvalidDateFormat``.
    """
    start, end = parameters.start_date, parameters.end_date
    if (start is None) != (end is None):
        given = f"startDate {start}" if end is None else f"endDate {end}"
        raise InvalidInput("InvalidDateRange", f"parameters: {given} is given alone. Give both startDate and endDate, or neither.")
    if start is None or end is None:
        return
    try:
        first, last = dt.date.fromisoformat(start), dt.date.fromisoformat(end)
    except ValueError as error:
        raise InvalidInput(
            "InvalidDateFormat", f"parameters: {start!r} to {end!r} are not days of the form yyyy-MM-dd.", cause=str(error)
        ) from error
    if first > last:
        raise InvalidInput("InvalidDateRange", f"parameters: startDate {start} is after endDate {end}.")


def verify_parameters(parameters: JobParameters, query: QueryDocument) -> None:
    """Check that the requested days lie within the approved days.

    The job that the pods measure contains these parameters. A parameter without a bound would let the caller read rows
    that the owners did not approve.

    Raises:
        InvalidInput: ``InvalidDateRange``, ``InvalidDateFormat``.
        Refused: ``ParametersNotApproved``.
    """
    approval = query.approval
    assert approval is not None
    allowed = approval.parameters
    approved_days = f"{allowed.earliest or 'the beginning'} to {allowed.latest or 'the end'}"
    require_days(parameters)
    start, end = parameters.start_date, parameters.end_date
    if start is None or end is None:
        if allowed.earliest or allowed.latest:
            # Without a range the pods would read every day, including days outside of the approved range.
            raise Refused(
                "ParametersNotApproved",
                f"query {query.name!r} is approved for {approved_days} only, and the request names no days.",
                hint="Give startDate and endDate within this range.",
            )
        return
    if not allowed.date_range:
        raise Refused("ParametersNotApproved", f"query {query.name!r} is approved without a date range.")
    if (allowed.earliest and start < allowed.earliest) or (allowed.latest and end > allowed.latest):
        raise Refused("ParametersNotApproved", f"parameters: {start} to {end} is outside of the approved range, {approved_days}.")
