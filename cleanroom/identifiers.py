"""Names and how they are derived: one place, so that retries, revocations and auditors all compute the same text.

Nothing here is secret and nothing here may carry data: workflow ids, task queues and job names stay readable to
whoever operates Temporal and Kubernetes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

import rfc8785
from pydantic import AfterValidator, StringConstraints

from cleanroom.errors import InvalidInput

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""Names of parties, datasets, queries and runs. Upstream hangs for minutes on names outside of it (spec/execute.md, traps 10 and 11)."""

MAX_NAME = 40


def _no_double_dash(value: str) -> str:
    if "--" in value:
        raise ValueError(f"{value!r} holds '--'; use single dashes")
    return value


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=MAX_NAME), AfterValidator(_no_double_dash)]
"""A name of ours: lower case letters, digits and single dashes; 1 to 40 characters; starts and ends alphanumeric."""

HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hex."""

FRONTEND_QUEUE = "frontend"
CLEAN_ROOM_QUEUE = "clean-room"
SPARK_SERVICE_QUEUE = "spark-service"

TOKEN_EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"  # noqa: S105 - a public audience name
"""Audience of federated assertions, fixed by Entra ID."""


def require_name(field: str, value: str) -> str:
    """``value`` if it is a :data:`Name`.

    Raises:
        InvalidInput: ``InvalidName``.
    """
    if not re.fullmatch(NAME_PATTERN, value) or len(value) > MAX_NAME or "--" in value:
        raise InvalidInput(
            "InvalidName",
            f"{field}: {value!r} is not a valid name.",
            hint=f"Use lower-case letters, digits and single dashes, 1 to {MAX_NAME} characters, alphanumeric at both ends.",
        )
    return value


def collaborator_queue(party: str) -> str:
    """Task queue of the worker that holds ``party``'s own credentials."""
    return f"collaborator.{party}"


def dataset_workflow_id(collaboration: str, dataset: str) -> str:
    return f"cr/{collaboration}/dataset/{dataset}"


def query_workflow_id(collaboration: str, query: str) -> str:
    return f"cr/{collaboration}/query/{query}"


def run_workflow_id(collaboration: str, run_id: str) -> str:
    return f"cr/{collaboration}/run/{run_id}"


def prepare_workflow_id(collaboration: str, run_id: str) -> str:
    return f"cr/{collaboration}/run/{run_id}/prepare"


def conclude_workflow_id(collaboration: str, run_id: str) -> str:
    return f"cr/{collaboration}/run/{run_id}/conclude"


def job_name(collaboration: str, query: str, run_id: str) -> str:
    """Name of the SparkApplication: readable, unique for (collaboration, query, run), a DNS-1035 label of at most 63.

    The hash keeps apart what lower-casing and cutting would merge (spec/execute.md, trap 2).
    """
    short = hashlib.sha256("\0".join((collaboration, query, run_id)).encode()).hexdigest()[:10]
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:36].strip("-")
    return f"cr-{slug}-{short}" if slug else f"cr-{short}"


def federated_subject(contract_id: str, owner_id: str) -> str:
    """Subject of the ID token with which a dataset's managed identity is reached: ``<contractId>-<ownerId>`` (spec/execute.md A6)."""
    return f"{contract_id}-{owner_id}"


def run_secret_name(run_id: str, dataset: str, kind: str) -> str:
    """Name under which the clean room stages one secret of one run; ``kind`` is ``key``, ``connection``, ``consent`` or ``network``."""
    return f"{run_id}.{dataset}.{kind}"


def clean_room_secret_id(name: str) -> str:
    """The id that CGS gives to a secret put by an attested clean room (spec/governance.md 7)."""
    return f"cleanroom_{name}"


def approver_key_document_id(user_id: str) -> str:
    """Document in which a user publishes the key that signs their decisions."""
    return f"approver-key-{user_id}"


def user_secret_name(dataset: str, kind: str) -> str:
    """Name under which a collaborator stores a dataset's secret in CGS."""
    return f"{dataset}.{kind}"


def canonical_json(value: object) -> bytes:
    """RFC 8785 (JCS) bytes of a JSON value: what every digest and signature of ours is computed over."""
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def document_digest(data: str) -> str:
    """Digest of a CGS document: SHA-256 over the UTF-8 bytes of its ``data`` string exactly as governance holds it."""
    return sha256_hex(data.encode("utf-8"))
