"""What the end of one run takes back, what it leaves to another run, and which completion record counts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from activities.clean_room_context import BARRIER
from cleanroom.claims import NOBODY
from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.messages.run import (
    CollectRequest,
    ConfigureIdpRequest,
    ConsentReceiptRequest,
    ConsentWatchRequest,
    GrantRequest,
    RevokeRequest,
    RunTicket,
    StagedSecret,
    StageRequest,
)
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.consent_receipt import RECEIPT_SECONDS
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.run_events import event_id
from cleanroom.spark.tombstone import is_tombstone
from tests.completion import completed_event
from tests.run_world import RunWorld
from tests.unit.spark_support import make_profile


async def begin(runs: RunWorld, ticket: RunTicket) -> None:
    """Stage and grant every secret of a run, and issue its consent receipt."""
    secrets, proof, job = runs.process.secrets, runs.proof(ticket), runs.job(ticket)
    for item in (*job.datasets, job.datasink):
        expected = [StagedSecret(dataset=item.name, kind="key", secret_id=str(item.key_secret_id))]
        if item.access.kind == "aws-s3":
            expected.append(StagedSecret(dataset=item.name, kind="connection", secret_id=item.access.connection_secret_id))
        read = secrets.get_key_with_skr if item.access.kind != "aws-s3" else secrets.get_secret
        staged = await runs.call(read, StageRequest(ticket=ticket, proof=proof, dataset=item.name))
        assert staged.secrets == tuple(expected)
        await runs.call(secrets.set_secret, GrantRequest(ticket=ticket, proof=proof, secrets=staged.secrets))
    await runs.call(secrets.configure_idp, ConfigureIdpRequest(ticket=ticket, proof=proof))
    await runs.call(secrets.issue_consent_receipt, ConsentReceiptRequest(ticket=ticket, proof=proof))


def hosts_of(runs: RunWorld, ticket: RunTicket) -> set[str]:
    return set(pod_policies(runs.job(ticket), make_profile()).host_data())


def held_by(runs: RunWorld, ticket: RunTicket) -> dict[str, int]:
    """Number of delegate policies of each kind that are granted to both roles of the run."""
    hosts, found = hosts_of(runs, ticket), dict[str, int]()
    for (kind, _), held in runs.governance.delegates.items():
        assert not held & hosts or hosts <= held, "one role only"
        if held & hosts:
            found[kind] = found.get(kind, 0) + 1
    return found


async def revoke(runs: RunWorld, ticket: RunTicket) -> Any:
    return await runs.call(runs.process.secrets.revoke_grants, RevokeRequest(ticket=ticket))


async def test_the_end_of_one_run_takes_back_every_kind_and_leaves_the_other_run_all(runs: RunWorld) -> None:
    first, second = runs.ticket("r-1"), runs.ticket("r-2")
    await begin(runs, first)
    await begin(runs, second)
    # Four keys, three connections, receipt and network secret; the subject of the only owner on Azure; the event writer.
    assert held_by(runs, first) == held_by(runs, second) == {"secrets": 9, "oauth-federation-subjects": 1, "events": 1}
    before = {name: value.reveal() for name, value in runs.governance.secrets.items() if name.startswith("cleanroom_r-2.")}
    assert len(before) == 9
    revoked = await revoke(runs, first)
    assert held_by(runs, first) == {}
    assert runs.released(first) == []
    assert held_by(runs, second) == {"secrets": 9, "oauth-federation-subjects": 1, "events": 1}
    assert {name: runs.governance.secrets[name].reveal() for name in before} == before
    assert runs.usable_keys(second)
    assert (revoked.secrets, revoked.grants, revoked.closed) == (9, 22, True)
    assert {grant.delegate_type for grant in revoked.removed} == {"secrets", "oauth-federation-subjects", "events"}
    assert {grant.host_data for grant in revoked.removed} == hosts_of(runs, first)


async def test_every_policy_keeps_a_host_that_no_guest_has(runs: RunWorld) -> None:
    """A policy without host data would admit every guest."""
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    await revoke(runs, ticket)
    assert all(held == {NOBODY} for held in runs.governance.delegates.values())


async def test_second_revocation_finds_nothing_and_overwrites_again(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    await revoke(runs, ticket)
    again = await revoke(runs, ticket)
    assert (again.grants, again.removed, again.closed) == (0, (), True)
    assert all(is_tombstone(value) for name, value in runs.governance.secrets.items() if name.startswith("cleanroom_r-1."))


async def test_the_run_is_closed_before_the_first_grant_is_taken_back(runs: RunWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    order: list[str] = []
    client = runs.process.client
    for name in ("put_event", "put_secret", "set_delegate"):
        genuine = getattr(client, name)

        async def noted(*arguments: Any, name: str = name, genuine: Any = genuine, **options: Any) -> Any:
            order.append(str(arguments[0]["name"]) if name == "put_event" else BARRIER if arguments[0] == BARRIER else name)
            return await genuine(*arguments, **options)

        monkeypatch.setattr(client, name, noted)
    await revoke(runs, ticket)
    assert order[:2] == [BARRIER, "RUN_CLOSED"]
    assert order.count("set_delegate") == 11
    assert order.count("put_secret") == 9


# ---------------------------------------------------------------------- while governance is away


async def test_the_receipt_is_not_renewed_while_governance_is_away(runs: RunWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    receipt_id = runs.job(ticket).consent_secret_id
    before = runs.governance.secrets[receipt_id].reveal()
    pauses = 0
    client = runs.process.client

    async def away(*arguments: Any, **options: Any) -> Any:
        raise Unavailable("GovernanceUnreachable", "on purpose")

    async def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        runs.now += dt.timedelta(seconds=60)
        if pauses == 1:
            for name in ("document_consent", "get_document", "accepted_document", "list_identities", "latest_event"):
                monkeypatch.setattr(client, name, away)
        if pauses == 4:
            raise RuntimeError("enough")

    monkeypatch.setattr(runs.process.room, "pause", pause)
    request = ConsentWatchRequest(ticket=ticket, proof=runs.proof(ticket), interval_seconds=5)
    with pytest.raises(RuntimeError, match="enough"):
        await runs.call(runs.process.secrets.watch_consent, request)
    assert runs.now - runs.world.now > dt.timedelta(seconds=RECEIPT_SECONDS)
    assert runs.governance.secrets[receipt_id].reveal() == before
    assert runs.usable_keys(ticket) == []


# ---------------------------------------------------------------------- the completion record


def receipt_for(runs: RunWorld, ticket: RunTicket, **changes: Any) -> dict[str, Any]:
    return completed_event(runs.job(ticket), **changes).model_dump(mode="json", by_alias=True)


async def collect(runs: RunWorld, ticket: RunTicket, *, behind: bool = False, **changes: Any) -> str:
    """Enter the completion record and collect it, with a worker whose node does not have it yet if ``behind``."""
    before = list(runs.governance.ledger)
    await runs.process.client.put_event(
        receipt_for(runs, ticket, **changes), event_id=event_id(ticket.run_id, "QUERY_COMPLETED"), scope=event_scope(ticket.run_id)
    )
    if behind:
        runs.process.lag_behind(ledger=before)
    try:
        request = CollectRequest(ticket=ticket, job_digest=runs.job(ticket).digest())
        found = await runs.call(runs.process.governance.collect_result, request)
    except CleanRoomError as error:
        return error.code
    assert found.run_id == ticket.run_id
    return "collected"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "collected"),
        ({"run_id": "r-2"}, "CompletionEvidenceMismatch"),
        ({"query_digest": "0" * 64}, "CompletionEvidenceMismatch"),
        ({"job_digest": "0" * 64}, "CompletionEvidenceMismatch"),
        ({"dataset": "litware-planes"}, "CompletionEvidenceMismatch"),
    ],
)
async def test_the_completion_record_must_be_for_this_run_text_job_and_output(runs: RunWorld, changes: dict[str, Any], code: str) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    assert await collect(runs, ticket, **changes) == code


async def test_a_completion_record_that_the_node_does_not_have_yet_is_collected(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    assert await collect(runs, ticket, behind=True) == "collected"


async def test_a_completion_record_without_a_receipt_is_no_evidence(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    data = receipt_for(runs, ticket) | {"receipt": None}
    await runs.process.client.put_event(data, event_id=event_id("r-1", "QUERY_COMPLETED"), scope=event_scope("r-1"))
    request = CollectRequest(ticket=ticket, job_digest=runs.job(ticket).digest())
    with pytest.raises(CleanRoomError) as caught:
        await runs.call(runs.process.governance.collect_result, request)
    assert caught.value.code == "CompletionEvidenceMismatch"


async def test_the_result_of_another_job_than_the_run_prepared_is_not_collected(runs: RunWorld) -> None:
    ticket = runs.ticket("r-1")
    await begin(runs, ticket)
    await runs.process.client.put_event(receipt_for(runs, ticket), event_id=event_id("r-1", "QUERY_COMPLETED"), scope=event_scope("r-1"))
    request = CollectRequest(ticket=ticket, job_digest="0" * 64)
    with pytest.raises(CleanRoomError) as caught:
        await runs.call(runs.process.governance.collect_result, request)
    assert caught.value.code == "CompletionEvidenceMismatch"
