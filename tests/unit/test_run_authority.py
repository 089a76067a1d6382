"""The checks of :class:`RunAuthority`, on real documents and signatures, without a server."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from cleanroom.documents.query import RunParameters
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import decision_document_id
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.reader import Consent
from cleanroom.spark.job import JobParameters
from tests.audit_world import COLLABORATION, DATASETS, QUERY, AuditWorld

Worlds = Callable[[RunParameters], AuditWorld]

NONE = RunParameters()
ANY = RunParameters(date_range=True)
JANUARY = RunParameters(date_range=True, earliest="2013-01-01", latest="2013-01-31")
SINCE = RunParameters(date_range=True, earliest="2013-01-01")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return cache(lambda bounds: AuditWorld(tmp_path_factory.mktemp("authority"), bounds=bounds))


def outcome(world: AuditWorld, start: str | None, end: str | None) -> str:
    try:
        asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ask(JobParameters(start_date=start, end_date=end))))
    except CleanRoomError as error:
        return error.code
    return "authorised"


@pytest.mark.parametrize(
    ("approved", "start", "end", "code"),
    [
        (NONE, None, None, "authorised"),
        (NONE, "2013-01-01", "2013-01-02", "ParametersNotApproved"),
        (ANY, None, None, "authorised"),
        (ANY, "1999-01-01", "2099-01-01", "authorised"),
        (ANY, "2013-01-02", "2013-01-01", "InvalidDateRange"),
        (ANY, "2013-01-02", None, "InvalidDateRange"),
        (ANY, None, "2013-01-02", "InvalidDateRange"),
        (ANY, "2013-02-01", "2013-02-30", "InvalidDateFormat"),
        (JANUARY, "2013-01-01", "2013-01-31", "authorised"),
        (JANUARY, "2012-12-31", "2013-01-31", "ParametersNotApproved"),
        (JANUARY, "2013-01-01", "2013-02-01", "ParametersNotApproved"),
        (JANUARY, None, None, "ParametersNotApproved"),
        (SINCE, None, None, "ParametersNotApproved"),
        (SINCE, "2013-01-01", "2099-01-01", "authorised"),
    ],
)
def test_requested_days_must_lie_within_the_approved_days(
    worlds: Worlds, approved: RunParameters, start: str | None, end: str | None, code: str
) -> None:
    assert outcome(worlds(approved), start, end) == code


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"earliest": "2013-01-01"}, "need dateRange: true"),
        ({"dateRange": True, "latest": "2013-02-30"}, "not a valid date"),
        ({"dateRange": True, "earliest": "2013-02-01", "latest": "2013-01-01"}, "is after latest"),
        ({"dateRange": True, "earliest": "yesterday"}, "pattern"),
    ],
)
def test_invalid_parameter_bounds_are_rejected(bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RunParameters.model_validate(bounds)


# ---------------------------------------------------------------------- approvals, datasets and consent

Change = Callable[[AuditWorld], None]


def document(name: str, **changes: Any) -> Change:
    """Change members of a document in governance."""

    def change(world: AuditWorld) -> None:
        world.documents[name] = world.documents[name].model_copy(update=changes)

    return change


def data(name: str, path: str, value: Any) -> Change:
    """Change the text of a document under the same version."""

    def change(world: AuditWorld) -> None:
        content = json.loads(str(world.documents[name].data))
        *parents, last = path.split(".")
        target: Any = content
        for part in parents:
            target = target[int(part)] if part.isdigit() else target[part]
        target[last] = value
        document(name, data=json.dumps(content))(world)

    return change


def without_vote_of(owner: str) -> Change:
    def change(world: AuditWorld) -> None:
        query = world.documents[QUERY]
        left = [user for user in query.final_votes if user.approver_id != world.users[owner]]
        # A proposer who calls governance directly can name any approvers; the document is accepted when these accept.
        approvers = tuple(user for user in query.approvers if user.approver_id != world.users[owner])
        document(QUERY, final_votes=tuple(left), approvers=approvers)(world)

    return change


def decision(owner: str, **changes: Any) -> Change:
    return lambda world: world.decide(owner, **changes)


def without_decision_of(owner: str) -> Change:
    return lambda world: world.documents.pop(decision_document_id(world.documents[QUERY].proposal_id, world.users[owner])) and None


LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without_vote_of("contosso"), "QueryMissingApprovalsFromDatasetOwners"),
        # Litware also owns the output, whose owner must approve too.
        (without_vote_of("litware"), "QueryMissingApprovalsFromDatasetOwners"),
        (without_decision_of("contosso"), "SignedDecisionMissing"),
        (without_decision_of("litware"), "SignedDecisionMissing"),
        (decision("litware", decision="reject"), "QueryMissingApprovalsFromDatasetOwners"),
        (decision("litware", by="contosso"), "ApproverKeyUnknown"),
        (decision("litware", digest="0" * 64), "SignedDecisionInvalid"),
        (decision("litware", query="another"), "SignedDecisionInvalid"),
        (decision("litware", proposal_id="f" * 32), "SignedDecisionInvalid"),
        (decision("litware", expires=LONG_AGO), "ApprovalExpired"),
        (decision("litware", collaboration="another"), "CollaborationMismatch"),
        (document(QUERY, state="Proposed"), "QueryNotApproved"),
        (document(QUERY, state="Draft"), "QueryNotApproved"),
        (document(QUERY, contract_id="another"), "ContractIdMismatch"),
        (data(QUERY, "application.inputDataset.0.view", "other"), "QueryDigestMismatch"),
        (document("contosso-flights", version="9.9"), "DatasetChanged"),
        (data("contosso-flights", "datasetAccessPoint.subdirectory", "elsewhere"), "DatasetChanged"),
        (data("litware-delays", "datasetAccessPoint.store.name", "another-bucket"), "DatasetChanged"),
        (document("litware-planes", state="Draft"), "UserDocumentNotFound"),
        (lambda world: world.documents.pop("litware-planes") and None, "UserDocumentNotFound"),
        (document("litware-planes", contract_id="another"), "ContractIdMismatch"),
        (lambda world: world.users.pop("fabrikam") and None, "CallerNotAuthorized"),
    ],
)
def test_changed_governance_state_is_refused(worlds: Worlds, change: Change, code: str) -> None:
    genuine = worlds(NONE)
    ticket = genuine.ticket
    world = copy.copy(genuine)
    world.documents, world.users = dict(genuine.documents), dict(genuine.users)
    change(world)
    with pytest.raises(CleanRoomError) as caught:
        asyncio.run(RunAuthority(world, COLLABORATION).authorise(ticket))
    assert caught.value.code == code, caught.value.message


@pytest.mark.parametrize("withdrawn", [QUERY, *DATASETS])
@pytest.mark.parametrize("reason", ["UserDocumentRuntimeOptionDisabled", "UserDocumentNotAccepted"])
def test_withdrawn_consent_to_any_document_is_refused(worlds: Worlds, withdrawn: str, reason: str) -> None:
    class Withdrawn(AuditWorld):
        async def consent(self, document_id: str) -> Consent:
            return Consent(status="disabled", code=reason, message="m") if document_id == withdrawn else Consent(status="enabled")

    world = copy.copy(worlds(NONE))
    world.__class__ = Withdrawn
    with pytest.raises(CleanRoomError) as caught:
        asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ticket))
    assert (caught.value.code, caught.value.details["document"]) == (reason, withdrawn)
    assert asyncio.run(RunAuthority(world, COLLABORATION).authorise(world.ticket, consent=False)).document.id == QUERY
