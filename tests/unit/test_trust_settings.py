"""Every member of the trust document and of the bootstrap file reaches its verifier, and a wrong value refuses."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from activities.clean_room_context import run_trust
from activities.spark_service import SparkServiceActivities
from cleanroom.attestation import ALLOW_ALL_HOST_DATA, AttestationEvidence, Product, Tcb, TrustedRoot, TrustStore, report_data_for
from cleanroom.attestation.chain import LeafKind
from cleanroom.attestation.trust import spki_sha256
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import MemberDocument
from cleanroom.messages.run import PolicyRequest, PolicyStatement, ServiceProof
from cleanroom.runs.assembly import JobEnvironment
from cleanroom.runs.proof import ServiceVerifier
from cleanroom.settings import AttestationSettings, KubernetesSettings, Settings
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodMeasurement, PodProfile, SidecarProfile
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import PolicySigner
from cleanroom.trust import (
    AttestationPolicy,
    Bootstrap,
    DevelopmentTrust,
    MinimumTcb,
    TrustDocument,
    accepted_trust,
    trust_document_id,
)
from localcloud.standins.snp.minting import Hierarchy, LeafPlan, current_tcb, mint_hierarchy
from localcloud.standins.snp.server import MEASUREMENT, UVM_SVN, DevelopmentHardware
from tests.audit_world import BOOTSTRAP
from tests.shared_keys import shared_hardware
from tests.unit.spark_support import DIGEST, make_job, make_measurement, make_trust_document
from workers import boundaries
from workers.boundaries import boundary_worker

HOST = "5a" * 32
NONCE = "n" * 43
SIGNER = PolicySigner()
JOB = make_job()
NOW = dt.datetime.now(dt.UTC)
CURRENT = current_tcb(Product.MILAN)
NEWER = CURRENT.model_copy(update={"snp": CURRENT.snp + 1})
OLDER = CURRENT.model_copy(update={"snp": CURRENT.snp - 1})
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


@pytest.fixture(scope="module")
def hardware() -> DevelopmentHardware:
    return shared_hardware()


@pytest.fixture(scope="module")
def vlek() -> Hierarchy:
    return mint_hierarchy(LeafPlan(product=Product.MILAN, kind=LeafKind.VLEK, csp_id="CN=azure"))


def report_of(hardware: DevelopmentHardware, host: str = HOST, *, chain: Hierarchy | None = None, **fields: Any) -> ServiceReport:
    """The Spark service's report on the development chip, or on ``chain``."""
    payload = SIGNER.payload(NONCE)
    bound = {"host_data": bytes.fromhex(host), "report_data": report_data_for(payload.encode())}
    if chain is None:
        evidence = hardware.evidence(**bound, **fields)
    else:
        report = chain.report(measurement=MEASUREMENT, **bound, **fields)
        evidence = AttestationEvidence.of(report, chain.chain_pem(), hardware.uvm_endorsement)
    return ServiceReport(evidence=evidence, payload=payload)


def judge(document: TrustDocument, report: ServiceReport, crls: tuple[bytes, ...] = ()) -> str:
    try:
        verdict = ServiceVerifier(document, crls).report(report, NONCE, at=NOW)
    except CleanRoomError as error:
        return error.code
    assert verdict.host_data in document.spark_service_host_data
    return "accepted"


def with_policy(hardware: DevelopmentHardware, **policy: Any) -> TrustDocument:
    return make_trust_document(hardware, attestation=AttestationPolicy(**policy))


def minimum(reported: Tcb = CURRENT, committed: Tcb = CURRENT, product: Product = Product.MILAN) -> dict[str, Any]:
    return {"minimum_tcb": {product: MinimumTcb(reported=reported, committed=committed)}}


# ---------------------------------------------------------------------- requirements on reports


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({}, "accepted"),
        (minimum(), "accepted"),
        (minimum(reported=NEWER), "TcbTooOld"),
        (minimum(committed=NEWER), "TcbTooOld"),
        (minimum(product=Product.GENOA), "TcbTooOld"),
        ({"minimum_tcb": {}}, "TcbTooOld"),
        ({"minimum_uvm_svn": UVM_SVN}, "accepted"),
        ({"minimum_uvm_svn": UVM_SVN + 1}, "UvmSvnTooOld"),
        ({"minimum_report_version": 3}, "accepted"),
        ({"minimum_report_version": 4}, "ReportVersionUnsupported"),
        ({"require_crl": True}, "RevocationStatusUnknown"),
    ],
)
def test_every_requirement_on_reports_reaches_the_verifier(hardware: DevelopmentHardware, policy: dict[str, Any], code: str) -> None:
    assert judge(with_policy(hardware, **policy), report_of(hardware)) == code


