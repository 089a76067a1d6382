"""The documents of one query in governance, without a server: what an owner's machine reads to decide and to open a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import NotFound
from cleanroom.governance import Document
from cleanroom.governance.models import Approver, Ballot, DocumentSummary, Event, MemberDocument
from cleanroom.identifiers import user_secret_id, user_secret_name
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.messages.query import GenerateQueryRequest
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query
from cleanroom.runs.reader import UserReader

CONTRACT, QUERY = "flights", "delays"
NAMES = {"u-contosso": "contosso", "u-litware": "litware", "u-fabrikam": "fabrikam"}
SQL = "SELECT f.origin AS origin, COUNT(*) AS flights FROM f JOIN p ON f.tailnum = p.tailnum GROUP BY f.origin"


class Governance:
    """Documents by ID, as a user's client reads them."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.member_documents: dict[str, MemberDocument] = {}
        self.events: dict[tuple[str, str], Any] = {}
        """Data of ledger entries by scope and ID."""

    async def __aenter__(self) -> Governance:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def get_document(self, name: str) -> Document:
        if name not in self.documents:
            raise NotFound("UserDocumentNotFound", f"{name} does not exist")
        return self.documents[name]

    async def get_member_document(self, name: str) -> MemberDocument:
        if name not in self.member_documents:
            raise NotFound("DocumentNotFound", f"{name} does not exist")
        return self.member_documents[name]

    async def list_documents(self, labels: Any = None) -> list[DocumentSummary]:
        return [DocumentSummary(id=name) for name, item in self.documents.items() if dict(item.labels or {}) == dict(labels or {})]

    async def latest_event(self, contract_id: str, *, event_id: str | None = None, scope: str | None = None) -> Event | None:
        data = self.events.get((scope or "", event_id or ""))
        return None if data is None or contract_id != CONTRACT else Event(id=event_id or "", seqno=1, timestamp="0", data=data)

    def accept(self, name: str = QUERY) -> None:
        """Let all owners accept a proposed query."""
        held = self.documents[name]
        votes = tuple(Ballot(approver_id=item.approver_id, ballot="accepted") for item in held.approvers or ())
        self.documents[name] = held.model_copy(update={"state": "Accepted", "final_votes": votes})

    def publish(self, name: str, owner: str, access: str, schema: dict[str, str], **more: Any) -> None:
        spec = DatasetSpec.model_validate(
            {
                "name": name,
                "format": "csv",
                "access": access,
                "schema": schema,
                "store": {"kind": "aws-s3", "bucket": "rows", "subdirectory": name, "connectionSecret": "secret:s3"},
                **more,
            }
        )
        secrets = tuple(
            StoredSecret(kind=kind, secret_id=user_secret_id(owner, user_secret_name(name, kind))) for kind in ("connection", "key")
        )
        descriptor = generate_descriptor(
            DescriptorRequest(
                collaboration=CONTRACT, owner_id=owner, spec=spec, store_url="https://s3.us-east-1.amazonaws.com", region="us-east-1",
                secrets=secrets,
            )
        )  # fmt: skip
        self.documents[name] = Document(
            id=name,
            state="Accepted",
            version="2.10",
            contract_id=CONTRACT,
            data=descriptor.data,
            labels=descriptor.labels,
            approvers=(Approver(approver_id=owner),),
            proposal_id="p-" + name,
            proposer_id=owner,
            final_votes=(Ballot(approver_id=owner, ballot="accepted"),),
        )

    async def propose(self, *, version: str = "2.31", sql: str = SQL, name: str = QUERY, **more: Any) -> None:
        spec = QuerySpec(name=name, inputs={"f": "contosso-flights", "p": "litware-planes"}, output="litware-delays", sql=sql, **more)
        reader: Any = UserReader(self, CONTRACT)  # type: ignore[arg-type]
        draft = await generate_query(reader, GenerateQueryRequest(collaboration=CONTRACT, spec=spec, proposer_id="u-fabrikam"))
        self.documents[name] = Document(
            id=name, state="Proposed", version=version, contract_id=CONTRACT, data=draft.data, labels=draft.labels,
            approvers=tuple(Approver(approver_id=owner) for owner in draft.owners), proposal_id="ab" * 16, proposer_id="u-fabrikam",
        )  # fmt: skip


def use_profiles(folder: Path, patch: pytest.MonkeyPatch, profile: str) -> None:
    """Give each collaborator a profile with keys in ``folder``, where commands run with ``profile`` unless they name another one."""
    lines = ["[default]", f'collaboration = "{CONTRACT}"', "[default.parties]", *(f'{name} = "{user}"' for user, name in NAMES.items())]
    for name in NAMES.values():
        lines += [f"[profile.{name}]", f'party = "{name}"', f'keys_dir = "{folder}/{name}"']
    (folder / "cleanroom.toml").write_text("\n".join(lines) + "\n")
    patch.chdir(folder)
    patch.setenv("CLEANROOM_CONFIG", str(folder / "cleanroom.toml"))
    patch.setenv("CLEANROOM_PROFILE", profile)


async def proposed_query() -> Governance:
    """Two inputs of two owners, an output of one of them, and a proposed query of a third collaborator."""
    found = Governance()
    floors = {"minGroupSize": 7, "identityColumn": "tailnum"}
    found.publish("contosso-flights", "u-contosso", "read", {"origin": "string", "tailnum": "string"}, privacy=floors)
    found.publish("litware-planes", "u-litware", "read", {"tailnum": "string"})
    found.publish("litware-delays", "u-litware", "write", {"origin": "string", "flights": "long"})
    await found.propose()
    return found
