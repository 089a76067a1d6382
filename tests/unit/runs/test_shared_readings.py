"""Which answers the activities of a run share, and when releases look again together."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest

from cleanroom.errors import Unavailable
from cleanroom.runs.readings import RunReadings
from cleanroom.runs.second_look import SecondLooks


class Governance:
    """Answers each question with its number."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.away = False
        self.clock = 1000.0

    async def _answer(self, name: str) -> int:
        self.asked[name] += 1
        mine = self.asked[name]
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("GovernanceUnreachable", name)
        return mine

    async def accepted_document(self, document_id: str) -> Any:
        return await self._answer(f"document {document_id}")

    async def consent(self, document_id: str) -> Any:
        return await self._answer(f"consent {document_id}")

    async def active_users(self) -> Any:
        return await self._answer("users")

    async def run_closed(self, run_id: str) -> Any:
        return await self._answer(f"closed {run_id}")

    async def pinned_request(self, run_id: str) -> Any:
        return await self._answer(f"pinned {run_id}")

    async def runs_started(self, query: str) -> Any:
        return await self._answer(f"started {query}")


READS = {
    "document": lambda reader: reader.accepted_document("d"),
    "consent": lambda reader: reader.consent("d"),
    "users": lambda reader: reader.active_users(),
    "closed": lambda reader: reader.run_closed("r"),
    "pinned": lambda reader: reader.pinned_request("r"),
    "started": lambda reader: reader.runs_started("q"),
}


@pytest.fixture
def governance() -> Governance:
    return Governance()


@pytest.fixture
def readings(governance: Governance) -> Any:
    return RunReadings(governance, lambda: governance.clock)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("age", [0.0, 9.9, 10.0, 1000.0])
async def test_an_answer_is_taken_over_until_it_is_too_old(governance: Governance, readings: Any, read: str, age: float) -> None:
    assert await READS[read](readings.recent) == 1
    governance.clock += age
    shared = read == "document" or (read != "started" and age < 10)
    assert await READS[read](readings.recent) == (1 if shared else 2)


@pytest.mark.parametrize("read", READS)
async def test_a_fresh_reading_asks_and_is_taken_over(governance: Governance, readings: Any, read: str) -> None:
    assert await READS[read](readings.recent) == 1
    assert await READS[read](readings.fresh) == 2
    assert await READS[read](readings.recent) == (3 if read == "started" else 2)


async def test_concurrent_activities_wait_for_one_answer(governance: Governance, readings: Any) -> None:
    assert await asyncio.gather(*(readings.recent.consent("d") for _ in range(3))) == [1, 1, 1]
    assert await readings.recent.consent("e") == 1


async def test_an_answer_that_failed_is_asked_for_again(governance: Governance, readings: Any) -> None:
    governance.away = True
    with pytest.raises(Unavailable):
        await readings.recent.consent("d")
    governance.away = False
    assert await readings.recent.consent("d") == 2


async def test_a_fresh_reading_that_failed_leaves_no_older_answer(governance: Governance, readings: Any) -> None:
    await readings.recent.consent("d")
    governance.away = True
    for reader in (readings.fresh, readings.recent):
        with pytest.raises(Unavailable):
            await reader.consent("d")


