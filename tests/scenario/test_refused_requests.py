"""Requests that must be refused, each with its own code, on real servers. A refused run leaves no grant and no secret."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.documents.query import QUERY_LABELS
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import dataset_workflow_id, document_digest
from cleanroom.messages.query import GenerateQueryRequest
from cleanroom.messages.run import RunTicket
from cleanroom.publishing.query_document import generate_query
from cleanroom.publishing.user_documents import proposal_id_for
from cleanroom.runs.reader import UserReader
from cleanroom.statements import load_or_create_signing_key, sign
from starters.cli import app
from starters.operations.consent import set_consent
from starters.operations.datasets import publish_dataset, upload_rows
from starters.operations.queries import create_query
from starters.operations.session import Session, now, run_async
from tests.local_cloud import Cloud, World, code_of, flights_spec, planes_spec, ticket_of, unique

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def approved(cloud: Cloud, world: World) -> tuple[str, str]:
    """Name and digest of a query that both owners approved."""
    state = cloud.approved_query(world.query())
    return state.query, state.digest


# ---------------------------------------------------------------------- approvals


def test_run_without_the_approval_of_one_owner_is_refused(cloud: Cloud, world: World) -> None:
    state = cloud.propose(world.query())
    cloud.decide(cloud.litware, state.query)
    assert cloud.failed_run(state.query, state.digest)[0] == "QueryNotApproved"


def test_run_of_a_rejected_query_is_refused(cloud: Cloud, world: World) -> None:
    state = cloud.propose(world.query())
    cloud.decide(cloud.litware, state.query)
    after = cloud.decide(cloud.contosso, state.query, "reject", reason="not with my flights")
    assert after.stage == "Draft"
    assert cloud.failed_run(state.query, state.digest)[0] == "QueryNotApproved"


def test_run_of_a_query_that_only_its_author_approved_is_refused(cloud: Cloud, world: World) -> None:
    """Governance accepts any list of approvers. The clean room derives the owners itself."""
    spec, author = world.query("malicious"), cloud.fabrikam

    async def sneak() -> str:
        async with author.governance() as client:
            reader, documents = UserReader(client, author.collaboration), author.documents(client)
            request = GenerateQueryRequest(collaboration=author.collaboration, spec=spec, proposer_id=author.user_id)
            draft = await generate_query(reader, request)
            version = await documents.put_draft(spec.name, draft.data, QUERY_LABELS, [author.user_id])
            proposal = await documents.propose(spec.name, version, proposal_id_for(spec.name, version))
            await documents.vote(proposal, author.user_id, accept=True)
            stored = await documents.get(spec.name)
            assert stored.state == "Accepted"
            return document_digest(str(stored.data))

    assert cloud.failed_run(spec.name, run_async(sneak()))[0] == "QueryMissingApprovalsFromDatasetOwners"


def test_vote_without_a_signed_decision_does_not_count(cloud: Cloud, world: World) -> None:
    """Contosso's token is sufficient to cast a ballot in governance, but not to sign a decision."""
    state = cloud.propose(world.query())
    cloud.decide(cloud.litware, state.query)

    async def vote() -> None:
        async with cloud.contosso.governance() as client:
            await cloud.contosso.documents(client).vote(state.proposal_id, cloud.contosso.user_id, accept=True)

    run_async(vote())
    assert cloud.failed_run(state.query, state.digest)[0] == "SignedDecisionMissing"


def test_run_with_the_digest_of_another_text_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    assert cloud.failed_run(approved[0], "0" * 64)[0] == "QueryDigestMismatch"


# ---------------------------------------------------------------------- consent


@pytest.mark.parametrize("party", ["litware", "contosso"])
def test_run_without_consent_to_the_query_is_refused(cloud: Cloud, approved: tuple[str, str], party: str) -> None:
    _without_consent(cloud, cloud.session(party), approved[0], approved)


@pytest.mark.parametrize(("party", "dataset"), [("contosso", "flights"), ("litware", "planes"), ("litware", "output")])
def test_run_without_consent_to_a_dataset_is_refused(
    cloud: Cloud, world: World, approved: tuple[str, str], party: str, dataset: str
) -> None:
    _without_consent(cloud, cloud.session(party), getattr(world, dataset).name, approved)


def _without_consent(cloud: Cloud, session: Session, document: str, approved: tuple[str, str]) -> None:
    run_async(set_consent(session, document, enabled=False))
    try:
        assert cloud.failed_run(*approved)[0] == "UserDocumentRuntimeOptionDisabled"
    finally:
        run_async(set_consent(session, document, enabled=True))


# ---------------------------------------------------------------------- callers


def _refusal(cloud: Cloud, ticket: RunTicket) -> str:
    run_async(cloud.start_ticket(ticket, "fabrikam"))
    result = cloud.result(ticket.run_id)
    assert (result.state, cloud.leftovers.staged(ticket.run_id), cloud.leftovers.grants()) == ("FAILED", [], {})
    assert result.failure is not None
    return result.failure.code


def test_run_by_an_unknown_user_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    ticket, _ = ticket_of(cloud, *approved, signer=str(uuid.uuid4()))
    assert _refusal(cloud, ticket) == "CallerNotAuthorized"


