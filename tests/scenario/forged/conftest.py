"""Fixtures of the forged inputs: the attacker, and the check that a forgery is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.governance import Document
from cleanroom.identifiers import FRONTEND_QUEUE
from cleanroom.messages.publish import (
    AuthorisedDataset,
    CleanRoomDetailsRequest,
    CleanRoomPolicy,
    Descriptor,
    DescriptorRequest,
    ProposedDocument,
    ProposeDocumentRequest,
    SecretRequest,
    StoredSecret,
)
from starters.operations.session import run_async
from tests.local_cloud import Cloud, World, planes_spec, ticket_of
from tests.scenario.forged.attacker import LITWARE, Attacker, call_activity, prepare_run, releasable_state, revoke_run
from tests.scenario.forged.builders import Forgery

Refuse = Callable[[Forgery], None]


@pytest.fixture(scope="package")
def attacker(cloud: Cloud, world: World) -> Iterator[Attacker]:
    """Runs and authorisations whose inputs the attacker reads from histories."""
    query = cloud.approved_query(world.query())
    tickets = [ticket_of(cloud, query.query, query.digest)[0] for _ in range(3)]
    closed = prepare_run(cloud, tickets[0])
    assert revoke_run(cloud, tickets[0]).grants > 0
    opened = prepare_run(cloud, tickets[1])
    voting = cloud.propose(world.query("voting"))
    pending = planes_spec()

    async def propose_pending() -> tuple[CleanRoomPolicy, Descriptor, ProposedDocument, dict[str, Document]]:
        """Publish another dataset of Litware up to its proposal."""
        token = cloud.litware.authorise("publish-dataset", pending.name, pending.digest())
        authorised = AuthorisedDataset(collaboration=cloud.collaboration, spec=pending, authorisation=token)
        details = CleanRoomDetailsRequest(collaboration=cloud.collaboration, owner_id=cloud.litware.user_id)
        policy = await call_activity(cloud, FRONTEND_QUEUE, "get_clean_room_policy", details, CleanRoomPolicy)
        stored = [
            await call_activity(cloud, LITWARE, "set_secret", SecretRequest(dataset=authorised, kind=kind, policy=policy), StoredSecret)
            for kind in ("connection", "key")
        ]
        own = cloud.litware.settings.s3
        request = DescriptorRequest(
            collaboration=cloud.collaboration,
            owner_id=cloud.litware.user_id,
            spec=pending,
            store_url=own.endpoint_url or "",
            region=own.region,
            secrets=tuple(stored),
        )
        descriptor = await call_activity(cloud, FRONTEND_QUEUE, "generate_dataset_descriptor", request, Descriptor)
        proposed = await call_activity(
            cloud, LITWARE, "propose_document", ProposeDocumentRequest(dataset=authorised, descriptor=descriptor), ProposedDocument
        )
        async with cloud.fabrikam.governance() as client:
            documents = {name: await client.get_document(name) for name in (world.flights.name, world.planes.name, world.output.name)}
        return policy, descriptor, proposed, documents

    policy, descriptor, proposed, documents = run_async(propose_pending())
    yield Attacker(cloud, world, query, opened, closed, tickets[2], voting, descriptor, proposed, pending, policy, documents)
    revoke_run(cloud, opened.ticket)
    assert cloud.leftovers.grants() == {}
    assert cloud.leftovers.secrets(opened.ticket.run_id) == []


@pytest.fixture(scope="package")
def last_state() -> list[dict[str, Any]]:
    """The state after the last forgery, as long as no other test has run since."""
    return []


@pytest.fixture(autouse=True)
def forget_last_state(request: pytest.FixtureRequest, last_state: list[dict[str, Any]]) -> None:
    if "refused" not in request.fixturenames:
        last_state.clear()


@pytest.fixture
def refused(attacker: Attacker, last_state: list[dict[str, Any]]) -> Refuse:
    """Send a forgery; check the code of its refusal, and that everything is as it was before."""

    def refuse(forgery: Forgery) -> None:
        argument = forgery.argument(attacker)
        # The state that the previous forgery left: a late effect of that one shows here.
        before = last_state.pop() if last_state else releasable_state(attacker)
        with pytest.raises(CleanRoomError) as caught:
            run_async(call_activity(attacker.cloud, forgery.queue, forgery.activity, argument))
        assert caught.value.code == forgery.code, caught.value
        after = releasable_state(attacker)
        assert after == before
        last_state.append(after)

    return refuse
