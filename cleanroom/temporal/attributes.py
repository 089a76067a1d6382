"""The search attributes by which operators filter workflows, declared once.

The codec does not encrypt search attributes. They therefore contain only states, counts, times and names that are public in the
collaboration, never SQL, columns, storage URLs, e-mail addresses or row counts. SQLite and SQL visibility stores allow 10 attributes of
type Keyword and 3 of each other type (https://docs.temporal.io/search-attribute#custom-search-attribute-limits); a test counts them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from temporalio.common import (
    SearchAttributeIndexedValueType,
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributeUpdate,
    TypedSearchAttributes,
)

from cleanroom.temporal.markdown import plain

COLLABORATION: Final = SearchAttributeKey.for_keyword("CrCollab")
"""ID of the collaboration's contract."""
KIND: Final = SearchAttributeKey.for_keyword("CrKind")
"""``dataset``, ``query``, ``prepare``, ``run``, ``conclude``, ``cleanup`` or ``watch``."""
QUERY: Final = SearchAttributeKey.for_keyword("CrQuery")
"""Name of the query document."""
STAGE: Final = SearchAttributeKey.for_keyword("CrStage")
"""The current stage: ``proposed``, ``prepare.release_keys``, ``run.watch`` …"""
OUTCOME: Final = SearchAttributeKey.for_keyword("CrOutcome")
"""``succeeded``, or the code of the error that ended the workflow."""
PROPOSER: Final = SearchAttributeKey.for_keyword("CrProposer")
"""User name of the proposer."""
DIGEST: Final = SearchAttributeKey.for_keyword("CrDigest")
"""First 12 hex digits of the approved digest."""
REMINDED: Final = SearchAttributeKey.for_keyword("CrReminded")
"""The last reminder of what the query waits for: ``reminder``, ``escalation``, ``last-reminder`` or ``renewal``."""
KNOWN: Final = SearchAttributeKey.for_keyword("CrKnown")
"""What the query's workflow knows of governance: state, version, proposal, and a short digest (``cleanroom/messages/known.py``)."""
DATASETS: Final = SearchAttributeKey.for_keyword_list("CrDatasets")
"""Names of the datasets."""
PENDING_FOR: Final = SearchAttributeKey.for_keyword_list("CrPendingFor")
"""Collaborators whose decision is missing: ``CrPendingFor = 'contosso'`` lists what waits for Contosso."""
APPROVED_BY: Final = SearchAttributeKey.for_keyword_list("CrApprovedBy")
"""Collaborators who have approved."""
RUN_LIMIT: Final = SearchAttributeKey.for_int("CrRunLimit")
"""Maximum number of runs of an approved query: the smallest limit of its approvals. Missing if no approval has one."""
EXPIRES_AT: Final = SearchAttributeKey.for_datetime("CrExpiresAt")
"""When the current draft or proposal expires."""
STAGE_SINCE: Final = SearchAttributeKey.for_datetime("CrStageSince")
"""When the current stage began."""

ALL: Final[tuple[SearchAttributeKey[Any], ...]] = (
    COLLABORATION,
    KIND,
    QUERY,
    STAGE,
    OUTCOME,
    PROPOSER,
    DIGEST,
    REMINDED,
    KNOWN,
    DATASETS,
    PENDING_FOR,
    APPROVED_BY,
    RUN_LIMIT,
    EXPIRES_AT,
    STAGE_SINCE,
)
"""All search attributes, to register and to test."""

_TYPES: Final = {
    SearchAttributeIndexedValueType.KEYWORD: "Keyword",
    SearchAttributeIndexedValueType.KEYWORD_LIST: "KeywordList",
    SearchAttributeIndexedValueType.INT: "Int",
    SearchAttributeIndexedValueType.DATETIME: "Datetime",
}
REGISTRATION: Final[tuple[str, ...]] = tuple(f"{key.name}={_TYPES[key.indexed_value_type]}" for key in ALL)
"""``NAME=Type``, for ``temporal server start-dev --search-attribute`` and ``temporal operator search-attribute create``."""

_KEYWORD_LIMIT: Final = 255
"""SQL visibility stores truncate or reject longer keywords."""
_VALUE_LIMIT: Final = 2000
"""Bytes of one value. The server rejects more than 2 KiB (``limit.searchAttributesSizeOfValue``). It would fail every workflow task that
sets such a value, and Temporal retries workflow tasks forever."""


def start_attributes(
    *,
    collaboration: str | None = None,
    kind: str | None = None,
    query: str | None = None,
    stage: str | None = None,
    proposer: str | None = None,
    digest: str | None = None,
    datasets: Sequence[str] | None = None,
    pending_for: Sequence[str] | None = None,
    approved_by: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    stage_since: datetime | None = None,
) -> TypedSearchAttributes:
    """Build the search attributes of a workflow's start. ``None`` is omitted, and ``digest`` is shortened."""
    values: list[tuple[SearchAttributeKey[Any], Any]] = [
        (COLLABORATION, collaboration),
        (KIND, kind),
        (QUERY, query),
        (STAGE, stage),
        (PROPOSER, proposer),
        (DIGEST, short_digest(digest) if digest else None),
        (DATASETS, datasets),
        (PENDING_FOR, pending_for),
        (APPROVED_BY, approved_by),
        (EXPIRES_AT, expires_at),
        (STAGE_SINCE, stage_since),
    ]
    return TypedSearchAttributes([SearchAttributePair(key, clean(value)) for key, value in values if value is not None])


def updates(*pairs: tuple[SearchAttributeKey[Any], Any]) -> list[SearchAttributeUpdate[Any]]:
    """Build updates for ``workflow.upsert_search_attributes``. ``None`` or an empty list removes the attribute."""
    return [key.value_unset() if value is None or value == [] else key.value_set(clean(value)) for key, value in pairs]


def short_digest(digest: str) -> str:
    """Return the part of a digest that people compare: its first 12 hex digits without the algorithm prefix."""
    return digest.rpartition(":")[2][:12]


def clean(value: Any) -> Any:
    """Return ``value`` as a valid search attribute.

    Text has no control characters and is cut at 255. Lists are sorted without duplicates, and cut with the number of what is left out.
    """
    if isinstance(value, str):
        return plain(value, _KEYWORD_LIMIT)
    if isinstance(value, list | tuple | set | frozenset):
        return _bounded(sorted({plain(str(item), _KEYWORD_LIMIT) for item in value}))
    return value


def _bounded(items: list[str]) -> list[str]:
    """Return the first of ``items`` that fit into :data:`_VALUE_LIMIT`, and the number of the others as a last item."""
    if len(json.dumps(items)) <= _VALUE_LIMIT:
        return items
    kept: list[str] = []
    while len(json.dumps([*kept, items[len(kept)], f"+{len(items)} more"])) <= _VALUE_LIMIT:
        kept.append(items[len(kept)])
    return [*kept, f"+{len(items) - len(kept)} more"]
