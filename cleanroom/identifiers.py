"""Names and how they are derived, in one place, so that retries, revocations and auditors compute the same texts.

Nothing here may contain secrets or data: workflow IDs, task queues and job names are readable for the operators of Temporal and
Kubernetes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import AfterValidator, StringConstraints

from cleanroom.errors import InvalidInput
from cleanroom.joining import hashed, joined, parts_digest

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""Pattern of names of collaborators, datasets, queries and runs, which become parts of Kubernetes and Azure names."""

MAX_NAME = 40
"""Longest name, so that names derived from it fit the 63 characters of a Kubernetes label."""


def _no_double_dash(value: str) -> str:
    if "--" in value:
        raise ValueError(f"{value!r} contains '--'; use single dashes")
    return value


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=MAX_NAME), AfterValidator(_no_double_dash)]
"""A name: 1 to 40 lower-case letters, digits and single dashes, starting and ending with a letter or digit."""

HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hex."""

RunSize = Literal["small", "medium", "large"]
"""A size of runs, from the smallest to the largest. The operator decides which resources it stands for."""

Seen = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,18}\.[0-9]{1,18})?$")]
"""The latest transaction of governance that the sender of a message has seen, or the empty string.

A receiver reads governance only when it has seen that transaction too. This can delay it and decides nothing else.
"""

MAX_STATEMENT = 16 * 1024
"""Longest signed statement in characters."""

SignedText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$", max_length=MAX_STATEMENT)]
"""A signed statement in a message: a compact JWS (RFC 7515, section 3.1). Anyone who reaches Temporal can send a message, so a text of
another form, or a longer one, is refused when it arrives."""

FRONTEND_QUEUE = "frontend"
"""Task queue of the workload frontend."""
CLEAN_ROOM_QUEUE = "clean-room"
"""Task queue of the clean room application."""
SPARK_SERVICE_QUEUE = "spark-service"
"""Task queue of the Spark service."""

STAGED_KINDS = ("key", "connection", "consent", "network")
"""Kinds of a run's staged secrets."""

TOKEN_EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"  # noqa: S105 - a public audience name
"""Audience of federated tokens (https://learn.microsoft.com/entra/workload-id/workload-identity-federation-create-trust)."""


_TRANSACTION = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")


@dataclass(frozen=True)
class TransactionId:
    """A transaction ID ``VIEW.SEQNO``: the term of the primary that made it, and the position in the ledger."""

    view: int
    seqno: int

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Parse ``VIEW.SEQNO``; None for any other text."""
        found = _TRANSACTION.fullmatch(text or "")
        return cls(int(found[1]), int(found[2])) if found else None

    def includes(self, other: TransactionId) -> bool:
        """Whether a ledger that ends here contains ``other``, if ``other`` was not rolled back.

        Both numbers must reach those of ``other``. A ledger of an older view can be longer, but its end is rolled back. A ledger
        of a newer view that is shorter shows that ``other`` was rolled back.
        """
        return self.view >= other.view and self.seqno >= other.seqno

    def __str__(self) -> str:
        return f"{self.view}.{self.seqno}"


def is_older_transaction(text: str, than: str) -> bool:
    """Whether the transaction ``text`` is known to be before ``than``. False if one of them is no transaction ID."""
    first, second = TransactionId.parse(text), TransactionId.parse(than)
    return first is not None and second is not None and first.seqno < second.seqno


def latest_transaction(*texts: str) -> str:
    """Return the latest of several transaction IDs as text; the empty string if there is none."""
    known = [found for text in texts if (found := TransactionId.parse(text)) is not None]
    return str(max(known, key=lambda item: (item.view, item.seqno))) if known else ""


def is_name(value: str) -> bool:
    """Whether ``value`` is a :data:`Name`."""
    return bool(re.fullmatch(NAME_PATTERN, value)) and len(value) <= MAX_NAME and "--" not in value


def require_name(field: str, value: str) -> str:
    """Return ``value`` if it is a :data:`Name`.

    Raises:
        InvalidInput: ``InvalidName``.
    """
    if not is_name(value):
        raise InvalidInput(
            "InvalidName",
            f"{field}: {value!r} is not a valid name.",
            hint=f"Use 1 to {MAX_NAME} lower-case letters, digits and single dashes. Start and end with a letter or digit.",
        )
    return value


def collaborator_queue(party: str) -> str:
    """Return the task queue of the worker with the collaborator's own credentials."""
    return joined(".", "collaborator", party)


