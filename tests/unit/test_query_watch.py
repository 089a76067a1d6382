"""The watcher of open queries: it wakes those that differ from governance, and asks about the others as seldom as possible."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cleanroom.errors import Conflict, Unavailable
from cleanroom.messages.known import KnownState
from cleanroom.messages.query import GovernanceQueryState
from cleanroom.publishing.query_watch import LIST_SECONDS, LONGEST_PAUSE, READS_PER_LOOK, QueryWatch

DRAFT = GovernanceQueryState(state="Draft", version="2.10", digest="1" * 64)
PROPOSED = GovernanceQueryState(state="Proposed", version="2.10", digest="1" * 64, proposal_id="ab12", proposal_state="Open")


def known(state: GovernanceQueryState) -> KnownState:
    found = KnownState.of(state)
    assert found is not None
    return found


class World:
    """Governance, workflows that show what they know, and a clock."""

    def __init__(self, *names: str) -> None:
        self.now = 0.0
        self.ledger = 1
        self.held = dict.fromkeys(names, known(DRAFT))
        self.shown: dict[str, KnownState] = dict(self.held)
        self.compared: list[str] = []
        self.woken: list[str] = []
        self.lists = 0
        self.awake = True
        self.error: Exception | None = None
        self.tells_position = True
        self.watch = QueryWatch(self, self, lambda: self.now)

    async def list(self) -> Mapping[str, KnownState]:
        self.lists += 1
        return dict(self.shown)

    async def known(self, query: str) -> KnownState | None:
        return self.shown.get(query)

    async def wake(self, query: str) -> None:
        self.woken.append(query)
        if self.awake:
            self.shown[query] = self.held[query]

    async def position(self) -> str:
        return f"2.{self.ledger}" if self.tells_position else ""

    async def is_current(self, query: str, known: KnownState) -> bool:
        self.compared.append(query)
        if self.error is not None:
            raise self.error
        return known.is_same(self.held[query])

    def change(self, query: str, state: GovernanceQueryState = PROPOSED) -> None:
        """Change a query directly in governance."""
        self.held[query] = known(state)
        self.ledger += 1

    async def look(self, seconds: float = 1.0) -> None:
        """Look every second for a while."""
        until = self.now + seconds
        while self.now < until:
            await self.watch.look()
            self.now += 1


@pytest.fixture
def world() -> World:
    return World("a", "b", "c")


async def test_queries_are_not_read_again_while_the_ledger_has_not_grown(world: World) -> None:
    await world.look(LIST_SECONDS - 1)
    assert (sorted(world.compared), world.lists, world.woken) == (["a", "b", "c"], 1, [])
    await world.look(2 * LIST_SECONDS)
    assert (len(world.compared), world.lists) == (3, 3)


async def test_a_query_that_changed_in_governance_is_woken_after_a_second_and_not_again(world: World) -> None:
    await world.look()
    world.change("b")
    await world.look()
    assert world.woken == []
    await world.look()
    assert world.woken == ["b"]
    await world.look(LIST_SECONDS)
    assert world.woken == ["b"]
    assert world.compared.count("a") == 2


async def test_a_query_that_made_the_change_itself_is_not_woken(world: World) -> None:
    await world.look()
    world.change("b")
    await world.look()
    world.shown["b"] = world.held["b"]
    await world.look(LIST_SECONDS)
    assert world.woken == []


async def test_a_query_that_closes_while_it_is_compared_is_forgotten(world: World) -> None:
    await world.look()
    world.change("b")
    await world.look()
    del world.shown["b"]
    await world.look(LIST_SECONDS)
    assert (world.woken, world.compared.count("b")) == ([], 3)


async def test_a_new_watcher_finds_what_changed_while_none_was_running(world: World) -> None:
    await world.look()
    world.change("a")
    world.shown["d"] = known(DRAFT)
    world.change("d")
    world.watch = QueryWatch(world, world, lambda: world.now)
    await world.look(2)
    assert sorted(world.woken) == ["a", "d"]


async def test_a_query_that_is_adopted_later_is_compared_although_the_ledger_has_not_grown(world: World) -> None:
    await world.look(5)
    world.held["d"], world.shown["d"] = known(PROPOSED), known(DRAFT)
    await world.look(LIST_SECONDS + 1)
    assert world.woken == ["d"]


async def test_a_query_that_is_closed_is_not_read_any_longer(world: World) -> None:
    await world.look()
    del world.shown["b"]
    world.ledger += 1
    await world.look()
    assert world.compared.count("b") == 1


async def test_a_workflow_that_is_not_waiting_is_woken_again_after_longer_and_longer_pauses(world: World) -> None:
    """It may be in the middle of a command, or show that its document cannot be read."""
    await world.look()
    world.awake = False
    world.change("b")
    await world.look(64)
    assert len(world.woken) == 6
    await world.look(20 * LONGEST_PAUSE)
    assert 24 <= len(world.woken) <= 30
    world.awake = True
    await world.look(2 * LONGEST_PAUSE)
    count = len(world.woken)
    await world.look(10 * LONGEST_PAUSE)
    assert len(world.woken) == count


async def test_a_document_that_cannot_be_read_wakes_its_workflow_and_hides_no_other(world: World) -> None:
    world.error = Conflict("ContractIdMismatch", "on purpose")
    await world.look(2)
    assert sorted(world.woken) == ["a", "b", "c"]


async def test_governance_that_does_not_answer_wakes_nothing_and_what_it_hid_is_found_later(world: World) -> None:
    await world.look()
    world.change("a")
    world.error = Unavailable("GovernanceUnreachable", "on purpose")
    with pytest.raises(Unavailable):
        await world.look()
    assert world.woken == []
    world.error = None
    world.now += 1
    await world.look(2)
    assert world.woken == ["a"]


async def test_many_queries_are_compared_at_a_bounded_rate_and_all_in_turn() -> None:
    names = [f"q-{number:04}" for number in range(10 * READS_PER_LOOK)]
    world = World(*names)
    await world.look(10)
    assert sorted(world.compared) == names
    world.change(names[500])
    for _ in range(20):
        # A busy ledger: it grows all the time.
        world.ledger += 1
        await world.look()
    assert len(world.compared) <= 30 * READS_PER_LOOK
    assert world.woken == [names[500]]
    assert world.lists <= 4


async def test_the_watcher_says_where_all_queries_are_in_step_with_governance(world: World) -> None:
    assert world.watch.compared is None
    await world.look()
    assert world.watch.compared is not None
    assert world.watch.compared.position == "2.1"
    world.change("b")
    await world.look()
    assert world.watch.compared is None
    await world.look(3)
    assert world.watch.compared is not None
    assert world.watch.compared.position == "2.2"
    world.tells_position = False
    await world.look(LIST_SECONDS)
    assert world.watch.compared is None


async def test_a_proxy_that_tells_no_position_is_asked_once_a_minute(world: World) -> None:
    world.tells_position = False
    await world.look(3 * LIST_SECONDS)
    assert len(world.compared) == 9


def test_the_attribute_holds_a_state_and_nothing_that_another_user_chose() -> None:
    for state in (DRAFT, PROPOSED, PROPOSED.model_copy(update={"state": "Accepted"})):
        assert KnownState.parse(str(known(state))) == known(state)
    strange = PROPOSED.model_copy(update={"version": "x" * 5000, "proposal_id": "a b\n- Accepted"})
    assert len(str(known(strange))) < 100
    parsed = KnownState.parse(str(known(strange)))
    assert parsed is not None
    assert (parsed.proposal_id, parsed.is_same(known(strange)), parsed.is_same(known(PROPOSED))) == ("", True, False)
    for text in (None, "", "Draft", "Missing 2.1 - ab", "Draft 2.1 - ab more"):
        assert KnownState.parse(text) is None


def test_votes_and_texts_make_another_state_and_the_version_of_a_proposal_does_not() -> None:
    voted = PROPOSED.model_copy(update={"ballots": {"u-litware": "accepted"}})
    states = [known(state) for state in (DRAFT, DRAFT.model_copy(update={"digest": "2" * 64}), PROPOSED, voted)]
    assert [[one.is_same(other) for other in states] for one in states] == [[one is other for other in states] for one in states]
    assert known(PROPOSED).is_same(known(PROPOSED.model_copy(update={"version": "2.99"})))
    assert not known(DRAFT).is_same(None)
