"""The SNP hardware stand-in through HTTP: launch a guest, get evidence from its sidecar, verify the evidence."""

from __future__ import annotations

import base64
import json
import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cleanroom.attestation import (
    AttestationEvidence,
    Expectations,
    GuestAttestor,
    TrustStore,
    host_data_for,
    parse_report,
    report_data_for,
    verify_evidence,
)
from cleanroom.errors import InvalidInput, NotFound, Refused, Unavailable
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware, SnpConfig, create_app
from localcloud.tls import LocalAuthority
from tests.unit.attestation.conftest import reasons

POLICY = base64.b64encode(b"package policy\n\napi_svn := '0.10.0'\n").decode()
ADMIN = {"authorization": "Bearer hypervisor"}


@dataclass(frozen=True)
class Host:
    url: str
    ca_file: Path
    http: httpx.Client
    trust: TrustStore

    def launch(self, name: str = "guest", **body: Any) -> dict[str, str]:
        answer = self.http.post("/guests", json={"name": name, "security_policy_base64": POLICY} | body, headers=ADMIN)
        assert answer.status_code == 201, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("snp-host")
    authority = LocalAuthority(folder / "tls")
    tls = authority.issue("snp")
    config = SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=folder / "snp", admin_token="hypervisor")  # type: ignore[arg-type]
    with serving(create_app(config), "snp", tls) as url:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        with httpx.Client(base_url=url, verify=context) as client:
            trust = TrustStore.load(root_files=[folder / "snp" / "attestation-trust.json"])
            yield Host(url, authority.ca_file, client, trust)


@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
async def test_evidence_binds_policy_and_runtime_data(host: Host, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    guest = host.launch()
    assert guest["host_data"] == host_data_for(POLICY).hex()
    attestor = GuestAttestor(guest["url"], ca_file=host.ca_file)
    evidence = await attestor.attest(b"public key")
    expected = Expectations(host_data=frozenset({guest["host_data"]}), report_data=report_data_for(b"public key"), require_uvm=True)
    verdict = verify_evidence(evidence, trust=host.trust, expectations=expected, at=datetime.now(UTC))
    assert verdict.ok, reasons(verdict)
    assert verdict.development
    assert reasons(verify_evidence(evidence, trust=TrustStore.amd(), expectations=expected, at=datetime.now(UTC))) == ["RootNotTrusted"]


def test_raw_route_returns_the_report_in_hex(host: Host) -> None:
    guest = host.launch()
    body = {"runtime_data": base64.b64encode(b"x").decode()}
    report = host.http.post(f"{guest['url']}/attest/raw", json=body).json()["report"]
    assert parse_report(bytes.fromhex(report)).report_data == report_data_for(b"x")


async def test_debuggable_guest_has_the_debug_bit(host: Host) -> None:
    guest = host.launch(guest_policy=0xB001F)
    evidence = await GuestAttestor(guest["url"], ca_file=host.ca_file).attest(b"")
    verdict = verify_evidence(evidence, trust=host.trust, expectations=Expectations(), at=datetime.now(UTC))
    assert reasons(verdict) == ["TeeDebugModeEnabled"]


async def test_ended_or_unknown_guest_gets_no_report(host: Host) -> None:
    guest = host.launch()
    attestor = GuestAttestor(guest["url"], ca_file=host.ca_file)
    await attestor.attest(b"")
    assert host.http.delete(f"/guests/{guest['guest_id']}", headers=ADMIN).status_code == 200
    assert host.http.delete(f"/guests/{guest['guest_id']}", headers=ADMIN).status_code == 404
    with pytest.raises(Refused, match="GuestAttestationRefused"):
        await attestor.attest(b"")


def test_only_the_hypervisor_launches_and_ends_guests(host: Host) -> None:
    guest = host.launch()
    body = {"name": "x", "security_policy_base64": POLICY}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic hypervisor"}):
        assert host.http.post("/guests", json=body, headers=headers).status_code == 401
        assert host.http.delete(f"/guests/{guest['guest_id']}", headers=headers).status_code == 401


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"runtime_data": 1}', b'{"runtime_data": "%"}', b"\xff", b"[" * 10_000])
def test_malformed_request_is_a_client_error(host: Host, body: bytes) -> None:
    guest = host.launch()
    assert host.http.post(f"{guest['url']}/attest/combined", content=body).status_code == 400
    assert host.http.post("/guests", content=body, headers=ADMIN).status_code == 400
    for wrong in ({"security_policy_base64": "%"}, {"security_policy_base64": "", "guest_policy": 1 << 63}, {"guest_policy": -1}):
        assert host.http.post("/guests", json={"name": "x", "security_policy_base64": POLICY} | wrong, headers=ADMIN).status_code == 400


