"""Images of the full tier without a registry: OCI archives from folders, named by their digest."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tools.cluster.binaries import DNS, PAUSE
from tools.cluster.packages import root

APPLETS = (
    "sh",
    "cat",
    "chmod",
    "cp",
    "env",
    "grep",
    "httpd",
    "id",
    "ls",
    "mkdir",
    "nslookup",
    "sed",
    "sleep",
    "sort",
    "tail",
    "tr",
    "wget",
)
PROGRAM = Path(__file__).with_name("program.sh")
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """One layer: an uncompressed tar, and its SHA-256 in hex."""

    tar: Path
    digest: str

    @staticmethod
    def of(folder: Path, tar: Path) -> Layer:
        """Write the files of ``folder`` to ``tar``: sorted and without timestamps, so that the same files give the same digest."""
        subprocess.run(["tar", "--numeric-owner", "--sort=name", "--mtime=@0", "-C", folder, "-cf", tar, "."], check=True)
        return Layer.read(tar)

    @staticmethod
    def read(tar: Path) -> Layer:
        """Return the layer in ``tar``."""
        with tar.open("rb") as stream:
            return Layer(tar, hashlib.file_digest(stream, "sha256").hexdigest())


@dataclass(frozen=True)
class Image:
    """An image of ``layers``, bottom first.

    Args:
        name: The image's name, without registry and digest.
        config: Its OCI configuration: ``Entrypoint``, ``Env``, ``User`` and so on.
        layers: The layers, bottom first.
    """

    name: str
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]

    @property
    def reference(self) -> str:
        """The image by digest, as containerd and the kubelet name it after an import."""
        return f"localhost/{self.name}@sha256:{_hex(self._manifest())}"

    @property
    def layer_digests(self) -> tuple[str, ...]:
        """The digests of the layers, bottom first, in hex. On this node they take the place of dm-verity root hashes."""
        return tuple(layer.digest for layer in self.layers)

    def write(self, stream: IO[bytes]) -> None:
        """Write the image as an OCI archive."""
        manifest, configuration = self._manifest(), self._configuration()
        entry = _descriptor("manifest.v1+json", _hex(manifest), len(manifest))
        entry["annotations"] = {"io.containerd.image.name": f"localhost/{self.name}:latest", "org.opencontainers.image.ref.name": "latest"}
        with tarfile.open(fileobj=stream, mode="w|") as out:
            _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
            _add(out, f"blobs/sha256/{_hex(manifest)}", manifest)
            _add(out, f"blobs/sha256/{_hex(configuration)}", configuration)
            for layer in self.layers:
                out.add(layer.tar, f"blobs/sha256/{layer.digest}")

    def _configuration(self) -> bytes:
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in self.layers]}
        return json.dumps({"architecture": "amd64", "os": "linux", "config": self.config, "rootfs": rootfs}).encode()

    def _manifest(self) -> bytes:
        configuration = self._configuration()
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": _descriptor("config.v1+json", _hex(configuration), len(configuration)),
                "layers": [_descriptor("layer.v1.tar", layer.digest, layer.tar.stat().st_size) for layer in self.layers],
            }
        ).encode()


def pause(folder: Path) -> Image:
    """Build the image of pod sandboxes."""
    content = folder / "pause"
    content.mkdir(parents=True)
    shutil.copy(PAUSE.path, content / "pause")
    return Image("pause", {"Entrypoint": ["/pause"], "Env": ["PATH=/"]}, (Layer.of(content, folder / "pause.tar"),))


def dns(folder: Path) -> Image:
    """Build the image of the cluster's DNS server."""
    content = folder / "dns"
    content.mkdir(parents=True)
    shutil.copy(DNS.path, content / "coredns")
    return Image("dns", {"Entrypoint": ["/coredns"]}, (Layer.of(content, folder / "dns.tar"),))


def program(folder: Path) -> Image:
    """Build the image of drivers that do what their arguments say, and of the chart's workers, with busybox and a shell script."""
    content = folder / "program"
    for name in ("bin", "etc", "opt/cleanroom/bin", "opt/spark/work-dir", "tmp"):
        (content / name).mkdir(parents=True)
    shutil.copy(root() / "bin/busybox", content / "bin/busybox")
    for applet in APPLETS:
        (content / "bin" / applet).symlink_to("busybox")
    (content / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    shutil.copy(PROGRAM, content / "opt/entrypoint.sh")
    (content / "opt/entrypoint.sh").chmod(0o755)
    # The chart's Job runs a module of the worker image.
    (content / "opt/cleanroom/bin/python").write_text("#!/bin/sh\necho registered\n")
    (content / "opt/cleanroom/bin/python").chmod(0o755)
    config = {"Entrypoint": ["/opt/entrypoint.sh"], "WorkingDir": "/opt/spark/work-dir", "Env": ["PATH=/bin"]}
    return Image("program", config, (Layer.of(content, folder / "program.tar"),))


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _add(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
