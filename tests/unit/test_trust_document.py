"""The trust document and the bootstrap file from the operator's seat: settings, environment and files decide nothing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from activities.clean_room_context import run_trust
from cleanroom.attestation import ALLOW_ALL_HOST_DATA, Product, TrustStore
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.governance import MemberDocument
from cleanroom.settings import AttestationSettings, GovernanceSettings, Settings, load_settings
from cleanroom.spark.profile import PodProfile, SidecarProfile
from cleanroom.trust import (
    AcceptedTrust,
    AttestationPolicy,
    Bootstrap,
    TrustDocument,
    TrustSource,
    attested_settings,
    drop_root_variables,
    read_bootstrap,
)
from cleanroom.trust.bootstrap import bootstrap_digest
from cleanroom.trust.document import parse_trust_document
from localcloud.launcher import guests
from localcloud.launcher.layout import Layout
from localcloud.standins.snp.server import DevelopmentHardware
from starters import worker
from tests.audit_world import BOOTSTRAP
from tests.shared_keys import shared_hardware
from tests.unit.spark_support import DIGEST, make_job, make_measurement, make_trust_document
from workers.boundaries import boundary_worker

SIDECAR = SidecarProfile(name="attestation", image=f"localhost/skr@sha256:{DIGEST}", layers=("1" * 64,), command=("/bin/skr",))
CONFIDENTIAL: dict[str, Any] = {"development": None, "pods": make_measurement().model_copy(update={"sidecars": (SIDECAR,)})}


@pytest.fixture(scope="module")
def hardware() -> DevelopmentHardware:
    return shared_hardware()


class Governance:
    """Member documents of one contract, as an attested caller reads them."""

    def __init__(self) -> None:
        self.documents: dict[str, MemberDocument] = {}
        self.reads: list[str] = []

    def put(self, document: TrustDocument, *, state: Any = "Accepted", **changes: Any) -> None:
        values = {"id": document.id, "state": state, "contract_id": "flights", "data": document.to_data(), "version": "2.1"}
        self.documents[document.id] = MemberDocument(**(values | changes))

    async def read(self, document_id: str) -> MemberDocument:
        self.reads.append(document_id)
        await asyncio.sleep(0)
        if document_id not in self.documents:
            raise NotFound("DocumentNotFound", document_id)
        return self.documents[document_id]

    def source(self, *, development: bool = True) -> TrustSource:
        return TrustSource(self.read, "flights", development=development)


def code(work: Awaitable[Any] | Callable[[], Any]) -> str:
    with pytest.raises(CleanRoomError) as caught:
        asyncio.run(work) if asyncio.iscoroutine(work) else work()  # type: ignore[operator]
    return caught.value.code


# ---------------------------------------------------------------------- which document is in force


def test_accepted_document_with_the_highest_number_is_in_force(hardware: DevelopmentHardware) -> None:
    governance = Governance()
    source = governance.source()

    async def work() -> None:
        with pytest.raises(PreconditionFailed, match="TrustDocumentMissing"):
            await source.in_force()
        for number in (1, 2):
            governance.put(make_trust_document(hardware, number=number))
            assert (await source.in_force()).document.number == number
        governance.put(make_trust_document(hardware, number=3), state="Proposed")
        assert (await source.in_force()).document.number == 2
        assert [each.document.number for each in await source.accepted()] == [1, 2]

    asyncio.run(work())


def test_older_document_cannot_be_put_back(hardware: DevelopmentHardware) -> None:
    """Even a governance that no longer shows the newer document does not make a running worker go back."""
    governance = Governance()
    source = governance.source()
    governance.put(make_trust_document(hardware))
    governance.put(make_trust_document(hardware, number=2, spark_service_host_data=("77" * 32,)))

    async def work() -> None:
        assert (await source.in_force()).document.number == 2
        del governance.documents["trust-flights-2"]
        assert (await source.in_force()).document.number == 2
        # A document under an old number would need another ID, and its content is bound to its number.
        old = make_trust_document(hardware)
        governance.documents["trust-flights-3"] = MemberDocument(
            id="trust-flights-3", state="Accepted", contract_id="flights", data=old.to_data()
        )
        with pytest.raises(Refused, match="TrustDocumentMismatch"):
            await source.in_force()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFound("DocumentNotFound", "x"), "TrustDocumentMissing"),
        (NotFound("ContractNotFound", "x"), "ContractNotFound"),
        (Conflict("ContractIdMismatch", "x"), "TrustDocumentMismatch"),
        (Conflict("Odd", "x"), "Odd"),
        (Refused("VerifySnpAttestationFailed", "x"), "VerifySnpAttestationFailed"),
        (InvalidInput("Odd", "x"), "Odd"),
        (Unavailable("GovernanceUnreachable", "x"), "GovernanceUnreachable"),
    ],
)
async def test_answer_that_says_nothing_about_the_document_is_no_document(error: CleanRoomError, expected: str) -> None:
    """Only governance's answer that there is none counts as none. Every other error reaches the caller, and the next call asks again."""
    answers: list[CleanRoomError] = [error, NotFound("DocumentNotFound", "x")]

    async def read(document_id: str) -> MemberDocument:
        raise answers.pop(0)

    source = TrustSource(read, "flights", development=True)
    with pytest.raises(CleanRoomError) as caught:
        await source.in_force()
    assert caught.value.code == expected
    if expected == "TrustDocumentMissing":
        assert caught.value.party == "operator"
    elif expected != "TrustDocumentMismatch":
        assert await source.next_number() == 1
        assert answers == []


