"""Commands of members and users against the stand-ins of governance and Entra ID, from an empty service to consent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import typer
from typer.testing import CliRunner

from cleanroom.errors import Conflict, PreconditionFailed, Refused
from cleanroom.onboarding import member_client
from cleanroom.publishing.user_documents import governance_client
from cleanroom.secret import write_secret_file
from cleanroom.settings import load_settings
from localcloud.standins.cgs import server as cgs
from localcloud.standins.cgs.auth import IssuerConfig
from localcloud.standins.cgs.callers import MEMBER_HEADER, MemberConfig
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from starters import collaboration, consent
from starters.operations.session import Session
from tests.servers import AzureWorld

app = typer.Typer()
app.add_typer(collaboration.app, name="collaboration")
app.add_typer(consent.app, name="consent")
collaboration.mount(app)

HOST_DATA = "ab" * 32
ROOT = {"operator": "operator-member-token-00000", "second": "second-member-token-0000000"}


@dataclass(frozen=True)
class Desk:
    """Runs commands with a ``cleanroom.toml``."""

    config: Path
    world: AzureWorld

    def run(self, *words: str, profile: str = "operator", code: int = 0) -> Any:
        """Run a command with ``--output json`` and require the exit code ``code``."""
        options = ["--profile", profile, "--config", str(self.config), "--output", "json"]
        result = CliRunner().invoke(app, [*words, *options])
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return json.loads(result.stdout.splitlines()[0])

    def publish(self, document: str, profile: str = "contosso", approvers: tuple[str, ...] = ("contosso",)) -> None:
        """Create an accepted document of ``profile``."""

        async def work() -> None:
            session = Session.load(profile, str(self.config))
            users = [self.world.object_id(name) for name in approvers]
            async with session.governance() as client:
                documents = session.documents(client)
                version = await documents.put_draft(document, "{}", {"type": "dataset"}, users)
                proposal = await documents.propose(document, version, f"p-{document}")
            for name in approvers:
                voter = Session.load(name, str(self.config))
                async with voter.governance() as client:
                    await client.submit_ballot(proposal, accept=True)

        asyncio.run(work())


@pytest.fixture(scope="module")
def desk_of(tmp_path_factory: pytest.TempPathFactory, azure_world: AzureWorld, local_authority: LocalAuthority) -> Iterator[Any]:
    """Return a function that starts a governance service with the named members and returns its commands."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(*members: str) -> Desk:
            folder = tmp_path_factory.mktemp("desk")
            tls = local_authority.issue("cgs")
            config = cgs.CgsConfig(
                tls_cert=tls.cert,
                tls_key=tls.key,
                state=folder / "cgs",
                members=tuple(MemberConfig(name=name, token=ROOT[name]) for name in members),
                issuers=tuple(
                    IssuerConfig(
                        issuer=f"{azure_world.url}/{azure_world.tenant_id(company)}/v2.0",
                        jwks_uri=f"{azure_world.url}/{azure_world.tenant_id(company)}/discovery/v2.0/keys",
                        ca_file=local_authority.ca_file,
                        audience="api://cleanroom-governance",
                    )
                    for company in ("contosso", "litware")
                ),
            )
            url = stack.enter_context(serving(cgs.create_app(config), "cgs", tls))
            profiles: dict[str, Any] = {}
            for name in members:
                write_secret_file(folder / f"{name}.token", ROOT[name].encode())
                section = {"proxy_url": f"{url}/cgs-client", "member_token_file": f"{name}.token", "member_header": MEMBER_HEADER}
                profiles[name] = {"governance": section}
            for company in ("contosso", "litware"):
                credential = azure_world.credential(company).model_dump(mode="json", exclude_none=True)
                profiles[company] = {"party": company, "keys_dir": f"keys-{company}", "credential": credential}
            default = {
                "collaboration": "flights",
                "ca_file": str(local_authority.ca_file),
                "parties": {company: azure_world.object_id(company) for company in ("contosso", "litware")},
                "governance": {"url": url},
            }
            (folder / "cleanroom.toml").write_text(tomli_w.dumps({"default": default, "profile": profiles}))
            return Desk(folder / "cleanroom.toml", azure_world)

        yield make


