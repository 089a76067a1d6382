"""No secret anywhere (T1): every secret that the system knows is searched for wherever an operator, an analyst or the next user could read.

One run that succeeds, one that fails in the pod and one that is cancelled, with failures of the command line in between; then histories
(as the server holds them, and decoded), visibility, logs, the objects of Kubernetes, what governance shows, command lines and
environments of processes, terminal output, and every file that a server keeps. And each search is shown to find what is there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client

from activities.clean_room_secrets import TOMBSTONE
from cleanroom.documents.query import PreCondition
from cleanroom.governance import Event, GovernanceUserClient
from cleanroom.identifiers import query_workflow_id
from cleanroom.messages.query import DecisionMessage
from cleanroom.runs.ledger import RUNS_SCOPE, event_scope, runs_event_id
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, EVENT_IDS, event_id
from cleanroom.temporal.codec import ENCODING, PayloadCodec
from cleanroom.temporal.keyring import Keyring
from localcloud.standins.cgs.store import Sealer
from localcloud.standins.keyvault.store import KeyStore as VaultStore
from starters.operations.runs import cancel_run
from starters.operations.session import run_async
from tests.canary import Finding, Place, Scanner, files, private_numbers, private_parts, writings
from tests.local_cloud import ROOT, Cloud, World, beating, unique
from workflows.publish_query import PublishQuery

pytestmark = [pytest.mark.scenario, pytest.mark.spark, pytest.mark.timeout(900)]

OWN = ("secrets/", "parties/", "config/", "tls/", "guests.json", "cleanroom.toml", "images/", "data/", "tests/")
"""Below the state folder: what belongs to one person or one process alone. All that holds a secret there must have mode 0600."""


# ---------------------------------------------------------------------- which secrets there are


def every_secret(cloud: Cloud, scanner: Scanner) -> None:
    """Let ``scanner`` know every secret of the cloud."""
    state = cloud.state
    for file in sorted((state / "secrets").iterdir()):
        if file.name == "codec-keyring.json":
            for name, key in json.loads(file.read_text())["keys"].items():
                scanner.know(f"codec key {name}", base64.b64decode(key))
        else:
            scanner.know(f"token {file.name}", file.read_bytes().strip())
    for file in sorted((state / "parties").rglob("*")):
        name = str(file.relative_to(state / "parties"))
        if file.suffix == ".dataset-key":
            text = file.read_bytes().strip()
            scanner.know(f"dataset key {name}", base64.b64decode(text))
        elif file.name == "s3-connection.json":
            scanner.know(f"connection secret {name}", json.loads(file.read_text())["awsSecretAccessKey"].encode())
    for folder in (state / "state", state / "tls", state / "parties"):
        for file in sorted(folder.rglob("*.pem")):
            if b"PRIVATE KEY" in file.read_bytes():
                for part, value in private_parts(file.read_bytes()):
                    scanner.know(f"private key {file.relative_to(state)} {part}", value)
    for name, token in json.loads((state / "state/kubernetes/tokens.json").read_text()).items():
        scanner.know(f"Kubernetes token {name}", token.encode())
    for name, guest in json.loads((state / "guests.json").read_text()).items():
        scanner.know(f"guest capability {name}", guest["url"].rsplit("/", 1)[-1].encode())
    scanner.know("seal of governance", bytes.fromhex((state / "state/cgs/storage.key").read_text()))
    scanner.know("seal of Key Vault", bytes.fromhex((state / "state/keyvault/keyvault-seal.key").read_text()))
    _vault_keys(state, scanner)
    _governance_secrets(state, scanner)


def _vault_keys(state: Path, scanner: Scanner) -> None:
    """The private halves of the key encryption keys, as they are released."""
    vault = VaultStore(state / "state/keyvault")
    try:
        for record in vault.keys(deleted=False):
            for version in vault.versions(record.name):
                key = serialization.load_der_private_key(vault.material(version), None)
                for part, value in private_numbers(key):
                    scanner.know(f"key encryption key {record.name} {part}", value)
    finally:
        vault.close()


def _sealed(state: Path) -> list[tuple[str, bytes]]:
    """Key and plain value of everything that governance holds sealed now."""
    sealer = Sealer(state / "state/cgs/storage.key")
    with sqlite3.connect(state / "state/cgs/cgs.sqlite") as db:
        rows = db.execute("SELECT tab, key, value FROM kv").fetchall()
    db.close()
    opened = []
    for table, key, sealed in rows:
        # Public tables hold JSON; what is sealed opens at its own place only.
        with suppress(InvalidTag, TypeError, ValueError):
            opened.append((key, sealer.open(table, key, sealed)))
    return opened


def _governance_secrets(state: Path, scanner: Scanner) -> None:
    """What governance holds sealed: everybody's secrets, the runs' copies, the issuer's signing key."""
    opened = _sealed(state)
    assert len(opened) > 5
    for key, plain in opened:
        try:
            value = json.loads(plain)
        except ValueError:
            value = None
        if isinstance(value, dict) and "pem" in value:
            for part, number in private_parts(value["pem"].encode()):
                scanner.know(f"issuer's signing key {part}", number)
        elif isinstance(value, dict) and "awsSecretAccessKey" in value:
            scanner.know(f"secret {key}", value["awsSecretAccessKey"].encode())
        elif isinstance(value, dict) and "consent" in value:
            continue  # a receipt of consent: nothing but its place is secret
        elif len(plain) >= 16:
            scanner.know(f"secret {key}", plain)


