"""Base classes of the document models: immutable, with camelCase names in JSON."""

from __future__ import annotations

from pydantic import ConfigDict

from cleanroom.models import CamelModel


class WireModel(CamelModel):
    """A part of a document in the format of the Azure clean room tools. Unknown members are ignored."""

    model_config = ConfigDict(extra="ignore")


class OurModel(CamelModel):
    """A part of a document that this project adds. Unknown members are rejected, so that a misspelt floor is not ignored."""
