"""Rehearses a query on synthetic rows in a local Spark, and reads how many bytes the real run would read."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cleanroom.documents.query import QUERY_LABELS, parse_query
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, NotFound, PreconditionFailed
from cleanroom.spark.job import JobParameters
from starters.operations.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from cleanroom.governance import GovernanceUserClient
    from cleanroom.publishing.query_check import CheckedDraft
    from cleanroom.runs.authorised import Dataset
    from cleanroom.spark.job import JobConfig
    from sparkapp.rehearsal import Rehearsed

MAX_QUERIES = 20
"""Queries whose last run is looked up for the stored bytes of a dataset."""


def require_spark() -> None:
    """Require what a local Spark needs.

    Raises:
        PreconditionFailed: ``SparkNotInstalled``.
    """
    missing = [f"the Python package {name}" for name in ("pyspark", "pandas", "pyarrow") if importlib.util.find_spec(name) is None]
    missing += [] if shutil.which("java") else ["a Java runtime (the command java)"]
    if missing:
        raise PreconditionFailed(
            "SparkNotInstalled",
            f"a rehearsal needs a local Spark; this machine lacks {' and '.join(missing)}.",
            hint="Install Java 17 or newer, and `pip install 'cleanroom[rows,spark]'`. `cleanroom query check FILE` needs neither.",
        )


def _local_spark() -> Callable[..., Rehearsed]:
    require_spark()
    from sparkapp.rehearsal import rehearse

    return rehearse


async def rehearse_query(
    session: Session,
    spec: QuerySpec,
    *,
    rows: int,
    seed: int,
    on_step: Callable[[str], None],
    parameters: JobParameters | None = None,
    execute: Callable[..., Rehearsed] | None = None,
) -> dict[str, Any]:
    """Check a draft, execute it on synthetic rows, and return what came out, with the bytes that the real run would read.

    Args:
        session: Session of any collaborator.
        spec: The draft.
        rows: Synthetic rows of each input.
        seed: Seed of the rows.
        on_step: Called with the name of each step.
        parameters: The days that a run would select; none by default.
        execute: Executes a job; the pod's program in a local Spark by default.

    Raises:
        PreconditionFailed: ``SparkNotInstalled``.
        CleanRoomError: What `cleanroom query check` refuses, what a run with these days meets, and what the pod's program raises.
    """
    import asyncio

    from cleanroom.publishing.query_check import check_draft
    from cleanroom.publishing.rehearsal import rehearsal_job, rehearsal_rows
    from cleanroom.runs.reader import UserReader

    run = execute if execute is not None else _local_spark()
    days = parameters or JobParameters()
    on_step("read the datasets")
    async with session.governance() as client:
        reader = UserReader(client, session.collaboration)
        checked = await check_draft(reader, spec, collaboration=session.collaboration, proposer_id=session.user_id)
        document, _ = checked.require_allowed()
        job = rehearsal_job(checked, document, days)
        on_step("look up stored bytes")
        sizes = await _stored_bytes(session, client, spec.name, checked.inputs, days)
    on_step("make synthetic rows")
    tables = rehearsal_rows(job, rows=rows, seed=seed)
    started = time.monotonic()
    result = await asyncio.to_thread(_execute, run, job, tables, on_step)
    selected = {"start_date": days.start_date, "end_date": days.end_date}
    return _record(checked, result, tables, sizes, seed) | selected | {"seconds": round(time.monotonic() - started, 1)}


def _execute(
    execute: Callable[..., Rehearsed], job: JobConfig, tables: Mapping[str, pa.Table], on_step: Callable[[str], None]
) -> Rehearsed:
    """Execute a job. An error of Spark becomes one of this project, as in the pod; the rows are synthetic and may be shown."""
    try:
        return execute(job, tables, on_step=on_step)
    except CleanRoomError as error:
        if error.code == "PreconditionFailed":
            error.hint = "Rehearse with more rows: --rows. The rows are synthetic."
        raise
    except Exception as error:
        from sparkapp.failures import redact_error

        found = redact_error(error)
        found.cause = found.cause or (str(error).splitlines() or [""])[0][:400] or None
        found.hint = found.hint or "The pod would fail in the same way on such rows. Correct the query."
        raise found from error


def _record(
    checked: CheckedDraft, result: Rehearsed, tables: Mapping[str, pa.Table], sizes: Mapping[str, tuple[int | None, str]], seed: int
) -> dict[str, Any]:
    inputs = [
        {
            "view": item.view,
            "dataset": item.dataset.name,
            "synthetic_rows": tables[item.view].num_rows,
            "columns_read": list(result.columns_read[item.view]),
            "stored_bytes": sizes[item.view][0],
            "stored_bytes_from": sizes[item.view][1],
        }
        for item in checked.inputs
    ]
    known = [size for size, _ in sizes.values()]
    share = None if not result.groups or result.suppressed is None else round(result.suppressed / result.groups, 4)
    return {
        "query": checked.spec.name,
        "seed": seed,
        "columns": result.columns,
        "rows": result.rows,
        "groups": result.groups,
        "suppressed_groups": result.suppressed,
        "suppressed_share": share,
        "inputs": inputs,
        "bytes_to_read": None if None in known else sum(size for size in known if size is not None),
    }


async def _stored_bytes(
    session: Session, client: GovernanceUserClient, query: str, inputs: Sequence[Dataset], days: JobParameters
) -> dict[str, tuple[int | None, str]]:
    """Return by view the stored bytes of a dataset and where the number is from: its owner's manifest, or the last run that read it."""
    found: dict[str, tuple[int | None, str]] = {}
    for item in inputs:
        if item.owner_id == session.user_id and (own := _own_bytes(session, item, days)) is not None:
            found[item.view] = own, "your manifest"
    others = [item for item in inputs if item.view not in found]
    queries = await _accepted_queries(session, client) if others else {}
    for item in others:
        names = [name for name, datasets in queries.items() if name != query and item.dataset.name in datasets]
        found[item.view] = await _bytes_of_last_run(session, client, [query, *names][:MAX_QUERIES], item.dataset.name)
    return found


