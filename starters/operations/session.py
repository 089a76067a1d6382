"""The session of one command: the settings of a profile, and the clients and signatures that follow from them."""

from __future__ import annotations

import datetime as dt
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from cleanroom.config_file import read_profile
from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed
from starters.terminal.output import USER_NAMES

# Imported on use: Temporal, governance with attestation, and the Azure SDK together take a second, and no command needs all of them.
if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle

    from cleanroom.clients.azure_credentials import Credential
    from cleanroom.governance import GovernanceUserClient, LedgerPosition
    from cleanroom.publishing.user_documents import UserDocuments
    from cleanroom.settings import Settings
    from cleanroom.statements import SigningKey

T = TypeVar("T")
Needs = Literal["settings", "collaboration", "collaborator"]
"""What a command needs of the settings: nothing in particular, a collaboration, or a collaborator who acts in it."""
AUTHORISATION_LIFETIME = dt.timedelta(days=30)


class Session:
    """What one command needs to act as the collaborator of a profile."""

    def __init__(self, settings: Settings, *, plaintext: bool = False) -> None:
        self.settings = settings
        self._plaintext = plaintext
        self._credential: Credential | None = None
        self._namespace = "default"
        self._position: LedgerPosition | None = None
        self._expected = ""

    @staticmethod
    def load(profile: str | None, config: str | None, *, plaintext: bool | None = None, needs: Needs = "collaboration") -> Session:
        """Load the settings of ``profile``, and check what the command needs of them, before it loads a client.

        Args:
            profile: Name of the profile.
            config: Path of the settings file.
            plaintext: Of a command that sends payloads to Temporal: whether they may be unencrypted; see :meth:`require_encryption`.
            needs: What has to be set.

        Raises:
            NotFound: ``ConfigNotFound``, ``ProfileNotFound``.
            InvalidInput: ``ConfigMalformed``, ``ConfigInvalid``, ``ProfileIsNoPerson``.
            PreconditionFailed: ``SettingMissing``, ``PartyUnknown``, ``PlaintextRefused``.
        """
        found = read_profile(profile, path=Path(config) if config else None)
        # The file is read first, because the fields of settings take longer to import than all that a missing file needs.
        from cleanroom.settings import validated

        session = Session(validated(found), plaintext=bool(plaintext))
        USER_NAMES.update(session.settings.user_names)
        if needs != "settings":
            session.collaboration  # noqa: B018
        if plaintext is not None:
            session.require_encryption()
        if needs == "collaborator":
            session.user_id  # noqa: B018
        return session

    @property
    def collaboration(self) -> str:
        """ID of the collaboration.

        Raises:
            PreconditionFailed: ``SettingMissing``.
        """
        if not self.settings.collaboration:
            from cleanroom.settings import SET_UP

            message = f"settings: collaboration is not set for profile {self.settings.profile!r}."
            raise PreconditionFailed("SettingMissing", message, hint=SET_UP)
        return self.settings.collaboration

    @property
    def party(self) -> str:
        """Name of the collaborator.

        Raises:
            InvalidInput: ``ProfileIsNoPerson``.
        """
        if self.settings.party is None:
            known = ", ".join(sorted(self.settings.parties)) or "none"
            raise InvalidInput(
                "ProfileIsNoPerson",
                f"profile {self.settings.profile!r} does not belong to a collaborator.",
                hint=f"Choose a collaborator's profile with --profile. Known: {known}.",
            )
        return self.settings.party

    @property
    def user_id(self) -> str:
        """User ID of the collaborator in governance.

        Raises:
            PreconditionFailed: ``PartyUnknown``.
        """
        party = self.party
        try:
            return self.settings.parties[party]
        except KeyError:
            raise PreconditionFailed(
                "PartyUnknown",
                f"settings: [default.parties] has no user ID for {party!r}.",
                hint="Add it to [default.parties] in cleanroom.toml. `cleanroom members` lists the user IDs.",
            ) from None

    def party_of(self, user_id: str) -> str:
        """Return the name of the collaborator with this user ID, or the user ID of an unknown user."""
        return next((name for name, known in self.settings.parties.items() if known == user_id), user_id)

    def key(self) -> SigningKey:
        """Load the collaborator's signing key, or create it on first use."""
        from cleanroom.statements import load_or_create_signing_key

        return load_or_create_signing_key(self.settings.keys_dir)

    def credential(self) -> Credential:
        """Return the Entra ID credential of the profile."""
        if self._credential is None:
            from cleanroom.clients.azure_credentials import credential

            self._credential = credential(self.settings.credential, ca_file=self.settings.ca_file)
        return self._credential

    async def claims(self) -> Mapping[str, Any]:
        """Return the claims of the credential's token for governance, which verifies them."""
        from cleanroom.bulkheads import bulkhead
        from cleanroom.jose.tokens import unverified_claims

        return unverified_claims((await bulkhead("entra").run(self.credential().get_token, self.settings.governance.scope)).token)

    def governance(self) -> GovernanceUserClient:
        """Create a governance client that acts as this user; use it as an asynchronous context manager.

        Raises:
            PreconditionFailed: ``SettingMissing``.
            InvalidInput: ``ProfileIsNoPerson`` when no profile was chosen although the settings define collaborators.
        """
        from cleanroom.publishing.user_documents import governance_client, require_url

        require_url(self.settings)
        if self.settings.profile == "default" and self.settings.parties and self.settings.credential.kind == "default":
            self.party  # noqa: B018 - raises an error that lists the collaborators
        client = governance_client(self.settings, self.credential(), position=self._position)
        if self._position is None:
            client.position.expected = self._expected
        self._position = client.position
        return client

    def expect(self, seen: str) -> None:
        """Let the next read of governance wait for a transaction that a workflow has seen. That can delay the read, and not change it."""
        from cleanroom.identifiers import latest_transaction

        if self._position is None:
            self._expected = latest_transaction(self._expected, seen)
        else:
            self._position.expected = latest_transaction(self._position.expected, seen)

    @property
    def seen(self) -> str:
        """The latest transaction that this session has seen in governance, or the empty string. Messages to workers carry it."""
        return str(self._position) if self._position is not None else ""

    def documents(self, client: GovernanceUserClient) -> UserDocuments:
        """Return the collaboration's user documents, accessed through ``client``."""
        from cleanroom.publishing.user_documents import UserDocuments

        return UserDocuments(client, self.collaboration)

    def authorise(self, action: str, subject: str, digest: str, *, version: str = "", proposal_id: str = "") -> str:
        """Sign an authorisation for the collaborator's own worker; return the JWS. See :class:`cleanroom.statements.Authorisation`."""
        from cleanroom.statements import Authorisation, sign

        authorisation = Authorisation(
            collaboration=self.collaboration,
            signer=self.user_id,
            expires=now() + AUTHORISATION_LIFETIME,
            action=action,
            subject=subject,
            digest=digest,
            version=version,
            proposal_id=proposal_id,
        )
        return sign(authorisation, self.key())

    def require_encryption(self) -> None:
        """Check that SQL, statements and decisions do not reach Temporal unencrypted.

        Every operation that sends such a payload calls this first.

        Raises:
            PreconditionFailed: ``PlaintextRefused`` without a keyring, unless the command allows plain text. ``SettingMissing``
                without a collaboration, because then nothing is set up yet.
        """
        self.collaboration  # noqa: B018
        if self.settings.temporal.keyring_file is None and not self._plaintext:
            raise PreconditionFailed(
                "PlaintextRefused",
                f"profile {self.settings.profile!r} has no keyring, so the operator of Temporal could read what this command sends.",
                hint="Set temporal.keyring_file in cleanroom.toml, or pass --plaintext.",
            )

    async def temporal(self, *, scope: Literal["workflow", "schedule"] = "workflow") -> Client:
        """Connect to Temporal with the settings of this profile.

        Args:
            scope: ``schedule`` for a client that creates schedules.

        Raises:
            Unavailable: ``TemporalUnavailable``.
        """
        from cleanroom.temporal.client import connect
        from cleanroom.temporal.telemetry import command_runtime

        identity, runtime = f"cleanroom-cli/{self.settings.profile}", command_runtime()
        client = await connect(self.settings.temporal, identity=identity, scope=scope, runtime=runtime)
        self._namespace = client.namespace
        return client

    def ui_link(self, workflow_id: str, run_id: str | None = None) -> str:
        """Return the URL of a workflow in the Temporal Web UI.

        The browser must be logged in (`cleanroom ui`).

        Args:
            workflow_id: Workflow ID.
            run_id: Temporal run ID. With it, the link opens the page that describes the workflow in words, otherwise the timeline.
        """
        page = f"{self._ui_workflows()}/{quote(workflow_id, safe='')}"
        return f"{page}/{quote(run_id, safe='')}/user-metadata" if run_id else page

    def ui_list(self) -> str:
        """Return the URL of the list of this collaboration's workflows in the Temporal Web UI; see :meth:`ui_link`."""
        query = urlencode({"query": f'CrCollab="{self.collaboration}"'}, quote_via=quote)
        return f"{self._ui_workflows()}?{query}"

    def _ui_workflows(self) -> str:
        return f"{self.settings.temporal.ui_url.rstrip('/')}/namespaces/{quote(self._namespace, safe='')}/workflows"


