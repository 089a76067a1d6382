"""Queue of the commands that a ``PublishQuery`` workflow has received but not handled. Independent of Temporal.

Commands are handled in order within a lane. All votes share one lane, because handling a vote only verifies it; it is cast in the
background. Each author has a separate lane with one command at a time, because commands need that author's worker, which may be
offline for days. So a command never waits for a command in another lane.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.messages.base import Message
from cleanroom.messages.query import CommandOutcome, decision_mark

M = TypeVar("M", bound=Message)

CommandKind = Literal["approve", "reject", "update", "propose", "withdraw"]
"""The verb of a command: the name of its signal and of its update."""

MAX_WAITING = 100
"""Maximum number of waiting commands per lane. More are refused, so that a flood of messages cannot grow the workflow's state."""

VOTES = ""
"""The lane of votes."""

_VOTE_KINDS = ("approve", "reject")


@dataclass(eq=False)
class Command:
    """A message and its outcome. The content of ``message`` is not validated: anyone who reaches Temporal can send a signal."""

    kind: CommandKind
    message: Any
    outcome: CommandOutcome | None = None
    error: CleanRoomError | None = None

    @property
    def done(self) -> bool:
        """Whether the command has succeeded or failed."""
        return self.outcome is not None or self.error is not None

    @property
    def lane(self) -> str:
        """:data:`VOTES`, or the author that the message names."""
        if self.kind in _VOTE_KINDS:
            return VOTES
        party = self.message.get("party") if isinstance(self.message, dict) else None
        return party if isinstance(party, str) and party else "?"

    @property
    def about(self) -> str:
        """Value of :attr:`RefusedMessage.about`: identifies a vote; empty for other commands."""
        token = self.message.get("decision") if isinstance(self.message, dict) else None
        return decision_mark(token) if self.lane == VOTES and isinstance(token, str) else ""

    def parsed(self, model: type[M]) -> M:
        """Return the message as ``model``.

        Raises:
            InvalidInput: ``MessageMalformed``.
        """
        try:
            return model.model_validate(self.message)
        except ValidationError as error:
            raise InvalidInput(
                "MessageMalformed",
                f"{self.kind}: {describe_validation(error)}.",
                hint="Send the output of `cleanroom query approve --print-signal`.",
            ) from error


class CommandQueue:
    """Waiting commands in the order of their arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, command: Command) -> None:
        """Append a command.

        Raises:
            Refused: ``TooManyMessages``.
        """
        if sum(waiting.lane == command.lane for waiting in self._waiting) >= MAX_WAITING:
            raise Refused("TooManyMessages", f"{MAX_WAITING} messages are waiting; this message was dropped.")
        self._waiting.append(command)

    def ready(self, busy: Container[str]) -> bool:
        """Whether a command waits in a lane that is not in ``busy``."""
        return any(command.lane not in busy for command in self._waiting)

    def take(self, busy: Container[str]) -> Command | None:
        """Remove and return the first command whose lane is not in ``busy``."""
        for command in self._waiting:
            if command.lane not in busy:
                self._waiting.remove(command)
                return command
        return None

    def drain(self) -> list[Command]:
        """Remove and return all commands."""
        commands = list(self._waiting)
        self._waiting.clear()
        return commands
