"""Names made of several parts: different parts give different names, and every name is one that its system accepts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cleanroom import identifiers as ids
from cleanroom.datasets.encryption import generate_dataset_key, open_bytes, seal_bytes
from cleanroom.errors import InvalidInput, Refused
from cleanroom.joining import hashed, joined
from cleanroom.publishing.user_documents import proposal_id_for
from cleanroom.runs.ledger import closed_event_id, event_scope, runs_event_id
from cleanroom.spark.run_events import event_id

LOWER, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"


def text(first: str, others: str, most: int) -> st.SearchStrategy[str]:
    """A character of ``first``, then at most ``most`` of ``others``. ``st.from_regex`` draws each character apart, which takes longer."""
    return st.builds(str.__add__, st.sampled_from(first), st.text(others, max_size=most))


NAME = text(LOWER + DIGITS, LOWER + DIGITS + "-", ids.MAX_NAME - 1).filter(ids.is_name)
CONTRACT = text(LOWER + LOWER.upper() + DIGITS, LOWER + LOWER.upper() + DIGITS + "._-", 60)
USER = st.one_of(st.uuids().map(str), text(LOWER + DIGITS, LOWER + DIGITS + "-", 40))
KIND = st.sampled_from(["key", "connection", "consent", "network"])
SUBJECT = st.text(min_size=1, max_size=300)

GOVERNANCE = r"[A-Za-z0-9._-]{1,250}"
"""IDs that governance accepts in a path (docs/facts/governance-service.md#requests-and-errors)."""
AZURE = r"[a-z][a-z0-9-]{2,119}"
TEMPORAL = r"[ -~]{1,255}"

NAMES: dict[str, tuple[Callable[..., str], tuple[st.SearchStrategy[str], ...], str]] = {
    "collaborator_queue": (ids.collaborator_queue, (NAME,), TEMPORAL),
    "dataset_workflow_id": (ids.dataset_workflow_id, (CONTRACT, NAME), TEMPORAL),
    "query_workflow_id": (ids.query_workflow_id, (CONTRACT, NAME), TEMPORAL),
    "run_workflow_id": (ids.run_workflow_id, (CONTRACT, NAME), TEMPORAL),
    "prepare_workflow_id": (ids.prepare_workflow_id, (CONTRACT, NAME), TEMPORAL),
    "conclude_workflow_id": (ids.conclude_workflow_id, (CONTRACT, NAME), TEMPORAL),
    # The maximum of spark.kubernetes.executor.podNamePrefix.
    "job_name": (ids.job_name, (CONTRACT, NAME, NAME), r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?"),
    "identity_name": (ids.identity_name, (CONTRACT, NAME), AZURE),
    "federation_name": (ids.federation_name, (SUBJECT, SUBJECT), AZURE),
    "key_encryption_key_name": (ids.key_encryption_key_name, (CONTRACT, NAME), AZURE),
    "federated_subject": (ids.federated_subject, (CONTRACT, USER), GOVERNANCE),
    "run_secret_name": (ids.run_secret_name, (NAME, NAME, KIND), GOVERNANCE),
    "user_secret_name": (ids.user_secret_name, (NAME, KIND), GOVERNANCE),
    "user_secret_id": (ids.user_secret_id, (USER, NAME), GOVERNANCE),
    "approver_key_document_id": (ids.approver_key_document_id, (USER,), GOVERNANCE),
    "decision_document_id": (ids.decision_document_id, (USER, USER), GOVERNANCE),
    "proposal_id_for": (proposal_id_for, (SUBJECT, SUBJECT), r"[0-9a-f]{32}"),
    "event_id": (event_id, (NAME, st.sampled_from(["RUN_STARTED", "GRANTED"]), NAME), GOVERNANCE),
    "object_context": (ids.object_context, (CONTRACT, NAME, st.text(LOWER + DIGITS + "./", min_size=1, max_size=30)), r"[ -~]+"),
}


@given(st.data())
@pytest.mark.parametrize("kind", NAMES)
def test_different_parts_give_different_valid_names(kind: str, data: st.DataObject) -> None:
    make, strategies, pattern = NAMES[kind]
    first = data.draw(st.tuples(*strategies))
    other = data.draw(st.tuples(*strategies))
    names = {parts: make(*parts) for parts in (first, other)}
    assert len(set(names.values())) == len(names)
    for name in names.values():
        assert re.fullmatch(pattern, name), name


CASE_SENSITIVE = ("_workflow_id", "_queue", "_secret_name", "_secret_id", "_document_id", "event_id", "object_context", "proposal_id_for")
"""Names in Temporal and governance, which compare them as they are. Azure and Kubernetes ignore the case or refuse capitals."""


@settings(max_examples=20)
@given(st.data())
@pytest.mark.parametrize("kind", NAMES)
def test_parts_that_differ_in_case_or_late_give_different_names(kind: str, data: st.DataObject) -> None:
    make, strategies, _ = NAMES[kind]
    parts = list(data.draw(st.tuples(*strategies)))
    # The steps of the ledger are constants of the code, all in capitals.
    place = data.draw(st.integers(0, len(parts) - 1).filter(lambda index: (kind, index) != ("event_id", 1)))
    variants = {parts[place], parts[place].upper(), parts[place].lower(), *(parts[place] + "x" * 70 + end for end in ("a", "b"))}
    names = [make(*parts[:place], variant, *parts[place + 1 :]) for variant in variants]
    sensitive = any(kind.endswith(suffix) for suffix in CASE_SENSITIVE)
    assert len({name if sensitive else name.lower() for name in names}) == len(variants)


@pytest.mark.parametrize("name", ["Totals", "TOTALS", "a" * 41, "totals-", "to--tals", "tot.als", ""])
def test_a_name_that_another_could_equal_in_some_system_is_refused(name: str) -> None:
    """So two queries, datasets or runs never differ in their case only."""
    with pytest.raises(InvalidInput, match="InvalidName"):
        ids.require_name("query", name)
    with pytest.raises(ValidationError):
        TypeAdapter(ids.Name).validate_python(name)


@pytest.mark.parametrize("make", [ids.identity_name, ids.key_encryption_key_name, ids.federated_subject])
def test_moving_a_dash_between_parts_changes_the_name(make: Callable[[str, str], str]) -> None:
    assert make("flights-eu", "prices") != make("flights", "eu-prices")
    assert make("flights", "eu") != make("Flights", "eu")
    long = "a" * 200
    assert make(long + "b", "x") != make(long + "c", "x")


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
@example(["a.b", "c"], ["a", "b.c"])
@example(["a", ""], ["a"])
def test_joined_texts_are_equal_only_for_equal_parts(first: list[str], second: list[str]) -> None:
    if any("." in part or not part for part in (*first, *second)):
        with pytest.raises(InvalidInput, match="InvalidName"):
            assert joined(".", *first) == joined(".", *second)
    else:
        assert (joined(".", *first) == joined(".", *second)) == (first == second)


@given(st.lists(st.text(max_size=20), max_size=4), st.lists(st.text(max_size=20), max_size=4), st.integers(30, 80))
@example(["a", "b"], ["a\0b"], 40)
@example(["", "a"], ["a", ""], 40)
def test_hashed_names_are_equal_only_for_equal_parts(first: list[str], second: list[str], max_length: int) -> None:
    names = [hashed("test", *parts, prefix="x", max_length=max_length, readable="-".join(parts)) for parts in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    assert all(re.fullmatch(r"x(-[a-z0-9]+)+", name) and len(name) <= max_length for name in names)
    assert hashed("other", *first, prefix="x", max_length=max_length) != hashed("test", *first, prefix="x", max_length=max_length)


@given(USER, NAME, NAME)
def test_documents_of_keys_and_decisions_cannot_be_named_like_a_dataset_or_query(user: str, proposal: str, name: str) -> None:
    assert name not in {ids.approver_key_document_id(user), ids.decision_document_id(proposal, user)}


@given(NAME, NAME)
def test_entries_of_runs_and_queries_have_different_ids(run: str, query: str) -> None:
    assert len({runs_event_id(query), closed_event_id(run), event_id(run, "RUN_STARTED")}) == 3
    assert event_scope(run) != "runs"


@pytest.mark.parametrize("collaboration", ["", "a/run", "/"])
def test_a_collaboration_that_would_make_workflow_ids_ambiguous_is_rejected(collaboration: str) -> None:
    with pytest.raises(InvalidInput, match="InvalidName"):
        ids.run_workflow_id(collaboration, "r-1")


def test_an_object_opens_only_in_its_own_collaboration_and_dataset() -> None:
    key = generate_dataset_key()
    place = ("flights", "prices", "2013-01-01/a.csv")
    sealed = seal_bytes(b"rows", key, ids.object_context(*place))
    assert open_bytes(sealed, key, ids.object_context(*place)) == b"rows"
    for other in [("flights-eu", *place[1:]), ("flights", "costs", place[2]), (*place[:2], "2013-01-02/a.csv")]:
        with pytest.raises(Refused, match="CiphertextInvalid"):
            open_bytes(sealed, key, ids.object_context(*other))