async def test_a_cancelled_activity_does_not_cancel_the_question_of_the_others(readings: Any) -> None:
    first, second = (asyncio.create_task(readings.recent.consent("d")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1


@pytest.mark.parametrize("answers", [True, False])
def test_question_that_no_activity_waits_for_ends_without_a_complaint(governance: Governance, answers: bool) -> None:
    complaints: list[dict[str, Any]] = []
    governance.away = True

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        readings: Any = RunReadings(governance, lambda: 0.0)
        only = asyncio.create_task(readings.recent.consent("d"))
        await turns(1)
        only.cancel()
        await turns(10 if answers else 0)

    asyncio.run(work())
    gc.collect()
    assert complaints == []


# ---------------------------------------------------------------------- second looks


class Looks:
    """Second looks of releases, with a pause that the test ends."""

    def __init__(self) -> None:
        self.pauses: list[tuple[float, asyncio.Event]] = []
        self.looks = SecondLooks(self._pause)
        self.began: list[str] = []

    async def _pause(self, seconds: float) -> None:
        over = asyncio.Event()
        self.pauses.append((seconds, over))
        await over.wait()

    def release(self, name: str, datasets: int, run: str = "r") -> asyncio.Task[None]:
        async def look() -> None:
            await self.looks.gather(run, [f"d{number}" for number in range(datasets)])
            self.began.append(name)

        return asyncio.create_task(look())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("datasets", [0, 1])
async def test_a_release_alone_looks_at_once(datasets: int) -> None:
    looks = Looks()
    await looks.release("a", datasets)
    assert looks.pauses == []


@pytest.mark.parametrize("datasets", [2, 3, 25, 30])
async def test_releases_look_when_the_last_one_has_written(datasets: int) -> None:
    looks = Looks()
    expected = min(datasets, 25)
    tasks = [looks.release(str(number), datasets) for number in range(expected - 1)]
    await turns()
    assert looks.began == []
    tasks.append(looks.release("last", datasets))
    await asyncio.gather(*tasks)
    assert [seconds for seconds, _ in looks.pauses] == [0.1]
    # The last one goes on in the same turn as the others, so that their requests are shared.
    assert looks.began.index("last") > 0


async def test_releases_look_without_the_others_when_time_is_up() -> None:
    looks = Looks()
    early = [looks.release("a", 3), looks.release("b", 3)]
    await turns()
    looks.pauses[0][1].set()
    await asyncio.gather(*early)
    late = looks.release("c", 3)
    await turns()
    assert (looks.began, late.done(), len(looks.pauses)) == (["a", "b"], False, 2)
    looks.pauses[1][1].set()
    await late


async def test_the_pause_of_an_earlier_group_does_not_end_a_later_one() -> None:
    looks = Looks()
    await asyncio.gather(looks.release("a", 2), looks.release("b", 2))
    later = looks.release("c", 2)
    await turns()
    looks.pauses[0][1].set()
    await turns()
    assert not later.done()
    await asyncio.gather(later, looks.release("d", 2))


async def test_releases_of_another_run_are_not_waited_for() -> None:
    looks = Looks()
    first = looks.release("a", 2)
    other = looks.release("b", 2, run="other")
    await turns()
    assert looks.began == []
    await asyncio.gather(first, looks.release("c", 2))
    assert not other.done()
    other.cancel()


async def test_finished_datasets_are_not_waited_for() -> None:
    looks = Looks()
    looks.looks.finish("r", ["d0"])
    looks.looks.finish("r", ["d1"])
    await looks.release("a", 3)
    waiting = looks.release("b", 4)
    await turns()
    assert not waiting.done()
    waiting.cancel()


# ---------------------------------------------------------------------- limits


async def test_answers_to_different_questions_are_kept_apart(governance: Governance, readings: Any) -> None:
    """Everybody chooses names, so a document can have the name of a run."""
    reader = readings.recent
    for name in ("x", "y"):
        for ask in (reader.accepted_document, reader.consent, reader.run_closed, reader.pinned_request):
            await ask(name)
    await reader.active_users()
    assert set(governance.asked.values()) == {1}
    assert len(governance.asked) == 9


async def test_finished_datasets_of_the_latest_64_runs_are_remembered() -> None:
    looks = Looks()
    for number in range(65):
        looks.looks.finish(f"r{number}", ["d0"])
    await looks.release("a", 2, run="r1")
    forgotten = looks.release("b", 2, run="r0")
    await turns()
    assert not forgotten.done()
    forgotten.cancel()


async def test_the_last_release_goes_on_at_once() -> None:
    looks = Looks()
    first, last = looks.release("a", 2), looks.release("b", 2)
    await turns()
    assert first.done()
    assert last.done()
