"""The list of checks: what counts as passed, when a verification stops, and what a failed check shows."""

from __future__ import annotations

import pytest

from cleanroom.attestation import AttestationRejected, Check, Reason
from cleanroom.attestation.checks import Checklist, Stop
from cleanroom.attestation.reasons import rejecting


def record(checklist: Checklist, passed: bool, *, message: str = "", actual: str = "a") -> bool:
    return checklist.record("c", passed, expected="e", actual=actual, reason=Reason.REPORT_MALFORMED, message=message)


def test_list_is_ok_if_all_of_at_least_one_check_passed() -> None:
    assert not Checklist().ok
    for order, ok in (((True,), True), ((True, True), True), ((False, True), False), ((True, False), False), ((False,), False)):
        checklist = Checklist()
        assert [record(checklist, passed) for passed in order] == list(order)
        assert checklist.ok is ok
    assert Checklist([Check("c", True, "e", "a")]).ok


def test_failed_check_has_reason_and_message() -> None:
    checklist = Checklist()
    record(checklist, True)
    record(checklist, False)
    record(checklist, False, message="m")
    assert checklist.checks == [
        Check("c", True, "e", "a"),
        Check("c", False, "e", "a", Reason.REPORT_MALFORMED, "The check c expected e and found a."),
        Check("c", False, "e", "a", Reason.REPORT_MALFORMED, "m"),
    ]


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("size", [1, 600])
def test_control_characters_are_escaped(passed: bool, size: int) -> None:
    checklist = Checklist()
    checklist.record("c", passed, expected="é\x1b", actual="\x07" * size, reason=Reason.REPORT_MALFORMED, message="\r")
    (check,) = checklist.checks
    assert (check.passed, check.expected, check.actual) == (passed, "\\xe9\\x1b", "\\x07" * size)
    assert check.message == ("" if passed else "\\r")


def test_printable_text_is_shown_as_it_is() -> None:
    checklist = Checklist()
    record(checklist, True, actual="é…")
    assert checklist.checks[0].actual == "é…"


def test_required_check_that_fails_stops() -> None:
    checklist = Checklist()
    checklist.require("c", True, expected="e", actual="a", reason=Reason.REPORT_MALFORMED)
    checklist.stop_if_failed()
    with pytest.raises(Stop):
        checklist.require("c", False, expected="e", actual="a", reason=Reason.REPORT_MALFORMED, message="m")
    assert [(check.passed, check.message) for check in checklist.checks] == [(True, ""), (False, "m")]
    with pytest.raises(Stop):
        checklist.stop_if_failed()


def test_step_that_is_rejected_stops_and_shows_its_error() -> None:
    checklist = Checklist()
    assert checklist.run("c", lambda: 7, expected="e", show=str) == 7

    def rejected() -> int:
        raise AttestationRejected(Reason.NONCE_MISMATCH, "m", expected="x")

    with pytest.raises(Stop):
        checklist.run("d", rejected, expected="e", show=str)
    assert checklist.checks == [Check("c", True, "e", "7"), Check("d", False, "x", "m", Reason.NONCE_MISMATCH, "m")]


def test_parsers_errors_become_rejections_and_rejections_stay() -> None:
    for error in (ValueError("CANARY"), RecursionError("CANARY"), OverflowError("CANARY")):
        with pytest.raises(AttestationRejected) as caught, rejecting(Reason.TPM_QUOTE_MALFORMED, "TPM quote"):
            raise error
        assert (caught.value.reason, caught.value.code) == (Reason.TPM_QUOTE_MALFORMED, "TpmQuoteMalformed")
        assert (caught.value.expected, caught.value.actual) == ("a well-formed TPM quote", type(error).__name__)
        assert caught.value.details == {"expected": "a well-formed TPM quote", "actual": type(error).__name__}
    own = AttestationRejected(Reason.NONCE_MISMATCH, "m")
    with pytest.raises(AttestationRejected) as caught, rejecting(Reason.TPM_QUOTE_MALFORMED, "TPM quote"):
        raise own
    assert caught.value is own
    with pytest.raises(KeyboardInterrupt), rejecting(Reason.TPM_QUOTE_MALFORMED, "TPM quote"):
        raise KeyboardInterrupt
