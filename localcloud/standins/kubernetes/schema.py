"""What the API server refuses: the SparkApplication CRD's structure, the operator's webhook rules, names and selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from localcloud.standins.kubernetes.store import CONFIG_MAPS, NAMESPACES, PODS, SPARK_APPLICATIONS, ApiFailure, Object, Resource

MAX_ANNOTATIONS = 256 * 1024
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

_POD_FIELDS: dict[str, str] = {
    **dict.fromkeys(("cores", "terminationGracePeriodSeconds"), "integer"),
    **dict.fromkeys(("memory", "memoryLimit", "memoryOverhead", "coreLimit", "coreRequest", "image", "serviceAccount"), "string"),
    **dict.fromkeys(("schedulerName", "javaOptions", "priorityClassName", "runtimeClassName"), "string"),
    **dict.fromkeys(("labels", "annotations", "nodeSelector", "envVars"), "strings"),
    **dict.fromkeys(
        ("template", "gpu", "envSecretKeyRefs", "affinity", "podSecurityContext", "securityContext", "dnsConfig", "lifecycle"), "object"
    ),
    **dict.fromkeys(
        ("env", "envFrom", "volumeMounts", "tolerations", "sidecars", "initContainers", "configMaps", "secrets", "hostAliases"), "array"
    ),
    **dict.fromkeys(("ports",), "array"),
    **dict.fromkeys(("hostNetwork", "shareProcessNamespace"), "boolean"),
}
_DRIVER_FIELDS = {
    **_POD_FIELDS,
    "podName": "string",
    "kubernetesMaster": "string",
    "serviceAnnotations": "strings",
    "serviceLabels": "strings",
}
_EXECUTOR_FIELDS = {**_POD_FIELDS, "instances": "integer", "deleteOnTermination": "boolean"}
_SPEC_FIELDS: dict[str, str] = {
    **dict.fromkeys(
        ("type", "sparkVersion", "mode", "proxyUser", "image", "imagePullPolicy", "mainClass", "mainApplicationFile"), "string"
    ),
    **dict.fromkeys(("pythonVersion", "memoryOverheadFactor", "batchScheduler", "sparkConfigMap", "hadoopConfigMap"), "string"),
    **dict.fromkeys(("failureRetries", "retryInterval", "timeToLiveSeconds"), "integer"),
    **dict.fromkeys(("sparkConf", "hadoopConf", "nodeSelector"), "strings"),
    **dict.fromkeys(("deps", "monitoring", "batchSchedulerOptions", "sparkUIOptions", "dynamicAllocation", "restartPolicy"), "object"),
    **dict.fromkeys(("arguments", "imagePullSecrets"), "texts"),
    **dict.fromkeys(("volumes", "driverIngressOptions"), "array"),
    "driver": "driver",
    "executor": "executor",
    "suspend": "boolean",
}
_NESTED: dict[str, dict[str, str]] = {
    "spec.dynamicAllocation": {
        **dict.fromkeys(("enabled", "shuffleTrackingEnabled"), "boolean"),
        **dict.fromkeys(("initialExecutors", "minExecutors", "maxExecutors", "shuffleTrackingTimeout"), "integer"),
    },
    "spec.restartPolicy": {
        "type": "string",
        **dict.fromkeys(
            ("onFailureRetries", "onFailureRetryInterval", "onSubmissionFailureRetries", "onSubmissionFailureRetryInterval"), "integer"
        ),
    },
    "spec.monitoring": {
        **dict.fromkeys(("exposeDriverMetrics", "exposeExecutorMetrics"), "boolean"),
        **dict.fromkeys(("metricsProperties", "metricsPropertiesFile"), "string"),
        "prometheus": "object",
    },
    "spec.deps": dict.fromkeys(("archives", "excludePackages", "files", "jars", "packages", "pyFiles", "repositories"), "texts"),
}
"""Members of the spec's own objects; what belongs to a pod (affinity, security context …) is Kubernetes' own and not looked into."""
_REQUIRED: dict[str, tuple[str, ...]] = {
    "spec": ("driver", "executor", "mainApplicationFile", "sparkVersion", "type"),
    "spec.monitoring": ("exposeDriverMetrics", "exposeExecutorMetrics"),
    **{f"spec.{role}.gpu": ("name", "quantity") for role in ("driver", "executor")},
}
_REQUIRED_OF_ITEMS: dict[str, tuple[str, ...]] = {
    "spec.volumes": ("name",),
    "spec.driverIngressOptions": ("servicePort",),
    **{
        f"spec.{role}.{field}": names
        for role in ("driver", "executor")
        for field, names in {
            "env": ("name",),
            "volumeMounts": ("name", "mountPath"),
            "initContainers": ("name",),
            "sidecars": ("name",),
            "configMaps": ("name", "path"),
            "secrets": ("name", "path", "secretType"),
            "ports": ("containerPort", "name", "protocol"),
        }.items()
    },
}
_ENUMS = {
    "spec.type": ("Java", "Python", "Scala", "R"),
    "spec.mode": ("cluster", "client"),
    "spec.pythonVersion": ("2", "3"),
    "spec.restartPolicy.type": ("Never", "OnFailure", "Always"),
}
_MINIMA = {
    "spec.driver.cores": 1,
    "spec.executor.cores": 1,
    "spec.executor.instances": 1,
    "spec.restartPolicy.onFailureRetries": 0,
    "spec.restartPolicy.onSubmissionFailureRetries": 0,
    "spec.restartPolicy.onFailureRetryInterval": 1,
    "spec.restartPolicy.onSubmissionFailureRetryInterval": 1,
}

_CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
    "texts": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "strings": lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
}
_TYPE_NAMES = {"texts": "array", "strings": "object"}


def validate(resource: Resource, body: Object, *, strict: bool) -> list[str]:
    """Check an object on its way in; prunes what the CRD does not know and returns it as warnings.

    Raises:
        ApiFailure: 422 Invalid with causes, 400 for unknown fields when ``strict``, 403 where the operator's webhook denies.
    """
    causes = _metadata_causes(resource, body)
    warnings: list[str] = []
    if resource is SPARK_APPLICATIONS:
        causes += _spark_causes(body, warnings)
    elif resource is PODS:
        if not (isinstance(body.get("spec"), dict) and isinstance(body["spec"].get("containers"), list) and body["spec"]["containers"]):
            causes.append(_cause("FieldValueRequired", "spec.containers", "Required value"))
    elif resource is CONFIG_MAPS and not _CHECKS["strings"](body.get("data") or {}):
        causes.append(_cause("FieldValueTypeInvalid", "data", "Invalid value: must be strings"))
    if causes:
        raise _invalid(resource, body, causes)
    if strict and warnings:
        raise ApiFailure(400, "BadRequest", f"strict decoding error: {', '.join(warnings)}")
    if resource is SPARK_APPLICATIONS:
        _webhook(body)
    return warnings


def _metadata_causes(resource: Resource, body: Object) -> list[Object]:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return [_cause("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")]
    causes = []
    name = metadata["name"]
    limit = 63 if resource is NAMESPACES else 253
    if not _DNS_1123.fullmatch(name) or len(name) > limit:
        causes.append(
            _cause("FieldValueInvalid", "metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of …')
        )
    labels = metadata.get("labels") or {}
    if not isinstance(labels, dict):
        return [*causes, _wrong_type("metadata.labels", labels, "object")]
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            causes.append(_cause("FieldValueInvalid", "metadata.labels", f'Invalid value: "{key}": not a label key'))
        if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            causes.append(_cause("FieldValueInvalid", "metadata.labels", f'Invalid value: "{value}": a valid label must be …'))
    annotations = metadata.get("annotations") or {}
    if not _CHECKS["strings"](annotations):
        causes.append(_cause("FieldValueTypeInvalid", "metadata.annotations", "Invalid value: must be strings"))
    elif sum(len(key) + len(value) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        causes.append(_cause("FieldValueTooLong", "metadata.annotations", f"Too long: may not be more than {MAX_ANNOTATIONS} bytes"))
    return causes


def _spark_causes(body: Object, warnings: list[str]) -> list[Object]:
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return [_cause("FieldValueRequired", "spec", "Required value")]
    causes = _missing(body)
    causes += _fields("spec", spec, _SPEC_FIELDS, warnings)
    for path, allowed in _ENUMS.items():
        value = _at(body, path)
        if isinstance(value, str) and value not in allowed:
            supported = ", ".join(f'"{item}"' for item in allowed)
            causes.append(_cause("FieldValueNotSupported", path, f'Unsupported value: "{value}": supported values: {supported}'))
    for path, least in _MINIMA.items():
        value = _at(body, path)
        if isinstance(value, int) and value < least:
            causes.append(
                _cause("FieldValueInvalid", path, f"Invalid value: {value}: {path} in body should be greater than or equal to {least}")
            )
    return causes


def _missing(body: Object) -> list[Object]:
    places = [(path, _at(body, path), names) for path, names in _REQUIRED.items()]
    for path, names in _REQUIRED_OF_ITEMS.items():
        items = _at(body, path)
        if isinstance(items, list):
            places += [(f"{path}[{number}]", item, names) for number, item in enumerate(items)]
    return [
        _cause("FieldValueRequired", f"{path}.{name}", "Required value")
        for path, value, names in places
        if isinstance(value, dict)
        for name in names
        if name not in value
    ]


def _fields(path: str, value: Object, known: dict[str, str], warnings: list[str]) -> list[Object]:
    causes: list[Object] = []
    for name in list(value):
        where, kind = f"{path}.{name}", known.get(name)
        if kind is None:
            warnings.append(f'unknown field "{where}"')
            del value[name]
        elif kind in ("driver", "executor"):
            if isinstance(value[name], dict):
                causes += _fields(where, value[name], _DRIVER_FIELDS if kind == "driver" else _EXECUTOR_FIELDS, warnings)
            else:
                causes.append(_wrong_type(where, value[name], "object"))
        elif not _CHECKS[kind](value[name]):
            causes.append(_wrong_type(where, value[name], _TYPE_NAMES.get(kind, kind)))
        elif where in _NESTED:
            causes += _fields(where, value[name], _NESTED[where], warnings)
    return causes


def _webhook(body: Object) -> None:
    spec, name = body["spec"], body["metadata"]["name"]
    denial = None
    if not _DNS_1035.fullmatch(name) or len(name) > 63:
        denial = f'invalid SparkApplication name "{name}": a DNS-1035 label must consist of lower case alphanumeric characters or "-" …'
    elif spec.get("nodeSelector") and (spec["driver"].get("nodeSelector") or spec["executor"].get("nodeSelector")):
        denial = "node selector cannot be defined at both SparkApplication and driver/executor level"
    if denial:
        raise ApiFailure(
            403, "Forbidden", f'admission webhook "validate-sparkapplication.sparkoperator.k8s.io" denied the request: {denial}'
        )


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _cause(reason: str, field: str, message: str) -> Object:
    return {"reason": reason, "message": message, "field": field}


def _wrong_type(field: str, value: object, wanted: str) -> Object:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}
    found = names.get(type(value), "unknown")
    return _cause("FieldValueTypeInvalid", field, f'Invalid value: "{found}": {field} in body must be of type {wanted}: "{found}"')


def _invalid(resource: Resource, body: Object, causes: list[Object]) -> ApiFailure:
    metadata = body.get("metadata")
    name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.kind, "causes": causes}
    return ApiFailure(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)


# --- selectors


def label_selector(text: str) -> Callable[[Object], bool]:
    """``labelSelector``: equality (``=``, ``==``, ``!=``), sets (``in``, ``notin``), existence.

    Raises:
        ApiFailure: 400.
    """
    tests: list[Callable[[dict[str, str]], bool]] = []
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", text):
        term = part.strip()
        if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", term):
            key, inside, values = match[1], match[2] == "in", {value.strip() for value in match[3].split(",")}
            tests.append(lambda labels, key=key, inside=inside, values=values: (labels.get(key) in values) == inside)  # type: ignore[misc]
        elif match := re.fullmatch(r"([^=!\s]+)\s*(==|=|!=)\s*(\S*)", term):
            key, equal, value = match[1], match[2] != "!=", match[3]
            tests.append(lambda labels, key=key, equal=equal, value=value: (labels.get(key) == value) == equal)  # type: ignore[misc]
        elif match := re.fullmatch(r"(!?)([^=!\s]+)", term):
            absent, key = bool(match[1]), match[2]
            tests.append(lambda labels, key=key, absent=absent: (key in labels) != absent)  # type: ignore[misc]
        else:
            raise ApiFailure(400, "BadRequest", f'unable to parse requirement: "{term}"')
    return lambda item: all(test(item["metadata"].get("labels") or {}) for test in tests)


_FIELDS = {
    "pods": ("metadata.name", "metadata.namespace", "status.phase", "spec.nodeName", "spec.serviceAccountName"),
    "events": (
        "metadata.name",
        "metadata.namespace",
        "involvedObject.name",
        "involvedObject.kind",
        "involvedObject.uid",
        "involvedObject.namespace",
        "reason",
        "type",
    ),
}


def field_selector(resource: Resource, text: str) -> Callable[[Object], bool]:
    """``fieldSelector`` over the fields that the API supports for this resource.

    Raises:
        ApiFailure: 400.
    """
    wanted: list[tuple[str, bool, str]] = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not match:
            raise ApiFailure(400, "BadRequest", f'invalid selector: "{term}"')
        if match[1] not in _FIELDS.get(resource.plural, ("metadata.name", "metadata.namespace")):
            raise ApiFailure(400, "BadRequest", f"field label not supported: {match[1]}")
        wanted.append((match[1], match[2] != "!=", match[3]))
    return lambda item: all((str(_at(item, path) or "") == value) == equal for path, equal, value in wanted)
