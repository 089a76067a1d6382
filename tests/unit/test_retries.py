"""The worst cases in the docstrings of the retry policies are correct."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.workflow import ActivityCancellationType

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
    assert not {"heartbeat_timeout", "cancellation_type", "summary", "task_queue"} & set(
        Timing(timedelta(1), None, retries.STANDARD.retry).config()
    )


def test_a_limit_that_is_not_set_is_no_argument() -> None:
    timing = Timing(start_to_close=timedelta(seconds=1), schedule_to_close=None, retry=retries.STANDARD.retry)
    assert set(timing.config()) == {"start_to_close_timeout", "retry_policy"}
    assert retries.STANDARD.config()["retry_policy"] is retries.STANDARD.retry


def test_a_step_that_must_be_undone_differs_in_its_cancellation_only() -> None:
    waits = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    assert retries.CLEANUP.wait_for_completion_on_cancel().config() == {**retries.CLEANUP.config(), "cancellation_type": waits}


def test_each_policy_has_the_values_of_its_docstring() -> None:
    """Seconds of one attempt, of all and of a heartbeat; first backoff, growth, longest backoff, attempts."""
    expected = {
        "STANDARD": (30, 360, 10, 1, 2, 30, 8),
        "PROPAGATION": (30, 900, 10, 5, 1.5, 30, 0),
        "WATCH": (43_200, 86_400, 10, 1, 2, 30, 0),
        "NOTIFY": (60, 86_400, 10, 10, 4, 1800, 6),
        "CLEANUP": (30, 3600, 10, 1, 2, 60, 0),
        "SWEEP": (600, 3600, 10, 1, 2, 60, 5),
    }
    found = {}
    for name in NAMED:
        config = getattr(retries, name).config()
        retry, heartbeat = config["retry_policy"], config.get("heartbeat_timeout")
        found[name] = (
            config["start_to_close_timeout"].total_seconds(),
            config["schedule_to_close_timeout"].total_seconds(),
            heartbeat and heartbeat.total_seconds(),
            retry.initial_interval.total_seconds(),
            retry.backoff_coefficient,
            retry.maximum_interval and retry.maximum_interval.total_seconds(),
            retry.maximum_attempts,
        )
    assert found == expected
