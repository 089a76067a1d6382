"""The parameters of a run, as a user gives them."""

from __future__ import annotations

from pydantic import ValidationError

from cleanroom.errors import InvalidInput
from cleanroom.identifiers import RunSize
from cleanroom.runs.parameters import require_days
from cleanroom.spark.job import JobParameters


def parse_parameters(start_date: str | None, end_date: str | None, size: RunSize | None = None) -> JobParameters:
    """Validate the date range of a run, and return it with the run's size.

    Raises:
        InvalidInput: ``RunParametersInvalid``, ``InvalidDateFormat``, ``InvalidDateRange``.
    """
    try:
        parameters = JobParameters(start_date=start_date, end_date=end_date, size=size)
    except ValidationError as error:
        wrong = (f"--{str(item['loc'][0]).replace('_', '-')}: {item['input']!r} is not a date." for item in error.errors())
        raise InvalidInput("RunParametersInvalid", " ".join(wrong), hint="Write dates as yyyy-MM-dd, for example 2013-01-31.") from error
    require_days(parameters)
    return parameters
