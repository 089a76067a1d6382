"""Container policies of the chart's attested workers, from the rendered chart, as ``az confcom`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cleanroom.spark import rego
from cleanroom.spark.policy import NODE_MOUNTS, PodPolicy
from tests.cluster.place import Place

ENTRYPOINT = ("/opt/entrypoint.sh",)
WORKING_DIR = "/opt/spark/work-dir"
"""Of the image that takes the place of the worker image."""

ANY_VARIABLE = rego.EnvRule(pattern="^[A-Za-z0-9_]+=.*$", required=False, strategy="re2")


def worker_policy(place: Place, pod: Mapping[str, Any]) -> PodPolicy:
    """Return the policy of a worker's pod, which measures the command line of each container.

    Args:
        place: The cluster, for the layers of its image.
        pod: The pod's ``spec`` in the rendered chart.
    """
    rules = [_rule(place, container) for container in (*pod.get("initContainers", ()), *pod["containers"])]
    return PodPolicy.of(rego.render([*rules, rego.PAUSE], minimum_svn=4))


def _rule(place: Place, container: Mapping[str, Any]) -> rego.ContainerRule:
    command = (*(container.get("command") or ENTRYPOINT), *container.get("args", ()))
    mounts = [(item["mountPath"], "ro" if item.get("readOnly") else "rw", "emptydir") for item in container.get("volumeMounts", ())]
    mounts += [("/var/run/secrets/kubernetes.io/serviceaccount", "ro", "emptydir"), ("/etc/resolv.conf", "rw", "resolvconf")]
    # With a read-only root, containerd mounts its own files read-only, too.
    mounts += [(path, access, "node") for path in NODE_MOUNTS for access in ("rw", "ro")] + [("/etc/resolv.conf", "ro", "resolvconf")]
    return rego.ContainerRule(
        name=container["name"],
        id=container["image"],
        command=command,
        env_rules=(ANY_VARIABLE,),
        layers=place.layers,
        mounts=tuple(
            rego.MountRule(destination=path, options=("rbind", "rprivate", access), source=f"sandbox:///tmp/atlas/{kind}/.+")
            for path, access, kind in mounts
        ),
        working_dir=WORKING_DIR,
    )
