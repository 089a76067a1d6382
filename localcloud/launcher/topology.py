"""What runs in the local cloud, and in which order: real servers, stand-ins, set-up steps and one worker per trust boundary."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from cleanroom.temporal.attributes import ALL as SEARCH_ATTRIBUTES
from cleanroom.temporal.build import build_id
from localcloud.launcher import azurite, seaweedfs, temporal_server
from localcloud.launcher.companies import OPERATOR, Kind
from localcloud.launcher.guests import GUESTS, hardware, launch_guests, worker_arguments
from localcloud.launcher.layout import AZURE_STAND_INS, STAND_INS, Layout
from localcloud.launcher.payload import prepare_payload
from localcloud.launcher.processes import Ready, Service
from localcloud.launcher.profiles import write_profiles
from localcloud.launcher.setup import create_buckets, create_collaboration, promote_workers
from localcloud.launcher.standin_configs import write_configs
from localcloud.launcher.supervisor import Step, python, write_json

OBSERVE = "observe"
"""Name of the service that shows traces and metrics."""
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def plan(state: Path, *, propagation_seconds: float = 0, workers: bool = True, observe: bool = False) -> list[Service | Step]:
    """Write the configuration of a local cloud and return what the supervisor has to run.

    Args:
        state: State folder (:mod:`localcloud.launcher.layout`).
        propagation_seconds: Delay until new role assignments and federated credentials take effect, as in Azure.
        workers: Whether to start the workers as well.
        observe: Whether to trace the workers, and to start the page that shows traces and metrics.
    """
    layout = Layout(state)
    layout.make_secrets()
    write_configs(layout, propagation_seconds=propagation_seconds)
    items: list[Service | Step] = [
        _temporal(layout),
        _gateway(layout),
        seaweedfs_service(layout, [layout.ports[f"seaweedfs-{i}"] for i in range(seaweedfs.PORTS)]),
        *(_stand_in(layout, name) for name in STAND_INS if name not in AZURE_STAND_INS and not (layout.cluster and name == "kubernetes")),
        Step("payload", prepare_payload),
        Step("guests", lambda: launch_guests(layout), after=("snp",)),
        Step("settings", lambda: write_profiles(layout), after=("guests",)),
        Step("buckets", lambda: create_buckets(layout), after=("seaweedfs",)),
        Step("collaboration", lambda: create_collaboration(layout), after=("cgs", "entra")),
    ]
    if layout.key_vaults:
        items += [_azurite(layout), *(_stand_in(layout, name) for name in ("blobaccess", *layout.key_vaults))]
    if (cluster := layout.cluster) is not None:
        items.append(Step("hardware", lambda: write_json(cluster.hardware_file, hardware(layout).model_dump(mode="json")), after=("snp",)))
    if observe:
        items.append(_observe(layout))
    names = tuple(item.name for item in items)
    # Computed once. A worker that is restarted while the code is edited is the same version.
    build = build_id()
    if workers:
        traces = {ENDPOINT_VARIABLE: _observe_url(layout)} if observe else {}
        items += [_worker(layout, name, build, after=names, env=traces) for name in layout.companies.workers]
    # Last, so that the workers are starting while this step runs.
    items.append(Step("versions", lambda: promote_workers(layout, build), after=names))
    return items


def _temporal(layout: Layout) -> Service:
    return temporal_server.service(
        database=layout.data("temporal") / "temporal.db",
        port=layout.ports["temporal"],
        ui_port=layout.ports["temporal-ui"],
        http_port=layout.ports["temporal-http"],
        metrics_port=layout.ports["temporal-metrics"],
        log=layout.log("temporal"),
        search_attributes={key.name: _command_line_type(key.indexed_value_type.name) for key in SEARCH_ATTRIBUTES},
        codec_endpoint=f"{layout.codec_url}/codec",
    )


def _command_line_type(type_name: str) -> str:
    """Spell a type as Temporal's command line does: ``KEYWORD_LIST`` becomes ``KeywordList``."""
    return type_name.title().replace("_", "")


def _gateway(layout: Layout) -> Service:
    argv = python(
        "starters.codec_server", "--keyring", str(layout.keyring_file), "--tokens", str(layout.codec_token_file),
        "--port", str(layout.ports["codec"]), "--ui-upstream", layout.temporal_ui_url,
    )  # fmt: skip
    return Service(
        name="codec",
        argv=argv,
        ready=Ready(kind="http", url=f"{layout.codec_address}/healthz", any_status=True),
        url=layout.codec_address,
        log=layout.log("codec"),
    )


def _azurite(layout: Layout) -> Service:
    accounts = {
        company.storage_account: base64.b64encode(layout.token(f"azurite-{company.name}").reveal()).decode()
        for company in layout.companies.of(Kind.AZURE)
    }
    return azurite.service(
        folder=layout.data("azurite"),
        tls=layout.certificate("azurite"),
        ca_file=layout.authority.ca_file,
        accounts=accounts,
        port=layout.ports["azurite"],
        main=azurite.install(azurite.default_install_folder()),
        log=layout.log("azurite"),
    )


def seaweedfs_service(layout: Layout, ports: list[int]) -> Service:
    """Describe SeaweedFS with the buckets of the companies on S3, on ``ports``."""
    return seaweedfs.service(
        folder=layout.data("seaweedfs"),
        tls=layout.certificate("seaweedfs"),
        ca_file=layout.authority.ca_file,
        identities=[
            seaweedfs.S3Identity(OPERATOR, OPERATOR.upper(), layout.token(f"s3-{OPERATOR}"), ("Admin",)),
            *(
                seaweedfs.S3Identity.owner(item.name, item.access_key, layout.token(f"s3-{item.name}"), [item.bucket])
                for item in layout.companies.of(Kind.S3)
            ),
        ],
        ports=ports,
        log=layout.log("seaweedfs"),
        address=layout.address("seaweedfs"),
    )


def _stand_in(layout: Layout, name: str) -> Service:
    return Service(
        name=name,
        argv=python(f"localcloud.standins.{name.partition('-')[0]}", "--config", str(layout.state / f"config/{name}.json")),
        ready=Ready(kind="http", url=f"{layout.url(name)}/healthz", ca_file=layout.authority.ca_file),
        url=layout.url(name),
        log=layout.log(name),
    )


def _observe_url(layout: Layout) -> str:
    return f"http://127.0.0.1:{layout.ports['observe']}"


def _observe(layout: Layout) -> Service:
    workers = [f"--worker={name}={layout.ports[f'metrics-{name}']}" for name in layout.companies.workers]
    url = _observe_url(layout)
    return Service(
        name=OBSERVE,
        argv=python("localcloud.observe", "--port", str(layout.ports["observe"]), *workers),
        ready=Ready(kind="http", url=f"{url}/healthz"),
        url=url,
        log=layout.log(OBSERVE),
    )


def _worker(layout: Layout, profile: str, build: str, *, after: Sequence[str], env: dict[str, str]) -> Service:
    ready = layout.data("workers") / f"{profile}.ready"
    measured = worker_arguments(layout, profile, str(layout.bootstrap_file)) if profile in GUESTS else (profile,)
    argv = python(
        "starters.worker", *measured, "--config", str(layout.config_file), "--ready-file", str(ready), "--build-id", build,
        "--metrics-port", str(layout.ports[f"metrics-{profile}"]),
    )  # fmt: skip
    return Service(
        name=f"worker.{profile}",
        argv=argv,
        env=env,
        ready=Ready(kind="file", path=ready),
        url=f"queue of {profile}",
        log=layout.log(f"worker.{profile}"),
        after=tuple(after),
    )
