"""Base classes of the document models: frozen, with camelCase names in JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """A part of a document in the format of the Azure clean room tools. Unknown members are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class OurModel(BaseModel):
    """A part of a document that this project adds. Unknown members are rejected, so that a misspelt floor is not ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")