async def _bytes_of_last_run(session: Session, client: GovernanceUserClient, queries: list[str], dataset: str) -> tuple[int | None, str]:
    from cleanroom.runs.ledger import RUNS_SCOPE, event_scope, runs_event_id
    from cleanroom.spark.run_events import event_id, parse_event

    for name in queries:
        latest = await client.latest_event(session.collaboration, event_id=runs_event_id(name), scope=RUNS_SCOPE)
        run = latest.data.get("runId") if latest is not None and isinstance(latest.data, dict) else None
        if not isinstance(run, str):
            continue
        id = event_id(run, "DATASET_LOAD_COMPLETED", dataset)
        loaded = await client.latest_event(session.collaboration, event_id=id, scope=event_scope(run))
        if loaded is None or not isinstance(loaded.data, dict):
            continue
        size = parse_event(loaded.data).statistics.get("storedBytes")
        if size is not None:
            return int(size), f"run {run}"
    return None, "unknown: no run has read it, and you do not own it"


def _own_bytes(session: Session, item: Dataset, days: JobParameters) -> int | None:
    """Return the bytes of an own dataset that a run reads: those of the selected days, if it is partitioned by day.

    Raises:
        NotFound: ``NoDataInDateRange``, as in the run.
    """
    from starters.operations.own_datasets import read_own_manifest

    try:
        manifest = read_own_manifest(session, item.dataset.name)
    except CleanRoomError:
        return None
    if manifest is None:
        return None
    if item.dataset.dataset_schema.partitioned_by != "day" or days.start_date is None or days.end_date is None:
        return manifest.stored_bytes()
    chosen = [entry for name, entry in manifest.objects.items() if days.start_date <= name.split("/")[0] <= days.end_date]
    if not chosen:
        raise NotFound(
            "NoDataInDateRange",
            f"dataset {item.dataset.name!r}: no day from {days.start_date} to {days.end_date} has a partition.",
            hint="Choose other days. `cleanroom dataset objects NAME` lists those that are stored.",
        )
    return sum(entry.size for entry in chosen)


async def _accepted_queries(session: Session, client: GovernanceUserClient) -> dict[str, set[str]]:
    """Return the accepted queries, and the datasets that each reads."""
    from cleanroom.governance import Document

    found = {}
    for document in await session.documents(client).select(QUERY_LABELS):
        if not isinstance(document, Document) or document.state != "Accepted":
            continue
        try:
            application = parse_query(str(document.data), document_id=document.id).application
        except CleanRoomError:
            continue
        found[document.id] = {item.specification for item in application.input_dataset}
    return found
