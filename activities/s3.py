"""AWS S3, called by the off-Azure collaborator."""

from __future__ import annotations

from temporalio import activity

from activities.orders import Orders
from cleanroom.clients.owned import open_s3
from cleanroom.documents.specs import DatasetSpec, S3StoreSpec
from cleanroom.errors import InvalidInput
from cleanroom.messages.publish import ConnectionSecret, OwnerOrder, StoreLocation
from cleanroom.settings import Settings


class S3:
    """The collaborator's own bucket."""

    def __init__(self, settings: Settings, orders: Orders) -> None:
        self._settings = settings
        self._orders = orders

    @activity.defn
    def get_connection_secret(self, order: OwnerOrder) -> ConnectionSecret:
        """Read the connection secret by its reference and open the bucket with it, before anybody is asked to approve.

        Raises:
            InvalidInput: ``ConnectionSecretMalformed``.
            PreconditionFailed: when the store refuses it.
        """
        self._orders.dataset(order)
        store = require_s3(order.spec)
        open_s3(self._settings, store).check()
        return ConnectionSecret(reference=store.connection_secret, store=f"s3://{store.bucket}/{store.subdirectory}")

    @activity.defn
    def locate_s3_store(self, order: OwnerOrder) -> StoreLocation:
        """The S3 service of this collaborator; an empty URL is AWS's own for the region."""
        self._orders.dataset(order)
        return StoreLocation(url=self._settings.s3.endpoint_url or "", region=self._settings.s3.region)


def require_s3(spec: DatasetSpec) -> S3StoreSpec:
    """The S3 store of ``spec``.

    Raises:
        InvalidInput: ``StoreKindMismatch``.
    """
    if not isinstance(spec.store, S3StoreSpec):
        raise InvalidInput("StoreKindMismatch", f"dataset {spec.name!r}: its store is {spec.store.kind}, not aws-s3.")
    return spec.store
