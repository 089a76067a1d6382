"""Command line of the local cloud: ``python -m localcloud up|down|ps|install --state DIR``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cleanroom.errors import CleanRoomError, InvalidInput
from localcloud.launcher.chosen_parties import parse_parties, record_parties
from localcloud.launcher.companies import Companies
from localcloud.launcher.detached import read_status, restart_exited, start_detached, stop_detached
from localcloud.launcher.pod_cluster import record_cluster
from localcloud.launcher.processes import Service
from localcloud.launcher.restarts import RestartPolicy
from localcloud.launcher.supervisor import Step, Supervisor, python


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m localcloud", description="Local servers that stand in for the clouds. NOT CONFIDENTIAL."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start everything; run in the foreground until Ctrl-C")
    up.add_argument("--detach", action="store_true", help="return when everything is ready; keep running in the background")
    up.add_argument("--seconds", type=float, default=180.0, help="with --detach: timeout without progress (default: 180)")
    up.add_argument("--party", action="append", default=[], metavar="NAME:KIND", help="a company: KIND is azure, s3 or analyst; repeatable")
    up.add_argument("--collaboration", help="with --party: ID of the companies' contract (default: local)")
    up.add_argument(
        "--cluster", type=Path, metavar="FILE", help="run the pods on the cluster that FILE describes, in whose network this runs"
    )
    up.add_argument("--no-workers", action="store_true", help="start no workers; run them with `cleanroom worker`")
    up.add_argument("--propagation-seconds", type=float, default=0.0, help="delay of new roles and federated credentials (default: 0)")
    up.add_argument("--restarts", type=int, default=0, help="starts of a service after crashes in a row (default: 0)")
    up.add_argument("--observe", action="store_true", help="trace the workers, and serve a page with traces and metrics")
    down = commands.add_parser("down", help="stop everything")
    ps = commands.add_parser("ps", help="list the processes")
    install = commands.add_parser("install", help="install Azurite, which is not a Python package, and exit")
    for command in (up, down, ps, install):
        command.add_argument("--state", type=Path, default=Path(".cleanroom"), help="state folder (default: .cleanroom)")
        command.add_argument("--output", choices=("table", "json"), default="table")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code (:mod:`cleanroom.errors`)."""
    arguments = parse_arguments(argv)
    try:
        return {"up": _up, "down": _down, "ps": _ps, "install": _install}[arguments.command](arguments)
    except CleanRoomError as error:
        _say(json.dumps(error.to_dict()) if arguments.output == "json" else _text(error))
        return error.exit_code


def _up(arguments: argparse.Namespace) -> int:
    state = arguments.state.resolve()
    companies = _chosen(arguments)
    if companies is not None:
        record_parties(state, companies)
    if arguments.cluster is not None:
        record_cluster(state, arguments.cluster)
    running = read_status(state)
    if running is not None and running["status"] == "orphaned":
        _say("an earlier supervisor died; stopping its services")
        stop_detached(state)
        running = None
    if arguments.detach:
        if running is None or running["status"] != "ready":
            options = ["--propagation-seconds", str(arguments.propagation_seconds), *(["--no-workers"] if arguments.no_workers else [])]
            options += ["--restarts", str(arguments.restarts), *(["--observe"] if arguments.observe else [])]
            command = python("localcloud", "up", "--state", str(state), *options)
            running = start_detached(state, command, seconds=arguments.seconds, on_event=_say)
        elif any(service["state"] in ("exited", "restarting") for service in running["services"]):
            running = restart_exited(state, seconds=arguments.seconds, on_event=_say)
        _print(running, arguments.output)
        return 0

    def plan() -> list[Service | Step]:
        # Imported late, so that `down` and `ps` do not load every stand-in.
        from localcloud.launcher import topology

        return topology.plan(
            state, propagation_seconds=arguments.propagation_seconds, workers=not arguments.no_workers, observe=arguments.observe
        )

    Supervisor(state, plan, on_event=_say, policy=RestartPolicy(arguments.restarts)).run()
    return 0


def _chosen(arguments: argparse.Namespace) -> Companies | None:
    if not arguments.party:
        if arguments.collaboration:
            raise InvalidInput("NoOwner", "--collaboration: no company is given.", hint="Give --party NAME:KIND for each company.")
        return None
    return parse_parties(arguments.party, arguments.collaboration)


def _install(arguments: argparse.Namespace) -> int:
    from localcloud.launcher import azurite

    _say(f"azurite: {azurite.install(azurite.default_install_folder())}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    stopped = stop_detached(arguments.state.resolve())
    if arguments.output == "json":
        print(json.dumps({"stopped": stopped}))
    else:
        _say("stopped" if stopped else "nothing was running")
    return 0


def _ps(arguments: argparse.Namespace) -> int:
    _print(read_status(arguments.state.resolve()) or {"services": []}, arguments.output)
    return 0


def _print(status: dict[str, Any], output: str) -> None:
    services = [service for service in status["services"] if service["kind"] == "service"]
    if output == "json":
        print(json.dumps(services))
        return
    rows = [("NAME", "STATE", "PID", "URL"), *((s["name"], s["state"], str(s["pid"] or ""), s["url"]) for s in services)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3]]).rstrip())


def _text(error: CleanRoomError) -> str:
    lines = [str(error), *([error.cause] if error.cause else []), *([f"hint: {error.hint}"] if error.hint else [])]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
