"""Forged evidence is refused by the clean room's activities, by governance and by Key Vault.

``Prepare`` runs without its parent here, so that its grants exist while almost right guests request the secrets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.clean_room_context import CleanRoomContext
from activities.clean_room_secrets import CleanRoomSecrets
from cleanroom.attestation import GuestAttestor
from cleanroom.errors import CleanRoomError, Refused
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, federated_subject, prepare_workflow_id
from cleanroom.messages.run import (
    ConfigureIdpRequest,
    GrantRequest,
    PolicyStatement,
    Prepared,
    RevokeRequest,
    RunQueryInput,
    RunTicket,
    ServiceProof,
    StageRequest,
)
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.held import SUBJECTS
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import PolicySigner
from cleanroom.temporal.attributes import start_attributes
from localcloud.standins.snp.server import DevelopmentHardware
from starters.operations.session import run_async
from tests.local_cloud import Cloud, Guest, World, ticket_of
from tests.shared_keys import shared_hardware
from workflows.prepare import Prepare

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ticket(cloud: Cloud, world: World) -> RunTicket:
    """A run of a query that both owners approved."""
    state = cloud.approved_query(world.query())
    return ticket_of(cloud, state.query, state.digest)[0]


@pytest.fixture(scope="module")
def prepared(cloud: Cloud, ticket: RunTicket) -> Any:
    """A prepared run that is not submitted. Its grants are revoked at the end."""

    async def prepare() -> Prepared:
        client = await cloud.fabrikam.temporal()
        return await client.execute_workflow(
            Prepare.run,
            RunQueryInput(ticket=ticket, caller="fabrikam"),
            id=prepare_workflow_id(ticket.collaboration, ticket.run_id),
            task_queue=CLEAN_ROOM_QUEUE,
            search_attributes=start_attributes(collaboration=ticket.collaboration, kind="run", query=ticket.query, proposer="fabrikam"),
        )

    found = run_async(prepare())
    yield found

    async def revoke(room: CleanRoomContext) -> None:
        await CleanRoomSecrets(room).revoke_grants(RevokeRequest(ticket=ticket))

    in_room(cloud, revoke)
    assert cloud.leftovers.grants() == {}
    assert cloud.leftovers.secrets(ticket.run_id) == []


def in_room(cloud: Cloud, work: Callable[[CleanRoomContext], Awaitable[Any]]) -> Any:
    """Call ``work`` with a context like that of the clean room's worker."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[CleanRoomContext]:
        room, resources = cloud.clean_room_context()
        try:
            yield room
        finally:
            for resource in resources:
                await resource.aclose()

    async def run() -> Any:
        async with opened() as room:
            return await ActivityEnvironment().run(work, room)

    return run_async(run())


def refusal(cloud: Cloud, work: Callable[[CleanRoomContext], Awaitable[Any]]) -> CleanRoomError:
    with pytest.raises(CleanRoomError) as caught:
        in_room(cloud, work)
    return caught.value


# ---------------------------------------------------------------------- pods


def test_only_pods_with_this_runs_policy_get_its_secrets(cloud: Cloud, prepared: Prepared) -> None:
    """The measured pods read every staged secret (control); a pod with a changed policy reads none."""
    profile = cloud.pod_profile()
    right = pod_policies(prepared.job, profile)
    changed = pod_policies(prepared.job, profile.model_copy(update={"arguments": ("--print-everything",)}))
    subject = federated_subject(cloud.collaboration, cloud.contosso.user_id)
    tenant = cloud.contosso.settings.credential.tenant_id
    assert tenant

    async def look(host_data: str) -> list[str]:
        outcomes = []
        async with cloud.guest(host_data) as pod:
            for read in (*(pod.get_secret(item.secret_id) for item in prepared.secrets), pod.token(subject, tenant)):
                try:
                    await read
                    outcomes.append("read")
                except Refused as error:
                    outcomes.append(error.code)
        return outcomes

    assert set(run_async(look(right.driver.host_data))) == {"read"}
    assert set(run_async(look(right.executor.host_data))) == {"read"}
    assert set(run_async(look(changed.driver.host_data))) == {"VerifySnpAttestationFailed"}
    assert len(prepared.secrets) == 5  # three keys, two connections


def test_pods_of_another_run_get_no_secret(cloud: Cloud, prepared: Prepared, ticket: RunTicket, world: World) -> None:
    """Pods of another run have another policy, because the run ID is measured."""
    other = prepared.job.model_copy(update={"run_id": "r-another"})
    host_data = pod_policies(other, cloud.pod_profile()).driver.host_data

    async def look() -> None:
        async with cloud.guest(host_data) as pod:
            await pod.get_secret(prepared.secrets[0].secret_id)

    with pytest.raises(Refused) as caught:
        run_async(look())
    assert caught.value.code == "VerifySnpAttestationFailed"


# ---------------------------------------------------------------------- the Spark service


def stage(prepared: Prepared, ticket: RunTicket, proof: ServiceProof) -> StageRequest:
    azure = next(item for item in prepared.job.datasets if item.access.kind == "azure-blob")
    return StageRequest(ticket=ticket, proof=proof, dataset=azure.name)


def forged_service(
    prepared: Prepared,
    ticket: RunTicket,
    hardware: DevelopmentHardware,
    host_data: str,
    profile: PodProfile,
    nonce: str | None = None,
    pods: PodProfile | None = None,
) -> ServiceProof:
    """Return the proof of the attacker's service; ``pods`` is the profile of the pods that it allows."""
    signer, nonce = PolicySigner(), nonce or service_nonce(ticket)
    payload = signer.payload(nonce)
    evidence = run_async(Guest(hardware, host_data).attest(payload.encode()))
    policies = pod_policies(prepared.job, pods or profile)
    statement = PolicyStatement(
        statement=signer.sign(prepared.job, profile, policies, nonce).statement,
        driver_host_data=policies.driver.host_data,
        executor_host_data=policies.executor.host_data,
    )
    return ServiceProof(report=ServiceReport(evidence=evidence, payload=payload), policies=statement)