@pytest.fixture(scope="module")
def desk(desk_of: Any) -> Desk:
    """The collaboration ``flights`` with the users Contosso and Litware."""
    made: Desk = desk_of("operator")
    made.run("collaboration", "create", "--data", "flight delays", "--host-data", HOST_DATA)
    for company in ("contosso", "litware"):
        made.run("invite", f"user@{company}.example", "--invitation", f"i-{company}")
        made.run("accept-invitation", f"i-{company}", profile=company)
        made.run("members", "admit", f"i-{company}")
    made.publish("contossos-own")
    return made


def test_creating_a_collaboration_is_idempotent_and_all_users_see_it(desk: Desk) -> None:
    again = desk.run("collaboration", "create", "--host-data", HOST_DATA)
    assert again["state"] == "Accepted"
    assert {step["step"]: step["state"] for step in again["steps"]} == {"contract": "unchanged", "clean-room-policy": "unchanged"}
    for profile in ("operator", "contosso"):
        shown = desk.run("collaboration", "show", profile=profile)
        assert (shown["data"], shown["cleanRooms"], shown["execution"]) == ("flight delays", [HOST_DATA], "enabled")
        assert (shown["members"], shown["users"]) == (1, 2)


def test_creating_a_collaboration_with_other_data_conflicts(desk: Desk) -> None:
    assert desk.run("collaboration", "create", "--data", "something else", code=5)["code"] == "CollaborationDiffers"


def test_creating_a_collaboration_enables_the_issuer_and_sets_its_url(desk: Desk) -> None:
    url = "https://issuer.example/oidc"
    desk.run("collaboration", "create", "--oidc-issuer", url)
    again = desk.run("collaboration", "create", "--oidc-issuer", url)
    assert again["steps"][-1] == {"step": "oidc-issuer-url", "state": "unchanged", "proposal_id": ""}
    assert desk.run("collaboration", "show")["issuer"] == {"enabled": True, "url": url}


def test_an_invited_user_is_active_only_after_a_member_admits_them(desk_of: Any) -> None:
    desk: Desk = desk_of("operator")
    desk.run("collaboration", "create")
    invitation = desk.run("invite", "user@litware.example")["invitation"]
    assert desk.run("members", "admit", invitation, code=6)["code"] == "InvitationNotAccepted"
    assert desk.run("accept-invitation", invitation, profile="contosso", code=4)["code"] == "TokenClaimMismatch"
    for _ in range(2):  # repeatable for the same user
        accepted = desk.run("accept-invitation", invitation, profile="litware")
        assert (accepted["status"], accepted["user"]) == ("Accepted", desk.world.object_id("litware"))
    assert desk.run("members", profile="litware", code=4)["code"] == "CallerNotAuthorized"
    for state in ("done", "unchanged"):
        assert desk.run("members", "admit", invitation)["state"] == state
    rows = desk.run("members", profile="litware")
    assert [(row["kind"], row["party"], row["name"]) for row in rows if row["kind"] == "user"] == [
        ("user", "litware", "user@litware.example")
    ]
    assert not [row for row in rows if row["kind"] == "invitation"]


def test_inviting_is_idempotent_and_an_invitation_has_one_user(desk_of: Any) -> None:
    desk: Desk = desk_of("operator")
    desk.run("collaboration", "create")
    for state in ("done", "unchanged"):
        assert desk.run("invite", "ann@a.example", "--invitation", "i-1", "--tenant", "t")["state"] == state
    assert desk.run("invite", "bob@b.example", "--invitation", "i-1", code=5)["code"] == "InvitationDiffers"
    assert desk.run("invite", "ann@a.example", "--invitation", "i-1", "--tenant", "u", code=5)["code"] == "InvitationDiffers"
    (row,) = [row for row in desk.run("members") if row["kind"] == "invitation"]
    assert row["name"] == "ann@a.example, t"


