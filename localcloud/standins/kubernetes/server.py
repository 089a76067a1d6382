"""A Kubernetes API server, Spark Operator and kubelet on one machine: ``python -m localcloud.standins.kubernetes --config FILE``.

It serves SparkApplications, pods, events and ConfigMaps to the official client, over TLS and with bearer tokens of service accounts.
Pods run the real payload as local processes. At start it writes a kubeconfig per service account to the state folder.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from pydantic import Field
from starlette.applications import Starlette

from cleanroom.secret import write_secret_file
from localcloud.standins.kubernetes.accounts import ROLES, Accounts
from localcloud.standins.kubernetes.admission import SnpGuests
from localcloud.standins.kubernetes.api import Api
from localcloud.standins.kubernetes.kubelet import Kubelet
from localcloud.standins.kubernetes.operator import Operator
from localcloud.standins.kubernetes.store import NAMESPACES, Store
from localcloud.standins.serving import StandInConfig, health_route, main


class KubernetesConfig(StandInConfig):
    """Config of the Kubernetes stand-in."""

    namespace: str = "analytics"
    """Namespace of the service accounts and of the runs."""
    images: Path | None = None
    """Folder of the images (default: ``images`` in the state folder). ``image.build_sparkapp_image`` writes images there."""
    ca_file: Path | None = None
    """Root certificates for the kubeconfigs (default: those in ``tls_cert``)."""
    snp_url: str | None = None
    """URL of the SNP hardware stand-in. Without it pods have no attestation."""
    snp_token_file: Path | None = None
    snp_ca_file: Path | None = None
    cpus: float = Field(default=16, gt=0)
    """CPUs that pods can request in total. More than the machine may have, because requests only model scheduling here."""
    executor_pods: bool = False
    """Whether executors run in their own pods, as on a cluster. Otherwise they run in the driver's process, which starts sooner."""
    history: int = Field(default=2000, ge=10)
    """Number of recorded changes. A watch from an older resource version gets 410 Gone."""


def create_app(config: KubernetesConfig) -> Starlette:
    """Return the ASGI application. Operator and kubelet run during its lifespan."""
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = Store(config.state / "kubernetes.sqlite", window=config.history)
    for namespace in ("default", "kube-system", config.namespace):
        if store.find(NAMESPACES, "", namespace) is None:
            store.create(NAMESPACES, "", {"metadata": {"name": namespace}, "status": {"phase": "Active"}})
    # The HTTP client would log the URLs of guests, which are capabilities.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    guests = None
    if config.snp_url is not None:
        if config.snp_token_file is None:
            raise ValueError(f"snp_url is {config.snp_url}, but snp_token_file is missing; set both or none.")
        guests = SnpGuests(config.snp_url, config.snp_token_file, config.snp_ca_file)
    kubelet = Kubelet(store, config.state, config.images or config.state / "images", guests, cpus=config.cpus)
    operator = Operator(store, ROLES, executor_pods=config.executor_pods)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(operator.run()), asyncio.create_task(kubelet.run())]
        for task in tasks:
            task.add_done_callback(_fail_loudly)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            store.close()

    accounts = Accounts(service_account_tokens(config.state), {name: name for name in ROLES}, config.namespace)
    if config.port:
        write_kubeconfigs(config, f"https://localhost:{config.port}")
    return Starlette(routes=[health_route("kubernetes"), *Api(store, accounts, kubelet.log_file).routes()], lifespan=lifespan)


def service_account_tokens(state: Path) -> dict[str, str]:
    """Return the bearer token of each service account; tokens are generated at first use and kept in a private file."""
    file = state / "tokens.json"
    tokens: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    if missing := [name for name in ROLES if name not in tokens]:
        tokens |= {name: secrets.token_urlsafe(32) for name in missing}
        write_secret_file(file, json.dumps(tokens).encode())
    return tokens


def kubeconfig_path(state: Path, account: str = "spark-service") -> Path:
    """Return the path of a service account's kubeconfig (``spark-service``, ``viewer``, ``admin``)."""
    return state / f"kubeconfig-{account}.yaml"


def write_kubeconfigs(config: KubernetesConfig, url: str) -> Path:
    """Write a kubeconfig for every service account, and return the path of that of ``spark-service``."""
    authority = (config.ca_file or config.tls_cert).read_bytes()
    for account, token in service_account_tokens(config.state).items():
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "localcloud",
            "clusters": [
                {"name": "localcloud", "cluster": {"server": url, "certificate-authority-data": base64.b64encode(authority).decode()}}
            ],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "localcloud", "context": {"cluster": "localcloud", "user": account, "namespace": config.namespace}}],
        }
        write_secret_file(kubeconfig_path(config.state, account), yaml.safe_dump(content).encode())
    return kubeconfig_path(config.state)


def _fail_loudly(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        # Without its controllers the server would answer, but nothing would run.
        logging.getLogger("localcloud.kubernetes").critical("controller died", exc_info=task.exception())
        os.kill(os.getpid(), 15)


def run() -> None:
    """Run the server from the command line (:func:`localcloud.standins.serving.main`)."""
    main("kubernetes", KubernetesConfig, create_app)
