"""Lists, promotes, deletes and moves versions of the workers, for one deployment or for both."""

from __future__ import annotations

from typing import Any

from cleanroom.errors import InvalidInput, NotFound
from cleanroom.temporal import versions
from cleanroom.temporal.build import build_id
from cleanroom.temporal.versions import DEPLOYMENTS, Deployment
from starters.operations.session import Session


async def list_all(session: Session) -> list[dict[str, Any]]:
    """Return one row per version of each deployment."""
    client, own = await session.temporal(), build_id()
    return [
        {
            "deployment": item.deployment,
            "build": item.build,
            "state": item.state,
            "percent": item.percent,
            "pinned": item.open_workflows,
            "this_code": item.build == own,
            "created": f"{item.created:%Y-%m-%dT%H:%M:%SZ}",
        }
        for name in DEPLOYMENTS
        for item in await versions.list_versions(client, name)
    ]


async def promote(session: Session, build: str | None, deployment: str | None, percent: float) -> list[dict[str, Any]]:
    """Promote a version, by default the one of this code, and return the rows of :func:`list_all`."""
    client = await session.temporal()
    for name in _chosen(deployment):
        await versions.promote(client, name, build or build_id(), percent=percent)
    return await list_all(session)


async def delete(session: Session, build: str, deployment: str | None) -> list[dict[str, Any]]:
    """Delete a version where it exists, and return the rows of :func:`list_all`.

    Raises:
        NotFound: ``VersionUnknown`` when no chosen deployment has this version.
        Conflict: ``VersionInUse``.
    """
    client, unknown = await session.temporal(), []
    chosen = _chosen(deployment)
    for name in chosen:
        try:
            await versions.delete_version(client, name, build)
        except NotFound as error:
            unknown.append(error)
    if len(unknown) == len(chosen):
        raise unknown[0]
    return await list_all(session)


async def move(session: Session, build: str, to: str, deployment: str | None) -> list[str]:
    """Move the open pinned workflows of a version, and return their IDs."""
    client = await session.temporal()
    return [workflow_id for name in _chosen(deployment) for workflow_id in await versions.move_pinned(client, name, build, to)]


def _chosen(deployment: str | None) -> tuple[Deployment, ...]:
    """Return the deployments that a command changes.

    Raises:
        InvalidInput: ``DeploymentUnknown``.
    """
    chosen = tuple(name for name in DEPLOYMENTS if deployment in (None, name))
    if not chosen:
        raise InvalidInput("DeploymentUnknown", f"--deployment: {deployment!r} is not one of {', '.join(DEPLOYMENTS)}.")
    return chosen
