"""Reads the places that an operator, an analyst or another user of the machine can read."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client

from cleanroom.governance import Event, GovernanceUserClient
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, event_scope, pinned_event_id, runs_event_id
from cleanroom.secret import Secret
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, EVENT_IDS, event_id
from cleanroom.spark.tombstone import is_tombstone
from cleanroom.temporal.codec import ENCODING, PayloadCodec
from cleanroom.temporal.keyring import Keyring
from tests.canary.known_secrets import sealed_values
from tests.canary.scanner import Place
from tests.local_cloud import Cloud


def scrapes(cloud: Cloud) -> list[Place]:
    """Read the metrics of every worker."""
    ports = json.loads((cloud.state / "ports.json").read_text())
    found = []
    for name in sorted(port for port in ports if port.startswith("metrics-")):
        answer = httpx.get(f"http://127.0.0.1:{ports[name]}/metrics", trust_env=False)
        found.append((name, answer.raise_for_status().content))
    return found


def observe_url(cloud: Cloud) -> str:
    """URL of the page that shows the cloud's traces, which is also the OTLP endpoint."""
    return f"http://127.0.0.1:{json.loads((cloud.state / 'ports.json').read_text())['observe']}"


def spans(cloud: Cloud) -> list[dict[str, Any]]:
    """Every span that the workers, commands and pods have exported so far."""
    found: list[dict[str, Any]] = httpx.get(f"{observe_url(cloud)}/api/spans", trust_env=False, timeout=60).raise_for_status().json()
    return found


async def histories(client: Client, keyring: Path) -> tuple[list[Place], list[Place]]:
    """Read every history with its visibility, memo and pending activities: as the server stores them, and decoded."""
    service, raw, decoded, token = client.workflow_service, [], [], b""
    codec = PayloadCodec(Keyring.load(keyring))
    while True:
        page = await service.list_workflow_executions(
            ListWorkflowExecutionsRequest(namespace=client.namespace, page_size=200, next_page_token=token)
        )
        for item in page.executions:
            execution = WorkflowExecution(workflow_id=item.execution.workflow_id, run_id=item.execution.run_id)
            described = await service.describe_workflow_execution(
                DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution)
            )
            answers: list[Message] = [item, described]
            after = b""
            while True:
                history = await service.get_workflow_execution_history(
                    GetWorkflowExecutionHistoryRequest(namespace=client.namespace, execution=execution, next_page_token=after)
                )
                answers.append(history.history)
                after = history.next_page_token
                if not after:
                    break
            where = f"history {execution.workflow_id}"
            for answer in answers:
                raw.append((where, answer.SerializeToString()))
                decoded += [(f"decoded {where}", opened) async for opened in _opened(answer, codec.unbound(client.namespace))]
        token = page.next_page_token
        if not token:
            return raw, decoded


async def _opened(message: Message, codec: PayloadCodec) -> AsyncIterator[bytes]:
    """Decode the data of every payload in ``message``."""
    for payload in _payloads(message):
        if payload.metadata.get("encoding") == ENCODING:
            (plain,) = await codec.decode([payload])
            yield plain.data
            # The message and stack trace of a failure are an encoded payload.
            yield plain.SerializeToString()
        else:
            yield payload.data


def _payloads(message: Any) -> Iterator[Payload]:
    if isinstance(message, Payload):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            if descriptor.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    yield from _payloads(item)
        elif descriptor.is_repeated:
            for item in value:
                yield from _payloads(item)
        else:
            yield from _payloads(value)


