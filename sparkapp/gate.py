"""The query gate again, in the pod: what Spark is given must be the gate's own rendering, to the letter."""

from __future__ import annotations

from cleanroom.errors import Refused
from cleanroom.spark.job import JobConfig, JobDataset
from cleanroom.sql import Catalog, Column, View
from cleanroom.sql.gate import Checker
from cleanroom.sql.lexical import Refusal


def require_rendering(job: JobConfig) -> None:
    """Read every segment as the gate reads its own renderings; each must come out unchanged and name nothing but the run's views.

    The owners' floors were rewritten into this text where the job was made, in the attested clean room; here is checked that the text is
    still one of the gate's, so that nothing outside of its language reaches Spark.

    Raises:
        Refused: ``QueryNotRendered``.
    """
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
