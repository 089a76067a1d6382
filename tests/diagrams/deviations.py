"""Where the code deviates from a drawing, and why. ``python -m tests.diagrams.deviations`` writes the table into the architecture page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN = "<!-- deviations: written by `python -m tests.diagrams.deviations` -->"
END = "<!-- end of deviations -->"


@dataclass(frozen=True)
class Deviation:
    """One row of the table."""

    drawing: str
    """What the drawing shows, or that it does not show the step."""
    code: str
    reason: str


ONE_WORKFLOW = Deviation(
    'The owner sends requests to the frontend: "Get Clean Room Details", "Publish Dataset".',
    "The owner starts one workflow, which performs all of them.",
    "The workflow is durable: a crash between two requests loses nothing.",
)
OWN_WORKER = Deviation(
    "The frontend creates, updates, proposes and accepts documents and sets secrets in governance.",
    "The collaborator's own worker performs these calls, after it has verified the collaborator's signed authorisation.",
    "The frontend holds no credentials of a collaborator, so it cannot forge a vote, a document or a secret.",
)
LOCATE_STORE = Deviation(
    "Not drawn.",
    "`locate_blob_store` and `locate_s3_store` read the store's URL from the settings of the owner's worker.",
    "The frontend does not know the owner's storage.",
)
REGENERATE = Deviation(
    'The note "Generate Query Document" is drawn only for "Create Query".',
    "`generate_query_document` also runs for an update.",
    "The new text needs a new document: pinned datasets, approvers and card.",
)
VERIFY_DECISION = Deviation(
    "Not drawn.",
    "`verify_decision` verifies that a vote is signed by an approver, for this proposal, version and text.",
    "Anyone who reaches Temporal can send a signal.",
)
POLL = Deviation(
    "Not drawn.",
    "`find_query_change` reads governance when a draft or proposed query is woken, because governance has changed.",
    "Collaborators can edit, propose and vote in governance directly.",
)
CHILD_WORKFLOW = Deviation(
    "The phases are two diagrams.",
    "`RunQuery` runs `Prepare` as its child workflow.",
    "One run request starts both, and the run revokes what its preparation granted.",
)
LEDGER = Deviation(
    "Not drawn.",
    "`record_event` writes an audit event to governance.",
    "The ledger proves what a run did, without trust in Temporal.",
)
CONSENT_APART = Deviation(
    "One note: validate dataset access and approvals, check execution consent.",
    "Two activities: `validate_access_and_approvals` and `check_execution_consent`.",
    "Each check has its own line in the Web UI and its own errors.",
)
BUILD_JOB = Deviation(
    "Not drawn.",
    "`build_job` applies the query gate and builds the job configuration.",
    'The pod policies are computed from the job, so it comes before "Get Security Policy".',
)
VERIFY_POLICY = Deviation(
    "Not drawn.",
    "`verify_security_policy` computes the pod policies again and compares them.",
    "The policies pass through Temporal, which is not trusted ([decision 4](decisions/004-policies-are-recomputed.md)).",
)
PER_DATASET = Deviation(
    "The secrets are propagated one by one.",
    "One pass of the loop obtains and grants all secrets of a dataset.",
    "Fewer requests and a shorter history ([decision 8](decisions/008-what-a-release-reads-again.md)).",
)
STAGED_SECRETS = Deviation(
    '"Get Key with SKR" and "Get Secret" return the secret to the clean room.',
    "They store copies of a dataset's secrets for this run in governance and return their IDs.",
    "No secret passes through Temporal ([decision 2](decisions/002-secrets-are-staged-per-run.md)).",
)
ONE_ACTIVITY_FOR_ALL_POLICIES = Deviation(
    '"Set Secret" and "Configure IDP" are drawn once per pod policy.',
    "One activity per dataset makes the grants for all pod policies.",
    "The run is verified before the grants and again after them; this way once per dataset "
    "([decision 8](decisions/008-what-a-release-reads-again.md)).",
)
CONSENT_RECEIPT = Deviation(
    "Not drawn.",
    "`issue_consent_receipt` stores a short-lived receipt in governance, which the pods read.",
    "Governance answers consent checks only to guests under the contract's policy, which pods are not.",
)
CONSENT_FIRST = Deviation(
    'The pod performs "Check Consent" once, after it has mounted the datasets.',
    "It reads the consent receipt before it opens a dataset, before the query runs, and before the result is written.",
    "Rows are not read without consent, and a withdrawal takes effect during the run.",
)
WATCH_JOB = Deviation(
    '"Get Status" is drawn as one request.',
    "`watch_job` reads the status until the job has ended.",
    "The history has one event per run instead of one per poll.",
)
WATCH_CONSENT = Deviation(
    "Not drawn.",
    "`watch_consent` renews the receipt and ends when an approver withdraws consent. Then the run stops.",
    "Approvers can withdraw consent at any time.",
)
COLLECT_RESULT = Deviation(
    "The status of the Spark application contains the result.",
    "`collect_result` reads the result receipt from the ledger.",
    "The cluster can forge a status, but not an event of an attested pod.",
)
REVOKE = Deviation(
    "Not drawn.",
    "`revoke_grants` revokes everything that the preparation granted.",
    "A grant must not outlive its run.",
)


def table() -> str:
    """Return the deviations of all diagrams as a Markdown table."""
    from tests.diagrams.diagrams import DIAGRAMS

    diagrams: dict[Deviation, list[str]] = {}
    for diagram in DIAGRAMS:
        for deviation in diagram.deviations():
            diagrams.setdefault(deviation, []).append(diagram.title)
    rows = [f"| {', '.join(titles)} | {item.drawing} | {item.code} | {item.reason} |" for item, titles in diagrams.items()]
    return "\n".join(["| Diagram | Drawing | Code | Reason |", "| --- | --- | --- | --- |", *rows])


def page_with_table(page: str) -> str:
    """Return the text of the page with the current table between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text("utf-8")), "utf-8")