def test_a_second_member_must_vote_before_the_collaboration_continues(desk_of: Any) -> None:
    desk: Desk = desk_of("operator", "second")
    first = desk.run("collaboration", "create", "--host-data", HOST_DATA)
    assert (first["state"], [step["state"] for step in first["steps"]]) == ("Proposed", ["waiting"])
    assert desk.run("collaboration", "vote", first["steps"][0]["proposal_id"], profile="second")["state"] == "Accepted"
    second = desk.run("collaboration", "create", "--host-data", HOST_DATA)
    assert [step["state"] for step in second["steps"]] == ["unchanged", "waiting"]
    desk.run("collaboration", "vote", second["steps"][1]["proposal_id"], "--reject", profile="second")
    assert desk.run("collaboration", "show")["cleanRooms"] == []


def test_each_approver_withdraws_and_gives_consent_separately(desk: Desk) -> None:
    desk.publish("sales", approvers=("contosso", "litware"))
    assert desk.run("consent", "show", "sales", profile="litware")["status"] == "enabled"
    off = desk.run("consent", "off", "sales", profile="contosso")
    assert (off["status"], off["reason"], off["disabledBy"]) == ("disabled", "UserDocumentRuntimeOptionDisabled", ["contosso"])
    # Litware's consent does not undo Contosso's withdrawal.
    assert desk.run("consent", "on", "sales", profile="litware")["disabledBy"] == ["contosso"]
    assert desk.run("consent", "show", "sales", "--option", "telemetry", profile="litware")["status"] == "enabled"
    # A member is not a user, but can read.
    assert desk.run("consent", "show", "sales", profile="operator")["disabledBy"] == ["contosso"]
    assert desk.run("consent", "on", "sales", profile="contosso")["status"] == "enabled"


@pytest.mark.parametrize(
    ("words", "profile", "code", "error"),
    [
        (("consent", "off", "nothing-here"), "contosso", 3, "UserDocumentNotFound"),
        (("consent", "off", "contossos-own"), "litware", 4, "NotUserDocumentApprover"),
        (("collaboration", "show", "unknown"), "contosso", 3, "ContractNotFound"),
        (("collaboration", "show", ""), "contosso", 2, "InvalidIdentifier"),
        (("collaboration", "create", "--host-data", "XYZ"), "operator", 2, "InvalidHostData"),
        (("collaboration", "create", ""), "operator", 2, "InvalidIdentifier"),
        (("collaboration", "create", "a/b"), "operator", 2, "InvalidIdentifier"),
        (("collaboration", "create", ".."), "operator", 2, "InvalidIdentifier"),
        (("collaboration", "create", "never-made", "--oidc-issuer", "not a url"), "operator", 2, "InvalidUrl"),
        (("collaboration", "create", "never-made", "--oidc-issuer", "https://a.example/x?y"), "operator", 2, "InvalidUrl"),
        (("collaboration", "create", "never-made", "--host-data", "AB" * 32), "operator", 2, "InvalidHostData"),
        (("collaboration", "show", "never-made"), "operator", 3, "ContractNotFound"),
        (("collaboration", "create"), "contosso", 6, "NotAMember"),
        (("collaboration", "vote", "0" * 64), "operator", 3, "ProposalNotFound"),
        (("invite", "two words"), "operator", 2, "InvalidUserName"),
        (("invite", "not-a-guid", "--service-principal"), "operator", 2, "InvalidGuidUserName"),
        (("invite", "a@b.example", "--invitation", "x/y"), "operator", 2, "InvalidIdentifier"),
        (("invite", "somebody@else.example", "--invitation", "i-contosso"), "operator", 5, "InvitationDiffers"),
        (("accept-invitation", "i-contosso"), "operator", 2, "ProfileIsNoPerson"),
        (("consent", "off", "contossos-own"), "operator", 2, "ProfileIsNoPerson"),
        (("accept-invitation", "i-unknown"), "litware", 3, "InvitationNotFound"),
        (("accept-invitation", "i-contosso"), "litware", 5, "InvitationNotOpen"),
        (("members", "admit", "i-unknown"), "operator", 3, "InvitationNotFound"),
        (("members",), "nobody", 3, "ProfileNotFound"),
    ],
)
def test_wrong_input_has_its_error_code_and_exit_code(desk: Desk, words: tuple[str, ...], profile: str, code: int, error: str) -> None:
    assert desk.run(*words, profile=profile, code=code)["code"] == error


