"""The checks of the API server before it stores an object: schema, names and labels, and the Spark Operator's webhook."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from localcloud.standins.kubernetes import schemas
from localcloud.standins.kubernetes.schemas import Problem
from localcloud.standins.kubernetes.store import NAMESPACES, PODS, SPARK_APPLICATIONS, ApiFailure, Object, Resource

MAX_ANNOTATIONS = 256 * 1024
"""Largest total size of an object's annotations, in bytes."""
_MUTATING_WEBHOOK = "mutate-sparkoperator-k8s-io-v1beta2-sparkapplication.sparkoperator.k8s.io"
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_QUALIFIED_NAME = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character,"
    " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)


def validate(resource: Resource, body: Object, *, strict: bool) -> list[str]:
    """Validate an object, remove its unknown fields and set its defaults, in place.

    The ``status`` is not checked: only the controllers of this server write it.

    Args:
        resource: The kind of object.
        body: The object.
        strict: Whether unknown fields are an error (the query parameter ``fieldValidation=Strict``).

    Returns:
        One warning per unknown field.

    Raises:
        ApiFailure: 422 Invalid with causes, 400 for unknown fields when ``strict`` and for types that cannot be decoded, 403
            if the operator's webhook denies the object.
    """
    custom = resource is SPARK_APPLICATIONS
    schema = schemas.spark_application() if custom else schemas.core(resource.kind)
    status = body.pop("status", None)
    schemas.remove_nulls(body.get("metadata") if custom else body)
    try:
        warnings = [f'unknown field "{field}"' for field in schemas.prune(body, schema)]
        if custom:
            schemas.set_defaults(body, schema)
        found = schemas.problems(body, schema)
    finally:
        if status is not None:
            body["status"] = status
    problems = _metadata_problems(resource, body) + [problem for problem in found if not problem.field.startswith("metadata.")]
    if resource is PODS and isinstance(body.get("spec"), dict) and body["spec"].get("containers") == []:
        problems.append(Problem("FieldValueRequired", "spec.containers", "Required value"))
    if not custom and (undecodable := [problem for problem in problems if problem.wrong_type]):
        texts = "; ".join(f"{problem.field}: {problem.message}" for problem in undecodable)
        text = f'{resource.kind} in version "{resource.api_version}" cannot be handled as a {resource.kind}: {texts}'
        raise ApiFailure(400, "BadRequest", text)
    if problems:
        raise _invalid(resource, body, problems)
    if strict and warnings:
        raise ApiFailure(400, "BadRequest", f"strict decoding error: {', '.join(warnings)}")
    if custom:
        _operator_webhook(body)
    return warnings


def pass_mutating_webhook(body: Object, *, strict: bool) -> None:
    """Apply the Spark Operator's mutating webhook to a SparkApplication, in place. The API server calls it before :func:`validate`.

    The webhook decodes the object and encodes it again. Therefore a value of a wrong type is its error and not the schema's,
    and a missing driver or executor becomes an empty one.

    Args:
        body: The object.
        strict: Whether unknown fields are an error, which precedes those of the webhook.

    Raises:
        ApiFailure: 400.
    """
    if not isinstance(body.get("spec"), dict):
        return
    for role in ("driver", "executor"):
        body["spec"][role] = {} if body["spec"].get(role) is None else body["spec"][role]
    schema, decoded = schemas.spark_application(), copy.deepcopy(body)
    unknown = schemas.prune(decoded, schema)
    if strict and unknown:
        fields = ", ".join(f'unknown field "{field}"' for field in unknown)
        kind, version = SPARK_APPLICATIONS.kind, SPARK_APPLICATIONS.version
        text = f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {fields}'
        raise ApiFailure(400, "BadRequest", text)
    wrong = next((problem for problem in schemas.problems(decoded, schema) if problem.wrong_type), None)
    if wrong is not None:
        reason = f"json: cannot unmarshal into Go struct field {wrong.field}: {wrong.message}"
        raise ApiFailure(400, "BadRequest", f'admission webhook "{_MUTATING_WEBHOOK}" denied the request: {reason}')


def _metadata_problems(resource: Resource, body: Object) -> list[Problem]:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return [Problem("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")]
    problems = [Problem(p.reason, f"metadata.{p.field}", p.message) for p in schemas.problems(metadata, schemas.object_meta())]
    if problems:
        return problems
    name = metadata["name"]
    if not _DNS_1123.fullmatch(name) or len(name) > (63 if resource is NAMESPACES else 253):
        rule = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.',"
            " and must start and end with an alphanumeric character"
        )
        problems.append(Problem("FieldValueInvalid", "metadata.name", f'Invalid value: "{name}": {rule}'))
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key):
            problems.append(Problem("FieldValueInvalid", "metadata.labels", f'Invalid value: "{key}": name part {_QUALIFIED_NAME}'))
        if len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            rule = (
                "a valid label must be an empty string or consist of at most 63 alphanumeric characters, '-', '_' or '.',"
                " and must start and end with an alphanumeric character"
            )
            problems.append(Problem("FieldValueInvalid", "metadata.labels", f'Invalid value: "{value}": {rule}'))
    if (size := _size(metadata.get("annotations") or {})) > MAX_ANNOTATIONS:
        message = f"Too long: may not be more than {MAX_ANNOTATIONS} bytes, but is {size} bytes"
        problems.append(Problem("FieldValueTooLong", "metadata.annotations", message))
    return problems


def _size(annotations: Mapping[str, str]) -> int:
    return sum(len(key) + len(value) for key, value in annotations.items())


def _operator_webhook(body: Object) -> None:
    """Apply the rules of the Spark Operator's validating webhook."""
    spec, name = body["spec"], body["metadata"]["name"]
    if not _DNS_1035.fullmatch(name) or len(name) > 63:
        reason = (
            f'invalid SparkApplication name "{name}": a DNS-1035 label must consist of at most 63 lower case alphanumeric characters'
            " or '-', start with an alphabetic character, and end with an alphanumeric character"
        )
    elif spec.get("nodeSelector") and (spec["driver"].get("nodeSelector") or spec["executor"].get("nodeSelector")):
        reason = "node selector cannot be defined at both SparkApplication and driver/executor level"
    else:
        return
    raise ApiFailure(403, "Forbidden", f'admission webhook "validate-sparkapplication.sparkoperator.k8s.io" denied the request: {reason}')


def _invalid(resource: Resource, body: Object, problems: list[Problem]) -> ApiFailure:
    metadata: Any = body.get("metadata")
    name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
    texts = [f"{problem.field}: {problem.message}" for problem in problems]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    causes = [problem.cause() for problem in problems]
    details = {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.kind, "causes": causes}
    return ApiFailure(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)