def kubernetes(cloud: Cloud) -> list[Place]:
    """Read every object of the cluster as its administrator, and the logs of the pods."""
    config = yaml.safe_load((cloud.state / "state/kubernetes/kubeconfig-admin.yaml").read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    namespace = cloud.settings("spark-service").kubernetes.namespace
    ca = cloud.settings("spark-service").ca_file
    assert ca is not None
    places = []
    with httpx.Client(
        base_url=cluster["server"],
        verify=ssl.create_default_context(cafile=str(ca)),
        headers={"Authorization": f"Bearer {user['token']}"},
        timeout=30,
    ) as http:
        core = f"/api/v1/namespaces/{namespace}"
        for path in (
            f"/apis/sparkoperator.k8s.io/v1beta2/namespaces/{namespace}/sparkapplications",
            f"{core}/configmaps",
            f"{core}/pods",
            f"{core}/events",
        ):
            answer = http.get(path)
            if answer.status_code == 404:
                continue
            answer.raise_for_status()
            places.append((f"kubernetes {path}", answer.content))
            if path.endswith("/pods"):
                for pod in answer.json()["items"]:
                    log = http.get(f"{path}/{pod['metadata']['name']}/log")
                    if log.status_code == 200:
                        places.append((f"log of pod {pod['metadata']['name']}", log.content))
    return places


async def _events(client: GovernanceUserClient, collaboration: str, name: str, scope: str) -> AsyncIterator[Event]:
    """Read the ledger entries of one event."""
    if await client.latest_event(collaboration, event_id=name, scope=scope) is not None:
        async for event in client.events(collaboration, event_id=name, scope=scope):
            yield event


async def governance(cloud: Cloud, queries: list[str], runs: list[str]) -> list[Place]:
    """Read documents, events, secret IDs and policies as a user of the collaboration."""
    places: list[Place] = []
    async with cloud.fabrikam.governance() as client:
        for row in await client.list_documents():
            places.append((f"document {row.id}", (await client.get_document(row.id)).model_dump_json().encode()))
        for scope, ids in [(RUNS_SCOPE, [*map(runs_event_id, queries), *map(pinned_event_id, runs), *map(closed_event_id, runs)])] + [
            (event_scope(run), [event_id(run, step) for step in (*CLEAN_ROOM_STEPS, *EVENT_IDS)]) for run in runs
        ]:
            for name in ids:
                found = [event.model_dump_json().encode() async for event in _events(client, cloud.collaboration, name, scope)]
                places += [(f"event {name}", data) for data in found]
        places.append(("secret ids", json.dumps(await client.list_secrets(cloud.collaboration)).encode()))
        for item in await client.list_delegates(cloud.collaboration):
            policy = await client.delegate_policy(cloud.collaboration, item.delegate_type, item.delegate_id)
            places.append((f"policy {item.delegate_id}", json.dumps([item.delegate_id, policy]).encode()))
    return places


@dataclass
class Watcher:
    """Polls processes and Kubernetes once per second while runs are active, because pods and their objects are deleted."""

    cloud: Cloud
    commands: dict[str, bytes] = field(default_factory=dict)
    environments: dict[str, bytes] = field(default_factory=dict)
    objects: dict[bytes, str] = field(default_factory=dict)
    network: dict[str, bytes] = field(default_factory=dict)
    """The network secrets of the runs, which are overwritten when a run ends."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watcher:
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            self._look()
            if self._stop.wait(1):
                return

    def _look(self) -> None:
        folder = str(self.cloud.state)
        for process in psutil.process_iter(["pid", "cmdline", "create_time"]):
            line = process.info["cmdline"] or []
            if not any(folder in part for part in line) and not any("sparkapp" in part for part in line):
                continue
            key = f"{process.info['pid']}/{process.info['create_time']} {line[0]}"
            self.commands[key] = "\n".join(line).encode()
            try:
                self.environments[key] = "\n".join(f"{name}={value}" for name, value in process.environ().items()).encode()
            except psutil.Error:
                continue
        for where, data in kubernetes(self.cloud):
            self.objects[data] = where
        for key, plain in sealed_values(self.cloud.state):
            if key.endswith(".network") and not is_tombstone(Secret(plain)):
                self.network.setdefault(key, plain)
