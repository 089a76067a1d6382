"""The base class of all messages that cross Temporal."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen message. Unknown members are rejected, so a forged or outdated input fails; new members need defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
