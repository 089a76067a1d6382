"""The image of the test cluster's pods, against what ``deploy/Containerfile`` and the product's policies say. Nothing is built."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from cleanroom.spark.profile import PodMeasurement
from tools.cluster import spark_image
from tools.cluster.containerfile import Containerfile
from tools.cluster.images import Image, Layer
from tools.cluster.spark_image import DEPLOY

CONTAINERFILE = Containerfile(DEPLOY / "Containerfile")


def test_configuration_is_the_one_that_the_pods_policies_measure() -> None:
    measured = PodMeasurement(image=f"localhost/x@sha256:{'0' * 64}", layers=("0" * 64,))
    found = CONTAINERFILE.configuration("spark")
    assert found["Env"] == [
        f"{name}={value}" for name, value in sorted(measured.image_environment.items(), key=lambda item: _order(item[0]))
    ]
    assert (found["WorkingDir"], found["Entrypoint"]) == (measured.working_dir, list(measured.entrypoint))
    assert found["User"] == "10001:10001"


def _order(name: str) -> int:
    return ["LANG", "JAVA_HOME", "PATH", "SPARK_HOME"].index(name)


def test_packages_and_commands_are_those_of_the_containerfile() -> None:
    assert CONTAINERFILE.packages("java") == ["ca-certificates", "python3", "openjdk-17-jre-headless", "procps"]
    commands = CONTAINERFILE.commands("java")
    assert any(command.startswith("useradd --uid 10001") for command in commands)
    assert not any("apt-get" in command for command in commands)


def test_containerfile_with_continued_lines_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "Containerfile"
    file.write_text(
        "ARG BASE\n# a comment\nFROM ${BASE} AS one\nENV A=1 \\\n    B='2 3'\n"
        "RUN apt-get update \\\n # another\n && apt-get install -y x y && true\n"
        'FROM one AS two\nENV A=4\nWORKDIR /w\nUSER 7\nENTRYPOINT ["/e"]\n'
    )
    found = Containerfile(file)
    assert found.packages("two") == ["x", "y"]
    assert found.configuration("two") == {"Env": ["A=4", "B=2 3"], "WorkingDir": "/w", "User": "7", "Entrypoint": ["/e"]}


def test_image_is_an_archive_whose_names_are_digests(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "file").write_text("text")
    layer = Layer.of(content, tmp_path / "layer.tar")
    image = Image("some/name", {"Env": ["A=1"]}, (layer,))
    stream = io.BytesIO()
    image.write(stream)
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:

        def read(name: str) -> dict[str, object]:
            file = archive.extractfile(name)
            assert file is not None
            return json.load(file)

        manifest = read("index.json")["manifests"][0]["digest"]  # type: ignore[index]
        assert image.reference == f"localhost/some/name@{manifest}"
        assert f"blobs/sha256/{layer.digest}" in archive.getnames()
    assert image.layer_digests == (layer.digest,)
    assert Layer.of(content, tmp_path / "again.tar").digest == layer.digest


def test_layers_are_rebuilt_when_what_they_consist_of_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_CLUSTER_CACHE", str(tmp_path))
    before = (spark_image.system_tar(), spark_image.packages_tar())
    monkeypatch.setattr(spark_image, "requirements", lambda: "numpy==1\n")
    assert spark_image.system_tar() == before[0]
    assert spark_image.packages_tar() != before[1]
    assert spark_image.missing()


def test_environment_has_the_packages_of_the_pods_lock() -> None:
    names = {distribution.metadata["Name"].lower() for distribution in spark_image.distributions()}
    assert {"pyspark", "pyarrow", "cryptography", "httpx"} <= names
    assert names.isdisjoint({"temporalio", "kubernetes", "typer"})
