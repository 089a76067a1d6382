"""A completed run, built without servers: real signatures, attestation by development hardware, the demo's documents."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from cleanroom.attestation import TrustStore
from cleanroom.audit.chain import Bundle, build_bundle
from cleanroom.audit.seal import SEAL_LIFETIME, ExportSeal
from cleanroom.datasets.result import result_digest
from cleanroom.documents.query import RunParameters
from cleanroom.documents.specs import load_dataset_spec, load_query_spec
from cleanroom.errors import NotFound
from cleanroom.governance import Approver, Ballot, Document, MemberDocument, MemberVote
from cleanroom.identifiers import (
    approver_key_document_id,
    decision_document_id,
    document_digest,
    federated_subject,
    sha256_hex,
    user_secret_name,
)
from cleanroom.messages.publish import CleanRoomIdentity, DescriptorRequest, EncryptionKey, ManagedIdentity, StoredSecret
from cleanroom.messages.query import GenerateQueryRequest
from cleanroom.messages.run import RunTicket
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query
from cleanroom.runs.assembly import JobEnvironment, assemble_job
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data
from cleanroom.runs.ledger import PinnedRequest
from cleanroom.runs.reader import AcceptedDocument, Consent, to_accepted_document
from cleanroom.spark.job import JobConfig, JobParameters, ResultObject, ResultReceipt
from cleanroom.statements import Decision, RunRequest, SigningKey, load_or_create_signing_key, sign
from cleanroom.statements.keys import KEY_LABELS, KeyDocument
from cleanroom.trust import AcceptedTrust, Bootstrap, TrustDocument, accepted_trust
from localcloud.standins.snp.server import DevelopmentHardware
from tests.audit_records import COLLABORATION, DATASETS, QUERY, Items, genuine_records
from tests.servers import fixed_id
from tests.shared_keys import shared_hardware
from tests.unit.spark_support import make_trust_document

BOOTSTRAP = Bootstrap(
    contract_id=COLLABORATION,
    governance_url="https://cgs.example",
    governance_roots="-----BEGIN CERTIFICATE-----\n",
    development=True,
)
DEMO = Path(__file__).resolve().parent.parent / "demo"
RUN = "r-20261123-101500-abc123"
PEOPLE = ("contosso", "litware", "fabrikam")


class AuditWorld:
    """A completed run of the demo's query, with its governance. ``items()`` returns the contents of its records."""

    run_id = RUN

    def __init__(
        self,
        folder: Path,
        *,
        max_runs: int | None = 3,
        bounds: RunParameters = RunParameters(),
        hardware: DevelopmentHardware | None = None,
    ) -> None:
        self.hardware = hardware or shared_hardware()
        self.users = {name: fixed_id("audit", name) for name in PEOPLE}
        self.keys: dict[str, SigningKey] = {name: load_or_create_signing_key(folder / name) for name in PEOPLE}
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self.documents: dict[str, Document] = {}
        self.proof: dict[str, str] = {}
        """Digests of the Spark service's report and statement, once the records of a bundle were made."""
        self.member_documents: dict[str, MemberDocument] = {}
        self.accept_trust(self.trust_document)
        self._max_runs = max_runs
        self._bounds = bounds
        asyncio.run(self._publish())

    @property
    def trust(self) -> TrustStore:
        return TrustStore.load(amd=True, root_files=[self.hardware.trust_file])

    @cached_property
    def trust_document(self) -> TrustDocument:
        """The trust document in force."""
        return make_trust_document(self.hardware)

    @property
    def accepted_trust(self) -> AcceptedTrust:
        return accepted_trust(self.member_document(self.trust_document.id), COLLABORATION, 1)

    # ------------------------------------------------------------------ governance

    def member_document(self, document_id: str) -> MemberDocument:
        """Return a member document as governance does."""
        if document_id not in self.member_documents:
            raise NotFound("DocumentNotFound", document_id)
        return self.member_documents[document_id]

    def accept_trust(self, document: TrustDocument) -> None:
        """Let the members accept a trust document."""
        self.member_documents[document.id] = MemberDocument(
            id=document.id,
            state="Accepted",
            version="2.5",
            contract_id=COLLABORATION,
            data=document.to_data(),
            proposal_id="ab" * 32,
            final_votes=(MemberVote(member_id="operator", vote=True),),
        )

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        if document_id not in self.documents:
            raise NotFound("UserDocumentNotFound", document_id)
        return to_accepted_document(self.documents[document_id])

    async def consent(self, document_id: str) -> Consent:
        return Consent(status="enabled")

    async def active_users(self) -> frozenset[str]:
        return frozenset(self.users.values())

    async def runs_started(self, query: str) -> frozenset[str]:
        return frozenset()

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        return None

    async def run_closed(self, run_id: str) -> bool:
        return False

    def accept(self, document_id: str, data: str, proposer: str, approvers: tuple[str, ...], labels: Mapping[str, str]) -> None:
        """Add an accepted document to governance."""
        users = [self.users[name] for name in approvers]
        self.documents[document_id] = Document(
            id=document_id,
            state="Accepted",
            version=f"2.{len(self.documents) + 10}",
            contract_id=COLLABORATION,
            data=data,
            labels=dict(labels),
            approvers=tuple(Approver(approver_id=user) for user in users),
            proposal_id=sha256_hex(document_id.encode())[:32],
            proposer_id=self.users[proposer],
            final_votes=tuple(Ballot(approver_id=user, ballot="accepted") for user in users),
        )

    async def _publish(self) -> None:
        for name in PEOPLE:
            body = KeyDocument(user_id=self.users[name], keys=(self.keys[name].public,)).to_data()
            self.accept(approver_key_document_id(self.users[name]), body, name, (name,), KEY_LABELS)
        for dataset in DATASETS:
            owner = dataset.split("-", 1)[0]
            descriptor = generate_descriptor(self._descriptor_request(dataset, owner))
            self.accept(dataset, descriptor.data, owner, (owner,), descriptor.labels)
        spec = load_query_spec(DEMO / f"{QUERY}.yaml").model_copy(update={"parameters": self._bounds})
        request = GenerateQueryRequest(collaboration=COLLABORATION, spec=spec, proposer_id=self.users["fabrikam"])
        draft = await generate_query(self, request)
        self.accept(QUERY, draft.data, "fabrikam", ("contosso", "litware"), draft.labels)
        for owner in ("contosso", "litware"):
            self.decide(owner)

    def _descriptor_request(self, dataset: str, owner: str) -> DescriptorRequest:
        user, spec = self.users[owner], load_dataset_spec(DEMO / f"{dataset}.yaml")
        if spec.manifest == "pinned":
            spec = spec.model_copy(update={"manifest_digest": sha256_hex(dataset.encode())})
        request = DescriptorRequest(
            collaboration=COLLABORATION, owner_id=user, spec=spec, store_url="https://contosso.blob.core.windows.net"
        )
        if owner == "litware":
            secrets = [StoredSecret(kind=kind, secret_id=f"{user}_{user_secret_name(dataset, kind)}") for kind in ("connection", "key")]
            changes: dict[str, Any] = {"secrets": tuple(secrets), "region": "us-east-1", "store_url": "https://s3.us-east-1.amazonaws.com"}
            return request.model_copy(update=changes)
        issuer = CleanRoomIdentity(issuer_url="https://issuer.example", subject=federated_subject(COLLABORATION, user), audience="a")
        identity = ManagedIdentity(
            name="id", resource_id="/id", client_id=fixed_id("client"), principal_id=user, tenant_id=fixed_id("tenant")
        )
        vault, authority = "https://contosso.vault.azure.net", "https://contosso.weu.attest.azure.net"
        key = EncryptionKey(key_name="kek", key_id=f"{vault}/keys/kek/1", key_vault_url=vault, authority=authority, wrapped_key="AAAA")
        return request.model_copy(update={"clean_room": issuer, "identity": identity, "encryption_key": key})

    def decide(self, owner: str, **changes: Any) -> None:
        """Add ``owner``'s decision on the current query. ``changes`` replace members of the statement; ``by`` names the signer's key."""
        query = self.documents[QUERY]
        content: dict[str, Any] = {
            "collaboration": COLLABORATION,
            "signer": self.users[owner],
            "expires": self.now + dt.timedelta(days=30),
            "query": QUERY,
            "version": str(query.version),
            "proposal_id": query.proposal_id,
            "digest": document_digest(str(query.data)),
            "decision": "approve",
            "max_runs": self._max_runs,
        }
        key = self.keys[changes.pop("by", owner)]
        token = sign(Decision(**(content | changes)), key)
        document_id = decision_document_id(query.proposal_id, self.users[owner])
        self.accept(document_id, decision_document_data(token), owner, (owner,), DECISION_LABELS)

    # ------------------------------------------------------------------ the run

    def another_run(self, later: dt.timedelta) -> AuditWorld:
        """Return the same world with another run of the same query."""
        other = copy.copy(self)
        for name in ("ticket", "job", "receipt"):
            other.__dict__.pop(name, None)
        other.run_id, other.now = "r-20261124-101500-def456", self.now + later
        return other

    @cached_property
    def ticket(self) -> RunTicket:
        return self.ask()

    def ask(self, parameters: JobParameters = JobParameters()) -> RunTicket:
        """Return a ticket with Fabrikam's run request."""
        request = RunRequest(
            collaboration=COLLABORATION,
            signer=self.users["fabrikam"],
            expires=self.now + dt.timedelta(hours=12),
            query=QUERY,
            digest=document_digest(str(self.documents[QUERY].data)),
            run_id=self.run_id,
            parameters=parameters,
        )
        return RunTicket(collaboration=COLLABORATION, query=QUERY, run_id=self.run_id, request=sign(request, self.keys["fabrikam"]))

    @cached_property
    def job(self) -> JobConfig:
        run = asyncio.run(RunAuthority(self, COLLABORATION).authorise(self.ticket))
        return assemble_job(run, JobEnvironment.of(self.accepted_trust, BOOTSTRAP.governance_url, BOOTSTRAP.governance_roots))

    @cached_property
    def receipt(self) -> ResultReceipt:
        objects = (ResultObject(name="part-0.parquet", size=1234, sha256=sha256_hex(b"rows")),)
        return ResultReceipt(
            run_id=self.run_id,
            query_digest=self.job.query_digest,
            job_digest=self.job.digest(),
            dataset="litware-delays",
            objects=objects,
            rows=12,
            digest=result_digest(objects),
            columns=("manufacturer",),
        )

    def items(self) -> Items:
        """Return the contents of all records of a genuine bundle."""
        return genuine_records(self)

    def bundle(self, items: Items | None = None, *, sealed_by: str | None = "contosso") -> Bundle:
        """Chain ``items`` and seal the bundle."""
        bundle = build_bundle(items if items is not None else self.items())
        if sealed_by is None:
            return bundle
        seal = ExportSeal(
            collaboration=COLLABORATION,
            signer=self.users[sealed_by],
            expires=self.now + SEAL_LIFETIME,
            run_id=self.run_id,
            head=bundle.manifest.head,
        )
        sealed = bundle.manifest.model_copy(update={"seal": sign(seal, self.keys[sealed_by])})
        return bundle.model_copy(update={"manifest": sealed})
