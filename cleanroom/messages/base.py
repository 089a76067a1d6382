"""Base of all messages."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Frozen; unknown members are refused, so that a forged or outdated input fails loudly; new members get defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