async def test_every_question_reads_governance_again(hardware: DevelopmentHardware) -> None:
    governance = Governance()
    source = governance.source()
    assert (await source.accepted(), await source.next_number()) == ((), 1)
    governance.put(make_trust_document(hardware))
    assert await source.next_number() == 2
    governance.put(make_trust_document(hardware, number=2))
    assert [each.document.number for each in await source.accepted()] == [1, 2]
    governance.put(make_trust_document(hardware, number=3))
    assert (await source.in_force()).document.number == 3
    # Documents that were read once are not read again.
    assert governance.reads.count("trust-flights-1") == 3


def test_roots_of_a_document_become_private_files(hardware: DevelopmentHardware) -> None:
    pem = "-----BEGIN CERTIFICATE-----\n{}\n"
    document = make_trust_document(hardware, tls_roots=pem.format("tls"), key_release_roots=pem.format("release"))
    trust, without = AcceptedTrust(document, document.digest), AcceptedTrust(make_trust_document(hardware), "")
    assert (without.tls_roots_file, without.key_release_roots_file) == (None, None)
    for file, text in ((trust.tls_roots_file, "tls"), (trust.key_release_roots_file, "release")):
        assert file is not None
        assert file.read_text() == pem.format(text)
        assert file.stat().st_mode & 0o777 == 0o600
    assert trust.tls_roots_file == trust.tls_roots_file


@pytest.mark.parametrize("state", ["Draft", "Proposed"])
def test_document_that_the_members_did_not_accept_does_not_count(hardware: DevelopmentHardware, state: str) -> None:
    governance = Governance()
    governance.put(make_trust_document(hardware), state=state)
    assert code(governance.source().in_force()) == "TrustDocumentMissing"


def test_document_of_another_contract_is_refused(hardware: DevelopmentHardware) -> None:
    governance = Governance()
    governance.put(make_trust_document(hardware), contract_id="other")
    assert code(governance.source().in_force()) == "TrustDocumentMismatch"


@pytest.mark.parametrize("length", [256 * 1024, 256 * 1024 + 1])
def test_length_of_a_document_is_bounded(hardware: DevelopmentHardware, length: int) -> None:
    document = make_trust_document(hardware)
    text = document.to_data().ljust(length)
    if length == 256 * 1024:
        assert parse_trust_document(text, document_id="d") == document
        return
    with pytest.raises(CleanRoomError, match="at most 262144 characters"):
        parse_trust_document(text, document_id="d")


def test_malformed_member_of_a_document_is_named(hardware: DevelopmentHardware) -> None:
    text = make_trust_document(hardware).to_data().replace('"number":1', '"number":0')
    with pytest.raises(CleanRoomError) as caught:
        parse_trust_document(text, document_id="d")
    assert caught.value.message == "trust document d: number: Input should be greater than or equal to 1."


@pytest.mark.parametrize("data", ["{}", "[]", "not JSON", '{"number": 1, "number": 1}', None])
def test_malformed_document_stops_the_worker_instead_of_an_older_one_counting(hardware: DevelopmentHardware, data: Any) -> None:
    governance = Governance()
    governance.put(make_trust_document(hardware))
    governance.put(make_trust_document(hardware, number=2), data=data)
    assert code(governance.source().in_force()) == "TrustDocumentMalformed"


