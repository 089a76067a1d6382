"""The records as a whole: each once, each of this run, and how the run ended."""

from __future__ import annotations

from cleanroom.audit.bodies import DOCUMENT_KINDS, Body, ConsentBody, OutcomeBody, RevocationBody
from cleanroom.audit.chain import Kind
from cleanroom.audit.parsed_bundle import ParsedBundle
from cleanroom.audit.verdict import Checks
from cleanroom.identifiers import canonical_json, run_workflow_id

RUN_SUBJECT_KINDS: tuple[Kind, ...] = ("export", "request", "outcome", "job", "policies", "revocation", "receipt")
"""Kinds whose subject is the run's id."""


def check_records(bundle: ParsedBundle, checks: Checks) -> None:
    """All checks that ask nothing of a record's evidence: whoever joins genuine records of two runs is found by them."""
    _once(bundle, checks)
    _outcome(bundle, checks)


def _once(bundle: ParsedBundle, checks: Checks) -> None:
    run_id = bundle.export.run_id
    seen: set[tuple[str, str, bytes]] = set()
    for item in bundle.all(Body):
        record = item.record
        if record.kind in RUN_SUBJECT_KINDS and record.subject != run_id:
            checks.add("complete", record, False, f"it is of run {record.subject!r}, the export of {run_id!r}")
        # Two records of one document could tell two stories; of what comes more than once, no two are the same.
        body = b"" if record.kind in DOCUMENT_KINDS else canonical_json(record.body)
        key = ("document" if record.kind in DOCUMENT_KINDS else record.kind, record.subject, body)
        if key in seen:
            checks.add("complete", record, False, f"a second record of {record.kind} {record.subject!r}")
        seen.add(key)


def _outcome(bundle: ParsedBundle, checks: Checks) -> None:
    item, export = bundle.one(OutcomeBody, checks, what="outcome"), bundle.export
    if item is None:
        return
    outcome = item.body
    problem = ""
    if outcome.workflow_id != run_workflow_id(export.collaboration, export.run_id):
        problem = f"it is of workflow {outcome.workflow_id!r}"
    elif outcome.state != export.state:
        problem = f"it ended as {outcome.state}, the export says {export.state}"
    elif outcome.started_at > outcome.closed_at:
        problem = "it ended before it started"
    checks.add("outcome", item.record, not problem, problem or f"{outcome.state} at {outcome.closed_at.isoformat(timespec='seconds')}")
    # A run that was reset goes on from steps that are older than its start.
    first = min([outcome.started_at, *outcome.steps.values()])
    dated = [(each.record, each.body.at) for each in bundle.all(ConsentBody)]
    dated += [(each.record, each.body.at) for each in bundle.all(RevocationBody)]
    for record, at in dated:
        if not first <= at <= outcome.closed_at:
            checks.add(record.kind, record, False, f"its time, {at.isoformat(timespec='seconds')}, is not within the run")
