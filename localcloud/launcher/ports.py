"""TCP ports that stay the same from one start to the next."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from localcloud.launcher.processes import free_ports
from localcloud.launcher.supervisor import write_json


def stable_ports(file: Path, *, preferred: Mapping[str, int], others: Sequence[str]) -> dict[str, int]:
    """Return ports by name, and record them in ``file`` for the next start.

    Call this only while the local cloud is stopped.

    Args:
        file: JSON file of the recorded ports. A recorded port is kept.
        preferred: Ports to use when they are free. If another process has taken the recorded port of one of these names, the
            name gets a new port: no document contains these ports.
        others: Names that get any free port.
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
        # Servers set this option too. A port with connections in TIME_WAIT is then free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
