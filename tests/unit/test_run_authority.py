"""What a run request may choose, held against what the owners approved. Documents and signatures are real, no server is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from cleanroom.documents.query import RunParameters
from cleanroom.errors import CleanRoomError
from cleanroom.runs.authority import RunAuthority
from cleanroom.spark.job import JobParameters
from tests.audit_world import COLLABORATION, AuditWorld

Worlds = Callable[[RunParameters], AuditWorld]

NONE = RunParameters()
ANY = RunParameters(date_range=True)
JANUARY = RunParameters(date_range=True, earliest="2013-01-01", latest="2013-01-31")
SINCE = RunParameters(date_range=True, earliest="2013-01-01")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return cache(lambda bounds: AuditWorld(tmp_path_factory.mktemp("authority"), bounds=bounds))


def outcome(world: AuditWorld, start: str | None, end: str | None) -> str:
    try:
        asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ask(JobParameters(start_date=start, end_date=end))))
    except CleanRoomError as error:
        return error.code
    return "authorised"


@pytest.mark.parametrize(
    ("approved", "start", "end", "code"),
    [
        (NONE, None, None, "authorised"),
        (NONE, "2013-01-01", "2013-01-02", "ParametersNotApproved"),
        (ANY, None, None, "authorised"),
        (ANY, "1999-01-01", "2099-01-01", "authorised"),
        (ANY, "2013-01-02", "2013-01-01", "InvalidDateRange"),
        (ANY, "2013-01-02", None, "InvalidDateRange"),
        (ANY, None, "2013-01-02", "InvalidDateRange"),
        (ANY, "2013-02-01", "2013-02-30", "InvalidDateFormat"),
        (JANUARY, "2013-01-01", "2013-01-31", "authorised"),
        (JANUARY, "2012-12-31", "2013-01-31", "ParametersNotApproved"),
        (JANUARY, "2013-01-01", "2013-02-01", "ParametersNotApproved"),
        (JANUARY, None, None, "ParametersNotApproved"),
        (SINCE, None, None, "ParametersNotApproved"),
        (SINCE, "2013-01-01", "2099-01-01", "authorised"),
    ],
)
def test_a_run_names_days_within_what_was_approved(
    worlds: Worlds, approved: RunParameters, start: str | None, end: str | None, code: str
) -> None:
    assert outcome(worlds(approved), start, end) == code


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"earliest": "2013-01-01"}, "dateRange must be true"),
        ({"dateRange": True, "latest": "2013-02-30"}, "not a day of the calendar"),
        ({"dateRange": True, "earliest": "2013-02-01", "latest": "2013-01-01"}, "is after latest"),
        ({"dateRange": True, "earliest": "yesterday"}, "pattern"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RunParameters.model_validate(bounds)
