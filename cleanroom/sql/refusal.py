"""The exception that stops a check."""

from __future__ import annotations

from cleanroom.sql.verdict import Position, Reason


class Refusal(Exception):
    """Carries one :class:`Reason` out of a check.

    Of the public functions, only :func:`cleanroom.sql.split_statements` raises it.
    """

    def __init__(self, code: str, message: str, position: Position | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.position = position

    def reason(self, segment: int | None) -> Reason:
        """This refusal as a member of a verdict. ``segment`` is the index of the segment that was checked."""
        return Reason(code=self.code, message=self.message, segment=segment, position=self.position)
