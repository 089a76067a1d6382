"""The image of a run's pods, as ``deploy/Containerfile`` defines it, built without an image registry and without buildah.

It has three layers, each cached by what it is made of:

* ``system``: Debian, with the packages and the commands of the Containerfile;
* ``packages``: the pods' part of ``requirements.lock``, copied from this environment, which has the same lock, with the class data archive;
* ``program``: ``cleanroom``, ``sparkapp`` and the entry point of this checkout.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution
from pathlib import Path
from py_compile import PycInvalidationMode

from packaging.requirements import Requirement

from tools.cluster import packages
from tools.cluster.binaries import NotPossible, cache_folder
from tools.cluster.containerfile import Containerfile
from tools.cluster.images import Image, Layer

DEBIAN = "bookworm"
PYTHON = (3, 11)
"""Python's version in this Debian. Compiled packages of this environment fit only the same version."""
NAME = "cleanroom/spark"
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SOURCES = ("cleanroom", "sparkapp")
_PREFIX = "opt/cleanroom"
_LAYER_SECONDS = 120
_KEPT = {"system": 2, "packages": 2, "program": 8}
_JVM_SOURCES = ("sparkapp/jvm", "sparkapp/jvm_build.py", "sparkapp/jvm_archive.py", "deploy/finish.sh")


def missing() -> bool:
    """Whether a layer has to be built. The one of the program takes seconds and does not count."""
    return not (system_tar().exists() and packages_tar().exists())


def prepare(say: Callable[[str], None], seconds: float = 3600) -> None:
    """Build the layers that the cache does not have. Starts none that is unlikely to be built within ``seconds``.

    Raises:
        NotPossible: The machine is not root's or has another Python, Debian's packages cannot be downloaded, or this environment does not
            have the packages of the lock, or the time is over.
    """
    deadline = time.monotonic() + seconds
    if os.geteuid() != 0:
        raise NotPossible("only root can build the image of the pods")
    if sys.version_info[:2] != PYTHON:
        found = ".".join(map(str, sys.version_info[:2]))
        raise NotPossible(f"the pods' image has Python 3.11, and this environment has {found}; create it with Python 3.11")
    for tar, build in ((system_tar(), _build_system), (packages_tar(), _build_packages)):
        if tar.exists():
            tar.touch()
            say(f"reused   layer {tar.stem} of the pods' image")
            continue
        if deadline - time.monotonic() < _LAYER_SECONDS:
            raise NotPossible(f"no time is left to build layer {tar.stem} of the pods' image; the next build continues with it")
        began = time.monotonic()
        say(f"building layer {tar.stem} of the pods' image: minutes for the first time")
        _cached(tar, build)
        say(f"built    layer {tar.stem} in {time.monotonic() - began:.0f} s")


def build() -> Image:
    """Return the image of this checkout. :func:`prepare` has built the two large layers."""
    layers = (_layer(system_tar()), _layer(packages_tar()), build_program_layer())
    return Image(NAME, Containerfile(DEPLOY / "Containerfile").configuration("spark"), layers)


def build_program_layer() -> Layer:
    """Return the layer with this checkout's program."""
    tar = _layers() / f"program-{_digest(_files(*SOURCES, 'deploy/entrypoint.sh'), str(PYTHON))}.tar"
    if not tar.exists():
        _cached(tar, _build_program)
    return _layer(tar)


def _layer(tar: Path) -> Layer:
    """Return a layer with the digest that it had when it was built. containerd refuses an image whose layer has another one."""
    recorded = tar.with_suffix(".sha256")
    if not recorded.exists():
        recorded.write_text(Layer.read(tar).digest)
    return Layer(tar, recorded.read_text())


def _layers() -> Path:
    return cache_folder() / "layers"


def system_tar() -> Path:
    """Return the file of the layer with Debian."""
    content = Containerfile(DEPLOY / "Containerfile")
    text = f"{DEBIAN}\n{content.packages('java')}\n{content.commands('java')}"
    return _layers() / f"system-{_digest([DEPLOY / 'scrub.sh'], text)}.tar"


def packages_tar() -> Path:
    """Return the file of the layer with the packages of the lock."""
    commands = Containerfile(DEPLOY / "Containerfile").commands("build-jvm")
    text = "\n".join([system_tar().name, *commands, requirements()])
    return _layers() / f"packages-{_digest(_files(*_JVM_SOURCES), text)}.tar"


