"""Work on many items, a few at a time."""

from __future__ import annotations

import asyncio

import pytest

from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import InputDataset
from cleanroom.errors import PreconditionFailed
from cleanroom.publishing.query_document import read_used_datasets
from cleanroom.runs.reader import to_accepted_document
from tests.refusals import refused
from tests.unit.activities.governance import COLLABORATION, Caller, Governance
from tests.unit.activities.publishing import publish_dataset


async def test_results_have_the_order_of_the_items_and_few_are_on_their_way_at_once() -> None:
    running, most = 0, 0

    async def double(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - item % 10):
            await asyncio.sleep(0)
        running -= 1
        return 2 * item

    assert await gather_limited(double, range(50), 7) == [2 * item for item in range(50)]
    assert most == 7
    assert await gather_limited(double, ()) == []


async def test_the_first_error_is_raised_when_the_others_have_ended() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        try:
            if item == 2:
                raise PreconditionFailed("OnPurpose", "on purpose")
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    with pytest.raises(PreconditionFailed, match="on purpose"):
        await gather_limited(work, range(100), 4)
    # All that had begun, which is at most one more.
    assert sorted(ended) in ([0, 1, 2, 3], [0, 1, 2, 3, 4])


async def test_datasets_of_a_query_are_read_concurrently_in_the_order_of_the_query() -> None:
    governance = Governance()
    names = [f"data-{number}" for number in range(30)]
    for name in names:
        await publish_dataset(governance, name, "u-contosso", "read")
    await publish_dataset(governance, "out", "u-litware", "write")
    running = most = 0

    class Slow(Caller):
        async def accepted_document(self, document_id: str) -> object:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return to_accepted_document(await self.get_document(document_id))

    reader = Slow(governance, "u-frontend")
    inputs = tuple(InputDataset(specification=name, view=f"v{number}") for number, name in enumerate(names))
    output = InputDataset(specification="out", view="result")
    found, sink = await read_used_datasets(reader, inputs, output)  # type: ignore[arg-type]
    assert [(item.dataset.name, item.view) for item in found] == [(item.specification, item.view) for item in inputs]
    assert (sink.dataset.name, sink.document.contract_id, 2 <= most <= 8) == ("out", COLLABORATION, True)
    assert await refused(read_used_datasets(reader, inputs[:1], inputs[1])) == "AccessModeMismatch"  # type: ignore[arg-type]
