"""The trust boundaries: which workflows and activities each worker registers, and with which credentials.

``collaborator``  a collaborator's own credentials: Azure subscription, S3 secret, vote; queue ``collaborator.<party>``
``frontend``      the frontend's registered identity; the publishing workflows
``clean-room``    the attested Clean Room Application; the prepare, run, conclude and cleanup workflows
``spark-service`` the attested Spark service and its Kubernetes credentials
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from temporalio.worker import Interceptor

from activities.authorisations import AuthorisationVerifier
from activities.azure_ad import AzureAd
from activities.blob import Blob
from activities.clean_room import CleanRoomGovernance
from activities.clean_room_cleanup import CleanRoomCleanup
from activities.clean_room_context import CleanRoomContext, run_trust
from activities.clean_room_secrets import CleanRoomSecrets
from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from activities.key_vault import KeyVault
from activities.notifications import Notifications
from activities.query_watch import Watcher
from activities.run_origin import run_origin
from activities.s3 import S3
from activities.spark_service import SparkServiceActivities
from cleanroom.attestation import GuestAttestor
from cleanroom.clients.azure import FederatedCredentials, ManagedIdentities, RoleAssignments
from cleanroom.clients.azure_credentials import credential
from cleanroom.datasets.keystore import KeyStore
from cleanroom.errors import InvalidInput, PreconditionFailed
from cleanroom.governance import CleanRoomClient, GovernanceUserClient
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE, collaborator_queue
from cleanroom.publishing.user_documents import UserDocuments, governance_client
from cleanroom.runs.reader import UserReader
from cleanroom.settings import SET_UP, Boundary, Settings
from cleanroom.spark.service import SparkService
from cleanroom.temporal.freshness import GovernanceFreshness
from cleanroom.temporal.versions import Deployment
from cleanroom.trust import Bootstrap, attested_settings, drop_root_variables
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery
from workflows.watch_queries import WatchQueries

logger = logging.getLogger("cleanroom.worker")


@dataclass(frozen=True)
class BoundaryWorker:
    """What a worker process registers, and the clients that it closes."""

    name: str
    task_queue: str
    workflows: tuple[type, ...] = ()
    activities: tuple[Callable[..., Any], ...] = ()
    resources: tuple[AbstractAsyncContextManager[Any], ...] = field(default=())
    interceptors: tuple[Interceptor, ...] = ()
    deployment: Deployment | None = None
    """Deployment of Worker Versioning. A collaborator's worker has none: it runs activities only, and its owner upgrades it."""
    max_concurrent_activities: int = 32
    """Activities at the same time. A run occupies one slot of the clean room and one of the Spark service from its submission to its
    end, for the activities that watch it. They wait most of the time. If they filled all slots, no activity could end a run."""
    works: Callable[[], Awaitable[None]] | None = None
    """Tries the boundary's credentials: the worker is not ready before it returns."""
    heartbeat_seconds: float | None = None
    """Shortest interval of heartbeats; without it, the default of :mod:`cleanroom.temporal.workers`. They also deliver cancellations."""


WATCHING_SLOTS = 500
"""Slots of a boundary whose activities watch runs: for about 450 runs at the same time per worker."""
ATTESTED: tuple[Boundary, ...] = ("clean-room", "spark-service")
"""Boundaries that run in confidential containers and release secrets, or vouch for those that receive them."""


def boundary_worker(settings: Settings, bootstrap: Bootstrap | None = None) -> BoundaryWorker:
    """Create the worker of the boundary in ``settings``.

    Args:
        settings: The profile.
        bootstrap: The measured bootstrap file, for an attested boundary.

    Raises:
        PreconditionFailed: ``SettingMissing``, which names a setting that the boundary needs; ``BootstrapMissing``.
        InvalidInput: ``BootstrapNotUsed`` for a boundary that is not attested.
        Refused: See :func:`cleanroom.trust.attested_settings`.
    """
    if settings.boundary in ATTESTED:
        if bootstrap is None:
            raise PreconditionFailed(
                "BootstrapMissing",
                f"{settings.boundary}: an attested worker takes governance's address from a measured bootstrap file only.",
                hint="Start it with --bootstrap FILE --bootstrap-digest sha256:..., and measure these arguments in its container policy.",
                party="operator",
            )
        for name in drop_root_variables():
            logger.warning("environment: %s is ignored (%s)", name, settings.boundary)
        settings = attested_settings(settings, bootstrap)
        return (_clean_room if settings.boundary == "clean-room" else _spark_service)(settings, bootstrap)
    if bootstrap is not None:
        raise InvalidInput("BootstrapNotUsed", f"{settings.boundary}: only attested workers have a bootstrap file.")
    if not settings.collaboration:
        message = f"settings: collaboration is not set for profile {settings.profile!r}."
        raise PreconditionFailed("SettingMissing", message, hint=SET_UP)
    return (_collaborator if settings.boundary == "collaborator" else _frontend)(settings)


def _freshness(client: GovernanceUserClient) -> GovernanceFreshness:
    """Let the activities of a worker wait for what other workers have seen in governance."""
    return GovernanceFreshness(client.catch_up, lambda: str(client.position))


def _signs_in(client: GovernanceUserClient) -> Callable[[], Awaitable[None]]:
    """Return a function that signs in to Entra ID, and reads what governance shows to registered users only."""

    async def works() -> None:
        await client.list_identities()

    return works


