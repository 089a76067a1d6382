"""The trust document: everything that decides which code, hardware and hosts a collaboration trusts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cleanroom.attestation import ALLOW_ALL_HOST_DATA, Expectations, Product, Tcb, TrustedRoot, TrustStore, UvmIssuer
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, canonical_json, document_digest
from cleanroom.jose.encoding import strict_json
from cleanroom.models import FrozenModel
from cleanroom.spark.profile import PodMeasurement

MAX_DOCUMENT = 256 * 1024
"""Characters of a trust document."""


class MinimumTcb(FrozenModel):
    """The oldest firmware of one product: the TCB that the report states, and the one that the host can no longer go below."""

    reported: Tcb
    committed: Tcb


class AttestationPolicy(FrozenModel):
    """What every attestation report must satisfy. An endorsement of the utility VM is always required."""

    minimum_tcb: dict[Product, MinimumTcb] | None = None
    """Minimum TCB per product. With it, products that are not listed are rejected; without it, every TCB is accepted."""
    minimum_uvm_svn: int | None = Field(default=None, ge=0)
    """Minimum security version of the utility VM, if it is higher than the product's own."""
    minimum_report_version: int = Field(default=2, ge=2, le=5)
    """Oldest accepted version of SNP reports."""
    provider_ids: tuple[str, ...] | None = None
    """Cloud providers (``CSP_ID``) whose VLEK certificates are accepted; without it, all."""
    require_crl: bool = False
    """Whether a current revocation list of the chain's root is required. The operator supplies the lists
    (``attestation.crl_files``), and AMD signs them."""


class DevelopmentTrust(FrozenModel):
    """What only development may trust. Reports under these roots are marked NOT CONFIDENTIAL."""

    roots: tuple[TrustedRoot, ...] = Field(min_length=1)
    """Root keys of development hardware, by digest."""
    uvm: tuple[UvmIssuer, ...] = ()
    """Issuers of development endorsements of the utility VM."""
    amd_roots: bool = False
    """Whether AMD's roots are trusted in addition."""
    verify_challenge_resource: bool = True
    """Whether Key Vault's host must be under the resource of its challenge, which an emulator on this machine cannot be."""


class TrustDocument(FrozenModel):
    """What a collaboration trusts: the code of its services and pods, the hardware, and hosts outside of the public clouds.

    The members of the consortium accept it in governance as a member document. Governance never changes an accepted document, so
    each change is a new document with the next number. The accepted one with the highest number is in force.
    """

    schema_version: Literal[1] = 1
    contract_id: str = Field(min_length=1, max_length=128)
    """The contract to which the document belongs."""
    number: int = Field(ge=1)
    """1 for the contract's first trust document, and one more for each that follows."""
    spark_service_host_data: tuple[HexDigest, ...] = Field(min_length=1)
    """Host data of the accepted Spark services."""
    pods: PodMeasurement
    """The program of the pods, as their policies measure it."""
    attestation: AttestationPolicy = AttestationPolicy()
    """What attestation reports must satisfy."""
    entra_authority: str = Field(default="https://login.microsoftonline.com", pattern=r"^https://[^/\s?#@]+$")
    """The Entra ID authority at which guests sign in as the owners' managed identities."""
    storage_hosts: tuple[str, ...] = ()
    """Hosts (``host`` or ``host:port``) outside of the public clouds that stores, key vaults and attestation services may have."""
    tls_roots: str = ""
    """PEM roots for ``storage_hosts`` and for an authority outside of the public clouds; without it, the roots in the image."""
    key_release_roots: str = ""
    """PEM roots for the certificate chain of signed key releases; without it, ``tls_roots``, else the roots in the image."""
    development: DevelopmentTrust | None = None
    """Set only on development machines. A worker accepts it only if its measured bootstrap file allows development."""

    @field_validator("spark_service_host_data")
    @classmethod
    def _no_allow_all(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if ALLOW_ALL_HOST_DATA & set(value):
            raise ValueError("contains the host data of the policy that allows every container")
        return value

    @field_validator("tls_roots", "key_release_roots")
    @classmethod
    def _certificates(cls, value: str) -> str:
        if value and "-----BEGIN CERTIFICATE-----" not in value:
            raise ValueError("contains no PEM certificate")
        return value

    @model_validator(mode="after")
    def _measured_sidecar(self) -> Self:
        if self.development is None and not self.pods.sidecars:
            raise ValueError("pods.sidecars: without development, the attestation sidecar must be measured")
        return self

    @property
    def id(self) -> str:
        """The document's ID in governance."""
        return trust_document_id(self.contract_id, self.number)

    @property
    def digest(self) -> str:
        """Digest of :meth:`to_data`."""
        return document_digest(self.to_data())

    def to_data(self) -> str:
        """Return the text that governance stores: canonical JSON."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True)).decode()

    def trust_store(self) -> TrustStore:
        """Return the roots and the issuers of endorsements: AMD's and Microsoft's, or those of ``development``."""
        found = self.development
        if found is None:
            return TrustStore.amd()
        base = TrustStore.amd() if found.amd_roots else TrustStore(())
        roots = [root.model_copy(update={"development": True}) for root in found.roots]
        return TrustStore((*base.roots, *roots), (*base.uvm, *(row.model_copy(update={"development": True}) for row in found.uvm)))

    def expectations(self, crls: Sequence[bytes] = ()) -> Expectations:
        """Return what every report must satisfy, in addition to its host data and report data."""
        policy, minimum = self.attestation, self.attestation.minimum_tcb
        return Expectations(
            require_uvm=True,
            refuse_host_data=ALLOW_ALL_HOST_DATA,
            minimum_report_version=policy.minimum_report_version,
            csp_ids=None if policy.provider_ids is None else frozenset(policy.provider_ids),
            minimum_tcb=None if minimum is None else {product: row.reported for product, row in minimum.items()},
            minimum_committed_tcb=None if minimum is None else {product: row.committed for product, row in minimum.items()},
            minimum_uvm_svn=policy.minimum_uvm_svn,
            crls=tuple(crls),
            require_crl=policy.require_crl,
        )


def trust_document_id(contract_id: str, number: int) -> str:
    """Return the ID of a contract's trust document with this number."""
    return f"trust-{contract_id}-{number}"


def parse_trust_document(text: object, *, document_id: str) -> TrustDocument:
    """Parse the text of a trust document.

    Raises:
        InvalidInput: ``TrustDocumentMalformed``.
    """
    try:
        if not isinstance(text, str) or len(text) > MAX_DOCUMENT:
            raise ValueError(f"not a text of at most {MAX_DOCUMENT} characters")
        return TrustDocument.model_validate(strict_json(text))
    except (ValueError, RecursionError) as error:
        cause = describe_validation(error) if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(
            "TrustDocumentMalformed",
            f"trust document {document_id}: {cause}.",
            hint="Print a template with `cleanroom collaboration trust --print`.",
        ) from error
