"""Does this collaborator's own person want this? Whoever can start a workflow could ask a worker; only the person can sign."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection

from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.messages.publish import OwnerOrder
from cleanroom.messages.query import AuthorOrder, VoteOrder
from cleanroom.settings import Settings
from cleanroom.statements import Authorisation, Decision, KeyDocument, load_or_create_signing_key
from cleanroom.statements.signing import peek, verify


class Orders:
    """Verifies statements of the one person whose credentials this worker holds, by the key in that person's key folder."""

    def __init__(self, settings: Settings, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._settings = settings
        self._now = now

    @property
    def user_id(self) -> str:
        """User id in governance of this worker's person.

        Raises:
            PreconditionFailed: ``PartyUnknown``.
        """
        party = self._settings.party
        user = self._settings.parties.get(party) if party else None
        if user is None:
            raise PreconditionFailed("PartyUnknown", f"settings: party {party!r} has no user id in [parties].", party="operator")
        return user

    def _keys(self) -> KeyDocument:
        key = load_or_create_signing_key(self._settings.keys_dir)
        return KeyDocument(user_id=self.user_id, keys=(key.public,))

    def dataset(self, order: OwnerOrder) -> None:
        """This person wants this very dataset published.

        Raises:
            Refused: as :func:`cleanroom.statements.verify`; ``OrderMismatch``.
        """
        self._authorisation(order.collaboration, order.authorisation, {"publish-dataset"}, order.spec.name, order.spec.digest())

    def query(self, order: AuthorOrder, actions: Collection[str], *, allow_expired: bool = False) -> None:
        """This person wants one of ``actions`` done to the query, with exactly this text where one is given."""
        digest = order.spec.digest() if order.spec is not None else None
        self._authorisation(order.collaboration, order.authorisation, actions, order.query, digest, allow_expired=allow_expired)

    def decision(self, order: VoteOrder, decision: str) -> Decision:
        """This person decided so on exactly this version and text."""
        verified = verify(Decision, order.token, self._keys(), collaboration=self._collaboration(order.collaboration), now=self._now())
        same = (verified.query, verified.version, verified.proposal_id, verified.digest, verified.decision) == (
            order.query,
            order.version,
            order.proposal_id,
            order.digest,
            decision,
        )
        if not same:
            raise Refused(
                "DecisionMismatch", "vote: the signed decision is on another query, version, proposal, text or verdict than asked for."
            )
        return verified

    def _collaboration(self, asked: str) -> str:
        if asked != self._settings.collaboration:
            raise Refused(
                "CollaborationMismatch", f"order: for collaboration {asked!r}; this worker serves {self._settings.collaboration!r}."
            )
        return asked

    def _authorisation(
        self, collaboration: str, token: str, actions: Collection[str], subject: str, digest: str | None, *, allow_expired: bool = False
    ) -> None:
        self._collaboration(collaboration)
        now = self._now()
        if allow_expired:
            now = min(now, peek(Authorisation, token).expires - dt.timedelta(seconds=1))
        order = verify(Authorisation, token, self._keys(), collaboration=collaboration, now=now)
        if order.action not in actions or order.subject != subject:
            raise Refused(
                "OrderMismatch",
                f"order: signed for {order.action} of {order.subject!r}, asked for {'/'.join(sorted(actions))} of {subject!r}.",
            )
        if digest is not None and order.digest != digest:
            raise Refused("OrderMismatch", f"order: the signed text of {subject!r} is not the text that came with it.")
