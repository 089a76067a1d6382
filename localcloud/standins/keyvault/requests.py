"""The members that requests of the Key Vault stand-in share: release policy, attributes and tags, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import b64_any
from cleanroom.keys.policy import CONTENT_TYPE, ReleasePolicy
from localcloud.standins.keyvault.errors import bad_parameter


@dataclass(frozen=True)
class Policy:
    """The release policy of a request, normalised."""

    document: str
    content_type: str
    immutable: bool


def read_policy(value: Any) -> Policy | None:
    """A ``release_policy`` member. Raises KeyVaultError 400, so that a policy never weakens silently."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) - {"data", "contentType", "immutable"}:
        raise bad_parameter("release_policy is an object of data, contentType and immutable.")
    data, content_type, immutable = value.get("data"), value.get("contentType"), value.get("immutable")
    try:
        if not isinstance(data, str) or not data:
            raise ValueError("data is missing")
        document = ReleasePolicy.parse(b64_any(data)).encode().decode()
    except (ValueError, InvalidInput) as error:
        raise bad_parameter(f"release_policy.data is not a release policy: {error}") from error
    if content_type is not None and str(content_type).replace(" ", "").lower() != CONTENT_TYPE.replace(" ", ""):
        raise bad_parameter(f"release_policy.contentType {content_type!r} is not supported; use {CONTENT_TYPE!r}.")
    if immutable is not None and not isinstance(immutable, bool):
        raise bad_parameter("release_policy.immutable is true or false.")
    return Policy(document, CONTENT_TYPE, bool(immutable))


@dataclass(frozen=True)
class Attributes:
    """The ``attributes`` of a request; None where not given."""

    enabled: bool | None
    nbf: int | None
    exp: int | None
    exportable: bool | None

    @staticmethod
    def read(value: Any) -> Attributes:
        given = {} if value is None else value
        if not isinstance(given, Mapping):
            raise bad_parameter("attributes is not an object.")
        for name, kind in (("enabled", bool), ("exportable", bool), ("nbf", int), ("exp", int)):
            member = given.get(name)
            if member is not None and (not isinstance(member, kind) or (kind is int and isinstance(member, bool))):
                raise bad_parameter(f"attributes.{name} has the wrong type.")
            if kind is int and member is not None and not 0 <= member < 2**40:
                raise bad_parameter(f"attributes.{name} is not a time.")
        return Attributes(given.get("enabled"), given.get("nbf"), given.get("exp"), given.get("exportable"))


def read_tags(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > 15 or not all(isinstance(tag, str) for tag in value.values()):
        raise bad_parameter("tags is an object of at most 15 texts.")
    return dict(value)
