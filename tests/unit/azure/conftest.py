"""Fixtures of the tests of Entra ID and ARM."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from cleanroom.clients.azure import ManagedIdentity
from localcloud.tls import LocalAuthority
from tests.azure_factories import Issuer, identities, issuing
from tests.servers import AzureWorld


@pytest.fixture(scope="package")
def issuer(local_authority: LocalAuthority) -> Iterator[Issuer]:
    """An external token issuer."""
    with issuing(local_authority) as running:
        yield running


@pytest.fixture
def identity(azure_world: AzureWorld) -> ManagedIdentity:
    """A new managed identity of Contosso."""
    return identities(azure_world).create_or_update(f"dataset-{uuid.uuid4().hex[:8]}")
