"""The CGS under test. The suite uses plain httpx and builds its own envelopes, so that it is independent of the product's client."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding

HOST_DATA = "x-ms-sevsnpvm-hostdata"
DEBUG = "x-ms-sevsnpvm-is-debuggable"
Attest = Callable[[bytes], dict[str, Any]]


def fresh(prefix: str) -> str:
    """Return an ID that no earlier run has used."""
    return f"{prefix}-{uuid.uuid4().hex[:16]}"


def expect(response: httpx.Response, status: int, code: str | None = None) -> Any:
    """Assert the status, the error code and the shape of errors; return the JSON, or None for an empty body."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    if status >= 400:
        error = response.json()["error"]
        assert isinstance(error["message"], str)
        assert error["code"] == code
        assert response.headers["content-type"].startswith("application/json")
        return error
    return response.json() if response.content else None


@dataclass(frozen=True)
class Person:
    """A user with tokens of the trusted issuer."""

    oid: str
    tenant: str
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Addresses and credentials, from the environment or of the stand-in."""

    url: str
    verify: Any
    issuer: str
    issuer_key: Any
    issuer_kid: str
    audience: str
    tenant: str
    users: tuple[str, str, str]
    contract: str | None = None
    member_headers: Mapping[str, str] | None = None
    member_cert: tuple[str, str] | None = None
    client_url: str | None = None
    client_headers: Mapping[str, str] = field(default_factory=dict)
    attest: Attest | None = None
    attest_other: Attest | None = None
    attest_vm: Attest | None = None


class Guest:
    """A clean room: an RSA-2048 key, bound by a report, and the envelopes that it sends."""

    def __init__(self, attest: Attest, *, strip: bool = False, platform: str = "snp-caci") -> None:
        self.platform = platform
        self.key = rsa.generate_private_key(65537, 2048)
        pem = self.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.pem = pem.strip() if strip else pem
        self.public = base64.b64encode(self.pem).decode()
        self.attestation = attest(self.pem)
        evidence = self.attestation["evidence"]
        self.host_data = base64.b64decode(evidence)[0xC0:0xE0].hex() if isinstance(evidence, str) else ""

    def consent(self) -> dict[str, Any]:
        """Return a consent envelope."""
        return {"platform": self.platform, "attestation": self.attestation}

    def read(self) -> dict[str, Any]:
        """Return a read envelope."""
        return {**self.consent(), "encrypt": {"publicKey": self.public}}

    def sign(self, data: bytes, *, salt: int = 32) -> dict[str, str]:
        """Sign decoded data with RSA-PSS."""
        signature = self.key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
        return {"signature": base64.b64encode(signature).decode(), "publicKey": self.public}

    def write(self, payload: Any, *, timestamp: Any = None) -> dict[str, Any]:
        """Return a write envelope."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        stamp = str(int(time.time() * 1000)) if timestamp is None else timestamp
        return {**self.read(), "data": base64.b64encode(data).decode(), "timestamp": stamp, "sign": self.sign(data)}

    def unwrap(self, body: Mapping[str, Any]) -> bytes:
        """Decrypt a wrapped answer (RSA-OAEP and AES key wrap)."""
        assert set(body) == {"value"}
        blob = base64.b64decode(body["value"], validate=True)
        aes = self.key.decrypt(blob[:256], padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
        assert len(aes) == 32
        return aes_key_unwrap_with_padding(aes, blob[256:])


class Target:
    """The service under test: three registered users, an unregistered one with a valid token, a member, clean rooms."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.http = httpx.Client(base_url=settings.url, verify=settings.verify, timeout=60)
        self.ann, self.bob, self.eve = (Person(oid, settings.tenant) for oid in settings.users)
        self.stranger = Person(fresh("stranger"), settings.tenant)
        self._guest: dict[str, Guest] = {}
        self._contract: str | None = None
        self._tokens: dict[tuple[str, str], tuple[int, str]] = {}
        """When each person's token was made, and the token."""

    def close(self) -> None:
        self.http.close()

    # -- identities

    def token(self, who: Person, **changes: Any) -> str:
        """Return a token. A change to None omits the claim; ``kid`` and ``key`` change the signature."""
        now = int(time.time())
        if changes or who.claims:
            return self._token(who, now, changes)
        # As a credential does, which keeps its token. A signature takes as long as the rest of a request.
        made, token = self._tokens.get((who.oid, who.tenant), (0, ""))
        if now - made > 1000:
            token = self._token(who, now, {})
            self._tokens[who.oid, who.tenant] = now, token
        return token

    def _token(self, who: Person, now: int, changes: dict[str, Any]) -> str:
        settings = self.settings
        key, kid = changes.pop("key", settings.issuer_key), changes.pop("kid", settings.issuer_kid)
        claims = {"iss": settings.issuer, "aud": settings.audience, "iat": now, "nbf": now - 60, "exp": now + 3000}
        claims |= {"oid": who.oid, "sub": who.oid, "tid": who.tenant, **who.claims, **changes}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, "RS256", headers={"kid": kid})

    def call(
        self,
        method: str,
        path: str,
        who: Person | str | None = None,
        *,
        json: Any = ...,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request as ``who``: a person, ``"member"``, a bearer token, or None for no credential."""
        merged = dict(headers or {})
        client, close = self.http, False
        if isinstance(who, Person):
            merged["authorization"] = f"Bearer {self.token(who)}"
        elif who == "member":
            if self.settings.member_cert:
                client, close = httpx.Client(verify=self.settings.verify, cert=self.settings.member_cert, base_url=self.settings.url), True
            elif self.settings.member_headers:
                merged |= self.settings.member_headers
            else:
                pytest.skip("no member credential given (CLEANROOM_CGS_MEMBER_CERT/KEY)")
        elif who is not None:
            merged["authorization"] = f"Bearer {who}"
        arguments: dict[str, Any] = {"content": content} if content is not None else {} if json is ... else {"json": json}
        try:
            return client.request(method, path, headers=merged, **arguments)
        finally:
            if close:
                client.close()

    def member_id(self) -> str:
        """The member's ID: SHA-256 of its certificate; without one, the ID of the only active member."""
        if self.settings.member_cert:
            certificate = x509.load_pem_x509_certificate(Path(self.settings.member_cert[0]).read_bytes())
            return certificate.fingerprint(hashes.SHA256()).hex()
        rows = expect(self.http.get("/gov/service/members?api-version=2024-07-01"), 200)["value"]
        return str(next(row["memberId"] for row in rows if row["status"] == "Active"))

    # -- clean rooms

    def guest(self, kind: str = "good") -> Guest:
        """Return the clean room ``good``, which matches the contracts' policy, or ``other``, which has genuine evidence too."""
        attest = self.settings.attest if kind == "good" else self.settings.attest_other
        if attest is None:
            pytest.skip(f"no attestation for a {kind} clean room given (CLEANROOM_CGS_ATTESTATION_URL)")
        if kind not in self._guest:
            self._guest[kind] = Guest(attest)
        return self._guest[kind]

    def virtual_machine(self) -> Guest:
        """Return a confidential VM whose evidence the service trusts (platform ``snp-cvm``)."""
        if self.settings.attest_vm is None:
            pytest.skip("no evidence of a confidential VM at hand")
        return Guest(self.settings.attest_vm, platform="snp-cvm")

    # -- governance, through cgs-client as a member

    def proxy(self, method: str, path: str, *, json: Any = ..., headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Send a request to cgs-client with the member's identity."""
        if self.settings.client_url is None:
            pytest.skip("no cgs-client with a member's identity given (CLEANROOM_CGS_CLIENT_URL)")
        arguments: dict[str, Any] = {} if json is ... else {"json": json}
        merged = self.settings.client_headers if headers is None else headers
        return self.http.request(method, self.settings.client_url + path, headers=dict(merged), **arguments)

    def govern(self, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Propose a governance action, and accept it as the only member."""
        proposal = expect(self.proxy("POST", "/proposals/create", json={"actions": [{"name": name, "args": dict(args)}]}), 200)
        if proposal["proposalState"] == "Open":
            proposal = expect(self.proxy("POST", f"/proposals/{proposal['proposalId']}/ballots/vote_accept"), 200)
        assert proposal["proposalState"] == "Accepted", proposal
        return proposal

    def draft_contract(self) -> str:
        """Create a contract in state Draft; return its ID."""
        contract_id = fresh("contract")
        expect(self.proxy("PUT", f"/contracts/{contract_id}", json={"data": "terms"}), 200)
        return contract_id

    def accepted_contract(self, claims: Mapping[str, Any] | None = None) -> str:
        """Create an accepted contract, with a clean room policy if ``claims`` are given; return its ID."""
        contract_id = self.draft_contract()
        self.govern("set_contract", {"contractId": contract_id, "contract": expect(self.proxy("GET", f"/contracts/{contract_id}"), 200)})
        if claims is not None:
            self.govern("set_clean_room_policy", {"contractId": contract_id, "type": "add", "claims": dict(claims)})
        return contract_id

    def contract(self) -> str:
        """The contract that most tests share: accepted, with a policy that the good clean room matches.

        Tests of documents and proposals need only a draft. Without clean rooms and without cgs-client it is therefore a draft, if
        a member's credential is given.
        """
        if self._contract is None:
            self._contract = self.settings.contract or self._make_contract()
        return self._contract

    def _make_contract(self) -> str:
        if self.settings.attest is not None or self.settings.client_url is not None:
            return self.accepted_contract(self.policy() if self.settings.attest is not None else None)
        contract_id = fresh("contract")
        expect(self.call("PUT", f"/app/contracts/{contract_id}", "member", json={"data": "terms"}), 200)
        return contract_id

    def policy(self) -> dict[str, Any]:
        """Return the claims that match only the good clean room."""
        return {DEBUG: False, HOST_DATA: self.guest().host_data}

    def enroll(self) -> None:
        """Register the three users, if this run has a cgs-client."""
        if self.settings.client_url is not None:
            for who in (self.ann, self.bob, self.eve):
                self.govern("set_user_identity", {"id": who.oid, "accountType": "microsoft", "data": {"tenantId": who.tenant}})

    def require_users(self) -> None:
        """End the session with an error if a user is not active, because no test could pass."""
        for who in (self.ann, self.bob, self.eve):
            answer = self.call("POST", "/app/users/identities/self/status", who)
            if answer.status_code == 401:
                _refuse(f"the service does not accept the tokens of CLEANROOM_CGS_ISSUER={self.settings.issuer}: {answer.text}")
            if answer.status_code != 200:
                _refuse(f"CLEANROOM_CGS_USERS: {who.oid} of tenant {who.tenant} is not registered: {answer.text}")

    # -- documents

    def put(self, document_id: str, who: Person, **changes: Any) -> httpx.Response:
        """PUT a valid draft with ``changes``; None omits a member."""
        body = {"contractId": self.contract(), "data": '{"name":"sales"}', **changes}
        return self.call("PUT", f"/userdocuments/{document_id}", who, json={k: v for k, v in body.items() if v is not None})

    def get(self, document_id: str, who: Person | None = None) -> dict[str, Any]:
        """Read the document as a user."""
        return dict(expect(self.call("GET", f"/userdocuments/{document_id}", who or self.ann), 200))

    def propose(self, document_id: str, who: Person, approvers: Sequence[Person], **document: Any) -> str:
        """Create a proposal; return its ID."""
        proposal_id = uuid.uuid4().hex
        expect(self.call("PUT", f"/users/proposals/{proposal_id}", who, json=self.proposal(document_id, approvers, **document)), 200)
        return proposal_id

    def proposal(self, document_id: str, approvers: Sequence[Person], **document: Any) -> dict[str, Any]:
        """Return the body of a proposal."""
        content = {"contractId": self.contract(), "version": "1.1", "data": '{"name":"sales"}', **document}
        return {
            "name": "set_user_document",
            "args": {"documentId": document_id, "document": content},
            "approvers": approver_rows(approvers),
        }

    def vote(self, proposal_id: str, who: Person, ballot: Any = "accepted") -> httpx.Response:
        """Submit a ballot."""
        return self.call("POST", f"/users/proposals/{proposal_id}/ballots/submit", who, json={"ballot": ballot})

    def accepted(self, approvers: Sequence[Person], **document: Any) -> str:
        """Create an accepted document; return its ID."""
        document_id = fresh("doc")
        proposal_id = self.propose(document_id, approvers[0], approvers, **document)
        for who in approvers:
            expect(self.vote(proposal_id, who), 200)
        return document_id


def approver_rows(people: Sequence[Person]) -> list[dict[str, str]]:
    """Return the member ``approvers`` of a document or a proposal."""
    return [{"approverId": who.oid, "approverIdType": "user"} for who in people]


def report_data(pem: bytes) -> bytes:
    """Return the report data: SHA-256 and 32 zero bytes."""
    return hashlib.sha256(pem).digest() + bytes(32)


def sidecar(url: str, verify: Any) -> Attest:
    """Return a function that gets evidence from a guest's attestation sidecar."""

    def attest(data: bytes) -> dict[str, Any]:
        answer = httpx.post(f"{url}/attest/combined", json={"runtime_data": base64.b64encode(data).decode()}, verify=verify, timeout=60)
        return {k: v for k, v in answer.raise_for_status().json().items() if v is not None}

    return attest


def _refuse(reason: str) -> NoReturn:
    pytest.exit(f"{reason}; see tests/conformance/governance/README.md", 2)


def _json_setting(name: str) -> dict[str, str] | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        _refuse(f"{name} is not a JSON object of texts")
    return value


def _trusted(name: str) -> ssl.SSLContext | bool:
    file = os.environ.get(name)
    try:
        return ssl.create_default_context(cafile=file) if file else True
    except OSError as error:
        _refuse(f"{name}={file} is not a readable PEM file ({error})")


def from_environment() -> Settings | None:
    """Return the settings of an external CGS if ``CLEANROOM_CGS_URL`` is set. Invalid settings end the session with an error."""
    env = {name: value for name, value in os.environ.items() if value}
    if "CLEANROOM_CGS_URL" not in env:
        return None
    needed = ["CLEANROOM_CGS_ISSUER", "CLEANROOM_CGS_ISSUER_KEY", "CLEANROOM_CGS_ISSUER_KID", "CLEANROOM_CGS_USERS"]
    absent = [name for name in needed if name not in env]
    if absent:
        _refuse(f"CLEANROOM_CGS_URL is set, but not {', '.join(absent)}")
    users = tuple(user.strip() for user in env["CLEANROOM_CGS_USERS"].split(","))
    if len(users) != 3 or not all(users) or len(set(users)) != 3:
        _refuse("CLEANROOM_CGS_USERS must be three different object ids, separated by commas")
    try:
        issuer_key = serialization.load_pem_private_key(Path(env["CLEANROOM_CGS_ISSUER_KEY"]).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        _refuse(f"CLEANROOM_CGS_ISSUER_KEY={env['CLEANROOM_CGS_ISSUER_KEY']} is not a readable private key in PEM ({error})")
    cert, key = env.get("CLEANROOM_CGS_MEMBER_CERT"), env.get("CLEANROOM_CGS_MEMBER_KEY")
    missing = [file for file in (cert, key) if file and not Path(file).is_file()]
    if missing or bool(cert) != bool(key):
        _refuse("CLEANROOM_CGS_MEMBER_CERT and CLEANROOM_CGS_MEMBER_KEY must both be files")
    verify = _trusted("CLEANROOM_CGS_CA_FILE")
    good, other = env.get("CLEANROOM_CGS_ATTESTATION_URL"), env.get("CLEANROOM_CGS_OTHER_ATTESTATION_URL")
    client_url = env.get("CLEANROOM_CGS_CLIENT_URL")
    settings = Settings(
        # The URL may have the application's prefix.
        url=env["CLEANROOM_CGS_URL"].rstrip("/").removesuffix("/app"),
        verify=verify,
        issuer=env["CLEANROOM_CGS_ISSUER"],
        issuer_key=issuer_key,
        issuer_kid=env["CLEANROOM_CGS_ISSUER_KID"],
        audience=env.get("CLEANROOM_CGS_AUDIENCE", "api://cleanroom-governance"),
        tenant=env.get("CLEANROOM_CGS_TENANT", "72f988bf-86f1-41af-91ab-2d7cd011db47"),
        users=(users[0], users[1], users[2]),
        contract=env.get("CLEANROOM_CGS_CONTRACT"),
        member_cert=(cert, key) if cert and key else None,
        member_headers=_json_setting("CLEANROOM_CGS_MEMBER_HEADERS"),
        client_url=client_url.rstrip("/") if client_url else None,
        client_headers=_json_setting("CLEANROOM_CGS_CLIENT_HEADERS") or {},
        attest=sidecar(good.rstrip("/"), verify) if good else None,
        attest_other=sidecar(other.rstrip("/"), verify) if other else None,
    )
    try:
        httpx.get(f"{settings.url}/app/userdocuments", verify=verify, timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _refuse(f"CLEANROOM_CGS_URL={env['CLEANROOM_CGS_URL']} does not answer ({type(error).__name__}: {error})")
    return settings
