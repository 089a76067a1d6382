"""The approval card: what an owner decides on, computed on the owner's machine from governance's documents.

Nothing here comes from a workflow. The card reads the query document that the owner named and the dataset documents that it pins,
applies the query gate, and carries the digest of the document that it describes. Owners sign that digest.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cleanroom.documents.dataset import PrivacyFloors
from cleanroom.documents.query import QueryDocument, parse_query
from cleanroom.errors import CleanRoomError, PreconditionFailed, Refused, Unavailable
from cleanroom.governance import Document, GovernanceUserClient
from cleanroom.identifiers import document_digest
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.query_gate import require_allowed
from cleanroom.runs.authorised import Dataset
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.reader import UserReader
from cleanroom.sql import GateVerdict, strip_invisible
from cleanroom.trust.source import AcceptedTrust, TrustSource

DEFAULT_APPROVAL_DAYS = 30.0


@dataclass(frozen=True)
class Terms:
    """What a decision says besides its text."""

    days: float
    expires: dt.datetime
    max_runs: int | None

    @property
    def validity(self) -> str:
        """The validity in words."""
        days = f"{self.days:g} {'day' if self.days == 1 else 'days'}"
        return f"valid until {self.expires:%Y-%m-%d %H:%M} UTC ({days})"

    @property
    def runs(self) -> str:
        """The number of runs in words."""
        if self.max_runs is None:
            return "any number of runs"
        return f"at most {self.max_runs} {'run' if self.max_runs == 1 else 'runs'}"


@dataclass(frozen=True)
class ApprovalCard:
    """What governance holds about one query, and the gate's verdict on it."""

    document: Document
    digest: str
    """Digest of the query document that was read; what a decision signs."""
    query: QueryDocument | None = None
    inputs: tuple[Dataset, ...] = ()
    output: Dataset | None = None
    verdict: GateVerdict | None = None
    problem: CleanRoomError | None = None
    """Why the rest is missing. Such a query can be rejected and not approved."""
    trust: AcceptedTrust | None = None
    """The trust document in force: which code may read the data, on which hardware. None if the members accepted none."""

    @property
    def name(self) -> str:
        """Name of the query."""
        return self.document.id

    @property
    def version(self) -> str:
        """Version of the query document in governance."""
        return self.document.version or ""

    def require_approvable(self) -> None:
        """Raise the problem of the query, if it has one."""
        if self.problem is not None:
            raise self.problem

    def lines(self, names: Mapping[str, str] | None = None) -> list[str]:
        """Return the card as lines of text without control characters.

        Args:
            names: Name of each user ID, as the owner's own settings give them. Without a name, the card shows the ID.
        """
        known = names or {}
        head = [
            f"query {self.name}, version {self.version}, proposed by {_person(self.document.proposer_id, known)}",
            f"  digest {self.digest}",
            f"  state {self.document.state}",
        ]
        return [strip_invisible(line) for line in (*head, *self.body(known))]

    def body(self, names: Mapping[str, str] | None = None) -> list[str]:
        """Return the part of the card that stays the same if the same text is proposed again."""
        known = names or {}
        if self.problem is not None or self.query is None or self.output is None or self.verdict is None:
            problem = f"{self.problem.code}: {self.problem.message}" if self.problem else "unknown"
            return ["warnings", strip_invisible(f"  This query cannot be approved. {problem}")]
        result = ["inputs"]
        for item in self.inputs:
            result += _dataset_lines(item, f"as view {item.view}", known)
            result += [f"    {line}" for line in _floor_lines(item.dataset.dataset_access_policy.privacy_floors)]
        result += ["output", *_dataset_lines(self.output, "", known)]
        result += [f"    {_person(self.output.owner_id, known)} receives the result and alone can decrypt it"]
        result += ["columns that leave", f"    {', '.join(column.name for column in self.verdict.output)}"]
        result += ["run parameters", f"    {_parameters(self.query)}"]
        result += ["trust", *(f"    {line}" for line in _trust_lines(self.trust))]
        gate = self.verdict.card
        for user, name in known.items():
            gate = gate.replace(f" ({user}): every row", f" ({name}): every row")
        return [strip_invisible(line) for line in (*result, *gate.splitlines(), *self._warnings(known))]

    def _warnings(self, names: Mapping[str, str]) -> list[str]:
        assert self.verdict is not None
        assert self.output is not None
        found = [
            f"{item.dataset.name} has no floor."
            for item in self.inputs
            if not item.dataset.dataset_access_policy.privacy_floors.min_group_size
        ]
        if self.verdict.lineage is not None and not self.verdict.lineage.floors:
            found.append("No floor applies: a row of the result can be about one person.")
        for item in self.inputs:
            if item.dataset.dataset_access_point.manifest != "pinned":
                found.append(f"The rows of {item.dataset.name} are not pinned: runs read what is stored at that time.")
        if self.trust is not None and self.trust.document.development is not None:
            found.append("The trust document accepts development hardware: NOT CONFIDENTIAL.")
        users = {self.document.proposer_id, *(item.owner_id for item in (*self.inputs, self.output))}
        found += [f"User {user} is not a collaborator in your settings." for user in sorted(users - set(names))] if names else []
        return ["warnings", *(f"    {line}" for line in found or ["none"])]

    def changes_since(self, before: Sequence[str]) -> list[str]:
        """Return the lines by which :meth:`body` differs from ``before``, with ``+`` and ``-``."""
        difference = difflib.unified_diff(list(before), self.body(), lineterm="", n=0)
        return [line for line in difference if not line.startswith(("---", "+++", "@@"))]