def dataset_workflow_id(collaboration: str, dataset: str) -> str:
    """Return the ID of the workflow that publishes a dataset."""
    return joined("/", "cr", collaboration, "dataset", dataset)


def query_workflow_id(collaboration: str, query: str) -> str:
    """Return the ID of a query's PublishQuery workflow."""
    return joined("/", "cr", collaboration, "query", query)


def watch_workflow_id(collaboration: str) -> str:
    """Return the ID of the workflow that watches the open queries of a collaboration."""
    return joined("/", "cr", collaboration, "watch")


def run_workflow_id(collaboration: str, run_id: str) -> str:
    """Return the ID of a run's RunQuery workflow."""
    return joined("/", "cr", collaboration, "run", run_id)


def prepare_workflow_id(collaboration: str, run_id: str) -> str:
    """Return the ID of a run's Prepare workflow."""
    return joined("/", "cr", collaboration, "run", run_id, "prepare")


def conclude_workflow_id(collaboration: str, run_id: str) -> str:
    """Return the ID of the workflow that concludes a terminated run."""
    return joined("/", "cr", collaboration, "run", run_id, "conclude")


def workflow_subject(workflow_id: str) -> dict[str, str]:
    """Return what a workflow ID names: ``collaboration``, and ``query``, ``run`` or ``dataset``. Empty for IDs of other systems."""
    parts = workflow_id.split("/")
    if len(parts) not in (4, 5) or parts[0] != "cr":
        return {}
    return {"collaboration": parts[1], parts[2]: parts[3]} if parts[2] in ("query", "run", "dataset") else {"collaboration": parts[1]}


def cleanup_workflow_id(collaboration: str, mode: str) -> str:
    """Return the ID of the workflow that finds what ended runs have left. ``mode`` is ``apply``, ``dry-run`` or ``scheduled``."""
    return joined("/", "cr", collaboration, "cleanup", mode)


def cleanup_schedule_id(collaboration: str) -> str:
    """Return the ID of the Temporal Schedule that starts the cleanup."""
    return joined("/", "cr", collaboration, "cleanup")


@dataclass(frozen=True)
class TraceIds:
    """The trace of a run, and the ID of its root span (https://www.w3.org/TR/trace-context/)."""

    trace_id: int
    span_id: int


