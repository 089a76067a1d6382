"""The base class of all messages that cross Temporal."""

from __future__ import annotations

from cleanroom.models import FrozenModel


class Message(FrozenModel):
    """A frozen message. Unknown members are rejected, so a forged or outdated input fails; new members need defaults."""