def _person(user: str, names: Mapping[str, str]) -> str:
    return names.get(user, f"user {user}")


def _dataset_lines(item: Dataset, use: str, names: Mapping[str, str]) -> list[str]:
    document = item.document
    described = " ".join(part for part in (f"{item.dataset.name} of {_person(item.owner_id, names)}", use) if part)
    return [f"  {described}", f"    version {document.version}, digest {document.digest}"]


def _floor_lines(floors: PrivacyFloors) -> list[str]:
    columns = floors.allowed_output_columns
    return [
        f"floor: at least {floors.min_group_size} distinct {floors.identity_column} per row" if floors.min_group_size else "floor: none",
        f"columns that may leave: {'all allowed columns' if columns is None else ', '.join(columns) or 'none'}",
    ]


def _trust_lines(trust: AcceptedTrust | None) -> list[str]:
    if trust is None:
        return ["The members have accepted no trust document. No run starts without one."]
    document = trust.document
    return [
        f"{trust.id}, digest {trust.digest}",
        f"pods run image {document.pods.image}",
        f"Spark services: host data {', '.join(document.spark_service_host_data)}",
        f"hosts outside of the public clouds: {', '.join(document.storage_hosts) or 'none'}",
    ]


async def _trust_in_force(client: GovernanceUserClient, collaboration: str) -> AcceptedTrust | None:
    # Whether development is allowed is decided by the workers' measured bootstrap files. The card only shows it.
    try:
        return await TrustSource(client.get_member_document, collaboration, development=True).in_force()
    except PreconditionFailed as error:
        if error.code != "TrustDocumentMissing":
            raise
        return None


def _parameters(query: QueryDocument) -> str:
    assert query.approval is not None
    parameters = query.approval.parameters
    if not parameters.date_range:
        return "none"
    return f"a date range from {parameters.earliest or 'any day'} to {parameters.latest or 'any day'}"


async def read_approval_card(client: GovernanceUserClient, collaboration: str, name: str) -> ApprovalCard:
    """Read a query and its datasets from governance and apply the query gate.

    A query that cannot be approved has :attr:`ApprovalCard.problem`.

    Raises:
        NotFound: ``UserDocumentNotFound``.
        Conflict: ``ContractIdMismatch``.
        Unavailable: Governance does not respond.
    """
    document = await UserDocuments(client, collaboration).get(name)
    data = str(document.data)
    card = ApprovalCard(document, document_digest(data))
    try:
        query = parse_query(data, document_id=name)
        if document.id != name or query.name != name:
            raise Refused("QueryNameMismatch", f"query {name!r}: its document has the name {query.name!r}.")
        if query.approval is None:
            raise Refused("QueryNotPinned", f"query {name!r} does not pin its datasets; it was not published by this system.")
        if query.approval.collaboration != collaboration:
            raise Refused("CollaborationMismatch", f"query {name!r} was written for collaboration {query.approval.collaboration!r}.")
        inputs, output = await RunAuthority(UserReader(client, collaboration), collaboration).fetch_datasets(query)
        verdict = require_allowed(name, query.application.segments(), inputs, output.dataset)
        trust = await _trust_in_force(client, collaboration)
    except Unavailable:
        raise
    except CleanRoomError as error:
        return ApprovalCard(document, card.digest, problem=error)
    return ApprovalCard(document, card.digest, query, inputs, output, verdict, trust=trust)
