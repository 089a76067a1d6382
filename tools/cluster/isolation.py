"""Namespaces for a whole cluster, and the one way in: a listening socket of this machine that its network inherits.

All processes of a cluster run in their own network, mount and PID namespaces. When the first process of the PID
namespace ends, the kernel ends all others, and mounts, addresses and firewall rules vanish with their namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_CLONE_NEWNET = 0x40000000
_REQUEST = struct.Struct("16sH14x")


def prefix() -> list[str] | None:
    """Return the command prefix that runs a program in new namespaces, or None if this machine does not allow it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    command = [unshare, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for candidate in (command, [*command, "--map-root-user"]):
        if subprocess.run([*candidate, "true"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def bring_up_loopback() -> None:
    """Bring up the loopback interface, which is down in a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name, flags = _REQUEST.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, _REQUEST.pack(b"lo", 0)))
        fcntl.ioctl(control, _SIOCSIFFLAGS, _REQUEST.pack(name, flags | _IFF_UP))


def enter_network(network: str | Path) -> None:
    """Move the calling thread, and the threads and processes that it starts from then on, to another network namespace.

    Args:
        network: The namespace as a file, such as ``/proc/PID/ns/net``.

    Raises:
        OSError: The caller has no right to enter it.
    """
    handle = os.open(network, os.O_RDONLY)
    try:
        # Python has os.setns from 3.12 on.
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network {network}")
    finally:
        os.close(handle)


def listen_in_network(network: str, port: int) -> socket.socket:
    """Return a socket that listens on loopback in another network namespace, where it stays."""

    def listen() -> socket.socket:
        enter_network(network)
        return socket.create_server(("127.0.0.1", port))

    # Only the thread enters the namespace, and it ends.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(listen).result()


async def relay(listener: socket.socket, host: str, port: int) -> asyncio.Server:
    """Forward the connections of ``listener`` to an address in this process's network.

    A socket stays in the network namespace in which it was created. Therefore a process in another namespace can
    accept connections of this machine, and open its own connections inside.
    """

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        finally:
            writer.close()
            inner_writer.close()

    return await asyncio.start_server(forward, sock=listener)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        # One side broke the connection, so the other one ends too.
        writer.transport.abort()


def remove_control_groups() -> None:
    """Remove the empty control groups of ended pods. No namespace contains them."""
    for folder, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if "/kubepods" in folder:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