def test_run_request_in_the_name_of_another_user_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    """Fabrikam signs in Litware's name, so the key is not one that Litware published."""
    ticket, _ = ticket_of(cloud, *approved, signer=cloud.litware.user_id)
    assert _refusal(cloud, ticket) == "ApproverKeyUnknown"


def test_run_request_by_an_unpublished_key_is_refused(cloud: Cloud, approved: tuple[str, str], tmp_path: Path) -> None:
    ticket, request = ticket_of(cloud, *approved)
    forged = ticket.model_copy(update={"request": sign(request, load_or_create_signing_key(tmp_path / "keys"))})
    assert _refusal(cloud, forged) == "ApproverKeyUnknown"


def test_expired_run_request_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    ticket, _ = ticket_of(cloud, *approved, expires=now() - dt.timedelta(seconds=1))
    assert _refusal(cloud, ticket) == "StatementExpired"


def test_run_request_of_another_run_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    ticket, _ = ticket_of(cloud, *approved)
    assert _refusal(cloud, ticket.model_copy(update={"run_id": unique("r")})) == "TicketMismatch"


def test_second_run_with_the_same_id_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    _, run_id = cloud.failed_run(approved[0], "1" * 64)
    assert code_of(lambda: cloud.start(*approved, run_id=run_id)) == "RunExists"
    assert code_of(lambda: cloud.start(approved[0], "1" * 64, run_id=run_id, by=cloud.litware)) == "RunExists"
    # The same request again is not a second run.
    assert cloud.start(approved[0], "1" * 64, run_id=run_id) == run_id
    assert cloud.result(run_id).state == "FAILED"


def test_unapproved_date_range_is_refused(cloud: Cloud, approved: tuple[str, str]) -> None:
    ticket, _ = ticket_of(cloud, *approved, parameters={"start_date": "2013-01-01", "end_date": "2013-01-02"})
    assert _refusal(cloud, ticket) == "ParametersNotApproved"


# ---------------------------------------------------------------------- datasets and queries


def test_publishing_an_existing_dataset_is_refused(cloud: Cloud, world: World) -> None:
    spec = world.flights
    assert run_async(publish_dataset(cloud.contosso, spec))["workflow_id"] == dataset_workflow_id(cloud.collaboration, spec.name)
    changed = spec.model_copy(update={"allowed_columns": tuple(spec.columns)[:1]})
    assert code_of(lambda: run_async(publish_dataset(cloud.contosso, changed))) == "DatasetExists"
    of_another_owner = spec.model_copy(update={"store": world.planes.store})
    assert code_of(lambda: run_async(publish_dataset(cloud.litware, of_another_owner))) == "DatasetExists"
    assert code_of(lambda: run_async(publish_dataset(cloud.litware, spec))) == "SettingMissing", "Litware has nothing in Azure"


def test_query_on_an_unknown_dataset_is_refused(cloud: Cloud, world: World) -> None:
    spec = world.query(inputs={"flights": "no-such-dataset", "planes": world.planes.name})
    assert code_of(lambda: run_async(create_query(cloud.fabrikam, spec))) == "DatasetNotAccepted"


def test_query_that_fails_the_gate_is_refused(cloud: Cloud, world: World) -> None:
    spec = world.query(sql="SELECT tailnum AS origin, 1 AS aircraft, 1 AS flights, 1.0 AS avg_dep_delay FROM flights")
    assert code_of(lambda: run_async(create_query(cloud.fabrikam, spec))) == "QueryRefusedByGate"


def test_upload_that_does_not_match_the_schema_is_refused(cloud: Cloud, world: World) -> None:
    spec = flights_spec(schema={"origin": "string", "tailnum": "string", "gate": "string"}, privacy={})
    error = _error(lambda: upload_rows(cloud.contosso, spec, [world.files["flights"]]))
    assert error.code == "SchemaMismatch"
    assert "gate" in error.message


def test_publishing_with_a_wrong_s3_secret_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"awsAccessKeyId": "LITWARE", "awsSecretAccessKey": "not-the-secret"}')
    wrong.chmod(0o600)
    store = {"kind": "aws-s3", "bucket": "litware", "subdirectory": "x", "connectionSecret": f"file:{wrong}"}
    error = _error(lambda: cloud.publish(cloud.litware, planes_spec(store=store)))
    assert error.code == "SignatureDoesNotMatch"
    assert "not-the-secret" not in str(error.to_dict())


@pytest.mark.parametrize("kind", ["dataset publish", "query create"])
def test_malformed_yaml_is_refused(cloud: Cloud, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\n  inputs: [\n")
    config = ("--config", str(cloud.state / "cleanroom.toml"), "--profile", "contosso")
    result = CliRunner().invoke(app, [*kind.split(), str(file), *config, "--output", "json"])
    assert result.exit_code == 2
    error = json.loads(result.stdout.splitlines()[-1])
    assert error["code"] == "YamlMalformed"
    assert "line 2" in error["message"]


def _error(work: Any) -> CleanRoomError:
    with pytest.raises(CleanRoomError) as caught:
        work()
    return caught.value
