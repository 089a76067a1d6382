"""The fixture ``place``: each test of this folder runs at each place of ``CLEANROOM_TEST_TIERS``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.service import SparkService
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
