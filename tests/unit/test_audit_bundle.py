"""Evidence bundles: a genuine one holds, and whatever is changed in one is found and named, whoever chains it again."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cleanroom.attestation import TrustStore
from cleanroom.audit.chain import Bundle, first_broken_link, plain_json
from cleanroom.audit.files import bundle_json, bundle_zip, parse_bundle, write_bundle
from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_bundle, verify_file
from cleanroom.errors import Refused
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.runs.decisions import decision_document_id
from starters import audit
from tests.audit_world import CLEAN_ROOM_HOST, QUERY, SPARK_HOST, AuditWorld, Items, clone


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def items(world: AuditWorld) -> Items:
    return world.items()


@pytest.fixture(scope="module")
def bundle(world: AuditWorld, items: Items) -> Bundle:
    return world.bundle(items)


@pytest.fixture(scope="module")
def written(bundle: Bundle) -> bytes:
    return bundle_json(bundle)


def judge(world: AuditWorld, tampered: Items) -> BundleVerdict:
    """The verdict on records that were chained again by somebody who signs nothing."""
    tampered[0][2].pop("sealedBy", None)
    return verify_bundle(world.bundle(tampered, sealed_by=None), world.trust)


def place(items: Items, kind: str, subject: str = "") -> int:
    """Index of the first record of a kind (and subject)."""
    return next(i for i, (found, what, _) in enumerate(items) if found == kind and subject in what)


# ---------------------------------------------------------------------- a genuine bundle


def test_a_genuine_bundle_holds_in_both_forms(world: AuditWorld, bundle: Bundle, tmp_path: Path) -> None:
    for name in ("run.json", "run.zip"):
        write_bundle(bundle, tmp_path / name)
        verdict = verify_file(tmp_path / name, world.trust, spark_host_data=[SPARK_HOST], clean_room_host_data=[CLEAN_ROOM_HOST])
        assert verdict.ok, verdict.first_broken
        assert (verdict.sealed_by, verdict.development, verdict.notes) == (world.users["contosso"], True, ())
        ids = {check.id for check in verdict.checks}
        assert ids >= {
            "chain",
            "seal",
            "request",
            "approvals",
            "consent",
            "attestation",
            "job",
            "policies",
            "grants",
            "receipt",
            "clean-room",
        }


def test_each_line_is_what_the_next_record_holds_the_digest_of(bundle: Bundle, written: bytes) -> None:
    lines = written.split(b"\n")[2:-2]
    assert len(lines) == len(bundle.records)
    for line, following in zip(lines, bundle.records[1:], strict=False):
        assert sha256_hex(line.removesuffix(b",")) == following.previous
    assert sha256_hex(lines[-1]) == bundle.manifest.head
    assert json.loads(written)["manifest"]["head"] == bundle.manifest.head


def test_equal_bundles_are_equal_files(bundle: Bundle) -> None:
    assert bundle_zip(bundle) == bundle_zip(parse_bundle(bundle_zip(bundle)))
    assert parse_bundle(bundle_json(bundle)) == parse_bundle(bundle_zip(bundle)) == bundle


def test_without_the_development_root_the_attestation_is_refused(world: AuditWorld, bundle: Bundle) -> None:
    verdict = verify_bundle(bundle, TrustStore.amd())
    assert not verdict.ok
    assert verdict.first_broken is not None
    assert (verdict.first_broken.id, verdict.first_broken.kind) == ("attestation", "report")


@pytest.mark.parametrize(("option", "id"), [("spark_host_data", "attestation"), ("clean_room_host_data", "clean-room")])
def test_host_data_that_the_auditor_does_not_accept(world: AuditWorld, bundle: Bundle, option: str, id: str) -> None:
    verdict = verify_bundle(bundle, world.trust, **{option: ["00" * 32]})  # type: ignore[arg-type]
    assert verdict.first_broken is not None
    assert verdict.first_broken.id == id
    assert "HostData" in verdict.first_broken.detail


def test_signing_keys_that_the_auditor_knows(world: AuditWorld, bundle: Bundle) -> None:
    known = {world.users[name]: [key.public.kid] for name, key in world.keys.items()}
    verdict = verify_bundle(bundle, world.trust, keys=known)
    assert verdict.ok
    assert verdict.signers == {user: tuple(kids) for user, kids in known.items()}
    other = verify_bundle(bundle, world.trust, keys={world.users["litware"]: ["another"]})
    assert other.first_broken is not None
    assert (other.first_broken.id, other.first_broken.kind) == ("keys", "key")
    assert not verify_bundle(bundle, world.trust, keys={"somebody": ["kid"]}).ok


def test_a_bundle_made_up_from_the_first_byte_lacks_the_hardware(world: AuditWorld, tmp_path: Path) -> None:
    """Own keys, own documents, own chip: all of it consistent, and signed by nobody whom the auditor trusts."""
    forged = AuditWorld(tmp_path).bundle()
    verdict = verify_bundle(forged, world.trust)
    assert verdict.first_broken is not None
    assert verdict.first_broken.id == "attestation"
    assert {check.id for check in verdict.checks if not check.passed} == {"attestation", "clean-room"}


# ---------------------------------------------------------------------- the chain


def first_broken(world: AuditWorld, data: bytes) -> int | None:
    """The record that is named for a changed file."""
    try:
        found = verify_bundle(parse_bundle(data), world.trust).first_broken
    except Refused as error:
        named = error.details.get("index")
        return named if isinstance(named, int) else None
    return found.index if found is not None and found.id == "chain" else None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_byte_edit_of_any_record_is_found_and_names_it(world: AuditWorld, written: bytes, data: st.DataObject) -> None:
    lines = written.split(b"\n")
    index = data.draw(st.integers(0, len(lines) - 5), label="record")
    line = lines[index + 2]
    at = data.draw(st.integers(0, len(line.removesuffix(b",")) - 1), label="byte")
    new = data.draw(st.integers(0, 255).filter(lambda value: value != line[at]), label="new byte")
    edited = b"\n".join([*lines[: index + 2], line[:at] + bytes([new]) + line[at + 1 :], *lines[index + 3 :]])
    assert first_broken(world, edited) == index


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_byte_edit_of_the_manifest_is_found(world: AuditWorld, written: bytes, data: st.DataObject) -> None:
    end = written.index(b"\n")
    at = data.draw(st.integers(0, end), label="byte")
    new = data.draw(st.integers(0, 255).filter(lambda value: value != written[at]), label="new byte")
    try:
        verdict = verify_bundle(parse_bundle(written[:at] + bytes([new]) + written[at + 1 :]), world.trust)
    except Refused:
        return
    assert not verdict.ok


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_missing_extra_and_reordered_records_are_named(bundle: Bundle, data: st.DataObject) -> None:
    records = list(bundle.records)
    index = data.draw(st.integers(0, len(records) - 1))
    other = data.draw(st.integers(0, len(records) - 1).filter(lambda value: value != index))

    def broken(changed: list[Any]) -> tuple[str, int]:
        found = first_broken_link(bundle.model_copy(update={"records": tuple(changed)}))
        assert found is not None
        return found.what, found.index

    assert broken(records[:index] + records[index + 1 :]) == ("missing", index)
    swapped = list(records)
    swapped[index], swapped[other] = swapped[other], swapped[index]
    assert broken(swapped) == ("reordered", min(index, other))
    stranger = records[index].model_copy(update={"subject": "forged"})
    assert broken([*records[:index], stranger, *records[index:]]) == ("extra", index)
    assert broken([*records[:index], stranger, *records[index + 1 :]]) == ("edited", index)


def test_a_chain_that_was_made_again_does_not_carry_the_exporters_signature(world: AuditWorld, items: Items, bundle: Bundle) -> None:
    tampered = clone(items)
    tampered[place(items, "revocation")][2]["secrets"] = 0
    forged = world.bundle(tampered, sealed_by=None)
    with_old_seal = forged.model_copy(update={"manifest": forged.manifest.model_copy(update={"seal": bundle.manifest.seal})})
    for candidate in (forged, with_old_seal, world.bundle(tampered, sealed_by="fabrikam")):
        verdict = verify_bundle(candidate, world.trust)
        assert verdict.first_broken is not None
        assert verdict.first_broken.id == "seal"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"PK\x03\x04broken",
        b'{"manifest":{},"records":[]}',
        b'{"manifest":1,"records":{}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_bundle_is_a_verdict_not_a_crash(world: AuditWorld, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(data)
    assert not verify_file(tmp_path / "b.json", world.trust).ok


def test_an_empty_chain_is_broken(world: AuditWorld, bundle: Bundle, tmp_path: Path) -> None:
    empty = bundle.model_copy(update={"records": (), "manifest": bundle.manifest.model_copy(update={"entries": ()})})
    write_bundle(empty, tmp_path / "b.json")
    assert not verify_file(tmp_path / "b.json", world.trust).ok


def test_archives_with_strange_members_are_refused(bundle: Bundle) -> None:
    good = zipfile.ZipFile(io.BytesIO(bundle_zip(bundle)))

    def archive(change: Callable[[str, bytes], tuple[str, bytes] | None]) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as out:
            for name in good.namelist():
                if (member := change(name, good.read(name))) is not None:
                    out.writestr(*member)
        return target.getvalue()

    assert first_broken_link(parse_bundle(archive(lambda name, data: None if "00007" in name else (name, data)))) is not None
    for spoiled in (
        archive(lambda name, data: (name, data + b" ")),
        archive(lambda name, data: None if name == "manifest.json" else (name, data)),
        archive(lambda name, data: (name, b"{") if "00007" in name else (name, data)),
    ):
        with pytest.raises(Refused):
            parse_bundle(spoiled)


def test_strange_values_in_the_ledger_have_a_canonical_form() -> None:
    strange = {"big": 2**70, "nan": float("nan"), "lone": "\ud800", "list": [1.5, None, True]}
    assert canonical_json(plain_json(strange)) == b'{"big":"1180591620717411303424","list":[1.5,null,true],"lone":"\\\\ud800","nan":"nan"}'


# ---------------------------------------------------------------------- contents, chained again by the forger

Change = Callable[[AuditWorld, Items], None]


def drop(kind: str, subject: str = "") -> Change:
    def change(world: AuditWorld, items: Items) -> None:
        del items[place(items, kind, subject)]

    return change


def put(kind: str, member: str, value: Any, subject: str = "") -> Change:
    """Set a member (dots go deeper) of the first record of a kind."""

    def change(world: AuditWorld, items: Items) -> None:
        body = items[place(items, kind, subject)][2]
        *path, last = member.split(".")
        for step in path:
            body = body[step]
        body[last] = value(body[last]) if callable(value) else value

    return change


def decision_by_another_key(world: AuditWorld, items: Items) -> None:
    index = place(items, "decision")
    token = json.loads(items[index][2]["document"]["data"])["decision"]
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["max_runs"] = 1000
    changed = base64.urlsafe_b64encode(canonical_json(claims)).rstrip(b"=").decode()
    _set_data(items, index, json.dumps({"decision": f"{head}.{changed}.{signature}"}))


def _set_data(items: Items, index: int, data: str) -> None:
    body = items[index][2]
    body["document"]["data"], body["digest"] = data, sha256_hex(data.encode())


def other_sql(world: AuditWorld, items: Items) -> None:
    index = place(items, "document", QUERY)
    query = json.loads(items[index][2]["document"]["data"])
    segments = json.loads(base64.b64decode(query["application"]["query"]))
    segments["segments"][0]["data"] = "SELECT * FROM flights"
    query["application"]["query"] = base64.b64encode(json.dumps(segments).encode()).decode()
    _set_data(items, index, json.dumps(query))


def no_vote(world: AuditWorld, items: Items) -> None:
    items[place(items, "document", QUERY)][2]["document"]["finalVotes"].pop()


def other_report(world: AuditWorld, items: Items) -> None:
    evidence = world.hardware.evidence(bytes.fromhex(SPARK_HOST), bytes(64))
    items[place(items, "report")][2]["report"]["evidence"] = evidence.model_dump(mode="json", exclude_none=True)


def flipped_report(world: AuditWorld, items: Items) -> None:
    evidence = items[place(items, "report")][2]["report"]["evidence"]
    raw = bytearray(base64.b64decode(evidence["evidence"]))
    raw[0x90] ^= 1
    evidence["evidence"] = base64.b64encode(bytes(raw)).decode()


def other_job(world: AuditWorld, items: Items) -> None:
    job = world.job.model_copy(update={"datasink": world.job.datasink.model_copy(update={"format": "csv"})})
    items[place(items, "job")][2].update(job=job.model_dump(mode="json", by_alias=True, exclude_none=True), digest=job.digest())


def extra_grant(world: AuditWorld, items: Items) -> None:
    index = place(items, "grant")
    kind, _, body = items[index]
    items.insert(index, (kind, "secrets/stranger", {**body, "delegateId": "stranger"}))


def swapped_events(world: AuditWorld, items: Items) -> None:
    first = place(items, "event")
    items[first], items[first + 1] = items[first + 1], items[first]


def _event(name: str, member: str, value: Any) -> Change:
    return put("event", f"data.{member}", value, name)


@pytest.mark.parametrize(
    ("change", "check", "kind"),
    [
        (drop("request"), "complete", "request"),
        (drop("document", QUERY), "complete", "document"),
        (drop("document", "litware-weather"), "complete", "document"),
        (drop("decision"), "complete", "document"),
        (drop("key"), "complete", "document"),
        (drop("report"), "complete", "report"),
        (drop("job"), "complete", "job"),
        (drop("policies"), "complete", "policies"),
        (drop("consent"), "complete", "consent"),
        (drop("grant"), "complete", "grant"),
        (drop("revocation"), "complete", "revocation"),
        (drop("receipt"), "complete", "receipt"),
        (drop("event", "prepared"), "complete", "event"),
        (drop("event", "query-completed"), "complete", "event"),
        (drop("event", "run-completed"), "complete", "event"),
        (drop("event", "revoked"), "complete", "event"),
        (drop("event", "closed"), "complete", "event"),
        (drop("event", f"query.{QUERY}"), "complete", "event"),
        (put("event", "data.runId", "r-other", f"query.{QUERY}"), "complete", "event"),
        (put("event", "id", "elsewhere", "granted"), "events", "event"),
        (decision_by_another_key, "approvals", "decision"),
        (put("decision", "document.proposerId", "somebody"), "approvals", "decision"),
        (other_sql, "approvals", "document"),
        (no_vote, "document", "document"),
        (put("document", "digest", "0" * 64, "litware-planes"), "document", "document"),
        (put("document", "document.contractId", "other", "litware-planes"), "document", "document"),
        (put("document", "document.version", "2.999", "litware-planes"), "approvals", "document"),
        (put("document", "document.state", "Draft", QUERY), "document", "document"),
        (put("request", "request", lambda token: token[:-8] + "AAAAAAA" + token[-1]), "request", "request"),
        (put("request", "request", "no.jws.here"), "request", "request"),
        (put("consent", "documents", [QUERY]), "complete", "consent"),
        (put("consent", "status", "withdrawn"), "complete", "consent"),
        (other_report, "attestation", "report"),
        (flipped_report, "attestation", "report"),
        (put("report", "nonce", "0" * 64), "attestation", "report"),
        (put("report", "at", "2001-01-01T00:00:00Z"), "attestation", "report"),
        (put("report", "report.evidence.evidence", "AAAA"), "attestation", "report"),
        (other_job, "job", "job"),
        (put("job", "digest", "0" * 64), "job", "job"),
        (put("policies", "statement", lambda token: token[:-8] + "AAAAAAA" + token[-1]), "policies", "policies"),
        (put("policies", "driver", "0" * 64), "policies", "policies"),
        (put("grant", "held", True), "grants", "grant"),
        (extra_grant, "grants", "grant"),
        (put("receipt", "receipt.rows", 99), "events", "event"),
        (put("receipt", "receipt.digest", "0" * 64), "receipt", "receipt"),
        (put("receipt", "receipt.jobDigest", "0" * 64), "receipt", "receipt"),
        (swapped_events, "events", "event"),
        (_event("started", "runId", "r-other"), "events", "event"),
        (_event("granted", "queryDigest", "0" * 64), "events", "event"),
        (_event("prepared", "hostData.driver", "0" * 64), "clean-room", "event"),
        (_event("prepared", "query", "x"), "clean-room", "event"),
        (put("clean-room-policy", "policy", {}), "clean-room", "event"),
        (put("outcome", "startedAt", "yesterday"), "readable", "outcome"),
        (drop("outcome"), "complete", "outcome"),
        (put("outcome", "workflowId", "cr/flights/run/r-other"), "outcome", "outcome"),
        (put("outcome", "state", "FAILED"), "outcome", "outcome"),
        (put("outcome", "closedAt", "2001-01-01T00:00:00Z"), "outcome", "outcome"),
        (put("consent", "at", "2001-01-01T00:00:00Z"), "consent", "consent"),
        (put("revocation", "at", "2100-01-01T00:00:00Z"), "revocation", "revocation"),
        (put("export", "state", "FAILED"), "complete", "event"),
    ],
)
def test_a_forged_record_is_found_although_it_was_chained_again(
    world: AuditWorld, items: Items, change: Change, check: str, kind: str
) -> None:
    tampered = clone(items)
    change(world, tampered)
    verdict = judge(world, tampered)
    assert not verdict.ok
    assert (check, kind) in {(row.id, row.kind) for row in verdict.checks if not row.passed}, verdict.checks
    assert verdict.first_broken is not None


def test_a_genuine_record_of_another_run_does_not_stand_for_ours(world: AuditWorld, items: Items) -> None:
    theirs = world.another_run(dt.timedelta(hours=1)).items()
    differing = [index for index in range(1, len(items)) if items[index] != theirs[index]]
    assert {items[index][0] for index in differing} == {
        *("request", "outcome", "consent", "report", "job", "policies", "grant", "revocation", "receipt", "event")
    }
    for index in (index for index in differing if items[index][0] != "grant" or items[index - 1][0] != "grant"):
        for insert in (False, True):
            tampered, foreign = clone(items), clone(theirs)[index]
            tampered[index : index if insert else index + 1] = [foreign]
            verdict = judge(world, tampered)
            assert not verdict.ok, foreign[:2]
            assert verdict.first_broken is not None
            kind = "document" if foreign[0] == "key" else foreign[0]
            assert kind in {row.kind for row in verdict.checks if not row.passed}, (foreign[:2], verdict.first_broken)


def test_no_record_is_there_twice_or_missing(world: AuditWorld, items: Items) -> None:
    for index in (index for index in range(1, len(items)) if items[index][0] != "grant" or items[index - 1][0] != "grant"):
        twice = clone(items)
        twice.insert(index + 1, clone(items)[index])
        verdict = judge(world, twice)
        assert verdict.first_broken is not None, items[index][:2]
        assert verdict.first_broken.kind in (items[index][0], "event"), (items[index][:2], verdict.first_broken)
        assert not judge(world, [*clone(items)[:index], *clone(items)[index + 1 :]]).ok, items[index][:2]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_a_forger_writes_is_judged_and_never_crashes(world: AuditWorld, items: Items, data: st.DataObject) -> None:
    tampered = clone(items)
    body: Any = tampered[data.draw(st.integers(0, len(tampered) - 1))][2]
    while True:
        keys = sorted(body) if isinstance(body, dict) else list(range(len(body)))
        key: Any = data.draw(st.sampled_from(keys))
        if not isinstance(body[key], dict | list) or not body[key] or data.draw(st.booleans()):
            break
        body = body[key]
    before, body[key] = body[key], data.draw(_JSON | st.just("2.5") | st.just([]) | st.just({}))
    verdict = judge(world, tampered)
    assert verdict.ok or verdict.first_broken is not None
    assert before is not None


def test_attestation_stripped_from_the_ledger_is_missed(world: AuditWorld, items: Items) -> None:
    tampered = clone(items)
    del tampered[place(items, "event", "prepared")][2]["data"]["attestation"]
    verdict = judge(world, tampered)
    assert verdict.first_broken is not None
    assert verdict.first_broken.subject == "PREPARED"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}, "ApprovalExpired"),
        ({"decision": "reject"}, "QueryMissingApprovalsFromDatasetOwners"),
        ({"digest": "0" * 64}, "SignedDecisionInvalid"),
    ],
)
def test_a_decision_that_does_not_carry_the_run_is_named(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    world = AuditWorld(tmp_path)
    items = world.items()
    world.decide("litware", **changes)
    document_id = decision_document_id(world.documents[QUERY].proposal_id, world.users["litware"])
    index = place(items, "decision", document_id)
    tampered = clone(items)
    tampered[index][2]["document"] = world.documents[document_id].wire()
    _set_data(tampered, index, str(world.documents[document_id].data))
    verdict = judge(world, tampered)
    assert verdict.first_broken is not None
    assert (verdict.first_broken.index, verdict.first_broken.kind) == (index, "decision")
    assert code in verdict.first_broken.detail


def test_more_runs_than_were_approved(world: AuditWorld, items: Items) -> None:
    tampered = clone(items)
    index = place(items, "event", f"query.{QUERY}")
    kind, subject, body = tampered[index]
    for number in range(3):
        earlier = {**body, "seqno": number + 1, "data": {**body["data"], "runId": f"r-earlier-{number}"}}
        tampered.insert(place(tampered, "event") + number, (kind, f"{subject}-{number}", earlier))
    verdict = judge(world, tampered)
    assert verdict.first_broken is not None
    assert "ApprovalRunsExhausted" in verdict.first_broken.detail


# ---------------------------------------------------------------------- the command

app = typer.Typer()
app.add_typer(audit.app, name="audit")


def test_the_command_verifies_offline_and_names_the_first_broken_link(world: AuditWorld, bundle: Bundle, tmp_path: Path) -> None:
    good, bad, trust = tmp_path / "good.zip", tmp_path / "bad.json", ["--trust", str(world.hardware.trust_file)]
    write_bundle(bundle, good)
    bad.write_bytes(bundle_json(bundle).replace(b'"rows":12', b'"rows":13', 1))
    for words in ([], ["--output", "json"]):
        assert CliRunner().invoke(app, ["audit", "verify", str(good), *trust, *words]).exit_code == 0
        broken = CliRunner().invoke(app, ["audit", "verify", str(bad), *trust, *words])
        assert broken.exit_code == 4
    found = json.loads(broken.stdout)
    assert (found["ok"], found["first_broken"]["kind"], found["first_broken"]["index"]) == (
        False,
        "receipt",
        place(world.items(), "receipt"),
    )
    assert "first broken link" in CliRunner().invoke(app, ["audit", "verify", str(bad), *trust]).output


Raw = Callable[[list[Any], list[Any]], int]
"""Changes the records of a written bundle, given those of another run's, and returns the place of the first broken link."""


