#!/usr/bin/env python3
"""Copy the schemas of the Kubernetes objects that the local cloud serves into localcloud/standins/kubernetes/schemas/.

    .venv/bin/python scripts/vendor_kubernetes_schemas.py    needs Go, and access to a Go module proxy

The sources are the CRD of the Kubeflow Spark Operator and the OpenAPI document of Kubernetes, both under Apache-2.0. Descriptions
are left out, and of the OpenAPI document everything that the served kinds do not refer to. Nothing else is changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

# The versions of the test cluster (tools/cluster/binaries.py) and of docs/kubernetes.md: the stand-in accepts what that operator accepts.
SPARK_OPERATOR = ("github.com/kubeflow/spark-operator/v2", "v2.3.0")
KUBERNETES = ("k8s.io/kubernetes", "v1.35.4")
CRD = "charts/spark-operator-chart/crds/sparkoperator.k8s.io_sparkapplications.yaml"
OPENAPI = "api/openapi-spec/v3/api__v1_openapi.json"
KINDS = ("Pod", "ConfigMap", "Namespace", "Service", "PersistentVolumeClaim", "Event", "ResourceQuota")
TARGET = Path(__file__).parent.parent / "localcloud/standins/kubernetes/schemas"

NOTICE = """\
# Third-party schemas

`scripts/vendor_kubernetes_schemas.py` writes this folder; do not edit it by hand. Both sources are licensed under the
Apache License 2.0 (`LICENSE`). Descriptions are removed, and the parts of the OpenAPI document that are not needed.

| File | Source | Copyright |
| --- | --- | --- |
| `sparkapplication-v1beta2.json` | `{crd}` of `{operator}` {operator_version} | The Kubeflow Authors |
| `core-v1.json` | `{openapi}` of `{kubernetes}` {kubernetes_version} | The Kubernetes Authors |
"""


def main() -> None:
    """Download both modules and write the reduced schemas."""
    operator, kubernetes = _download(*SPARK_OPERATOR), _download(*KUBERNETES)
    crd = yaml.safe_load((operator / CRD).read_text())
    (version,) = crd["spec"]["versions"]
    _write("sparkapplication-v1beta2.json", _without_descriptions(version["schema"]["openAPIV3Schema"]))
    published = json.loads((kubernetes / OPENAPI).read_text())["components"]["schemas"]
    needed: dict[str, Any] = {}
    for kind in KINDS:
        _collect(f"io.k8s.api.core.v1.{kind}", published, needed)
    _write("core-v1.json", {name: needed[name] for name in sorted(needed)})
    shutil.copyfile(kubernetes / "LICENSE", TARGET / "LICENSE")
    notice = NOTICE.format(
        crd=CRD,
        operator=SPARK_OPERATOR[0],
        operator_version=SPARK_OPERATOR[1],
        openapi=OPENAPI,
        kubernetes=KUBERNETES[0],
        kubernetes_version=KUBERNETES[1],
    )
    (TARGET / "NOTICE.md").write_text(notice)


def _download(module: str, version: str) -> Path:
    command = ["go", "mod", "download", "-json", f"{module}@{version}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - constant arguments
    return Path(json.loads(output)["Dir"])


def _collect(name: str, published: dict[str, Any], needed: dict[str, Any]) -> None:
    """Add a definition and all definitions that it refers to."""
    if name in needed:
        return
    needed[name] = _without_descriptions(published[name])
    for reference in _references(published[name]):
        _collect(reference, published, needed)


def _references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*(_references(item) for item in schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*(_references(value) for value in schema.values()))


def _without_descriptions(schema: Any, *, names: bool = False) -> Any:
    """Copy a schema without descriptions; ``names`` is true where the keys are the names of properties."""
    if isinstance(schema, list):
        return [_without_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_descriptions(value, names=key == "properties" and not names)
        for key, value in schema.items()
        if names or key != "description"
    }


def _write(name: str, schema: Any) -> None:
    TARGET.mkdir(exist_ok=True)
    (TARGET / name).write_text(json.dumps(schema, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
