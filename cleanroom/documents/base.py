"""What all documents share: frozen models in upstream's camelCase wire form."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """Part of a document whose shape upstream owns (spec/execute.md A8): camelCase on the wire, unknown members kept out."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class OurModel(BaseModel):
    """Part of a document that is our addition: a misspelt member is an error, never silently no floor at all."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")
