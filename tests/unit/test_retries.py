"""The worst cases in the docstrings of the retry policies are correct."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cleanroom.temporal import retries
from cleanroom.temporal.retries import Timing

NAMED = {name: value for name, value in vars(retries).items() if isinstance(value, Timing)}


def backoffs(timing: Timing, count: int) -> timedelta:
    """Sum the backoffs before ``count`` retries, as the server computes them."""
    total, wait = timedelta(), timing.retry.initial_interval
    for _ in range(count):
        total += min(wait, timing.retry.maximum_interval or wait * 100)
        wait *= timing.retry.backoff_coefficient
    return total


@pytest.mark.parametrize("timing", NAMED.values(), ids=NAMED)
def test_every_policy_is_bounded_and_long_ones_have_heartbeats(timing: Timing) -> None:
    assert timing.schedule_to_close is not None
    assert timing.start_to_close <= timing.schedule_to_close
    if timing.start_to_close > timedelta(minutes=1):
        assert timing.heartbeat is not None
    if timing.retry.maximum_attempts:
        worst = timing.start_to_close * timing.retry.maximum_attempts + backoffs(timing, timing.retry.maximum_attempts - 1)
        assert worst <= timing.schedule_to_close


def test_the_standard_policy_takes_331_seconds_at_most() -> None:
    assert backoffs(retries.STANDARD, 7) + 8 * retries.STANDARD.start_to_close == timedelta(seconds=331)


def test_the_propagation_policy_retries_15_to_33_times_in_15_minutes() -> None:
    """A role assignment in Azure can take ten minutes."""
    timing = retries.PROPAGATION
    assert timing.schedule_to_close is not None
    assert timing.schedule_to_close >= timedelta(minutes=15)
    most = next(count for count in range(1000) if backoffs(timing, count) > timing.schedule_to_close)
    least = next(count for count in range(1000) if backoffs(timing, count) + (count + 1) * timing.start_to_close > timing.schedule_to_close)
    assert 15 <= least <= most <= 33 + 1


def test_config_returns_arguments_of_execute_activity() -> None:
    config = retries.WATCH.within(timedelta(hours=1)).attempt(timedelta(minutes=30)).config("watch", task_queue="q")
    assert config["summary"] == "watch"
    assert config["task_queue"] == "q"
    assert config["schedule_to_close_timeout"] == timedelta(hours=1)
    assert config["start_to_close_timeout"] == timedelta(minutes=30)
    assert config["heartbeat_timeout"] == retries.WATCH.heartbeat
    assert "heartbeat_timeout" not in retries.NO_RETRY.config()
