"""Names of collaborators instead of user IDs, in the errors that the Web UI and commands show."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from cleanroom.display_names import error_with_names, with_names
from cleanroom.errors import Refused
from cleanroom.settings import Settings
from cleanroom.temporal.translation import ErrorTranslation
from starters.operations import own_worker
from workers import run

NORTH, SOUTH = "892fca50-4a3c-4c2d-9c4b-0e2b9d1f7a11", "892fca50-4a3c-4c2d-9c4b-0e2b9d1f7a12"
NAMES = {NORTH: "north", SOUTH: "south"}
SETTINGS = Settings(collaboration="deal", party="north", parties={"north": NORTH, "south": SOUTH, "later": ""})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Option execution was disabled by: m[{NORTH},{SOUTH}].", "Option execution was disabled by: m[north,south]."),
        (f"query 'q': owner {NORTH}'s approval expired.", "query 'q': owner north's approval expired."),
        (f"user {SOUTH}", "user south"),
        (f"approver-key.{NORTH}: not proposed by user {NORTH} alone", f"approver-key.{NORTH}: not proposed by user north alone"),
        (f"`cleanroom consent on approver-key.{NORTH}`.", f"`cleanroom consent on approver-key.{NORTH}`."),
        (f"secret {NORTH}_flights-key", f"secret {NORTH}_flights-key"),
        (f"{NORTH}0 and {NORTH}.1", f"{NORTH}0 and {NORTH}.1"),
        ("no ID", "no ID"),
        ("", ""),
    ],
)
def test_a_user_id_is_replaced_unless_it_is_a_part_of_another_id(text: str, shown: str) -> None:
    assert with_names(text, NAMES) == shown


def test_an_error_keeps_its_category_and_details() -> None:
    shown = error_with_names(Refused("No", f"by {NORTH}", hint=f"ask {SOUTH}", party=NORTH, details={"owners": [NORTH]}), NAMES)
    assert (type(shown), shown.message, shown.hint, shown.party) == (Refused, "by north", "ask south", "north")
    assert shown.details == {"owners": [NORTH]}


async def test_the_failure_of_an_activity_has_names() -> None:
    class Refuses(ActivityInboundInterceptor):
        def __init__(self) -> None: ...

        async def execute_activity(self, input: ExecuteActivityInput) -> Any:
            raise Refused("ConsentWithdrawn", f"disabled by: m[{NORTH}]", cause=f"by {SOUTH}")

    @activity.defn
    async def act() -> None:
        wrapped = ErrorTranslation(NAMES).intercept_activity(Refuses())
        await wrapped.execute_activity(ExecuteActivityInput(fn=act, args=[], executor=None, headers={}))

    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(act)
    assert (raised.value.message, raised.value.details[0]["cause"]) == ("disabled by: m[north]", "by south")


@pytest.mark.parametrize("module", [run, own_worker], ids=["worker", "command"])
async def test_every_worker_translates_with_the_names_of_its_settings(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    async def connect(*arguments: Any, **options: Any) -> None: ...

    def spec(**options: Any) -> None:
        made.append(options["names"])
        raise InterruptedError

    worker = SimpleNamespace(
        name="w", task_queue="q", workflows=(), activities=(), interceptors=(), max_concurrent_activities=1, deployment=None,
        heartbeat_seconds=None, resources=(), works=None,
    )  # fmt: skip
    monkeypatch.setattr("workers.boundaries.boundary_worker", lambda *arguments: worker)
    monkeypatch.setattr(run, "boundary_worker", lambda *arguments: worker)
    monkeypatch.setattr(run, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(run, "worker_runtime", lambda *arguments, **options: None)
    monkeypatch.setattr(module, "connect", connect)
    monkeypatch.setattr(module, "WorkerSpec", spec)
    with suppress(InterruptedError):
        if module is run:
            await run.serve(SETTINGS)
        else:
            async with own_worker.serve_queue(SETTINGS):
                pass
    assert made == [NAMES]
