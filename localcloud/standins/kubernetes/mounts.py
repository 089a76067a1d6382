"""The mounts of a container, for processes that cannot have mounts: paths in the container are replaced by paths on this machine.

Used for drivers that create executor pods, and for these pods. They get the configuration that ``spark-submit`` wrote, the service
account's token and the API server's name like in a real cluster, and they run the image's own entry point.
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
        scratch: The pod's folder.
        program: Folder of the image's files.
        kubeconfig: Kubeconfig of the pod's service account. If the file does not exist, the pod has no access to the API server.
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
            (folder / name).write_text(self.to_local_paths(text))

    def service_account(self) -> None:
        """Mount the service account's token and the API server's root certificate; the API server's name then means this stand-in."""
        if not self._kubeconfig.is_file():
            return
        found: Object = yaml.safe_load(self._kubeconfig.read_text())
        cluster = found["clusters"][0]["cluster"]
        folder = self._scratch / "serviceaccount"
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
        write_secret_file(folder / "token", found["users"][0]["user"]["token"].encode())
        self._places |= {SERVICE_ACCOUNT: str(folder), API_SERVER: cluster["server"]}

    def to_local_paths(self, text: str) -> str:
        """Replace every mounted path in ``text`` by its path on this machine."""
        for inside, outside in self._places.items():
            text = text.replace(inside, outside)
        return text
