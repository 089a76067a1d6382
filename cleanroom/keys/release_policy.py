"""The release policy of a Key Vault key: strict parsing of the whole grammar, and encoding.

::

    policy    := {"version": "1.0.0", "anyOf": [authority-block, ...]}
    block     := {"authority": <https issuer URL>, ("allOf" | "anyOf"): [condition, ...]}
    condition := {"claim": <path>, "equals": <text>} | {"allOf": [...]} | {"anyOf": [...]}

The legacy form (``version`` 0.2 or 1.0, ``{"claim", "condition": "equals", "value"}``) is accepted and normalised, as the service does it.
Everything else is rejected, because ignoring an operator would weaken the policy. Source:
https://learn.microsoft.com/azure/key-vault/keys/policy-grammar; see ``docs/facts/key-release.md#release-policy``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_serializer, model_validator

from cleanroom import claims
from cleanroom.errors import InvalidInput
from cleanroom.jose.encoding import compact_json, strict_json

MAXIMUM_BYTES = 32 * 1024
MAXIMUM_DEPTH = 8
CONTENT_TYPE = "application/json; charset=utf-8"
_SEGMENT = re.compile(r"[^\s.\[\]\x00-\x1f\x7f]+\Z")
_LEGACY_VERSIONS = ("0.2", "1.0")
"""Versions of the same grammar that the service and its older samples use for 1.0.0."""
_HOST_DATA = re.compile(r"[0-9a-f]{64}\Z")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def document(self) -> dict[str, Any]:
        """Return the JSON object of this part of a policy."""
        raise NotImplementedError

    @model_serializer
    def _serialise(self) -> dict[str, Any]:
        return self.document()


class ClaimEquals(_Strict):
    """A condition: the claim at the path ``claim``, in which dots descend into objects, has the text form ``equals``."""

    claim: str
    equals: str

    @field_validator("claim")
    @classmethod
    def _path(cls, value: str) -> str:
        if len(value) > 512 or not all(_SEGMENT.match(segment) for segment in value.split(".")):
            raise ValueError(f"{value[:80]!r} is not a dotted claim path; array indexes are not supported")
        return value

    @field_validator("equals", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        return value

    def document(self) -> dict[str, Any]:
        """Return the condition as JSON."""
        return {"claim": self.claim, "equals": self.equals}


def _condition_kind(value: Any) -> str:
    if isinstance(value, ClaimEquals):
        return "claim"
    if isinstance(value, ConditionGroup):
        return "group"
    return "group" if isinstance(value, Mapping) and ("allOf" in value or "anyOf" in value) else "claim"


Condition = Annotated["Annotated[ClaimEquals, Tag('claim')] | Annotated[ConditionGroup, Tag('group')]", Discriminator(_condition_kind)]


class ConditionGroup(_Strict):
    """Exactly one of ``allOf`` and ``anyOf``, with one or more conditions."""

    all_of: tuple[Condition, ...] | None = Field(default=None, alias="allOf", min_length=1, strict=False)
    any_of: tuple[Condition, ...] | None = Field(default=None, alias="anyOf", min_length=1, strict=False)

    @field_validator("all_of", "any_of", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("an operator's conditions are a list, not null")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> ConditionGroup:
        if (self.all_of is None) == (self.any_of is None):
            raise ValueError("needs exactly one of allOf and anyOf")
        return self

    @property
    def operator(self) -> Literal["allOf", "anyOf"]:
        """The operator of this group."""
        return "anyOf" if self.all_of is None else "allOf"

    @property
    def conditions(self) -> tuple[ClaimEquals | ConditionGroup, ...]:
        """The conditions under the operator."""
        return self.all_of if self.all_of is not None else self.any_of or ()

    def document(self) -> dict[str, Any]:
        """Return the group as JSON."""
        return {self.operator: [condition.document() for condition in self.conditions]}

    def claims(self) -> Iterator[ClaimEquals]:
        """Yield every claim condition in this group and its subgroups, in order."""
        for condition in self.conditions:
            if isinstance(condition, ClaimEquals):
                yield condition
            else:
                yield from condition.claims()


class AuthorityBlock(ConditionGroup):
    """Conditions on the tokens of one attestation authority."""

    authority: str

    @field_validator("authority")
    @classmethod
    def _https(cls, value: str) -> str:
        return check_authority(value)

    def document(self) -> dict[str, Any]:
        """Return the block as JSON, with members in the service's order."""
        return {"authority": self.authority, **super().document()}


ConditionGroup.model_rebuild()
AuthorityBlock.model_rebuild()


def check_authority(value: str) -> str:
    """Return ``value`` if it is an https URL without user, query or fragment. Raises ValueError."""
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", value):
        raise ValueError(f"{value[:120]!r} is not an https issuer URL without user, query and fragment")
    return value


def same_authority(left: str, right: str) -> bool:
    """Whether two issuer URLs are equal, apart from one trailing slash on either side. Case-sensitive."""
    return left.removesuffix("/") == right.removesuffix("/")