def test_minimum_tcb_is_that_of_the_reports_own_product(hardware: DevelopmentHardware) -> None:
    strict, lenient = MinimumTcb(reported=NEWER, committed=NEWER), MinimumTcb(reported=OLDER, committed=OLDER)
    for own, code in ((strict, "TcbTooOld"), (lenient, "accepted")):
        other = lenient if own is strict else strict
        document = with_policy(hardware, minimum_tcb={Product.GENOA: other, Product.MILAN: own, Product.TURIN: other})
        assert judge(document, report_of(hardware)) == code


@pytest.mark.parametrize(
    ("providers", "code"),
    [
        (None, "accepted"),
        (("CN=azure",), "accepted"),
        (("CN=other", "CN=azure"), "accepted"),
        (("CN=other",), "CloudProviderNotAllowed"),
        ((), "CloudProviderNotAllowed"),
    ],
)
def test_only_the_named_providers_certificates_are_accepted(
    hardware: DevelopmentHardware, vlek: Hierarchy, providers: tuple[str, ...] | None, code: str
) -> None:
    base = make_trust_document(hardware)
    assert base.development is not None
    root = TrustedRoot(spki_sha256=spki_sha256(vlek.root), product=Product.MILAN)
    development = base.development.model_copy(update={"roots": (root,)})
    document = base.model_copy(update={"development": development, "attestation": AttestationPolicy(provider_ids=providers)})
    assert judge(document, report_of(hardware, chain=vlek)) == code


def test_endorsement_of_the_utility_vm_is_always_required(hardware: DevelopmentHardware) -> None:
    report = report_of(hardware)
    without = report.model_copy(update={"evidence": report.evidence.model_copy(update={"uvm_endorsements": ""})})
    assert judge(make_trust_document(hardware), without) == "UvmEndorsementMissing"


def test_only_the_named_services_are_accepted_and_never_a_policy_that_allows_everything(hardware: DevelopmentHardware) -> None:
    document = make_trust_document(hardware, spark_service_host_data=("77" * 32, HOST))
    everything = next(iter(ALLOW_ALL_HOST_DATA))
    assert judge(document, report_of(hardware)) == "accepted"
    assert judge(document, report_of(hardware, "77" * 32)) == "accepted"
    assert judge(document, report_of(hardware, "78" * 32)) == "HostDataMismatch"
    allowing = document.model_copy(update={"spark_service_host_data": (everything,)})
    assert judge(allowing, report_of(hardware, everything)) == "HostDataRefused"


def test_roots_and_endorsement_issuers_are_those_of_the_document(hardware: DevelopmentHardware, tmp_path: Path) -> None:
    document = make_trust_document(hardware)
    assert document.development is not None
    other = make_trust_document(DevelopmentHardware(tmp_path)).development
    assert other is not None

    def with_trust(**changes: Any) -> TrustDocument:
        assert document.development is not None
        return document.model_copy(update={"development": document.development.model_copy(update=changes)})

    assert judge(with_trust(roots=other.roots), report_of(hardware)) == "RootNotTrusted"
    assert judge(with_trust(roots=(*other.roots, *document.development.roots)), report_of(hardware)) == "accepted"
    for issuers in ((), other.uvm):
        assert judge(with_trust(uvm=issuers), report_of(hardware)) == "UvmIssuerNotTrusted"
    older = tuple(row.model_copy(update={"minimum_svn": UVM_SVN + 1}) for row in document.development.uvm)
    assert judge(with_trust(uvm=older), report_of(hardware)) == "UvmSvnTooOld"
    assert judge(document.model_copy(update={"development": None}), report_of(hardware)) == "RootNotTrusted"


def test_amds_roots_are_trusted_in_addition_only_on_demand_and_never_marked_as_development(hardware: DevelopmentHardware) -> None:
    document = make_trust_document(hardware)
    assert document.development is not None
    amd = TrustStore.amd()
    # A document cannot make its own roots look like genuine hardware.
    unmarked = document.development.model_copy(
        update={
            "roots": tuple(root.model_copy(update={"development": False}) for root in document.development.roots),
            "uvm": tuple(row.model_copy(update={"development": False}) for row in document.development.uvm),
        }
    )
    for added, genuine in ((False, 0), (True, len(amd.roots))):
        development = unmarked.model_copy(update={"amd_roots": added})
        store = document.model_copy(update={"development": development}).trust_store()
        assert len(store.roots) == len(document.development.roots) + genuine
        assert [root for root in store.roots if not root.development] == list(amd.roots)[:genuine]
        assert [row for row in store.uvm if not row.development] == (list(amd.uvm) if added else [])
        assert len(store.uvm) == len(document.development.uvm) + (len(amd.uvm) if added else 0)


