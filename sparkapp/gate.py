"""The query gate again, in the pod: what Spark is given must be the gate's own rendering, to the letter."""

from __future__ import annotations

from cleanroom.errors import Refused
from cleanroom.spark.job import JobConfig, JobDataset
from cleanroom.sql import Catalog, Column, View, analyse
from cleanroom.sql.gate import Checker
from cleanroom.sql.lexical import Refusal


def require_rendering(job: JobConfig) -> None:
    """The SQL of the job is what the gate makes, here and now, of the text that the owners approved, under the owners' own floors.

    Besides, every segment is read as the gate reads its own renderings; each must come out unchanged and name nothing but the run's
    views, so that nothing outside of the gate's language reaches Spark.

    Raises:
        Refused: ``QueryNotRendered``; ``QuerySourceMissing`` where floors apply and the job does not hold the approved text.
    """
    _require_rewrite(job)
    checker = Checker(Catalog(views=tuple(_view(dataset) for dataset in job.datasets)), trusted=True)
    # Stable: segments of one sequence keep their order, as they run.
    segments = sorted(job.segments, key=lambda segment: segment.execution_sequence)
    for number, segment in enumerate(segments, start=1):
        try:
            sql, _, _ = checker.segment(segment.sql, last=number == len(segments))
        except Refusal as refusal:
            raise _refused(number, refusal.code) from None
        if checker.notes:
            raise _refused(number, checker.notes[0].code)
        if sql != segment.sql:
            raise _refused(number, "it reads back as another text")


def _require_rewrite(job: JobConfig) -> None:
    """Pass the approved text through the gate again, floors included, and compare with what is to run."""
    if not job.source:
        if job.has_floors():
            raise Refused("QuerySourceMissing", "job: it holds no approved text, so the owners' floors cannot be enforced again.")
        return
    views = tuple(
        View(
            name=dataset.view_name,
            owner=dataset.owner_id,
            columns=tuple(Column(name=name, type=kind) for name, kind in dataset.schema_fields.items()),
            allowed_columns=dataset.allowed_fields,
            floors=(dataset.floors,),
        )
        for dataset in job.datasets
    )
    verdict = analyse(job.source, Catalog(views=views))
    if not verdict.allowed:
        raise _refused(1, verdict.reasons[0].code)
    ours = [(item.execution_sequence, item.sql, item.pre_conditions, item.post_filters) for item in verdict.rewritten]
    theirs = [(item.execution_sequence, item.sql, item.pre_conditions, item.post_filters) for item in job.segments]
    if ours != theirs:
        number = next((i for i, pair in enumerate(zip(ours, theirs, strict=False), 1) if pair[0] != pair[1]), len(ours))
        raise _refused(number, "it is not what the gate makes of the approved text under the owners' floors")


def _view(dataset: JobDataset) -> View:
    visible = {name.lower() for name in (*dataset.allowed_fields, dataset.floors.identity_column) if name}
    columns = tuple(Column(name=name, type=kind) for name, kind in dataset.schema_fields.items() if name.lower() in visible)
    return View(name=dataset.view_name, owner=dataset.owner_id, columns=columns)


def _refused(number: int, why: str) -> Refused:
    return Refused(
        "QueryNotRendered",
        f"segment {number}: its SQL is not the query gate's rendering ({why}).",
        hint="The job must be built by a clean room of this version.",
    )
