"""Images of the full tier without a registry: OCI archives from folders, named by their digest."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class Image:
    """An image in an OCI archive. ``layers`` are the digests of its uncompressed layers, bottom first, in hex."""

    name: str
    archive: Path
    digest: str
    layers: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The image by digest, as containerd and the kubelet name it after an import."""
        return f"localhost/{self.name}@sha256:{self.digest}"


def build(folder: Path, name: str, config: Mapping[str, Any], layers: Sequence[Path]) -> Image:
    """Write the archive of an image into ``folder``.

    Args:
        folder: For the archive.
        name: The image's name, without registry and digest.
        config: Its OCI configuration: ``Entrypoint``, ``Env``, ``User`` and so on.
        layers: Folders, bottom first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tars = [_layer(layer, Path(scratch, str(number))) for number, layer in enumerate(layers)]
        digests = [_sha256(tar) for tar in tars]
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]}
        image = json.dumps({"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs}).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": _descriptor("config.v1+json", hashlib.sha256(image).hexdigest(), len(image)),
                "layers": [_descriptor("layer.v1.tar", digest, tar.stat().st_size) for tar, digest in zip(tars, digests, strict=True)],
            }
        ).encode()
        digest = hashlib.sha256(manifest).hexdigest()
        entry = _descriptor("manifest.v1+json", digest, len(manifest))
        entry["annotations"] = {"io.containerd.image.name": f"localhost/{name}:latest", "org.opencontainers.image.ref.name": "latest"}
        archive = folder / f"{name}.tar"
        with tarfile.open(archive, "w") as out:
            _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
            _add(out, f"blobs/sha256/{digest}", manifest)
            _add(out, f"blobs/sha256/{hashlib.sha256(image).hexdigest()}", image)
            for tar, layer_digest in zip(tars, digests, strict=True):
                out.add(tar, f"blobs/sha256/{layer_digest}")
    return Image(name, archive, digest, tuple(digests))


def pause(folder: Path) -> Image:
    """Build the image of pod sandboxes."""
    content = folder / "pause"
    content.mkdir(parents=True)
    shutil.copy(PAUSE.path, content / "pause")
    return build(folder, "pause", {"Entrypoint": ["/pause"], "Env": ["PATH=/"]}, [content])


def dns(folder: Path) -> Image:
    """Build the image of the cluster's DNS server."""
    content = folder / "dns"
    content.mkdir(parents=True)
    shutil.copy(DNS.path, content / "coredns")
    return build(folder, "dns", {"Entrypoint": ["/coredns"]}, [content])


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
    return build(folder, "program", config, [content])


def _layer(folder: Path, tar: Path) -> Path:
    """Write the tar of a folder: sorted and without timestamps, so that the same files give the same digest."""
    subprocess.run(["tar", "--numeric-owner", "--sort=name", "--mtime=@0", "-C", folder, "-cf", tar, "."], check=True)
    return tar


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _add(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
