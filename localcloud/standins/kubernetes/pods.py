"""Reading and writing parts of a pod object."""

from __future__ import annotations

from localcloud.standins.kubernetes.store import Object


def container_of(pod: Object) -> Object:
    """Return the pod's first container, the only one that runs."""
    found: Object = pod["spec"]["containers"][0]
    return found


def container_status(container: Object, state: Object, *, ready: bool) -> Object:
    """Return the entry of ``status.containerStatuses`` for a container."""
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"],
        "ready": ready,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def state_of(pod: Object) -> Object:
    """Return the state of the first container; empty before it has one."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    state: Object = statuses[0].get("state") or {}
    return state


def requested_cpus(pod: Object) -> float:
    """Return the CPUs that all containers of the pod request."""
    total = 0.0
    for container in pod["spec"]["containers"]:
        text = str(((container.get("resources") or {}).get("requests") or {}).get("cpu", "0"))
        total += float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    return total


def is_active(pod: Object) -> bool:
    """Whether the pod has not ended."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