def _cached(tar: Path, build: Callable[[Path, Path], None]) -> None:
    """Let ``build`` write ``tar``, with a folder for its work, and remove the oldest layers of this kind."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tar.parent) as scratch:
        new = Path(scratch, tar.name)
        build(new, Path(scratch))
        tar.with_suffix(".sha256").unlink(missing_ok=True)
        new.replace(tar)
    kind = tar.name.partition("-")[0]
    for old in sorted(tar.parent.glob(f"{kind}-*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)[_KEPT[kind] :]:
        old.unlink(missing_ok=True)
        old.with_suffix(".sha256").unlink(missing_ok=True)


def _build_system(tar: Path, scratch: Path) -> None:
    """Let mmdebstrap install Debian, and run the commands of the Containerfile in it."""
    tool = cache_folder() / "mmdebstrap"
    if not (tool / "usr/bin/mmdebstrap").exists():
        packages.fetch(("mmdebstrap",), tool)
    content = Containerfile(DEPLOY / "Containerfile")
    hook = scratch / "hook"
    script = "\n".join(content.commands("java"))
    hook.write_text(f'#!/bin/sh\nset -eu\ncp {DEPLOY}/scrub.sh "$1/usr/local/sbin/scrub"\nchroot "$1" sh -eu <<\'END\'\n{script}\nEND\n')
    hook.chmod(0o755)
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    command = [
        *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(content.packages('java'))}", *excluded),
        # The package of Java registers its manual pages, and fails without their folder.
        '--essential-hook=mkdir -p "$1/usr/share/man/man1"',
        *(f"--customize-hook={hook}", DEBIAN, str(tar)),
    ]
    _run(command, {"PATH": f"{tool}/usr/bin:{os.environ['PATH']}:/usr/sbin:/sbin", "SOURCE_DATE_EPOCH": "0"})


def _build_packages(tar: Path, scratch: Path) -> None:
    """Copy the packages of the lock, and build Java's classes and their archive with the image's own Java."""
    root, stage = scratch / "root", scratch / "stage"
    root.mkdir(mode=0o755)
    _run(["tar", "--numeric-owner", "-xf", str(system_tar()), "-C", str(root)])
    _in_image(root, ["python3 -m venv --without-pip /opt/cleanroom"])
    site = root / _PREFIX / f"lib/python{PYTHON[0]}.{PYTHON[1]}/site-packages"
    for distribution in distributions():
        _copy_distribution(distribution, site)
    for name in SOURCES:
        shutil.copytree(ROOT / name, root / _PREFIX / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(DEPLOY / "finish.sh", root / "finish.sh")
    _in_image(root, ["sh /finish.sh spark", *Containerfile(DEPLOY / "Containerfile").stages["build-jvm"].arguments("RUN")])
    for name in SOURCES:
        shutil.rmtree(root / _PREFIX / name)
    (stage / _PREFIX).parent.mkdir(parents=True)
    (root / _PREFIX).rename(stage / _PREFIX)
    _write_layer(stage, tar)


def _build_program(tar: Path, scratch: Path) -> None:
    stage = scratch / "stage"
    for name in SOURCES:
        shutil.copytree(ROOT / name, stage / _PREFIX / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(DEPLOY / "entrypoint.sh", stage / "opt/entrypoint.sh")
    # As deploy/finish.sh does: validated by content, so that the same sources give the same bytes.
    compileall.compile_dir(
        stage, quiet=2, stripdir=str(stage), prependdir="/", workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )
    _write_layer(stage, tar)


def _write_layer(stage: Path, tar: Path) -> None:
    """Write a layer whose folders every user can read: they replace the modes of the folders below."""
    stage.chmod(0o755)
    _run(["chmod", "-R", "go-w,a+rX", str(stage)])
    Layer.of(stage, tar)


def _in_image(root: Path, commands: Iterable[str]) -> None:
    """Run commands in the folder of an image, in namespaces of their own."""
    script = "\n".join(commands)
    inner = 'mount -t proc proc "$1/proc" && exec chroot "$1" sh -euc "$2"'
    environment = {"PATH": "/opt/java/openjdk/bin:/usr/sbin:/usr/bin:/sbin:/bin", "JAVA_HOME": "/opt/java/openjdk", "LANG": "C.UTF-8"}
    # The image does not know this machine's host name, which Spark would look up.
    environment |= {"SOURCE_DATE_EPOCH": "0", "CLASS_ARCHIVE": "yes", "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"}
    _run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", inner, "sh", str(root), script], environment, only=True)


def requirements() -> str:
    """Return the pods' part of the lock, as the Containerfile gets it."""
    command = [sys.executable, str(DEPLOY / "requirements.py"), "spark"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def distributions() -> list[Distribution]:
    """Return the installed packages of the pods' part of the lock.

    Raises:
        NotPossible: One is missing or has another version.
    """
    installed = []
    lines = [line.removesuffix("\\").strip() for line in requirements().splitlines() if line and not line.startswith((" ", "#"))]
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            raise NotPossible(f"this environment does not have {requirement.name}; run `make setup`") from None
        if distribution.version not in requirement.specifier:
            found = f"{requirement.name} {distribution.version}"
            raise NotPossible(f"this environment has {found}, the lock {requirement.specifier}; run `make setup`")
        installed.append(distribution)
    return installed


def _copy_distribution(distribution: Distribution, site: Path) -> None:
    for file in distribution.files or ():
        # Scripts are outside of the folder; finish.sh would remove them.
        if ".." in file.parts or file.suffix == ".pyc":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), target)


def _files(*names: str) -> list[Path]:
    found = []
    for path in (ROOT / name for name in names):
        inside = path.rglob("*") if path.is_dir() else [path]
        found += [file for file in inside if file.is_file() and "__pycache__" not in file.parts]
    return sorted(found)


def _digest(files: Iterable[Path], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for file in files:
        digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str], environment: dict[str, str] | None = None, *, only: bool = False) -> None:
    """Run a command, with ``environment`` in addition to this one or, with ``only``, in its place.

    Raises:
        NotPossible: The command failed.
    """
    given = {**({} if only else os.environ), **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise NotPossible(f"{command[0]} failed: {' '.join((done.stderr or done.stdout).split())[-500:]}")
