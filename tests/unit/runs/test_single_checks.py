"""Single checks of a run: parameters, consent, expiry, decision documents and the environment of a job."""

from __future__ import annotations

import dataclasses
import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from cleanroom.documents.query import RunParameters
from cleanroom.errors import CleanRoomError
from cleanroom.runs.assembly import JobEnvironment
from cleanroom.runs.authorised import AuthorisedRun
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data, parse_decision_document
from cleanroom.runs.parameters import verify_parameters
from cleanroom.runs.reader import Consent
from cleanroom.runs.standing import require_active, require_consent, require_open, require_unexpired
from cleanroom.spark.job import JobParameters
from cleanroom.statements import Decision, RunRequest

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
REQUEST = RunRequest(collaboration="flights", signer="u", expires=NOW, query="q", digest="ab" * 32, run_id="r-1")
DECISION = Decision(
    collaboration="flights", signer="o", expires=NOW, query="q", version="2.1", proposal_id="p", digest="ab" * 32, decision="approve"
)


def refused(check: Any, *arguments: Any) -> CleanRoomError:
    with pytest.raises(CleanRoomError) as caught:
        check(*arguments)
    return caught.value


# ---------------------------------------------------------------------- parameters

DAYS = RunParameters(date_range=True, earliest="2013-01-05", latest="2013-01-10")
UNTIL = RunParameters(date_range=True, latest="2013-01-10")


@pytest.mark.parametrize(
    ("allowed", "start", "end", "code", "words"),
    [
        (DAYS, "2013-01-05", "2013-01-05", "", ""),
        (DAYS, "2013-01-10", "2013-01-10", "", ""),
        (DAYS, "2013-01-04", "2013-01-05", "ParametersNotApproved", "2013-01-05 to 2013-01-10"),
        (DAYS, "2013-01-10", "2013-01-11", "ParametersNotApproved", "outside"),
        (DAYS, None, None, "ParametersNotApproved", "2013-01-05 to 2013-01-10 only"),
        (DAYS, "2013-01-06", None, "InvalidDateRange", "both"),
        (DAYS, None, "2013-01-06", "InvalidDateRange", "both"),
        (DAYS, "2013-01-07", "2013-01-06", "InvalidDateRange", "after"),
        (UNTIL, "1999-01-01", "2013-01-10", "", ""),
        (UNTIL, "2013-01-10", "2013-01-11", "ParametersNotApproved", "the beginning to 2013-01-10"),
        (UNTIL, None, None, "ParametersNotApproved", "the beginning to 2013-01-10 only"),
        (RunParameters(date_range=True, earliest="2013-01-05"), None, None, "ParametersNotApproved", "2013-01-05 to the end only"),
        (RunParameters(date_range=True, earliest="2013-01-05"), "2013-01-05", "2099-01-01", "", ""),
        (RunParameters(), "2013-01-05", "2013-01-05", "ParametersNotApproved", "without a date range"),
        (RunParameters(), None, None, "", ""),
        # These are days to Python and no text that the pods could compare.
        (RunParameters(date_range=True), "2013-02-28", "2013-02-30", "InvalidDateFormat", "2013-02-30"),
        (RunParameters(date_range=True), "2013-02-30", "2013-03-01", "InvalidDateFormat", "2013-02-30"),
    ],
)
def test_days_are_compared_with_the_approved_ones(
    allowed: RunParameters, start: str | None, end: str | None, code: str, words: str
) -> None:
    query: Any = SimpleNamespace(name="q", approval=SimpleNamespace(parameters=allowed))
    parameters = JobParameters(start_date=start, end_date=end)
    if not code:
        verify_parameters(parameters, query)
        return
    error = refused(verify_parameters, parameters, query)
    assert error.code == code
    assert words in error.message


# ---------------------------------------------------------------------- what ends a run


def test_caller_is_an_active_user() -> None:
    require_active("u", {"u", "v"}, "flights")
    error = refused(require_active, "u", {"v"}, "flights")
    assert (error.code, error.party) == ("CallerNotAuthorized", "operator")


def test_closed_run_is_refused() -> None:
    require_open(REQUEST, closed=False)
    assert refused(require_open, REQUEST, True).code == "RunClosed"


ON = Consent(status="enabled")