# ---------------------------------------------------------------------- where a stranger could read


async def histories(client: Client) -> tuple[list[Place], list[Place]]:
    """Every history of the namespace, with visibility, memo and pending activities: as the server holds them, and opened."""
    service, raw, decoded, token = client.workflow_service, [], [], b""
    codec = PayloadCodec(Keyring.load(_KEYRING[0]))
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


_KEYRING: list[Path] = []


async def _opened(message: Message, codec: PayloadCodec) -> AsyncIterator[bytes]:
    """The plain data of every payload in ``message``."""
    for payload in _payloads(message):
        if payload.metadata.get("encoding") == ENCODING:
            (plain,) = await codec.decode([payload])
            yield plain.data
            # A failure's message and trace are a payload inside.
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
    """Every object of the cluster, as its administrator gets it, and the logs of pods."""
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
    """The entries of one event; none where this run has none."""
    if await client.latest_event(collaboration, event_id=name, scope=scope) is not None:
        async for event in client.events(collaboration, event_id=name, scope=scope):
            yield event


async def governance(cloud: Cloud, queries: list[str], runs: list[str]) -> list[Place]:
    """Documents, events, secret ids and policies, as any user of the collaboration reads them."""
    places: list[Place] = []
    async with cloud.fabrikam.governance() as client:
        for row in await client.list_documents():
            places.append((f"document {row.id}", (await client.get_document(row.id)).model_dump_json().encode()))
        for scope, ids in [(RUNS_SCOPE, [runs_event_id(name) for name in queries])] + [
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
    """Looks at processes and at Kubernetes again and again while runs last: pods and their objects do not stay."""

    cloud: Cloud
    commands: dict[str, bytes] = field(default_factory=dict)
    environments: dict[str, bytes] = field(default_factory=dict)
    objects: dict[bytes, str] = field(default_factory=dict)
    network: dict[str, bytes] = field(default_factory=dict)
    """The secrets between the pods of a run, which are overwritten when it ends."""
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
        for key, plain in _sealed(self.cloud.state):
            if key.endswith(".network") and plain != TOMBSTONE.reveal():
                self.network.setdefault(key, plain)


# ---------------------------------------------------------------------- the path


@dataclass
class Played:
    """What was done, and what it left to read."""

    cloud: Cloud
    queries: list[str]
    runs: dict[str, str]
    terminal: list[Place]
    watcher: Watcher
    scanner: Scanner


def command(cloud: Cloud, *arguments: str, ok: bool = True) -> Place:
    """One command as its own process: all that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "starters.cli", *arguments, "--config", str(cloud.state / "cleanroom.toml")],
        capture_output=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert (done.returncode == 0) == ok, (arguments, done.stderr.decode()[-2000:])
    return f"terminal: {' '.join(arguments)}", done.stdout + done.stderr


@pytest.fixture(scope="module")
def played(cloud: Cloud, world: World, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Success, failure in the pod, cancellation; and on the command line what goes wrong with secrets in hand."""
    _KEYRING[:] = [cloud.state / "secrets/codec-keyring.json"]
    scanner, terminal = Scanner(), []
    spec = world.query("canary")
    failing = world.query("canary-fails", pre_conditions=(PreCondition(view_name="flights", min_row_count=10**9),))
    good, bad = cloud.approved(spec), cloud.approved(failing)
    runs = {name: unique("r") for name in ("success", "failure", "cancel")}
    with Watcher(cloud) as watcher:
        terminal.append(command(cloud, "run", "start", good.query, "--run-id", runs["success"], "--profile", "fabrikam"))
        terminal.append(
            command(cloud, "run", "start", bad.query, "--run-id", runs["failure"], "--profile", "fabrikam", "--output", "json", ok=False)
        )
        run_async(_cancelled(cloud, good.query, good.digest, runs["cancel"]))
    for arguments in (("show", runs["failure"]), ("show", runs["cancel"]), ("list",), ("result", runs["success"])):
        terminal.append(command(cloud, "run", *arguments, "--profile", "fabrikam", "--output", "json"))
    terminal += _failing_commands(cloud, world, scanner, tmp_path_factory.mktemp("canary"))
    every_secret(cloud, scanner)
    for key, plain in watcher.network.items():
        scanner.know(f"network secret {key}", plain)
    return Played(cloud, [good.query, bad.query], runs, terminal, watcher, scanner)


async def _cancelled(cloud: Cloud, query: str, digest: str, run_id: str) -> None:
    await asyncio.to_thread(cloud.start, query, digest, run_id=run_id)
    await beating(cloud.run_handle(await cloud.fabrikam.temporal(), run_id), "watch_job")
    await cancel_run(cloud.fabrikam, run_id)


def _failing_commands(cloud: Cloud, world: World, scanner: Scanner, folder: Path) -> Iterator[Place]:
    """Wrong and malformed secrets: the error says what is wrong and not what the secret is."""
    for word, content in {
        "wrong": '{{"awsAccessKeyId": "LITWARE", "awsSecretAccessKey": "{canary}"}}',
        "malformed": '{{"awsSecretAccessKey": "{canary}", "oops": ',
        "incomplete": '{{"secret": "{canary}"}}',
    }.items():
        canary = f"canary-{os.urandom(12).hex()}"
        scanner.know(f"{word} connection secret", canary.encode())
        secret, file = folder / f"{word}.json", folder / f"{word}.yaml"
        secret.write_text(content.format(canary=canary))
        secret.chmod(0o600)
        spec = world.planes.model_dump(mode="json", by_alias=True, exclude_none=True)
        spec["name"] = unique("planes")
        spec["store"]["connectionSecret"] = f"file:{secret}"
        file.write_text(yaml.safe_dump(spec))
        yield command(cloud, "dataset", "publish", str(file), "--profile", "litware", ok=False)
    canary, file = f"canary-{os.urandom(12).hex()}", folder / "inline.yaml"
    scanner.know("secret in place of its reference", canary.encode())
    spec = world.planes.model_dump(mode="json", by_alias=True, exclude_none=True)
    spec["store"]["connectionSecret"] = canary
    file.write_text(yaml.safe_dump(spec))
    yield command(cloud, "dataset", "publish", str(file), "--profile", "litware", ok=False)


def clean(findings: list[Finding]) -> None:
    assert findings == [], "\n".join(f"{item.what} ({item.writing}) in {item.where}" for item in findings)


# ---------------------------------------------------------------------- the searches


def test_the_secrets_are_known(played: Played) -> None:
    """What is searched for: no kind of secret is forgotten by an empty list."""
    kinds = {what.split()[0] + " " + what.split()[1] for what, _, _ in played.scanner.needles}
    for kind in ("dataset key", "connection secret", "private key", "codec key", "guest capability", "key encryption", "issuer's signing"):
        assert kind in kinds, kinds
    names = {what for what, _, _ in played.scanner.needles}
    assert any("signing-key.pem" in name for name in names)
    assert any(name.startswith("token contosso") for name in names)
    for run_id in (played.runs["success"], played.runs["cancel"]):
        assert any(name.startswith("network secret") and run_id in name for name in names), run_id
    assert len(names) > 40


@pytest.fixture(scope="module")
def history(played: Played) -> tuple[list[Place], list[Place]]:
    async def read() -> tuple[list[Place], list[Place]]:
        return await histories(await played.cloud.fabrikam.temporal())

    return run_async(read())


@pytest.mark.parametrize("decoded", [False, True], ids=["raw", "decoded"])
def test_histories(played: Played, history: tuple[list[Place], list[Place]], decoded: bool) -> None:
    places = history[decoded]
    everything = b"\n".join(data for _, data in places)
    # Proof of reading: the run's id is in the clear outside, the SQL only inside.
    assert played.runs["success"].encode() in everything
    assert (b"COUNT(DISTINCT f.tailnum)" in everything) is decoded
    clean(played.scanner.look(places))


def test_search_of_histories_finds_what_is_there(played: Played) -> None:
    """A canary that somebody sends as a decision: sealed on the server, found once it is opened."""
    canary = f"canary-{os.urandom(16).hex()}"
    scanner = Scanner()
    scanner.know("planted", canary.encode())
    cloud = played.cloud

    async def plant() -> tuple[list[Place], list[Place]]:
        client = await cloud.fabrikam.temporal()
        handle = client.get_workflow_handle(query_workflow_id(cloud.collaboration, played.queries[0]))
        await handle.signal(PublishQuery.approve, DecisionMessage(decision=canary))
        return await histories(client)

    raw, decoded = run_async(plant())
    clean(scanner.look(raw, forms=False))
    found = scanner.look(decoded, forms=False)
    assert {item.what for item in found} == {"planted"}


def test_kubernetes(played: Played) -> None:
    places = [(where, data) for data, where in played.watcher.objects.items()] + kubernetes(played.cloud)
    everything = b"\n".join(data for _, data in places)
    assert b"sparkapplications" in b"\n".join(where.encode() for where, _ in places)
    for run in played.runs.values():
        assert run.encode() in everything
    clean(played.scanner.look(places))


def test_governance(played: Played) -> None:
    places = run_async(governance(played.cloud, played.queries, list(played.runs.values())))
    everything = b"\n".join(data for _, data in places)
    assert b"QUERY_COMPLETED" in everything
    assert b"PREPARED" in everything
    clean(played.scanner.look(places))


def test_terminal(played: Played) -> None:
    """Successes and failures, tables and JSON."""
    everything = b"\n".join(data for _, data in played.terminal)
    for word in (played.runs["success"].encode(), b"SignatureDoesNotMatch", b"ConnectionSecretMalformed"):
        assert word in everything
    clean(played.scanner.look(played.terminal))


def test_processes(played: Played) -> None:
    """Command lines, which everybody on a machine can read; and environments, which may hold a pod's own address at its guest only."""
    commands, environments = list(played.watcher.commands.items()), list(played.watcher.environments.items())
    assert any(b"starters.worker" in data for _, data in commands)
    assert any(b"sparkapp" in data for _, data in commands), "no pod was seen"
    clean(played.scanner.look(commands))
    own = Scanner([item for item in played.scanner.needles if not item[0].startswith("guest capability")])
    # Azurite is told its own account's key by its environment and in no other way; it is the storage itself, and nobody else's process.
    ours = [(where, data) for where, data in environments if b"azurite" not in played.watcher.commands[where]]
    assert any(b"sparkapp" in played.watcher.commands[where] for where, _ in ours)
    clean(own.look(ours, guests=False))


def test_files(played: Played) -> None:
    """Logs, databases, pods' folders: plain secrets are nowhere but in files that one owner alone can read."""
    state = played.cloud.state
    logs = [*files(state / "logs"), ("supervisor.log", (state / "supervisor.log").read_bytes())]
    assert any(b"attest/combined" in data for _, data in logs)
    clean(played.scanner.look(logs))
    kept = list(files(state, skip=OWN))
    assert any(where.endswith("cgs.sqlite") for where, _ in kept)
    assert any(where.endswith("temporal.db") for where, _ in kept)
    open_to_others = []
    for finding in played.scanner.look(kept):
        file = Path(finding.where)
        own_key = file.suffix in (".pem", ".key", ".yaml", ".json") and stat.S_IMODE(file.stat().st_mode) == 0o600
        if not own_key:
            open_to_others.append(finding)
    clean(open_to_others)
    for folder in OWN:
        for where, _ in files(state / folder) if (state / folder).is_dir() else [(str(state / folder), b"")]:
            if played.scanner.look([(where, Path(where).read_bytes() if Path(where).is_file() else b"")]):
                assert stat.S_IMODE(Path(where).stat().st_mode) == 0o600, where


# ---------------------------------------------------------------------- the searcher itself


@pytest.mark.parametrize("writing", ["raw", "hex", "HEX", "base64+0", "base64+1", "base64+2", "base64url+1", "quoted", "utf-16"])
def test_searcher_finds_every_writing(tmp_path: Path, writing: str) -> None:
    secret = os.urandom(32)
    scanner = Scanner()
    scanner.know("planted", secret)
    text = {
        **writings(secret),
        **{f"base64+{offset}": base64.b64encode(b"abc"[:offset] + secret + b"tail") for offset in range(3)},
        "base64url+1": base64.urlsafe_b64encode(b"a" + secret + b"tail"),
    }[writing]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/service.log").write_bytes(b"2026-01-01 INFO something\n" + text + b"\nmore\n")
    assert [(item.what, Path(item.where).name) for item in scanner.look(files(tmp_path))] == [("planted", "service.log")] * len(
        scanner.look(files(tmp_path))
    )
    assert scanner.look(files(tmp_path)) != []
    (tmp_path / "deep/service.log").write_bytes(os.urandom(100_000))
    assert scanner.look(files(tmp_path)) == []


def test_searcher_reads_each_place_by_itself() -> None:
    secret, scanner = os.urandom(16), Scanner()
    scanner.know("planted", secret)
    whole = [("start", secret + b"x"), ("end", b"x" + secret), ("alone", secret)]
    assert scanner.look([("empty", b""), *whole, ("empty", b""), ("half", secret[:9]), ("rest", secret[9:])]) == sorted(
        (Finding("planted", "raw", where) for where, _ in whole), key=lambda item: item.where
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'x "Authorization": "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJ4eXoiLCJzdWIiOiJhIn0.c2lnbmF0dXJlc2ln"', "token"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIE", "private key"),
        (b"INFO httpx: HTTP Request: POST https://localhost:1/guests/AbCdEfGhIjKlMnOpQrStUv/attest/combined", "guest capability"),
    ],
)
def test_searcher_finds_forms(text: bytes, what: str) -> None:
    assert [item.what for item in Scanner().look([("log", b"line\n" + text + b"\nline")])] == [what]
