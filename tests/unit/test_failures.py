"""Errors in activities, SDKs and Temporal calls: mapping, retry behavior and redaction."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import errno
import ssl
from datetime import timedelta
from typing import Any

import httpx
import pydantic
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from botocore.exceptions import ClientError, EndpointConnectionError
from kubernetes.client.exceptions import ApiException
from temporalio import activity
from temporalio.client import WorkflowFailureError, WorkflowQueryFailedError
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ChildWorkflowError,
    RetryState,
    TerminatedError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from cleanroom.errors import (
    CATEGORIES,
    CleanRoomError,
    Conflict,
    Internal,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Refused,
    TimedOut,
    Unavailable,
)
from cleanroom.redaction import MAX_TEXT, redact, redact_details
from cleanroom.temporal.failures import (
    AGAIN,
    SERVER,
    UNEXPECTED,
    UNEXPECTED_ATTEMPTS,
    application_error,
    clean_room_error,
    error_from_failure,
    translated,
)
from cleanroom.temporal.translation import ErrorTranslation
from cleanroom.upstream import from_upstream


def activity_error(cause: BaseException) -> ActivityError:
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="i",
        activity_type="set_secret",
        activity_id="1",
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )
    error.__cause__ = cause
    return error


def child_error(cause: BaseException) -> ChildWorkflowError:
    error = ChildWorkflowError(
        "Child workflow failed",
        namespace="default",
        workflow_id="cr/a/prepare/1",
        run_id="r",
        workflow_type="Prepare",
        initiated_event_id=1,
        started_event_id=2,
        retry_state=None,
    )
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("kind", CATEGORIES.values())
def test_errors_of_every_category_survive_a_round_trip_through_temporal(kind: type[CleanRoomError]) -> None:
    error = kind("SomeCode", "what is wrong", cause="upstream", hint="do this", party="contosso", details={"a": [1, "x"]})
    failure = application_error(error)
    assert failure.type == "SomeCode"
    assert failure.non_retryable is not error.retryable
    back = error_from_failure(WorkflowFailureError(cause=child_error(activity_error(failure))))
    assert type(back) is kind
    assert back.to_dict() == error.to_dict()


def test_an_expected_wait_is_benign_and_sets_the_retry_delay() -> None:
    failure = application_error(PreconditionFailed("NotYet", "wait", retryable=True, details={"retryAfter": 7}))
    assert failure.category == ApplicationErrorCategory.BENIGN
    assert failure.next_retry_delay == timedelta(seconds=7)
    assert application_error(PreconditionFailed("Never", "no")).category == ApplicationErrorCategory.UNSPECIFIED
    assert application_error(Unavailable("Down", "no", details={"retryAfter": 1e9})).next_retry_delay is None
    assert application_error(Unavailable("Down", "no", details={"retryAfter": float("nan")})).next_retry_delay is None


class _Raises(ActivityInboundInterceptor):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        raise self.error


async def run_translated(error: BaseException, attempt: int = 1) -> None:
    """Run an activity that raises ``error`` through the interceptor."""
    environment = ActivityEnvironment()
    environment.info = environment.default_info().__class__(**{**environment.default_info().__dict__, "attempt": attempt})

    @activity.defn
    async def act() -> None:
        translation = ErrorTranslation().intercept_activity(_Raises(error))
        await translation.execute_activity(ExecuteActivityInput(fn=act, args=[], executor=None, headers={}))

    await environment.run(act)


async def test_the_interceptor_drops_the_cause() -> None:
    error = Refused("NoNo", "short")
    error.__cause__ = ValueError("CANARY")
    with pytest.raises(ApplicationError) as raised:
        await run_translated(error)
    assert raised.value.type == "NoNo"
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    assert raised.value.__traceback__ is not None


async def test_unexpected_errors_are_logged_and_retried_a_limited_number_of_times(caplog: pytest.LogCaptureFixture) -> None:
    for attempt in range(1, UNEXPECTED_ATTEMPTS + 1):
        with pytest.raises(ApplicationError) as raised:
            await run_translated(KeyError("Bearer abcdefghijklmnop"), attempt)
        assert raised.value.type == UNEXPECTED
        assert raised.value.non_retryable is (attempt == UNEXPECTED_ATTEMPTS)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == UNEXPECTED_ATTEMPTS
    assert "KeyError" in caplog.text
    assert "abcdefghijklmnop" not in caplog.text + str(raised.value)


@pytest.mark.parametrize("error", [ApplicationError("x", type="T"), CancelledError("c"), asyncio.CancelledError()])
async def test_temporal_failures_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        await run_translated(error)
    assert raised.value is error


def test_validation_errors_do_not_quote_their_input() -> None:
    class Model(pydantic.BaseModel):
        number: int

    with pytest.raises(pydantic.ValidationError) as invalid:
        Model.model_validate({"number": "CANARY"})
    assert "CANARY" in str(invalid.value)
    assert "CANARY" not in str(translated(invalid.value))
    assert "int_parsing" in str(translated(invalid.value))


def azure(kind: type[HttpResponseError], status: int, code: str, headers: dict[str, str] | None = None) -> HttpResponseError:
    error = kind(message=f"({code}) said no; Authorization: Bearer abcdefghijklmnopq")
    error.status_code = status
    error.reason = "Reason"
    error.response = type("Response", (), {"headers": headers or {}})()
    error.error = type("Inner", (), {"code": code})()
    return error


def http_status(status: int, body: Any, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    request = httpx.Request("PUT", "https://cgs.example/app/x?sig=abcdefgh")
    response = httpx.Response(status, json=body, headers=headers, request=request)
    return httpx.HTTPStatusError("message with https://cgs.example/app/x?sig=abcdefgh", request=request, response=response)


def kubernetes_error(status: int, body: str) -> ApiException:
    error = ApiException(status=status, reason="Reason")
    error.body = body
    return error


@pytest.mark.parametrize(
    ("error", "kind", "code", "retryable"),
    [
        (azure(HttpResponseError, 403, "ForbiddenByRbac"), Refused, "ForbiddenByRbac", False),
        (azure(ResourceNotFoundError, 404, "KeyNotFound"), NotFound, "KeyNotFound", False),
        (azure(ResourceExistsError, 409, "ContainerAlreadyExists"), Conflict, "ContainerAlreadyExists", False),
        (azure(HttpResponseError, 429, "Throttled", {"Retry-After": "3"}), Unavailable, "Throttled", True),
        (azure(HttpResponseError, 503, "ServerBusy"), Unavailable, "ServerBusy", True),
        (azure(HttpResponseError, 400, "BadParameter"), InvalidInput, "BadParameter", False),
        (ServiceRequestError("connection refused"), Unavailable, "AzureUnreachable", True),
        (ClientAuthenticationError("AADSTS700213: No matching federated identity record"), PreconditionFailed, "AADSTS700213", True),
        (ClientAuthenticationError("AADSTS7000222: The provided client secret keys are expired"), Refused, "AADSTS7000222", False),
        (http_status(409, {"error": {"code": "DocumentExists", "message": "m"}}), Conflict, "DocumentExists", False),
        (http_status(500, "oops"), Unavailable, "HttpError", True),
        (httpx.ConnectError("refused"), Unavailable, "Unreachable", True),
        (httpx.ReadTimeout("slow"), Unavailable, "Unreachable", True),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), Refused, "TlsCertificateRefused", False),
        (kubernetes_error(409, '{"reason": "AlreadyExists", "message": "exists"}'), Conflict, "AlreadyExists", False),
        (kubernetes_error(403, "plain"), Refused, "Reason", False),
        (kubernetes_error(0, ""), Unavailable, "KubernetesUnreachable", True),
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject"),
            Refused,
            "AccessDenied",
            False,
        ),
        (ClientError({"Error": {"Code": "404"}}, "HeadObject"), NotFound, "404", False),
        (EndpointConnectionError(endpoint_url="https://s3.example"), Unavailable, "S3Unreachable", True),
        (ConnectionResetError("reset"), Unavailable, "Unreachable", True),
        (builtins.TimeoutError(), Unavailable, "Unreachable", True),
        (ssl.SSLCertVerificationError("bad"), Refused, "TlsCertificateRefused", False),
        *((OSError(number, "full", "/keys/x"), Unavailable, "DiskFull", True) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_sdk_errors_map_to_category_and_code(error: Exception, kind: type[CleanRoomError], code: str, retryable: bool) -> None:
    known = from_upstream(error)
    assert known is not None
    assert (type(known), known.code, known.retryable) == (kind, code, retryable)
    assert "abcdefgh" not in str(known.to_dict())


def test_retry_after_becomes_the_retry_delay() -> None:
    assert translated(azure(HttpResponseError, 429, "Throttled", {"Retry-After": "3"})).next_retry_delay == timedelta(seconds=3)
    assert translated(azure(HttpResponseError, 429, "Throttled", {"Retry-After": "Wed, 21 Oct 2026"})).next_retry_delay is None


def test_an_unknown_error_has_no_mapping() -> None:
    assert from_upstream(RuntimeError("x")) is None


def lost_in_the_last_attempt() -> TimeoutError:
    """The failure of a step that has used up its time, and whose worker died in the last attempt."""
    error = TimeoutError("t", type=TimeoutType.SCHEDULE_TO_CLOSE, last_heartbeat_details=[])
    error.__cause__ = TimeoutError("t", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[])
    return error


@pytest.mark.parametrize(
    ("error", "kind", "code", "part"),
    [
        (activity_error(TimeoutError("t", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[])), TimedOut, "WorkerLost", "set_secret"),
        (TimeoutError("t", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[]), TimedOut, "WorkerLost", "A step stopped"),
        (
            child_error(activity_error(TimeoutError("t", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[]))),
            TimedOut,
            "WorkerLost",
            "set_secret",
        ),
        (activity_error(lost_in_the_last_attempt()), TimedOut, "WorkerLost", "all attempts"),
        (activity_error(TimeoutError("t", type=TimeoutType.SCHEDULE_TO_START, last_heartbeat_details=[])), TimedOut, "NoWorker", "worker"),
        (
            WorkflowFailureError(cause=TimeoutError("t", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])),
            TimedOut,
            "WorkflowTimedOut",
            "workflow",
        ),
        (WorkflowFailureError(cause=CancelledError("c")), Refused, "Cancelled", "cancelled"),
        (WorkflowFailureError(cause=TerminatedError("by hand")), Refused, "Terminated", "by hand"),
        (child_error(activity_error(ApplicationError("m", type="Strange"))), Internal, "Strange", "m"),
        (WorkflowAlreadyStartedError("cr/a/run/1", "RunQuery"), Conflict, "WorkflowAlreadyStarted", "cr/a/run/1"),
        (RPCError("no such", RPCStatusCode.NOT_FOUND, b""), NotFound, "WorkflowNotFound", "no such"),
        (RPCError("Namespace x is not found.", RPCStatusCode.NOT_FOUND, b""), NotFound, "NamespaceNotFound", "Namespace x"),
        (WorkflowQueryFailedError("Encoded failure"), PreconditionFailed, "WorkflowCannotAnswer", "cannot answer"),
        (RPCError("down", RPCStatusCode.UNAVAILABLE, b""), Unavailable, "TemporalUnavailable", "reached"),
        (RPCError("no poller seen for task queue", RPCStatusCode.FAILED_PRECONDITION, b""), Unavailable, "NoWorker", "continues"),
        (
            RPCError("Unable to query workflow due to Workflow Task in failed state.", RPCStatusCode.FAILED_PRECONDITION, b""),
            PreconditionFailed,
            "WorkflowCannotAnswer",
            "tasks fail",
        ),
        (RPCError("slow", RPCStatusCode.DEADLINE_EXCEEDED, b""), Unavailable, "TemporalTimeout", "answer"),
        (RPCError("no", RPCStatusCode.PERMISSION_DENIED, b""), Refused, "TemporalRefused", "no"),
        (ValueError("password=hunter2secret"), Internal, UNEXPECTED, "ValueError"),
        (InvalidInput("Mine", "m"), InvalidInput, "Mine", "m"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_failures_map_to_errors_for_people(error: BaseException, kind: type[CleanRoomError], code: str, part: str) -> None:
    shown = error_from_failure(error)
    assert (type(shown), shown.code) == (kind, code)
    assert part in shown.message
    assert "hunter2secret" not in str(shown.to_dict())


@pytest.mark.parametrize("status", RPCStatusCode)
def test_every_broken_request_to_temporal_names_the_server_and_the_remedy(status: RPCStatusCode) -> None:
    def shown() -> CleanRoomError:
        SERVER.set("temporal.example:7233")
        return error_from_failure(RPCError("transport error", status, b""))

    error = contextvars.copy_context().run(shown)
    assert error.code != UNEXPECTED
    if isinstance(error, Unavailable) and error.code != "NoWorker":
        assert "Temporal at temporal.example:7233 " in error.message
        assert AGAIN in (error.hint or "")
    lost = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.UNKNOWN, RPCStatusCode.CANCELLED, RPCStatusCode.INTERNAL, RPCStatusCode.ABORTED}
    assert (error.code == "TemporalUnavailable") >= (status in lost)


def test_a_timeout_includes_the_last_error() -> None:
    timeout = TimeoutError("t", type=TimeoutType.SCHEDULE_TO_CLOSE, last_heartbeat_details=[])
    timeout.__cause__ = application_error(Unavailable("Down", "the vault is down", hint="wait", party="contosso"))
    shown = error_from_failure(WorkflowFailureError(cause=activity_error(timeout)))
    assert shown.code == "StepTimedOut"
    assert "the vault is down" in shown.message
    assert (shown.hint, shown.party) == ("wait", "contosso")
    assert shown.details["lastError"]["code"] == "Down"


def test_malformed_failure_details_still_give_an_error() -> None:
    for details in ({"category": 1}, {"category": "refused"}, {"category": "refused", "details": {}, "retryable": "x", "code": None}):
        assert isinstance(clean_room_error(ApplicationError("m", details, type="T")), CleanRoomError)


class TestRedaction:
    @pytest.mark.parametrize(
        "text",
        [
            "GET https://x.blob.core.windows.net/c/b?sv=1&sig=SECRETSECRET%3D&se=2",
            "Authorization: Bearer SECRETSECRET",
            "token eyJhbGciOiJSUzI1NiJ9.SECRETSECRET.SECRETSECRET",
            "-----BEGIN RSA PRIVATE KEY-----\nSECRETSECRET\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nSECRETSECRET",
            "https://user:SECRETSECRET@host/path",
            '{"client_secret": "SECRETSECRET"}',
            "AccountKey=SECRETSECRET;EndpointSuffix=core.windows.net",
            "aws_secret_access_key = SECRETSECRET",
            "X-Amz-Signature=SECRETSECRET",
            "client_assertion=SECRETSECRET",
        ],
    )
    def test_credentials_are_removed(self, text: str) -> None:
        assert "SECRETSECRET" not in redact(text)

    def test_ordinary_text_stays(self) -> None:
        text = "The document flights-v3 has digest sha256:abc and needs 2 more approvals; see https://host/path?id=1."
        assert redact(text) == text

    def test_long_text_is_truncated(self) -> None:
        assert len(redact("x" * 100_000)) <= MAX_TEXT
        assert redact("a" * 20, limit=20) == "a" * 20

    def test_secret_members_are_removed_and_depth_is_limited(self) -> None:
        nested: Any = "deep"
        for _ in range(30):
            nested = [nested]
        value = redact_details(
            {
                "digest": "d",
                "clientSecret": "SECRETSECRET",
                "privateKey": "SECRETSECRET",
                "secretName": "contosso-dek",
                "client_secret": "SECRETSECRET",
                "b": b"xyz",
                "n": nested,
                "token": "SECRETSECRET",
            }
        )
        assert value["digest"] == "d"
        assert value["secretName"] == "contosso-dek"
        assert "SECRETSECRET" not in str(value)
        assert value["b"] == "<3 bytes>"
        assert len(str(value["n"])) < 40

    def test_hostile_text_takes_less_than_a_second(self) -> None:
        import time

        started = time.thread_time()
        for text in (
            "eyJ" + "a." * 8000,
            "-----BEGIN " * 2000,
            "a" * 16000,
            "bearer " * 3000,
            "secret" * 3000,
            "x://" + "a:" * 8000,
            "password" * 2000 + "=",
            "a." * 8000,
            "eyJa-" * 3000,
            "a=b:" * 4000,
        ):
            redact(text)
        assert time.thread_time() - started < 1
