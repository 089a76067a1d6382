"""Commands of members and users, on stand-ins of governance and Entra ID: set-up, invitations, consent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.errors import Conflict, PreconditionFailed, Refused
from cleanroom.onboarding import member_client
from cleanroom.publishing.user_documents import governance_client
from cleanroom.secret import write_secret_file
from cleanroom.settings import load_settings
from localcloud.tls import LocalAuthority
from starters.operations.session import Session
from tests.governance_shell import HOST_DATA, Shell, app, make_shell

_ = make_shell


@pytest.fixture(scope="module")
def shell(make_shell: Any) -> Shell:
    """A shell on the collaboration ``flights``, in which Contosso and Litware are registered."""
    made: Shell = make_shell("operator")
    for company in ("contosso", "litware"):
        made.found(company)
    made.publish("contosso-sales")
    return made


def test_repeated_creation_changes_nothing_and_members_and_users_see_the_collaboration(shell: Shell) -> None:
    again = shell.run("collaboration", "create", "--host-data", HOST_DATA)
    assert again["state"] == "Accepted"
    assert {step["step"]: step["state"] for step in again["steps"]} == {"contract": "unchanged", "clean-room-policy": "unchanged"}
    for profile in ("operator", "contosso"):
        shown = shell.run("collaboration", "show", profile=profile)
        assert (shown["data"], shown["cleanRooms"], shown["execution"]) == ("flight delays", [HOST_DATA], "enabled")
        assert (shown["members"], shown["users"]) == (1, 2)


def test_creation_with_other_data_is_a_conflict(shell: Shell) -> None:
    assert shell.run("collaboration", "create", "--data", "something else", code=5)["code"] == "CollaborationDiffers"


def test_issuer_is_enabled_and_its_url_is_set_once(shell: Shell) -> None:
    url = "https://issuer.example/oidc"
    shell.run("collaboration", "create", "--oidc-issuer", url)
    again = shell.run("collaboration", "create", "--oidc-issuer", url)
    assert again["steps"][-1] == {"step": "oidc-issuer-url", "state": "unchanged", "proposal_id": ""}
    assert shell.run("collaboration", "show")["issuer"] == {"enabled": True, "url": url}


def test_invited_user_is_active_only_after_a_member_admits_them(make_shell: Any) -> None:
    shell: Shell = make_shell("operator")
    shell.run("collaboration", "create")
    invitation = shell.run("invite", "user@litware.example")["invitation"]
    assert shell.run("members", "admit", invitation, code=6)["code"] == "InvitationNotAccepted"
    assert shell.run("accept-invitation", invitation, profile="contosso", code=4)["code"] == "TokenClaimMismatch"
    for _ in range(2):  # idempotent for the same user
        accepted = shell.run("accept-invitation", invitation, profile="litware")
        assert (accepted["status"], accepted["user"]) == ("Accepted", shell.world.object_id("litware"))
    assert shell.run("members", profile="litware", code=4)["code"] == "CallerNotAuthorized"
    for state in ("done", "unchanged"):
        assert shell.run("members", "admit", invitation)["state"] == state
    rows = shell.run("members", profile="litware")
    assert [(row["kind"], row["party"], row["name"]) for row in rows if row["kind"] == "user"] == [
        ("user", "litware", "user@litware.example")
    ]
    assert not [row for row in rows if row["kind"] == "invitation"]


def test_repeated_invitation_changes_nothing_and_another_user_is_a_conflict(make_shell: Any) -> None:
    shell: Shell = make_shell("operator")
    shell.run("collaboration", "create")
    for state in ("done", "unchanged"):
        assert shell.run("invite", "ann@a.example", "--invitation", "i-1", "--tenant", "t")["state"] == state
    assert shell.run("invite", "bob@b.example", "--invitation", "i-1", code=5)["code"] == "InvitationDiffers"
    assert shell.run("invite", "ann@a.example", "--invitation", "i-1", "--tenant", "u", code=5)["code"] == "InvitationDiffers"
    (row,) = [row for row in shell.run("members") if row["kind"] == "invitation"]
    assert row["name"] == "ann@a.example, t"


def test_steps_wait_for_the_vote_of_a_second_member(make_shell: Any) -> None:
    shell: Shell = make_shell("operator", "second")
    first = shell.run("collaboration", "create", "--host-data", HOST_DATA)
    assert (first["state"], [step["state"] for step in first["steps"]]) == ("Proposed", ["waiting"])
    assert shell.run("collaboration", "vote", first["steps"][0]["proposal_id"], profile="second")["state"] == "Accepted"
    second = shell.run("collaboration", "create", "--host-data", HOST_DATA)
    assert [step["state"] for step in second["steps"]] == ["unchanged", "waiting"]
    shell.run("collaboration", "vote", second["steps"][1]["proposal_id"], "--reject", profile="second")
    assert shell.run("collaboration", "show")["cleanRooms"] == []


def test_each_approver_withdraws_and_gives_only_their_own_consent(shell: Shell) -> None:
    shell.publish("sales", approvers=("contosso", "litware"))
    assert shell.run("consent", "show", "sales", profile="litware")["status"] == "enabled"
    off = shell.run("consent", "off", "sales", profile="contosso")
    assert (off["status"], off["reason"], off["disabledBy"]) == ("disabled", "UserDocumentRuntimeOptionDisabled", ["contosso"])
    # Litware's consent does not cancel Contosso's withdrawal.
    assert shell.run("consent", "on", "sales", profile="litware")["disabledBy"] == ["contosso"]
    assert shell.run("consent", "show", "sales", "--option", "telemetry", profile="litware")["status"] == "enabled"
    # A member cannot consent, but can read the consent.
    assert shell.run("consent", "show", "sales", profile="operator")["disabledBy"] == ["contosso"]
    assert shell.run("consent", "on", "sales", profile="contosso")["status"] == "enabled"


@pytest.mark.parametrize(
    ("words", "profile", "code", "error"),
    [
        (("consent", "off", "unknown-document"), "contosso", 3, "UserDocumentNotFound"),
        (("consent", "off", "contosso-sales"), "litware", 4, "NotUserDocumentApprover"),
        (("collaboration", "show", "unknown"), "contosso", 3, "ContractNotFound"),
        (("collaboration", "show", ""), "contosso", 2, "InvalidIdentifier"),
        (("collaboration", "create", "--host-data", "XYZ"), "operator", 2, "InvalidHostData"),
        (("collaboration", "create", ""), "operator", 2, "InvalidIdentifier"),
        (("collaboration", "create", "a/b"), "operator", 2, "InvalidIdentifier"),
        (("collaboration", "create", ".."), "operator", 2, "InvalidIdentifier"),
        (("collaboration", "create", "not-created", "--oidc-issuer", "not a url"), "operator", 2, "InvalidUrl"),
        (("collaboration", "create", "not-created", "--oidc-issuer", "https://a.example/x?y"), "operator", 2, "InvalidUrl"),
        (("collaboration", "create", "not-created", "--host-data", "AB" * 32), "operator", 2, "InvalidHostData"),
        (("collaboration", "show", "not-created"), "operator", 3, "ContractNotFound"),
        (("collaboration", "create"), "contosso", 6, "NotAMember"),
        (("collaboration", "vote", "0" * 64), "operator", 3, "ProposalNotFound"),
        (("invite", "two words"), "operator", 2, "InvalidUserName"),
        (("invite", "not-a-guid", "--service-principal"), "operator", 2, "InvalidGuidUserName"),
        (("invite", "a@b.example", "--invitation", "x/y"), "operator", 2, "InvalidIdentifier"),
        (("invite", "ann@other.example", "--invitation", "i-contosso"), "operator", 5, "InvitationDiffers"),
        (("accept-invitation", "i-contosso"), "operator", 2, "ProfileIsNoPerson"),
        (("consent", "off", "contosso-sales"), "operator", 2, "ProfileIsNoPerson"),
        (("accept-invitation", "i-unknown"), "litware", 3, "InvitationNotFound"),
        (("accept-invitation", "i-contosso"), "litware", 5, "InvitationNotOpen"),
        (("members", "admit", "i-unknown"), "operator", 3, "InvitationNotFound"),
        (("members",), "unknown", 3, "ProfileNotFound"),
    ],
)
def test_invalid_input_gives_error_code_and_exit_code(shell: Shell, words: tuple[str, ...], profile: str, code: int, error: str) -> None:
    assert shell.run(*words, profile=profile, code=code)["code"] == error


@pytest.mark.parametrize(
    "words", [("consent", "on"), ("consent", "on", "sales", "--option", "everything"), ("invite",), ("collaboration", "vote")]
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, list(words)).exit_code == 2


def test_trust_document_is_in_force_when_all_members_have_voted(make_shell: Any, tmp_path: Path) -> None:
    shell: Shell = make_shell("operator", "second")
    first = shell.run("collaboration", "create", "--data", "x")
    shell.run("collaboration", "vote", first["steps"][0]["proposal_id"], profile="second")
    assert shell.run("collaboration", "trust", code=3)["code"] == "TrustDocumentMissing"
    template = shell.run("collaboration", "trust", "--print")
    assert (template["contract_id"], template["number"]) == ("flights", 1)
    file = tmp_path / "trust.json"
    sidecar = {"name": "attestation", "image": f"a@sha256:{'0' * 64}", "layers": ["1" * 64], "command": ["/bin/skr"]}
    pods = {"image": f"b@sha256:{'0' * 64}", "layers": ["2" * 64], "sidecars": [sidecar]}
    file.write_text(json.dumps({"contract_id": "flights", "number": 1, "spark_service_host_data": ["5a" * 32], "pods": pods}))
    step = shell.run("collaboration", "create", "--trust", str(file))["steps"][-1]
    assert (step["step"], step["state"]) == ("trust-document", "waiting")
    assert shell.run("collaboration", "trust", code=3)["code"] == "TrustDocumentMissing"
    shell.run("collaboration", "vote", step["proposal_id"], profile="second")
    assert shell.run("collaboration", "create", "--trust", str(file))["steps"][-1]["state"] == "unchanged"
    shown = shell.run("collaboration", "trust")
    assert (shown["document"], shown["confidential"], len(shown["acceptedBy"])) == ("trust-flights-1", True, 2)
    assert shell.run("collaboration", "show")["trust"]["digest"] == shown["digest"]
    following = shell.run("collaboration", "trust", "--print")
    assert following["number"] == 2
    # An accepted document never changes, and numbers have no gaps.
    for number in (1, 3):
        file.write_text(json.dumps(following | {"number": number, "spark_service_host_data": ["77" * 32]}))
        assert shell.run("collaboration", "create", "--trust", str(file), code=5)["code"] == "TrustDocumentDiffers"
    file.write_text(json.dumps(following | {"contract_id": "other"}))
    assert shell.run("collaboration", "create", "--trust", str(file), code=2)["code"] == "TrustDocumentMismatch"
    file.write_text("{}")
    assert shell.run("collaboration", "create", "--trust", str(file), code=2)["code"] == "TrustDocumentMalformed"


def test_wrong_member_token_is_rejected_and_not_printed(shell: Shell, tmp_path: Path) -> None:
    text = shell.config.read_text().replace('"operator.token"', f'"{tmp_path / "wrong"}"')
    write_secret_file(tmp_path / "wrong", b"wrong-member-token-canary")
    other = shell.config.with_name("wrong.toml")
    other.write_text(text)
    result = CliRunner().invoke(app, ["invite", "a@b.example", "--profile", "operator", "--config", str(other), "--output", "json"])
    assert result.exit_code != 0
    assert "canary" not in result.output


def test_member_token_file_readable_by_others_is_rejected(shell: Shell, tmp_path: Path) -> None:
    settings = load_settings("operator", path=shell.config)
    assert settings.governance.member_token_file is not None
    open_file = tmp_path / "token"
    open_file.write_text("x")
    open_file.chmod(0o644)
    changed = settings.model_copy(update={"governance": settings.governance.model_copy(update={"member_token_file": open_file})})
    with pytest.raises(Exception, match="SecretFileTooOpen"):
        member_client(changed)
    with pytest.raises(PreconditionFailed, match="NotAMember"):
        member_client(load_settings("contosso", path=shell.config))


async def test_service_certificate_replaces_the_other_roots_for_governance(shell: Shell, tmp_path: Path) -> None:
    """A CCF service signs its own certificate, so `service_cert_file` is the only root for governance, next to `ca_file` for the rest."""
    settings = load_settings("contosso", path=shell.config)
    assert settings.ca_file is not None
    other = LocalAuthority(tmp_path / "other").ca_file
    own = settings.governance.model_copy(update={"service_cert_file": settings.ca_file})
    for changed, reachable in (
        (settings.model_copy(update={"ca_file": other, "governance": own}), True),
        (settings.model_copy(update={"governance": own.model_copy(update={"service_cert_file": other})}), False),
    ):
        client = governance_client(changed, Session(settings).credential())
        async with client:
            if reachable:
                assert await client.list_documents() is not None
                continue
            with pytest.raises(Refused, match="GovernanceCertificateUntrusted"):
                await client.list_documents()


def test_member_certificate_without_its_key_is_rejected(shell: Shell, tmp_path: Path) -> None:
    settings = load_settings("contosso", path=shell.config)
    half = settings.governance.model_copy(update={"client_cert_file": tmp_path / "member.pem"})
    with pytest.raises(PreconditionFailed, match="client_key_file"):
        governance_client(settings.model_copy(update={"governance": half}), Session(settings).credential())
    (tmp_path / "key.pem").write_text("x")
    (tmp_path / "key.pem").chmod(0o644)
    whole = half.model_copy(update={"client_key_file": tmp_path / "key.pem"})
    with pytest.raises(Refused, match="SecretFileTooOpen"):
        governance_client(settings.model_copy(update={"governance": whole}), Session(settings).credential())


async def test_user_does_not_accept_a_document_that_another_user_proposed_under_their_name(shell: Shell) -> None:
    contosso, litware = (Session.load(name, str(shell.config)) for name in ("contosso", "litware"))
    mine, name = shell.world.object_id("contosso"), "approver-key-of-contosso"
    async with litware.governance() as client:
        theirs = litware.documents(client)
        version = await theirs.put_draft(name, '{"key": "theirs"}', {"type": "key"}, [mine])
        proposal = await theirs.propose(name, version, "p-theirs")
    async with contosso.governance() as client:
        for data in ('{"key": "mine"}', '{"key": "theirs"}'):
            with pytest.raises(Conflict, match="DocumentDiffers"):
                await contosso.documents(client).publish_own(name, data, {"type": "key"}, mine)
        assert (await client.proposal_status(proposal)).ballots == ()
