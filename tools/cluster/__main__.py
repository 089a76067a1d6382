"""``python -m tools.cluster build|up|down``: the test cluster from the command line."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path

from tools.cluster import binaries, clusters, packages, spark_image, supervisor
from tools.cluster.binaries import NotPossible

TIERS = ("fast", "full")
STATE = Path(".cleanroom/cluster")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 3 if this machine cannot do it, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build and download what the cluster needs, and say what is reused")
    build.add_argument("--minutes", type=float, default=60, help="how long it may take (default: 60)")
    build.add_argument("--tier", choices=TIERS, default="fast", help="what to build (default: fast)")
    build.add_argument("--spark", action="store_true", help="also the image of a run's pods; with --tier full")
    for name, text in (("up", "start a cluster, and print its kubeconfig"), ("down", "stop it, and remove all that it left")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--state", type=Path, default=STATE, help=f"its folder (default: {STATE})")
        if name == "up":
            command.add_argument("--tier", choices=TIERS, default="fast", help="simulated node, or containers (default: fast)")
            command.add_argument("--spark", action="store_true", help="give the node the image of a run's pods; with --tier full")
            command.add_argument("--json", action="store_true", help="print one JSON object")
    hidden = commands.add_parser("supervise")
    hidden.add_argument("tier", choices=TIERS)
    hidden.add_argument("state", type=Path)
    hidden.add_argument("listener", type=int)
    for option in ("--detached", "--spark"):
        hidden.add_argument(option, action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            _build(options.tier, time.monotonic() + options.minutes * 60, spark=options.spark)
        elif options.command == "up":
            _up(options.state, options.tier, spark=options.spark, as_json=options.json)
        elif options.command == "down":
            _say("stopped" if clusters.down(options.state) else "no cluster runs here")
        else:
            listener = socket.socket(fileno=options.listener)
            supervisor.main(options.tier, options.state, clusters.NAMESPACE, listener, detached=options.detached, spark=options.spark)
    except NotPossible as reason:
        print(f"cluster: {reason}", file=sys.stderr)
        return 3
    return 0


def _build(tier: str, deadline: float, *, spark: bool) -> None:
    """Build the fast tier first, so that a machine that cannot run containers still gets that one."""
    binaries.prepare(binaries.FAST, _say, deadline - time.monotonic())
    if tier == "full":
        if (reason := clusters.containers_obstacle()) is not None:
            raise NotPossible(reason)
        packages.prepare(_say)
        binaries.prepare((binaries.DNS, binaries.PAUSE), _say, deadline - time.monotonic())
    if spark:
        spark_image.prepare(_say, deadline - time.monotonic())


def _up(state: Path, tier: str, *, spark: bool, as_json: bool) -> None:
    if as_json:
        cluster = clusters.up(state.resolve(), tier, spark=spark)
        print(json.dumps({"network": str(cluster.network), "description": str(cluster.description), "seconds": cluster.seconds}))
        return
    if existing := os.environ.get("KUBECONFIG"):
        _say(f"KUBECONFIG names the cluster of {existing}: the tests use that one, and nothing is started")
        return
    cluster = clusters.up(state, tier, spark=spark)
    for step, seconds in cluster.seconds.items():
        _say(f"{seconds:7.2f} s  {step}")
    for name, mib in cluster.memory_mib.items():
        _say(f"{mib:5d} MiB  {name}")
    _say(f"export KUBECONFIG={cluster.kubeconfig().resolve()}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
