"""The notation in which a test writes down a sequence diagram, and its comparison with a drawing and with a history.

A diagram is a list of lines in the order of the drawing::

    Arrow("User", "AD", "Create Managed Identity", activity="create_managed_identity", queue="collaborator.contosso")
    Note("FE", "Generate Dataset Descriptor", activity="generate_dataset_descriptor", queue="frontend")
    Step(activity="locate_blob_store", queue="collaborator.contosso", deviation=LOCATE_STORE)

Every line says what it is in the code: an activity with its task queue; another event of the history; ``part_of``, if an activity
or workflow of another line performs it; or ``outside``, if a component that is not a Temporal worker does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path

from tests.diagrams.deviations import Deviation
from tests.diagrams.drawing import Drawn, drawings
from tests.diagrams.history import Event

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a line is in the code. Exactly one of ``activity``, ``event``, ``part_of`` and ``outside`` is set."""

    activity: str = ""
    queue: str = ""
    event: str = ""
    """``start WORKFLOW``, ``child WORKFLOW``, ``update NAME``, ``signal NAME``, or the state of a query."""
    part_of: str = ""
    outside: str = ""
    deviation: Deviation | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("activity", "event", "part_of", "outside") if getattr(self, name)]
        assert len(given) == 1, f"{self}: set one of activity, event, part_of and outside"
        assert bool(self.activity) == bool(self.queue), f"{self}: an activity needs a queue"

    def expected(self) -> Event | None:
        """The event of this line in a history; None if another line has it."""
        if self.activity:
            return Event(self.activity, self.queue)
        return Event(self.event) if self.event else None


@dataclass(frozen=True)
class Arrow(Line):
    """``source->>target: text``."""

    source: str
    target: str
    text: str


@dataclass(frozen=True)
class Note(Line):
    """``note over participants: text``."""

    over: str
    text: str


@dataclass(frozen=True)
class Step(Line):
    """A step that is not in the drawing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.deviation is not None, f"{self}: name the deviation"


@dataclass(frozen=True)
class Heading:
    """A note that only introduces the lines below it."""

    over: str
    text: str


@dataclass(frozen=True)
class Loop:
    """``loop text ... end``. Its items may be concurrent, so every item of the history is compared with ``lines`` on its own."""

    text: str
    lines: Sequence[Part]
    deviation: Deviation | None = None


@dataclass(frozen=True)
class Alternatives:
    """``alt first ... else second ... end``: exactly one branch is taken."""

    branches: Sequence[tuple[str, Sequence[Part]]]


Part = Line | Heading | Loop | Alternatives


@dataclass(frozen=True)
class Diagram:
    """A sequence diagram of ``docs/diagrams.md`` as a test writes it down."""

    title: str
    lines: Sequence[Part]
    background: Sequence[Step] = ()
    """Steps that may come at any time."""

    def deviations(self) -> list[Deviation]:
        """Return the deviations of this diagram in the order of its lines."""
        found = (part.deviation for part in _walk([*self.lines, *self.background]) if not isinstance(part, (Heading, Alternatives)))
        return list(dict.fromkeys(item for item in found if item is not None))

    def check_drawing(self) -> None:
        """Require that the lines are those of the drawing, and that ``part_of`` and ``outside`` name what exists."""
        assert list(_drawn(self.lines)) == drawings()[self.title]
        performers = {event.what.removeprefix("start ") for event in _events(self.lines)}
        for part in _walk(self.lines):
            if isinstance(part, Line):
                assert not part.part_of or part.part_of in performers, part
                assert not part.outside.endswith(".py") or (ROOT / part.outside).exists(), part

    def check_history(self, history: Sequence[Event]) -> None:
        """Require that the steps of a history are those of the lines, in the same order and on the same queues."""
        background = {step.expected() for step in self.background}
        remaining = _consume(self.lines, [event for event in history if event.plain() not in background])
        assert not remaining, f"{self.title}: the history goes on with {remaining[0]}"


def _walk(lines: Sequence[Part]) -> Iterator[Part]:
    for part in lines:
        yield part
        if isinstance(part, Loop):
            yield from _walk(part.lines)
        elif isinstance(part, Alternatives):
            for _, branch in part.branches:
                yield from _walk(branch)


def _drawn(lines: Sequence[Part]) -> Iterator[Drawn]:
    for part in lines:
        match part:
            case Arrow():
                yield Drawn("arrow", part.text, part.source, part.target)
            case Note() | Heading():
                yield Drawn("note", part.text, part.over)
            case Loop():
                yield Drawn("loop", part.text)
                yield from _drawn(part.lines)
                yield Drawn("end", "")
            case Alternatives():
                for number, (text, branch) in enumerate(part.branches):
                    yield Drawn("else" if number else "alt", text)
                    yield from _drawn(branch)
                yield Drawn("end", "")


def _events(lines: Sequence[Part]) -> set[Event]:
    """Every event that the lines can have."""
    return {event for part in _walk(lines) if isinstance(part, Line) and (event := part.expected()) is not None}


def _consume(lines: Sequence[Part], events: Sequence[Event]) -> Sequence[Event]:
    """Compare the beginning of ``events`` with ``lines`` and return what is left."""
    for part in lines:
        match part:
            case Line():
                expected = part.expected()
                if expected is not None:
                    assert _next(events) == expected, f"{part}\nthe history has {_next(events)}"
                    events = events[1:]
            case Loop():
                inside = _events(part.lines)
                items = list(takewhile(lambda event, inside=inside: event.plain() in inside, events))
                assert items or not inside, f"{part.text}: the history has {_next(events)}"
                events = events[len(items) :]
                for item, group in groupby(sorted(items, key=lambda event: event.item), key=lambda event: event.item):
                    left = _consume(part.lines, list(group))
                    assert not left, f"{part.text}, {item}: it goes on with {left[0]}"
            case Alternatives():
                taken = [branch for _, branch in part.branches if _next(events) in _events(branch)]
                assert len(taken) == 1, f"{part}\nthe history has {_next(events)}"
                events = _consume(taken[0], events)
    return events


def _next(events: Sequence[Event]) -> Event | None:
    return events[0].plain() if events else None
