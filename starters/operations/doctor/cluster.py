"""Checks of the attested services: the guest's evidence, its roots, and the cluster that runs Spark."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from cleanroom.claims import HOST_DATA
from cleanroom.errors import NotFound, PreconditionFailed, Refused
from cleanroom.settings import Settings
from starters.operations.doctor.checks import Check, NotApplicable
from starters.operations.doctor.governance import GOVERNANCE, TRUST, trust_in_force
from starters.operations.session import Session

if TYPE_CHECKING:
    from cleanroom.spark.kubernetes import KubernetesClient
    from cleanroom.spark.profile import PodResources

EVIDENCE, CLUSTER = "evidence of this guest", "connection to Kubernetes"
OPERATOR_VERSION, OLDEST_OPERATOR = "version of the Spark operator", 2
"""The chart of that major version installs the webhook that applies the pods' templates (docs/kubernetes.md)."""
RIGHTS = "rights of the Spark operator and of drivers"


def cluster_checks(session: Session) -> Iterator[Check]:
    """Yield the checks of the profile of an attested service."""
    settings = session.settings

    async def evidence() -> str:
        return await _verify_evidence(session)

    async def version() -> str:
        return await asyncio.to_thread(_cluster_version, settings)

    async def operator() -> str:
        return await asyncio.to_thread(_list_applications, settings)

    async def operator_version() -> str:
        return await asyncio.to_thread(_require_operator_version, settings)

    async def sizes() -> str:
        return "; ".join(f"{name}: {resources}" for name, resources in _resources(settings).items())

    async def quota() -> str:
        return await asyncio.to_thread(_require_quota, settings)

    async def rights() -> str:
        return await asyncio.to_thread(_require_rights, settings)

    async def spark() -> str:
        return _compare_spark_version(settings, (await trust_in_force(session)).document.pods.image)

    if settings.boundary in ("clean-room", "spark-service"):
        yield Check("services", EVIDENCE, evidence, (GOVERNANCE, TRUST))
    if settings.boundary == "spark-service":
        yield Check("services", "sizes of runs", sizes)
        yield Check("services", CLUSTER, version)
        yield Check("services", "Spark operator", operator, (CLUSTER,))
        yield Check("services", OPERATOR_VERSION, operator_version, (CLUSTER,))
        yield Check("services", "quota of the namespace", quota, (CLUSTER,))
        yield Check("services", RIGHTS, rights, (CLUSTER,))
        yield Check("services", "Spark version", spark, (TRUST,))


async def _verify_evidence(session: Session) -> str:
    """Verify a report of this guest with the roots of the trust document, and look whether governance admits it."""
    from cleanroom.attestation import GuestAttestor, report_data_for, verify_evidence

    settings, trust = session.settings, (await trust_in_force(session)).document
    nonce = os.urandom(32)
    evidence = await GuestAttestor(settings.attestation.url, ca_file=settings.ca_file).attest(nonce)
    crls = [await asyncio.to_thread(path.read_bytes) for path in settings.attestation.crl_files]
    expected = trust.expectations(crls).model_copy(update={"report_data": report_data_for(nonce)})
    at = dt.datetime.now(dt.UTC)
    verdict = await asyncio.to_thread(verify_evidence, evidence, trust=trust.trust_store(), expectations=expected, at=at)
    host_data = verdict.require().host_data.hex()
    if settings.boundary == "clean-room":
        async with session.governance() as client:
            admitted = (await client.clean_room_policy(session.collaboration)).policy.get(HOST_DATA, [])
        hint = f"A member admits it: cleanroom collaboration create --host-data {host_data}"
    else:
        admitted = list(trust.spark_service_host_data)
        hint = "Members accept a trust document that names this host data (cleanroom collaboration trust --print)."
    if host_data not in admitted:
        raise Refused("GuestNotAdmitted", f"this guest has host data {host_data}, which is not admitted.", hint=hint, party="operator")
    return f"host data {host_data[:12]}, verified with the roots of {trust.id}"


def _connect(settings: Settings) -> closing[KubernetesClient]:
    from cleanroom.spark.kubernetes import KubernetesClient

    return closing(KubernetesClient.connect(settings.kubernetes))


def _cluster_version(settings: Settings) -> str:
    with _connect(settings) as client:
        return f"Kubernetes {client.version()}, namespace {settings.kubernetes.namespace}"


def _list_applications(settings: Settings) -> str:
    with _connect(settings) as client:
        return f"SparkApplications are served; {len(client.applications())} exist"