class ReleasePolicy(_Strict):
    """A release policy. Compare parsed policies, not their text: the service re-serialises them."""

    version: Literal["1.0.0"]
    any_of: tuple[AuthorityBlock, ...] = Field(alias="anyOf", min_length=1, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _normal(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("a policy is a JSON object")
        _check_depth(value)
        if value.get("version") in _LEGACY_VERSIONS:
            value = {**value, "version": "1.0.0"}
        return _modern(value)

    @staticmethod
    def parse(data: bytes | str | Mapping[str, Any]) -> ReleasePolicy:
        """Parse a policy document, which is JSON text or an object.

        Raises:
            InvalidInput: ``InvalidReleasePolicy``, with the place and the problem.
        """
        try:
            text = data if isinstance(data, bytes | str) else compact_json(data)
            if len(text) > MAXIMUM_BYTES:
                raise _invalid(f"{len(text)} bytes exceed the maximum of {MAXIMUM_BYTES}")
            document = strict_json(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise _invalid(f"it is not one JSON document: {error}") from error
        try:
            return ReleasePolicy.model_validate(document)
        except ValidationError as error:
            errors = error.errors()
            # Report an unknown operator rather than the member "equals" that is missing because of it.
            first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
            # Remove pydantic's tags for the kinds of conditions from the path. A member named "claim" comes last.
            *parents, last = (part for part in first["loc"] or ("policy",) if part != "group")
            place = ".".join(str(part) for part in (*(part for part in parents if part != "claim"), last))
            raise _invalid(f"at {place}: {first['msg'].removeprefix('Value error, ')}") from error

    @staticmethod
    def for_clean_room(
        authority: str,
        host_data: str | Sequence[str],
        *,
        compliance_status: str = "azure-compliant-uvm",
        attestation_type: str = "sevsnpvm",
        strict: bool = True,
    ) -> ReleasePolicy:
        """Return the policy of a clean room's key: release only into a confidential container with this security policy.

        Args:
            authority: The MAA instance that attests the clean room (https issuer URL).
            host_data: SHA-256 of the container security policy as 64 hex digits, or several alternatives.
            compliance_status: MAA's claim for a utility VM that Microsoft signed. Without it, any other utility VM would pass.
            attestation_type: ``sevsnpvm`` for a confidential container.
            strict: Also reject debuggable guests and every VMPL except 0, instead of relying on MAA's policy for that.

        Raises:
            InvalidInput: ``InvalidReleasePolicy``.
        """
        values = [host_data] if isinstance(host_data, str) else list(host_data)
        values = [value.lower() for value in values]
        if not values or not all(_HOST_DATA.match(value) for value in values):
            raise _invalid("host_data is the SHA-256 of a container security policy: 64 hex digits")
        measured: list[dict[str, Any]] = [{"claim": claims.HOST_DATA, "equals": value} for value in values]
        conditions: list[dict[str, Any]] = [
            measured[0] if len(measured) == 1 else {"anyOf": measured},
            {"claim": claims.COMPLIANCE_STATUS, "equals": compliance_status},
            {"claim": claims.ATTESTATION_TYPE, "equals": attestation_type},
        ]
        if strict:
            conditions.append({"claim": claims.IS_DEBUGGABLE, "equals": "false"})
            conditions.append({"claim": claims.VMPL, "equals": "0"})
        return ReleasePolicy.parse({"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": conditions}]})

    def document(self) -> dict[str, Any]:
        """Return the policy as a JSON object, with members in the service's order."""
        return {"version": self.version, "anyOf": [block.document() for block in self.any_of]}

    def encode(self) -> bytes:
        """Return the policy as compact JSON, for ``KeyReleasePolicy(encoded_policy=...)`` of azure-keyvault-keys."""
        return compact_json(self.document())

    def authorities(self) -> tuple[str, ...]:
        """Return every attestation authority that the policy names."""
        return tuple(dict.fromkeys(block.authority for block in self.any_of))

    def blocks_for(self, issuer: str) -> tuple[AuthorityBlock, ...]:
        """Return the blocks whose authority is ``issuer``."""
        return tuple(block for block in self.any_of if same_authority(block.authority, issuer))


def _invalid(reason: str) -> InvalidInput:
    return InvalidInput(
        "InvalidReleasePolicy",
        f"release policy: {reason}.",
        hint='Write {"version": "1.0.0", "anyOf": [{"authority": "https://...", "allOf": [{"claim": "...", "equals": "..."}]}]}.',
    )


def _check_depth(document: Any) -> None:
    """Reject nesting of more than :data:`MAXIMUM_DEPTH` groups, without recursion because the input is untrusted."""
    level: list[Any] = [document]
    # Levels: document, anyOf list, block; each group then adds its list and its conditions.
    for _ in range(2 * MAXIMUM_DEPTH + 3):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                deeper.extend(value.values())
            elif isinstance(value, list | tuple):
                deeper.extend(value)
        if not deeper:
            return
        level = deeper
    if any(isinstance(value, Mapping | list | tuple) for value in level):
        raise ValueError(f"conditions nest deeper than {MAXIMUM_DEPTH}")


def _modern(value: Any) -> Any:
    """Rewrite legacy conditions. Legacy operators other than equals stay, and the model rejects them."""
    if isinstance(value, Mapping):
        if set(value) == {"claim", "condition", "value"} and value["condition"] == "equals":
            return {"claim": value["claim"], "equals": value["value"]}
        return {key: _modern(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_modern(inner) for inner in value]
    return value
