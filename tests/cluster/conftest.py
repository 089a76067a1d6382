"""The fixture ``place``: each test of this folder runs at each place of ``CLEANROOM_TEST_TIERS``.

``cloud`` and ``world`` are a local cloud whose runs have real pods, and small datasets on it: at the place ``full`` only, and only for
tests that use ``inside``, because the cluster has a network of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import kubernetes
import pytest

from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.service import SparkService
from starters.operations.keys import publish_key
from starters.operations.session import run_async
from tests.cluster.chart import NAMESPACE, Chart, claim_volume, wait_for
from tests.cluster.network import in_network
from tests.cluster.place import PLACES, TIERS, Place
from tests.local_cloud.cloud import Cloud, python
from tests.local_cloud.world import World, published_world
from tools.cluster.clusters import Cluster, obstacle


@pytest.fixture(scope="session", params=TIERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with PLACES[request.param](tmp_path_factory.mktemp(request.param)) as found:
        yield found
        found.close()


@pytest.fixture(scope="session")
def cluster(place: Place) -> Cluster:
    """The cluster of ``place``, whose node has the image of a run's pods."""
    if place.cluster is None or not place.cluster.description.exists():
        pytest.skip(f"the pods of the place {place.tier} do not run Spark: {obstacle('full', spark=True)}")
    return place.cluster


@pytest.fixture(scope="session")
def cloud(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A local cloud in the cluster's network. All collaborators have published their signing keys."""
    state = tmp_path_factory.mktemp("cloud")
    try:
        with in_network(cluster.network):
            started = python("localcloud", "up", "--state", str(state), "--detach", "--cluster", str(cluster.description))
            assert started.returncode == 0, started.stderr
            found = Cloud(state)
            for person in found.people:
                run_async(publish_key(person))
        # Outside of it: tests that follow may reach the API server at an address of this machine only.
        yield found
    finally:
        with in_network(cluster.network):
            stopped = python("localcloud", "down", "--state", str(state))
            assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def world(cloud: Cloud, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Published datasets of Contosso (Blob Storage) and Litware (S3), and an output dataset of Litware."""
    with in_network(cluster.network):
        return published_world(cloud, tmp_path_factory.mktemp("rows"))


@pytest.fixture
def inside(cluster: Cluster) -> Iterator[None]:
    """Run the test in the cluster's network. It must not use threads or connections of other tests, which are outside."""
    with in_network(cluster.network):
        yield


@pytest.fixture(scope="session")
def client(place: Place) -> KubernetesClient:
    return place.client()


@pytest.fixture(scope="session")
def service(place: Place) -> SparkService:
    return place.service()


@pytest.fixture(scope="session")
def chart(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The chart, installed as documented, with all of its workers. Its network policies stay in force for all tests that follow."""
    place.require("full", why="needs containers, on a cluster of the tests")
    chart = Chart(place, tmp_path_factory.mktemp("chart"))
    chart.install()
    with place.api() as api:
        claim_volume(api)
        available = wait_for(
            kubernetes.client.AppsV1Api(api).list_namespaced_deployment,
            lambda items: len(items) == 4 and all(item.status.available_replicas for item in items),
            NAMESPACE,
        )
    chart.deployments = {item.metadata.labels["app.kubernetes.io/component"]: item for item in available}
    return chart
