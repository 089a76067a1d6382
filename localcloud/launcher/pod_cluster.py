"""The Kubernetes cluster of a local cloud whose runs have real pods, in place of the stand-in of Kubernetes.

``tools/cluster`` describes the cluster in a file. The local cloud then listens where the cluster's pods reach it, and tells
the cluster's node which hardware stand-in launches its guests.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cleanroom.errors import Conflict, InvalidInput
from localcloud.launcher.supervisor import write_json

_FILE = "pod-cluster.json"


class Hardware(BaseModel):
    """The SNP stand-in that launches the guests of a node: its URL, the file with the hypervisor's token, and its root certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    token_file: Path
    ca_file: Path


class PodCluster(BaseModel):
    """A cluster, as the local cloud needs to know it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    """IP address of this machine in the cluster's network. Pods reach the services of the local cloud there."""
    kubeconfig: Path
    """The Spark service's kubeconfig."""
    image: str
    """The image of the pods, by digest."""
    layers: tuple[str, ...]
    """The layers that the pods' policies measure, bottom first."""
    spark_version: str
    hardware_file: Path
    """Where the node reads its :class:`Hardware`."""


def record_cluster(state: Path, description: Path) -> None:
    """Record in ``state`` that the local cloud runs its pods on the cluster that ``description`` describes.

    Raises:
        InvalidInput: ``PodClusterInvalid``.
        Conflict: ``ClusterDiffers`` if the folder has the state of a local cloud without this cluster.
    """
    try:
        found = PodCluster.model_validate_json(description.read_text("utf-8"))
    except (OSError, ValidationError) as error:
        raise InvalidInput(
            "PodClusterInvalid",
            f"--cluster: {description} does not describe a cluster.",
            cause=str(error),
            hint="`python -m tools.cluster up --tier full --spark` writes this file.",
        ) from error
    if (state / "ports.json").exists() and recorded_cluster(state) != found:
        raise Conflict("ClusterDiffers", f"{state} has a local cloud without this cluster.", hint="Choose another folder with --state.")
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(state / _FILE, found.model_dump(mode="json"))


def recorded_cluster(state: Path) -> PodCluster | None:
    """Return the cluster of the local cloud in ``state``; None if its runs have the stand-in of Kubernetes."""
    try:
        return PodCluster.model_validate_json((state / _FILE).read_text("utf-8"))
    except FileNotFoundError:
        return None
