"""A world in which no two participants are alike, so that no check can be exchanged for a weaker one unnoticed.

Northwind owns the output and no input. The outsider is an active user with a published key, and has no part in the query. Each owner
has another run limit and another expiry. Key documents have one, two and three keys.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cleanroom.documents.specs import load_query_spec
from cleanroom.identifiers import approver_key_document_id, document_digest, user_secret_name
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.messages.query import GenerateQueryRequest
from cleanroom.messages.run import RunTicket
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.ledger import request_digest, run_key
from cleanroom.runs.reader import Consent
from cleanroom.statements import RunRequest, SigningKey, sign
from cleanroom.statements.keys import KEY_LABELS, KeyDocument
from tests.audit_records import COLLABORATION, DATASETS, QUERY
from tests.audit_world import DEMO, AuditWorld
from tests.servers import fixed_id

OWNER_OF = {"contosso-flights": "contosso", "litware-planes": "litware", "litware-weather": "litware", "litware-delays": "northwind"}
SINK = "litware-delays"
OWNERS = ("contosso", "litware", "northwind")
LIMITS = {"contosso": 5, "litware": None, "northwind": 2}
DAYS = {"contosso": 30, "litware": 10, "northwind": 20}
KEYS = {"contosso": 2, "litware": 1, "northwind": 3, "fabrikam": 1, "outsider": 1}


class AsymmetricWorld(AuditWorld):
    """An accepted query with three unlike owners. :meth:`changed` returns a copy that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.disabled: set[str] = set()
        self.started: frozenset[str] = frozenset()
        self.closed = False
        super().__init__(folder)

    async def _publish(self) -> None:
        for name, count in KEYS.items():
            self.users[name] = fixed_id("asymmetric", name)
            others = [SigningKey(Ed25519PrivateKey.generate()) for _ in range(count)]
            self.keys[name] = others[-1]
            body = KeyDocument(user_id=self.users[name], keys=tuple(key.public for key in others)).to_data()
            self.accept(approver_key_document_id(self.users[name]), body, name, (name,), KEY_LABELS)
        for dataset in DATASETS:
            descriptor = generate_descriptor(self._descriptor_request(dataset, OWNER_OF[dataset]))
            self.accept(dataset, descriptor.data, OWNER_OF[dataset], (OWNER_OF[dataset],), descriptor.labels)
        spec = load_query_spec(DEMO / f"{QUERY}.yaml")
        draft = await generate_query(self, GenerateQueryRequest(collaboration=COLLABORATION, spec=spec, proposer_id=self.users["fabrikam"]))
        self.accept(QUERY, draft.data, "fabrikam", OWNERS, draft.labels)
        for owner in OWNERS:
            self.decide(owner)

    def _descriptor_request(self, dataset: str, owner: str) -> DescriptorRequest:
        if owner == "contosso":
            return super()._descriptor_request(dataset, owner)
        user = self.users[owner]
        secrets = [StoredSecret(kind=kind, secret_id=f"{user}_{user_secret_name(dataset, kind)}") for kind in ("connection", "key")]
        return super()._descriptor_request(dataset, "litware").model_copy(update={"owner_id": user, "secrets": tuple(secrets)})

    def decide(self, owner: str, **changes: Any) -> None:
        defaults = {"max_runs": LIMITS[owner], "expires": self.now + dt.timedelta(days=DAYS[owner])}
        super().decide(owner, **(defaults | changes))

    # ------------------------------------------------------------------ governance

    async def consent(self, document_id: str) -> Consent:
        if document_id in self.disabled:
            return Consent(status="disabled", code="UserDocumentRuntimeOptionDisabled", message="off")
        return Consent(status="enabled")

    async def runs_started(self, query: str) -> frozenset[str]:
        return self.started

    async def run_closed(self, run_id: str) -> bool:
        return self.closed

    # ------------------------------------------------------------------ what tests change

    def changed(self) -> AsymmetricWorld:
        """Return a copy with its own documents, users and keys."""
        other = copy.copy(self)
        for name in ("ticket", "job", "receipt"):
            other.__dict__.pop(name, None)
        other.documents, other.users, other.keys = dict(self.documents), dict(self.users), dict(self.keys)
        other.disabled = set()
        return other

    def update(self, document_id: str, **members: Any) -> None:
        """Change members of a document in governance."""
        self.documents[document_id] = self.documents[document_id].model_copy(update=members)

    def edit(self, document_id: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the JSON text of a document."""
        content = json.loads(str(self.documents[document_id].data))
        change(content)
        self.update(document_id, data=json.dumps(content))

    def approve_again(self) -> None:
        """Pin the datasets as they are now, and let every owner sign the query as it is now."""

        def pin(content: dict[str, Any]) -> None:
            for item in (content.get("approval") or {}).get("datasets", []):
                found = self.documents.get(item["id"])
                if found is not None:
                    item |= {"version": found.version, "digest": document_digest(str(found.data))}

        self.edit(QUERY, pin)
        for owner in OWNERS:
            self.decide(owner)

    def asked_by(self, name: str, **changes: Any) -> RunTicket:
        """Return a ticket whose request ``name`` signed. ``changes`` replace members of the request."""
        content: dict[str, Any] = {
            "collaboration": COLLABORATION,
            "signer": self.users[name],
            "expires": self.now + dt.timedelta(hours=12),
            "query": QUERY,
            "digest": document_digest(str(self.documents[QUERY].data)),
            "run_id": self.run_id,
        }
        request = sign(RunRequest(**(content | changes)), self.keys[name])
        return RunTicket(collaboration=COLLABORATION, query=QUERY, run_id=self.run_id, request=request)

    def own_key(self, ticket: RunTicket) -> str:
        """Return under which key the ledger counts the run of ``ticket``."""
        return run_key(ticket.run_id, request_digest(ticket.request))

    def authority(self, *, after: dt.timedelta = dt.timedelta(0)) -> RunAuthority:
        """Return the checks, at a time after this world's."""
        return RunAuthority(self, COLLABORATION, now=lambda: self.now + after)
