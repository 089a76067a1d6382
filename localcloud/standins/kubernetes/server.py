"""A Kubernetes API server, Spark Operator and kubelet on one machine: ``python -m localcloud.standins.kubernetes --config FILE``.

SparkApplications, pods, events and config maps over TLS with bearer-token service accounts, as the official client expects them; pods run
the real payload as local processes. A kubeconfig for each service account is written to the state folder at start.
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
from localcloud.standins.kubernetes.admission import SnpGuests
from localcloud.standins.kubernetes.api import ROLES, Accounts, Api
from localcloud.standins.kubernetes.kubelet import Kubelet
from localcloud.standins.kubernetes.operator import Operator
from localcloud.standins.kubernetes.store import NAMESPACES, Store
from localcloud.standins.serving import StandInConfig, health_route, main


class KubernetesConfig(StandInConfig):
    """Config of the Kubernetes stand-in."""

    namespace: str = "analytics"
    """Namespace of the service accounts and of the runs."""
    images: Path | None = None
    """Folder of the images; ``state/images`` when absent. Fill it with ``localcloud.standins.kubernetes.image.build_sparkapp_image``."""
    ca_file: Path | None = None
    """Roots that the kubeconfigs name; the roots in ``tls_cert`` when absent."""
    snp_url: str | None = None
    """The SNP hardware stand-in; without one, pods cannot attest themselves."""
    snp_token_file: Path | None = None
    snp_ca_file: Path | None = None
    cpus: float = Field(default=16, gt=0)
    """What the node offers to pods' requests; 16 although the machine has fewer, because requests only model scheduling here."""
    executor_pods: bool = False
    """Whether executors run in pods of their own, as on a cluster; else the driver's process is its own executor, which starts sooner."""
    history: int = Field(default=2000, ge=10)
    """How many changes a watch can go back before it is told 410 Gone."""


def create_app(config: KubernetesConfig) -> Starlette:
    """The stand-in as an application; operator and kubelet run for as long as it does."""
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = Store(config.state / "kubernetes.sqlite", window=config.history)
    for namespace in ("default", "kube-system", config.namespace):
        if store.find(NAMESPACES, "", namespace) is None:
            store.create(NAMESPACES, "", {"metadata": {"name": namespace}, "status": {"phase": "Active"}})
    # The HTTP client's own log lines name guests' addresses, which are capabilities.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    guests = None
    if config.snp_url is not None:
        if config.snp_token_file is None:
            raise ValueError("snp_token_file is required with snp_url")
        guests = SnpGuests(config.snp_url, config.snp_token_file, config.snp_ca_file)
    kubelet = Kubelet(store, config.state, config.images or config.state / "images", guests, cpus=config.cpus)
    operator = Operator(store, executor_pods=config.executor_pods)

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
    """Service account to bearer token; made at first use, kept with mode 0600."""
    file = state / "tokens.json"
    tokens: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    if missing := [name for name in ROLES if name not in tokens]:
        tokens |= {name: secrets.token_urlsafe(32) for name in missing}
        write_secret_file(file, json.dumps(tokens).encode())
    return tokens


def kubeconfig_path(state: Path, account: str = "spark-service") -> Path:
    """Where the kubeconfig of ``account`` (``spark-service``, ``viewer``, ``admin``) is."""
    return state / f"kubeconfig-{account}.yaml"


def write_kubeconfigs(config: KubernetesConfig, url: str) -> Path:
    """Write a kubeconfig for every service account; returns that of ``spark-service``."""
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
        # A cluster without its controllers would look alive and do nothing.
        logging.getLogger("localcloud.kubernetes").critical("controller died", exc_info=task.exception())
        os.kill(os.getpid(), 15)


def run() -> None:
    """Serve until told to stop; see :func:`localcloud.standins.serving.main`."""
    main("kubernetes", KubernetesConfig, create_app)
