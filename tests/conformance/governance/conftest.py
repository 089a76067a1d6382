"""The CGS under test: the one named by ``CLEANROOM_CGS_URL``, else the stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.governance.standin import StandIn
from tests.conformance.governance.target import Target, from_environment


@pytest.fixture(scope="session")
def cgs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The service, with its three users registered."""
    outside = from_environment()
    if outside is not None:
        target = Target(outside)
        target.enroll()
        target.require_users()
        yield target
        target.close()
        return
    with StandIn(tmp_path_factory.mktemp("cgs")).serve() as settings:
        target = Target(settings)
        target.enroll()
        yield target
        target.close()
