"""Container images of the stand-in: snapshots of source files, addressed by the digest of their content like any image.

``build_sparkapp_image`` takes a snapshot of the installed packages ``sparkapp`` and ``cleanroom``. Pods run only the snapshot. So they
run what the pod policies measured, even if the working tree has changed since.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

SPARKAPP_REPOSITORY = "localhost/cleanroom/sparkapp"
_PACKAGES = ("cleanroom", "sparkapp")


class LocalImage(BaseModel):
    """An image: its reference with digest, its layer hashes, and the command that replaces its entry point on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    layers: tuple[str, ...]
    entrypoint: tuple[str, ...] = ("/opt/entrypoint.sh",)
    working_dir: str = "/opt/spark/work-dir"
    program: tuple[str, ...]
    """Command that replaces the entry point; ``{python}`` is this interpreter. ``PYTHONPATH`` is the snapshot."""
    launcher: tuple[str, ...] = ()
    """Command that replaces the entry point, with all of its arguments, if executors have their own pods."""
    spark_version: str = "4.0.0"


def build_sparkapp_image(images: Path) -> LocalImage:
    """Build the image of the Spark payload from the installed packages, and store it below ``images``. Idempotent.

    Use the result in the settings: ``kubernetes.image`` (``reference``), ``.image_layers`` (``layers``) and ``.spark_version``.
    """
    files: dict[str, bytes] = {}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError(f"The package {package} is not installed; run `make setup`.")
        root = Path(next(iter(spec.submodule_search_locations)))
        for file in sorted(root.rglob("*")):
            if file.is_file() and file.suffix in (".py", ".typed", ".json", ".sql", ".txt") and "__pycache__" not in file.parts:
                files[f"{package}/{file.relative_to(root).as_posix()}"] = file.read_bytes()
    return build_image(
        images,
        SPARKAPP_REPOSITORY,
        files,
        program=("{python}", "-m", "sparkapp"),
        launcher=("{python}", "-m", "sparkapp.launch"),
        spark_version=importlib.metadata.version("pyspark"),
    )


def build_image(
    images: Path,
    repository: str,
    files: Mapping[str, bytes],
    *,
    program: Sequence[str],
    launcher: Sequence[str] = (),
    spark_version: str = "4.0.0",
) -> LocalImage:
    """Store ``files`` (relative path to content) as an image that runs ``program``, or ``launcher`` if given."""
    content = _content_digest(files, (*program, *launcher), spark_version)
    image = LocalImage(
        reference=f"{repository}@sha256:{content}",
        # A real layer hash is a dm-verity root over the layer's blocks. This image has one layer, hashed by its content.
        layers=(hashlib.sha256(f"layer {content}".encode()).hexdigest(),),
        program=tuple(program),
        launcher=tuple(launcher),
        spark_version=spark_version,
    )
    target = images / content
    if not target.exists():
        images.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=images, prefix=".build-") as folder:
            build = Path(folder) / content
            for name, data in files.items():
                file = build / "root" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            (build / "root").mkdir(parents=True, exist_ok=True)
            (build / "image.json").write_text(image.model_dump_json())
            try:
                os.rename(build, target)
            except OSError:
                # Another process built the same content first.
                if not target.exists():
                    raise
    return image


def pull_image(images: Path, reference: str) -> tuple[LocalImage, Path]:
    """Return an image and the folder of its files, after verifying the content against the digest.

    Raises:
        LookupError: The image does not exist, or its content does not match the digest.
    """
    digest = reference.rpartition("@sha256:")[2]
    folder = images / digest
    if not digest or "/" in digest or not (folder / "image.json").is_file():
        raise LookupError(f'failed to pull and unpack image "{reference}": failed to resolve reference "{reference}": not found')
    image = LocalImage.model_validate(json.loads((folder / "image.json").read_text()))
    root = folder / "root"
    files = {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }
    if image.reference != reference or _content_digest(files, (*image.program, *image.launcher), image.spark_version) != digest:
        raise LookupError(
            f'failed to pull and unpack image "{reference}": unexpected commit digest: content does not match sha256:{digest}'
        )
    return image, root


def program_of(image: LocalImage) -> list[str]:
    """Return the argument vector of the image's program on this machine."""
    return [sys.executable if part == "{python}" else part for part in image.program]


def launcher_of(image: LocalImage) -> list[str]:
    """Return the argument vector of the image's launcher on this machine; its program if it has none."""
    return [sys.executable if part == "{python}" else part for part in image.launcher or image.program]


def _content_digest(files: Mapping[str, bytes], program: Sequence[str], spark_version: str) -> str:
    lines = [f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files)]
    return hashlib.sha256("".join([*lines, "\0".join(program), "\n", spark_version, "\n"]).encode()).hexdigest()