async def test_revocation_lists_are_read_at_every_use(hardware: DevelopmentHardware, tmp_path: Path) -> None:
    chain, at = hardware.hierarchy, NOW - dt.timedelta(days=1)
    files = (tmp_path / "first.crl", tmp_path / "second.crl")
    settings = Settings(attestation=AttestationSettings(crl_files=files))
    document = with_policy(hardware, require_crl=True)

    async def read(document_id: str) -> MemberDocument:
        return member_document(document)

    trust = run_trust(settings, BOOTSTRAP, once(read))

    async def verdict() -> str:
        services = (await trust.in_force()).services
        try:
            services.report(report_of(hardware), NONCE, at=NOW)
        except CleanRoomError as error:
            return error.code
        return "accepted"

    foreign = mint_hierarchy(LeafPlan(product=Product.GENOA)).crl(at=at)
    for file in files:
        file.write_bytes(foreign)
    assert await verdict() == "RevocationStatusUnknown"
    files[1].write_bytes(chain.crl(at=at))
    assert await verdict() == "accepted"
    files[1].write_bytes(chain.crl([chain.intermediate.serial_number], at=at))
    assert await verdict() == "CertificateRevoked"
    files[1].unlink()
    with pytest.raises(FileNotFoundError):
        await verdict()


# ---------------------------------------------------------------------- the pods' program

SIDECAR = SidecarProfile(name="skr", image=f"localhost/skr@sha256:{DIGEST}", layers=("1" * 64,), command=("/skr",), environment={"A": "1"})
MEASURED = PodMeasurement(image=make_measurement().image, layers=make_measurement().layers, sidecars=(SIDECAR,))
OTHER: dict[str, Any] = {
    "image": f"registry.example/app@sha256:{'1' * 64}",
    "layers": ("1" * 64,),
    "entrypoint": ("/opt/other.sh",),
    "main_application_file": "local:///opt/other.py",
    "arguments": ("--debug",),
    "working_dir": "/tmp",
    "image_environment": {"PATH": "/tmp"},
    "sidecars": (),
    "infrastructure_svn": 5,
}
OTHER_SIDECAR: dict[str, Any] = {
    "name": "other",
    "image": f"localhost/skr@sha256:{'1' * 64}",
    "layers": ("2" * 64,),
    "command": ("/skr", "--debug"),
    "environment": {"A": "2"},
}
CHANGED_PODS = [pytest.param(MEASURED.model_copy(update={name: value}), id=name) for name, value in OTHER.items()] + [
    pytest.param(MEASURED.model_copy(update={"sidecars": (SIDECAR.model_copy(update={name: value}),)}), id=f"sidecar {name}")
    for name, value in OTHER_SIDECAR.items()
]


def proof_under(hardware: DevelopmentHardware, pods: PodMeasurement) -> ServiceProof:
    """What a service that serves ``pods`` presents."""
    profile = PodProfile(**dict(pods))
    policies = pod_policies(JOB, profile)
    statement = PolicyStatement(
        statement=SIGNER.sign(JOB, profile, policies, NONCE).statement,
        driver_host_data=policies.driver.host_data,
        executor_host_data=policies.executor.host_data,
    )
    return ServiceProof(report=report_of(hardware), policies=statement)


@pytest.mark.parametrize("pods", CHANGED_PODS)
def test_every_member_of_the_pods_program_is_compared_and_measured(hardware: DevelopmentHardware, pods: PodMeasurement) -> None:
    """A service that runs another program than the members accepted gets no policies, and its pods another identity."""
    accepted = ServiceVerifier(make_trust_document(hardware, pods=MEASURED))
    assert accepted.policies(proof_under(hardware, MEASURED), NONCE, JOB, at=NOW) == accepted.compute(JOB)
    with pytest.raises(CleanRoomError, match="image and pod profile") as caught:
        accepted.policies(proof_under(hardware, pods), NONCE, JOB, at=NOW)
    assert caught.value.code == "PolicyJobMismatch"
    ours, theirs = accepted.compute(JOB), pod_policies(JOB, PodProfile(**dict(pods)))
    assert ours.driver.host_data != theirs.driver.host_data
    if pods.main_application_file == MEASURED.main_application_file and pods.arguments == MEASURED.arguments:
        assert ours.executor.host_data != theirs.executor.host_data


