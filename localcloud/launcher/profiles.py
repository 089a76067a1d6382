"""Writes ``cleanroom.toml`` (the profiles of :mod:`cleanroom.settings`) and ``temporal.toml`` for a local cloud."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from cleanroom.secret import write_secret_file
from localcloud.launcher import companies
from localcloud.launcher.companies import CLEAN_ROOM, COLLABORATION, CONTOSSO, FRONTEND, LITWARE, PEOPLE, SPARK_SERVICE, Account
from localcloud.standins.cgs.callers import MEMBER_HEADER

if TYPE_CHECKING:
    from localcloud.launcher.topology import LocalCloud


def write_profiles(cloud: LocalCloud) -> None:
    """Write both files; attestation URLs in them are capabilities, so only the owner can read them."""
    write_secret_file(cloud.config_file, tomli_w.dumps(profiles(cloud)).encode())
    temporal = {"profile": {"default": {"address": f"127.0.0.1:{cloud.ports['temporal']}", "namespace": "default"}}}
    (cloud.state / "temporal.toml").write_text(tomli_w.dumps(temporal))


def profiles(cloud: LocalCloud) -> dict[str, Any]:
    """The tables of ``cleanroom.toml``; paths are relative to the state folder."""

    def path(value: Path) -> str:
        return str(value.relative_to(cloud.state))

    def credential(account: Account) -> dict[str, Any]:
        return {
            "kind": "client-secret",
            "authority": cloud.url("entra"),
            "tenant_id": account.tenant_id,
            "client_id": account.client_id,
            "client_secret_file": path(cloud.secret_file(account)),
            "disable_instance_discovery": True,
        }

    image = {"image": cloud.image.reference, "image_layers": list(cloud.image.layers), "spark_version": cloud.image.spark_version}
    default = {
        "collaboration": COLLABORATION,
        "ca_file": path(cloud.authority.ca_file),
        "parties": {person.name: person.object_id for person in PEOPLE},
        "storage_hosts": [
            url.removeprefix("https://") for url in (cloud.url("blobaccess"), cloud.s3_url, cloud.url("keyvault"), cloud.url("maa"))
        ],
        "temporal": {
            "config_file": "temporal.toml",
            "keyring_file": path(cloud.keyring_file),
            "ui_url": cloud.codec_url,
            "codec_token_file": path(cloud.codec_token_file),
        },
        "governance": {"url": cloud.url("cgs"), "mode": "app"},
        "azure": {
            "arm_url": cloud.url("entra"),
            "maa_url": cloud.url("maa"),
            "verify_challenge_resource": False,
            "key_vault_release_ca_file": path(cloud.authority.ca_file),
        },
        "attestation": {"trust_files": [path(cloud.hardware.trust_file)]},
        "kubernetes": image,
        "spark": {"service_host_data": [cloud.host_data(SPARK_SERVICE.name)]},
    }
    people: dict[str, dict[str, Any]] = {
        person.name: {
            "boundary": "collaborator",
            "party": person.name,
            "keys_dir": path(cloud.home(person.name) / "keys"),
            "credential": credential(person),
        }
        for person in PEOPLE
    }
    people[CONTOSSO.name]["azure"] = {
        "subscription_id": companies.SUBSCRIPTION_ID,
        "resource_group": companies.RESOURCE_GROUP,
        "storage_account_url": f"{cloud.url('blobaccess')}/contosso",
        "storage_account_id": companies.storage_account_id(),
        "key_vault_url": cloud.url("keyvault"),
        "key_vault_id": companies.vault_id(),
    }
    people[LITWARE.name]["secret_files"] = {"s3": path(cloud.connection_secret_file(LITWARE.name))}
    people[LITWARE.name]["s3"] = {"endpoint_url": cloud.s3_url, "region": "us-east-1", "bucket": "litware"}
    people[LITWARE.name]["secret_files"] = {"s3": path(cloud.connection_secret_file(LITWARE.name))}
    services: dict[str, dict[str, Any]] = {
        FRONTEND.name: {"boundary": "frontend", "credential": credential(FRONTEND)},
        CLEAN_ROOM.name: {
            "boundary": "clean-room",
            "credential": credential(CLEAN_ROOM),
            "attestation": {"url": cloud.guest_url(CLEAN_ROOM.name)},
        },
        SPARK_SERVICE.name: {
            "boundary": "spark-service",
            "credential": credential(SPARK_SERVICE),
            "attestation": {"url": cloud.guest_url(SPARK_SERVICE.name)},
            "kubernetes": {"kubeconfig": path(cloud.kubeconfig), "context": "localcloud"},
        },
    }
    operator = {
        "boundary": "collaborator",
        "governance": {
            "proxy_url": f"{cloud.url('cgs')}/cgs-client",
            "member_token_file": path(cloud.member_token_file),
            "member_header": MEMBER_HEADER,
        },
    }
    return {"default": default, "profile": people | services | {"operator": operator}}
