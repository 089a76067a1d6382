"""A local cloud in one process for the fault matrix: stand-ins, SeaweedFS, the proxy before them, and the workers of all boundaries.

Configuration, workers and activities are those of ``cleanroom up``. Only the kubelet differs: a pod's program is
:class:`tests.faults.pods.PodsInProcess`, which ends at once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import tomli_w
from temporalio.client import Client

from cleanroom.settings import Settings, load_settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.workers import WorkerSpec, create_worker
from cleanroom.trust import Bootstrap
from localcloud.launcher.companies import DEMO
from localcloud.launcher.guests import GUESTS, bootstrap, launch_guests
from localcloud.launcher.layout import Layout
from localcloud.launcher.profiles import write_profiles
from localcloud.launcher.setup import create_buckets, create_collaboration
from localcloud.standins.kubernetes.image import build_image
from starters.operations import query_workflow
from starters.operations.keys import publish_key
from starters.operations.session import Session
from tests.faults.labels import Attempts, FaultInterceptor, labelled
from tests.faults.pods import Pods
from tests.faults.proxy import FaultProxy
from tests.faults.services import Services
from workers.boundaries import boundary_worker
from workers.watch_keeper import WatchKeeper

WORKERS = DEMO.workers


class FaultCloud:
    """The running cloud. Make one with :func:`fault_cloud`."""

    def __init__(self, folder: Path, proxy: FaultProxy) -> None:
        self.layout = Layout(folder)
        self.proxy = proxy
        self.pods = Pods(self.layout.data("kubernetes"))
        self.services: Services
        """The services behind the proxy."""
        # The payload's image is measured, but its program never starts.
        self.layout.__dict__["image"] = build_image(self.layout.images, "localhost/cleanroom/sparkapp", {"payload": b""}, program=("true",))

    def settings(self, profile: str) -> Settings:
        """Return the settings of a profile."""
        return load_settings(profile, path=self.layout.config_file)

    def session(self, profile: str) -> Session:
        """Return a collaborator's session."""
        return Session(self.settings(profile))

    # ------------------------------------------------------------------ start

    def set_up(self, temporal: Client, keyring: Keyring) -> None:
        """Found the collaboration."""
        layout = self.layout
        layout.keyring_file.unlink()
        keyring.save(layout.keyring_file)
        launch_guests(layout)
        # The stand-in names its own port.
        guests = re.sub(r"https://localhost:\d+", layout.url("snp"), layout.guests_file.read_text())
        layout.guests_file.write_text(guests)
        write_profiles(layout)
        target = {"address": temporal.service_client.config.target_host, "namespace": temporal.namespace}
        layout.temporal_config_file.write_text(tomli_w.dumps({"profile": {"default": target}}))
        create_buckets(layout)
        create_collaboration(layout)

    # ------------------------------------------------------------------ workers

    @asynccontextmanager
    async def workers(self, attempts: Attempts) -> AsyncIterator[None]:
        """Run one new worker per boundary, with the faults in ``attempts``."""
        async with AsyncExitStack() as stack:
            for name in WORKERS:
                measured = bootstrap(self.layout) if name in GUESTS else None
                await stack.enter_async_context(new_worker(self.settings(name), measured, attempts))
            yield


@asynccontextmanager
async def new_worker(settings: Settings, measured: Bootstrap | None, attempts: Attempts) -> AsyncIterator[None]:
    """Run the worker of a profile, as ``cleanroom worker`` does, with the interceptor of the tests around its own."""
    made = boundary_worker(settings, measured)
    client = await connect(settings.temporal, identity=made.name, accept_unbound=settings.boundary == "frontend")
    interval = timedelta(seconds=made.heartbeat_seconds or 5)
    spec = WorkerSpec(
        name=made.name,
        task_queue=made.task_queue,
        workflows=made.workflows,
        activities=made.activities,
        interceptors=(FaultInterceptor(attempts), *made.interceptors),
        extra={"max_heartbeat_throttle_interval": interval, "default_heartbeat_throttle_interval": interval},
    )
    async with AsyncExitStack() as stack:
        for resource in made.resources:
            await stack.enter_async_context(resource)
        if settings.boundary == "frontend":
            await stack.enter_async_context(WatchKeeper(client, settings.collaboration))
        await stack.enter_async_context(create_worker(client, spec))
        yield


@contextmanager
def fault_cloud(folder: Path, temporal: Client, keyring: Keyring, *, processes: bool = False) -> Iterator[FaultCloud]:
    """Run a cloud whose workers and sessions use the Temporal server of ``temporal``.

    Args:
        folder: The state folder.
        temporal: A client of the server.
        keyring: The keyring of the cloud.
        processes: Whether stand-ins are processes, which can be killed.
    """
    with ExitStack() as stack:
        stack.enter_context(labelled())
        cloud = FaultCloud(folder, stack.enter_context(FaultProxy().running()))
        # A command would run its collaborator's activities itself when the worker is slow.
        stack.enter_context(patch.object(query_workflow, "OWN_WORKER_SECONDS", 3600.0))
        cloud.services = stack.enter_context(Services(cloud.layout, cloud.proxy, processes=processes))
        cloud.set_up(temporal, keyring)
        yield cloud


async def publish_keys(cloud: FaultCloud) -> None:
    """Publish the signing keys of all collaborators."""
    for person in DEMO.people:
        await publish_key(cloud.session(person.name))
