"""A bundle of a run that an owner's deputy approved."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cleanroom.audit.verify import verify_bundle
from cleanroom.identifiers import deputy_document_id
from cleanroom.runs.deputies import DEPUTY_LABELS, deputy_document_data
from cleanroom.statements import Deputation, load_or_create_signing_key, sign
from tests.audit_records import Items
from tests.audit_world import COLLABORATION, AuditWorld


def world_with_deputy(folder: Path, *, version: str = "") -> AuditWorld:
    """A world in which Litware's deputy approved the query, and was named in the document that was accepted as ``version``."""
    world = AuditWorld(folder)
    world.keys["maria"] = maria = load_or_create_signing_key(folder / "maria")
    owner = world.users["litware"]
    named = Deputation(
        collaboration=COLLABORATION,
        signer=owner,
        expires=world.now + dt.timedelta(days=30),
        deputy="maria",
        key=maria.public,
        valid_from=world.now - dt.timedelta(days=1),
    )
    document_id = deputy_document_id(owner, maria.public.kid)
    world.accept(document_id, deputy_document_data(sign(named, world.keys["litware"])), "litware", ("litware",), DEPUTY_LABELS)
    if version:
        world.documents[document_id] = world.documents[document_id].model_copy(update={"version": version})
    world.decide("litware", by="maria")
    return world


def test_the_audit_verifies_a_deputys_decision_and_names_the_deputy(tmp_path: Path) -> None:
    world = world_with_deputy(tmp_path)
    verdict = verify_bundle(world.bundle(), world.trust)
    assert verdict.ok, verdict.first_broken
    assert any("named maria as a deputy" in note for note in verdict.notes)


def test_a_deputy_who_was_named_later_or_not_at_all_does_not_verify(tmp_path: Path) -> None:
    world = world_with_deputy(tmp_path)
    later = world_with_deputy(tmp_path / "later", version="2.1000000")
    items = [item for item in world.items() if item[0] != "deputy"]
    for bundle, code in ((world.bundle(items), "ApproverKeyUnknown"), (later.bundle(_with_job_of(later, world)), "DeputyNamedLater")):
        broken = verify_bundle(bundle, world.trust).first_broken
        assert broken is not None
        assert (broken.kind, code in broken.detail) == ("decision", True)


def _with_job_of(world: AuditWorld, valid: AuditWorld) -> Items:
    """The records of ``world``, whose job cannot be assembled because its approvals are not valid."""
    world.__dict__["job"] = valid.job
    return world.items()
