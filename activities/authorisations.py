"""Verifies that the collaborator signed for what an activity is asked to do.

Everyone who can start a workflow can schedule activities on a collaborator's worker. Only the collaborator can sign, so every
activity that acts with the collaborator's credentials verifies a signed statement first. An authorisation names the text and the
version on which the action is done, so that it has its effect once, whoever sends it again:

* ``publish-dataset`` ends when governance holds the accepted dataset document, which never changes.
* ``create-query`` creates a document, and a document is never deleted.
* ``update-query`` replaces one version of the draft by another.
* ``propose-query`` makes the one proposal whose ID is derived from it. Governance accepts every proposal ID once.
* ``withdraw-query`` withdraws the one proposal that it names.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection

from cleanroom.errors import NotFound, PreconditionFailed, Refused
from cleanroom.messages.publish import AuthorisedDataset
from cleanroom.messages.query import AuthorisedCommand, VoteRequest
from cleanroom.runs.deputies import verify_decision
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import GovernanceReader
from cleanroom.settings import Settings
from cleanroom.statements import Authorisation, Decision, KeyHistory, load_or_create_signing_key
from cleanroom.statements.signing import peek, verify


class AuthorisationVerifier:
    """Verifies statements of the collaborator whose credentials this worker holds, with the key in its key folder.

    Args:
        settings: The collaborator's profile.
        reader: Reads governance as the collaborator.
        now: The clock.
    """

    def __init__(
        self, settings: Settings, reader: GovernanceReader, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._now = now

    @property
    def user_id(self) -> str:
        """User ID of this worker's collaborator in governance.

        Raises:
            PreconditionFailed: ``PartyUnknown``.
        """
        party = self._settings.party
        user = self._settings.parties.get(party) if party else None
        if user is None:
            raise PreconditionFailed("PartyUnknown", f"settings: party {party!r} has no user ID in [default.parties].", party="operator")
        return user

    async def _keys(self) -> KeyHistory:
        """Return this worker's own key, and whether governance holds its retirement."""
        key = load_or_create_signing_key(self._settings.keys_dir)
        own = KeyHistory(user_id=self.user_id, keys=(key.public,))
        try:
            published = await published_keys(self._reader, self._settings.collaboration, self.user_id)
        except PreconditionFailed:
            # A key that was never published cannot be retired.
            return own
        return own.model_copy(update={"retired": published.retired})

    async def verify_dataset(self, dataset: AuthorisedDataset) -> Authorisation:
        """Verify that the collaborator authorised publishing exactly this dataset.

        Raises:
            Refused: ``CollaborationMismatch``, ``OrderMismatch``, or an error of :func:`cleanroom.statements.verify`.
        """
        return await self._verify(
            dataset.collaboration, dataset.authorisation, {"publish-dataset"}, dataset.spec.name, dataset.spec.digest()
        )

    async def verify_unpublished(self, dataset: AuthorisedDataset) -> None:
        """Verify that the dataset is not published yet, before something that its publication needs is created or granted.

        The authorisation ends with the publication. Without this, everyone who has read it could give back a role, a federation or
        a secret that the owner removed later.

        Raises:
            Refused: ``AuthorisationUsed``.
        """
        try:
            await self._reader.accepted_document(dataset.spec.name)
        except NotFound as error:
            if error.code != "UserDocumentNotFound":
                raise
            return
        raise Refused(
            "AuthorisationUsed",
            f"authorisation: dataset {dataset.spec.name!r} is published, so the authorisation to publish it has ended.",
            hint="Roles, federated credentials and secrets of a published dataset are changed in Azure and governance directly.",
        )

    async def verify_command(self, command: AuthorisedCommand, actions: Collection[str], *, allow_expired: bool = False) -> Authorisation:
        """Verify that the collaborator authorised one of ``actions`` on the query, and exactly the text in the command if there is one.

        The caller compares version, text and proposal of the result with governance.

        Args:
            command: The command and its authorisation.
            actions: The accepted actions.
            allow_expired: Accept an authorisation that has expired.

        Raises:
            Refused: ``CollaborationMismatch``, ``OrderMismatch``, or an error of :func:`cleanroom.statements.verify`.
        """
        digest = command.spec.digest() if command.spec is not None else None
        return await self._verify(command.collaboration, command.authorisation, actions, command.query, digest, allow_expired=allow_expired)

    async def verify_vote(self, vote: VoteRequest, decision: str) -> Decision:
        """Verify that ``decision`` is signed, on exactly the query, version, proposal and text in ``vote``.

        The signer is the collaborator, or a deputy whom this worker's own key has named.

        Raises:
            Refused: ``CollaborationMismatch``, ``DecisionMismatch``, or an error of :func:`cleanroom.runs.deputies.verify_decision`.
        """
        self._require_collaboration(vote.collaboration)
        keys = await self._keys()
        verified = (await verify_decision(self._reader, vote.token, keys, collaboration=vote.collaboration, now=self._now())).decision
        signed = (verified.query, verified.version, verified.proposal_id, verified.digest, verified.decision)
        if signed != (vote.query, vote.version, vote.proposal_id, vote.digest, decision):
            raise Refused(
                "DecisionMismatch",
                "vote: the signed decision is for a different query, version, proposal, text or verdict than the request.",
            )
        return verified

    def _require_collaboration(self, requested: str) -> None:
        if requested != self._settings.collaboration:
            raise Refused(
                "CollaborationMismatch",
                f"authorisation: the request is for collaboration {requested!r}; this worker serves {self._settings.collaboration!r}.",
            )

    async def _verify(
        self, collaboration: str, token: str, actions: Collection[str], subject: str, digest: str | None, *, allow_expired: bool = False
    ) -> Authorisation:
        self._require_collaboration(collaboration)
        now = self._now()
        if allow_expired:
            now = min(now, peek(Authorisation, token).expires - dt.timedelta(seconds=1))
        # The proposal that an expired authorisation made was recorded in governance when the authorisation was valid.
        recorded_at = 0 if allow_expired else None
        signed = verify(Authorisation, token, await self._keys(), collaboration=collaboration, now=now, recorded_at=recorded_at)
        if signed.action not in actions or signed.subject != subject:
            raise Refused(
                "OrderMismatch",
                f"authorisation: it is signed for {signed.action} of {signed.subject!r}; "
                f"the request is {'/'.join(sorted(actions))} of {subject!r}.",
            )
        if digest is not None and signed.digest != digest:
            raise Refused("OrderMismatch", f"authorisation: the signed text of {subject!r} differs from the text in the request.")
        return signed