def _removed(records: list[Any], theirs: list[Any]) -> int:
    del records[20]
    return 20


def _swapped(records: list[Any], theirs: list[Any]) -> int:
    records[5], records[6] = records[6], records[5]
    return 5


def _substituted(records: list[Any], theirs: list[Any]) -> int:
    records[39] = theirs[39]
    return 39


def _repeated(records: list[Any], theirs: list[Any]) -> int:
    records.insert(12, records[12])
    return 13


def _cut(records: list[Any], theirs: list[Any]) -> int:
    records.pop()
    return len(records)


def _appended(records: list[Any], theirs: list[Any]) -> int:
    records.append(theirs[-1])
    return len(records) - 1


def _edited(records: list[Any], theirs: list[Any]) -> int:
    records[16]["body"]["job"]["datasets"][0]["viewName"] += "x"
    return 16


@pytest.mark.parametrize("change", [_removed, _swapped, _substituted, _repeated, _cut, _appended, _edited])
@pytest.mark.parametrize("form", ["json", "zip"])
def test_the_command_names_the_first_broken_link_of_either_form(
    world: AuditWorld, bundle: Bundle, tmp_path: Path, change: Raw, form: str
) -> None:
    value = json.loads(bundle_json(bundle))
    other = world.another_run(dt.timedelta(hours=1))
    place = change(value["records"], json.loads(bundle_json(other.bundle()))["records"])
    file = tmp_path / f"b.{form}"
    if form == "json":
        file.write_text(json.dumps(value))
    else:
        with zipfile.ZipFile(file, "w") as out, zipfile.ZipFile(io.BytesIO(bundle_zip(bundle))) as genuine:
            out.writestr("manifest.json", genuine.read("manifest.json"))
            names = [name for name in genuine.namelist() if name != "manifest.json"]
            for number, record in enumerate(value["records"]):
                name = re.sub(r"\d+", lambda found, number=number: f"{number:0{len(found[0])}d}", names[0], count=1)
                out.writestr(name, canonical_json(record))
    done = CliRunner().invoke(app, ["audit", "verify", str(file), "--trust", str(world.hardware.trust_file), "--output", "json"])
    assert done.exit_code == 4, done.output
    found = json.loads(done.stdout)["first_broken"]
    assert found["index"] == place, (found, value["records"][place - 1 : place + 1])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["verify", "nowhere.json"], 3),
        (["verify", "."], 2),
        (["verify", "nowhere.json", "--trust", "nowhere"], 3),
        (["verify", "nowhere.json", "--spark-host-data", "xyz"], 2),
        (["verify", "nowhere.json", "--key", "no-thumbprint"], 2),
        (["verify"], 2),
        (["export", "r-1", "--file", "bundle.txt"], 2),
        (["export", "r-1", "--config", "nowhere.toml"], 3),
        (["export", "Not a run", "--file", "b.json", "--config", "nowhere.toml"], 3),
        (["list", "--run", "r-1", "--query", "q"], 2),
        (["list", "--limit", "0"], 2),
    ],
)
def test_wrong_input_has_its_exit_code(words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["audit", *words]).exit_code == code


def test_a_hostile_bundle_cannot_write_to_the_terminal(world: AuditWorld, items: Items, tmp_path: Path) -> None:
    tampered = clone(items)
    tampered[0][2].pop("sealedBy")
    tampered[0][2]["query"] = "\x1b]0;owned\x07[bold]x"
    (tmp_path / "b.json").write_bytes(bundle_json(world.bundle(tampered, sealed_by=None)))
    shown = CliRunner().invoke(app, ["audit", "verify", str(tmp_path / "b.json")])
    assert shown.exit_code == 4
    assert "\x1b]0" not in shown.output
    assert "\x07" not in shown.output
