"""Which callers of :class:`SharedReader` share a request, and when the next request is sent."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from cleanroom.errors import Unavailable
from cleanroom.runs.shared_reader import SharedReader


class Governance:
    """Every request waits until the test answers it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.answers: list[asyncio.Future[Any]] = []

    def __getattr__(self, name: str) -> Any:
        async def read(*arguments: str) -> Any:
            self.sent.append((name, *arguments))
            answer = asyncio.get_running_loop().create_future()
            self.answers.append(answer)
            return await answer

        return read


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def governance() -> Governance:
    return Governance()


@pytest.fixture
def reader(governance: Governance) -> Any:
    return SharedReader(governance)


ONE_NAME = ("accepted_document", "consent", "runs_started", "pinned_request", "run_closed")


async def test_every_question_has_its_own_request(governance: Governance, reader: Any) -> None:
    asked = [(method, name) for method in ONE_NAME for name in ("x", "y")]
    tasks = [asyncio.create_task(getattr(reader, method)(name)) for _ in range(2) for method, name in asked]
    tasks += [asyncio.create_task(reader.active_users()) for _ in range(2)]
    await turns()
    assert governance.sent == [*asked, ("active_users",)]
    for number, answer in enumerate(governance.answers):
        answer.set_result(number)
    assert await asyncio.gather(*tasks) == [*range(len(asked)), *range(len(asked)), len(asked), len(asked)]


async def test_request_that_failed_is_sent_again(governance: Governance, reader: Any) -> None:
    first = [asyncio.create_task(reader.consent("d")) for _ in range(2)]
    await turns()
    governance.answers[0].set_exception(Unavailable("GovernanceUnreachable", "on purpose"))
    assert [type(error) for error in await asyncio.gather(*first, return_exceptions=True)] == [Unavailable, Unavailable]
    second = asyncio.create_task(reader.consent("d"))
    await turns()
    governance.answers[1].set_result("on")
    assert await second == "on"


async def test_next_request_waits_for_the_previous_one_for_a_second(
    governance: Governance, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[int, float | None]] = []
    over = asyncio.Event()

    async def wait(tasks: list[asyncio.Task[Any]], *, timeout: float | None = None) -> None:
        waits.append((len(tasks), timeout))
        await over.wait()

    monkeypatch.setattr(asyncio, "wait", wait)
    first = asyncio.create_task(reader.consent("d"))
    await turns()
    second = asyncio.create_task(reader.consent("d"))
    await turns()
    assert (waits, len(governance.sent)) == ([(1, 1.0)], 1)
    over.set()
    await turns()
    assert len(governance.sent) == 2
    # The end of the first request does not make the third one overtake the second.
    governance.answers[0].set_result("first")
    assert await first == "first"
    over.clear()
    third = asyncio.create_task(reader.consent("d"))
    await turns()
    assert (len(waits), len(governance.sent)) == (2, 2)
    governance.answers[1].set_result("second")
    assert await second == "second"
    over.set()
    await turns()
    governance.answers[2].set_result("third")
    assert await third == "third"
    fourth = asyncio.create_task(reader.consent("d"))
    await turns()
    assert (len(waits), len(governance.sent)) == (2, 4), "nothing is in flight"
    governance.answers[3].set_result("fourth")
    assert await fourth == "fourth"


@pytest.mark.parametrize("answers", [True, False])
def test_request_that_no_caller_waits_for_ends_without_a_complaint(answers: bool) -> None:
    complaints: list[dict[str, Any]] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        governance = Governance()
        reader: Any = SharedReader(governance)
        only = asyncio.create_task(reader.consent("d"))
        await turns()
        only.cancel()
        await turns()
        if answers:
            governance.answers[0].set_exception(Unavailable("GovernanceUnreachable", "on purpose"))
            await turns()

    asyncio.run(work())
    gc.collect()
    assert complaints == []
