"""Debian's packages that a node with containers needs: those of this machine, or unpacked into the cache without an installation."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.cluster.binaries import NotPossible, cache_folder

PACKAGES = (
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libseccomp2",
    "libxtables12",
    "runc",
)
PROGRAMS = ("usr/bin/containerd", "usr/bin/ctr", "usr/sbin/runc", "usr/sbin/xtables-nft-multi", "usr/lib/cni/bridge", "bin/busybox")


def root() -> Path:
    """Return the folder below which the programs are: ``/`` if this machine has all of them."""
    return Path("/") if _complete(Path("/")) else cache_folder() / "debian"


def missing() -> bool:
    """Whether the packages have to be downloaded."""
    return not _complete(root())


def prepare(say: Callable[[str], None]) -> None:
    """Download and unpack the packages, unless this machine or the cache has them.

    Raises:
        NotPossible: This is no Debian machine, or its package sources do not answer.
    """
    if not missing():
        say(f"reused   Debian packages: {root()}")
        return
    fetch(PACKAGES, cache_folder() / "debian")
    if missing():
        raise NotPossible(
            f"Debian's packages have other files than expected; {cache_folder() / 'debian'} lacks one of {', '.join(PROGRAMS)}"
        )
    say(f"fetched  Debian packages: {root()}")


def fetch(names: tuple[str, ...], folder: Path) -> None:
    """Download packages and unpack them into ``folder``, in place of what it has.

    Raises:
        NotPossible: This is no Debian machine, or its package sources do not answer.
    """
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise NotPossible(
            f"no apt-get; install containerd, runc, CNI plugins, iptables and busybox, so that {', '.join(PROGRAMS)} exist in /"
        )
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        _run([apt, "update", "-qq"], scratch)
        _run([apt, "download", "-qq", *names], scratch)
        unpacked = Path(scratch, "root")
        for package in sorted(Path(scratch).glob("*.deb")):
            _run([dpkg, "-x", str(package), str(unpacked)], scratch)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.replace(folder)


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPossible(f"{' '.join(command[:2])} failed: {' '.join(done.stderr.split())[-300:]}")


def _complete(folder: Path) -> bool:
    return all((folder / program).exists() for program in PROGRAMS)
