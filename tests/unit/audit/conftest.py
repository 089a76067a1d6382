"""A genuine audit bundle, built once per process. Tests must not change the fixtures."""

from __future__ import annotations

import pytest

from cleanroom.audit.chain import Bundle
from cleanroom.audit.files import bundle_json
from tests.audit_records import Items
from tests.audit_world import AuditWorld


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="session")
def items(world: AuditWorld) -> Items:
    return world.items()


@pytest.fixture(scope="session")
def bundle(world: AuditWorld, items: Items) -> Bundle:
    return world.bundle(items)


@pytest.fixture(scope="session")
def written(bundle: Bundle) -> bytes:
    return bundle_json(bundle)