async def test_spark_service_takes_the_pods_program_from_the_document(hardware: DevelopmentHardware) -> None:
    document = make_trust_document(hardware, pods=MEASURED)
    profiles: list[PodProfile] = []

    class Service:
        async def security_policy(self, job: Any, profile: PodProfile, nonce: str) -> Any:
            profiles.append(profile)
            return SIGNER.sign(job, profile, pod_policies(job, profile), nonce)

    async def read(document_id: str) -> MemberDocument:
        return member_document(document)

    settings = Settings(kubernetes=KubernetesSettings(namespace="own"))
    service: Any = Service()
    reader: Any = None
    activities = SparkServiceActivities(settings, service, reader, run_trust(settings, BOOTSTRAP, once(read)))
    await activities.get_security_policy(PolicyRequest(job=JOB, nonce="ab" * 32))
    (profile,) = profiles
    assert PodMeasurement(**{name: getattr(profile, name) for name in PodMeasurement.model_fields}) == MEASURED
    assert profile.namespace == "own"


# ---------------------------------------------------------------------- whose document it is


def member_document(document: TrustDocument, **changes: Any) -> MemberDocument:
    values = {"id": document.id, "state": "Accepted", "contract_id": document.contract_id, "data": document.to_data()}
    return MemberDocument(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "member", "code"),
    [
        ({}, {}, "accepted"),
        ({}, {"state": "Proposed"}, "DocumentNotFound"),
        ({}, {"state": "Draft"}, "DocumentNotFound"),
        ({}, {"id": "trust-flights-2"}, "TrustDocumentMismatch"),
        ({}, {"contract_id": "trains"}, "TrustDocumentMismatch"),
        ({"number": 2}, {"id": "trust-flights-1"}, "TrustDocumentMismatch"),
        ({"contract_id": "trains"}, {"id": "trust-flights-1", "contract_id": "flights"}, "TrustDocumentMismatch"),
        ({}, {"data": None}, "TrustDocumentMalformed"),
    ],
)
def test_identity_of_a_document_is_that_of_its_content(
    hardware: DevelopmentHardware, changes: dict[str, Any], member: dict[str, Any], code: str
) -> None:
    found = member_document(make_trust_document(hardware, **changes), **member)
    if code == "accepted":
        accepted = accepted_trust(found, "flights", 1)
        assert (accepted.id, accepted.digest) == ("trust-flights-1", accepted.document.digest)
        return
    with pytest.raises(CleanRoomError) as caught:
        accepted_trust(found, "flights", 1)
    assert caught.value.code == code


@pytest.mark.parametrize("value", [0, 2, "1", None])
def test_document_of_another_schema_is_malformed(hardware: DevelopmentHardware, value: Any) -> None:
    members = json.loads(make_trust_document(hardware).to_data())
    assert members["schema_version"] == 1
    changed = json.dumps(members | {"schema_version": value})
    with pytest.raises(CleanRoomError, match="TrustDocumentMalformed"):
        accepted_trust(member_document(make_trust_document(hardware), data=changed), "flights", 1)


# ---------------------------------------------------------------------- the bootstrap file

EVIL = Settings.model_validate(
    {
        "collaboration": "other",
        "governance": {"url": "https://attacker.example", "mode": "cgs-client", "ccf_endpoint": "https://attacker.example"},
    }
)


