"""``release_key`` and ``set_key_with_skr`` with development hardware, attestation authority and vault."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import json
import ssl
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from cleanroom.attestation import AttestationEvidence, GuestAttestor, report_data_for
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.jose.x5c import trusted_roots
from cleanroom.keys import (
    KeyReference,
    ReleasedKey,
    ReleaseExpectation,
    ReleasePolicy,
    release_key,
    set_key_with_skr,
    verify_release_response,
    wrap_data_key,
)
from cleanroom.keys.maa import MaaClient
from cleanroom.secret import Secret
from localcloud.standins.keyvault.release import AttestationIssuer
from localcloud.standins.keyvault.server import Fault
from localcloud.standins.maa import MARKER, MaaConfig
from localcloud.standins.maa import create_app as create_maa
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware
from localcloud.tls import LocalAuthority
from tests.shared_keys import rsa_key
from tests.unit.keys.conftest import Authority, StaticCredential, Vault, start_vault

HOST_DATA = hashlib.sha256(b"the clean room's security policy").digest()


class Guest:
    """A guest on the development hardware, without the sidecar's HTTP server."""

    def __init__(self, hardware: DevelopmentHardware, host_data: bytes = HOST_DATA, **fields: Any) -> None:
        self._hardware = hardware
        self._host_data = host_data
        self._fields = fields

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        return self._hardware.evidence(self._host_data, report_data_for(runtime_data), **self._fields)


@dataclasses.dataclass
class World:
    hardware: DevelopmentHardware
    maa_url: str
    vault: Vault
    ca: Path

    def maa(self) -> MaaClient:
        return MaaClient(self.maa_url, self.ca)

    def policy(self, host_data: bytes = HOST_DATA, **options: Any) -> ReleasePolicy:
        return ReleasePolicy.for_clean_room(self.maa_url, host_data.hex(), **options)

    async def set(self, name: str, policy: ReleasePolicy | None = None, **options: Any) -> KeyReference:
        chosen = policy or self.policy()
        return await set_key_with_skr(
            vault=self.vault.settings(), credential=StaticCredential("officer"), name=name, policy=chosen, **options
        )

    async def release(self, name: str, guest: Guest | None = None, caller: str = "releaser", **options: Any) -> ReleasedKey:
        values: dict[str, Any] = {
            "vault": self.vault.settings(),
            "credential": StaticCredential(caller),
            "name": name,
            "attestor": guest or Guest(self.hardware),
            "maa": self.maa(),
            **options,
        }
        return await release_key(**values)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, local_ca: LocalAuthority, authority: Authority) -> Iterator[World]:
    hardware = DevelopmentHardware(tmp_path_factory.mktemp("snp"))  # its folder is the state of the stand-in
    tls = local_ca.issue("maa")
    maa = MaaConfig(
        tls_cert=tls.cert, tls_key=tls.key, state=tmp_path_factory.mktemp("maa"), trust_files=(hardware.trust_file,), allow_debug=True
    )
    with ExitStack() as stack:
        url = stack.enter_context(serving(create_maa(maa), "maa", tls))
        issuer = AttestationIssuer(authority=url, ca_file=local_ca.ca_file)
        vault = start_vault(stack, tmp_path_factory.mktemp("vault"), local_ca, authority, attestation=[issuer])
        yield World(hardware, url, vault, local_ca.ca_file)


@pytest.mark.parametrize("size", [2048, 3072])
async def test_a_dataset_key_is_released_to_the_attested_guest(world: World, name: str, size: int) -> None:
    reference = await world.set(name, size=size)
    assert reference.created
    data_key = Secret(bytes(range(32)))
    wrapped = wrap_data_key(reference.public_key(), data_key)
    released = await world.release(name, policy=world.policy())
    assert released.kind == "RSA"
    assert released.key_id == reference.key_id
    assert released.unwrap_data_key(wrapped) == data_key


