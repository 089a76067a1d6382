"""Error codes of Azure Blob Storage and S3 that need an explanation and a remedy of their own.

Sources: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes,
https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes and
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Unavailable


@dataclass(frozen=True)
class StorageCode:
    """What a code means: the error's category, the reason, and the remedy. ``retryable`` overrides the category's default."""

    kind: type[CleanRoomError]
    reason: str
    hint: str | None = None
    retryable: bool | None = None


def storage_error(known: StorageCode, code: str, doing: str, cause: str, details: Mapping[str, Any] | None = None) -> CleanRoomError:
    """Return the error for a code of the tables below."""
    return known.kind(code, f"Could not {doing}: {known.reason}.", cause=cause, hint=known.hint, details=details, retryable=known.retryable)


_CLOCK_HINT = "Synchronise this machine's clock (NTP)."
_LEASE = "another process holds a lease on it"
_LEASE_HINT = "Wait until the lease expires, or break it with `az storage blob lease break`."
_IMMUTABLE = "an immutability policy or a legal hold protects it"
_IMMUTABLE_HINT = "Wait until the policy expires, or use a container without one."
_NETWORK = "a network rule of the storage account blocks this machine"
_NETWORK_HINT = "Allow this machine's network in the storage account's firewall, or use a private endpoint."
_BLOB_CUSTOMER_KEY_HINT = "Use the dataset's encryption CPK with the key that the upload used."
_KMS_HINT = "Ask the owner of the KMS key."
_REGION_HINT = "Set the bucket's region in s3.region."
_VAULT_KEY = StorageCode(
    PreconditionFailed,
    "the storage account cannot use its customer-managed key in Key Vault",
    "Restore the key, or the account identity's access to it.",
)

BLOB_CODES: Final[Mapping[str, StorageCode]] = {
    # the state of the blob
    "BlobArchived": StorageCode(
        PreconditionFailed,
        "the blob is in the archive tier and cannot be read",
        "Rehydrate it with `az storage blob set-tier --tier Hot`, which takes up to 15 hours, then try again.",
    ),
    "BlobBeingRehydrated": StorageCode(
        PreconditionFailed, "the blob is being rehydrated from the archive tier", "Try again when its tier has changed, within 15 hours."
    ),
    "BlobUsesCustomerSpecifiedEncryption": StorageCode(
        Conflict, "the blob is encrypted with a customer-provided key, and the request has none or another", _BLOB_CUSTOMER_KEY_HINT
    ),
    "BlobCustomerSpecifiedEncryptionMismatch": StorageCode(
        Conflict, "the blob is encrypted with another customer-provided key", _BLOB_CUSTOMER_KEY_HINT
    ),
    "BlobDoesNotUseCustomerSpecifiedEncryption": StorageCode(
        Conflict, "the request has a customer-provided key, but the blob is not encrypted with one", "Use the dataset's encryption SSE."
    ),
    "BlobImmutableDueToLegalHold": StorageCode(PreconditionFailed, _IMMUTABLE, _IMMUTABLE_HINT),
    "BlobImmutableDueToPolicy": StorageCode(PreconditionFailed, _IMMUTABLE, _IMMUTABLE_HINT),
    "ContainerHasLegalHold": StorageCode(PreconditionFailed, _IMMUTABLE, _IMMUTABLE_HINT),
    "ContainerImmutabilityPolicyLocked": StorageCode(PreconditionFailed, _IMMUTABLE, _IMMUTABLE_HINT),
    "InvalidBlobType": StorageCode(Conflict, "it is not a block blob", "Upload it again as a block blob."),
    "PendingCopyOperation": StorageCode(Unavailable, "a copy to it is in progress"),
    # the state of the container and the account
    "ContainerBeingDeleted": StorageCode(
        Unavailable, "the container is being deleted", "Wait until it is deleted, or use another container."
    ),
    "ContainerDisabled": StorageCode(PreconditionFailed, "the container is disabled", "Ask the storage account's administrator."),
    "AccountBeingCreated": StorageCode(Unavailable, "the storage account is being created"),
    "AccountIsDisabled": StorageCode(PreconditionFailed, "the storage account is disabled", "Ask the subscription's administrator."),
    "KeyVaultAccessTokenCannotBeAcquired": _VAULT_KEY,
    "KeyVaultEncryptionKeyNotFound": _VAULT_KEY,
    "KeyVaultVaultNotFound": _VAULT_KEY,
    # leases
    "LeaseAlreadyPresent": StorageCode(Conflict, _LEASE, _LEASE_HINT),
    "LeaseIdMismatchWithBlobOperation": StorageCode(Conflict, _LEASE, _LEASE_HINT),
    "LeaseIdMismatchWithContainerOperation": StorageCode(Conflict, _LEASE, _LEASE_HINT),
    "LeaseIdMissing": StorageCode(Conflict, _LEASE, _LEASE_HINT),
    "LeaseLost": StorageCode(Conflict, _LEASE, _LEASE_HINT),
    # authentication and authorisation
    "AuthenticationFailed": StorageCode(
        PreconditionFailed,
        "the service does not accept the token: it has expired, is for another resource or tenant, or this machine's clock is wrong",
        f"Check credential.tenant_id. {_CLOCK_HINT}",
    ),
    "InvalidAuthenticationInfo": StorageCode(
        PreconditionFailed,
        "the service does not accept the token: it has expired, is for another resource or tenant, or this machine's clock is wrong",
        f"Check credential.tenant_id. {_CLOCK_HINT}",
    ),
    "NoAuthenticationInformation": StorageCode(PreconditionFailed, "the request has no token", "Check credential.kind."),
    "PublicAccessNotPermitted": StorageCode(
        PreconditionFailed,
        "the request was anonymous, and the storage account does not permit public access",
        "Check credential.kind, and any proxy that removes the header Authorization.",
    ),
    "AuthorizationPermissionMismatch": StorageCode(
        PreconditionFailed,
        "the identity has no data role that permits it, or the role has not propagated yet",
        "A role assignment can take up to 30 minutes. After that, assign Storage Blob Data Reader (or Contributor to write).",
        retryable=True,
    ),
    "AuthorizationFailure": StorageCode(PreconditionFailed, _NETWORK, _NETWORK_HINT),
    "AuthorizationSourceIPMismatch": StorageCode(PreconditionFailed, _NETWORK, _NETWORK_HINT),
    "AuthorizationProtocolMismatch": StorageCode(
        PreconditionFailed, "the storage account does not permit this protocol", "Use an https URL."
    ),
    "AuthorizationResourceTypeMismatch": StorageCode(
        PreconditionFailed, "the authorisation does not cover this type of resource", "Use an Entra ID credential with a data role."
    ),
    "AuthorizationServiceMismatch": StorageCode(
        PreconditionFailed, "the authorisation does not cover this service", "Use an Entra ID credential with a data role."
    ),
    "InsufficientAccountPermissions": StorageCode(
        PreconditionFailed, "the account's permissions do not cover this operation", "Ask the storage account's administrator."
    ),
    "KeyBasedAuthenticationNotPermitted": StorageCode(
        PreconditionFailed, "the storage account does not permit account keys", "Use an Entra ID credential."
    ),
    # existence, conditions, limits
    "BlobAlreadyExists": StorageCode(Conflict, "it already exists"),
    "ContainerAlreadyExists": StorageCode(Conflict, "it already exists"),
    "UnauthorizedBlobOverwrite": StorageCode(
        PreconditionFailed, "it exists, and the identity may not overwrite it", "Assign Storage Blob Data Contributor to the identity."
    ),
    "ConditionNotMet": StorageCode(Conflict, "it was changed concurrently", "Read it again."),
    "BlockCountExceedsLimit": StorageCode(
        Conflict, "it has too many uncommitted blocks of broken uploads", "Delete the blob, or wait a week until they are discarded."
    ),
    "RequestBodyTooLarge": StorageCode(InvalidInput, "a block is larger than the service accepts"),
}
"""Codes of Azure Blob Storage."""

_CREDENTIALS_HINT = "Check the connection secret, or AWS_PROFILE."
_PERMISSION_HINT = (
    "Grant s3:ListBucket, s3:GetObject and, to write, s3:PutObject to the key, and kms:Decrypt if the bucket uses KMS. "
    "Check the bucket's policy."
)
_SESSION = "the session token is not valid or has expired"
_SESSION_HINT = "Renew awsSessionToken in the connection secret, or use a long-term access key."
_ACCOUNT = "the AWS account is not able to use S3"
_ACCOUNT_HINT = "Ask the account's administrator."
_CLOCK = "this machine's clock differs too much from the service's"
_BUSY = "the service is busy or failed"
_REGION = "the bucket is in another region"
_STATE = "another operation on it is in progress"

S3_CODES: Final[Mapping[str, StorageCode]] = {
    # authentication and authorisation
    "InvalidAccessKeyId": StorageCode(PreconditionFailed, "the access key does not exist", _CREDENTIALS_HINT),
    "SignatureDoesNotMatch": StorageCode(PreconditionFailed, "the secret access key does not belong to the access key", _CREDENTIALS_HINT),
    "AccessDenied": StorageCode(PreconditionFailed, "the access key has no permission", _PERMISSION_HINT),
    "AllAccessDisabled": StorageCode(PreconditionFailed, "access to the bucket is disabled", _ACCOUNT_HINT),
    "AccountProblem": StorageCode(PreconditionFailed, _ACCOUNT, _ACCOUNT_HINT),
    "NotSignedUp": StorageCode(PreconditionFailed, _ACCOUNT, _ACCOUNT_HINT),
    "InvalidPayer": StorageCode(PreconditionFailed, _ACCOUNT, _ACCOUNT_HINT),
    "ExpiredToken": StorageCode(PreconditionFailed, _SESSION, _SESSION_HINT),
    "InvalidToken": StorageCode(PreconditionFailed, _SESSION, _SESSION_HINT),
    "TokenRefreshRequired": StorageCode(PreconditionFailed, _SESSION, _SESSION_HINT),
    "RequestTimeTooSkewed": StorageCode(PreconditionFailed, _CLOCK, _CLOCK_HINT),
    "RequestExpired": StorageCode(PreconditionFailed, _CLOCK, _CLOCK_HINT),
    # the state of the object and its key
    "InvalidObjectState": StorageCode(
        PreconditionFailed,
        "the object is archived (Glacier or Deep Archive) and cannot be read",
        "Restore it with `aws s3api restore-object`, which takes minutes to 48 hours, then try again.",
    ),
    "RestoreAlreadyInProgress": StorageCode(PreconditionFailed, "the object is being restored", "Try again when it is restored."),
    "KMS.DisabledException": StorageCode(PreconditionFailed, "the KMS key is disabled", _KMS_HINT),
    "KMS.NotFoundException": StorageCode(PreconditionFailed, "the KMS key does not exist", _KMS_HINT),
    "KMS.KMSInvalidStateException": StorageCode(PreconditionFailed, "the KMS key is in a state that forbids its use", _KMS_HINT),
    "KMS.InvalidKeyUsageException": StorageCode(PreconditionFailed, "the KMS key is not for encryption", _KMS_HINT),
    "KMS.ThrottlingException": StorageCode(Unavailable, "KMS throttles requests"),
    "KMS.KeyUnavailableException": StorageCode(Unavailable, "the KMS key is temporarily unavailable"),
    "KMS.DependencyTimeoutException": StorageCode(Unavailable, "KMS did not answer in time"),
    "KMS.KMSInternalException": StorageCode(Unavailable, "KMS failed"),
    "CustomerKeyNeeded": StorageCode(
        PreconditionFailed,
        "the object is encrypted with a customer-provided key, and the request has none or another",
        "Use the dataset's encryption CPK with the key that the upload used.",
    ),
    # existence, place, conditions, limits
    "NoSuchBucket": StorageCode(NotFound, "the bucket does not exist", "Check its name, s3.region and s3.endpoint_url."),
    "NoSuchKey": StorageCode(NotFound, "it does not exist"),
    "NoSuchVersion": StorageCode(NotFound, "this version does not exist"),
    "NoSuchUpload": StorageCode(Unavailable, "the multipart upload was ended by another process or a lifecycle rule"),
    "BucketAlreadyExists": StorageCode(Conflict, "another account owns a bucket of this name", "Choose another name."),
    "BucketAlreadyOwnedByYou": StorageCode(Conflict, "this account owns the bucket already"),
    "AuthorizationHeaderMalformed": StorageCode(PreconditionFailed, _REGION, _REGION_HINT),
    "IllegalLocationConstraintException": StorageCode(PreconditionFailed, _REGION, _REGION_HINT),
    "TemporaryRedirect": StorageCode(Unavailable, "the bucket is new, and its name does not resolve to its region yet"),
    "OperationAborted": StorageCode(Unavailable, _STATE),
    "ConditionalRequestConflict": StorageCode(Unavailable, _STATE),
    "InvalidRange": StorageCode(InvalidInput, "the range is outside the object"),
    "EntityTooLarge": StorageCode(InvalidInput, "the object is larger than the service accepts"),
    "NotImplemented": StorageCode(InvalidInput, "this server does not implement the operation", "Use a server that implements the S3 API."),
    # throttling and failures
    "SlowDown": StorageCode(Unavailable, "the service throttles requests"),
    "TooManyRequests": StorageCode(Unavailable, "the service throttles requests"),
    "Throttling": StorageCode(Unavailable, "the service throttles requests"),
    "ThrottlingException": StorageCode(Unavailable, "the service throttles requests"),
    "RequestLimitExceeded": StorageCode(Unavailable, "the service throttles requests"),
    "BandwidthLimitExceeded": StorageCode(Unavailable, "the service throttles requests"),
    "RequestTimeout": StorageCode(Unavailable, "the service did not receive the request in time"),
    "ServiceUnavailable": StorageCode(Unavailable, _BUSY),
    "InternalError": StorageCode(Unavailable, _BUSY),
}
"""Codes of S3. ``CustomerKeyNeeded`` is this project's code for an ``InvalidRequest`` about a customer-provided key."""

KMS_CODE: Final = StorageCode(PreconditionFailed, "the bucket's KMS key cannot be used", _KMS_HINT)
"""Any other code that begins with ``KMS.``."""
