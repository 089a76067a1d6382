"""Writes ``cleanroom.toml`` (the profiles of :mod:`cleanroom.settings`) and ``temporal.toml`` for a local cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from cleanroom.secret import write_secret_file
from localcloud.launcher.companies import CLEAN_ROOM, FRONTEND, OPERATOR, RESOURCE_GROUP, S3_REGION, SPARK_SERVICE, Account, Company, Kind
from localcloud.launcher.guests import guest_url
from localcloud.launcher.layout import Layout
from localcloud.standins.cgs.callers import MEMBER_HEADER

SMALL_PODS = {"driver_cores": 1, "driver_memory": "1g", "executor_cores": 1, "executor_memory": "1g"}
"""Sizes of pods that a cluster on a machine with two cores can schedule. The stand-in of Kubernetes does not count cores."""


def write_profiles(layout: Layout) -> None:
    """Write both files. The profiles hold attestation URLs, which are capabilities, so the file is private."""
    write_secret_file(layout.config_file, tomli_w.dumps(profiles(layout)).encode())
    temporal = {"profile": {"default": {"address": f"127.0.0.1:{layout.ports['temporal']}", "namespace": "default"}}}
    layout.temporal_config_file.write_text(tomli_w.dumps(temporal))


def profiles(layout: Layout) -> dict[str, Any]:
    """Return the tables of ``cleanroom.toml``; paths are relative to the state folder."""
    operator = {
        "boundary": "collaborator",
        "governance": {
            "proxy_url": f"{layout.url('cgs')}/cgs-client",
            "member_token_file": _relative(layout, layout.member_token_file),
            "member_header": MEMBER_HEADER,
        },
    }
    return {"default": _default(layout), "profile": _people(layout) | _services(layout) | {OPERATOR: operator}}


def _default(layout: Layout) -> dict[str, Any]:
    ca_file, image = _relative(layout, layout.authority.ca_file), layout.image
    return {
        "collaboration": layout.companies.collaboration,
        "ca_file": ca_file,
        "parties": {person.name: person.object_id for person in layout.companies.people},
        "storage_hosts": list(layout.storage_hosts),
        "temporal": {
            "config_file": _relative(layout, layout.temporal_config_file),
            "keyring_file": _relative(layout, layout.keyring_file),
            "ui_url": layout.codec_url,
            "codec_token_file": _relative(layout, layout.codec_token_file),
        },
        "governance": {"url": layout.url("cgs"), "mode": "app"},
        "azure": {
            "arm_url": layout.url("entra"),
            "maa_url": layout.url("maa"),
            "verify_challenge_resource": False,
            "key_vault_release_ca_file": ca_file,
        },
        "kubernetes": {"spark_version": image.spark_version},
        **({"spark": SMALL_PODS} if layout.cluster is not None else {}),
    }


def _people(layout: Layout) -> dict[str, dict[str, Any]]:
    return {company.name: _person(layout, company) for company in layout.companies.members}


def _person(layout: Layout, company: Company) -> dict[str, Any]:
    profile: dict[str, Any] = {
        "boundary": "collaborator",
        "party": company.name,
        "keys_dir": _relative(layout, layout.home(company.name) / "keys"),
        "credential": _credential(layout, company.user),
    }
    if company.kind is Kind.AZURE:
        profile["azure"] = {
            "subscription_id": company.subscription_id,
            "resource_group": RESOURCE_GROUP,
            "storage_account_url": f"{layout.url('blobaccess')}/{company.storage_account}",
            "storage_account_id": company.storage_account_id,
            "key_vault_url": layout.url(layout.key_vault(company)),
            "key_vault_id": company.vault_id,
        }
    if company.kind is Kind.S3:
        profile["s3"] = {"endpoint_url": layout.s3_url, "region": S3_REGION, "bucket": company.bucket}
        profile["secret_files"] = {"s3": _relative(layout, layout.connection_secret_file(company.name))}
    return profile


def _services(layout: Layout) -> dict[str, dict[str, Any]]:
    return {
        FRONTEND.name: {"boundary": "frontend", "credential": _credential(layout, FRONTEND)},
        CLEAN_ROOM.name: {
            "boundary": "clean-room",
            "credential": _credential(layout, CLEAN_ROOM),
            "attestation": {"url": guest_url(layout, CLEAN_ROOM.name)},
        },
        SPARK_SERVICE.name: {
            "boundary": "spark-service",
            "credential": _credential(layout, SPARK_SERVICE),
            "attestation": {"url": guest_url(layout, SPARK_SERVICE.name)},
            "kubernetes": _kubernetes(layout),
        },
    }


def _kubernetes(layout: Layout) -> dict[str, Any]:
    if layout.cluster is not None:
        return {"kubeconfig": str(layout.cluster.kubeconfig)}
    return {"kubeconfig": _relative(layout, layout.kubeconfig), "context": "localcloud"}


def _credential(layout: Layout, account: Account) -> dict[str, Any]:
    return {
        "kind": "client-secret",
        "authority": layout.url("entra"),
        "tenant_id": account.tenant_id,
        "client_id": account.client_id,
        "client_secret_file": _relative(layout, layout.secret_file(account)),
        "disable_instance_discovery": True,
    }


def _relative(layout: Layout, path: Path) -> str:
    return str(path.relative_to(layout.state))
