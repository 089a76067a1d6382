"""Whatever a workflow is started with, and whatever is sent to it, fails itself or is refused: no workflow task fails.

The server repeats a failed workflow task forever. :class:`tests.unit.workflows.driver.Driver` fails if a workflow task does.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from cleanroom.errors import Refused
from cleanroom.messages.cleanup import CleanupInput
from cleanroom.messages.query import PublishQueryInput
from cleanroom.temporal.codec import tombstone
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.keyring import KeyringMissing
from tests.histories.fingerprints import WORKFLOWS
from tests.unit.workflows import worlds
from tests.unit.workflows.driver import CONVERTER, HELD, Driver, driving
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery
from workflows.watch_queries import WatchQueries

INPUTS: dict[type, Any] = {
    Cleanup: CleanupInput(collaboration="flights", apply=True),
    ConcludeRun: worlds.TICKET,
    Prepare: worlds.RUN,
    PublishAzureDataset: worlds.publication("azure-blob"),
    PublishQuery: worlds.QUERY,
    PublishS3Dataset: worlds.publication("aws-s3"),
    RunQuery: worlds.RUN,
    WatchQueries: worlds.WATCH,
}
MEBIBYTES = b"[" * 2**20 + b"]" * 2**20


class Waiting(dict[str, Any]):
    """The answers of activities that all run until the test ends."""

    def __missing__(self, name: str) -> Any:
        return HELD


def raw(data: bytes, **metadata: bytes) -> RawValue:
    return RawValue(Payload(metadata=metadata, data=data))


def text(value: Any) -> RawValue:
    return raw(json.dumps(value).encode(), encoding=b"json/plain")


UNREADABLE = {
    "null": raw(b"", encoding=b"binary/null"),
    "bytes": raw(b"\0\1", encoding=b"binary/plain"),
    "protobuf": raw(b"\x0a\x01a", encoding=b"binary/protobuf", messageType=b"temporal.api.common.v1.Payload"),
    "protobuf of an unknown type": raw(b"{}", encoding=b"json/protobuf", messageType=b"no.such.Type"),
    "another encoding": raw(b"{}", encoding=b"text/xml"),
    "an encoding that is no text": raw(b"{}", encoding=b"\xff\xfe"),
    "no encoding": raw(b"{}"),
    "no JSON": raw(b"{", encoding=b"json/plain"),
    "JSON null": text(None),
    "a number": text(7),
    "a list": text([]),
    "an empty object": text({}),
    "unknown members": text({f"m{number}": number for number in range(20_000)}),
    "deep": raw(b"[" * 100_000, encoding=b"json/plain"),
    "2 MiB of brackets": raw(MEBIBYTES, encoding=b"json/plain"),
    "2 MiB of text": text("x" * 2**21),
    "no UTF-8": raw(b'"\xff"', encoding=b"json/plain"),
    "a lone surrogate": raw(b'{"collaboration": "\\ud800"}', encoding=b"json/plain"),
    "a refused payload": RawValue(tombstone(Refused("PayloadTampered", "A payload was refused.", hint="Send it again."))),
}
ARGUMENTS = {name: [value] for name, value in UNREADABLE.items()} | {"nothing": [], "two": [text({}), text({})], "100": [text(1)] * 100}


def test_every_workflow_has_an_input_here() -> None:
    assert set(INPUTS) == set(WORKFLOWS)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.__name__)
def test_a_workflow_that_is_started_with_junk_fails_at_once_with_a_remedy(kind: type, name: str) -> None:
    with driving(kind, None, Waiting(), arguments=ARGUMENTS[name]) as driver:
        assert driver.calls == []
        assert isinstance(driver.error, ApplicationError)
        assert driver.error.non_retryable
        error = error_from_failure(driver.error)
        assert error.code in {"PayloadMalformed", "PayloadTampered", "WorkflowArgumentsInvalid"}
        assert error.hint
        assert len(json.dumps(error.to_dict())) < 2_000


SMALL = [None, True, 0, -1, 1, 10**9, 10**30, 0.5, "", "x", "x" * 3_000, "\0", "\u202e", "../..", [], [None], ["x", "x"], {}, {"x": 1}]
TIMES = ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]
JUNK = st.sampled_from([*SMALL, *TIMES, {"kind": "approve", "message": {}}])


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each member of a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in members for found in ((*at, key), *places(item, (*at, key)))]


@st.composite
def changed(draw: st.DrawFn, original: Any) -> Any:
    """A JSON value with up to three members removed or replaced."""
    value = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        if not (found := places(value)):
            break
        *path, last = draw(st.sampled_from(found))
        parent = value
        for key in path:
            parent = parent[key]
        if draw(st.booleans()):
            parent[last] = copy.deepcopy(draw(JUNK))
        else:
            del parent[last]
    return value


def carried() -> PublishQueryInput:
    """The input of a query that continues as new while an owner's vote waits."""
    with worlds.publish_query(accept_query=HELD) as driver:
        driver.signal("propose", {"party": "fabrikam", "authorisation": "a.b.c"})
        driver.signal("approve", {"decision": "approve.u-contosso.x"})
        driver.suggest_continue = True
        driver.signal("look")
        assert isinstance(driver.continued, PublishQueryInput)
        return driver.continued


