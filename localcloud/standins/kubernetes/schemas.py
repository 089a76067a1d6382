"""The published schemas of Kubernetes objects, and what the API server does with an object according to its schema.

``schemas/`` holds the CRD of the Spark Operator and the needed part of the OpenAPI document of Kubernetes
(``schemas/NOTICE.md``). For a custom resource the API server removes unknown fields, fills in defaults and validates the rest:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft4Validator, FormatChecker, ValidationError, validators

Schema = dict[str, Any]

_FOLDER = Path(__file__).parent / "schemas"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}


@dataclass(frozen=True)
class Problem:
    """One way in which an object violates its schema, as a cause in a ``Status`` object."""

    reason: str
    """Such as ``FieldValueRequired``."""
    field: str
    """Such as ``spec.driver.env[1].name``."""
    message: str
    wrong_type: bool = False
    """Whether a value has another JSON type than the schema says."""

    def cause(self) -> dict[str, Any]:
        """Return the member of ``details.causes``."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


@cache
def spark_application() -> Schema:
    """Return the schema of a SparkApplication's CRD."""
    schema: Schema = json.loads((_FOLDER / "sparkapplication-v1beta2.json").read_text())
    # The API server handles metadata the same way in all objects, regardless of the CRD.
    schema["properties"]["metadata"] = object_meta()
    return schema


@cache
def core(kind: str) -> Schema:
    """Return the schema of a kind of the core API group, with its references resolved."""
    return _definition(f"io.k8s.api.core.v1.{kind}")


@cache
def object_meta() -> Schema:
    """Return the schema of ``metadata``."""
    return _definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")


@cache
def _document() -> dict[str, Schema]:
    document: dict[str, Schema] = json.loads((_FOLDER / "core-v1.json").read_text())
    return document


@cache
def _definition(name: str) -> Schema:
    resolved: Schema = _resolve(_document()[name])
    return resolved


def _resolve(schema: Any) -> Any:
    """Replace references by what they refer to. The needed definitions are not recursive, so that this ends."""
    if isinstance(schema, list):
        return [_resolve(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    match schema:
        case {"$ref": str(reference)} | {"allOf": [{"$ref": str(reference)}]}:
            return _definition(reference.rpartition("/")[2])
    resolved = {key: _resolve(value) for key, value in schema.items()}
    if schema.get("type") == "object" and not {"properties", "additionalProperties"} & schema.keys():
        # In the OpenAPI document such an object may have any content, in a CRD none.
        resolved[_PRESERVE] = True
    return resolved


def prune(value: Any, schema: Schema, path: str = "") -> list[str]:
    """Remove the fields that the schema does not know, in place, and return their paths."""
    if isinstance(value, list):
        items = schema.get("items", {_PRESERVE: True})
        return [field for index, item in enumerate(value) for field in prune(item, items, f"{path}[{index}]")]
    if not isinstance(value, dict):
        return []
    unknown: list[str] = []
    known, others = schema.get("properties", {}), schema.get("additionalProperties", schema.get(_PRESERVE, False))
    for name in list(value):
        where = f"{path}.{name}" if path else name
        if name in known:
            unknown += prune(value[name], known[name], where)
        elif isinstance(others, dict):
            unknown += prune(value[name], others, where)
        elif not others:
            unknown.append(where)
            del value[name]
    return unknown


def remove_nulls(value: Any) -> None:
    """Remove fields that are ``null``, in place: in metadata and in objects of the core group they count as missing."""
    if isinstance(value, dict):
        for name in [name for name, field in value.items() if field is None]:
            del value[name]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        remove_nulls(item)


def set_defaults(value: Any, schema: Schema) -> None:
    """Fill in missing fields that have a default, in place. ``null`` counts as missing unless the field is nullable."""
    if isinstance(value, list):
        for item in value:
            set_defaults(item, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    for name, field in schema.get("properties", {}).items():
        if "default" in field and (name not in value or (value[name] is None and not field.get("nullable"))):
            value[name] = copy.deepcopy(field["default"])
        if name in value:
            set_defaults(value[name], field)
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        for name in value.keys() - schema.get("properties", {}).keys():
            set_defaults(value[name], others)


def problems(value: Any, schema: Schema) -> list[Problem]:
    """Return how ``value`` violates the schema; a value of the wrong type is reported once."""
    found = [_problem(error) for error in _Validator(schema, format_checker=_FORMATS).iter_errors(value)]
    wrong = {problem.field for problem in found if problem.wrong_type}
    return [problem for problem in found if problem.wrong_type or problem.field not in wrong]


def _problem(error: ValidationError) -> Problem:
    field, value, limit = _field(error.absolute_path), json.dumps(error.instance), cast("Any", error.validator_value)
    match error.validator:
        case "required":
            return Problem("FieldValueRequired", field, "Required value")
        case "enum":
            supported = ", ".join(json.dumps(item) for item in limit)
            return Problem("FieldValueNotSupported", field, f"Unsupported value: {value}: supported values: {supported}")
        case "type" | "anyOf" | "oneOf":
            wanted = limit if isinstance(limit, str) else ",".join(choice["type"] for choice in limit)
            found = _JSON_TYPES.get(type(error.instance), "unknown")
            message = f'Invalid value: "{found}": {field} in body must be of type {wanted}: "{found}"'
            return Problem("FieldValueTypeInvalid", field, message, wrong_type=True)
        case "minimum":
            rule = f"should be greater than or equal to {limit}"
        case "maximum":
            rule = f"should be less than or equal to {limit}"
        case "pattern":
            rule = f"should match '{limit}'"
        case "format":
            rule = f"must be of format {limit}"
        case _:
            rule = f"violates the rule {error.validator}: {error.message}"
    return Problem("FieldValueInvalid", field, f"Invalid value: {value}: {field} in body {rule}")


def _field(path: Iterable[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "<root>"


def _check_type(validator: Any, wanted: Any, instance: Any, schema: Schema) -> Iterator[ValidationError]:
    if not (validator.is_type(instance, wanted) or (instance is None and schema.get("nullable"))):
        yield ValidationError(f"{instance!r} is not of type {wanted!r}")


def _check_required(validator: Any, required: list[str], instance: Any, schema: Schema) -> Iterator[ValidationError]:
    """Report each missing property at its own path; the library reports it at the object's."""
    if isinstance(instance, dict):
        for name in required:
            if name not in instance:
                yield ValidationError(f"{name!r} is a required property", path=[name])


# OpenAPI 3.0 schemas are JSON Schema draft 4, with `nullable` instead of the type "null".
_Validator = validators.extend(Draft4Validator, {"type": _check_type, "required": _check_required})  # type: ignore[no-untyped-call]
_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("int32")
def _is_int32(value: object) -> bool:
    return not isinstance(value, int) or -(2**31) <= value < 2**31


@_FORMATS.checks("int64")
def _is_int64(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63
