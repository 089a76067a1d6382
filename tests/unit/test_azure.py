"""Entra ID and ARM through the unmodified Azure SDKs: sign-in, managed identity, roles, federation, and every refusal."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import azure.identity
import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.msi import ManagedServiceIdentityClient
from azure.mgmt.msi.models import Identity
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.clients.azure import (
    ARM_SCOPE,
    RELEASE_USER,
    STORAGE_READER,
    FederatedCredentials,
    Federation,
    ManagedIdentities,
    ManagedIdentity,
    RoleAssignments,
    credential,
    federated_credential,
)
from cleanroom.clients.azure_credentials import sign_in_error
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.secret import write_secret_file
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.servers import AzureWorld

STORAGE_SCOPE = "https://storage.azure.com/.default"


@dataclass
class Issuer:
    """An external issuer as governance is one: PS256, a JWKS that says RS256, numbers as strings."""

    url: str
    key: rsa.RSAPrivateKey
    kid: str = "cgs-1"

    def assertion(self, **over: str) -> str:
        now = int(time.time())
        claims = {
            "aud": "api://AzureADTokenExchange",
            "exp": str(now + 300),
            "nbf": str(now),
            "iat": str(now),
            "iss": self.url,
            "jti": uuid.uuid4().hex,
            "sub": "contract-owner",
        } | over
        return jwt.encode(claims, self.key, algorithm="PS256", headers={"kid": self.kid})

    def federation(self, **over: str) -> Federation:
        return Federation(**({"issuer": self.url, "subject": "contract-owner"} | over))


@contextmanager
def issuing(authority: LocalAuthority) -> Iterator[Issuer]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer = Issuer("", key)

    async def discovery(request):
        return JSONResponse({"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"})

    async def keys(request):
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        return JSONResponse({"keys": [{"alg": "RS256", "use": "sig", "kty": "RSA", "kid": "cgs-1", "n": public["n"], "e": public["e"]}]})

    app = Starlette(routes=[Route("/oidc/.well-known/openid-configuration", discovery), Route("/oidc/keys", keys)])
    with serving(app, "issuer", authority.issue("issuer")) as url:
        issuer.url = f"{url}/oidc"
        yield issuer


@pytest.fixture(scope="module")
def issuer(local_authority: LocalAuthority) -> Iterator[Issuer]:
    with issuing(local_authority) as it:
        yield it


@pytest.fixture
def identity(azure_world: AzureWorld) -> ManagedIdentity:
    return ManagedIdentities(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file).create_or_update(
        f"dataset-{uuid.uuid4().hex[:8]}"
    )


def contosso(world: AzureWorld):
    return credential(world.credential("contosso"), ca_file=world.ca_file)


def claims_of(token: str) -> dict:
    return jwt.decode(token, options={"verify_signature": False, "verify_aud": False})


def federated(world: AzureWorld, identity: ManagedIdentity, assertion: str, registered: Federation | None = None):
    return federated_credential(
        identity.tenant_id, identity.client_id, lambda: assertion, authority=world.url, ca_file=world.ca_file, registered=registered
    )


class TestSignIn:
    def test_user_token_verifies_against_discovery_and_carries_the_users_claims(self, azure_world: AzureWorld):
        token = contosso(azure_world).get_token("api://cleanroom-governance/.default")
        assert token.expires_on > time.time() + 3000
        tenant = azure_world.tenant_id("contosso")
        with azure_world.http() as http:
            document = http.get(f"{azure_world.url}/{tenant}/v2.0/.well-known/openid-configuration").json()
            keys = http.get(document["jwks_uri"]).json()
        key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token.token)["kid"]]
        claims = jwt.decode(token.token, key.key, algorithms=["RS256"], audience="api://cleanroom-governance", issuer=document["issuer"])
        assert claims["tid"] == tenant
        assert claims["oid"] == azure_world.object_id("contosso")
        assert claims["appid"] == azure_world.client_id("contosso")
        assert claims["preferred_username"] == "user@contosso.example"
        assert claims["idtyp"] == "user"

    def test_storage_gets_a_v1_token(self, azure_world: AzureWorld):
        claims = claims_of(contosso(azure_world).get_token(STORAGE_SCOPE).token)
        assert claims["iss"] == f"https://sts.windows.net/{azure_world.tenant_id('contosso')}/"
        assert claims["aud"] == "https://storage.azure.com"

    def test_tenant_by_domain(self, azure_world: AzureWorld):
        settings = azure_world.credential("contosso").model_copy(update={"tenant_id": "contosso.example"})
        assert claims_of(credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE).token)["tid"] == azure_world.tenant_id(
            "contosso"
        )

    def test_wrong_secret(self, azure_world: AzureWorld, tmp_path):
        write_secret_file(tmp_path / "wrong", b"not the secret")
        settings = azure_world.credential("contosso").model_copy(update={"client_secret_file": tmp_path / "wrong"})
        with pytest.raises(PreconditionFailed) as caught:
            credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE)
        assert caught.value.code == "AADSTS7000215"
        assert "not the secret" not in str(caught.value.to_dict())

    @pytest.mark.parametrize(
        ("change", "scope", "code"),
        [
            ({"client_id": str(uuid.UUID(int=7))}, ARM_SCOPE, "AADSTS700016"),
            ({}, "https://unknown.example/.default", "AADSTS500011"),
            ({}, "https://management.azure.com/user_impersonation", "AADSTS70011"),
        ],
    )
    def test_refusals(self, azure_world: AzureWorld, change: dict, scope: str, code: str):
        settings = azure_world.credential("contosso").model_copy(update=change)
        with pytest.raises(PreconditionFailed) as caught:
            credential(settings, ca_file=azure_world.ca_file).get_token(scope)
        assert caught.value.code == code

    def test_a_client_of_another_tenant_is_unknown(self, azure_world: AzureWorld):
        settings = azure_world.credential("contosso").model_copy(update={"tenant_id": azure_world.tenant_id("litware")})
        with pytest.raises(PreconditionFailed) as caught:
            credential(settings, ca_file=azure_world.ca_file).get_token(ARM_SCOPE)
        assert caught.value.code == "AADSTS700016"

    def test_unknown_tenant_on_the_wire(self, azure_world: AzureWorld):
        with azure_world.http() as http:
            answer = http.post(f"{azure_world.url}/{uuid.UUID(int=9)}/oauth2/v2.0/token", data={"grant_type": "client_credentials"})
        body = answer.json()
        assert answer.status_code == 400
        assert body["error_codes"] == [90002]
        assert body["error_description"].startswith("AADSTS90002: Tenant")
        assert {"error", "timestamp", "trace_id", "correlation_id", "error_uri"} <= set(body)

    def test_unmodified_azure_identity_shows_the_code(self, azure_world: AzureWorld):
        sdk = azure.identity.ClientSecretCredential(
            azure_world.tenant_id("contosso"),
            azure_world.client_id("contosso"),
            "wrong",
            authority=azure_world.url,
            disable_instance_discovery=True,
            connection_verify=str(azure_world.ca_file),
        )
        with pytest.raises(ClientAuthenticationError, match="AADSTS7000215: Invalid client secret provided"):
            sdk.get_token(ARM_SCOPE)

    def test_unreachable_authority_is_unavailable(self, azure_world: AzureWorld, identity: ManagedIdentity):
        gone = federated_credential(
            identity.tenant_id, identity.client_id, lambda: "x", authority="https://localhost:9", ca_file=azure_world.ca_file
        )
        with pytest.raises(Unavailable) as caught:
            gone.get_token(STORAGE_SCOPE)
        assert caught.value.code == "EntraUnreachable"

    def test_what_azure_identity_wraps_is_still_a_server_that_did_not_answer(self):
        wrapped = ClientAuthenticationError("Authentication failed: connection refused")
        wrapped.__cause__ = ServiceRequestError("connection refused")
        error = sign_in_error(wrapped)
        assert (error.code, error.exit_code, error.retryable) == ("EntraUnreachable", 7, True)
        assert sign_in_error(ClientAuthenticationError("Authentication failed: no")).code == "AuthenticationFailed"

    def test_incomplete_settings_name_the_field(self, azure_world: AzureWorld):
        with pytest.raises(InvalidInput, match="client_id"):
            credential(azure_world.credential("contosso").model_copy(update={"client_id": None}))


class TestManagedIdentities:
    def test_creating_again_gives_the_same_identity(self, azure_world: AzureWorld):
        clients = ManagedIdentities(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        first = clients.create_or_update("flights", tags={"dataset": "flights"})
        assert clients.create_or_update("flights") == first
        assert clients.get("flights") == first
        assert first.tenant_id == azure_world.tenant_id("contosso")
        uuid.UUID(first.client_id), uuid.UUID(first.principal_id)

    def test_other_location_conflicts(self, azure_world: AzureWorld):
        settings = azure_world.azure("contosso")
        ManagedIdentities(contosso(azure_world), settings, ca_file=azure_world.ca_file).create_or_update("somewhere")
        moved = settings.model_copy(update={"location": "northeurope"})
        with pytest.raises(Conflict) as caught:
            ManagedIdentities(contosso(azure_world), moved, ca_file=azure_world.ca_file).create_or_update("somewhere")
        assert caught.value.code == "InvalidResourceLocation"

    def test_missing_identity_and_group(self, azure_world: AzureWorld):
        settings = azure_world.azure("contosso")
        with pytest.raises(NotFound) as caught:
            ManagedIdentities(contosso(azure_world), settings, ca_file=azure_world.ca_file).get("nothing")
        assert caught.value.code == "ResourceNotFound"
        elsewhere = settings.model_copy(update={"resource_group": "no-group"})
        with pytest.raises(NotFound) as caught:
            ManagedIdentities(contosso(azure_world), elsewhere, ca_file=azure_world.ca_file).create_or_update("flights")
        assert caught.value.code == "ResourceGroupNotFound"

    def test_deleting_is_idempotent(self, azure_world: AzureWorld):
        clients = ManagedIdentities(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        clients.create_or_update("short-lived")
        clients.delete("short-lived")
        clients.delete("short-lived")
        with pytest.raises(NotFound):
            clients.get("short-lived")

    def test_another_tenants_subscription_is_refused(self, azure_world: AzureWorld):
        clients = ManagedIdentities(contosso(azure_world), azure_world.azure("litware"), ca_file=azure_world.ca_file)
        with pytest.raises(PreconditionFailed) as caught:
            clients.create_or_update("flights")
        assert caught.value.code == "InvalidAuthenticationTokenTenant"

    def test_without_a_role_it_is_refused(self, azure_world: AzureWorld):
        nobody = credential(azure_world.credential("contosso", "nobody"), ca_file=azure_world.ca_file)
        with pytest.raises(PreconditionFailed) as caught:
            ManagedIdentities(nobody, azure_world.azure("contosso"), ca_file=azure_world.ca_file).create_or_update("flights")
        assert caught.value.code == "AuthorizationFailed"
        assert caught.value.retryable
        assert "Microsoft.ManagedIdentity/userAssignedIdentities/write" in (caught.value.cause or "")

    def test_a_token_for_another_audience_is_refused(self, azure_world: AzureWorld):
        token = contosso(azure_world).get_token(STORAGE_SCOPE).token
        url = f"{azure_world.url}{azure_world.group('contosso')}?api-version=2024-11-30"
        with azure_world.http() as http:
            answers = {
                name: http.get(url, headers=headers)
                for name, headers in {
                    "none": {},
                    "audience": {"Authorization": f"Bearer {token}"},
                    "garbage": {"Authorization": "Bearer x.y.z"},
                }.items()
            }
        assert {answer.status_code for answer in answers.values()} == {401}
        assert answers["none"].json()["error"]["code"] == "AuthenticationFailed"
        assert answers["audience"].json()["error"]["code"] == "InvalidAuthenticationTokenAudience"
        assert answers["garbage"].json()["error"]["code"] == "InvalidAuthenticationToken"
        assert "Bearer" in answers["none"].headers["www-authenticate"]

    def test_unmodified_sdk_lists_identities(self, azure_world: AzureWorld):
        client = ManagedServiceIdentityClient(
            contosso(azure_world),
            azure_world.subscription_id("contosso"),
            base_url=azure_world.url,
            credential_scopes=[ARM_SCOPE],
            connection_verify=str(azure_world.ca_file),
        )
        client.user_assigned_identities.create_or_update("clean-room", "listed", Identity(location="westeurope"))
        assert "listed" in {item.name for item in client.user_assigned_identities.list_by_subscription()}
        assert "listed" in {item.name for item in client.user_assigned_identities.list_by_resource_group("clean-room")}


class TestRoles:
    def test_allowing_twice_gives_one_assignment(self, azure_world: AzureWorld, identity: ManagedIdentity):
        roles = RoleAssignments(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        scope = azure_world.storage_id("contosso")
        first = roles.allow(scope, STORAGE_READER, identity.principal_id)
        assert roles.allow(scope, STORAGE_READER, identity.principal_id) == first
        assert first.scope == scope

    def test_an_assignment_exists_only_where_all_of_it_is_equal(self, azure_world: AzureWorld, identity: ManagedIdentity):
        scope, sdk = azure_world.storage_id("contosso"), self.sdk(azure_world)
        reader, release = (
            next(sdk.role_definitions.list(scope, filter=f"roleName eq '{name}'")) for name in (STORAGE_READER, RELEASE_USER)
        )
        other = azure_world.object_id("contosso")
        name = str(uuid.uuid4())

        def put(name: str, role: str = reader.id, principal: str = identity.principal_id, scope: str = scope) -> str:
            try:
                sdk.role_assignments.create(scope, name, {"properties": {"roleDefinitionId": role, "principalId": principal}})
            except HttpResponseError as error:
                return f"{error.status_code} {error.error and error.error.code}"
            return "set"

        assert [put(name), put(name)] == ["set", "set"]
        assert put(str(uuid.uuid4())) == put(str(uuid.uuid4()), scope=scope.upper().replace("/SUBSCRIPTIONS", "/subscriptions", 1))
        assert put(str(uuid.uuid4())) == "409 RoleAssignmentExists"
        assert put(name, role=release.id) == put(name, principal=other) == "400 RoleAssignmentUpdateNotPermitted"
        assert put(str(uuid.uuid4()), role=release.id) == put(str(uuid.uuid4()), scope=azure_world.group("contosso")) == "set"

    def test_an_assignment_of_another_name_is_found(self, azure_world: AzureWorld, identity: ManagedIdentity):
        scope = azure_world.storage_id("contosso")
        sdk = self.sdk(azure_world)
        role = next(sdk.role_definitions.list(scope, filter=f"roleName eq '{STORAGE_READER}'"))
        name = str(uuid.uuid4())
        sdk.role_assignments.create(scope, name, {"properties": {"roleDefinitionId": role.id, "principalId": identity.principal_id}})
        roles = RoleAssignments(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        assert roles.allow(scope, STORAGE_READER, identity.principal_id).id.endswith(name)

    def test_assigned_to_includes_scopes_above_and_only_that_principal(self, azure_world: AzureWorld, identity: ManagedIdentity):
        roles = RoleAssignments(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        vault = f"{azure_world.group('contosso')}/providers/Microsoft.KeyVault/vaults/contosso"
        roles.allow(vault, RELEASE_USER, identity.principal_id)
        roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, identity.principal_id)
        sdk = self.sdk(azure_world, "vault")
        found = list(sdk.role_assignments.list_for_scope(vault, filter=f"assignedTo('{identity.principal_id}')"))
        assert [item.scope for item in found] == [vault]
        owner = list(sdk.role_assignments.list_for_scope(vault, filter=f"assignedTo('{azure_world.object_id('contosso')}')"))
        assert [item.scope for item in owner] == [f"/subscriptions/{azure_world.subscription_id('contosso')}"]

    def test_unknown_principal_is_retryable(self, azure_world: AzureWorld):
        roles = RoleAssignments(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        with pytest.raises(Unavailable) as caught:
            roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, str(uuid.uuid4()))
        assert caught.value.code == "PrincipalNotFound"

    def test_unknown_role_and_scope(self, azure_world: AzureWorld, identity: ManagedIdentity):
        roles = RoleAssignments(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        with pytest.raises(InvalidInput, match="UnknownRole"):
            roles.allow(azure_world.storage_id("contosso"), "Emperor", identity.principal_id)
        with pytest.raises(InvalidInput, match="InvalidScope"):
            roles.allow("storage", STORAGE_READER, identity.principal_id)

    def test_reader_cannot_assign(self, azure_world: AzureWorld, identity: ManagedIdentity):
        reader = credential(azure_world.credential("contosso", "vault"), ca_file=azure_world.ca_file)
        with pytest.raises(PreconditionFailed) as caught:
            RoleAssignments(reader, azure_world.azure("contosso"), ca_file=azure_world.ca_file).allow(
                azure_world.storage_id("contosso"), STORAGE_READER, identity.principal_id
            )
        assert caught.value.code == "AuthorizationFailed"

    def test_revoking(self, azure_world: AzureWorld, identity: ManagedIdentity):
        roles = RoleAssignments(contosso(azure_world), azure_world.azure("contosso"), ca_file=azure_world.ca_file)
        assignment = roles.allow(azure_world.storage_id("contosso"), STORAGE_READER, identity.principal_id)
        roles.revoke(assignment)
        roles.revoke(assignment)
        with pytest.raises(HttpResponseError, match="RoleAssignmentNotFound"):
            self.sdk(azure_world).role_assignments.get(assignment.scope, assignment.id.rpartition("/")[2])

    @staticmethod
    def sdk(world: AzureWorld, name: str = "user") -> AuthorizationManagementClient:
        return AuthorizationManagementClient(
            credential(world.credential("contosso", name), ca_file=world.ca_file),
            world.subscription_id("contosso"),
            base_url=world.url,
            credential_scopes=[ARM_SCOPE],
            connection_verify=str(world.ca_file),
        )


class TestFederation:
    @pytest.fixture
    def trusting(self, azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer) -> ManagedIdentity:
        self.credentials(azure_world).set(identity.name, "cleanroom", issuer.federation())
        return identity

    @staticmethod
    def credentials(world: AzureWorld) -> FederatedCredentials:
        return FederatedCredentials(contosso(world), world.azure("contosso"), ca_file=world.ca_file)

    def test_governance_token_becomes_the_identitys_token(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer):
        claims = claims_of(federated(azure_world, trusting, issuer.assertion()).get_token(STORAGE_SCOPE).token)
        assert claims["oid"] == trusting.principal_id
        assert claims["appid"] == trusting.client_id
        assert claims["tid"] == trusting.tenant_id

    def test_setting_again_changes_nothing(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer):
        assert self.credentials(azure_world).set(trusting.name, "cleanroom", issuer.federation()) == issuer.federation()

    def test_other_content_under_the_same_name_conflicts(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer):
        with pytest.raises(Conflict, match="another subject") as caught:
            self.credentials(azure_world).set(trusting.name, "cleanroom", issuer.federation(subject="other"))
        assert caught.value.code == "FederatedCredentialDiffers"
        assert federated(azure_world, trusting, issuer.assertion()).get_token(STORAGE_SCOPE)

    def test_same_issuer_and_subject_under_another_name_conflicts(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer):
        with pytest.raises(Conflict):
            self.credentials(azure_world).set(trusting.name, "second", issuer.federation())

    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"iss": "https://localhost:9/other"}, "AADSTS700211"),
            ({"sub": "Contract-Owner"}, "AADSTS700213"),
            ({"aud": "api://azureadtokenexchange"}, "AADSTS700212"),
        ],
    )
    def test_what_does_not_match_names_the_field(
        self,
        azure_world: AzureWorld,
        trusting: ManagedIdentity,
        issuer: Issuer,
        claims: dict,
        code: str,
    ):
        with pytest.raises(PreconditionFailed) as caught:
            federated(azure_world, trusting, issuer.assertion(**claims), issuer.federation()).get_token(STORAGE_SCOPE)
        assert caught.value.code == code
        field = {"iss": "issuer", "sub": "subject", "aud": "audience"}[next(iter(claims))]
        assert f"differing: {field}" in caught.value.message
        assert caught.value.details["presented"] != caught.value.details["registered"]

    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"exp": "1000"}, "AADSTS700024"),
            ({"nbf": "4000000000"}, "AADSTS700024"),
            ({"exp": "soon"}, "AADSTS50027"),
            ({"exp": None}, "AADSTS50027"),
            ({"exp": float("inf")}, "AADSTS50027"),
            ({"aud": {"api://AzureADTokenExchange": 1}}, "AADSTS700212"),
            ({"aud": []}, "AADSTS700212"),
            ({"sub": ["contract-owner"]}, "AADSTS700213"),
            ({"sub": "contract-owner "}, "AADSTS700213"),
        ],
    )
    def test_lifetime_and_odd_claims(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer, claims: dict, code: str):
        with pytest.raises(CleanRoomError) as caught:
            federated(azure_world, trusting, issuer.assertion(**claims)).get_token(STORAGE_SCOPE)
        assert caught.value.code == code

    def test_another_key_is_refused(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer):
        forged = Issuer(issuer.url, rsa.generate_private_key(public_exponent=65537, key_size=2048))
        with pytest.raises(PreconditionFailed) as caught:
            federated(azure_world, trusting, forged.assertion()).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS700027"
        forged.kid = "other"
        with pytest.raises(PreconditionFailed) as caught:
            federated(azure_world, trusting, forged.assertion()).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS7000272"

    @pytest.mark.parametrize("algorithm", ["none", "HS256"])
    def test_unsigned_and_symmetric_assertions_are_refused(
        self,
        azure_world: AzureWorld,
        trusting: ManagedIdentity,
        issuer: Issuer,
        algorithm: str,
    ):
        claims = claims_of(issuer.assertion())
        forged = jwt.encode(claims, None if algorithm == "none" else "k" * 32, algorithm=algorithm, headers={"kid": "cgs-1"})
        with pytest.raises(PreconditionFailed) as caught:
            federated(azure_world, trusting, forged).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS700027"

    def test_an_issuer_that_does_not_answer_is_retryable(self, azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer):
        dead = Issuer("https://localhost:9/oidc", issuer.key)
        self.credentials(azure_world).set(identity.name, "dead", dead.federation())
        with pytest.raises(Unavailable) as caught:
            federated(azure_world, identity, dead.assertion()).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS50166"

    def test_limits_of_federated_credentials(self, azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer):
        sdk = self.credentials(azure_world)._operations
        group = azure_world.azure("contosso").resource_group

        def put(name: str, **over: object) -> str:
            body = {"issuer": issuer.url, "subject": f"s-{name}", "audiences": ["api://AzureADTokenExchange"]} | over
            try:
                sdk.create_or_update(group, identity.name, name, {"properties": body})
            except HttpResponseError as error:
                return f"{error.status_code} {error.error and error.error.code}"
            return "set"

        for name, over in (
            ("ab", {}),
            ("no dots.here", {}),
            ("n" * 121, {}),
            ("two", {"audiences": ["a", "b"]}),
            ("none", {"audiences": []}),
            ("plain", {"issuer": "http://localhost/oidc"}),
            ("nobody", {"subject": ""}),
            ("long", {"subject": "s" * 601}),
        ):
            assert put(name, **over) == "400 BadRequest", name
        assert {put(f"credential-{number}") for number in range(20)} == {"set"}
        assert put("credential-20") == "400 BadRequest"
        assert put("credential-19", subject="another") == "set"
        assert put("credential-19", subject="s-credential-0") == "409 Conflict"

    def test_an_identity_without_federation(self, azure_world: AzureWorld, identity: ManagedIdentity, issuer: Issuer):
        with pytest.raises(CleanRoomError) as caught:
            federated(azure_world, identity, issuer.assertion()).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS70025"
        assert caught.value.retryable

    def test_a_deleted_credential_is_no_longer_trusted(self, azure_world: AzureWorld, trusting: ManagedIdentity, issuer: Issuer):
        self.credentials(azure_world).delete(trusting.name, "cleanroom")
        with pytest.raises(CleanRoomError) as caught:
            federated(azure_world, trusting, issuer.assertion()).get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS70025"

    def test_garbage(self, azure_world: AzureWorld, trusting: ManagedIdentity):
        with pytest.raises(PreconditionFailed) as caught:
            federated(azure_world, trusting, "garbage").get_token(STORAGE_SCOPE)
        assert caught.value.code == "AADSTS50027"


class TestPropagation:
    def test_federation_and_roles_are_effective_late(self, start_azure_world, local_authority):
        with start_azure_world(propagation_seconds=1.5) as world, issuing(local_authority) as issuer:
            user, settings = contosso(world), world.azure("contosso")
            identity = ManagedIdentities(user, settings, ca_file=world.ca_file).create_or_update("late")
            FederatedCredentials(user, settings, ca_file=world.ca_file).set("late", "cleanroom", issuer.federation())
            roles = RoleAssignments(user, settings, ca_file=world.ca_file)
            assignment = roles.allow(world.storage_id("contosso"), STORAGE_READER, identity.principal_id)
            made = time.monotonic()
            sdk = TestRoles.sdk(world, "vault")

            def effective() -> list:
                return list(sdk.role_assignments.list_for_scope(assignment.scope, filter=f"assignedTo('{identity.principal_id}')"))

            assert effective() == []
            with pytest.raises(Unavailable) as caught:
                federated(world, identity, issuer.assertion(), issuer.federation()).get_token(STORAGE_SCOPE)
            assert caught.value.code == "AADSTS700213"
            assert sdk.role_assignments.get(assignment.scope, assignment.id.rpartition("/")[2]).principal_id == identity.principal_id
            while not effective():
                assert time.monotonic() < made + 20
            assert federated(world, identity, issuer.assertion(), issuer.federation()).get_token(STORAGE_SCOPE).token


@pytest.fixture(scope="module")
def arm(azure_world: AzureWorld, local_authority: LocalAuthority) -> Iterator[ManagedIdentities]:
    async def answer(request: Request) -> Response:
        status, code = request.path_params["name"].split("-")
        body = {"error": {"code": code, "message": "so it is"}} if code != "none" else {"unexpected": True}
        return JSONResponse(body, int(status), headers={"Retry-After": "0", "Location": str(request.url.replace(path="/elsewhere"))})

    path = "/subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    with serving(Starlette(routes=[Route(path, answer)]), "arm", local_authority.issue("arm")) as url:
        settings = azure_world.azure("contosso").model_copy(update={"arm_url": url})
        yield ManagedIdentities(contosso(azure_world), settings, ca_file=azure_world.ca_file)


class TestErrorsOfServices:
    """Any status that ARM may answer, through the unmodified SDK, as our category."""

    @pytest.mark.parametrize(
        ("answer", "kind", "code", "retryable"),
        [
            ("400-BadRequest", InvalidInput, "BadRequest", False),
            ("401-ExpiredAuthenticationToken", PreconditionFailed, "ExpiredAuthenticationToken", False),
            ("403-AuthorizationFailed", PreconditionFailed, "AuthorizationFailed", True),
            ("404-ResourceNotFound", NotFound, "ResourceNotFound", False),
            ("409-Conflict", Conflict, "Conflict", False),
            ("412-PreconditionFailed", Conflict, "PreconditionFailed", False),
            ("429-TooManyRequests", Unavailable, "TooManyRequests", True),
            ("500-InternalServerError", Unavailable, "InternalServerError", True),
            ("503-none", Unavailable, "Http503", True),
            ("302-none", Refused, "RedirectRefused", False),
            ("307-none", Refused, "RedirectRefused", False),
        ],
    )
    def test_categories(self, arm: ManagedIdentities, answer: str, kind: type[CleanRoomError], code: str, retryable: bool):
        with pytest.raises(CleanRoomError) as caught:
            arm.get(answer)
        assert type(caught.value) is kind
        assert (caught.value.code, caught.value.retryable) == (code, retryable)
        assert answer in caught.value.message

    def test_unreachable_is_never_not_found(self, azure_world: AzureWorld):
        settings = azure_world.azure("contosso").model_copy(update={"arm_url": "https://localhost:9"})
        with pytest.raises(Unavailable, match="AzureUnreachable"):
            ManagedIdentities(contosso(azure_world), settings, ca_file=azure_world.ca_file).get("flights")
