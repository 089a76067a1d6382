"""Records the objects of an ended run as the API server returns them, for ``tests/unit/spark/test_recorded_runs.py``.

``CLEANROOM_RECORD_RUNS=FOLDER make test-cluster`` writes one file per run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import kubernetes

from cleanroom.spark.application import GROUP, PLURAL, VERSION
from cleanroom.spark.kubernetes import APP_LABEL
from cleanroom.spark.policy import POLICY_ANNOTATION
from tests.cluster.place import Place

FOLDER = os.environ.get("CLEANROOM_RECORD_RUNS")


def record(place: Place, run: str, name: str, code: str) -> None:
    """Write application, pods and events of a run, and the code that its outcome has."""
    if FOLDER is None or not place.real:
        return
    with place.api() as api:
        core, custom = kubernetes.client.CoreV1Api(api), kubernetes.client.CustomObjectsApi(api)
        pods = json.loads(core.list_namespaced_pod(place.namespace, label_selector=f"{APP_LABEL}={name}", _preload_content=False).data)
        events = json.loads(core.list_namespaced_event(place.namespace, _preload_content=False).data)
        try:
            application = custom.get_namespaced_custom_object(GROUP, VERSION, place.namespace, PLURAL, name)
        except kubernetes.client.exceptions.ApiException:
            return
    about = [item for item in events["items"] if item["involvedObject"]["name"].startswith(name)]
    for event in about:
        # An event repeats the message of the application, with the log of spark-submit.
        event["message"] = event["message"][:300]
    content = {"code": code, "application": application, "pods": pods["items"], "events": about}
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{place.tier}-{run}.json").write_text(json.dumps(_pruned(content), indent=1, sort_keys=True) + "\n")


def _pruned(value: Any) -> Any:
    """Leave out what is long and decides nothing: managed fields, policies, the job, and the pods' specification."""
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    if not isinstance(value, dict):
        return value
    left_out = {"managedFields", POLICY_ANNOTATION, "env", "volumes", "volumeMounts", "sparkConf", "tolerations", "containers"}
    return {key: _pruned(item) for key, item in value.items() if key not in left_out}
