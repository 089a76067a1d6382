"""The image of the test cluster's pods, against what ``deploy/Containerfile`` and the product's policies say. Nothing is built."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from cleanroom.spark.profile import PodMeasurement
from tools.cluster import spark_image
from tools.cluster.binaries import NotPossible
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


def test_no_layer_is_begun_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_CLUSTER_CACHE", str(tmp_path))
    monkeypatch.setattr(spark_image.os, "geteuid", lambda: 0)
    monkeypatch.setattr(spark_image.sys, "version_info", (*spark_image.PYTHON, 9))
    with pytest.raises(NotPossible, match="no time is left to build layer system-"):
        spark_image.prepare(lambda text: None, seconds=30)


def test_image_needs_root_and_the_python_of_its_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_image.os, "geteuid", lambda: 1000)
    with pytest.raises(NotPossible, match="only root"):
        spark_image.prepare(lambda text: None)
    monkeypatch.setattr(spark_image.os, "geteuid", lambda: 0)
    monkeypatch.setattr(spark_image.sys, "version_info", (3, 14, 0))
    with pytest.raises(NotPossible, match=r"Python 3\.11, and this environment has 3\.14"):
        spark_image.prepare(lambda text: None)


def test_oldest_layers_of_a_kind_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_CLUSTER_CACHE", str(tmp_path))
    (tmp_path / "layers").mkdir()
    old = [tmp_path / f"layers/program-{number}.tar" for number in range(20)]
    for number, file in enumerate(old):
        file.touch()
        os.utime(file, (number, number))
    image = spark_image.build_program_layer()
    assert image.tar.exists()
    left = sorted(file.name for file in (tmp_path / "layers").glob("program-*.tar"))
    assert left == sorted([image.tar.name, *(file.name for file in old[-7:])])
    with tarfile.open(image.tar) as archive:
        names = archive.getnames()
        assert "./opt/cleanroom/sparkapp/launch.py" in names
        assert not any("tests" in name for name in names)
        modes = {archive.getmember(name).mode & 0o777 for name in (".", "./opt", "./opt/cleanroom", "./opt/entrypoint.sh")}
    assert modes == {0o755}
