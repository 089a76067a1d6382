"""The cause in the message of a failed submission: real messages of Spark Operator 2.3.0, with the log of its spark-submit."""

from __future__ import annotations

import pytest

from cleanroom.spark.submission_log import MAX_CHARACTERS, submission_message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "driver pod not found",
        "failed to submit spark application: failed to run spark-submit: fork/exec /opt/spark/bin/spark-submit: argument list too long",
        "driver container failed with ExitCode: 3, Reason: Error",
    ],
)
def test_short_message_stays_as_it_is(text: str) -> None:
    assert submission_message(text) == text


def test_last_exception_stands_in_for_a_missing_message_of_the_api() -> None:
    log = "\n".join(f"\tat org.example.Frame{number}(Frame.java)" for number in range(200))
    text = f'failed to run spark-submit: Exception in thread "main" A: outer\n{log}\nCaused by: B: inner, the cause\n{log}'
    assert submission_message(text) == "spark-submit failed: B: inner, the cause"


def test_log_without_an_exception_keeps_its_first_lines_without_noise() -> None:
    noise = "26/11/30 09:00:00 WARN NativeCodeLoader: Unable to load native-hadoop library\n" * 100
    text = f"{noise}the first line\nthe second line\n" + "\tat org.example.Frame(Frame.java)\n" * 100
    assert submission_message(text) == "the first line\nthe second line"


def test_long_message_is_shortened() -> None:
    text = f"Message: {'x' * 5000}. Received status: Status(apiVersion=v1)"
    assert len(submission_message(text)) == MAX_CHARACTERS
