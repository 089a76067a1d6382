"""Steps that prepare the started servers for the collaboration: the S3 bucket and the contract in governance."""

from __future__ import annotations

import asyncio

from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.secret import Secret
from localcloud.launcher.companies import CLEAN_ROOM, COLLABORATION, PEOPLE, S3_BUCKET, S3_REGION, SERVICES
from localcloud.launcher.guests import host_data
from localcloud.launcher.layout import Layout
from localcloud.standins.cgs.bootstrap import User, bootstrap


def create_bucket(layout: Layout) -> None:
    """Create Litware's bucket and wait until it accepts a write."""
    endpoint = check_storage_url(layout.s3_url, "s3", declared=[layout.s3_url.removeprefix("https://")])
    operator = S3Credentials(Secret(b"OPERATOR"), layout.token("s3-operator"))
    store = S3Store(S3_BUCKET, region=S3_REGION, endpoint=endpoint, credentials=operator, ca_file=layout.authority.ca_file)
    store.create_bucket()
    # The first write to a bucket allocates its volumes, which takes seconds. Only a write shows that the bucket is writable.
    store.put("ready", b"")
    store.delete("ready")
    store.close()


def create_collaboration(layout: Layout) -> None:
    """Accept the contract, allow the clean room's host data, and register the users."""
    users = [User(oid=a.object_id, tenant_id=a.tenant_id, identifier=a.username) for a in (*PEOPLE, *SERVICES)]
    token = layout.token("cgs-member").reveal_text()
    asyncio.run(bootstrap(layout.url("cgs"), layout.authority.ca_file, token, COLLABORATION, users, [host_data(CLEAN_ROOM.name)]))
