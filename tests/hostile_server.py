"""A loopback server that answers every request with one fault, as a broken network, a proxy or a busy service does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from localcloud.tls import ServerCertificate
from tests.patience import PATIENCE

RESET = b"reset"
"""Close the connection with RST after the request has arrived."""
NO_TLS = b"no tls"
"""Answer the TLS handshake with bytes that are not TLS."""


def http_response(
    status: str, body: bytes = b"", *, content_type: str = "application/json", length: int | None = None, **headers: str
) -> bytes:
    """Return the bytes of an HTTP/1.1 response. A ``length`` above that of the body is a response that is cut."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body) if length is None else length}",
        "Connection: close",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class HostileServer:
    """A running server. Every connection gets ``answer``; ``requests`` are the request lines so far."""

    url: str
    answer: bytes = b""
    requests: list[str] = field(default_factory=list)


@contextmanager
def hostile_server(certificate: ServerCertificate | None) -> Iterator[HostileServer]:
    """Run a server on a free port, with TLS if ``certificate`` is given."""
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate.cert, certificate.key)
    listener = socket.create_server(("127.0.0.1", 0))
    server = HostileServer(f"{'http' if tls is None else 'https'}://localhost:{listener.getsockname()[1]}")

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                _serve(connection, tls, server)
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _serve(connection: socket.socket, tls: ssl.SSLContext | None, server: HostileServer) -> None:
    connection.settimeout(PATIENCE)
    if server.answer == NO_TLS:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return
    stream = connection if tls is None else tls.wrap_socket(connection, server_side=True)
    with stream:
        server.requests.append(_read_request(stream))
        if server.answer == RESET:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        head = server.answer
        if server.requests[-1].startswith("HEAD "):
            head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        stream.sendall(head)


def _read_request(stream: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = stream.recv(1 << 16)
        if not piece:
            return "closed"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    if b"100-continue" in head.lower():
        stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += stream.recv(1 << 16)
    return head.split(b"\r\n")[0].decode()