def run_trace(collaboration: str, run_id: str) -> TraceIds:
    """Return the IDs of a run's trace.

    They are derived, so that every process of the run knows them without a message: the pods derive them from their measured job. So a
    trace changes neither a message nor a job.
    """
    digest = parts_digest("trace", collaboration, run_id)
    return TraceIds(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big"))


def job_name(collaboration: str, query: str, run_id: str) -> str:
    """Return the name of a run's SparkApplication, a DNS-1035 label.

    It has at most 47 characters, the maximum of ``spark.kubernetes.executor.podNamePrefix``, which the operator derives from it.
    """
    return hashed("spark-application", collaboration, query, run_id, prefix="cr", max_length=47, readable=run_id)


def identity_name(collaboration: str, dataset: str) -> str:
    """Return the name of a dataset's managed identity. Each dataset has its own, so that access can be revoked per dataset.

    Azure allows 128 characters
    (https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules#microsoftmanagedidentity).
    """
    return hashed("managed-identity", collaboration, dataset, prefix="cr", max_length=100, readable=f"{collaboration}-{dataset}")


def federation_name(subject: str, issuer_url: str) -> str:
    """Return the name of the federated credential that trusts tokens of ``issuer_url`` with ``subject``. Azure allows 120 characters."""
    return hashed("federated-credential", subject, issuer_url, prefix="cr", max_length=100, readable=subject)


def key_encryption_key_name(collaboration: str, dataset: str) -> str:
    """Return the name of a dataset's key encryption key (KEK). Key Vault allows 127 characters."""
    return hashed("key-encryption-key", collaboration, dataset, prefix="kek", max_length=100, readable=f"{collaboration}-{dataset}")


def federated_subject(contract_id: str, owner_id: str) -> str:
    """Return the subject of the ID tokens that an owner's managed identity trusts.

    ``<contractId>-<ownerId>`` alone is ambiguous, and contracts of one governance service share its issuer.
    """
    return hashed("federated-subject", contract_id, owner_id, prefix="cr", max_length=200, readable=f"{contract_id}-{owner_id}")


def run_secret_name(run_id: str, dataset: str, kind: str) -> str:
    """Return the name of a run's staged secret. ``kind`` is one of :data:`STAGED_KINDS`."""
    return joined(".", run_id, dataset, kind)


def run_of_secret(secret_id: str) -> str | None:
    """Return the run ID in the ID of a run's staged secret, or None for any other secret of the contract."""
    parts = secret_id.removeprefix(clean_room_secret_id("")).split(".")
    if not secret_id.startswith(clean_room_secret_id("")) or len(parts) != 3 or parts[2] not in STAGED_KINDS:
        return None
    return parts[0] if is_name(parts[0]) else None


def user_secret_id(user_id: str, name: str) -> str:
    """Return the ID of a secret that a user stored (docs/facts/governance-service.md#secrets)."""
    # The user ID is everything before the last underscore.
    return f"{user_id}_{joined('_', name)}"


def clean_room_secret_id(name: str) -> str:
    """Return the ID of a secret that a clean room stored (docs/facts/governance-service.md#secrets)."""
    return f"cleanroom_{name}"


def approver_key_document_id(user_id: str) -> str:
    """Return the ID of the document in which a user publishes the signing key for their statements.

    The separator is not allowed in a :data:`Name`, so no dataset or query can have this ID.
    """
    return joined(".", "approver-key", user_id)


def retirement_document_id(user_id: str, number: int) -> str:
    """Return the ID of a document in which a user retires signing keys. ``number`` counts from 1."""
    return joined(".", "approver-key", user_id, str(number))


def sealing_document_id(user_id: str, number: int) -> str:
    """Return the ID of a document in which a user publishes a key to seal secrets for. ``number`` counts from 1."""
    return joined(".", "sealing-key", user_id, str(number))


def deputy_document_id(user_id: str, kid: str) -> str:
    """Return the ID of the document in which a user names the holder of the key ``kid`` as a deputy."""
    return joined(".", "approver-deputy", user_id, kid)


def decision_document_id(proposal_id: str, user_id: str) -> str:
    """Return the ID of the document with ``user_id``'s decision on one proposal. Each proposal needs a separate decision."""
    return joined(".", "decision", proposal_id, user_id)


def user_secret_name(dataset: str, kind: str) -> str:
    """Return the name under which a collaborator stores a dataset's secret in governance."""
    return joined(".", dataset, kind)


def object_context(collaboration: str, dataset: str, path: str) -> str:
    """Return what the seal of an object authenticates besides its content, so that it opens only in its place.

    Collaboration and dataset contain no slash; the path within the dataset may contain some.
    """
    return f"{joined('/', collaboration, dataset)}/{path}"


def canonical_json(value: object) -> bytes:
    """Return the canonical JSON (RFC 8785) over which this project computes digests and signatures."""
    try:
        return _plain_json(value).encode()
    except (TypeError, AttributeError, UnicodeEncodeError, RecursionError):
        return rfc8785.dumps(value)  # type: ignore[arg-type]


def _plain_json(value: Any) -> str:
    """Return the canonical JSON of a value without fractions, with ASCII names, six times as fast as rfc8785.

    Python's ``json`` escapes strings as RFC 8785 does (section 3.2.2.2). Names in ASCII have the same order in UTF-16.

    Raises:
        TypeError, AttributeError: Another value.
    """
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        members = sorted(value.items())
        if not "".join(value).isascii():
            raise TypeError
        return "{" + ",".join([f"{encode_basestring(name)}:{_plain_json(member)}" for name, member in members]) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join(map(_plain_json, value)) + "]"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int and abs(value) < 2**53:
        return str(value)
    raise TypeError


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def document_digest(data: str) -> str:
    """Return a document's digest: the SHA-256 of its ``data`` string in UTF-8, exactly as governance stores it."""
    return sha256_hex(data.encode("utf-8"))
