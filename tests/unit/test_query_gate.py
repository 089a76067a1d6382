"""The query gate on documents and on jobs: one catalogue, the fit of the result, and the pod's verification of the rendered SQL."""

from __future__ import annotations

import asyncio

import pytest

from cleanroom.documents.dataset import DatasetDocument, FieldType, PrivacyFloors
from cleanroom.documents.query import QuerySegment, QuerySegments
from cleanroom.documents.result_types import RESULT_TYPES, result_type_fits
from cleanroom.errors import Refused
from cleanroom.query_gate import check_query, document_catalog, job_catalog, require_allowed, verify_rendering
from cleanroom.runs.authority import RunAuthority
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobSegment, S3Access
from cleanroom.sql import Catalog, Column, View, analyse
from tests.audit_world import COLLABORATION, AuditWorld

ACCESS = S3Access(region="us-east-1", bucket="b", connection_secret_id="cleanroom_r.d.connection")
COLUMNS = {"person": "string", "region": "string", "amount": "number"}
FLOOR = PrivacyFloors(min_group_size=20, identity_column="person", allowed_output_columns=("region",))
SQL = "SELECT region, COUNT(*) AS n, SUM(amount) AS total FROM sales GROUP BY region"


def _dataset(floors: PrivacyFloors) -> JobDataset:
    return JobDataset(
        name="sales",
        view_name="sales",
        owner_id="owner",
        document_version="2.1",
        document_digest="0" * 64,
        format="csv",
        schema=COLUMNS,
        allowed_fields=tuple(COLUMNS),
        floors=floors,
        access=ACCESS,
    )


def _job(*, floors: PrivacyFloors = FLOOR, source: str | None = SQL, rendered_under: PrivacyFloors = FLOOR) -> JobConfig:
    text = QuerySegment(execution_sequence=1, data=source or SQL)
    columns = tuple(Column(name=name, type=kind) for name, kind in COLUMNS.items())
    view = View(name="sales", owner="owner", columns=columns, allowed_columns=tuple(COLUMNS), floors=(rendered_under,))
    verdict = analyse([QuerySegment(execution_sequence=1, data=SQL)], Catalog(views=(view,)))
    assert verdict.allowed
    segments = tuple(JobSegment(execution_sequence=s.execution_sequence, sql=s.sql, source_digest="0" * 64) for s in verdict.rewritten)
    return JobConfig(
        contract_id="c",
        run_id="r",
        query_id="q",
        query_version="2.3",
        query_digest="0" * 64,
        segments=segments,
        source=(text,) if source else (),
        datasets=(_dataset(floors),),
        datasink=_dataset(PrivacyFloors()),
        consent_secret_id="cleanroom_r.q.consent",
        event_scope="run-r",
        governance=JobGovernance(url="https://cgs.example"),
    )


def test_rendering_of_the_approved_text_is_accepted() -> None:
    verify_rendering(_job())


def test_rendering_without_the_owners_floor_is_refused() -> None:
    with pytest.raises(Refused, match="floors") as refusal:
        verify_rendering(_job(rendered_under=PrivacyFloors()))
    assert refusal.value.code == "QueryNotRendered"


def test_rendering_under_a_weaker_floor_is_refused() -> None:
    stricter = FLOOR.model_copy(update={"min_group_size": 50})
    with pytest.raises(Refused) as refusal:
        verify_rendering(_job(floors=stricter))
    assert refusal.value.code == "QueryNotRendered"


def test_rendering_of_a_different_text_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        verify_rendering(_job(source="SELECT region, COUNT(*) AS n FROM sales GROUP BY region"))
    assert refusal.value.code == "QueryNotRendered"


def test_job_with_floors_but_without_the_approved_text_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        verify_rendering(_job(source=None))
    assert refusal.value.code == "QuerySourceMissing"


def test_job_without_floors_and_text_has_segments_that_are_their_own_rendering() -> None:
    job = _job(source=None, floors=PrivacyFloors(), rendered_under=PrivacyFloors())
    verify_rendering(job)
    (segment,) = job.segments
    for sql in (
        SQL,
        segment.sql.lower(),
        f"{segment.sql} -- comment",
        "SELECT * FROM csv.`/etc/passwd`",
        "SELECT java_method('a', 'b') AS x",
    ):
        with pytest.raises(Refused) as refusal:
            verify_rendering(job.model_copy(update={"segments": (segment.model_copy(update={"sql": sql}),)}))
        assert refusal.value.code == "QueryNotRendered"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("gate"))


def test_documents_and_job_give_the_same_catalogue(world: AuditWorld) -> None:
    run = asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ticket))
    assert document_catalog(run.inputs) == job_catalog(world.job)


def _reasons(world: AuditWorld, sql: str, types: dict[str, str]) -> list[str]:
    """The gate's reasons for a query whose output dataset has columns of ``types``."""
    run = asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ticket))
    document = run.sink.dataset.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["datasetSchema"]["fields"] = [{"fieldName": name, "fieldType": kind} for name, kind in types.items()]
    document["datasetAccessPolicy"]["allowedFields"] = list(types)
    segments = QuerySegments(segments=(QuerySegment(execution_sequence=1, data=sql),))
    verdict = check_query(segments, run.inputs, DatasetDocument.model_validate(document))
    return [reason.code for reason in verdict.reasons]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ({"carrier": "string", "flights": "long"}, []),
        ({"carrier": "string", "flights": "long", "delay": "number"}, ["OutputColumnMissing"]),
        ({"Carrier": "string", "flights": "long"}, ["OutputColumnNotInSink", "OutputColumnMissing"]),
        ({"carrier": "string", "flights": "number"}, ["OutputTypeMismatch"]),
        ({"carrier": "string", "flights": "integer"}, ["OutputTypeMismatch"]),
    ],
)
def test_result_that_does_not_fit_the_output_dataset_is_found_by_the_gate(
    world: AuditWorld, types: dict[str, str], expected: list[str]
) -> None:
    assert _reasons(world, "SELECT carrier, COUNT(*) AS flights FROM flights GROUP BY carrier", types) == expected


@pytest.mark.parametrize("field_type", sorted(RESULT_TYPES))
def test_gate_and_pod_accept_the_same_result_types(field_type: FieldType) -> None:
    spark = {"tinyint", "smallint", "int", "bigint", "float", "double", "decimal(38,18)", "string", "boolean", "date", "timestamp"}
    accepted = {name for name in spark if result_type_fits(field_type, name)}
    names = {"int": "integer", "bigint": "long", "double": "number", "decimal(38,18)": "decimal"}
    assert {names.get(name, name) for name in accepted} == RESULT_TYPES[field_type]
    assert result_type_fits(field_type, "timestamp_ntz") == (field_type == "timestamp")


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT * FROM nowhere", "UnknownRelation"),
        ("SELECT carrier AS airline, COUNT(*) AS flights FROM flights GROUP BY carrier", "OutputColumnNotInSink"),
        ("SELECT carrier AS manufacturer, 'many' AS flights FROM flights GROUP BY carrier", "OutputTypeMismatch"),
    ],
)
def test_refused_query_names_the_reason(world: AuditWorld, sql: str, reason: str) -> None:
    run = asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ticket))
    segments = QuerySegments(segments=(QuerySegment(execution_sequence=1, data=sql),))
    with pytest.raises(Refused, match="query 'q'") as refusal:
        require_allowed("q", segments, run.inputs, run.sink.dataset)
    assert refusal.value.code == "QueryRefusedByGate"
    assert refusal.value.details["reasons"][0]["code"] == reason
