"""Runs checks concurrently, each within a time limit, and turns their outcomes into findings.

A check returns a sentence that says what is well, or raises an error whose hint is the remedy. A check that needs another one is skipped
when that one fails, so that one cause gives one failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cleanroom.errors import CleanRoomError
from starters.terminal.error_hints import add_hint

State = Literal["ok", "failed", "skipped"]
SECONDS = 15.0
"""How long one check may take."""
NO_REMEDY = "Look the code up in docs/reference/errors.md."
"""For errors of services that neither the service nor this project has a remedy for."""
REMEDY = "Report this with the output of the command when CLEANROOM_DEBUG=1 is set."


class NotApplicable(Exception):
    """Raised by a check that has nothing to look at with these settings; its text says why."""


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        area: What it belongs to, such as ``settings`` or ``governance``.
        name: What is checked.
        look: Returns what is well.
        needs: Names of checks without which this one cannot look.
    """

    area: str
    name: str
    look: Callable[[], Awaitable[str]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The outcome of a check."""

    area: str
    check: str
    state: State
    detail: str
    remedy: str = ""
    code: str = ""
    blocked: bool = False
    """Whether it was skipped because a check that it needs failed."""

    def record(self) -> dict[str, Any]:
        """Return the finding for JSON output."""
        return {
            "area": self.area,
            "check": self.check,
            "state": self.state,
            "detail": self.detail,
            "remedy": self.remedy,
            "code": self.code,
        }


async def run_checks(checks: Sequence[Check], *, seconds: float = SECONDS) -> list[Finding]:
    """Run all checks at the same time and return their findings in the order of the checks."""
    running: dict[str, asyncio.Task[Finding]] = {}

    async def run(check: Check) -> Finding:
        # A check that is not planned for these settings is not waited for.
        needed = await asyncio.gather(*(running[name] for name in check.needs if name in running))
        missing = next((item for item in needed if item.state == "failed" or item.blocked), None)
        if missing is not None:
            return Finding(check.area, check.name, "skipped", f"needs: {missing.check}", blocked=True)
        return await _look(check, seconds)

    for check in checks:
        running[check.name] = asyncio.create_task(run(check))
    return list(await asyncio.gather(*running.values()))


async def _look(check: Check, seconds: float) -> Finding:
    try:
        return Finding(check.area, check.name, "ok", await asyncio.wait_for(check.look(), seconds))
    except NotApplicable as reason:
        return Finding(check.area, check.name, "skipped", str(reason))
    except TimeoutError:
        remedy = "Check the address in the settings, the network, and that the service runs."
        return Finding(check.area, check.name, "failed", f"no answer within {seconds:g} s", remedy, "NoAnswer")
    except CleanRoomError as error:
        add_hint(error)
        detail = f"{error.message} ({error.cause})" if error.cause else error.message
        return Finding(check.area, check.name, "failed", " ".join(detail.split()), error.hint or NO_REMEDY, error.code)
    except Exception as error:
        # Its text may contain values of the settings.
        return Finding(check.area, check.name, "failed", f"unexpected {type(error).__name__}", REMEDY, "UnexpectedError")