async def test_an_imported_key_is_released_unchanged(world: World, name: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    reference = await world.set(name, key=key)
    released = await world.release(name, version=reference.version)
    private = released.private_key()
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.private_numbers() == key.private_numbers()


async def test_setting_a_key_again_changes_nothing(world: World, name: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    first = await world.set(name, key=key, tags={"dataset": "flights"})
    again = await world.set(name, key=key, tags={"dataset": "flights"})
    assert (first.created, again.created) == (True, False)
    assert again.model_copy(update={"created": True}) == first
    assert len(list(world.vault.client().list_properties_of_key_versions(name))) == 1


async def test_setting_an_immutable_key_again_finds_it(world: World, name: str) -> None:
    first = await world.set(name, immutable=True)
    assert (await world.set(name, immutable=True)).key_id == first.key_id


async def test_a_key_with_other_content_is_a_conflict_with_the_differences(world: World, name: str) -> None:
    await world.set(name, tags={"dataset": "flights"})
    cases: list[tuple[str, dict[str, Any]]] = [
        ("release_policy", {"policy": world.policy(bytes(32)), "tags": {"dataset": "flights"}}),
        ("tags", {"tags": {"dataset": "planes"}}),
        ("public_key", {"key": rsa_key(), "tags": {"dataset": "flights"}}),
        ("immutable", {"immutable": True, "tags": {"dataset": "flights"}}),
    ]
    for difference, options in cases:
        with pytest.raises(Conflict) as error:
            await world.set(name, **options)
        assert error.value.code == "KeyExistsWithOtherContent"
        assert set(error.value.details) == {difference}


async def test_a_key_without_policy_is_a_conflict(world: World, name: str) -> None:
    world.vault.client().create_rsa_key(name, size=2048)
    with pytest.raises(Conflict) as error:
        await world.set(name)
    assert {"protection", "release_policy", "tags"} == set(error.value.details)


async def test_a_deleted_key_is_a_conflict_with_the_remedy(world: World, name: str) -> None:
    await world.set(name)
    world.vault.client().begin_delete_key(name, _polling_interval=0)
    with pytest.raises(Conflict) as error:
        await world.set(name)
    assert error.value.code == "ObjectIsDeletedButRecoverable"
    assert "recover" in str(error.value.hint)
    assert "purge" in str(error.value.hint)


async def test_an_owner_without_the_role_is_forbidden(world: World, name: str) -> None:
    with pytest.raises(Refused) as error:
        await set_key_with_skr(vault=world.vault.settings(), credential=StaticCredential("nobody"), name=name, policy=world.policy())
    assert error.value.code == "ForbiddenByRbac"


async def test_an_unsupported_kek_size_is_rejected_before_any_request(world: World, name: str) -> None:
    for size in (1024, 2047, 8192):
        with pytest.raises(InvalidInput) as error:
            await world.set(name, size=size)
        assert error.value.code == "UnsupportedKekSize"


async def test_wrong_host_data_is_explained_claim_by_claim(world: World, name: str) -> None:
    await world.set(name)
    with pytest.raises(Refused) as error:
        await world.release(name, Guest(world.hardware, bytes(32)), caller="officer")
    assert error.value.code == "ReleasePolicyNotMet"
    assert error.value.details["cause"] == "claims"
    assert error.value.details["policy_source"] == "vault"
    assert error.value.details["upstream"] == {"status": 403, "code": "Forbidden", "innererror": "AccessDenied"}
    rows = {row["claim"]: row for row in error.value.details["rows"]}
    assert rows["x-ms-sevsnpvm-hostdata"] == {
        "place": "anyOf[0].allOf[0]",
        "authority": world.maa_url,
        "claim": "x-ms-sevsnpvm-hostdata",
        "expected": HOST_DATA.hex(),
        "actual": "00" * 32,
        "passed": False,
        "counted": True,
    }
    assert [claim for claim, row in rows.items() if not row["passed"]] == ["x-ms-sevsnpvm-hostdata"]
    assert f"NO  x-ms-sevsnpvm-hostdata: policy {HOST_DATA.hex()}; token {'00' * 32}" in error.value.details["table"]
    assert error.value.details["reasons"][0]["message"].startswith("NO  x-ms-sevsnpvm-hostdata: policy ")
    assert len(error.value.details["reasons"]) == 6
    assert json.loads(json.dumps(error.value.to_dict()))["code"] == "ReleasePolicyNotMet"


async def test_a_caller_that_cannot_read_the_key_gets_the_expected_policy_compared(world: World, name: str) -> None:
    await world.set(name)
    with pytest.raises(Refused) as error:
        await world.release(name, Guest(world.hardware, bytes(32)), policy=world.policy())
    assert error.value.code == "ReleasePolicyNotMet"
    assert error.value.details["policy_source"] == "expected"
    with pytest.raises(Refused) as error:
        await world.release(name, Guest(world.hardware, bytes(32)))
    assert error.value.code == "ReleasePolicyNotMet"
    assert error.value.details["policy_source"] is None
    assert error.value.details["token"]["x-ms-sevsnpvm-hostdata"] == "00" * 32
    assert {"message": f"token x-ms-sevsnpvm-hostdata: {'00' * 32}"} in error.value.details["reasons"]


@pytest.mark.parametrize("fields", [{"policy": 0xB001F}, {"vmpl": 1}])
async def test_a_debuggable_or_less_privileged_guest_gets_no_key(world: World, name: str, fields: dict[str, int]) -> None:
    await world.set(name)
    with pytest.raises(Refused) as error:
        await world.release(name, Guest(world.hardware, **fields), policy=world.policy())
    assert error.value.code == "ReleasePolicyNotMet"


async def test_a_missing_role_is_named_as_the_cause(world: World, name: str) -> None:
    await world.set(name)
    with pytest.raises(Refused) as error:
        await world.release(name, caller="nobody", policy=world.policy())
    assert error.value.code == "ForbiddenByRbac"
    assert error.value.details["cause"] == "role"


@pytest.mark.parametrize(
    ("inner", "message", "cause"),
    [
        ("ForbiddenByPolicy", "The user, group or application 'appid=x' does not have keys release permission on key vault 'v'.", "role"),
        (None, "Caller is not authorized to perform action on resource.", "role"),
        ("KeyExpired", "Operation is not allowed on an expired key.", "key"),
        ("ForbiddenByFirewall", "Client address is not authorized and caller is not a trusted service.", "unknown"),
        ("AccessDenied", "Target environment attestation does not meet key release policy requirements.", "claims"),
    ],
)
async def test_the_vaults_code_takes_precedence_over_the_policy_comparison(
    world: World, name: str, inner: str | None, message: str, cause: str
) -> None:
    policy = world.policy(bytes(32))
    await world.set(name, policy)
    envelope = {"code": "Forbidden", "message": message} | ({} if inner is None else {"innererror": {"code": inner}})
    world.vault.app.state.server.faults.append(Fault(403, {}, {"error": envelope}))
    with pytest.raises(Refused) as error:
        await world.release(name, policy=policy)
    assert error.value.details["cause"] == cause
    assert error.value.details["upstream"]["innererror"] == inner


async def test_another_authority_is_named_as_the_cause(world: World, name: str) -> None:
    policy = ReleasePolicy.for_clean_room("https://sharedneu.neu.attest.azure.net", HOST_DATA.hex())
    await world.set(name, policy)
    with pytest.raises(Refused) as error:
        await world.release(name, policy=policy)
    assert error.value.code == "AttestationNotAccepted"
    assert error.value.details["cause"] == "authority"
    assert error.value.details["issuer"] == world.maa_url
    assert error.value.details["authorities"] == ["https://sharedneu.neu.attest.azure.net"]


async def test_a_key_with_a_changed_policy_is_rejected(world: World, name: str) -> None:
    weaker = ReleasePolicy.parse(
        {"version": "1.0.0", "anyOf": [{"authority": world.maa_url, "allOf": [{"claim": "x-ms-attestation-type", "equals": "sevsnpvm"}]}]}
    )
    await world.set(name, weaker)
    with pytest.raises(Refused) as error:
        await world.release(name, policy=world.policy())
    assert error.value.code == "ReleasePolicyMismatch"


async def test_disabled_and_unknown_keys_give_their_errors(world: World, name: str) -> None:
    with pytest.raises(NotFound) as missing:
        await world.release(name)
    assert missing.value.code == "KeyNotFound"
    await world.set(name)
    world.vault.client().update_key_properties(name, enabled=False)
    with pytest.raises(Refused) as error:
        await world.release(name)
    assert error.value.code == "KeyDisabled"


async def test_an_untrusted_release_certificate_is_rejected(world: World, name: str, tmp_path: Path) -> None:
    await world.set(name)
    stranger = LocalAuthority(tmp_path)
    settings = world.vault.settings(release_ca_file=stranger.ca_file)
    with pytest.raises(Refused) as error:
        await world.release(name, vault=settings)
    assert error.value.code == "ReleaseCertificateNotTrusted"


@pytest.mark.parametrize("answer", [{}, {"key": None}, {"key": {"kid": 5}}])
async def test_a_malformed_vault_response_is_a_typed_error(world: World, name: str, answer: dict[str, Any]) -> None:
    faults = world.vault.app.state.server.faults
    faults.append(Fault(200, {}, answer))
    with pytest.raises(Internal, match="KeyVaultAnswerUnexpected") as error:
        await world.set(name)
    assert error.value.retryable is (answer.get("key") is None)
    faults.append(Fault(200, {}, answer))
    with pytest.raises(Refused, match="ReleaseResponseNotVerified"):
        await world.release(name)


async def test_a_host_outside_the_challenges_resource_is_not_retried(world: World, name: str) -> None:
    settings = world.vault.settings(verify_challenge_resource=True, vault_url=world.vault.url.replace("localhost", "127.0.0.1"))
    with pytest.raises(Internal, match="KeyVaultAnswerUnexpected") as error:
        await world.release(name, vault=settings)
    assert not error.value.retryable
    assert "challenge" in str(error.value.cause)


async def test_a_key_that_cannot_be_read_after_a_conflict_is_unavailable(world: World, name: str) -> None:
    envelope = {"error": {"code": "BadParameter", "message": "AKV.SKR.1020: Immutable Key Release Policy cannot be modified."}}
    missing = {"error": {"code": "KeyNotFound", "message": "A key was not found in this key vault."}}
    world.vault.app.state.server.faults += [Fault(404, {}, missing), Fault(400, {}, envelope), Fault(503, {}, {})]
    with pytest.raises(Unavailable):
        await world.set(name)


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_a_vaults_redirect_is_not_followed(world: World, name: str, status: int) -> None:
    await world.set(name)
    there = f"{world.vault.url}/keys/{name}//release?api-version=2025-07-01"
    world.vault.app.state.server.faults.append(Fault(status, {"Location": there}, {}))
    with pytest.raises(Refused) as error:
        await world.release(name)
    assert error.value.code == "KeyVaultRedirected"


async def test_an_unreachable_vault_is_not_a_refusal(world: World, name: str) -> None:
    settings = world.vault.settings(vault_url="https://localhost:1")
    with pytest.raises(Unavailable) as error:
        await world.release(name, vault=settings)
    assert error.value.code == "KeyVaultUnreachable"
    assert error.value.retryable


class Replaying:
    """An authority that returns another guest's token."""

    def __init__(self, inner: MaaClient, hardware: DevelopmentHardware) -> None:
        self._inner = inner
        self._hardware = hardware

    async def attest(self, evidence: AttestationEvidence, runtime_data: bytes, nonce: int | None = None) -> str:
        from cleanroom.keys import runtime_data as make

        other = make(rsa_key("other").public_key())
        return await self._inner.attest(await Guest(self._hardware).attest(other), other, nonce)

    async def validate(self, token: str, *, at: dt.datetime | None = None) -> dict[str, Any]:
        return await self._inner.validate(token, at=at)


async def test_a_token_for_another_guests_key_is_rejected(world: World, name: str) -> None:
    await world.set(name)
    with pytest.raises(Refused) as error:
        await world.release(name, maa=Replaying(world.maa(), world.hardware))
    assert error.value.code == "AttestationTokenNotOurs"


async def test_nothing_secret_is_in_reprs_and_errors(world: World, name: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await world.set(name, key=key)
    released = await world.release(name)
    assert "***" in repr(released)
    canary = format(key.private_numbers().d, "x")[:40]
    with pytest.raises(CleanRoomError) as error:
        await world.set(name, world.policy(bytes(32)), key=key)
    text = "".join(traceback.format_exception(error.value)) + repr(released) + str(error.value.to_dict())
    assert canary not in text.lower()
    with pytest.raises(TypeError):
        released.secret.__reduce__()


async def test_tokens_of_the_stand_in_are_marked(world: World) -> None:
    from cleanroom.keys import runtime_data

    bound = runtime_data(rsa_key("other").public_key())
    maa = world.maa()
    claims = await maa.validate(await maa.attest(await Guest(world.hardware).attest(bound), bound))
    assert claims[MARKER] == "NOT CONFIDENTIAL"
    assert claims["x-ms-attestation-type"] == "sevsnpvm"
    assert claims["x-ms-compliance-status"] == "azure-compliant-uvm"


async def test_a_key_is_released_through_the_guests_sidecar(world: World, name: str, tmp_path: Path, local_ca: LocalAuthority) -> None:
    """Hardware server, guest, sidecar, authority and vault, connected with TLS."""
    from localcloud.standins.snp.server import SnpConfig
    from localcloud.standins.snp.server import create_app as create_snp

    tls = local_ca.issue("snp")
    config = SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=world.hardware.state, admin_token=SecretStr("admin"))
    policy_text = base64.b64encode(b"package policy").decode()
    with serving(create_snp(config), "snp", tls) as url:
        context = ssl.create_default_context(cafile=str(local_ca.ca_file))
        with httpx.Client(base_url=url, verify=context) as http:
            body = {"name": "clean-room", "security_policy_base64": policy_text}
            guest = http.post("/guests", json=body, headers={"Authorization": "Bearer admin"}).raise_for_status().json()
        policy = ReleasePolicy.for_clean_room(world.maa_url, guest["host_data"])
        reference = await world.set(name, policy)
        attestor = GuestAttestor(guest["url"], ca_file=local_ca.ca_file)
        released = await world.release(name, attestor=attestor, policy=policy)
    assert released.key_id == reference.key_id


async def test_a_key_is_released_for_genuine_hardware_evidence(
    vectors: Path, tmp_path: Path, local_ca: LocalAuthority, authority: Authority, name: str
) -> None:
    """A genuine request gives a token and a release. The guest's private key is unknown, so nothing is unwrapped."""
    then = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    tls = local_ca.issue("maa")
    maa = create_maa(MaaConfig(tls_cert=tls.cert, tls_key=tls.key, state=tmp_path / "maa"), clock=lambda: then)
    with ExitStack() as stack:
        url = stack.enter_context(serving(maa, "maa", tls))
        issuer = AttestationIssuer(authority=url, ca_file=local_ca.ca_file)
        vault = start_vault(stack, tmp_path / "vault", local_ca, authority, attestation=[issuer], clock=lambda: then)
        body = json.loads((vectors / "caci" / "milan-v3-caci-cleanroom-maa" / "maa-request.json").read_text())
        context = ssl.create_default_context(cafile=str(local_ca.ca_file))
        with httpx.Client(base_url=url, verify=context) as http:
            token = http.post("/attest/SevSnpVm", params={"api-version": "2022-08-01"}, json=body).raise_for_status().json()["token"]
        host_data = "73973b78d70cc68353426de188db5dfc57e5b766e399935fb73a61127ea26d20"
        policy = ReleasePolicy.for_clean_room(url, host_data)
        settings = vault.settings()
        reference = await set_key_with_skr(vault=settings, credential=StaticCredential("officer"), name=name, policy=policy)
        answer = vault.client("releaser").release_key(name, token, algorithm="RSA_AES_KEY_WRAP_256", nonce="n")
    expected = ReleaseExpectation(f"{vault.url}/keys/{name}", "n", "RSA_AES_KEY_WRAP_256", "96478d5f", policy)
    verified = verify_release_response(str(answer.value), expected, roots=trusted_roots(vault.ca))
    assert verified.key_id == reference.key_id
    # The OAEP block of the guest's RSA-2048 key, then the wrapped PKCS#8.
    assert len(verified.ciphertext) > 256 + 1024
    assert (len(verified.ciphertext) - 256) % 8 == 0


async def test_an_expired_token_is_rejected_by_client_and_vault(
    world: World, name: str, tmp_path: Path, local_ca: LocalAuthority, authority: Authority
) -> None:
    tls = local_ca.issue("maa")
    values = {"tls_cert": tls.cert, "tls_key": tls.key, "trust_files": (world.hardware.trust_file,)}
    with ExitStack() as stack:
        instant = stack.enter_context(serving(create_maa(MaaConfig(state=tmp_path / "maa", token_seconds=0, **values)), "maa", tls))
        with pytest.raises(Refused) as error:
            await world.release(name, maa=MaaClient(instant, world.ca))
        assert error.value.code == "AttestationTokenExpired"
        # The vault's clock is ahead, so only the vault considers the token expired.
        issuer = AttestationIssuer(authority=world.maa_url, ca_file=local_ca.ca_file)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=9)
        vault = start_vault(stack, tmp_path / "vault", local_ca, authority, attestation=[issuer], clock=lambda: later)
        settings = vault.settings()
        await set_key_with_skr(vault=settings, credential=StaticCredential("officer"), name=name, policy=world.policy())
        with pytest.raises(Refused) as error:
            await world.release(name, vault=settings, policy=world.policy())
    assert error.value.code == "AttestationNotAccepted"
    assert error.value.details["cause"] == "authority"
    assert all(row["passed"] for row in error.value.details["rows"])
