"""The operator's services that run as confidential containers: their security policies, and their guests at the SNP stand-in."""

from __future__ import annotations

import base64
import hashlib
import json

from cleanroom.spark.rego import PAUSE, ContainerRule, EnvRule, render
from cleanroom.transport import http_client, ssl_context
from cleanroom.trust import Bootstrap
from localcloud.launcher.companies import CLEAN_ROOM, SPARK_SERVICE
from localcloud.launcher.layout import Layout
from localcloud.launcher.pod_cluster import Hardware
from localcloud.launcher.supervisor import write_json

GUESTS = (CLEAN_ROOM.name, SPARK_SERVICE.name)
"""Services that run as guests of the SNP stand-in."""


def bootstrap(layout: Layout) -> Bootstrap:
    """Return the bootstrap file of both services."""
    return Bootstrap(
        contract_id=layout.companies.collaboration,
        governance_url=layout.url("cgs"),
        governance_roots=layout.authority.ca_file.read_text("ascii"),
        development=True,
    )


def worker_arguments(layout: Layout, guest: str, bootstrap_file: str) -> tuple[str, ...]:
    """Return the arguments of a service's worker, which its policy measures."""
    return (guest, "--bootstrap", bootstrap_file, "--bootstrap-digest", bootstrap(layout).digest())


def security_policy(layout: Layout, guest: str) -> str:
    """Return the Rego security policy of a service; its SHA-256 is the guest's host data."""
    rule = ContainerRule(
        name=guest,
        id=f"localhost/cleanroom/{guest}",
        command=("cleanroom", "worker", *worker_arguments(layout, guest, "/etc/cleanroom/bootstrap.json")),
        env_rules=(EnvRule(pattern="CLEANROOM_CONFIG=/etc/cleanroom/cleanroom.toml", required=True, strategy="string"),),
        layers=(hashlib.sha256(f"NOT CONFIDENTIAL development image {guest}".encode()).hexdigest(),),
    )
    return render([PAUSE, rule], minimum_svn=4)


def host_data(layout: Layout, guest: str) -> str:
    """Return a service's host data: 64 lower-case hex digits."""
    return hashlib.sha256(security_policy(layout, guest).encode()).hexdigest()


def hardware(layout: Layout) -> Hardware:
    """Return how the node of a cluster reaches the SNP stand-in."""
    return Hardware(url=layout.url("snp"), token_file=layout.token_file("snp-admin"), ca_file=layout.authority.ca_file)


def launch_guests(layout: Layout) -> None:
    """Write the bootstrap file, launch each guest that does not run with its current policy, and record its URL in ``guests.json``.

    A guest's URL is a capability: every process that knows it can get the guest's attestation reports.
    """
    layout.bootstrap_file.write_bytes(bootstrap(layout).to_data())
    file = layout.guests_file
    known: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
    headers = {"Authorization": f"Bearer {layout.token('snp-admin').reveal_text()}"}
    with http_client(ssl_context(layout.authority.ca_file), timeout=30) as http:
        for name in GUESTS:
            if known.get(name, {}).get("host_data") == host_data(layout, name):
                continue
            policy = base64.b64encode(security_policy(layout, name).encode()).decode()
            body = {"name": name, "security_policy_base64": policy}
            response = http.post(f"{layout.url('snp')}/guests", json=body, headers=headers)
            launched = response.raise_for_status().json()
            known[name] = {"url": launched["url"], "host_data": launched["host_data"]}
    write_json(file, known)


def guest_url(layout: Layout, guest: str) -> str:
    """Return the attestation URL of a launched guest."""
    return str(json.loads(layout.guests_file.read_text())[guest]["url"])
