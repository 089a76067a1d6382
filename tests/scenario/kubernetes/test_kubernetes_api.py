"""The API server of the Kubernetes stand-in, through the official client: rights, validation, conflicts, watches."""

from __future__ import annotations

import kubernetes
import pytest

from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.kubernetes import KubernetesClient
from localcloud.standins.kubernetes.server import kubeconfig_path
from tests.unit.spark_support import Cluster

pytestmark = pytest.mark.scenario


def test_discovery_lists_the_served_groups_and_resources(shared: Cluster, client: KubernetesClient) -> None:
    assert client.version().startswith("v1.")
    api = kubernetes.config.new_client_from_config(config_file=str(kubeconfig_path(shared.config.state)))
    try:
        groups = [group.name for group in kubernetes.client.ApisApi(api).get_api_versions().groups]
        assert groups == [GROUP]
        assert kubernetes.client.CoreApi(api).get_api_versions().versions == ["v1"]
        resources = kubernetes.client.CustomObjectsApi(api).get_api_resources(GROUP, VERSION).resources
        assert [resource.name for resource in resources] == [PLURAL]
    finally:
        api.close()