class FoundWorkflow(NamedTuple, Generic[T]):
    """A workflow that exists, with the description that the server gave when it was found."""

    client: Client
    handle: WorkflowHandle[Any, T]
    described: WorkflowExecutionDescription

    @property
    def ended(self) -> bool:
        """Whether the workflow is closed."""
        from temporalio.client import WorkflowExecutionStatus

        return self.described.status not in (None, WorkflowExecutionStatus.RUNNING)


async def find_workflow(
    session: Session, kind: str, name: str, workflow_id: Callable[[str, str], str], result_type: type[T]
) -> FoundWorkflow[T]:
    """Find a workflow of the collaboration on the server; see :func:`seek_workflow`.

    Args:
        session: Session of the command.
        kind: ``query`` or ``run``, for the error message.
        name: Name of the query, or ID of the run.
        workflow_id: Function of collaboration and name that returns the workflow ID.
        result_type: Type of the workflow's result.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    found = await seek_workflow(session, name, workflow_id, result_type)
    if found is None:
        known = {"query": f"cleanroom query adopt {name}", "run": f"cleanroom run show {name} --from-ledger"}
        hint = f"List what exists with `cleanroom {kind} list`."
        if kind in known:
            hint += f" If Temporal has lost it: `{known[kind]}`."
        raise NotFound("WorkflowNotFound", f"{kind} {name!r} does not exist.", hint=hint)
    return found


async def seek_workflow(
    session: Session, name: str, workflow_id: Callable[[str, str], str], result_type: type[T]
) -> FoundWorkflow[T] | None:
    """Return a workflow of the collaboration; None if the server has none: it deletes workflows that ended long ago."""
    from temporalio.service import RPCError, RPCStatusCode

    client = await session.temporal()
    handle: WorkflowHandle[Any, T] = client.get_workflow_handle(workflow_id(session.collaboration, name), result_type=result_type)
    try:
        return FoundWorkflow(client, handle, await handle.describe())
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and not error.message.startswith("Namespace "):
            return None
        raise


def differences(values: Mapping[str, tuple[Any, Any]]) -> str:
    """Name the members whose two values differ, with both values; empty if none does.

    Args:
        values: By name: the value of what exists, and the value that was given.
    """
    return ", ".join(f"{name} ({_shown(existing)}, not {_shown(given)})" for name, (existing, given) in values.items() if existing != given)


def _shown(value: Any) -> str:
    if hasattr(value, "model_dump_json"):
        value = value.model_dump_json(exclude_none=True)
    return value if isinstance(value, str) else str(value)


def now() -> dt.datetime:
    """Return the current UTC time in whole seconds, as signed statements contain it."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def new_run_id() -> str:
    """Create a short run ID that sorts by time: ``r-<date>-<time>-<random>``."""
    return f"r-{now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end with :func:`with_mapped_errors`.

    Raises:
        CleanRoomError: Any error of the operation.
    """
    import asyncio

    return asyncio.run(with_mapped_errors(work))


async def with_mapped_errors(work: Awaitable[T]) -> T:
    """Await an operation; errors of the Temporal client become errors of this project.

    Raises:
        CleanRoomError: Any error of the operation.
    """
    try:
        return await work
    except Exception as error:
        if not _is_temporal_error(error):
            raise
        from cleanroom.temporal.failures import error_from_failure

        raise error_from_failure(error) from error


def _is_temporal_error(error: Exception) -> bool:
    # An error of the client implies that the client was imported; the check keeps this function from importing it.
    if "temporalio.exceptions" not in sys.modules:
        return False
    from temporalio.exceptions import TemporalError
    from temporalio.service import RPCError

    return isinstance(error, TemporalError | RPCError)
