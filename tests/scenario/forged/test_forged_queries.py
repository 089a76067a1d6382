"""Forged votes, and forged inputs of the worker of a query's author."""

from __future__ import annotations

import datetime as dt

import pytest

from cleanroom.messages.query import DraftRequest, ProposeQueryRequest, WithdrawRequest
from cleanroom.statements import Decision, sign
from starters.operations.session import now
from tests.local_cloud import World
from tests.scenario.forged.attacker import CONTOSSO, FABRIKAM, LITWARE, Attacker
from tests.scenario.forged.builders import Forgery, query_draft
from tests.scenario.forged.conftest import Refuse

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]

FORGERIES = [
    Forgery(
        name="a vote without a signature",
        queue=LITWARE,
        activity="accept_query",
        code="StatementMalformed",
        argument=lambda attacker: attacker.vote("yes"),
    ),
    Forgery(
        name="a vote with another's signature",
        queue=LITWARE,
        activity="accept_query",
        code="SignerMismatch",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.contosso)),
    ),
    Forgery(
        name="a vote in the owner's name",
        queue=LITWARE,
        activity="accept_query",
        code="ApproverKeyUnknown",
        argument=lambda attacker: attacker.vote(
            sign(
                Decision(
                    collaboration=attacker.cloud.collaboration,
                    signer=attacker.cloud.litware.user_id,
                    expires=now() + dt.timedelta(days=1),
                    query=attacker.proposed_query.query,
                    version=attacker.proposed_query.version,
                    proposal_id=attacker.proposed_query.proposal_id,
                    digest=attacker.proposed_query.digest,
                    decision="approve",
                ),
                attacker.cloud.fabrikam.key(),
            )
        ),
    ),
    Forgery(
        name="a rejection as an approval",
        queue=LITWARE,
        activity="accept_query",
        code="DecisionMismatch",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.litware, decision="reject")),
    ),
    Forgery(
        name="an approval of another text",
        queue=LITWARE,
        activity="accept_query",
        code="DecisionMismatch",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.litware, digest=attacker.query.digest)),
    ),
    Forgery(
        name="an approval of another text in a matching vote",
        queue=LITWARE,
        activity="accept_query",
        code="ProposalDiffers",
        argument=lambda attacker: attacker.vote(
            attacker.decision(attacker.cloud.litware, digest=attacker.query.digest), digest=attacker.query.digest
        ),
    ),
    Forgery(
        name="an approval cast on another proposal",
        queue=LITWARE,
        activity="accept_query",
        code="DecisionMismatch",
        argument=lambda attacker: attacker.vote(
            attacker.decision(attacker.cloud.litware), proposal_id=attacker.pending_proposal.proposal_id
        ),
    ),
    Forgery(
        name="an approval that names the proposal of a dataset",
        queue=LITWARE,
        activity="accept_query",
        code="ProposalDiffers",
        argument=lambda attacker: attacker.vote(
            attacker.decision(attacker.cloud.litware, proposal_id=attacker.pending_proposal.proposal_id),
            proposal_id=attacker.pending_proposal.proposal_id,
        ),
    ),
    Forgery(
        name="an approval of another version",
        queue=LITWARE,
        activity="accept_query",
        code="DecisionVersionMismatch",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.litware, version="1"), version="1"),
    ),
    Forgery(
        name="an approval under another trust document",
        queue=LITWARE,
        activity="accept_query",
        code="TrustDocumentChanged",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.litware, trust="0" * 64)),
    ),
    Forgery(
        name="an approval that has expired",
        queue=LITWARE,
        activity="accept_query",
        code="StatementExpired",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.litware, expires=now() - dt.timedelta(seconds=1))),
    ),
    Forgery(
        name="an approval for another collaboration",
        queue=LITWARE,
        activity="accept_query",
        code="CollaborationMismatch",
        argument=lambda attacker: attacker.vote(attacker.decision(attacker.cloud.litware, collaboration="other")),
    ),
    Forgery(
        name="an authorisation to publish in place of a decision",
        queue=LITWARE,
        activity="accept_query",
        code="StatementMalformed",
        argument=lambda attacker: attacker.vote(attacker.litware_dataset.authorisation),
    ),
    Forgery(
        name="a draft without a signed specification",
        queue=FABRIKAM,
        activity="update_document",
        code="OrderMismatch",
        argument=lambda attacker: DraftRequest(
            command=attacker.authorised_command("update-query"),
            draft=query_draft(attacker, World.SQL + "\n"),
        ),
    ),
    Forgery(
        name="a draft with another text than the signed one",
        queue=FABRIKAM,
        activity="update_document",
        code="DraftMismatch",
        argument=lambda attacker: DraftRequest(
            command=attacker.authorised_command(
                "update-query", spec=attacker.world.query().model_copy(update={"name": attacker.proposed_query.query})
            ),
            draft=query_draft(attacker, World.SQL.replace(">= 25", ">= 21")),
        ),
    ),
    Forgery(
        name="a draft on another user's worker",
        queue=CONTOSSO,
        activity="create_document",
        code="SignerMismatch",
        argument=lambda attacker: DraftRequest(command=attacker.authorised_command("create-query"), draft=query_draft(attacker, World.SQL)),
    ),
    Forgery(
        name="an authorisation to withdraw in place of one to propose",
        queue=FABRIKAM,
        activity="propose_query",
        code="OrderMismatch",
        argument=lambda attacker: ProposeQueryRequest(
            command=attacker.authorised_command("withdraw-query"),
            owners=attacker.proposed_query.owners,
        ),
    ),
    Forgery(
        name="withdrawal of another proposal",
        queue=FABRIKAM,
        activity="withdraw_proposal",
        code="OrderMismatch",
        argument=lambda attacker: WithdrawRequest(
            command=attacker.authorised_command("withdraw-query", query="q-of-mine"), proposal_id=attacker.proposed_query.proposal_id
        ),
    ),
    Forgery(
        name="a proposal of another text than the signed one",
        queue=FABRIKAM,
        activity="propose_query",
        code="DraftChanged",
        argument=lambda attacker: ProposeQueryRequest(
            command=attacker.authorised_command("propose-query", digest=attacker.query.digest), owners=attacker.proposed_query.owners
        ),
    ),
    Forgery(
        name="a proposal of another version than the signed one",
        queue=FABRIKAM,
        activity="propose_query",
        code="DraftChanged",
        argument=lambda attacker: ProposeQueryRequest(
            command=attacker.authorised_command("propose-query", version="2.1"), owners=attacker.proposed_query.owners
        ),
    ),
    Forgery(
        name="closing a draft in place of withdrawing its proposal",
        queue=FABRIKAM,
        activity="withdraw_proposal",
        code="OrderMismatch",
        argument=lambda attacker: WithdrawRequest(
            command=attacker.authorised_command("withdraw-query", proposal_id=""), proposal_id=attacker.proposed_query.proposal_id
        ),
    ),
    Forgery(
        name="withdrawal at the deadline with an authorisation to propose that made another proposal",
        queue=FABRIKAM,
        activity="withdraw_proposal",
        code="OrderMismatch",
        argument=lambda attacker: WithdrawRequest(
            command=attacker.authorised_command("propose-query"), proposal_id=attacker.proposed_query.proposal_id, expired=True
        ),
    ),
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_forged_input_is_refused_and_changes_nothing(attacker: Attacker, refused: Refuse, forgery: Forgery) -> None:
    refused(forgery)
