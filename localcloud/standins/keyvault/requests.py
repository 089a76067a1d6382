"""Strict parsing of the members that several requests have: release policy, attributes and tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import b64_any
from cleanroom.keys.release_policy import CONTENT_TYPE, ReleasePolicy
from localcloud.standins.keyvault.errors import bad_parameter


@dataclass(frozen=True)
class Policy:
    """The release policy of a request, in canonical form."""

    document: str
    content_type: str
    immutable: bool


def read_policy(value: Any) -> Policy | None:
    """Parse the member ``release_policy``; nothing is ignored, so that a policy is never weakened silently.

    Raises:
        KeyVaultError: 400 if it is not valid.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) - {"data", "contentType", "immutable"}:
        raise bad_parameter("release_policy must be an object with the members data, contentType and immutable only.")
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
        raise bad_parameter(f"release_policy.immutable is {immutable!r}; it must be true or false.")
    return Policy(document, CONTENT_TYPE, bool(immutable))


@dataclass(frozen=True)
class Attributes:
    """The ``attributes`` of a request; a missing one is None."""

    enabled: bool | None
    nbf: int | None
    exp: int | None
    exportable: bool | None

    @staticmethod
    def read(value: Any) -> Attributes:
        """Parse the member ``attributes``.

        Raises:
            KeyVaultError: 400 if it is not valid.
        """
        given = {} if value is None else value
        if not isinstance(given, Mapping):
            raise bad_parameter("attributes must be an object.")
        for name, kind in (("enabled", bool), ("exportable", bool), ("nbf", int), ("exp", int)):
            member = given.get(name)
            if member is not None and (not isinstance(member, kind) or (kind is int and isinstance(member, bool))):
                raise bad_parameter(f"attributes.{name} is {member!r}; it must be a {'Boolean' if kind is bool else 'number'}.")
            if kind is int and member is not None and not 0 <= member < 2**40:
                raise bad_parameter(f"attributes.{name} is {member}, which is not a time in Unix seconds.")
        return Attributes(given.get("enabled"), given.get("nbf"), given.get("exp"), given.get("exportable"))


def read_tags(value: Any) -> dict[str, str] | None:
    """Parse the member ``tags``.

    Raises:
        KeyVaultError: 400 if it is not valid.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > 15 or not all(isinstance(tag, str) for tag in value.values()):
        raise bad_parameter("tags must be an object with at most 15 members, all of them strings.")
    return dict(value)
