"""The cluster's DNS server: a pod of ``kube-system`` behind a service, so that network policies apply to it as elsewhere."""

from __future__ import annotations

from typing import Any

import kubernetes

from tools.cluster.control_plane import DNS_SERVICE
from tools.cluster.rights import create, create_account

NAMESPACE = "kube-system"
NAME = "coredns"
_LABELS = {"k8s-app": "kube-dns"}
_COREFILE = """\
.:53 {
  errors
  ready
  kubernetes cluster.local in-addr.arpa {
    pods insecure
    ttl 1
  }
}
"""
_RULES = [
    {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]


def install(api: kubernetes.client.ApiClient, image: str) -> None:
    """Create the objects of the DNS server, whose program is in ``image``."""
    create_account(api, NAMESPACE, NAME, _RULES, cluster_role=f"system:{NAME}")
    metadata = {"name": NAME, "namespace": NAMESPACE}
    create(api, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": _COREFILE}})
    template = {"metadata": {"labels": _LABELS}, "spec": _pod(image)}
    deployment = {"replicas": 1, "selector": {"matchLabels": _LABELS}, "template": template}
    create(api, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment})
    ports = [{"name": protocol.lower(), "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    service = {"selector": _LABELS, "clusterIP": DNS_SERVICE, "ports": ports}
    create(api, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": NAMESPACE}, "spec": service})


def is_available(api: kubernetes.client.ApiClient) -> bool:
    """Return whether the DNS server answers."""
    deployment: Any = kubernetes.client.AppsV1Api(api).read_namespaced_deployment_status(NAME, NAMESPACE)
    return bool(deployment.status.available_replicas)


def _pod(image: str) -> dict[str, Any]:
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    return {
        "serviceAccountName": NAME,
        # Names are needed on nodes that lose all other pods.
        "tolerations": [{"operator": "Exists"}],
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    }
