"""Bases of the project's pydantic models.

Values are immutable, so that they can be shared between tasks and used as cache keys, and they reject unknown members, so that a
misspelled or newer member is an error and not silently lost. Models that read another system's JSON set ``extra="ignore"``, because
that system may add members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_RULES: Final = {"extra_forbidden": "no such member", "missing": "is missing"}


class FrozenModel(BaseModel):
    """An immutable value that rejects unknown members."""

    # Each model builds its validator on its first use: a command uses a few of them, and building all takes a tenth of a second.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class CamelModel(FrozenModel):
    """A :class:`FrozenModel` whose JSON members are camelCase; Python code may use the field names."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


def broken_rule(problem: ErrorDetails) -> str:
    """Return what a problem of a ``ValidationError`` says about its member, in words of this project. The value is not part of it."""
    return _RULES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