def _collaborator(settings: Settings) -> BoundaryWorker:
    if settings.party is None:
        raise PreconditionFailed("SettingMissing", "settings: party is not set, and a collaborator's worker needs it.")
    own = credential(settings.credential, ca_file=settings.ca_file)
    client = governance_client(settings, own)
    authorisations, keys = (
        AuthorisationVerifier(settings, UserReader(client, settings.collaboration)),
        KeyStore(settings.keys_dir, settings.collaboration),
    )
    identities = ManagedIdentities(own, settings.azure, ca_file=settings.ca_file) if settings.azure.subscription_id else None
    documents = UserDocuments(client, settings.collaboration)
    governance = CollaboratorGovernance(settings, authorisations, documents, keys, identities)
    s3 = S3(settings, authorisations)
    activities: list[Callable[..., Any]] = [
        governance.set_secret,
        governance.propose_document,
        governance.accept_document,
        governance.create_document,
        governance.update_document,
        governance.confirm_withdrawal,
        governance.propose_query,
        governance.withdraw_proposal,
        governance.accept_query,
        governance.reject_query,
        Notifications(settings, documents).notify,
        s3.get_connection_secret,
        s3.locate_s3_store,
    ]
    if identities is not None:
        roles = RoleAssignments(own, settings.azure, ca_file=settings.ca_file)
        directory = AzureAd(authorisations, identities, FederatedCredentials(own, settings.azure, ca_file=settings.ca_file), client)
        blob = Blob(settings, authorisations, roles, identities)
        vault = KeyVault(settings, authorisations, roles, identities, own, client, keys)
        activities += [
            directory.create_managed_identity,
            directory.set_federation,
            blob.allow_access_blob,
            blob.locate_blob_store,
            vault.allow_access_key_vault,
            vault.set_key_with_skr,
        ]
    return BoundaryWorker(
        name=f"collaborator.{settings.party}",
        task_queue=collaborator_queue(settings.party),
        activities=tuple(activities),
        resources=(client,),
        interceptors=(_freshness(client),),
        works=_signs_in(client),
    )


def _frontend(settings: Settings) -> BoundaryWorker:
    client = governance_client(settings, credential(settings.credential, ca_file=settings.ca_file))
    documents = UserDocuments(client, settings.collaboration)
    frontend = Frontend(documents, UserReader(client, settings.collaboration), settings.collaboration)
    watcher = Watcher(documents, settings.collaboration)
    return BoundaryWorker(
        name="frontend",
        task_queue=FRONTEND_QUEUE,
        deployment="frontend",
        workflows=(PublishAzureDataset, PublishS3Dataset, PublishQuery, WatchQueries),
        activities=(
            frontend.get_clean_room_identity,
            frontend.get_clean_room_policy,
            frontend.generate_dataset_descriptor,
            frontend.generate_query_document,
            frontend.determine_dataset_owners,
            frontend.verify_decision,
            frontend.find_query_change,
            watcher.watch_queries,
            Notifications(settings, documents).notify,
        ),
        resources=(client,),
        interceptors=(_freshness(client),),
        works=_signs_in(client),
    )


def _clean_room(settings: Settings, bootstrap: Bootstrap) -> BoundaryWorker:
    user = governance_client(settings, credential(settings.credential, ca_file=settings.ca_file))
    attestor = GuestAttestor(settings.attestation.url, ca_file=settings.ca_file)
    client = CleanRoomClient(
        settings.governance.url, settings.collaboration, attestor, ca_file=settings.governance_roots, position=user.position
    )
    room = CleanRoomContext(settings, bootstrap, client, user, origin=run_origin)
    governance, secrets, cleanup = CleanRoomGovernance(room), CleanRoomSecrets(room), CleanRoomCleanup(room)
    return BoundaryWorker(
        name="clean-room",
        max_concurrent_activities=WATCHING_SLOTS,
        task_queue=CLEAN_ROOM_QUEUE,
        deployment="clean-room",
        workflows=(Prepare, RunQuery, ConcludeRun, Cleanup),
        activities=(
            governance.get_users,
            governance.fetch_query,
            governance.validate_access_and_approvals,
            governance.check_execution_consent,
            governance.build_job,
            governance.verify_spark,
            governance.verify_security_policy,
            governance.record_event,
            governance.collect_result,
            secrets.get_key_with_skr,
            secrets.get_secret,
            secrets.set_secret,
            secrets.configure_idp,
            secrets.issue_consent_receipt,
            secrets.watch_consent,
            secrets.revoke_grants,
            cleanup.find_held,
            cleanup.describe_runs,
        ),
        resources=(user, client),
        interceptors=(_freshness(user),),
        works=_signs_in(user),
        heartbeat_seconds=1,
    )


def _spark_service(settings: Settings, bootstrap: Bootstrap) -> BoundaryWorker:
    user = governance_client(settings, credential(settings.credential, ca_file=settings.ca_file))
    service = SparkService.from_settings(settings)
    trust = run_trust(settings, bootstrap, user.get_member_document)
    spark = SparkServiceActivities(settings, service, UserReader(user, settings.collaboration), trust)
    return BoundaryWorker(
        name="spark-service",
        max_concurrent_activities=WATCHING_SLOTS,
        task_queue=SPARK_SERVICE_QUEUE,
        deployment="clean-room",
        activities=(
            spark.get_attestation_report,
            spark.get_security_policy,
            spark.submit_job,
            spark.watch_job,
            spark.delete_job,
            spark.list_jobs,
            spark.delete_unpinned_job,
        ),
        resources=(user, service),
        interceptors=(_freshness(user),),
        works=_signs_in(user),
    )