@pytest.mark.parametrize(
    ("answers", "code", "document"),
    [
        ([ON, ON], "", ""),
        ([Consent(status="disabled", code="X", message="m"), ON], "X", "a"),
        ([ON, Consent(status="disabled", code="X", message="m")], "X", "b"),
        ([ON, Consent(status="disabled")], "UserDocumentRuntimeOptionDisabled", "b"),
    ],
)
def test_consent_to_every_document_is_required(answers: list[Consent], code: str, document: str) -> None:
    if not code:
        require_consent(["a", "b"], answers)
        return
    error = refused(require_consent, ["a", "b"], answers)
    assert (error.code, error.details) == (code, {"document": document})


def test_every_document_needs_an_answer_about_its_consent() -> None:
    with pytest.raises(ValueError, match="shorter"):
        require_consent(["a", "b"], [ON])


def authorised(request: dt.timedelta, *decisions: dt.timedelta) -> AuthorisedRun:
    """A run whose request and decisions expire after these times."""
    run: Any = AuthorisedRun(
        request=REQUEST.model_copy(update={"expires": NOW + request}),
        token="t",
        document=SimpleNamespace(id="q", accepted_by=("o",)),  # type: ignore[arg-type]
        query=SimpleNamespace(name="q"),  # type: ignore[arg-type]
        inputs=(),
        sink=None,  # type: ignore[arg-type]
        owners=("o",),
        decisions=tuple(DECISION.model_copy(update={"expires": NOW + each}) for each in decisions),
        runs_left=None,
    )
    return run  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("request_left", "decisions", "code"),
    [
        (SECOND, [SECOND, SECOND], ""),
        (0 * SECOND, [SECOND, SECOND], "StatementExpired"),
        (SECOND, [0 * SECOND, SECOND], "ApprovalExpired"),
        (SECOND, [SECOND, 0 * SECOND], "ApprovalExpired"),
    ],
)
def test_first_expiry_ends_the_run(request_left: dt.timedelta, decisions: list[dt.timedelta], code: str) -> None:
    run = authorised(request_left, *decisions)
    assert run.expires == NOW + min(request_left, *decisions)
    if code:
        assert refused(require_unexpired, run, NOW).code == code
    else:
        require_unexpired(run, NOW)


def test_run_without_decisions_expires_with_its_request() -> None:
    assert authorised(SECOND).expires == NOW + SECOND


def test_run_has_its_inputs_before_its_output() -> None:
    def dataset(name: str, *, identity: bool) -> Any:
        point = SimpleNamespace(identity=SimpleNamespace() if identity else None)
        content = SimpleNamespace(name=name, dataset_access_point=point)
        return SimpleNamespace(document=SimpleNamespace(id=f"{name}-document"), dataset=content)

    first, second, sink = dataset("first", identity=True), dataset("second", identity=False), dataset("sink", identity=True)
    run = dataclasses.replace(authorised(SECOND), inputs=(first, second), sink=sink)
    assert run.datasets == (first, second, sink)
    assert run.identity_datasets == (first, sink)
    assert run.document_ids == ("q", "first-document", "second-document", "sink-document")
    assert [run.dataset(name) for name in ("first", "second", "sink")] == [first, second, sink]
    assert refused(run.dataset, "first-document").code == "DatasetNotInQuery"


# ---------------------------------------------------------------------- decision documents


def test_decision_document_holds_one_token() -> None:
    assert decision_document_data("a.b.c") == '{"decision":"a.b.c"}'
    assert parse_decision_document(decision_document_data("a.b.c")) == "a.b.c"
    assert DECISION_LABELS == {"type": "query-decision"}


@pytest.mark.parametrize("data", ["", "{", "[]", '"text"', "5", "null", "{}", '{"other":"x"}', '{"decision":5}', '{"decision":null}'])
def test_document_of_another_form_is_no_decision(data: str) -> None:
    assert refused(parse_decision_document, data).code == "DecisionDocumentInvalid"


# ---------------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("governance", "document", "expected"),
    [
        ("A\n", "B\n", "A\nB\n"),
        ("\nA", " B ", "A\nB\n"),
        ("A", " \n", "A\n"),
        ("", "B", "B\n"),
    ],
)
def test_environment_has_the_roots_of_bootstrap_and_trust_document(governance: str, document: str, expected: str) -> None:
    trust: Any = SimpleNamespace(
        id="t-1",
        digest="cd" * 32,
        document=SimpleNamespace(entra_authority="https://login.example", tls_roots=document, storage_hosts=("s.example",)),
    )
    assert JobEnvironment.of(trust, "https://cgs.example", governance) == JobEnvironment(
        governance_url="https://cgs.example",
        authority="https://login.example",
        ca_pem=expected,
        storage_hosts=("s.example",),
        trust_document="t-1",
        trust_digest="cd" * 32,
    )