@pytest.mark.parametrize(
    "words", [("consent", "on"), ("consent", "on", "sales", "--option", "everything"), ("invite",), ("collaboration", "vote")]
)
def test_usage_errors_exit_with_2(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, list(words)).exit_code == 2


def test_a_wrong_member_token_is_refused_and_not_quoted(desk: Desk, tmp_path: Path) -> None:
    text = desk.config.read_text().replace('"operator.token"', f'"{tmp_path / "wrong"}"')
    write_secret_file(tmp_path / "wrong", b"wrong-member-token-canary")
    other = desk.config.with_name("wrong.toml")
    other.write_text(text)
    result = CliRunner().invoke(app, ["invite", "a@b.example", "--profile", "operator", "--config", str(other), "--output", "json"])
    assert result.exit_code != 0
    assert "canary" not in result.output


def test_a_member_token_that_others_can_read_is_refused(desk: Desk, tmp_path: Path) -> None:
    settings = load_settings("operator", path=desk.config)
    assert settings.governance.member_token_file is not None
    open_file = tmp_path / "token"
    open_file.write_text("x")
    open_file.chmod(0o644)
    changed = settings.model_copy(update={"governance": settings.governance.model_copy(update={"member_token_file": open_file})})
    with pytest.raises(Exception, match="SecretFileTooOpen"):
        member_client(changed)
    with pytest.raises(PreconditionFailed, match="NotAMember"):
        member_client(load_settings("contosso", path=desk.config))


async def test_the_service_certificate_is_the_only_root_for_governance(desk: Desk, tmp_path: Path) -> None:
    """CCF's service certificate is self-signed, so it is configured separately from the roots of other services."""
    settings = load_settings("contosso", path=desk.config)
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


def test_a_member_certificate_without_its_key_is_rejected(desk: Desk, tmp_path: Path) -> None:
    settings = load_settings("contosso", path=desk.config)
    half = settings.governance.model_copy(update={"client_cert_file": tmp_path / "member.pem"})
    with pytest.raises(PreconditionFailed, match="client_key_file"):
        governance_client(settings.model_copy(update={"governance": half}), Session(settings).credential())
    (tmp_path / "key.pem").write_text("x")
    (tmp_path / "key.pem").chmod(0o644)
    whole = half.model_copy(update={"client_key_file": tmp_path / "key.pem"})
    with pytest.raises(Refused, match="SecretFileTooOpen"):
        governance_client(settings.model_copy(update={"governance": whole}), Session(settings).credential())


async def test_nobody_is_made_to_vouch_for_what_another_proposed_in_their_name(desk: Desk) -> None:
    contosso, litware = (Session.load(name, str(desk.config)) for name in ("contosso", "litware"))
    mine, name = desk.world.object_id("contosso"), "approver-key-of-contosso"
    async with litware.governance() as client:
        theirs = litware.documents(client)
        version = await theirs.put_draft(name, '{"key": "theirs"}', {"type": "key"}, [mine])
        proposal = await theirs.propose(name, version, "p-theirs")
    async with contosso.governance() as client:
        for data in ('{"key": "mine"}', '{"key": "theirs"}'):
            with pytest.raises(Conflict, match="DocumentDiffers"):
                await contosso.documents(client).publish_own(name, data, {"type": "key"}, mine)
        assert (await client.proposal_status(proposal)).ballots == ()