def test_next_document_replaces_one_that_cannot_be_used(hardware: DevelopmentHardware) -> None:
    governance = Governance()
    source = governance.source(development=False)
    governance.put(make_trust_document(hardware))
    governance.put(make_trust_document(hardware, number=2, **CONFIDENTIAL), data="{}")

    async def work() -> None:
        with pytest.raises(CleanRoomError, match="TrustDocumentMalformed"):
            await source.in_force()
        assert await source.accepted() == ()
        governance.put(make_trust_document(hardware, number=3, **CONFIDENTIAL))
        assert (await source.in_force()).document.number == 3
        assert await source.next_number() == 4

    asyncio.run(work())


def test_development_roots_need_the_measured_flag(hardware: DevelopmentHardware) -> None:
    governance = Governance()
    governance.put(make_trust_document(hardware))
    assert code(governance.source(development=False).in_force()) == "DevelopmentNotAllowed"
    governance = Governance()
    governance.put(make_trust_document(hardware, **CONFIDENTIAL))
    found = asyncio.run(governance.source(development=False).in_force())
    assert found.document.trust_store() == TrustStore.amd()


async def test_concurrent_readings_share_requests_and_are_never_older_than_their_question(hardware: DevelopmentHardware) -> None:
    governance = Governance()
    governance.put(make_trust_document(hardware))
    source = governance.source()
    first = asyncio.gather(*(source.in_force() for _ in range(20)))
    await asyncio.sleep(0)
    await first
    assert len(governance.reads) <= 5
    waiting = asyncio.create_task(source.in_force())
    await asyncio.sleep(0)
    governance.put(make_trust_document(hardware, number=2))
    assert (await source.in_force()).document.number == 2
    await waiting


# ---------------------------------------------------------------------- what the document may say


def test_document_without_development_must_measure_the_sidecar_and_not_allow_everything(hardware: DevelopmentHardware) -> None:
    with pytest.raises(ValueError, match="sidecar"):
        make_trust_document(hardware, development=None)
    with pytest.raises(ValueError, match="every container"):
        make_trust_document(hardware, spark_service_host_data=tuple(ALLOW_ALL_HOST_DATA))
    with pytest.raises(ValueError, match="PEM"):
        make_trust_document(hardware, tls_roots="x")


def test_document_survives_its_wire_form_with_the_same_digest(hardware: DevelopmentHardware) -> None:
    policy = AttestationPolicy.model_validate(
        {
            "minimum_tcb": {
                "Milan": {name: {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219} for name in ("reported", "committed")}
            },
            "minimum_uvm_svn": 103,
            "provider_ids": ["azure"],
            "require_crl": True,
        }
    )
    document = make_trust_document(hardware, attestation=policy)
    assert "null" not in document.to_data()
    assert json.loads(document.to_data())["attestation"]["minimum_report_version"] == 2
    found = parse_trust_document(document.to_data(), document_id=document.id)
    assert found == document
    assert found.digest == document.digest
    expected = found.expectations([b"list"])
    assert expected.require_uvm
    assert expected.refuse_host_data == ALLOW_ALL_HOST_DATA
    assert expected.minimum_tcb is not None
    assert expected.minimum_committed_tcb is not None
    assert expected.minimum_tcb[Product.MILAN].microcode == 219
    assert (expected.minimum_uvm_svn, expected.csp_ids, expected.crls, expected.require_crl) == (
        103,
        frozenset({"azure"}),
        (b"list",),
        True,
    )


# ---------------------------------------------------------------------- the bootstrap file


def start(folder: Path, *arguments: str) -> str:
    """Start a worker that must fail; return its error code."""
    config = folder / "cleanroom.toml"
    config.write_text(
        '[profile.clean-room]\nboundary = "clean-room"\n[profile.frontend]\nboundary = "frontend"\ncollaboration = "flights"\n'
    )
    result = CliRunner().invoke(worker.app, [*arguments, "--config", str(config), "--output", "json"])
    assert result.exit_code not in (0, 1), result.output
    return str(json.loads(result.stdout.splitlines()[-1])["code"])


