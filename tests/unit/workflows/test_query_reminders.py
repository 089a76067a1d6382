"""Reminders of a query, in virtual time."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from cleanroom.errors import Unavailable
from cleanroom.messages.query import BallotRecorded, Notified, QueryState
from tests.unit.workflows.driver import HELD, START, Driver
from tests.unit.workflows.test_publish_query import AUTHOR, PERIOD, propose, vote
from tests.unit.workflows.worlds import OWNERS, QUERY, publish_query

ONE = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"})


def sent(query: Driver) -> list[tuple[str, str, str]]:
    """Kind, recipient and task queue of each notification, in order."""
    calls = [call for call in query.calls if call.name == "notify"]
    return [(call.argument.kind, call.argument.recipient, call.command.task_queue) for call in calls]


def state(query: Driver) -> QueryState:
    found: QueryState = query.query("state")
    return found


def to(*names: str) -> list[tuple[str, str]]:
    return [(name, f"collaborator.{name}") for name in names]


def test_a_proposal_reminds_after_a_day_at_half_of_its_time_and_a_day_before_its_end() -> None:
    with publish_query() as query:
        propose(query)
        query.advance(hours=23)
        assert sent(query) == []
        query.advance(hours=1)
        assert sent(query) == [("reminder", *item) for item in to("contosso", "litware")]
        assert (query.attributes["CrReminded"], state(query).reminded) == (["reminder"], ("reminder",))
        assert "**reminder** sent 2026-01-02 00:00 UTC" in query.details
        query.advance(days=6)
        escalation = sent(query)[2:]
        assert escalation == [("escalation", *item) for item in (*to("contosso", "fabrikam", "litware"), ("operator", "frontend"))]
        query.advance(days=6)
        assert sent(query)[6:] == [("last-reminder", *item) for item in to("contosso", "litware")]
        request = query.call("notify").argument
        assert (request.collaboration, request.query, request.proposal_id) == ("flights", "totals", "p-1")
        assert (request.expires, request.seen) == (START + PERIOD, "2.21")
        history = [(entry.event, entry.detail) for entry in state(query).history if "reminder" in entry.event or "escal" in entry.event]
        assert history == [(kind, "contosso, litware") for kind in ("reminder", "escalation", "last-reminder")]
        query.advance(days=1)
        assert (query.result.stage, len(sent(query))) == ("Expired", 8)
        assert "sent" not in query.details


def test_only_owners_whose_decision_is_missing_are_reminded() -> None:
    with publish_query(accept_query=ONE) as query:
        propose(query)
        query.update("approve", vote())
        query.advance(days=1)
        assert sent(query) == [("reminder", "litware", "collaborator.litware")]


def test_each_proposal_has_its_own_reminders_and_a_draft_has_none() -> None:
    with publish_query() as query:
        query.advance(days=2)
        assert sent(query) == []
        propose(query)
        query.advance(days=2)
        query.update("withdraw", AUTHOR)
        assert (state(query).reminded, query.attributes["CrReminded"]) == ((), [None])
        query.advance(days=2)
        propose(query, "p-2")
        query.advance(days=2)
        assert Counter(kind for kind, *_ in sent(query)) == {"reminder": 4}
        assert query.call("notify").argument.proposal_id == "p-2"


def test_proposer_and_owners_are_told_before_the_approvals_expire() -> None:
    with publish_query() as query:
        propose(query)
        for user in OWNERS:
            query.update("approve", vote(user))
        query.advance(days=28)
        assert sent(query) == []
        query.advance(days=1)
        assert sent(query) == [("renewal", *item) for item in to("contosso", "fabrikam", "litware")]
        query.advance(days=2)
        assert query.result.stage == "Expired"


@pytest.mark.parametrize(("seconds", "times"), [(3599, []), (3600, [900, 1800, 2700]), (2 * 86400, [43200, 86400, 129600])])
def test_reminders_of_a_short_period_are_at_its_quarters_and_there_are_none_within_an_hour(seconds: int, times: list[int]) -> None:
    with publish_query(QUERY.model_copy(update={"approval_seconds": seconds})) as query:
        propose(query)
        found = []
        for number in range(seconds // 900):
            before = len(sent(query))
            query.advance(seconds=900)
            found += [900 * (number + 1)] if len(sent(query)) > before else []
        assert found == times


def test_a_recipient_whose_worker_is_not_running_delays_nothing() -> None:
    with publish_query(notify=HELD, accept_query=ONE) as query:
        propose(query)
        query.advance(days=8)
        assert query.running().count("notify") == 6
        assert query.call("notify").command.schedule_to_close_timeout.ToTimedelta() == timedelta(days=1)
        assert query.call("notify").command.retry_policy.maximum_attempts == 6
        query.update("approve", vote())
        assert state(query).accepted == ("contosso",)
        query.advance(days=6)
        assert (query.result.stage, query.running()) == ("Expired", [])


def test_a_reminder_that_could_not_be_sent_is_in_the_history() -> None:
    with publish_query(notify=Unavailable("WebhookFailed", "the server answered 503.")) as query:
        propose(query)
        query.advance(days=1)
        last = state(query).history[-2:]
        assert [(entry.event, entry.by, entry.detail) for entry in last] == [
            ("not notified", "contosso", "WebhookFailed"), ("not notified", "litware", "WebhookFailed"),
        ]  # fmt: skip
        assert state(query).stage == "Proposed"


def test_continue_as_new_keeps_what_was_sent_and_sends_what_was_not() -> None:
    with publish_query(notify=[HELD, Notified(sent=True)]) as query:
        propose(query)
        query.advance(days=1)
        assert query.running() == ["find_query_change", "notify"]
        query.suggest_continue = True
        query.signal("x")
        carried = query.continued
        assert [(item.kind, item.recipient) for item in carried.carried_notifications] == [("reminder", "contosso")]
    with publish_query(carried, now=START + timedelta(days=1)) as next_run:
        assert sent(next_run) == [("reminder", "contosso", "collaborator.contosso")]
        next_run.advance(days=5)
        assert len(sent(next_run)) == 1
        next_run.advance(days=1)
        assert [kind for kind, *_ in sent(next_run)[1:]] == ["escalation"] * 4


def test_of_several_missed_reminders_the_latest_is_sent() -> None:
    """No worker of the workflow was running for eleven days."""
    with publish_query() as query:
        propose(query)
        query.suggest_continue = True
        query.signal("x")
        carried: Any = query.continued
    with publish_query(carried, now=START + timedelta(days=11)) as next_run:
        next_run.advance(seconds=1)
        assert {kind for kind, *_ in sent(next_run)} == {"escalation"}
        assert state(next_run).reminded == ("reminder", "escalation")
