"""Fields of models in generated pages.

Apart from :mod:`scripts.reference.markdown`, which the documentation site imports where no dependency of the product is installed.
"""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scripts.reference.markdown import code


def default_value(field: FieldInfo) -> str:
    """The default value of a model's field as inline code, or an empty cell if it is empty or a model."""
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}) or isinstance(value, BaseModel):
        return ""
    return code(str(value).lower() if isinstance(value, bool) else value)