def test_worker_command_refuses_another_or_no_bootstrap_file(tmp_path: Path) -> None:
    file, digest = str(bootstrap_file(tmp_path)), BOOTSTRAP.digest()
    assert start(tmp_path, "clean-room") == "BootstrapMissing"
    assert start(tmp_path, "clean-room", "--bootstrap", file) == "BootstrapIncomplete"
    assert start(tmp_path, "clean-room", "--bootstrap-digest", digest) == "BootstrapIncomplete"
    assert start(tmp_path, "frontend", "--bootstrap", file, "--bootstrap-digest", digest) == "BootstrapNotUsed"
    bootstrap_file(tmp_path, BOOTSTRAP.model_copy(update={"development": False}))
    assert start(tmp_path, "clean-room", "--bootstrap", file, "--bootstrap-digest", digest) == "BootstrapMismatch"


def test_host_data_of_the_guests_covers_the_bootstrap_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    before = [guests.host_data(layout, name) for name in guests.GUESTS]
    assert guests.bootstrap(layout).digest() in guests.security_policy(layout, guests.GUESTS[0])
    evil = guests.bootstrap(layout).model_copy(update={"governance_url": "https://attacker.example"})
    monkeypatch.setattr(guests, "bootstrap", lambda layout: evil)
    after = [guests.host_data(layout, name) for name in guests.GUESTS]
    assert not set(before) & set(after)


def bootstrap_file(folder: Path, bootstrap: Bootstrap = BOOTSTRAP) -> Path:
    file = folder / "bootstrap.json"
    file.write_bytes(bootstrap.to_data())
    return file


def test_only_the_measured_bootstrap_file_is_accepted(tmp_path: Path) -> None:
    file = bootstrap_file(tmp_path)
    assert read_bootstrap(file, BOOTSTRAP.digest()) == BOOTSTRAP
    evil = BOOTSTRAP.model_copy(update={"governance_url": "https://attacker.example"})
    bootstrap_file(tmp_path, evil)
    assert code(lambda: read_bootstrap(file, BOOTSTRAP.digest())) == "BootstrapMismatch"
    assert code(lambda: read_bootstrap(file, "sha256:0")) == "BootstrapDigestInvalid"
    assert code(lambda: read_bootstrap(tmp_path / "none", BOOTSTRAP.digest())) == "FileNotFound"


@pytest.mark.parametrize(
    "change",
    [
        {"governance_url": "http://cgs.example"},
        {"governance_url": "https://a@cgs.example"},
        {"governance_url": "https://cgs.example?a=b"},
        {"governance_url": "https://cgs.example#a"},
        {"governance_url": "https:///app"},
        {"governance_url": "https://[cgs"},
        {"governance_roots": ""},
        {"contract_id": ""},
        {"schema_version": 2},
        {"more": 1},
    ],
)
def test_bootstrap_file_without_a_verifiable_address_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    content = json.dumps(json.loads(BOOTSTRAP.to_data()) | change).encode()
    (tmp_path / "bootstrap.json").write_bytes(content)
    with pytest.raises(CleanRoomError, match=next(iter(change))) as caught:
        read_bootstrap(tmp_path / "bootstrap.json", bootstrap_digest(content))
    assert caught.value.code == "BootstrapInvalid"


def test_bootstrap_file_that_is_no_json_or_too_long_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.json"
    file.write_bytes(b"{}")
    with pytest.raises(CleanRoomError) as missing:
        read_bootstrap(file, bootstrap_digest(b"{}"))
    assert missing.value.message == f"bootstrap file {file}: contract_id: is missing (and 2 more)."
    file.write_bytes(b"{")
    with pytest.raises(CleanRoomError, match="Expecting property name") as caught:
        read_bootstrap(file, bootstrap_digest(b"{"))
    assert caught.value.code == "BootstrapInvalid"
    longest = BOOTSTRAP.to_data().ljust(256 * 1024)
    for content, expected in ((longest, BOOTSTRAP), (longest + b" ", None)):
        file.write_bytes(content)
        if expected is None:
            assert code(lambda: read_bootstrap(file, bootstrap_digest(longest + b" "))) == "BootstrapMismatch"
        else:
            assert read_bootstrap(file, bootstrap_digest(content)) == expected


@pytest.mark.parametrize("boundary", ["clean-room", "spark-service"])
def test_attested_worker_does_not_start_without_a_bootstrap_file(boundary: Any) -> None:
    assert code(lambda: boundary_worker(Settings(boundary=boundary, collaboration="flights"))) == "BootstrapMissing"


