"""Label and field selectors of list and watch requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from localcloud.standins.kubernetes.store import ApiFailure, Object, Resource


def label_selector(text: str) -> Callable[[Object], bool]:
    """Parse a ``labelSelector``: equality (``=``, ``==``, ``!=``), sets (``in``, ``notin``), existence.

    Raises:
        ApiFailure: 400 for a selector that cannot be parsed.
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
    """Parse a ``fieldSelector`` over the fields that the API supports for this resource.

    Raises:
        ApiFailure: 400 for a selector that cannot be parsed, or for another field.
    """
    supported = _FIELDS.get(resource.plural, ("metadata.name", "metadata.namespace"))
    wanted: list[tuple[str, bool, str]] = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not match:
            raise ApiFailure(400, "BadRequest", f'invalid selector: "{term}"')
        if match[1] not in supported:
            raise ApiFailure(400, "BadRequest", f"field label not supported: {match[1]}; use one of {', '.join(supported)}")
        wanted.append((match[1], match[2] != "!=", match[3]))
    return lambda item: all((str(_at(item, path) or "") == value) == equal for path, equal, value in wanted)


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
