"""The services behind the proxy: stand-ins in threads or processes, SeaweedFS, and Temporal's server. Processes can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.client import Client

from cleanroom.secret import write_secret_file
from cleanroom.temporal import attributes
from cleanroom.temporal.converter import data_converter
from localcloud.launcher import seaweedfs, temporal_server
from localcloud.launcher.layout import Layout
from localcloud.launcher.processes import Ready, RunningService, Service, free_ports
from localcloud.launcher.standin_configs import write_configs
from localcloud.launcher.topology import seaweedfs_service
from localcloud.standins.kubernetes.server import KubernetesConfig, write_kubeconfigs
from localcloud.standins.serving import serving
from tests.faults.proxy import FaultProxy
from tests.faults.stand_ins import STAND_INS, StandIn, StandIns
from tests.temporal_env import TEST_KEYRING


class Killable:
    """A process that can be killed and started again.

    Args:
        service: The process.
        again: The readiness check after a kill, if it is another one than before the first start.
    """

    def __init__(self, service: Service, again: Ready | None = None) -> None:
        self._service = service.model_copy(update={"ready": again or service.ready})
        self._lock = threading.Lock()
        self._process = RunningService(service)
        self._process.wait_ready()

    def kill(self) -> None:
        """Send SIGKILL and start the service again. Concurrent calls do so one after the other."""
        with self._lock:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait_stopped()
            self._process = RunningService(self._service)
            self._process.wait_ready()

    def stop(self) -> None:
        """End the process."""
        self._process.stop()


class Services:
    """The stand-ins and SeaweedFS of a layout, behind a proxy.

    Args:
        layout: Where everything is. Its ports are the proxy's.
        proxy: The proxy.
        processes: Whether stand-ins are processes, which :meth:`kill` kills. Otherwise they start sooner, in threads.
    """

    def __init__(self, layout: Layout, proxy: FaultProxy, *, processes: bool) -> None:
        self._layout, self._proxy, self._processes = layout, proxy, processes
        self._stack = ExitStack()
        self._threads: dict[str, ExitStack] = {}
        self._stand_ins: StandIns | None = None
        self._killable: dict[str, Killable | StandIn] = {}
        self.nodes: Any = None
        """The nodes of governance, of which one can lag behind, if governance is in a thread."""

    def __enter__(self) -> Services:
        layout, proxy = self._layout, self._proxy
        layout.make_secrets()
        write_configs(layout, propagation_seconds=0)
        write_kubeconfigs(KubernetesConfig.model_validate(self._config("kubernetes")), layout.url("kubernetes"))
        for name in STAND_INS:
            proxy.listen(name, layout.ports[name], layout.certificate(name))
            if self._processes:
                self._start(name)
            else:
                self._serve(name)
        proxy.listen("s3", layout.ports["seaweedfs-0"], layout.certificate("seaweedfs"))
        seaweed = seaweedfs_service(layout, free_ports(seaweedfs.PORTS))
        store = self._killable["s3"] = Killable(seaweed)
        self._stack.callback(store.stop)
        proxy.forward("s3", seaweed.url)
        proxy.kill = self.kill
        return self

    def __exit__(self, *error: object) -> None:
        for stack in self._threads.values():
            stack.close()
        self._stack.close()

    def kill(self, name: str) -> None:
        """Kill a service and start it again, with the state that it has on disk."""
        if name in self._killable:
            self._killable[name].kill()
        else:
            self._threads.pop(name).close()
            self._serve(name)

    def _start(self, name: str) -> None:
        layout, [port] = self._layout, free_ports(1)
        file = layout.state / f"config/{name}-behind.json"
        write_secret_file(file, json.dumps(self._config(name) | {"port": port}).encode())
        if self._stand_ins is None:
            self._stand_ins = StandIns()
            self._stack.callback(self._stand_ins.stop)
        self._killable[name] = StandIn(self._stand_ins, name, file, port, layout.log(name))
        self._proxy.forward(name, f"https://localhost:{port}")

    def _config(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._layout.state / f"config/{name}.json").read_text())
        return found

    def _serve(self, name: str) -> None:
        config, create_app = STAND_INS[name]
        app = create_app(config.model_validate(self._config(name) | ({"lag_ms": 1} if name == "cgs" else {})))
        if name == "cgs":
            self.nodes = app.state.nodes
            self.nodes.lag = 0.0
        stack = self._threads[name] = ExitStack()
        self._proxy.forward(name, stack.enter_context(serving(app, name, self._layout.certificate(name))))


@asynccontextmanager
async def killable_server(folder: Path) -> AsyncIterator[tuple[Client, Killable]]:
    """Run Temporal's server with a database file."""
    port, http, metrics = free_ports(3)
    keys = {key.name: key.indexed_value_type.name.title().replace("_", "") for key in attributes.ALL}
    service = temporal_server.service(
        database=folder / "temporal.db",
        port=port,
        ui_port=None,
        http_port=http,
        metrics_port=metrics,
        log=folder / "temporal.log",
        search_attributes=keys,
    )
    # The database has the search attributes already.
    server = await asyncio.to_thread(Killable, service, Ready(kind="tcp", port=port))
    try:
        converter = data_converter(TEST_KEYRING, accept_unbound=True)
        yield await Client.connect(f"127.0.0.1:{port}", data_converter=converter), server
    finally:
        await asyncio.to_thread(server.stop)
