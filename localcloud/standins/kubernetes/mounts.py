"""What a container finds where Kubernetes mounts it, for processes that have no mounts: paths become places on this machine.

Used for pods whose driver asks the API server for executors. The configuration that ``spark-submit`` wrote, the service account's token
and the name of the API server are given as a real cluster gives them, and what runs is the image's own entry point.
"""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from cleanroom.secret import write_secret_file
from localcloud.standins.kubernetes.store import Object

API_SERVER = "https://kubernetes.default.svc"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
CONFIGURATION = "/opt/spark/conf"
PROGRAM = "/opt/cleanroom"


class Mounts:
    """The mounts of one container.

    Args:
        scratch: The pod's own folder.
        program: Where the files of its image lie.
        kubeconfig: Of the pod's service account; without one it cannot ask the API server.
    """

    def __init__(self, scratch: Path, program: Path, kubeconfig: Path) -> None:
        self._places = {PROGRAM: str(program)}
        self._scratch, self._kubeconfig = scratch, kubeconfig

    def configuration(self, data: dict[str, str]) -> None:
        """Mount a ConfigMap as Spark's configuration folder."""
        folder = self._scratch / "conf"
        folder.mkdir(exist_ok=True, mode=0o700)
        self._places[CONFIGURATION] = str(folder)
        for name, text in data.items():
            (folder / name).write_text(self.translated(text))

    def service_account(self) -> None:
        """Mount the service account: token and root of the API server, whose name then means this stand-in."""
        if not self._kubeconfig.is_file():
            return
        found: Object = yaml.safe_load(self._kubeconfig.read_text())
        cluster = found["clusters"][0]["cluster"]
        folder = self._scratch / "serviceaccount"
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
        write_secret_file(folder / "token", found["users"][0]["user"]["token"].encode())
        self._places |= {SERVICE_ACCOUNT: str(folder), API_SERVER: cluster["server"]}

    def translated(self, text: str) -> str:
        """``text`` with every place of the container replaced by its place on this machine."""
        for inside, outside in self._places.items():
            text = text.replace(inside, outside)
        return text
