"""A Kubernetes stand-in per module, with a client and images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cleanroom.spark.kubernetes import KubernetesClient
from localcloud.standins.kubernetes.image import LocalImage
from tests.scenario.kubernetes.support import RECEIPT, WAITING
from tests.unit.spark_support import Cluster, cluster, script_image


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def client(shared: Cluster) -> KubernetesClient:
    return shared.client()


@pytest.fixture(scope="module")
def receipt_image(shared: Cluster) -> LocalImage:
    return script_image(shared.images, RECEIPT)


@pytest.fixture(scope="module")
def waiting_image(shared: Cluster) -> LocalImage:
    return script_image(shared.images, WAITING)
