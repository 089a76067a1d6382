"""How long tests wait for an event on a busy machine."""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 120
"""Upper bound, in seconds, of a wait for an event that comes. It only ends tests that fail, so it can be long.

A machine with as many processes as cores can be ten times slower than a quiet one. Do not use it where the test shows that something
is fast, or that nothing happens.
"""
