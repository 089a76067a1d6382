"""Ports that stay the same from one start to the next."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from localcloud.launcher.processes import free_ports
from localcloud.launcher.supervisor import write_json


def stable_ports(file: Path, *, preferred: Mapping[str, int], others: Sequence[str]) -> dict[str, int]:
    """Ports by name, from ``file`` where they are chosen already: ``preferred`` ones if nobody listens there, else free ones.

    Nothing of ours may be running. A port under a ``preferred`` name that somebody took meanwhile is chosen anew: those are in no document.
    """
    ports: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    ports = {name: port for name, port in ports.items() if name not in preferred or _is_free(port)}
    ports |= {name: port for name, port in preferred.items() if name not in ports and _is_free(port)}
    missing = [name for name in (*preferred, *others) if name not in ports]
    ports |= dict(zip(missing, free_ports(len(missing)), strict=True))
    write_json(file, ports)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