def test_settings_of_an_attested_worker_do_not_choose_governance(tmp_path: Path) -> None:
    evil = tmp_path / "evil.pem"
    evil.write_text("-----BEGIN CERTIFICATE-----\nevil\n")
    edited = Settings(
        boundary="clean-room",
        collaboration="other",
        ca_file=evil,
        governance=GovernanceSettings(url="https://attacker.example", mode="cgs-client", service_cert_file=evil, ccf_endpoint="https://x"),
    )
    found = attested_settings(edited, BOOTSTRAP)
    assert (found.collaboration, found.governance.url, found.governance.mode) == ("flights", "https://cgs.example", "app")
    assert found.governance_roots is not None
    assert found.governance_roots.read_text() == BOOTSTRAP.governance_roots
    assert found.governance.ccf_endpoint is None
    for url in ("https://attacker.example", "http://localhost.attacker.example:8284", "http://localhost@attacker.example", "", "http://"):
        remote = edited.model_copy(update={"attestation": AttestationSettings(url=url)})
        assert code(lambda: attested_settings(remote, BOOTSTRAP)) == "AttestationUrlNotLocal"  # noqa: B023
    for host in ("localhost", "127.0.0.1", "[::1]"):
        local = AttestationSettings(url=f"http://{host}:8284")
        assert attested_settings(edited.model_copy(update={"attestation": local}), BOOTSTRAP).attestation == local


def test_variables_that_replace_tls_roots_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "SSLKEYLOGFILE")
    for name in names:
        monkeypatch.setenv(name, "/tmp/evil.pem")
    assert drop_root_variables() == names
    assert not set(names) & set(os.environ)
    assert drop_root_variables() == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CLEANROOM_KUBERNETES__IMAGE_LAYERS", '["00"]'),
        ("CLEANROOM_KUBERNETES__IMAGE", "evil@sha256:00"),
        ("CLEANROOM_SPARK__SERVICE_HOST_DATA", '["00"]'),
        ("CLEANROOM_ATTESTATION__TRUST_FILES", '["/tmp/evil.json"]'),
        ("CLEANROOM_ATTESTATION__REQUIRE_UVM", "false"),
        ("CLEANROOM_ATTESTATION__REFUSE_ALLOW_ALL", "false"),
        ("CLEANROOM_ATTESTATION__REPORT_VERSION_FLOOR", "2"),
    ],
)
def test_settings_that_decided_trust_no_longer_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    (tmp_path / "cleanroom.toml").write_text("")
    assert code(lambda: load_settings("default", path=tmp_path / "cleanroom.toml")) == "ConfigInvalid"


def test_job_and_services_follow_from_the_document_whatever_the_settings_say(hardware: DevelopmentHardware) -> None:
    """An edited ConfigMap: other hosts, authority and roots. The job's environment and the pods' policies stay the same."""
    governance = Governance()
    document = make_trust_document(hardware, storage_hosts=("store.example",), entra_authority="https://login.example")
    governance.put(document)
    edited = Settings.model_validate(
        {
            "storage_hosts": ["attacker.example"],
            "governance": {"url": "https://attacker.example"},
            "credential": {"authority": "https://attacker.example"},
            "kubernetes": {"namespace": "other"},
        }
    )
    first, second = (asyncio.run(run_trust(each, BOOTSTRAP, governance.read).in_force()) for each in (Settings(), edited))
    assert first.environment == second.environment
    assert first.environment.storage_hosts == ("store.example",)
    assert first.environment.authority == "https://login.example"
    assert first.environment.governance_url == "https://cgs.example"
    assert (first.environment.trust_document, first.environment.trust_digest) == (document.id, document.digest)
    job = make_job()
    assert first.services.compute(job) == second.services.compute(job)
    profiles = [PodProfile.deployed(document.pods, each).digest() for each in (Settings(), edited)]
    assert profiles[0] == profiles[1]


def test_another_trust_document_gives_pods_another_identity(hardware: DevelopmentHardware) -> None:
    """The digest of the document is measured with the job."""
    digests = {"aa" * 32, "bb" * 32}
    jobs = [make_job(governance={"url": "https://cgs.example", "trustDigest": digest}) for digest in digests]
    assert len({job.digest() for job in jobs}) == 2
