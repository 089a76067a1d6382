"""The configuration of each stand-in of the local cloud."""

from __future__ import annotations

import json
import os
from typing import Any

from cleanroom.secret import write_secret_file
from localcloud.launcher import companies
from localcloud.launcher.companies import Account, Company, Kind
from localcloud.launcher.layout import Layout
from localcloud.standins.blobaccess import BlobAccessConfig, StorageAccount
from localcloud.standins.cgs.auth import IssuerConfig
from localcloud.standins.cgs.callers import MemberConfig
from localcloud.standins.cgs.engine import CgsConfig
from localcloud.standins.entra.server import EntraConfig
from localcloud.standins.keyvault.auth import ArmRoles, TokenIssuer
from localcloud.standins.keyvault.release import AttestationIssuer
from localcloud.standins.keyvault.server import KeyVaultConfig
from localcloud.standins.kubernetes.server import KubernetesConfig
from localcloud.standins.maa import MaaConfig
from localcloud.standins.serving import StandInConfig
from localcloud.tls import LOOPBACK_HOSTS

EXECUTOR_PODS_VARIABLE = "CLEANROOM_EXECUTOR_PODS"
"""Set to ``1``, this environment variable gives executors their own pods, as on a cluster (docs/kubernetes.md). A run then starts later."""


def write_configs(layout: Layout, *, propagation_seconds: float) -> None:
    """Write ``config/<stand-in>.json`` for each stand-in."""
    configs = {name: config.model_dump(mode="json") for name, config in _configs(layout, propagation_seconds).items()}
    # A plain dictionary, because the dump of SnpConfig masks its token.
    configs["snp"] = StandInConfig(**_common(layout, "snp")).model_dump(mode="json") | {
        "admin_token": layout.token("snp-admin").reveal_text()
    }
    for name, config in configs.items():
        # Configurations hold tokens, so the file is private.
        write_secret_file(layout.state / f"config/{name}.json", json.dumps(config).encode())


def _configs(layout: Layout, propagation_seconds: float) -> dict[str, StandInConfig]:
    entra, ca = layout.url("entra"), layout.authority.ca_file
    return {
        "entra": EntraConfig(
            **_common(layout, "entra"),
            tenants=companies.tenants(layout.companies),
            principals=companies.principals(layout.companies.accounts, layout.state / "secrets"),
            subscriptions=companies.subscriptions(layout.companies),
            authority=entra,
            issuer_ca_file=ca,
            propagation_seconds=propagation_seconds,
        ),
        "maa": MaaConfig(**_common(layout, "maa"), amd_roots=False, trust_files=(layout.hardware.trust_file,), issuer=layout.url("maa")),
        **{layout.key_vault(company): _key_vault(layout, company) for company in layout.companies.of(Kind.AZURE)},
        "blobaccess": _blob_access(layout),
        "cgs": _cgs(layout),
        "kubernetes": KubernetesConfig(
            **_common(layout, "kubernetes"),
            images=layout.images,
            ca_file=ca,
            snp_url=layout.url("snp"),
            snp_token_file=layout.token_file("snp-admin"),
            snp_ca_file=ca,
            executor_pods=os.environ.get(EXECUTOR_PODS_VARIABLE) == "1",
        ),
    }


def _key_vault(layout: Layout, company: Company) -> KeyVaultConfig:
    issuer, ca = f"{layout.url('entra')}/{company.user.tenant_id}", layout.authority.ca_file
    return KeyVaultConfig(
        **_common(layout, layout.key_vault(company)),
        authority_url=issuer,
        issuers=(TokenIssuer(issuer=f"{issuer}/v2.0", jwks_uri=f"{issuer}/discovery/v2.0/keys", ca_file=ca),),
        arm=_arm_roles(layout, company.vault_id, company.vault_account),
        attestation=(AttestationIssuer(authority=layout.url("maa"), ca_file=ca),),
        release_hosts=(*LOOPBACK_HOSTS[:2], *([layout.cluster.address] if layout.cluster is not None else [])),
        release_authority=layout.authority.folder,
    )


def _blob_access(layout: Layout) -> BlobAccessConfig:
    accounts = {
        company.storage_account: StorageAccount(
            tenant_id=company.user.tenant_id,
            jwks_uri=f"{layout.url('entra')}/{company.user.tenant_id}/discovery/v2.0/keys",
            roles=_arm_roles(layout, company.storage_account_id, company.storage_service),
        )
        for company in layout.companies.of(Kind.AZURE)
    }
    return BlobAccessConfig(
        **_common(layout, "blobaccess"),
        azurite_url=layout.url("azurite"),
        azurite_ca_file=layout.authority.ca_file,
        accounts=accounts,
    )


def _cgs(layout: Layout) -> CgsConfig:
    issuers = tuple(
        IssuerConfig(
            issuer=f"{layout.url('entra')}/{tenant.id}/v2.0",
            jwks_uri=f"{layout.url('entra')}/{tenant.id}/discovery/v2.0/keys",
            ca_file=layout.authority.ca_file,
            audience="api://cleanroom-governance",
        )
        for tenant in companies.tenants(layout.companies)
    )
    return CgsConfig(
        **_common(layout, "cgs"),
        members=(MemberConfig(name="consortium", token=layout.token("cgs-member").reveal_text()),),
        issuers=issuers,
        trust_files=(layout.hardware.trust_file,),
    )


def _arm_roles(layout: Layout, resource_id: str, service: Account) -> ArmRoles:
    """How ``service`` reads the role assignments on its own resource from ARM."""
    return ArmRoles(
        url=layout.url("entra"),
        vault_id=resource_id,
        token_url=f"{layout.url('entra')}/{service.tenant_id}/oauth2/v2.0/token",
        client_id=service.client_id,
        client_secret_file=layout.secret_file(service),
        ca_file=layout.authority.ca_file,
    )


def _common(layout: Layout, name: str) -> dict[str, Any]:
    tls = layout.certificate(name)
    host = layout.address(name) or "127.0.0.1"
    return {"host": host, "port": layout.ports[name], "tls_cert": tls.cert, "tls_key": tls.key, "state": layout.data(name)}
