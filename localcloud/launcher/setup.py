"""Steps that prepare the started servers for the collaboration: the S3 bucket and the contract in governance."""

from __future__ import annotations

import asyncio

from cleanroom.attestation import TrustStore
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.secret import Secret
from cleanroom.settings import TemporalSettings
from cleanroom.spark.profile import PodMeasurement
from cleanroom.temporal.client import connect
from cleanroom.temporal.versions import DEPLOYMENTS, Deployment, list_versions, move_pinned, promote
from cleanroom.trust import DevelopmentTrust, TrustDocument
from localcloud.launcher.companies import CLEAN_ROOM, S3_REGION, SERVICES, SPARK_SERVICE, Company, Kind
from localcloud.launcher.guests import host_data
from localcloud.launcher.layout import Layout
from localcloud.standins.cgs.bootstrap import User, bootstrap


def create_buckets(layout: Layout) -> None:
    """Create the bucket of each company on S3, and wait until it accepts a write."""
    for company in layout.companies.of(Kind.S3):
        _create_bucket(layout, company)


def _create_bucket(layout: Layout, company: Company) -> None:
    endpoint = check_storage_url(layout.s3_url, "s3", declared=[layout.s3_url.removeprefix("https://")])
    operator = S3Credentials(Secret(b"OPERATOR"), layout.token("s3-operator"))
    store = S3Store(company.bucket, region=S3_REGION, endpoint=endpoint, credentials=operator, ca_file=layout.authority.ca_file)
    store.create_bucket()
    # The first write to a bucket allocates its volumes, which takes seconds. Only a write shows that the bucket is writable.
    store.put("ready", b"")
    store.delete("ready")
    store.close()


def create_collaboration(layout: Layout) -> None:
    """Accept the contract and its trust document, allow the clean room's host data, and register the users."""
    users = [User(oid=a.object_id, tenant_id=a.tenant_id, identifier=a.username) for a in (*layout.companies.people, *SERVICES)]
    token = layout.token("cgs-member").reveal_text()
    hosts = [host_data(layout, CLEAN_ROOM.name)]
    contract, ca_file = layout.companies.collaboration, layout.authority.ca_file
    asyncio.run(bootstrap(layout.url("cgs"), ca_file, token, contract, users, hosts, trust=lambda n: trust_document(layout, n)))


def promote_workers(layout: Layout, build: str) -> None:
    """Route workflows to the workers of this code, before they poll. The launcher replaces all workers at once.

    An earlier version therefore has no workers any longer: its open runs continue on this one.
    """

    async def roll_out() -> None:
        client = await connect(TemporalSettings(config_file=layout.temporal_config_file), identity="launcher")

        async def replace(deployment: Deployment) -> None:
            await promote(client, deployment, build, before_workers=True)
            for version in await list_versions(client, deployment):
                if version.build != build and version.open_workflows:
                    await move_pinned(client, deployment, version.build, build)

        await asyncio.gather(*map(replace, DEPLOYMENTS))

    asyncio.run(roll_out())


def trust_document(layout: Layout, number: int) -> TrustDocument:
    """Return the trust document of the local cloud: its Spark service, its image, its hosts, and the roots of its development chip."""
    roots = layout.authority.ca_file.read_text("ascii")
    hardware = TrustStore.load(amd=False, root_files=(layout.hardware.trust_file,))
    return TrustDocument(
        contract_id=layout.companies.collaboration,
        number=number,
        spark_service_host_data=(host_data(layout, SPARK_SERVICE.name),),
        pods=PodMeasurement(image=layout.image.reference, layers=layout.image.layers),
        entra_authority=layout.url("entra"),
        storage_hosts=layout.storage_hosts,
        tls_roots=roots,
        key_release_roots=roots,
        development=DevelopmentTrust(roots=hardware.roots, uvm=hardware.uvm, verify_challenge_resource=False),
    )