FUZZED = {kind.__name__: (kind, [input]) for kind, input in INPUTS.items()}
FUZZED["PublishQuery"] = PublishQuery, [worlds.QUERY, carried()]


@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_input_fails_the_first_workflow_task(name: str, data: st.DataObject) -> None:
    kind, inputs = FUZZED[name]
    original = data.draw(st.sampled_from(inputs)).model_dump(mode="json")
    value = data.draw(changed(original))
    with driving(kind, None, Waiting(), arguments=[text(value)]) as driver:
        assert driver.error is None or error_from_failure(driver.error).code


# ---------------------------------------------------------------------- messages


@pytest.fixture
def query() -> Any:
    with worlds.publish_query() as driver:
        driver.signal("propose", {"party": "fabrikam", "authorisation": "a.b.c"})
        yield driver


@pytest.mark.parametrize("kind", ["approve", "reject", "update", "propose", "withdraw"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_junk_in_a_message_is_refused_and_the_query_continues(query: Driver, kind: str, name: str) -> None:
    query.signal(kind, *ARGUMENTS[name])
    key = query.update(kind, *ARGUMENTS[name])
    assert isinstance(query.updates[key], ApplicationError)
    assert query.query("state").stage == "Proposed"


@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.__name__)
def test_junk_at_any_workflow_leaves_it_as_it_is(kind: type) -> None:
    with driving(kind, INPUTS[kind], Waiting()) as driver:
        running = driver.running()
        for arguments in ARGUMENTS.values():
            driver.signal("no-such-signal", *arguments)
            assert isinstance(driver.updates[driver.update("no-such-update", *arguments)], Exception)
        assert (driver.running(), driver.ended) == (running, False)


@pytest.mark.parametrize("hint", [Any, None, dict[str, int] | None, type(None)])
def test_null_is_accepted_where_it_is_expected(hint: Any) -> None:
    assert CONVERTER.payload_converter.from_payloads(CONVERTER.payload_converter.to_payloads([None]), [hint]) == [None]


def test_a_payload_under_an_unknown_key_is_no_error_of_the_workflow() -> None:
    """The operator can still add the key. Until then the workflow task fails, which `cleanroom doctor` and an alert show."""
    [payload] = CONVERTER.payload_converter.to_payloads([text({})])
    payload = Payload(metadata={"encoding": b"binary/encrypted"}, data=payload.data)
    with pytest.raises(KeyringMissing):
        CONVERTER.payload_converter.from_payloads([payload], [PublishQueryInput])
