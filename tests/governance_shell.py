"""A shell of members and users, on stand-ins of governance and Entra ID."""

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

from cleanroom.secret import write_secret_file
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
TOKENS = {"operator": "operator-member-token-00000", "second": "second-member-token-0000000"}


@dataclass(frozen=True)
class Shell:
    """Runs commands with one ``cleanroom.toml``."""

    config: Path
    world: AzureWorld

    def run(self, *words: str, profile: str = "operator", code: int = 0) -> Any:
        """Run a command with ``--output json``; its exit code must be ``code``."""
        options = ["--profile", profile, "--config", str(self.config), "--output", "json"]
        result = CliRunner().invoke(app, [*words, *options])
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return json.loads(result.stdout.splitlines()[0])

    def found(self, company: str) -> None:
        """Create the collaboration ``flights`` if it does not exist, and admit a user."""
        self.run("collaboration", "create", "--data", "flight delays", "--host-data", HOST_DATA)
        self.run("invite", f"user@{company}.example", "--invitation", f"i-{company}")
        self.run("accept-invitation", f"i-{company}", profile=company)
        self.run("members", "admit", f"i-{company}")

    def publish(self, document: str, profile: str = "contosso", approvers: tuple[str, ...] = ("contosso",)) -> None:
        """Propose a document as ``profile``, and accept it as every approver."""

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
def make_shell(tmp_path_factory: pytest.TempPathFactory, azure_world: AzureWorld, local_authority: LocalAuthority) -> Iterator[Any]:
    """Create a shell on a new governance service with the named members."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(*members: str) -> Shell:
            folder = tmp_path_factory.mktemp("shell")
            tls = local_authority.issue("cgs")
            config = cgs.CgsConfig(
                tls_cert=tls.cert,
                tls_key=tls.key,
                state=folder / "cgs",
                members=tuple(MemberConfig(name=name, token=TOKENS[name]) for name in members),
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
                write_secret_file(folder / f"{name}.token", TOKENS[name].encode())
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
            return Shell(folder / "cleanroom.toml", azure_world)

        yield make
