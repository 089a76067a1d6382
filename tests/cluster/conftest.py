"""The fixture ``place``: each test of this folder runs at each place of ``CLEANROOM_TEST_TIERS``."""

from __future__ import annotations

from collections.abc import Iterator

import kubernetes
import pytest

from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.service import SparkService
from tests.cluster.chart import NAMESPACE, Chart, claim_volume, wait_for
from tests.cluster.place import PLACES, TIERS, Place


@pytest.fixture(scope="session", params=TIERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with PLACES[request.param](tmp_path_factory.mktemp(request.param)) as found:
        yield found
        found.close()


@pytest.fixture(scope="session")
def client(place: Place) -> KubernetesClient:
    return place.client()


@pytest.fixture(scope="session")
def service(place: Place) -> SparkService:
    return place.service()


@pytest.fixture(scope="session")
def chart(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The chart, installed as documented, with all of its workers. Its network policies stay in force for all tests that follow."""
    place.require("fast", "full", why="installs into namespaces of a cluster that it does not own")
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
