"""Messages of the test workflows. The sandbox passes this module through."""

from __future__ import annotations

from pydantic import BaseModel


class Note(BaseModel):
    """A message with a text and a number."""

    text: str
    number: int = 0
