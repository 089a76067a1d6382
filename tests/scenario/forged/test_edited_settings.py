"""The operator edits the settings and the environment of the clean room, and starts it again: it does not start, or decides the same."""

from __future__ import annotations

import os
import socket
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from temporalio.testing import ActivityEnvironment

from cleanroom.errors import CleanRoomError
from cleanroom.messages.run import StagedSecrets, StageRequest, VerifyPolicyRequest
from cleanroom.settings import Settings, load_settings
from cleanroom.trust.bootstrap import bootstrap_digest, read_bootstrap
from starters.operations.session import run_async
from tests.local_cloud import Cloud
from tests.scenario.forged.attacker import Attacker, releasable_state
from workers.boundaries import boundary_worker

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

DECIDED_TRUST: dict[str, dict[str, Any]] = {
    "image layers": {"kubernetes": {"image_layers": ["00"]}},
    "image": {"kubernetes": {"image": "localhost/evil@sha256:" + "0" * 64}},
    "accepted services": {"spark": {"service_host_data": ["ab" * 32]}},
    "trust files": {"attestation": {"trust_files": ["evil.json"]}},
    "endorsements": {"attestation": {"require_uvm": False}},
    "allow-all policies": {"attestation": {"refuse_allow_all": False}},
    "report version": {"attestation": {"report_version_floor": 2}},
}
"""Settings that no longer exist, because a trust document decides."""
REMOTE_SIDECAR = {"attestation": {"url": "https://sidecar.example"}}


def edited(cloud: Cloud, changes: dict[str, Any], name: str = "edited.toml") -> Path:
    """Write the clean room's settings file again, with changes."""
    tables = tomllib.loads((cloud.state / "cleanroom.toml").read_text())
    profile = tables["profile"]["clean-room"]
    for table, members in changes.items():
        profile[table] = {**profile.get(table, {}), **members} if isinstance(members, dict) else members
    file = cloud.state / name
    file.write_text(tomli_w.dumps(tables))
    file.chmod(0o600)
    return file


def code(work: Callable[[], Any]) -> str:
    with pytest.raises(CleanRoomError) as caught:
        work()
    return caught.value.code


@pytest.mark.parametrize("place", ["file", "environment"])
@pytest.mark.parametrize("name", DECIDED_TRUST)
def test_a_worker_with_a_setting_that_decided_trust_does_not_start(
    cloud: Cloud, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = DECIDED_TRUST[name]
    ((table, members),) = changes.items()
    if place == "environment":
        ((member, value),) = members.items()
        monkeypatch.setenv(f"CLEANROOM_{table}__{member}".upper(), str(value).replace("'", '"'))
    file = edited(cloud, {} if place == "environment" else changes)
    assert code(lambda: load_settings("clean-room", path=file)) == "ConfigInvalid"


def test_a_worker_with_another_sidecar_or_bootstrap_file_does_not_start(cloud: Cloud) -> None:
    remote = load_settings("clean-room", path=edited(cloud, REMOTE_SIDECAR))
    assert code(lambda: boundary_worker(remote, cloud.bootstrap)) == "AttestationUrlNotLocal"
    assert code(lambda: boundary_worker(cloud.settings("clean-room"))) == "BootstrapMissing"
    genuine = (cloud.state / "bootstrap.json").read_bytes()
    other = cloud.state / "edited-bootstrap.json"
    other.write_bytes(genuine.replace(b"localhost", b"attacker", 1))
    assert code(lambda: read_bootstrap(other, bootstrap_digest(genuine))) == "BootstrapMismatch"


def test_the_worker_process_does_not_start_with_edited_files_or_variables(cloud: Cloud) -> None:
    other = cloud.state / "edited-bootstrap.json"
    other.write_bytes((cloud.state / "bootstrap.json").read_bytes().replace(b"localhost", b"attacker", 1))
    layers = edited(cloud, DECIDED_TRUST["image layers"], "edited-layers.toml")
    attempts = {
        "ConfigInvalid": ({"--config": layers}, {}),
        "BootstrapMismatch": ({"--bootstrap": other}, {}),
        "AttestationUrlNotLocal": ({}, {"CLEANROOM_ATTESTATION__URL": "https://sidecar.example"}),
    }
    started = {}
    for wanted, (options, variables) in attempts.items():
        command, ready = list(cloud.workers.command("clean-room")), cloud.state / f"{wanted}.ready"
        for option, value in {"--ready-file": ready, **options}.items():
            command[command.index(option) + 1] = str(value)
        started[wanted] = subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True), ready
    for wanted, (process, ready) in started.items():
        _, shown = process.communicate(timeout=60)
        assert process.returncode not in (0, None), wanted
        assert wanted in shown
        assert not ready.exists()


def test_a_worker_with_other_addresses_and_roots_decides_the_same(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, run = attacker.cloud, attacker.run
    with socket.create_server(("localhost", 0)) as server:
        server.setblocking(False)
        url = f"https://localhost:{server.getsockname()[1]}"
        evil = cloud.state / "evil.pem"
        evil.write_text("-----BEGIN CERTIFICATE-----\nevil\n-----END CERTIFICATE-----\n")
        changes = {
            "collaboration": "other",
            "storage_hosts": [url.removeprefix("https://")],
            "governance": {"url": url, "mode": "cgs-client", "service_cert_file": str(evil), "ccf_endpoint": url},
            "azure": {"maa_url": url, "verify_challenge_resource": False, "key_vault_release_ca_file": str(evil)},
        }
        before, forged = releasable_state(attacker), attacker.own_service(run.ticket)
        with monkeypatch.context() as environment:
            for variable, value in {"SSL_CERT_FILE": evil, "REQUESTS_CA_BUNDLE": evil, "CLEANROOM_GOVERNANCE__URL": url}.items():
                environment.setenv(variable, str(value))
            settings = load_settings("clean-room", path=edited(cloud, changes))
            digest, policies, staged, refused = run_async(_act(settings, attacker, forged))
        assert digest == run.result.job_digest
        assert policies is None, "the genuine policies are verified"
        assert staged == run.secret("key").secret_id
        assert refused == "HostDataMismatch"
        assert releasable_state(attacker) == before
        with pytest.raises(BlockingIOError):
            server.accept()


async def _act(settings: Settings, attacker: Attacker, forged: Any) -> tuple[str, Any, str, str]:
    """Let a worker with these settings build the job, verify policies, stage a key, and stage one for the attacker's service."""
    worker, run = boundary_worker(settings, attacker.cloud.bootstrap), attacker.run
    activities = {activity.__name__: activity for activity in worker.activities}
    call = ActivityEnvironment().run
    async with AsyncExitStack() as stack:
        for resource in worker.resources:
            await stack.enter_async_context(resource)
        job = await call(activities["build_job"], run.ticket)
        policies = await call(activities["verify_security_policy"], VerifyPolicyRequest(ticket=run.ticket, proof=run.proof))
        own = run.secret("key").dataset
        stage = "get_key_with_skr" if own == attacker.world.flights.name else "get_secret"
        requests = [StageRequest(ticket=run.ticket, proof=proof, dataset=own) for proof in (run.proof, forged)]
        staged = await call(activities[stage], requests[0])
        try:
            await call(activities[stage], requests[1])
        except CleanRoomError as error:
            return job.digest(), policies, _key(staged), error.code
    return job.digest(), policies, _key(staged), ""


def _key(staged: StagedSecrets) -> str:
    """Return the ID of the staged key."""
    (secret,) = [item for item in staged.secrets if item.kind == "key"]
    return secret.secret_id
