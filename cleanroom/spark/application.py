"""The SparkApplication (``sparkoperator.k8s.io/v1beta2``) of a run, built from the job, the pod profile and the pod policies.

It contains names, digests, the measured job configuration and a fixed Spark configuration. It contains no secret
and no text that a user chose. ``restartPolicy`` is ``Never`` because the workflow retries and counts runs. See
``docs/facts/spark-applications.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cleanroom.errors import InvalidInput
from cleanroom.identifiers import job_name
from cleanroom.spark.job import JobConfig
from cleanroom.spark.network import NETWORK_CONF
from cleanroom.spark.policy import LOCAL_DIR, POLICY_ANNOTATION, PodPolicies, measured_environment
from cleanroom.spark.profile import PodProfile, Role

GROUP = "sparkoperator.k8s.io"
VERSION = "v1beta2"
PLURAL = "sparkapplications"

RUN_LABEL = "cleanroom/run"
QUERY_LABEL = "cleanroom/query"
JOB_DIGEST_ANNOTATION = "cleanroom/job-digest"
POLICY_DIGEST_ANNOTATION = "cleanroom/policy-digest"
PROFILE_DIGEST_ANNOTATION = "cleanroom/profile-digest"
CONTRACT_ANNOTATION = "cleanroom/contract"

TIME_TO_LIVE_SECONDS = 24 * 3600
"""A safety net below the workflow's own cleanup. The operator counts it from the end of the application."""

BASE_SPARK_CONF: Mapping[str, str] = {
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    "spark.dynamicAllocation.enabled": "false",
    **NETWORK_CONF,
    "spark.task.maxFailures": "4",
    "spark.sql.session.timeZone": "UTC",
}
"""In addition to the locked SQL configuration: no UI and no event log, because both show rows to the cluster's
operator, and authenticated, encrypted traffic between driver and executors."""


def locked_configuration() -> dict[str, str]:
    """Return the locked SQL configuration that the query gate relies on in every session."""
    from cleanroom.sql import locked_spark_conf

    return dict(locked_spark_conf())


def spark_configuration(locked: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ``sparkConf``: :data:`BASE_SPARK_CONF`, overridden by the locked SQL configuration.

    Args:
        locked: Replaces :func:`locked_configuration`. It may contain ``spark.sql.*`` and the keys of the base only,
            because other keys can change the pods' service account, image or class path.

    Raises:
        InvalidInput: ``SparkConfigurationRefused``.
    """
    if locked is not None:
        for key in locked:
            if not key.startswith("spark.sql.") and key not in BASE_SPARK_CONF:
                raise InvalidInput(
                    "SparkConfigurationRefused", f"sparkConf: {key!r} is not on the allowlist.", hint="Only spark.sql.* may be set here."
                )
    result = {**BASE_SPARK_CONF, **(locked_configuration() if locked is None else locked)}
    return dict(sorted(result.items()))


def build_application(
    job: JobConfig, profile: PodProfile, policies: PodPolicies, *, locked_conf: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the custom resource as the Kubernetes API expects it. Deterministic.

    Args:
        job: The job to run.
        profile: The pod profile.
        policies: The pod policies of ``job`` and ``profile``.
        locked_conf: See :func:`spark_configuration`.

    Raises:
        InvalidInput: ``JobConfigTooLarge``, ``SparkConfigurationRefused``.
    """
    labels = {
        RUN_LABEL: job.run_id,
        QUERY_LABEL: job.query_id,
        "app.kubernetes.io/name": "cleanroom-sparkapp",
        "app.kubernetes.io/managed-by": "cleanroom",
    }
    resources = profile.resources
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SparkApplication",
        "metadata": _metadata(job, profile, policies, labels),
        "spec": {
            "type": "Python",
            "pythonVersion": "3",
            "mode": "cluster",
            "sparkVersion": profile.spark_version,
            "image": profile.image,
            "imagePullPolicy": "IfNotPresent",
            "mainApplicationFile": profile.main_application_file,
            "arguments": list(profile.arguments),
            "sparkConf": spark_configuration(locked_conf),
            "restartPolicy": {"type": "Never"},
            "timeToLiveSeconds": TIME_TO_LIVE_SECONDS,
            "volumes": [{"name": "spark-local-dir-1", "emptyDir": {}}],
            "driver": {
                "cores": resources.driver_cores,
                **_memory(resources.driver_memory, resources.driver_memory_overhead),
                "serviceAccount": profile.service_account,
                **_pod("driver", job, profile, policies, labels),
            },
            "executor": {
                "cores": resources.executor_cores,
                **_memory(resources.executor_memory, resources.executor_memory_overhead),
                "instances": resources.executor_instances,
                # Kept until the application is deleted, so that the reason of an executor's end can be read.
                "deleteOnTermination": False,
                **_pod("executor", job, profile, policies, labels),
            },
        },
    }


def _memory(heap: str, overhead: str | None) -> dict[str, str]:
    return {"memory": heap, **({"memoryOverhead": overhead} if overhead else {})}


def _metadata(job: JobConfig, profile: PodProfile, policies: PodPolicies, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": job_name(job.contract_id, job.query_id, job.run_id),
        "namespace": profile.namespace,
        "labels": dict(labels),
        "annotations": {
            JOB_DIGEST_ANNOTATION: job.digest(),
            POLICY_DIGEST_ANNOTATION: policies.digest(),
            PROFILE_DIGEST_ANNOTATION: profile.digest(),
            CONTRACT_ANNOTATION: job.contract_id,
        },
    }


def _pod(role: Role, job: JobConfig, profile: PodProfile, policies: PodPolicies, labels: Mapping[str, str]) -> dict[str, Any]:
    annotations = {POLICY_ANNOTATION: policies.of(role).rego_base64, JOB_DIGEST_ANNOTATION: job.digest()}
    result: dict[str, Any] = {
        "labels": dict(labels),
        "env": [
            *({"name": name, "value": value} for name, value in measured_environment(job).items()),
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "volumeMounts": [{"name": "spark-local-dir-1", "mountPath": LOCAL_DIR}],
        "securityContext": {"privileged": False, "allowPrivilegeEscalation": False},
        "terminationGracePeriodSeconds": 30,
    }
    if profile.sidecars:
        # Native sidecars start before the Spark container and do not keep the pod alive after it.
        result["initContainers"] = [
            {
                "name": sidecar.name,
                "image": sidecar.image,
                "command": list(sidecar.command),
                "env": [{"name": name, "value": value} for name, value in sorted(sidecar.environment.items())],
                "restartPolicy": "Always",
            }
            for sidecar in profile.sidecars
        ]
    if profile.virtual_nodes:
        annotations |= {
            "microsoft.containerinstance.virtualnode.injectdns": "false",
            "microsoft.containerinstance.virtualnode.injectkubeproxy": "false",
        }
        result["nodeSelector"] = {"virtualization": "virtualnode2"}
        result["tolerations"] = [{"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}]
    return {**result, "annotations": annotations}
