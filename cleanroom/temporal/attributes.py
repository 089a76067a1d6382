"""The search attributes, declared once (users-and-threats 4.3): what an operator may filter by.

They stay plain text whatever the codec does, so they hold states, names that are public in the collaboration, counts and times; never
SQL, columns, storage URLs, e-mails or row counts. SQLite and SQL visibility stores allow 10 Keyword and 3 of each other type; a test
counts.
"""

from __future__ import annotations

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
"""Collaboration id."""
KIND: Final = SearchAttributeKey.for_keyword("CrKind")
"""``dataset``, ``query``, ``prepare`` or ``run``."""
QUERY: Final = SearchAttributeKey.for_keyword("CrQuery")
"""Name of the query document."""
STAGE: Final = SearchAttributeKey.for_keyword("CrStage")
"""Where it is: ``proposed``, ``prepare.release_keys``, ``run.watch`` …"""
OUTCOME: Final = SearchAttributeKey.for_keyword("CrOutcome")
"""``succeeded``, or the code of the error that ended it."""
PROPOSER: Final = SearchAttributeKey.for_keyword("CrProposer")
"""User name of the proposer."""
DIGEST: Final = SearchAttributeKey.for_keyword("CrDigest")
"""First 12 hex digits of the approved digest."""
DATASETS: Final = SearchAttributeKey.for_keyword_list("CrDatasets")
PENDING_FOR: Final = SearchAttributeKey.for_keyword_list("CrPendingFor")
"""Users whose decision is awaited: ``CrPendingFor = 'contosso'`` is the inbox."""
APPROVED_BY: Final = SearchAttributeKey.for_keyword_list("CrApprovedBy")
VERSION: Final = SearchAttributeKey.for_int("CrVersion")
ATTEMPTS: Final = SearchAttributeKey.for_int("CrAttempts")
EXPIRES_AT: Final = SearchAttributeKey.for_datetime("CrExpiresAt")
STAGE_SINCE: Final = SearchAttributeKey.for_datetime("CrStageSince")

ALL: Final[tuple[SearchAttributeKey[Any], ...]] = (
    COLLABORATION,
    KIND,
    QUERY,
    STAGE,
    OUTCOME,
    PROPOSER,
    DIGEST,
    DATASETS,
    PENDING_FOR,
    APPROVED_BY,
    VERSION,
    ATTEMPTS,
    EXPIRES_AT,
    STAGE_SINCE,
)

_TYPES: Final = {
    SearchAttributeIndexedValueType.KEYWORD: "Keyword",
    SearchAttributeIndexedValueType.KEYWORD_LIST: "KeywordList",
    SearchAttributeIndexedValueType.INT: "Int",
    SearchAttributeIndexedValueType.DATETIME: "Datetime",
}
REGISTRATION: Final[tuple[str, ...]] = tuple(f"{key.name}={_TYPES[key.indexed_value_type]}" for key in ALL)
"""For ``temporal server start-dev --search-attribute NAME=Type`` and ``temporal operator search-attribute create``."""

_KEYWORD_LIMIT: Final = 255
"""Visibility stores on SQL cut or refuse longer keywords."""


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
    version: int | None = None,
    expires_at: datetime | None = None,
    stage_since: datetime | None = None,
) -> TypedSearchAttributes:
    """Search attributes for a workflow's start; what is None is left out, ``digest`` is shortened."""
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
        (VERSION, version),
        (EXPIRES_AT, expires_at),
        (STAGE_SINCE, stage_since),
    ]
    return TypedSearchAttributes([SearchAttributePair(key, clean(value)) for key, value in values if value is not None])


def updates(*pairs: tuple[SearchAttributeKey[Any], Any]) -> list[SearchAttributeUpdate[Any]]:
    """Updates for ``workflow.upsert_search_attributes``; None (or an empty list) unsets."""
    return [key.value_unset() if value is None or value == [] else key.value_set(clean(value)) for key, value in pairs]


def short_digest(digest: str) -> str:
    """The part of a digest that people compare: 12 hex digits, without an algorithm prefix."""
    return digest.rpartition(":")[2][:12]


def clean(value: Any) -> Any:
    """``value`` as a search attribute takes it: keywords free of control characters and at most 255 long, lists sorted without repeats."""
    if isinstance(value, str):
        return plain(value, _KEYWORD_LIMIT)
    if isinstance(value, list | tuple | set | frozenset):
        return sorted({plain(str(item), _KEYWORD_LIMIT) for item in value})
    return value
