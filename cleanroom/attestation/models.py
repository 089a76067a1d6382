"""Make a frozen model of values that are known to fit it."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)
_set = object.__setattr__


def construct_unvalidated(model: type[M], **values: Any) -> M:
    """What ``model.model_construct`` makes of a value for every field, without its search for aliases and defaults.

    A verdict makes half a dozen models of values that were cut out of bytes a line before; pydantic's own way takes as long as to parse
    a certificate.
    """
    made = model.__new__(model)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", set(values))
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made
