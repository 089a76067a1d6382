"""Random commands, votes, cancellations and days pass over a query; no place contradicts another, and no hint leads into a circle.

The short form runs by default. ``make test-life`` chooses more examples (``CLEANROOM_TEST_LIFE``).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from cleanroom.lifecycle.query import BY_STAGE, STATES, TRANSITIONS, refused_state
from cleanroom.lifecycle.state import FILE
from cleanroom.temporal import attributes
from tests.life_world import COMMAND, OWNERS, QUERY, Life, budget, life_world, live
from tests.temporal_in_memory import STATUS

WORDS = {state.word: state for state in STATES}
ACCEPTED = ("Approved", "Expired", "Exhausted", "Consent Withdrawn", "Refused")
WHO = st.sampled_from([*OWNERS, "fabrikam"])
OWNER = st.sampled_from(OWNERS)
LONGEST_WAY = 14
"""Commands from any state to a run: a renewal, two approvals, three consents that were withdrawn, …"""


class QueryLife(Life):
    """The life of the query ``totals`` and of its renewals. A move is made by one command or event."""

    @initialize(
        begin=st.sampled_from(["nothing", "draft", "proposed", "approved", "approved", "approved"]), runs=st.sampled_from(["", "1", "2"])
    )
    def begin(self, begin: str, runs: str) -> None:
        self.world = life_world(self.new_folder(), self.patch)
        self.shown: dict[str, str] = {}
        self.event, self.agreed = "", True
        if begin != "nothing":
            self.create(variant=0)
        if begin in ("proposed", "approved"):
            self.propose(who="fabrikam")
        if begin == "approved":
            for owner in OWNERS:
                self.approve(who=owner, days=30, runs=runs)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world") and self.agreed:
                self.compare_with_governance_alone()
                self.arrive()
        finally:
            super().teardown()

    # ------------------------------------------------------------------ helpers

    def give(self, words: str, by: str) -> tuple[int, Any]:
        """Give a command. The hint of its error is followed at once."""
        self.event = " ".join(words.split()[1:3])
        code, answer = self.world.command(words, by)
        if code:
            assert isinstance(answer, dict)
            assert answer["code"] != "UnexpectedError", answer
            self.follow(answer, by)
        return code, answer

    def follow(self, error: dict[str, Any], by: str, depth: int = 0) -> None:
        """Follow the hint of an error, as the person whom it concerns. It leads to something else than the same error."""
        self.event = ""
        commands = COMMAND.findall(error["hint"] or "")
        assert commands, f"the hint names no command: {error}"
        assert depth < 4, f"hints lead in a circle: {error}"
        failed: list[dict[str, Any]] = []
        for command in commands:
            code, answer = self.world.command(self.complete(command), self.person(command, by))
            if code == 0:
                return
            assert isinstance(answer, dict), f"{command} is not a command: {error}"
            failed.append(answer)
        assert failed[-1]["code"] != error["code"], f"{commands} lead back to {error}"
        self.follow(failed[-1], by, depth + 1)

    def complete(self, command: str) -> str:
        return command.replace(FILE, self.world.file(0))

    def person(self, command: str, by: str) -> str:
        """Return who gives a command of a hint. Authors propose, renew and run; owners decide."""
        words = command.split()
        if words[1:3] == ["consent", "on"]:
            refusing = self.world.governance.refusing[words[3]]
            return next((user.removeprefix("u-") for user in sorted(refusing)), by)
        assert "NAME" not in words
        if words[1:3] in (["query", "approve"], ["query", "reject"]):
            _, record = self.world.command(f"cleanroom query show {words[3]}", by)
            return next(iter(record["pending"]), by)
        return "fabrikam" if words[2] in ("create", "propose", "renew", "start", "withdraw") else by

    def arrive(self) -> None:
        """From wherever the query is, the commands that `query show` prints lead to a run, without a circle."""
        way: list[tuple[Any, ...]] = []
        name = QUERY
        for _ in range(LONGEST_WAY):
            code, record = self.world.command(f"cleanroom query show {name}", "contosso")
            if code:
                assert record["code"] == "WorkflowNotFound"
                code, record = self.world.command(f"cleanroom query create {self.world.file(0)}", "fabrikam")
                assert code == 0, record
                continue
            command, people = record["next"], record["next_by"]
            step = (record["query"], record["state"], tuple(record["pending"]), record["version"], command, tuple(people))
            assert step not in way, f"a circle: {way}"
            way.append(step)
            if command.startswith("cleanroom query show"):
                name = command.split()[-1]
                continue
            code, answer = self.world.command(self.complete(command), people[0] if people else "fabrikam")
            if code:
                # `show` does not know what the author wrote on the author's machine.
                assert answer["code"] == "DraftChanged", f"{command} by {people}: {answer}; {way}"
                self.follow(answer, people[0])
            elif command.startswith("cleanroom run start"):
                return
        raise AssertionError(f"no end: {way}")

    def names(self) -> list[str]:
        """The queries that exist, oldest first."""
        candidates = [QUERY, *(f"{QUERY}-r{number}" for number in range(2, 12))]
        return [name for name in candidates if self.world.held(name) is not None or self.world.execution(name) is not None]

    def started(self) -> int:
        """The number of runs that Temporal has seen."""
        return sum(execution.kind == "RunQuery" for execution in self.world.temporal.executions.values())

    def latest(self) -> str:
        return next((name for name in reversed(self.names()) if self.world.held(name) is not None), QUERY)

    # ------------------------------------------------------------------ commands

    @rule(variant=st.integers(0, 1))
    def create(self, variant: int) -> None:
        self.give(f"cleanroom query create {self.world.file(variant)}", "fabrikam")

    @rule(who=WHO, variant=st.integers(0, 1))
    def update(self, who: str, variant: int) -> None:
        self.give(f"cleanroom query update {self.world.file(variant)}", who)

    @rule(who=st.sampled_from(["fabrikam", "fabrikam", "litware"]))
    def propose(self, who: str) -> None:
        self.give(f"cleanroom query propose {QUERY}", who)

    @rule(who=OWNER, days=st.sampled_from([1, 30, 30]), runs=st.sampled_from(["", "", "1", "2"]))
    def approve(self, who: str, days: int, runs: str) -> None:
        limit = f" --max-runs {runs}" if runs else ""
        self.give(f"cleanroom query approve {QUERY} --expires-days {days}{limit}", who)

    @rule(who=OWNER)
    def reject(self, who: str) -> None:
        code, _ = self.give(f"cleanroom query reject {QUERY} --reason because", who)
        if code == 0:
            _, record = self.world.command(f"cleanroom query show {QUERY}", who)
            assert record["rejections"][-1] == f"{who}: because"

    @rule(only=st.booleans())
    def withdraw(self, only: bool) -> None:
        self.give(f"cleanroom query withdraw {QUERY}{' --only-proposal' if only else ''}", "fabrikam")

    @rule(who=st.sampled_from(["fabrikam", "fabrikam", "contosso"]))
    def renew(self, who: str) -> None:
        self.give(f"cleanroom query renew {QUERY}", who)

    @rule(who=WHO)
    def adopt(self, who: str) -> None:
        self.give(f"cleanroom query adopt {self.latest()}", who)

    @rule()
    def run(self) -> None:
        before = self.started()
        code, _ = self.give(f"cleanroom run start {QUERY}", "fabrikam")
        assert self.started() == before + (code == 0), "what a run would meet is known before its workflow is started"

    @rule(who=OWNER, word=st.sampled_from(["on", "off", "off"]), dataset=st.booleans())
    def consent(self, who: str, word: str, dataset: bool) -> None:
        document = {"contosso": "orders", "litware": "out"}[who] if dataset else self.latest()
        held = self.world.held(document)
        if held is not None and held.state == "Accepted":
            self.give(f"cleanroom consent {word} {document}", who)

    # ------------------------------------------------------------------ what else happens

    @rule(days=st.sampled_from([1, 2, 15, 31]))
    def time_passes(self, days: int) -> None:
        self.event = "deadline"
        self.world.pass_time(dt.timedelta(days=days))

    @rule(how=st.sampled_from(["cancel", "terminate", "lose"]))
    def stop_the_workflow(self, how: Literal["cancel", "terminate", "lose"]) -> None:
        """The buttons of the Web UI, and Temporal's retention."""
        self.event = {"cancel": "Request Cancellation", "terminate": "Terminate", "lose": "lost"}[how]
        execution = self.world.execution(self.latest())
        if execution is None:
            return
        if how == "lose":
            self.world.temporal.lose(execution.id)
        elif execution.status is STATUS.RUNNING:
            self.press(execution, how)

    @precondition(lambda self: (held := self.world.held(self.latest())) is not None and held.state == "Proposed")
    @rule(who=OWNER, accept=st.sampled_from([True, True, False]))
    def vote_in_governance(self, who: str, accept: bool) -> None:
        """Without a signed decision."""
        self.event = "a vote without a decision"
        held = self.world.held(self.latest())
        assert held is not None
        voted = self.world.governance.proposals[held.proposal_id].ballots
        if f"u-{who}" not in voted:
            asyncio.run(self.world.owners[who].client.submit_ballot(held.proposal_id, accept=accept))

    # ------------------------------------------------------------------ invariants

    @invariant()
    def every_place_shows_what_a_run_meets(self) -> None:
        if not (names := self.names()):
            return
        self.agreed = False
        before = self.places(names)
        self.world.settle()
        _, rows = self.world.command("cleanroom query list", "contosso")
        assert all(row["state"] == before[row["query"]] for row in rows), "the watcher changes no state"
        for name, state in before.items():
            if self.event and self.shown.get(name, state) != state:
                self.moves.add((self.shown[name], state))
            self.compare_with_the_search_attributes(name, state)
        self.shown, self.agreed = before, True

    def places(self, names: list[str]) -> dict[str, str]:
        """Return the states that all places show."""
        world = self.world
        _, rows = world.command("cleanroom query list", "litware")
        listed = {row["query"]: row for row in rows}
        found: dict[str, str] = {}
        _, record = world.command(f"cleanroom query show {names[-1]}", "fabrikam")
        shown = {names[-1]: record} | {item["query"]: item for item in record.get("renews", [])}
        for name in names:
            held = world.held(name)
            if name in shown:
                state, version = shown[name]["state"], shown[name]["version"]
                if name in listed:
                    assert (listed[name]["state"], listed[name]["version"] or "") == (state, version or ""), (
                        name,
                        listed[name],
                        shown[name],
                    )
            else:
                state = listed[name]["state"]
            assert state in WORDS
            if held is not None and held.state == "Accepted":
                assert refused_state(world.met(name)).word == state
            else:
                assert state not in ACCEPTED or state == "Expired"
            found[name] = state
        return found

    def compare_with_governance_alone(self) -> None:
        _, rows = self.world.command("cleanroom query list --from-governance", "contosso")
        for row in rows:
            assert row["state"] == self.shown.get(row["query"], row["state"])

    def compare_with_the_search_attributes(self, name: str, state: str) -> None:
        """After the watcher has looked, ``CrStage`` is the state, as long as there is a workflow that can say so."""
        execution = self.world.execution(name)
        if execution is None or execution.status is STATUS.TERMINATED:
            return
        stage = (execution.attributes.get(attributes.STAGE) or "").removeprefix("query.")
        if execution.status is STATUS.RUNNING or state not in ACCEPTED:
            assert BY_STAGE[stage].word == state, (name, execution.status)


@pytest.mark.timeout(3600)
def test_no_place_contradicts_another_and_every_hint_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    live(QueryLife, monkeypatch, tmp_path, budget(5, 10))
    drawn = {(each.before.word, each.after.word) for each in TRANSITIONS if each.before}
    assert QueryLife.moves <= drawn, "docs/query-life.md does not show how these states follow each other"
