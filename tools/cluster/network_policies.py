"""Holds the pods of the full tier to the cluster's NetworkPolicies, which Kubernetes itself enforces nowhere.

It follows pods, policies and namespaces, and replaces the rules of the node's firewall whenever they change.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kubernetes

from tools.cluster.network_rules import CHAIN, Pod, compile_rules
from tools.cluster.servers import ServerFailed

_log = logging.getLogger("cluster.network")


class NetworkPolicies:
    """The enforcement on one node.

    Args:
        api: An administrator's client.
        pod_network: The addresses of pods, in CIDR notation.
        programs: The folder with the programs of iptables.
        environment: Their environment.
    """

    def __init__(self, api: kubernetes.client.ApiClient, pod_network: str, programs: Path, environment: Mapping[str, str]) -> None:
        self._pod_network, self._programs, self._environment = pod_network, programs, dict(environment)
        # The package is only partly annotated.
        core: Any = kubernetes.client.CoreV1Api(api)
        self._pods, self._namespaces = core.list_pod_for_all_namespaces, core.list_namespace
        self._policies: Any = kubernetes.client.NetworkingV1Api(api).list_network_policy_for_all_namespaces
        self._watch: Any = kubernetes.watch
        self._changed, self._stop = threading.Event(), threading.Event()
        self._rules = ""

    def start(self) -> None:
        """Enforce the policies from now on, until :meth:`stop`. Before a pod is known, its packets are dropped.

        Raises:
            ServerFailed: The kernel refuses the rules.
        """
        # Traffic between pods crosses a bridge, which the firewall of IP does not see by default.
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
        self._apply()
        for hook in ("FORWARD", "INPUT"):
            self._run("iptables", "-I", hook, "1", "-j", CHAIN)
        for follow in (self._pods, self._policies, self._namespaces):
            threading.Thread(target=self._follow, args=(follow,), daemon=True).start()
        threading.Thread(target=self._enforce, daemon=True).start()

    def stop(self) -> None:
        """Stop following. The rules stay until the node's network vanishes."""
        self._stop.set()
        self._changed.set()

    def _follow(self, listed: Callable[..., Any]) -> None:
        while not self._stop.is_set():
            # Whatever changed between two watches is in the next reading.
            self._changed.set()
            try:
                for _ in self._watch.Watch().stream(listed, timeout_seconds=60):
                    self._changed.set()
            except Exception as error:
                _log.info("watch of network policies: %s", type(error).__name__)
                self._stop.wait(0.2)

    def _enforce(self) -> None:
        while not self._stop.is_set():
            self._changed.wait()
            self._changed.clear()
            try:
                self._apply()
            except Exception as error:
                # The rules in force stay. A pod that they do not know is dropped, so nothing is open that should not be.
                _log.warning("network policies: %s", error)
                self._changed.set()
                self._stop.wait(0.2)

    def _apply(self) -> None:
        readings = (listed(_preload_content=False).data for listed in (self._pods, self._policies, self._namespaces))
        pods, policies, namespaces = (json.loads(data)["items"] for data in readings)
        labels = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in namespaces}
        rules = compile_rules(policies, [pod for pod in map(Pod.of, pods) if pod is not None], labels, self._pod_network)
        if rules != self._rules:
            self._run("iptables-restore", "--noflush", "--wait", text=rules)
            self._rules = rules

    def _run(self, program: str, *arguments: str, text: str | None = None) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=self._environment)
        if done.returncode != 0:
            raise ServerFailed(f"{program}: {' '.join(done.stderr.split())[-300:]}")
