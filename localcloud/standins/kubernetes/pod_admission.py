"""The admission plugins of the API server that decide about new pods: service accounts and quotas."""

from __future__ import annotations

from collections.abc import Iterable

from localcloud.standins.kubernetes.pods import is_active
from localcloud.standins.kubernetes.store import PODS, QUOTAS, ApiFailure, Object, Store


def require_admission(store: Store, namespace: str, pod: Object, accounts: Iterable[str]) -> None:
    """Require that the API server would create the pod.

    Args:
        store: The API server's objects.
        namespace: The pod's namespace.
        pod: The pod.
        accounts: The service accounts of the namespace.

    Raises:
        ApiFailure: 403 Forbidden with the API server's message.
    """
    name = pod["metadata"].get("name") or pod["metadata"].get("generateName", "")
    account = pod["spec"].get("serviceAccountName") or "default"
    if account not in {*accounts, "default"}:
        raise _forbidden(name, f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found')
    used = sum(is_active(item) for item in store.objects(PODS, namespace))
    for quota in store.objects(QUOTAS, namespace):
        for kind in ("pods", "count/pods"):
            limit = ((quota.get("spec") or {}).get("hard") or {}).get(kind)
            if limit is not None and used + 1 > int(limit):
                what = f"requested: {kind}=1, used: {kind}={used}, limited: {kind}={limit}"
                raise _forbidden(name, f"exceeded quota: {quota['metadata']['name']}, {what}")


def _forbidden(name: str, reason: str) -> ApiFailure:
    return ApiFailure(403, "Forbidden", f'pods "{name}" is forbidden: {reason}', {"name": name, "kind": "pods"})
