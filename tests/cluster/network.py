"""The network of a cluster, which is not this machine's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.cluster.isolation import enter_network


@contextmanager
def in_network(network: Path) -> Iterator[None]:
    """Run this thread, and what it starts, in a cluster's network. Threads that exist already stay where they are."""
    own = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    handle = os.open(own, os.O_RDONLY)
    try:
        enter_network(network)
        yield
    finally:
        enter_network(f"/proc/self/fd/{handle}")
        os.close(handle)
