"""Diagram "Publish Query". Its notes on states are compared with the search attributes that the workflow sets."""
# ruff: noqa: E501 - one line per arrow

from __future__ import annotations

from tests.diagrams.deviations import OWN_WORKER, POLL, REGENERATE, VERIFY_DECISION
from tests.diagrams.history import recorded_events
from tests.diagrams.lines import Arrow, Diagram, Note, Step

FRONTEND = "frontend"
LITWARE, CONTOSSO, FABRIKAM = "collaborator.litware", "collaborator.contosso", "collaborator.fabrikam"

# fmt: off
DIAGRAM = Diagram(
    "Publish Query",
    [
        Arrow("User1", "FE", "Create Query {query, contosso_dataset, litware_dataset}", event="start PublishQuery"),
        Note("FE", "Generate Query Document", activity="generate_query_document", queue=FRONTEND),
        Arrow("FE", "CGS", "Create Document {id: fabrikam_query}", activity="create_document", queue=FABRIKAM, deviation=OWN_WORKER),
        Note("CGS", "fabrikam_query State: Draft", event="query.draft, pending: ; accepted: "),
        Arrow("Owner", "FE", "Update Query {fabrikam_query}", event="update update"),
        Step(activity="generate_query_document", queue=FRONTEND, deviation=REGENERATE),
        Arrow("FE", "CGS", "Update Document {id: fabrikam_query}", activity="update_document", queue=LITWARE, deviation=OWN_WORKER),
        Note("CGS", "fabrikam_query State: Draft", event="query.draft, pending: ; accepted: "),
        Arrow("User1", "FE", "Propose Query {fabrikam_query}", event="update propose"),
        Note("FE", "Determine Dataset Owners", activity="determine_dataset_owners", queue=FRONTEND),
        Arrow("FE", "CGS", "Propose Document {id: fabrikam_query} {approvers: Contosso, Litware}", activity="propose_query", queue=FABRIKAM, deviation=OWN_WORKER),
        Note("CGS", "fabrikam_query State: Not Approved Pending: Contosso, Litware Accepted:", event="query.proposed, pending: contosso, litware; accepted: "),
        Arrow("Owner", "FE", "Approve Query {fabrikam_query}", event="signal approve"),
        Step(activity="verify_decision", queue=FRONTEND, deviation=VERIFY_DECISION),
        Arrow("FE", "CGS", "Accept Document {id: fabrikam_query} {Litware Identity}", activity="accept_query", queue=LITWARE, deviation=OWN_WORKER),
        Note("CGS", "fabrikam_query State: Not Approved Pending: Contosso Accepted: Litware", event="query.proposed, pending: contosso; accepted: litware"),
        Arrow("User2", "FE", "Approve Query {fabrikam_query}", event="signal approve"),
        Step(activity="verify_decision", queue=FRONTEND, deviation=VERIFY_DECISION),
        Arrow("FE", "CGS", "Accept Document {id: fabrikam_query} {Contosso Identity}", activity="accept_query", queue=CONTOSSO, deviation=OWN_WORKER),
        Note("CGS", "fabrikam_query State: Approved Pending: Accepted: Litware, Contosso", event="query.approved, pending: ; accepted: contosso, litware"),
    ],
    background=[Step(activity="find_query_change", queue=FRONTEND, deviation=POLL)],
)
# fmt: on


async def test_publish_query() -> None:
    DIAGRAM.check_drawing()
    DIAGRAM.check_history(await recorded_events("publish-query"))
