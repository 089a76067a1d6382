"""Participant "Azure AD": Entra ID and Azure Resource Manager, called with the Azure collaborator's credentials."""

from __future__ import annotations

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from cleanroom.bulkheads import bulkhead
from cleanroom.clients.azure import FederatedCredentials, Federation, ManagedIdentities
from cleanroom.clients.azure import ManagedIdentity as AzureIdentity
from cleanroom.errors import Refused
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject, federation_name, identity_name
from cleanroom.messages.publish import AccessRequest, AuthorisedDataset, FederationRequest, FederationSet, ManagedIdentity


def identity_message(identity: AzureIdentity) -> ManagedIdentity:
    """Convert a managed identity of the Azure client to its message."""
    return ManagedIdentity(
        name=identity.name,
        resource_id=identity.id,
        client_id=identity.client_id,
        principal_id=identity.principal_id,
        tenant_id=identity.tenant_id,
    )


def require_own_identity(identities: ManagedIdentities, request: AccessRequest) -> None:
    """Require that the identity in a request is the dataset's own managed identity, as Azure returns it.

    The request comes through Temporal. It could name a different identity, which would then get access to the dataset.

    Raises:
        Refused: ``IdentityMismatch``.
        NotFound: ``ResourceNotFound`` if the dataset has no managed identity.
    """
    dataset = request.dataset
    own = identities.get(identity_name(dataset.collaboration, dataset.spec.name))
    if own.principal_id != request.identity.principal_id:
        raise Refused(
            "IdentityMismatch",
            f"dataset {dataset.spec.name!r}: principal {request.identity.principal_id} is not its managed identity.",
            details={"own": own.principal_id, "given": request.identity.principal_id},
        )


class AzureAd:
    """Managed identities and federated credentials in the collaborator's subscription."""

    def __init__(
        self,
        authorisations: AuthorisationVerifier,
        identities: ManagedIdentities,
        federations: FederatedCredentials,
        governance: GovernanceUserClient,
    ) -> None:
        self._authorisations = authorisations
        self._governance = governance
        self._identities = identities
        self._federations = federations

    @activity.defn
    async def create_managed_identity(self, dataset: AuthorisedDataset) -> ManagedIdentity:
        """Create the dataset's managed identity, or return the existing one."""
        await self._authorisations.verify_dataset(dataset)
        await self._authorisations.verify_unpublished(dataset)
        made = await bulkhead("azure").run(
            self._identities.create_or_update,
            identity_name(dataset.collaboration, dataset.spec.name),
            tags={"cleanroom": dataset.collaboration, "dataset": dataset.spec.name},
        )
        return identity_message(made)

    @activity.defn
    async def set_federation(self, request: FederationRequest) -> FederationSet:
        """Let the clean room sign in as the dataset's identity.

        The federated credential trusts tokens with one issuer, subject and audience. A party that controls the issuer can sign in
        as the identity, so this activity compares the request with governance and with the owner's own user ID.

        Raises:
            Refused: ``FederationMismatch`` if issuer, subject or audience differ from the expected values.
        """
        dataset, given = request.dataset, request.clean_room
        await self._authorisations.verify_dataset(dataset)
        issuer = (await self._governance.oidc_issuer_info()).issuer_url
        if given.issuer_url != issuer:
            raise Refused("FederationMismatch", f"federation: the issuer is {given.issuer_url!r}; the issuer of governance is {issuer!r}.")
        subject = federated_subject(dataset.collaboration, self._authorisations.user_id)
        if given.subject != subject or given.audience != TOKEN_EXCHANGE_AUDIENCE:
            raise Refused(
                "FederationMismatch",
                f"federation: subject {given.subject!r}, audience {given.audience!r}; expected {subject!r}, {TOKEN_EXCHANGE_AUDIENCE!r}.",
            )
        await self._authorisations.verify_unpublished(dataset)
        name = federation_name(subject, given.issuer_url)
        made = await bulkhead("azure").run(
            self._federations.set,
            identity_name(dataset.collaboration, dataset.spec.name),
            name,
            Federation(issuer=given.issuer_url, subject=given.subject, audience=given.audience),
        )
        return FederationSet(name=name, issuer_url=made.issuer, subject=made.subject, audience=made.audience)
