"""Serves the plaintext of a run's objects to the JVM of the same pod, segment by segment.

Spark's own readers read through it (``sparkapp/jvm/SealedFiles.java``), so that they prune columns and row groups of
sealed objects. This process attests itself, reads keys, fetches and opens segments as for any other reading; the JVM
gets neither keys nor access to stores. The socket is in a folder of this user with mode 0700.

In the driver's pod a thread serves. In an executor's pod the entry point listens, and starts ``python -m
sparkapp.object_server`` with the socket before the JVM. So the JVM can connect while the server still starts.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from cleanroom.datasets.encryption import SealedFile
from cleanroom.errors import NotFound
from cleanroom.spark.job import JobDataset
from sparkapp.failures import encode_failure
from sparkapp.jvm import OBJECTS_PROPERTY, listen
from sparkapp.pod import Pod
from sparkapp.splits import WHOLE_OBJECT, InputSplit, open_object

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_REQUEST = struct.Struct(">qii")
_LENGTH = struct.Struct(">i")


def object_url(dataset: JobDataset, split: InputSplit, plain_size: int) -> str:
    """Return the URL under which Spark reads an object. It contains what opens the object, apart from the key."""
    place = [dataset.name, quote(split.name, safe=""), str(split.size), split.header or "-", quote(split.etag, safe="") or "-"]
    return f"cleanroom://objects/{'/'.join(place)}/{plain_size}.{dataset.format}"


class ObjectServer:
    """Serves the objects of a pod's job on a Unix domain socket.

    Args:
        pod: The pod's identity.
        listener: The socket; by default a new one.
    """

    def __init__(self, pod: Pod, listener: socket.socket | None = None) -> None:
        self._listener = listener or listen()
        self.path = Path(self._listener.getsockname())
        self._pod = pod
        self._datasets: Mapping[str, JobDataset] | None = None

    def start(self) -> ObjectServer:
        """Serve in threads of this process, and return this server."""
        threading.Thread(target=self.serve, name="objects", daemon=True).start()
        return self

    def serve(self) -> None:
        """Serve until :meth:`close`."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve_object, args=(connection,), name="object", daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()

    def _serve_object(self, connection: socket.socket) -> None:
        """Answer the requests of one reader. It reads one object, so the last opened segments are kept for the next request."""
        opened: dict[str, SealedFile] = {}
        with connection, suppress(OSError):
            while head := _receive(connection, _REQUEST.size):
                offset, length, path_length = _REQUEST.unpack(head)
                path = _receive(connection, path_length).decode("utf-8")
                try:
                    if path not in opened:
                        opened[path] = self._open(path)
                    opened[path].seek(offset)
                    data = opened[path].read(length)
                except Exception as error:
                    text = encode_failure(error, dataset=unquote(path.split("/")[1])).encode("ascii")
                    connection.sendall(_LENGTH.pack(-len(text)) + text)
                    return
                connection.sendall(_LENGTH.pack(len(data)))
                connection.sendall(data)

    def _open(self, path: str) -> SealedFile:
        if self._datasets is None:
            self._datasets = {dataset.name: dataset for dataset in self._pod.job().datasets}
        name, stored, size, header, etag, _ = path.removeprefix("/").split("/")
        if name not in self._datasets:
            raise NotFound("DatasetUnknown", f"dataset {name!r}: it is not an input of this run.")
        split = InputSplit(
            unquote(stored),
            int(size),
            0,
            WHOLE_OBJECT,
            int(size),
            header=None if header == "-" else header,
            etag="" if etag == "-" else unquote(etag),
        )
        return SealedFile(open_object(self._pod, self._datasets[name], split))


@contextmanager
def serving_objects(spark: SparkSession, pod: Pod) -> Iterator[None]:
    """Serve the objects of the job to the JVM of this process while the block runs."""
    server = ObjectServer(pod).start()
    try:
        spark._jvm.java.lang.System.setProperty(OBJECTS_PROPERTY, str(server.path))  # type: ignore[union-attr]
        yield
    finally:
        server.close()


def _receive(connection: socket.socket, size: int) -> bytes:
    """Return ``size`` bytes, or none if the reader has closed its connection."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def main() -> int:
    """Serve on the socket whose number is the argument, until the JVM ends and with it the other end of the standard input."""
    from sparkapp.identity import AttestedPod

    logging.disable(logging.CRITICAL)
    ObjectServer(AttestedPod(), socket.socket(fileno=int(sys.argv[1]))).start()
    while os.read(0, 1):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
