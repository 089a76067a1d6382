"""Create frozen pydantic models without validation."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)
_set = object.__setattr__


def construct_unvalidated(model: type[M], **values: Any) -> M:
    """Create a ``model`` from a value for every field, like ``model_construct`` without its search for aliases and defaults.

    A verdict creates half a dozen models from values that it has just parsed. ``model_construct`` takes as long as parsing a certificate.
    """
    made = model.__new__(model)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", set(values))
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made
