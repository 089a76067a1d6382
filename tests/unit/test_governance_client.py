"""The governance clients against the stand-in: users in both modes, members, and clean rooms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from cleanroom.attestation import GuestAttestor, host_data_for
from cleanroom.errors import Conflict, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.governance import (
    Approver,
    CleanRoomClient,
    Consent,
    Deployment,
    Document,
    GovernanceMemberClient,
    GovernanceUserClient,
    Invitation,
    host_data_claims,
)
from cleanroom.governance.http import HttpChannel
from cleanroom.governance.models import read
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.secret import Secret
from localcloud.standins.cgs.bootstrap import User, bootstrap
from localcloud.standins.cgs.callers import MEMBER_HEADER
from localcloud.standins.serving import serving
from localcloud.standins.snp import server as snp
from tests.conformance.governance.standin import MEMBER_TOKEN, TENANT, USERS, StandIn
from tests.conformance.governance.target import Person, Target, fresh

ANN, BOB, EVE = USERS
POLICY = "cGFja2FnZSBjbGVhbnJvb20="
POD_POLICY = "cGFja2FnZSBwb2Q="


@dataclass
class Cloud:
    """The servers of this file, and their clients."""

    url: str
    ca: Path
    contract: str
    token: Callable[[str], str]
    attestors: dict[str, GuestAttestor]

    def user(self, oid: str, mode: Literal["app", "cgs-client"] = "app") -> GovernanceUserClient:
        base = self.url if mode == "app" else f"{self.url}/cgs-client"
        return GovernanceUserClient(base, token=lambda: self.token(oid), mode=mode, ca_file=self.ca)

    def member(self) -> GovernanceMemberClient:
        return GovernanceMemberClient(f"{self.url}/cgs-client", ca_file=self.ca, headers={MEMBER_HEADER: MEMBER_TOKEN})

    def room(self, kind: str) -> CleanRoomClient:
        return CleanRoomClient(self.url, self.contract, self.attestors[kind], ca_file=self.ca)


@pytest.fixture(scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cloud]:
    folder = tmp_path_factory.mktemp("governance")
    standin = StandIn(folder, snp.DevelopmentHardware(folder / "snp"))
    tls, ca = standin.tls, standin.authority.ca_file
    with ExitStack() as stack:
        hardware = snp.SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=folder / "snp", admin_token=SecretStr("admin-token"))
        snp_url = stack.enter_context(serving(snp.create_app(hardware), "snp", tls))
        settings = stack.enter_context(standin.serve(state=folder / "cgs"))
        target = Target(settings)
        attestors = {}
        for kind, policy in (("good", POLICY), ("pod", POD_POLICY)):
            launch = target.http.post(
                f"{snp_url}/guests", json={"name": kind, "security_policy_base64": policy}, headers={"authorization": "Bearer admin-token"}
            )
            attestors[kind] = GuestAttestor(launch.json()["url"], ca_file=ca)
        users = [User(oid=oid, tenant_id=TENANT) for oid in USERS]
        contract = fresh("contract")
        for _ in range(2):
            await bootstrap(
                settings.url, ca, MEMBER_TOKEN, contract, users, [host_data_for(POLICY).hex()], deployment_info={"url": "https://x.example"}
            )
        yield Cloud(settings.url, ca, contract, lambda oid: target.token(Person(oid, TENANT)), attestors)
        target.close()


@pytest.fixture(params=["app", "cgs-client"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


APPROVERS = [Approver(approver_id=ANN), Approver(approver_id=BOB)]


async def accepted(cloud: Cloud, approvers: list[Approver]) -> str:
    document_id = fresh("doc")
    async with cloud.user(ANN) as ann:
        version = await ann.put_document(document_id, cloud.contract, "data", approvers=approvers)
        assert version is not None
        proposal_id = await ann.propose_document(document_id, version=version)
    for approver in approvers:
        async with cloud.user(approver.approver_id) as client:
            await client.submit_ballot(proposal_id, accept=True)
    return document_id


async def test_document_life_cycle_in_both_modes(cloud: Cloud, mode: Literal["app", "cgs-client"]) -> None:
    document_id = fresh("doc")
    async with cloud.user(ANN, mode) as ann, cloud.user(BOB, mode) as bob:
        version = await ann.put_document(document_id, cloud.contract, '{"a":1}', labels={"kind": document_id}, approvers=APPROVERS)
        draft = await ann.get_document(document_id)
        assert (draft.state, draft.version, draft.approvers) == ("Draft", version, tuple(APPROVERS))
        assert [row.id for row in await bob.list_documents({"kind": document_id})] == [document_id]
        with pytest.raises(Conflict) as conflict:
            await ann.propose_document(document_id, version="1.0")
        assert conflict.value.code == "UserDocumentModified"
        assert version is not None
        proposal_id = await ann.propose_document(document_id, version=version)
        assert (await bob.get_document(document_id)).state == "Proposed"
        assert (await bob.get_proposal(proposal_id)).approvers == tuple(APPROVERS)
        await ann.submit_ballot(proposal_id, accept=True)
        assert (await bob.proposal_status(proposal_id)).state == "Open"
        assert (await bob.submit_ballot(proposal_id, accept=True)).state == "Accepted"
        done = await ann.get_document(document_id)
        assert (done.state, done.data, done.proposal_id) == ("Accepted", '{"a":1}', proposal_id)
        assert done.final_votes is not None
        assert {vote.approver_id for vote in done.final_votes} == {ANN, BOB}
        with pytest.raises(Conflict) as terminal:
            await ann.put_document(document_id, cloud.contract, "x", version=version)
        assert terminal.value.code == "UserDocumentAlreadyAccepted"
        await ann.set_document_consent(cloud.contract, document_id, enabled=False)
        consent = await bob.document_consent(cloud.contract, document_id)
        assert not consent.enabled
        assert consent.reason is not None
        assert consent.reason.code == "UserDocumentRuntimeOptionDisabled"
        await ann.set_document_consent(cloud.contract, document_id, enabled=True)
        assert (await bob.document_consent(cloud.contract, document_id)).enabled


async def test_rejected_and_withdrawn_documents_return_to_draft(cloud: Cloud, mode: Literal["app", "cgs-client"]) -> None:
    document_id = fresh("doc")
    async with cloud.user(ANN, mode) as ann, cloud.user(BOB, mode) as bob:
        version = await ann.put_document(document_id, cloud.contract, "x", approvers=APPROVERS)
        assert version is not None
        first = await ann.propose_document(document_id, version=version)
        assert (await bob.submit_ballot(first, accept=False)).state == "Rejected"
        second = await ann.propose_document(document_id, version=version)
        with pytest.raises(Refused) as refused:
            await bob.withdraw_proposal(second)
        assert refused.value.code == "NotProposalOwner"
        assert (await ann.withdraw_proposal(second)).state == "Withdrawn"
        assert (await ann.get_document(document_id)).version == version


async def test_proposing_and_voting_are_idempotent(cloud: Cloud) -> None:
    document_id, proposal_id = fresh("doc"), fresh("proposal")
    async with cloud.user(ANN) as ann, cloud.user(BOB) as bob:
        version = await ann.put_document(document_id, cloud.contract, "x", approvers=APPROVERS)
        assert version is not None
        for _ in range(2):
            assert await ann.propose_document(document_id, version=version, proposal_id=proposal_id) == proposal_id
        for client, oid in ((ann, ANN), (bob, BOB)):
            for _ in range(2):
                await client.submit_ballot(proposal_id, accept=True, voter_id=oid)
        # The same ballot of the same voter counts as done. A different one is a conflict.
        with pytest.raises(Conflict):
            await bob.submit_ballot(proposal_id, accept=False, voter_id=BOB)
        with pytest.raises(Conflict):
            await bob.submit_ballot(proposal_id, accept=True)
        assert await ann.propose_document(document_id, version=version, proposal_id=proposal_id) == proposal_id


async def test_proposing_through_the_proxy_is_idempotent(cloud: Cloud) -> None:
    """The proxy chooses the proposal ID, so a repeated call finds the proposal by the document version."""
    document_id, wanted = fresh("doc"), fresh("proposal")
    async with cloud.user(ANN, "cgs-client") as ann:
        version = await ann.put_document(document_id, cloud.contract, "x", approvers=[Approver(approver_id=ANN)])
        assert version is not None
        proposal_id = await ann.propose_document(document_id, version=version, proposal_id=wanted)
        assert await ann.propose_document(document_id, version=version, proposal_id=wanted) == proposal_id
        with pytest.raises(Conflict) as open_already:
            await ann.propose_document(document_id, version=version)
        assert open_already.value.code == "UserDocumentAlreadyProposed"
        with pytest.raises(Conflict):
            await ann.propose_document(document_id, version="1.0", proposal_id=wanted)
        await ann.submit_ballot(proposal_id, accept=True)
        assert await ann.propose_document(document_id, version=version, proposal_id=wanted) == proposal_id


async def test_a_proposal_id_with_other_content_is_a_conflict(cloud: Cloud) -> None:
    proposal_id = fresh("proposal")
    async with cloud.user(ANN) as ann:
        for number in range(2):
            document_id = fresh("doc")
            version = await ann.put_document(document_id, cloud.contract, f"{number}", approvers=APPROVERS)
            assert version is not None
            if number == 0:
                await ann.propose_document(document_id, version=version, proposal_id=proposal_id)
            else:
                with pytest.raises(Conflict) as conflict:
                    await ann.propose_document(document_id, version=version, proposal_id=proposal_id)
                assert conflict.value.code == "ProposalAlreadyExists"


async def test_proposing_a_document_without_approvers_fails(cloud: Cloud) -> None:
    document_id = fresh("doc")
    async with cloud.user(ANN) as ann:
        version = await ann.put_document(document_id, cloud.contract, "x")
        assert version is not None
        with pytest.raises(PreconditionFailed) as missing:
            await ann.propose_document(document_id, version=version)
        assert missing.value.code == "ApproversMissing"


async def test_errors_keep_the_services_code_and_get_a_category(cloud: Cloud, mode: Literal["app", "cgs-client"]) -> None:
    async with cloud.user(ANN, mode) as ann, cloud.user("unknown", mode) as unknown:
        with pytest.raises(NotFound) as missing:
            await ann.get_document(fresh("none"))
        assert (missing.value.code, missing.value.details["status"]) == ("UserDocumentNotFound", 404)
        assert missing.value.cause
        with pytest.raises(Refused) as refused:
            await unknown.list_documents()
        assert (refused.value.code, refused.value.hint is not None) == ("CallerNotAuthorized", True)
        with pytest.raises(NotFound) as contract:
            await ann.put_document(fresh("doc"), "no-such-contract", "x")
        assert contract.value.code == "ContractNotFound"
        document_id = fresh("doc")
        await ann.put_document(document_id, cloud.contract, "x")
        with pytest.raises(Conflict) as stale:
            await ann.put_document(document_id, cloud.contract, "x", version="1.0")
        assert stale.value.code == "PreconditionFailed"
        with pytest.raises(InvalidInput) as empty:
            await ann.put_document(fresh("doc"), cloud.contract, "")
        assert empty.value.code == "DataMissing"


async def test_reads_of_secrets_policies_identities_and_contracts(cloud: Cloud, mode: Literal["app", "cgs-client"]) -> None:
    async with cloud.user(ANN, mode) as ann:
        secret_id = await ann.put_secret(cloud.contract, "s3", Secret(b"connection"))
        assert secret_id == f"{ANN}_s3"
        assert secret_id in await ann.list_secrets(cloud.contract)
        policy = await ann.clean_room_policy(cloud.contract)
        assert policy.policy["x-ms-sevsnpvm-hostdata"] == [host_data_for(POLICY).hex()]
        assert await ann.delegate_policy(cloud.contract, "secrets", fresh("none")) == {}
        info = await ann.oidc_issuer_info()
        assert (info.enabled, info.issuer_url) == (True, f"{cloud.url}/oidc")
        assert {row.id for row in await ann.list_identities()} >= set(USERS)
        assert {row.data.tenant_id for row in await ann.list_identities() if row.id in USERS} == {TENANT}
        assert (await ann.get_contract(cloud.contract)).state == "Accepted"
        assert (await ann.deployment_info(cloud.contract)).data == {"url": "https://x.example"}
        assert [row.status for row in await ann.members()] == ["Active"]
        assert (await ann.contract_consent(cloud.contract)).enabled


async def test_an_open_invitation_cannot_be_registered(cloud: Cloud) -> None:
    name = f"{fresh('new')}@example.org"
    async with cloud.member() as member:
        invitation_id, proposal = await member.propose_invitation(name)
        await member.vote(proposal.proposal_id, accept=True)
        assert (await member.get_invitation(invitation_id)).status == "Open"
        with pytest.raises(PreconditionFailed) as early:
            await member.propose_identity(accepted_invitation_id=invitation_id)
        assert early.value.code == "InvitationNotAccepted"
        with pytest.raises(NotFound):
            await member.get_invitation(fresh("none"))


async def test_bootstrap_removes_stale_host_data(cloud: Cloud) -> None:
    contract, old, new = fresh("contract"), "aa" * 32, "bb" * 32
    await bootstrap(cloud.url, cloud.ca, MEMBER_TOKEN, contract, [], [old])
    await bootstrap(cloud.url, cloud.ca, MEMBER_TOKEN, contract, [], [new])
    async with cloud.user(ANN) as ann:
        assert (await ann.clean_room_policy(contract)).policy == {"x-ms-sevsnpvm-is-debuggable": [False], "x-ms-sevsnpvm-hostdata": [new]}


async def test_a_grant_lets_a_pod_read_a_secret_until_it_is_revoked(cloud: Cloud) -> None:
    name, pod_host = fresh("dek"), host_data_for(POD_POLICY).hex()
    async with cloud.room("good") as room, cloud.room("pod") as pod, cloud.user(ANN) as ann:
        secret_id = await room.put_secret(name, Secret("schlüssel \U0001f512".encode()))
        assert secret_id == f"cleanroom_{name}"
        assert (await room.get_secret(secret_id)).reveal_text() == "schlüssel \U0001f512"
        with pytest.raises(Refused) as refused:
            await pod.get_secret(secret_id)
        assert refused.value.code == "VerifySnpAttestationFailed"
        for _ in range(2):
            await room.set_delegate("secrets", secret_id, "add", host_data_claims([pod_host]))
        assert await ann.delegate_policy(cloud.contract, "secrets", secret_id) == {
            "x-ms-sevsnpvm-is-debuggable": [False],
            "x-ms-sevsnpvm-hostdata": [pod_host],
        }
        assert (await pod.get_secret(secret_id)).reveal_text() == "schlüssel \U0001f512"
        await room.set_delegate("secrets", secret_id, "remove", host_data_claims([pod_host]))
        assert await ann.delegate_policy(cloud.contract, "secrets", secret_id) == {}
        with pytest.raises(Internal) as absent:
            await room.set_delegate("secrets", secret_id, "remove", host_data_claims([pod_host]))
        assert absent.value.code == "InternalError"
        with pytest.raises(Refused):
            await pod.get_secret(secret_id)
        with pytest.raises(NotFound) as missing:
            await room.get_secret("cleanroom_none")
        assert missing.value.code == "SecretNotFound"
        assert secret_id in {row.delegate_id for row in await ann.list_delegates(cloud.contract)}


async def test_clean_room_reads_documents_and_consent_and_gets_tokens_and_writes_events(cloud: Cloud) -> None:
    document_id = await accepted(cloud, [Approver(approver_id=ANN)])
    event_id, subject, pod_host = fresh("run"), fresh("sub"), host_data_for(POD_POLICY).hex()
    async with cloud.room("good") as room, cloud.room("pod") as pod, cloud.user(ANN) as ann:
        assert await room.accepted_document(document_id) == await ann.get_document(document_id)
        assert (await room.document_consent(document_id)).enabled
        assert (await room.contract_consent()).enabled
        await ann.set_document_consent(cloud.contract, document_id, enabled=False)
        assert not (await room.document_consent(document_id)).enabled
        missing = await room.document_consent(fresh("none"))
        assert missing.reason is not None
        assert missing.reason.code == "UserDocumentNotAccepted"
        with pytest.raises(NotFound):
            await room.accepted_document(fresh("none"))

        token = (await room.token(subject, TENANT, audience="api://AzureADTokenExchange")).reveal_text()
        assert token.count(".") == 2
        with pytest.raises(Refused):
            await pod.token(subject, TENANT)
        await room.set_delegate("oauth-federation-subjects", subject, "add", host_data_claims([pod_host]))
        await pod.token(subject, TENANT)

        for step in range(3):
            await room.put_event({"step": step}, event_id=event_id, scope="runs")
        latest = await ann.latest_event(cloud.contract, event_id=event_id, scope="runs")
        assert latest is not None
        assert latest.data == {"step": 2}
        events = [event async for event in ann.events(cloud.contract, event_id=event_id, scope="runs", page=1)]
        assert [event.data["step"] for event in events] == [0, 1, 2]
        assert all(event.timestamp_iso for event in events)
        assert await ann.latest_event(cloud.contract, event_id=fresh("none")) is None


async def test_events_through_the_proxy_follow_pages(cloud: Cloud) -> None:
    event_id = fresh("run")
    async with cloud.room("good") as room, cloud.user(ANN, "cgs-client") as ann:
        for step in range(3):
            await room.put_event(step, event_id=event_id)
        assert [event.data async for event in ann.events(cloud.contract, event_id=event_id, page=2)] == [0, 1, 2]


async def test_empty_and_oversized_secrets_are_rejected_before_sending(cloud: Cloud) -> None:
    async with cloud.room("good") as room:
        for value, code in ((b"", "ValueMissing"), (b"x" * 25_601, "ValueTooLarge")):
            with pytest.raises(InvalidInput) as refused:
                await room.put_secret("s", Secret(value))
            assert refused.value.code == code


@pytest.mark.parametrize("value", ["", "AA" * 32, "zz" * 32, "aa" * 31])
def test_host_data_must_be_lower_case_hex(value: str) -> None:
    with pytest.raises(InvalidInput):
        host_data_claims([value])
    with pytest.raises(InvalidInput):
        host_data_claims([])


async def test_values_that_the_service_would_misread_are_rejected(cloud: Cloud) -> None:
    async with cloud.room("good") as room, cloud.user(ANN) as ann:
        for subject in ("a&b", "a=b", "a+b"):
            with pytest.raises(InvalidInput) as refused:
                await room.token(subject, TENANT)
            assert refused.value.code == "InvalidQueryValue"
        for bad in ("", ".", ".."):
            with pytest.raises(InvalidInput):
                await ann.get_document(bad)
        with pytest.raises(InvalidInput):
            await ann.list_documents({"a:b": "c"})


async def test_concurrent_calls_share_one_report_and_one_key(cloud: Cloud) -> None:
    class Counting(GuestAttestor):
        calls = 0

        async def attest(self, runtime_data: bytes) -> Any:
            Counting.calls += 1
            return await cloud.attestors["good"].attest(runtime_data)

    async with CleanRoomClient(cloud.url, cloud.contract, Counting("https://unused"), ca_file=cloud.ca) as room:
        secret_id = await room.put_secret(fresh("s"), Secret(b"v"))
        values = await asyncio.gather(*(room.get_secret(secret_id) for _ in range(20)))
        assert {value.reveal() for value in values} == {b"v"}
    assert Counting.calls == 1


async def test_an_unreachable_attestation_sidecar_is_unavailable(cloud: Cloud) -> None:
    async with CleanRoomClient(cloud.url, cloud.contract, GuestAttestor("http://127.0.0.1:9"), ca_file=cloud.ca) as room:
        with pytest.raises(Unavailable) as away:
            await room.get_secret("x")
        assert away.value.code == "GuestAttestationUnavailable"


async def test_malformed_labels_of_one_document_do_not_break_the_list(cloud: Cloud) -> None:
    async with cloud.user(ANN) as ann, HttpChannel(cloud.url, token=lambda: cloud.token(ANN), ca_file=cloud.ca) as channel:
        for labels in ("text", ["a"], {"a": 1, "b": {"c": None}}):
            body = {"contractId": cloud.contract, "data": "x", "labels": labels}
            await channel.call("PUT", f"/app/userdocuments/{fresh('odd')}", json=body)
        assert len(await ann.list_documents()) >= 3


def test_null_counts_as_an_absent_member() -> None:
    row = {"id": "d", "state": "Draft", "approvers": [{"approverId": "a", "approverIdType": None}], "proposalId": None, "finalVotes": None}
    document = read(Document, {**row, "data": None, "labels": None})
    assert (document.proposal_id, document.data, document.approvers) == ("", None, (Approver(approver_id="a"),))
    assert read(Consent, {"status": "enabled", "reason": None, "proposalIds": None}).enabled
    assert read(Invitation, {"invitationId": "i", "status": "Open", "userInfo": None, "claims": None}).claims == {}
    assert read(Deployment, {"data": None, "proposalIds": None}).data == {}
    with pytest.raises(Internal, match="state"):
        read(Document, {"id": "d", "state": None})


async def test_user_and_clean_room_read_the_same_document_text(cloud: Cloud) -> None:
    """Holds for text that is not ASCII."""
    document_id = fresh("doc")
    data = json.dumps({"name": "Umsätze \U0001f512", "schema": [["a", 1]]}, ensure_ascii=False)
    async with cloud.user(ANN) as ann, cloud.room("good") as room:
        version = await ann.put_document(document_id, cloud.contract, data, labels={"t": "ä"}, approvers=[Approver(approver_id=ANN)])
        assert version is not None
        await ann.submit_ballot(await ann.propose_document(document_id, version=version), accept=True)
        assert (await room.accepted_document(document_id)).data == data == (await ann.get_document(document_id)).data


async def test_a_document_with_odd_labels_or_without_text_does_not_hide_the_others(cloud: Cloud) -> None:
    good, odd, squatted = (fresh(name) for name in ("list-good", "list-odd", "list-squatted"))
    labels, approvers = {"kind": fresh("kind")}, [Approver(approver_id=ANN)]
    async with cloud.user(ANN) as ann, cloud.user(EVE) as eve:
        for name in (good, squatted):
            await ann.put_document(name, cloud.contract, "text", labels=labels, approvers=approvers)
        await eve._channel.write("PUT", f"/app/userdocuments/{odd}", json={"contractId": cloud.contract, "data": "x", "labels": "x"})
        args = {"name": "set_user_document", "args": {"documentId": squatted}, "approvers": [approvers[0].wire()]}
        await eve._channel.write("PUT", f"/app/users/proposals/{fresh('proposal')}", json=args)
        try:
            rows = await UserDocuments(ann, cloud.contract).select(labels)
            assert [row.id for row in rows] == sorted([good, squatted])
            readable = {row.id: row for row in rows if isinstance(row, Document)}
            assert set(readable) == {good}
            with pytest.raises(Internal) as refused:
                await ann.get_document(squatted)
            assert "proposal without a document" in refused.value.message
            assert "withdraw" in (refused.value.hint or "")
        finally:
            version = (await ann.get_document(odd)).version
            await ann.put_document(odd, cloud.contract, "x", version=version, labels={})
