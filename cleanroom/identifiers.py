"""Names and how they are derived, in one place, so that retries, revocations and auditors compute the same texts.

Nothing here may contain secrets or data: workflow IDs, task queues and job names are readable for the operators of Temporal and
Kubernetes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Self

import rfc8785
from pydantic import AfterValidator, StringConstraints

from cleanroom.errors import InvalidInput

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

Seen = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,18}\.[0-9]{1,18})?$")]
"""The latest transaction of governance that the sender of a message has seen, or the empty string.

A receiver reads governance only when it has seen that transaction too. This can delay it and decides nothing else.
"""

FRONTEND_QUEUE = "frontend"
"""Task queue of the workload frontend."""
CLEAN_ROOM_QUEUE = "clean-room"
"""Task queue of the clean room application."""
SPARK_SERVICE_QUEUE = "spark-service"
"""Task queue of the Spark service."""

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


def require_name(field: str, value: str) -> str:
    """Return ``value`` if it is a :data:`Name`.

    Raises:
        InvalidInput: ``InvalidName``.
    """
    if not re.fullmatch(NAME_PATTERN, value) or len(value) > MAX_NAME or "--" in value:
        raise InvalidInput(
            "InvalidName",
            f"{field}: {value!r} is not a valid name.",
            hint=f"Use 1 to {MAX_NAME} lower-case letters, digits and single dashes. Start and end with a letter or digit.",
        )
    return value


def collaborator_queue(party: str) -> str:
    """Return the task queue of the worker with the collaborator's own credentials."""
    return f"collaborator.{party}"


def dataset_workflow_id(collaboration: str, dataset: str) -> str:
    """Return the ID of the workflow that publishes a dataset."""
    return f"cr/{collaboration}/dataset/{dataset}"


def query_workflow_id(collaboration: str, query: str) -> str:
    """Return the ID of a query's PublishQuery workflow."""
    return f"cr/{collaboration}/query/{query}"


def run_workflow_id(collaboration: str, run_id: str) -> str:
    """Return the ID of a run's RunQuery workflow."""
    return f"cr/{collaboration}/run/{run_id}"


def prepare_workflow_id(collaboration: str, run_id: str) -> str:
    """Return the ID of a run's Prepare workflow."""
    return f"cr/{collaboration}/run/{run_id}/prepare"


def conclude_workflow_id(collaboration: str, run_id: str) -> str:
    """Return the ID of the workflow that concludes a terminated run."""
    return f"cr/{collaboration}/run/{run_id}/conclude"


def job_name(collaboration: str, query: str, run_id: str) -> str:
    """Return the name of a run's SparkApplication, a DNS-1035 label of at most 63 characters.

    It contains a hash of (collaboration, query, run), because lower-casing and truncating run IDs could make two of them equal.
    """
    short = hashlib.sha256("\0".join((collaboration, query, run_id)).encode()).hexdigest()[:10]
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:36].strip("-")
    return f"cr-{slug}-{short}" if slug else f"cr-{short}"


def federated_subject(contract_id: str, owner_id: str) -> str:
    """Return the subject ``<contractId>-<ownerId>`` of the ID tokens that an owner's managed identity trusts."""
    return f"{contract_id}-{owner_id}"


def run_secret_name(run_id: str, dataset: str, kind: str) -> str:
    """Return the name of a run's staged secret. ``kind`` is ``key``, ``connection``, ``consent`` or ``network``."""
    return f"{run_id}.{dataset}.{kind}"


def clean_room_secret_id(name: str) -> str:
    """Return the ID of a secret that a clean room stored (docs/facts/governance-service.md#secrets)."""
    return f"cleanroom_{name}"


def approver_key_document_id(user_id: str) -> str:
    """Return the ID of the document in which a user publishes the signing key for their statements."""
    return f"approver-key-{user_id}"


def user_secret_name(dataset: str, kind: str) -> str:
    """Return the name under which a collaborator stores a dataset's secret in governance."""
    return f"{dataset}.{kind}"


def canonical_json(value: object) -> bytes:
    """Return the canonical JSON (RFC 8785) over which this project computes digests and signatures."""
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def document_digest(data: str) -> str:
    """Return a document's digest: the SHA-256 of its ``data`` string in UTF-8, exactly as governance stores it."""
    return sha256_hex(data.encode("utf-8"))
