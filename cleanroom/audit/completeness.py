"""Checks of the records as a whole: no duplicates, all of this run, and a consistent outcome."""

from __future__ import annotations

from cleanroom.audit.bodies import DOCUMENT_KINDS, Body, ConsentBody, OutcomeBody, RevocationBody
from cleanroom.audit.chain import Kind
from cleanroom.audit.parsed_bundle import ParsedBundle
from cleanroom.audit.verdict import Checks
from cleanroom.identifiers import canonical_json, run_workflow_id

RUN_SUBJECT_KINDS: tuple[Kind, ...] = ("export", "request", "outcome", "job", "policies", "revocation", "receipt")
"""Kinds whose subject is the run ID."""


def check_records(bundle: ParsedBundle, checks: Checks) -> None:
    """Run all checks that do not depend on the evidence in a record. They detect a bundle that joins genuine records of two runs."""
    _check_duplicates(bundle, checks)
    _check_outcome(bundle, checks)


def _check_duplicates(bundle: ParsedBundle, checks: Checks) -> None:
    run_id = bundle.export.run_id
    seen: set[tuple[str, str, bytes]] = set()
    for item in bundle.all(Body):
        record = item.record
        if record.kind in RUN_SUBJECT_KINDS and record.subject != run_id:
            checks.add("complete", record, False, f"it belongs to run {record.subject!r}, the export to {run_id!r}")
        # A document must not have two records, even with different bodies. Records of other kinds must differ in their body.
        body = b"" if record.kind in DOCUMENT_KINDS else canonical_json(record.body)
        key = ("document" if record.kind in DOCUMENT_KINDS else record.kind, record.subject, body)
        if key in seen:
            checks.add("complete", record, False, f"a second record of {record.kind} {record.subject!r}")
        seen.add(key)


def _check_outcome(bundle: ParsedBundle, checks: Checks) -> None:
    item, export = bundle.one(OutcomeBody, checks, what="outcome"), bundle.export
    if item is None:
        return
    outcome = item.body
    problem = ""
    if outcome.workflow_id != run_workflow_id(export.collaboration, export.run_id):
        problem = f"it belongs to workflow {outcome.workflow_id!r}"
    elif outcome.state != export.state:
        problem = f"it ended as {outcome.state}, the export says {export.state}"
    elif outcome.started_at > outcome.closed_at:
        problem = "it ended before it started"
    checks.add("outcome", item.record, not problem, problem or f"{outcome.state} at {outcome.closed_at.isoformat(timespec='seconds')}")
    # A run that was reset continues from steps that are older than its start.
    first = min([outcome.started_at, *outcome.steps.values()])
    dated = [(each.record, each.body.at) for each in bundle.all(ConsentBody)]
    dated += [(each.record, each.body.at) for each in bundle.all(RevocationBody)]
    for record, at in dated:
        if not first <= at <= outcome.closed_at:
            checks.add(record.kind, record, False, f"its time, {at.isoformat(timespec='seconds')}, is not within the run")
