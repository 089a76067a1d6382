"""Queue of the commands that a ``PublishQuery`` workflow has received but not handled. Independent of Temporal.

Commands are handled in order within a lane. All votes share one lane, because handling a vote only verifies it; it is cast in the
background. Each author has a separate lane with one command at a time, because commands need that author's worker, which may be
offline for days. So a command never waits for a command in another lane.

Anyone who reaches Temporal can send messages. A message that is malformed or too long is refused when it arrives, so only well-formed
ones wait, and their number and their total size are limited.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.messages.query import AuthorMessage, CarriedMessage, CommandOutcome, DecisionMessage, decision_mark

CommandKind = Literal["approve", "reject", "update", "propose", "withdraw"]
"""The verb of a command: the name of its signal and of its update."""

MAX_WAITING = 1000
"""Maximum number of waiting commands per lane. More are refused, so that a flood of messages cannot grow the workflow's state."""

MAX_WAITING_SIZE = 256 * 1024
"""Maximum size of all waiting votes, and of all other waiting commands, in characters."""

MAX_CARRIED_SIZE = 512 * 1024
"""Maximum size of the messages that the next history receives. Its input also has the text of the query twice and its card, and Temporal
allows 2 MiB."""

VOTES = ""
"""The lane of votes."""

AGAIN = "Send it again later."
_VOTE_KINDS = ("approve", "reject")


@dataclass(eq=False)
class Command:
    """A message and its outcome. The content of ``message`` is not validated: anyone who reaches Temporal can send a signal."""

    kind: CommandKind
    message: Any
    awaited: bool = False
    """Whether an update waits for the outcome."""
    outcome: CommandOutcome | None = None
    error: CleanRoomError | None = None
    vote: DecisionMessage | None = None
    """The validated message of a vote."""
    authored: AuthorMessage | None = None
    """The validated message of any other command."""
    size: int = 0
    """Length of the validated message in characters of JSON."""

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

    def validate(self) -> None:
        """Set ``vote`` or ``authored``, and ``size``, from the message.

        Raises:
            InvalidInput: ``MessageMalformed``.
        """
        try:
            if self.lane == VOTES:
                self.vote = DecisionMessage.model_validate(self.message)
            else:
                self.authored = AuthorMessage.model_validate(self.message)
            self.size = len(self.carried().model_dump_json())
        except ValidationError as error:
            raise InvalidInput(
                "MessageMalformed",
                f"{self.kind}: {describe_validation(error)[:300]}.",
                hint="Send the output of `cleanroom query approve NAME --print-signal`.",
            ) from error

    def carried(self) -> CarriedMessage:
        """Return the message for the next history."""
        found = self.vote or self.authored
        assert found is not None
        return CarriedMessage(kind=self.kind, message=found.model_dump(mode="json"))


class CommandQueue:
    """Waiting commands in the order of their arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[bool] = Counter()
        """Size of the waiting votes (True) and of the other waiting commands."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Command]:
        return iter(self._waiting)

    def add(self, command: Command) -> None:
        """Append a command whose message is validated.

        Raises:
            Refused: ``TooManyMessages``.
        """
        count, size = self._counts[command.lane], self._sizes[command.lane == VOTES]
        if count >= MAX_WAITING or size + command.size > MAX_WAITING_SIZE:
            raise Refused(
                "TooManyMessages",
                f"{count} messages are waiting, {size} characters of this kind; this message was dropped.",
                hint=AGAIN,
            )
        self._waiting.append(command)
        self._account(command, 1)

    def ready(self, busy: Container[str]) -> bool:
        """Whether a command waits in a lane that is not in ``busy``."""
        return any(lane not in busy for lane in self._counts)

    def take(self, busy: Container[str]) -> Command | None:
        """Remove and return the first command whose lane is not in ``busy``."""
        for command in self._waiting:
            if command.lane not in busy:
                self._waiting.remove(command)
                self._account(command, -1)
                return command
        return None

    def drain(self) -> list[Command]:
        """Remove and return all commands."""
        commands = list(self._waiting)
        for container in (self._waiting, self._counts, self._sizes):
            container.clear()
        return commands

    def _account(self, command: Command, sign: int) -> None:
        self._counts[command.lane] += sign
        self._sizes[command.lane == VOTES] += sign * command.size
        if not self._counts[command.lane]:
            del self._counts[command.lane]
