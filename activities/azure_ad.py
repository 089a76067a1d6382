"""Azure AD (Entra ID and its Resource Manager face), called by the Azure collaborator."""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.orders import Orders
from cleanroom.clients.azure import FederatedCredentials, Federation, ManagedIdentities
from cleanroom.clients.azure import ManagedIdentity as AzureIdentity
from cleanroom.errors import Refused
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject, sha256_hex
from cleanroom.messages.publish import AccessOrder, FederationOrder, FederationSet, ManagedIdentity, OwnerOrder


def identity_name(collaboration: str, dataset: str) -> str:
    """Name of a dataset's managed identity: one a dataset, so that access can be taken back alone."""
    return f"cr-{collaboration}-{dataset}"[:100]


def identity_message(made: AzureIdentity) -> ManagedIdentity:
    """A managed identity as messages carry it."""
    return ManagedIdentity(
        name=made.name, resource_id=made.id, client_id=made.client_id, principal_id=made.principal_id, tenant_id=made.tenant_id
    )


def require_own_identity(identities: ManagedIdentities, request: AccessOrder) -> None:
    """The identity that is to get a role is the dataset's own one, looked up here: whoever brought it may have named another.

    Raises:
        Refused: ``IdentityMismatch``.
        NotFound: ``ResourceNotFound`` when there is none yet.
    """
    own = identities.get(identity_name(request.order.collaboration, request.order.spec.name))
    if own.principal_id != request.identity.principal_id:
        raise Refused(
            "IdentityMismatch",
            f"dataset {request.order.spec.name!r}: principal {request.identity.principal_id} is not its managed identity.",
            details={"own": own.principal_id, "given": request.identity.principal_id},
        )


class AzureAd:
    """Managed identities and federated credentials in the collaborator's own subscription."""

    def __init__(
        self, orders: Orders, identities: ManagedIdentities, federations: FederatedCredentials, governance: GovernanceUserClient
    ) -> None:
        self._orders = orders
        self._governance = governance
        self._identities = identities
        self._federations = federations

    @activity.defn
    def create_managed_identity(self, order: OwnerOrder) -> ManagedIdentity:
        """Create the dataset's managed identity; an existing one is returned."""
        self._orders.dataset(order)
        made = self._identities.create_or_update(
            identity_name(order.collaboration, order.spec.name), tags={"cleanroom": order.collaboration, "dataset": order.spec.name}
        )
        return identity_message(made)

    @activity.defn
    async def set_federation(self, request: FederationOrder) -> FederationSet:
        """Let the clean room become this identity: issuer, subject and audience must match its tokens byte for byte.

        Whoever controls the issuer can become the identity, so the issuer is read from governance here again.

        Raises:
            Refused: ``FederationMismatch`` when the issuer is not governance's, or the subject not this collaboration's and owner's.
        """
        self._orders.dataset(request.order)
        wanted = request.clean_room
        issuer = (await self._governance.oidc_issuer_info()).issuer_url
        if wanted.issuer_url != issuer:
            raise Refused("FederationMismatch", f"federation: issuer {wanted.issuer_url!r}; governance's own is {issuer!r}.")
        expected = federated_subject(request.order.collaboration, self._orders.user_id)
        if wanted.subject != expected or wanted.audience != TOKEN_EXCHANGE_AUDIENCE:
            raise Refused(
                "FederationMismatch",
                f"federation: subject {wanted.subject!r}, audience {wanted.audience!r}; "
                f"expected {expected!r}, {TOKEN_EXCHANGE_AUDIENCE!r}.",
            )
        name = f"{expected}-{sha256_hex(wanted.issuer_url.encode())[:8]}-federation"[-120:].lstrip("-")
        made = await asyncio.to_thread(
            self._federations.set,
            identity_name(request.order.collaboration, request.order.spec.name),
            name,
            Federation(issuer=wanted.issuer_url, subject=wanted.subject, audience=wanted.audience),
        )
        return FederationSet(name=name, issuer_url=made.issuer, subject=made.subject, audience=made.audience)