def _require_operator_version(settings: Settings) -> str:
    """Require an operator of the major version :data:`OLDEST_OPERATOR` or a later one."""
    from cleanroom.spark.kubernetes_api import connect
    from cleanroom.spark.preflight import operator_versions

    namespace = settings.kubernetes.operator_account.partition("/")[0]
    with closing(connect(settings.kubernetes)) as api:
        try:
            versions = operator_versions(api, namespace)
        except (NotFound, Refused) as error:
            raise NotApplicable(f"only an administrator's kubeconfig may list the deployments of namespace {namespace!r}") from error
    if not versions:
        raise NotApplicable(f"namespace {namespace!r} has no deployment of the operator; set kubernetes.operator_account if it has another")
    for version in versions:
        major = re.match(r"\d+", version)
        if major is not None and int(major[0]) < OLDEST_OPERATOR:
            raise PreconditionFailed(
                "SparkOperatorTooOld",
                f"namespace {namespace!r}: the Spark operator has version {version}; runs need {OLDEST_OPERATOR} or later.",
                hint="Upgrade the operator's chart.",
                party="operator",
            )
    return ", ".join(versions)


def _resources(settings: Settings) -> dict[str, PodResources]:
    """Return the resources of a run without a size, and of each size that a caller may choose.

    Raises:
        InvalidInput: ``PodProfileInvalid``.
    """
    from cleanroom.spark.profile import PodResources, offered_sizes

    spark = settings.spark
    return {"default": PodResources.deployed(spark)} | {size: PodResources.deployed(spark, size) for size in offered_sizes(spark)}


def _require_quota(settings: Settings) -> str:
    """Require that the namespace's quotas allow the pods of one run of each size."""
    try:
        with _connect(settings) as client:
            quotas = client.pod_quotas()
    except (NotFound, Refused) as error:
        raise NotApplicable(f"quotas cannot be listed ({error.code})") from error
    pods_of = {name: 1 + item.executor_instances for name, item in _resources(settings).items()}
    size = max(pods_of, key=pods_of.__getitem__)
    pods = pods_of[size]
    for name, left in quotas.items():
        if left < pods:
            raise PreconditionFailed(
                "QuotaTooSmall",
                f"quota {name!r} of namespace {settings.kubernetes.namespace!r} leaves room for {left} pods; "
                f"a run of size {size} needs {pods}.",
                hint="Raise the quota, or lower spark.executor_instances or spark.largest_size.",
                party="operator",
            )
    return f"room for a run of {pods} pods, of size {size}" if quotas else "no quota"


def _require_rights(settings: Settings) -> str:
    """Require that the operator's ``spark-submit`` and the drivers may do what a run needs."""
    from cleanroom.spark.kubernetes_api import connect
    from cleanroom.spark.preflight import DRIVER, NETWORK_POLICIES, SUBMISSION, missing_rights

    runs = settings.kubernetes.namespace
    accounts = {settings.kubernetes.operator_account: SUBMISSION, f"{runs}/{settings.kubernetes.service_account}": DRIVER}
    with closing(connect(settings.kubernetes)) as api:
        try:
            lacking = {account: missing_rights(api, account, runs, rights) for account, rights in accounts.items()}
            newest = not missing_rights(api, settings.kubernetes.operator_account, runs, [NETWORK_POLICIES])
        except (NotFound, Refused) as error:
            raise NotApplicable("only an administrator's kubeconfig may ask for the rights of other accounts") from error
    texts = [f"{account} may not {', '.join(str(right) for right in rights)}" for account, rights in lacking.items() if rights]
    if texts:
        raise PreconditionFailed(
            "RightsMissing",
            f"namespace {runs!r}: {'; '.join(texts)}.",
            hint="Grant these rights. If the account has another name, set kubernetes.operator_account or kubernetes.service_account.",
            party="operator",
        )
    return (
        "complete" if newest else "complete for spark-submit of Spark 4.0; that of Spark 4.3 also needs the right to create networkpolicies"
    )


def _compare_spark_version(settings: Settings, image: str) -> str:
    tag = image.partition("@")[0].rpartition(":")[2]
    wanted = settings.kubernetes.spark_version
    if tag[:1].isdigit() and "." in tag and not tag.startswith(wanted):
        raise Refused(
            "SparkVersionDiffers",
            f"kubernetes.spark_version is {wanted}, but the trust document's image has tag {tag!r}.",
            hint="Set kubernetes.spark_version to the Spark version of the image.",
            party="operator",
        )
    return wanted
