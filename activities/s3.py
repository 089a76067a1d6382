"""Participant "AWS S3", called with the off-Azure collaborator's credentials."""

from __future__ import annotations

from temporalio import activity

from activities.authorisations import AuthorisationVerifier
from cleanroom.bulkheads import bulkhead
from cleanroom.clients.owned import open_s3
from cleanroom.documents.specs import DatasetSpec, S3StoreSpec
from cleanroom.errors import InvalidInput
from cleanroom.messages.publish import AuthorisedDataset, ConnectionSecret, StoreLocation
from cleanroom.settings import Settings


class S3:
    """The collaborator's bucket."""

    def __init__(self, settings: Settings, authorisations: AuthorisationVerifier) -> None:
        self._settings = settings
        self._authorisations = authorisations

    @activity.defn
    async def get_connection_secret(self, dataset: AuthorisedDataset) -> ConnectionSecret:
        """Resolve the reference to the connection secret and open the bucket with it.

        A wrong secret fails here, before other collaborators are involved.

        Raises:
            InvalidInput: ``ConnectionSecretMalformed``.
            PreconditionFailed: The store rejects the secret.
        """
        await self._authorisations.verify_dataset(dataset)
        store = require_s3(dataset.spec)
        await bulkhead("s3").run(lambda: open_s3(self._settings, store).check())
        return ConnectionSecret(reference=store.connection_secret, store=f"s3://{store.bucket}/{store.subdirectory}")

    @activity.defn
    async def locate_s3_store(self, dataset: AuthorisedDataset) -> StoreLocation:
        """Return the collaborator's S3 endpoint. An empty URL is the AWS endpoint of the region."""
        await self._authorisations.verify_dataset(dataset)
        return StoreLocation(url=self._settings.s3.endpoint_url or "", region=self._settings.s3.region)


def require_s3(spec: DatasetSpec) -> S3StoreSpec:
    """Return the S3 store of ``spec``.

    Raises:
        InvalidInput: ``StoreKindMismatch`` if the dataset has a different kind of store.
    """
    if not isinstance(spec.store, S3StoreSpec):
        raise InvalidInput("StoreKindMismatch", f"dataset {spec.name!r}: its store is {spec.store.kind}, not aws-s3.")
    return spec.store
