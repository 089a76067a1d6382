"""Messages of the codec's test workflows; the sandbox passes this module through."""

from __future__ import annotations

from pydantic import BaseModel


class Note(BaseModel):
    """Anything with a text."""

    text: str
    number: int = 0