@pytest.mark.parametrize("boundary", ["clean-room", "spark-service"])
def test_attested_worker_calls_the_governance_of_its_bootstrap_file(monkeypatch: pytest.MonkeyPatch, boundary: Any) -> None:
    bootstrap = BOOTSTRAP.model_copy(update={"governance_url": "https://ledger.example", "governance_roots": PEM.format("ledger")})
    clients: list[dict[str, Any]] = []

    class Client:
        position = None
        catch_up = None
        get_member_document = None

        def __init__(self, url: str, *arguments: Any, ca_file: Path | None = None, mode: str = "app", **options: Any) -> None:
            assert ca_file is not None
            assert ca_file.stat().st_mode & 0o077 == 0
            clients.append({"url": url, "roots": ca_file.read_text(), "mode": mode, "contract": arguments[0] if arguments else None})

        accepted_member_document = None

    contracts: list[Bootstrap] = []

    def trust(settings: Settings, given: Bootstrap, read: Any) -> Any:
        contracts.append(given)
        return run_trust(settings, given, read)

    monkeypatch.setattr("cleanroom.publishing.user_documents.GovernanceUserClient", Client)
    monkeypatch.setattr(boundaries, "CleanRoomClient", Client)
    monkeypatch.setattr(boundaries, "run_trust", trust)
    monkeypatch.setattr("activities.clean_room_context.run_trust", trust)
    monkeypatch.setattr(boundaries.SparkService, "from_settings", staticmethod(lambda settings: None))
    boundary_worker(EVIL.model_copy(update={"boundary": boundary}), bootstrap)
    expected = {"url": "https://ledger.example", "roots": PEM.format("ledger"), "mode": "app"}
    assert [{name: client[name] for name in expected} for client in clients] == [expected] * (2 if boundary == "clean-room" else 1)
    assert clients[-1]["contract"] == (bootstrap.contract_id if boundary == "clean-room" else None)
    assert contracts == [bootstrap]


@pytest.mark.parametrize("changes", [{"contract_id": "trains"}, {"development": False}])
async def test_bootstrap_file_decides_whose_documents_count_and_whether_development_may(
    hardware: DevelopmentHardware, changes: dict[str, Any]
) -> None:
    asked: list[str] = []

    async def read(document_id: str) -> MemberDocument:
        asked.append(document_id)
        return member_document(make_trust_document(hardware))

    bootstrap = BOOTSTRAP.model_copy(update=changes)
    with pytest.raises(CleanRoomError) as caught:
        await run_trust(Settings(collaboration="flights"), bootstrap, once(read)).in_force()
    assert caught.value.code == ("TrustDocumentMismatch" if "contract_id" in changes else "DevelopmentNotAllowed")
    assert asked == [trust_document_id(bootstrap.contract_id, 1)]


def once(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Governance that has one trust document."""

    async def reader(document_id: str) -> MemberDocument:
        if not document_id.endswith("-1"):
            raise NotFound("DocumentNotFound", document_id)
        found: MemberDocument = await read(document_id)
        return found

    return reader


async def test_environment_of_a_job_is_that_of_document_and_bootstrap_file(hardware: DevelopmentHardware) -> None:
    document = make_trust_document(
        hardware, tls_roots=PEM.format("own"), storage_hosts=("a.example", "b.example:8443"), entra_authority="https://login.example"
    )
    bootstrap = BOOTSTRAP.model_copy(update={"governance_roots": PEM.format("ledger") + "\n", "governance_url": "https://ledger.example"})

    async def read(document_id: str) -> MemberDocument:
        return member_document(document)

    found = await run_trust(Settings(), bootstrap, once(read)).in_force()
    assert found.environment == JobEnvironment(
        governance_url="https://ledger.example",
        authority="https://login.example",
        ca_pem=f"{PEM.format('ledger')}\n{PEM.format('own')}\n",
        storage_hosts=("a.example", "b.example:8443"),
        trust_document="trust-flights-1",
        trust_digest=document.digest,
    )


# ---------------------------------------------------------------------- completeness

SEEN = {
    TrustDocument: {
        "schema_version",
        "contract_id",
        "number",
        "spark_service_host_data",
        "pods",
        "attestation",
        "development",
        # In the job's environment above, and in the release of keys: tests/unit/activities/test_key_release_settings.py.
        "entra_authority",
        "storage_hosts",
        "tls_roots",
        "key_release_roots",
    },
    AttestationPolicy: {"minimum_tcb", "minimum_uvm_svn", "minimum_report_version", "provider_ids", "require_crl"},
    MinimumTcb: {"reported", "committed"},
    DevelopmentTrust: {"roots", "uvm", "amd_roots", "verify_challenge_resource"},
    PodMeasurement: set(OTHER),
    SidecarProfile: set(OTHER_SIDECAR),
    # The worker tests above; schema_version in test_trust_document.py.
    Bootstrap: {"schema_version", "contract_id", "governance_url", "governance_roots", "development"},
}


@pytest.mark.parametrize("model", SEEN, ids=lambda model: model.__name__)
def test_every_member_has_a_test(model: type[BaseModel]) -> None:
    """A new member needs a test here that shows its effect."""
    assert set(model.model_fields) == SEEN[model]