@pytest.mark.parametrize("step", ["get_key_with_skr", "set_secret", "configure_idp"])
def test_report_of_a_service_with_other_code_is_refused(cloud: Cloud, prepared: Prepared, ticket: RunTicket, step: str) -> None:
    profile = cloud.pod_profile()
    proof = forged_service(prepared, ticket, cloud.hardware, "ab" * 32, profile)
    assert refusal(cloud, lambda room: release(room, step, prepared, ticket, proof)).code == "HostDataMismatch"


@pytest.mark.parametrize("step", ["get_key_with_skr", "set_secret", "configure_idp"])
def test_report_under_an_unknown_root_is_refused(cloud: Cloud, prepared: Prepared, ticket: RunTicket, step: str) -> None:
    """Everything is right except the hardware root."""
    proof = forged_service(prepared, ticket, shared_hardware(), cloud.trust().document.spark_service_host_data[0], cloud.pod_profile())
    assert refusal(cloud, lambda room: release(room, step, prepared, ticket, proof)).code == "RootNotTrusted"


def test_replayed_report_of_another_run_is_refused(cloud: Cloud, prepared: Prepared, ticket: RunTicket) -> None:
    proof = forged_service(
        prepared, ticket, cloud.hardware, cloud.trust().document.spark_service_host_data[0], cloud.pod_profile(), nonce="0" * 64
    )
    assert refusal(cloud, lambda room: release(room, "get_key_with_skr", prepared, ticket, proof)).code == "NonceMismatch"


def test_statement_on_other_pod_policies_is_refused(cloud: Cloud, prepared: Prepared, ticket: RunTicket) -> None:
    """An accepted service signs policies with one more argument than the job has."""
    profile = cloud.pod_profile()
    pods = profile.model_copy(update={"arguments": ("--print-everything",)})
    proof = forged_service(prepared, ticket, cloud.hardware, cloud.trust().document.spark_service_host_data[0], profile, pods=pods)
    assert refusal(cloud, lambda room: release(room, "set_secret", prepared, ticket, proof)).code == "PodPolicyMismatch"


def test_statement_by_another_key_is_refused(cloud: Cloud, prepared: Prepared, ticket: RunTicket) -> None:
    other = forged_service(
        prepared, ticket, cloud.hardware, cloud.trust().document.spark_service_host_data[0], cloud.pod_profile()
    ).policies
    proof = prepared.proof.model_copy(update={"policies": other})
    assert refusal(cloud, lambda room: release(room, "set_secret", prepared, ticket, proof)).code == "PolicySignatureInvalid"


def test_grant_of_a_foreign_secret_is_refused(cloud: Cloud, prepared: Prepared, ticket: RunTicket) -> None:
    """A forged ID must not grant an owner's secret to the pods."""
    foreign = prepared.secrets[0].model_copy(update={"secret_id": f"{cloud.litware.user_id}_planes.key"})
    request = GrantRequest(ticket=ticket, proof=prepared.proof, secrets=(foreign,))
    assert refusal(cloud, lambda room: CleanRoomSecrets(room).set_secret(request)).code == "SecretNotInJob"


async def release(room: CleanRoomContext, step: str, prepared: Prepared, ticket: RunTicket, proof: ServiceProof) -> Any:
    secrets = CleanRoomSecrets(room)
    if step == "get_key_with_skr":
        return await _skr(secrets, stage(prepared, ticket, proof))
    if step == "set_secret":
        return await secrets.set_secret(GrantRequest(ticket=ticket, proof=proof, secrets=prepared.secrets[:1]))
    return await secrets.configure_idp(ConfigureIdpRequest(ticket=ticket, proof=proof))


# ---------------------------------------------------------------------- Key Vault


def test_key_vault_refuses_a_guest_with_other_host_data(cloud: Cloud, prepared: Prepared, ticket: RunTicket) -> None:
    """Azure Attestation accepts another guest on the same hardware; the key's release policy does not."""
    other = cloud.settings("spark-service").attestation

    async def ask(room: CleanRoomContext) -> Any:
        room.attestor = GuestAttestor(other.url, ca_file=room.settings.ca_file)
        return await _skr(CleanRoomSecrets(room), stage(prepared, ticket, prepared.proof))

    error = refusal(cloud, ask)
    assert error.code == "ReleasePolicyNotMet"
    assert "hostdata" in str(error.details).lower()
    assert other.url not in str(error.to_dict())


def test_key_vault_releases_the_key_to_the_clean_room(cloud: Cloud, prepared: Prepared, ticket: RunTicket) -> None:
    """Control: the clean room itself gets the key."""
    staged = in_room(cloud, lambda room: _skr(CleanRoomSecrets(room), stage(prepared, ticket, prepared.proof)))
    assert set(staged.secrets) <= set(prepared.secrets)
    assert len(staged.secrets) == 1


def test_preparation_grants_every_secret_and_subject(prepared: Prepared) -> None:
    kinds = {grant.delegate_type for grant in prepared.grants}
    assert kinds == {"secrets", SUBJECTS, "events"}
    assert {grant.delegate_id for grant in prepared.grants if grant.delegate_type == "secrets"} == {
        item.secret_id for item in prepared.secrets
    }


async def _skr(secrets: CleanRoomSecrets, request: StageRequest) -> Any:
    """Run the activity in an activity environment, because it sends heartbeats."""
    return await ActivityEnvironment().run(secrets.get_key_with_skr, request)
