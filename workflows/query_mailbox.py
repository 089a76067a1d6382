"""Messages to a query on their way: in order, bounded, and none behind somebody else's that waits for an absent worker. Without Temporal.

Votes are one lane: taking one is quick, it is cast in the background. Each author's orders are a lane of their own, one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.messages.base import Message
from cleanroom.messages.query import CommandOutcome, decision_mark

M = TypeVar("M", bound=Message)

MAX_WAITING = 100
"""Messages of a lane that may wait at once; more are refused, so that a flood cannot grow the state without bound (T17)."""

VOTES = ""
"""The lane of votes."""

_DECISIONS = ("approve", "reject", "decide")


@dataclass(eq=False)
class Command:
    """A message, and what has become of it."""

    kind: str
    message: Any
    outcome: CommandOutcome | None = None
    error: CleanRoomError | None = None

    @property
    def done(self) -> bool:
        return self.outcome is not None or self.error is not None

    @property
    def lane(self) -> str:
        """:data:`VOTES`, or whose order it says to be."""
        if self.kind in _DECISIONS:
            return VOTES
        party = self.message.get("party") if isinstance(self.message, dict) else None
        return party if isinstance(party, str) and party else "?"

    @property
    def about(self) -> str:
        """Of a vote: which one (:attr:`RefusedMessage.about`)."""
        token = self.message.get("decision") if isinstance(self.message, dict) else None
        return decision_mark(token) if self.lane == VOTES and isinstance(token, str) else ""

    def parsed(self, model: type[M]) -> M:
        """The message as ``model``; whatever was sent, the answer is an error that can be shown, never a stuck workflow.

        Raises:
            InvalidInput: ``MessageMalformed``.
        """
        try:
            return model.model_validate(self.message)
        except ValidationError as error:
            raise InvalidInput(
                "MessageMalformed",
                f"{self.kind}: {describe_validation(error)}.",
                hint="`cleanroom query approve --print-signal` prints what the Web UI's box takes.",
            ) from error


class Mailbox:
    """What was sent and not taken yet."""

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()

    def __iter__(self) -> Iterator[Command]:
        return iter(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, command: Command) -> None:
        """Put it at the end.

        Raises:
            Refused: ``TooManyMessages``.
        """
        if sum(waiting.lane == command.lane for waiting in self._waiting) >= MAX_WAITING:
            raise Refused("TooManyMessages", f"{MAX_WAITING} messages are waiting; this one was not taken.")
        self._waiting.append(command)

    def ready(self, busy: Container[str]) -> bool:
        """Whether some message's lane is free."""
        return any(command.lane not in busy for command in self._waiting)

    def take(self, busy: Container[str]) -> Command | None:
        """The first message whose lane is free."""
        for command in self._waiting:
            if command.lane not in busy:
                self._waiting.remove(command)
                return command
        return None

    def empty(self) -> list[Command]:
        """All that waits, taken out."""
        left = list(self._waiting)
        self._waiting.clear()
        return left
