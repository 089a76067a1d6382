"""Azure AD (Entra ID and its Resource Manager face), called by the Azure collaborator."""

from __future__ import annotations

from temporalio import activity

from activities.orders import Orders
from cleanroom.clients.azure import FederatedCredentials, Federation, ManagedIdentities
from cleanroom.errors import Refused
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject, sha256_hex
from cleanroom.messages.publish import FederationOrder, FederationSet, ManagedIdentity, OwnerOrder


def identity_name(collaboration: str, dataset: str) -> str:
    """Name of a dataset's managed identity: one a dataset, so that access can be taken back alone."""
    return f"cr-{collaboration}-{dataset}"[:100]


class AzureAd:
    """Managed identities and federated credentials in the collaborator's own subscription."""

    def __init__(self, orders: Orders, identities: ManagedIdentities, federations: FederatedCredentials) -> None:
        self._orders = orders
        self._identities = identities
        self._federations = federations

    @activity.defn
    def create_managed_identity(self, order: OwnerOrder) -> ManagedIdentity:
        """Create the dataset's managed identity; an existing one is returned."""
        self._orders.dataset(order)
        made = self._identities.create_or_update(
            identity_name(order.collaboration, order.spec.name), tags={"cleanroom": order.collaboration, "dataset": order.spec.name}
        )
        return ManagedIdentity(
            name=made.name, resource_id=made.id, client_id=made.client_id, principal_id=made.principal_id, tenant_id=made.tenant_id
        )

    @activity.defn
    def set_federation(self, request: FederationOrder) -> FederationSet:
        """Let the clean room become this identity: issuer, subject and audience must match its tokens byte for byte.

        Raises:
            Refused: ``FederationMismatch`` when the subject is not this collaboration's and this owner's.
        """
        self._orders.dataset(request.order)
        wanted = request.clean_room
        expected = federated_subject(request.order.collaboration, self._orders.user_id)
        if wanted.subject != expected or wanted.audience != TOKEN_EXCHANGE_AUDIENCE:
            raise Refused(
                "FederationMismatch",
                f"federation: subject {wanted.subject!r}, audience {wanted.audience!r}; "
                f"expected {expected!r}, {TOKEN_EXCHANGE_AUDIENCE!r}.",
            )
        name = f"{expected}-{sha256_hex(wanted.issuer_url.encode())[:8]}-federation"[-120:].lstrip("-")
        made = self._federations.set(
            identity_name(request.order.collaboration, request.order.spec.name),
            name,
            Federation(issuer=wanted.issuer_url, subject=wanted.subject, audience=wanted.audience),
        )
        return FederationSet(name=name, issuer_url=made.issuer, subject=made.subject, audience=made.audience)
