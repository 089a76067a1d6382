"""Prepares the rehearsal of a query: the job that a run would have, with synthetic rows in place of the owners' rows."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from cleanroom.datasets.synthetic import SyntheticInput, synthetic_tables
from cleanroom.documents.query import QueryDocument
from cleanroom.identifiers import document_digest
from cleanroom.publishing.query_check import CheckedDraft
from cleanroom.runs.assembly import JobEnvironment, assemble_job
from cleanroom.runs.authorised import AuthorisedRun
from cleanroom.runs.parameters import verify_parameters
from cleanroom.runs.reader import AcceptedDocument
from cleanroom.spark.job import JobConfig, JobParameters
from cleanroom.statements.model import RunRequest

_NOWHERE = JobEnvironment(governance_url="https://rehearsal.invalid", authority="https://rehearsal.invalid")


def rehearsal_job(checked: CheckedDraft, document: QueryDocument, parameters: JobParameters) -> JobConfig:
    """Return the job that a run of the draft would have. It names no service that exists.

    Args:
        checked: The draft with its datasets.
        document: Its query document.
        parameters: The days of the run.

    Raises:
        InvalidInput, Refused: With these days a run would be refused; see :func:`cleanroom.runs.parameters.verify_parameters`.
    """
    verify_parameters(parameters, document)
    assert checked.sink is not None
    assert document.approval is not None
    data = document.to_data()
    collaboration, proposer = document.approval.collaboration, document.approval.proposer_id
    request = RunRequest(
        collaboration=collaboration,
        signer=proposer,
        expires=dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(hours=1),
        query=document.name,
        digest=document_digest(data),
        run_id="rehearsal",
        parameters=parameters,
    )
    accepted = AcceptedDocument(id=document.name, version="0.0", contract_id=collaboration, data=data, proposer_id=proposer)
    run = AuthorisedRun(
        request=request,
        token="",
        document=accepted,
        query=document,
        inputs=checked.inputs,
        sink=checked.sink,
        owners=checked.owners,
        decisions=(),
        runs_left=None,
    )
    return assemble_job(run, _NOWHERE)


def rehearsal_rows(job: JobConfig, *, rows: int, seed: int) -> dict[str, pa.Table]:
    """Return synthetic rows by view; see :func:`cleanroom.datasets.synthetic.synthetic_tables`."""
    needed: dict[str, int] = {}
    for segment in job.segments:
        for condition in segment.pre_conditions:
            name = condition.view_name.lower()
            needed[name] = max(needed.get(name, 0), condition.min_row_count)
    inputs = [
        SyntheticInput(
            view=item.view_name,
            types=item.schema_fields,
            identity=item.floors.identity_column,
            unique=item.unique_columns,
            floor=item.floors.min_group_size,
            min_rows=needed.get(item.view_name.lower(), 0),
        )
        for item in job.datasets
    ]
    return synthetic_tables(inputs, [segment.data for segment in job.source], rows=rows, seed=seed)