def test_guest_id_is_redacted_in_the_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    guest = host.launch()
    with caplog.at_level(logging.INFO, logger="localcloud.snp"):
        host.http.post(f"{guest['url']}/attest/combined", json={"runtime_data": ""})
        host.http.get("/healthz")  # on the same connection, so the previous request has been logged
    lines = [record.getMessage() for record in caplog.records if record.name == "localcloud.snp"]
    assert lines
    assert all(guest["guest_id"] not in line for line in lines)
    assert any("/guests/***/attest/combined 200" in line for line in lines)


def test_hardware_and_guests_survive_a_restart(tmp_path: Path) -> None:
    first = DevelopmentHardware(tmp_path)
    again = DevelopmentHardware(tmp_path)
    assert again.chain_pem == first.chain_pem
    trust = TrustStore.load(amd=False, root_files=[first.trust_file])
    verdict = verify_evidence(again.evidence(bytes(32), bytes(64)), trust=trust, expectations=Expectations(), at=datetime.now(UTC))
    assert verdict.ok
    for key in tmp_path.glob("*-key.pem"):
        assert key.stat().st_mode & 0o077 == 0


def test_development_certificates_are_marked_not_confidential(hardware: DevelopmentHardware) -> None:
    for certificate in (hardware.hierarchy.leaf, hardware.hierarchy.intermediate, hardware.hierarchy.root, *hardware.issuer.chain):
        assert "NOT CONFIDENTIAL" in certificate.subject.rfc4514_string()


def test_trust_file_adds_its_roots_only(tmp_path: Path, hardware: DevelopmentHardware) -> None:
    pem = tmp_path / "root.pem"
    from cryptography.hazmat.primitives.serialization import Encoding

    pem.write_bytes(hardware.hierarchy.root.public_bytes(Encoding.PEM))
    store = TrustStore.load(amd=False, root_files=[pem])
    assert [root.development for root in store.roots] == [True]
    with pytest.raises(NotFound, match="TrustFileNotFound"):
        TrustStore.load(root_files=[tmp_path / "absent"])
    for text in (
        "",
        "{}",
        '{"format": "other"}',
        "-----BEGIN CERTIFICATE-----",
        '{"format": "cleanroom-attestation-trust/1", "roots": [1]}',
        '{"format": "cleanroom-attestation-trust/1", "roots": [{"spki_sha256": "9f", "product": "Milan"}]}',
        "[" * 100_000,
    ):
        wrong = tmp_path / "wrong"
        wrong.write_text(text)
        with pytest.raises(InvalidInput, match="TrustFileInvalid"):
            TrustStore.load(root_files=[wrong])
    der = hardware.hierarchy.root.public_bytes(Encoding.DER)
    version = der.index(bytes.fromhex("a003020102")) + 4
    odd = base64.encodebytes(der[:version] + b"\x01" + der[version + 1 :])
    wrong.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + odd + b"-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidInput, match="TrustFileInvalid"):
        TrustStore.load(root_files=[wrong])


def test_trust_file_cannot_change_a_genuine_root(tmp_path: Path) -> None:
    genuine = TrustStore.amd().roots
    file = tmp_path / "trust.json"
    claimed = [{"spki_sha256": root.spki_sha256.upper(), "product": "Turin"} for root in genuine]
    file.write_text(json.dumps({"format": "cleanroom-attestation-trust/1", "roots": claimed}))
    assert TrustStore.load(root_files=[file]).roots == genuine
    assert {root.development for root in TrustStore.load(amd=False, root_files=[file]).roots} == {True}


async def test_missing_sidecar_is_unavailable_and_not_refused() -> None:
    attestor = GuestAttestor("http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="GuestAttestationUnavailable") as caught:
        await attestor.attest(b"")
    assert caught.value.retryable


def test_evidence_digest_depends_on_its_whole_content(hardware: DevelopmentHardware) -> None:
    evidence = hardware.evidence(bytes(32), bytes(64))
    again = AttestationEvidence.model_validate_json(evidence.model_dump_json())
    assert again.digest() == evidence.digest()
    assert again.model_copy(update={"endorsed_tcb": None}).digest() != evidence.digest()
