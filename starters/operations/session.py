"""What every command of a person needs: settings of the profile, the Temporal client, the person's own signature."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed
from cleanroom.settings import Settings, load_settings
from starters.terminal.output import USER_NAMES

# What a command does not need is not imported: Temporal, governance with its attestation, Azure's credentials are a second together.
if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle

    from cleanroom.clients.azure_credentials import Credential
    from cleanroom.governance import GovernanceUserClient
    from cleanroom.publishing.user_documents import UserDocuments
    from cleanroom.statements import SigningKey

T = TypeVar("T")
ORDER_LIFETIME = dt.timedelta(days=30)


class Session:
    """One person at one command."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._credential: Credential | None = None
        self._namespace = "default"

    @staticmethod
    def load(profile: str | None, config: str | None) -> Session:
        """Settings of the profile; raises what :func:`cleanroom.settings.load_settings` raises."""
        settings = load_settings(profile, path=Path(config) if config else None)
        USER_NAMES.update({user: name for name, user in settings.parties.items() if user})
        return Session(settings)

    @property
    def collaboration(self) -> str:
        if not self.settings.collaboration:
            raise PreconditionFailed(
                "SettingMissing", "settings: collaboration is not set.", hint="Run `cleanroom up`, or set it in cleanroom.toml."
            )
        return self.settings.collaboration

    @property
    def party(self) -> str:
        """Name of the collaborator who acts.

        Raises:
            InvalidInput: ``ProfileIsNoPerson``.
        """
        if self.settings.party is None:
            known = ", ".join(sorted(self.settings.parties)) or "none"
            raise InvalidInput(
                "ProfileIsNoPerson",
                f"profile {self.settings.profile!r} is not a collaborator's.",
                hint=f"Name who acts with --profile; known: {known}.",
            )
        return self.settings.party

    @property
    def user_id(self) -> str:
        party = self.party
        try:
            return self.settings.parties[party]
        except KeyError:
            raise PreconditionFailed("PartyUnknown", f"settings: party {party!r} has no user id in [parties].") from None

    def key(self) -> SigningKey:
        """This person's signing key."""
        from cleanroom.statements import load_or_create_signing_key

        return load_or_create_signing_key(self.settings.keys_dir)

    def credential(self) -> Credential:
        if self._credential is None:
            from cleanroom.clients.azure_credentials import credential

            self._credential = credential(self.settings.credential, ca_file=self.settings.ca_file)
        return self._credential

    def governance(self) -> GovernanceUserClient:
        """Governance as this person; use as an asynchronous context manager.

        Raises:
            InvalidInput: ``ProfileIsNoPerson`` when nobody was named although the config file knows people.
        """
        from cleanroom.publishing.user_documents import governance_client

        if self.settings.profile == "default" and self.settings.parties and self.settings.credential.kind == "default":
            self.party  # noqa: B018 - raises, naming the people
        return governance_client(self.settings, self.credential())

    def documents(self, client: GovernanceUserClient) -> UserDocuments:
        from cleanroom.publishing.user_documents import UserDocuments

        return UserDocuments(client, self.collaboration)

    def authorise(self, action: str, subject: str, digest: str) -> str:
        """This person's signed order to their own worker."""
        from cleanroom.statements import Authorisation, sign

        order = Authorisation(
            collaboration=self.collaboration,
            signer=self.user_id,
            expires=now() + ORDER_LIFETIME,
            action=action,
            subject=subject,
            digest=digest,
        )
        return sign(order, self.key())

    async def temporal(self) -> Client:
        """The Temporal client of this profile.

        Raises:
            Unavailable: ``TemporalUnavailable``.
        """
        from cleanroom.temporal.client import connect

        client = await connect(self.settings.temporal, identity=f"cleanroom-cli/{self.settings.profile}")
        self._namespace = client.namespace
        return client

    def ui_link(self, workflow_id: str, run_id: str | None = None) -> str:
        """Address of a workflow in the Temporal Web UI, for a browser that is logged in (`cleanroom ui`): its timeline, or with ``run_id``
        the page that tells its story in words."""
        page = f"{self._ui_workflows()}/{quote(workflow_id, safe='')}"
        return f"{page}/{quote(run_id, safe='')}/user-metadata" if run_id else page

    def ui_list(self) -> str:
        """Address of the list of this collaboration's workflows in the Temporal Web UI, see :meth:`ui_link`."""
        query = urlencode({"query": f'CrCollab="{self.collaboration}"'}, quote_via=quote)
        return f"{self._ui_workflows()}?{query}"

    def _ui_workflows(self) -> str:
        return f"{self.settings.temporal.ui_url.rstrip('/')}/namespaces/{quote(self._namespace, safe='')}/workflows"


def now() -> dt.datetime:
    """The wall clock in UTC, whole seconds: what people sign."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def new_run_id() -> str:
    """A short run id that sorts by time: ``r-<date>-<random>``."""
    return f"r-{now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; failures of Temporal come out as errors of ours.

    Raises:
        CleanRoomError: whatever happened.
    """

    async def wrapped() -> T:
        try:
            return await work
        except Exception as error:
            if not _of_temporal(error):
                raise
            from cleanroom.temporal.failures import error_from_failure

            raise error_from_failure(error) from error

    return asyncio.run(wrapped())


def _of_temporal(error: Exception) -> bool:
    """Whether Temporal's client raised it. Who never imported that client never met its errors."""
    if "temporalio.exceptions" not in sys.modules:
        return False
    from temporalio.exceptions import TemporalError
    from temporalio.service import RPCError

    return isinstance(error, TemporalError | RPCError)


async def require_workflow(handle: WorkflowHandle[Any, Any], what: str, hint: str) -> WorkflowExecutionDescription:
    """What the server says of ``handle``, if its workflow exists.

    Raises:
        NotFound: ``WorkflowNotFound``, in the words of ``what``.
    """
    from temporalio.service import RPCError, RPCStatusCode

    try:
        return await handle.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and not error.message.startswith("Namespace "):
            raise NotFound("WorkflowNotFound", f"There is no {what}.", hint=hint) from error
        raise
