"""A local cloud whose runs have real pods: where it listens, what it writes, and how the demo starts and stops its cluster."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, PreconditionFailed, Unavailable
from cleanroom.settings import load_settings
from localcloud.launcher import topology
from localcloud.launcher.layout import Layout
from localcloud.launcher.pod_cluster import Hardware, PodCluster, record_cluster
from localcloud.launcher.profiles import write_profiles
from localcloud.launcher.setup import trust_document
from localcloud.launcher.supervisor import Step, write_json
from starters.operations import local_cluster
from starters.operations.local_cluster import start_cluster, stop_cluster

ADDRESS = "10.90.0.1"


def description(folder: Path, **changes: Any) -> Path:
    file = folder / "described.json"
    found = {
        "address": ADDRESS,
        "kubeconfig": str(folder / "kubeconfig"),
        "image": f"localhost/cleanroom/spark@sha256:{'1' * 64}",
        "layers": ["2" * 64, "3" * 64],
        "spark_version": "4.3.0",
        "hardware_file": str(folder / "hardware.json"),
    }
    write_json(file, found | changes)
    return file


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    record_cluster(tmp_path / "state", description(tmp_path))
    return Layout(tmp_path / "state")


def test_services_for_pods_listen_at_the_clusters_address_only(layout: Layout) -> None:
    items = {item.name: item for item in topology.plan(layout.state, workers=False)}
    assert "kubernetes" not in items
    hosts = {
        name: json.loads((layout.state / f"config/{name}.json").read_text())["host"]
        for name in ("cgs", "entra", "maa", "blobaccess", "snp")
    }
    assert hosts == dict.fromkeys(("cgs", "entra", "maa", "blobaccess"), ADDRESS) | {"snp": "127.0.0.1"}
    assert f"-s3.ip.bind={ADDRESS}" in items["seaweedfs"].argv  # type: ignore[union-attr]
    assert layout.url("cgs").startswith(f"https://{ADDRESS}:")
    assert layout.url("snp").startswith("https://localhost:")
    assert all(host.startswith(f"{ADDRESS}:") for host in layout.storage_hosts)
    names = x509.load_pem_x509_certificate(layout.certificate("cgs").cert.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert ADDRESS in map(str, names.value.get_values_for_type(x509.IPAddress))


def test_node_learns_its_hardware_when_the_stand_in_runs(layout: Layout) -> None:
    step = next(item for item in topology.plan(layout.state, workers=False) if item.name == "hardware")
    assert isinstance(step, Step)
    assert step.after == ("snp",)
    step.run()
    assert layout.cluster is not None
    found = Hardware.model_validate_json(layout.cluster.hardware_file.read_text())
    assert (found.url, found.token_file.read_text()) == (layout.url("snp"), layout.token("snp-admin").reveal_text())


def test_pods_have_the_image_of_the_clusters_node(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localcloud.launcher.profiles.guest_url", lambda layout, name: f"https://localhost:1/{name}")
    pods = trust_document(layout, 1).pods
    assert (pods.image, pods.layers) == (f"localhost/cleanroom/spark@sha256:{'1' * 64}", ("2" * 64, "3" * 64))
    write_profiles(layout)
    settings = load_settings("spark-service", path=layout.config_file)
    assert layout.cluster is not None
    assert settings.kubernetes.kubeconfig == layout.cluster.kubeconfig
    assert settings.kubernetes.spark_version == "4.3.0"
    assert settings.spark.driver_cores + settings.spark.executor_cores * settings.spark.executor_instances == 2


def test_local_cloud_keeps_the_kind_of_pods_with_which_it_was_created(tmp_path: Path) -> None:
    Layout(tmp_path / "old")
    with pytest.raises(Conflict, match="without this cluster"):
        record_cluster(tmp_path / "old", description(tmp_path))
    record_cluster(tmp_path / "new", description(tmp_path))
    first = Layout(tmp_path / "new").cluster
    record_cluster(tmp_path / "new", description(tmp_path))
    assert isinstance(first, PodCluster)
    with pytest.raises(Conflict, match="without this cluster"):
        record_cluster(tmp_path / "new", description(tmp_path, address="10.0.0.1"))


def test_file_that_describes_no_cluster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}")
    for file in (tmp_path / "x", tmp_path / "absent"):
        with pytest.raises(InvalidInput, match="does not describe a cluster"):
            record_cluster(tmp_path / "state", file)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose ``tools.cluster`` runs ``answer.py`` of its folder."""
    package = tmp_path / "checkout/tools/cluster"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "__main__.py").write_text("import runpy, pathlib; runpy.run_path(str(pathlib.Path(__file__).with_name('answer.py')))\n")
    monkeypatch.setattr(local_cluster, "CHECKOUT", tmp_path / "checkout")
    return package / "answer.py"


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("no Go on PATH; install Go 1.26 or newer", "uv tool install"),
        ("only root can run containerd and a kubelet", "as root"),
        ("this machine allows no new namespaces, for example because it is a container without CAP_SYS_ADMIN", "CAP_SYS_ADMIN"),
        ("kube 1.35.4 did not build: no such host", "test-cluster.md"),
    ],
    ids=["go", "root", "namespaces", "network"],
)
def test_machine_that_cannot_run_the_cluster_is_told_why_and_what_to_do(tools: Path, tmp_path: Path, reason: str, remedy: str) -> None:
    tools.write_text(f"import sys; print('reused   kube'); print({f'cluster: {reason}'!r}, file=sys.stderr); sys.exit(3)")
    with pytest.raises(PreconditionFailed) as error:
        start_cluster(tmp_path / "state")
    assert (error.value.code, error.value.cause) == ("ClusterNotPossible", reason)
    assert remedy in str(error.value.hint)


def test_failed_start_shows_the_end_of_the_output(tools: Path, tmp_path: Path) -> None:
    tools.write_text("raise SystemExit('boom')")
    with pytest.raises(Unavailable) as error:
        start_cluster(tmp_path / "state")
    assert (error.value.code, error.value.cause) == ("ClusterFailed", "boom")


def test_started_cluster_is_found_and_stopped_with_its_local_cloud(tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools.write_text(
        textwrap.dedent("""
            import json, pathlib, sys
            state = pathlib.Path(sys.argv[-1])
            with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
                calls.write(sys.argv[1] + "\\n")
            if sys.argv[1] == "up":
                state.mkdir(parents=True)
                print(json.dumps({"network": "/proc/1/ns/net", "description": str(state / "d.json"), "seconds": {"node": 2}}))
        """)
    )
    assert not stop_cluster(tmp_path / "state")
    found = start_cluster(tmp_path / "state")
    assert (str(found.network), found.description) == ("/proc/1/ns/net", tmp_path / "state/cluster/d.json")
    assert "node: 2.0 s" in capsys.readouterr().err
    assert stop_cluster(tmp_path / "state")
    assert tools.with_name("calls").read_text().split() == ["build", "up", "down"]


def test_installation_without_the_tools_names_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "CHECKOUT", tmp_path)
    with pytest.raises(CleanRoomError) as error:
        start_cluster(tmp_path / "state")
    assert error.value.code == "ClusterToolsMissing"
    assert sys.executable
