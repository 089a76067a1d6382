"""Lists events of governance's ledger and exports audit bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanroom.documents.query import QUERY_LABELS, parse_query
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.identifiers import require_name
from starters.operations.session import Session
from starters.terminal.output import print_status, safe

# Imported on use: evidence and its verification take a third of a second to import.
if TYPE_CHECKING:
    from cleanroom.governance import Event, GovernanceUserClient


async def list_events(session: Session, *, run: str | None = None, query: str | None = None) -> list[Event]:
    """Return audit events in the order of the ledger.

    Args:
        session: Session of the command.
        run: Return the events of this run.
        query: Return the starts of this query's runs. Without ``run`` and ``query``, the events of the collaboration and the starts of
            all runs are returned.

    Raises:
        NotFound: ``RunNotInLedger``, ``UserDocumentNotFound``.
    """
    async with session.governance() as client:
        if run is not None:
            found = await _run_events(session, client, require_name("run", run))
            if not found:
                raise NotFound(
                    "RunNotInLedger", f"the ledger has no event of run {run!r}.", hint="List the runs with `cleanroom run list`."
                )
        elif query is not None:
            await session.documents(client).get(query)
            found = await _run_starts(session, client, query)
        else:
            own = client.events(session.collaboration)
            found = [event async for event in own] if await client.latest_event(session.collaboration) else []
            for document in await session.documents(client).select(QUERY_LABELS):
                # A document that cannot be read has run starts too, by its name.
                found += await _run_starts(session, client, document.id)
    return sorted(found, key=lambda event: event.seqno)


async def _run_events(session: Session, client: GovernanceUserClient, run: str) -> list[Event]:
    """The events of a run. Events of its datasets need the query document, which names the datasets."""
    from cleanroom.audit.export import run_events

    found = [event async for event in run_events(client, session.collaboration, run, [])]
    names = [str(event.data["query"]) for event in found if isinstance(event.data, dict) and isinstance(event.data.get("query"), str)]
    if not names:
        return found
    try:
        document = parse_query(str((await session.documents(client).get(names[0])).data), document_id=names[0])
    except CleanRoomError as error:
        print_status(f"[dim]events of the run's datasets are not included ({safe(error.code)})[/dim]")
        return found
    datasets = [item.specification for item in (*document.application.input_dataset, document.application.output_dataset)]
    return [event async for event in run_events(client, session.collaboration, run, datasets)]


async def _run_starts(session: Session, client: GovernanceUserClient, query: str) -> list[Event]:
    from cleanroom.runs.ledger import RUNS_SCOPE, runs_event_id

    id = runs_event_id(query)
    if await client.latest_event(session.collaboration, event_id=id, scope=RUNS_SCOPE) is None:
        return []
    return [event async for event in client.events(session.collaboration, event_id=id, scope=RUNS_SCOPE)]


async def export_run(session: Session, run_id: str, file: Path) -> dict[str, Any]:
    """Collect the evidence of a run, sign it, and write it to ``file`` as an audit bundle.

    Raises:
        NotFound: ``WorkflowNotFound``.
        PreconditionFailed: ``RunNotEnded``.
    """
    client = await session.temporal()
    from cleanroom.audit.export import Exporter
    from cleanroom.audit.files import write_bundle
    from cleanroom.audit.history import trace_run

    trace = await trace_run(client, session.collaboration, run_id)
    async with session.governance() as governance:
        bundle = await Exporter(governance, session.collaboration, session.user_id, session.key()).export(trace)
    write_bundle(bundle, file)
    return {
        "file": str(file),
        "run_id": run_id,
        "state": trace.state,
        "records": len(bundle.records),
        "head": bundle.manifest.head,
        "sealedBy": bundle.manifest.facts.get("sealedBy"),
    }
