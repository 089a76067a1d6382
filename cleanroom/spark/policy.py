"""Pod security policies: what hardware holds each pod of a run to, computed from the job and the pod profile alone.

Pure and reproducible byte for byte: the Spark service makes the policies, the clean room makes them again and compares before it
sets any secret, and the kubelet (on Azure the utility VM; on one machine its stand-in) holds the pod to them. The job configuration is
measured as an exact string, so every run has its own host data.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, model_validator

from cleanroom.errors import InvalidInput, Refused
from cleanroom.identifiers import HexDigest, canonical_json, sha256_hex
from cleanroom.spark import rego
from cleanroom.spark.job import JOB_CONFIG_VARIABLE, JobConfig
from cleanroom.spark.profile import PodProfile, Role
from cleanroom.spark.rego import ContainerRule, EnvRule, MountRule

POLICY_ANNOTATION = "microsoft.containerinstance.virtualnode.ccepolicy"
"""Pod annotation that carries the policy, base64 (AKS virtual nodes)."""

SPARK_CONTAINERS: Mapping[Role, str] = MappingProxyType({"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"})
"""Names that Spark on Kubernetes gives to its containers."""

LOCAL_DIR = "/var/data/spark-local-dir-1"
"""Where both roles' scratch volume is mounted; the framework compares destinations to the letter."""

MAX_POLICY = 130_000
"""Longest policy in base64 characters. The operator hands it to ``spark-submit`` as one argument, and Linux takes 131,071 bytes in one;
that leaves about 65,000 bytes for the job's own JSON."""

_COMMON_UNMEASURED = {
    "CLEANROOM_ATTESTATION_URL": r"https?://[A-Za-z0-9._:\[\]/-]+",
    "CLEANROOM_TERMINATION_LOG": r"/[A-Za-z0-9._/-]+",
    "POD_NAME": r"[a-z0-9.-]+",
    "POD_NAMESPACE": r"[a-z0-9-]+",
    "POD_UID": r"[0-9a-f-]+",
    "HOSTNAME": r"[A-Za-z0-9.-]+",
    "TERM": r"xterm",
    r"KUBERNETES_(SERVICE|PORT)[A-Z0-9_]*": r".*",
    "SPARK_USER": r"[a-z0-9_-]*",
    "SPARK_APPLICATION_ID": r"[A-Za-z0-9._-]+",
    "SPARK_LOCAL_DIRS": r"/[A-Za-z0-9._/,-]+",
    "SPARK_CONF_DIR": r"/opt/spark/conf",
}
_EXECUTOR_UNMEASURED = {
    "SPARK_DRIVER_URL": r"spark://[A-Za-z0-9.@:_-]+",
    "SPARK_EXECUTOR_CORES": r"[0-9]+",
    "SPARK_EXECUTOR_MEMORY": r"[0-9]+[kmgt]",
    "SPARK_EXECUTOR_ID": r"[A-Za-z0-9_]+",
    "SPARK_EXECUTOR_POD_IP": r"[0-9a-f.:]+",
    "SPARK_EXECUTOR_POD_NAME": r"[a-z0-9.-]+",
    "SPARK_RESOURCE_PROFILE_ID": r"[0-9]+",
    # JVM options that run a command (-XX:OnOutOfMemoryError, -javaagent) must not come in this way: only these forms.
    r"SPARK_JAVA_OPT_[0-9]+": (
        r"(-Dspark\.(driver|blockManager|driver\.blockManager|ui)\.port=[0-9]+|-Djava\.net\.preferIPv6Addresses=(true|false)"
        r"|-Djdk\.reflect\.useDirectMethodHandle=false|-Dio\.netty\.tryReflectionSetAccessible=true|-XX:\+IgnoreUnrecognizedVMOptions"
        r"|--(add-opens|add-modules|add-exports|enable-native-access)=[A-Za-z0-9._/=,-]+)"
    ),
}
UNMEASURED: Mapping[Role, Mapping[str, str]] = MappingProxyType(
    {
        "driver": MappingProxyType(_COMMON_UNMEASURED | {"SPARK_DRIVER_BIND_ADDRESS": r"[0-9a-f.:]+"}),
        "executor": MappingProxyType(_COMMON_UNMEASURED | _EXECUTOR_UNMEASURED),
    }
)
"""Variables whose values Kubernetes, Spark or the guest decide at pod start: name pattern to value pattern (RE2). Where the attestation
sidecar is and what the pod is called can refuse service but not disclose, since every report and every answer authenticates itself."""


class PodPolicy(BaseModel):
    """One role's policy. ``host_data`` is SHA-256 over the UTF-8 of ``rego``, lower-case hex: what the pod's report shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rego: str
    host_data: HexDigest

    @model_validator(mode="after")
    def _bound(self) -> PodPolicy:
        if sha256_hex(self.rego.encode("utf-8")) != self.host_data:
            raise ValueError("host_data is not the SHA-256 of rego")
        return self

    @property
    def rego_base64(self) -> str:
        """What the pod's annotation carries."""
        return base64.b64encode(self.rego.encode("utf-8")).decode("ascii")

    @staticmethod
    def of(text: str) -> PodPolicy:
        """The policy whose Rego is ``text``."""
        return PodPolicy(rego=text, host_data=sha256_hex(text.encode("utf-8")))


class PodPolicies(BaseModel):
    """Both roles' policies of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: PodPolicy
    executor: PodPolicy

    def host_data(self) -> tuple[str, ...]:
        """Driver's and executor's host data, in this order, without repetition."""
        return tuple(dict.fromkeys((self.driver.host_data, self.executor.host_data)))

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of both host data: one name for the pair."""
        return sha256_hex(canonical_json({"driver": self.driver.host_data, "executor": self.executor.host_data}))

    def of(self, role: Role) -> PodPolicy:
        """The policy of ``role``."""
        return self.driver if role == "driver" else self.executor


def measured_environment(job: JobConfig) -> dict[str, str]:
    """Variables that both roles must have with exactly these values."""
    return {JOB_CONFIG_VARIABLE: job.encode()}


def pod_policies(job: JobConfig, profile: PodProfile) -> PodPolicies:
    """The policies of a run's pods; the same job and profile give the same bytes anywhere.

    Raises:
        InvalidInput: ``JobConfigTooLarge``.
    """
    measured = measured_environment(job)
    return PodPolicies(driver=_policy("driver", measured, profile), executor=_policy("executor", measured, profile))


def _policy(role: Role, measured: Mapping[str, str], profile: PodProfile) -> PodPolicy:
    containers = [
        ContainerRule(
            name=SPARK_CONTAINERS[role],
            id=profile.image,
            command=profile.command(role),
            env_rules=(*_exact(measured, required=True), *_exact(profile.image_environment, required=False), *_open(UNMEASURED[role])),
            layers=profile.layers,
            mounts=(
                MountRule(destination="/etc/resolv.conf", options=("rbind", "rshared", "rw"), source="sandbox:///tmp/atlas/resolvconf/.+"),
                MountRule(
                    destination="/var/run/secrets/kubernetes.io/serviceaccount",
                    options=("rbind", "rshared", "ro"),
                    source="sandbox:///tmp/atlas/emptydir/.+",
                ),
                MountRule(destination="/opt/spark/conf", options=("rbind", "rshared", "ro"), source="sandbox:///tmp/atlas/emptydir/.+"),
                MountRule(destination=LOCAL_DIR, options=("rbind", "rshared", "rw"), source="sandbox:///tmp/atlas/emptydir/.+"),
            ),
            working_dir=profile.working_dir,
        )
    ]
    containers += [
        ContainerRule(
            name=sidecar.name,
            id=sidecar.image,
            command=sidecar.command,
            env_rules=(*_exact(sidecar.environment, required=True), *_open({"PATH": r"[A-Za-z0-9._/:-]+", "HOSTNAME": r"[A-Za-z0-9.-]+"})),
            layers=sidecar.layers,
        )
        for sidecar in profile.sidecars
    ]
    policy = PodPolicy.of(rego.render([*containers, rego.PAUSE], minimum_svn=profile.infrastructure_svn))
    if len(policy.rego_base64) > MAX_POLICY:
        raise InvalidInput(
            "JobConfigTooLarge",
            f"{JOB_CONFIG_VARIABLE}: {len(measured[JOB_CONFIG_VARIABLE])} characters make a {role} policy of {len(policy.rego_base64)}; "
            f"a pod takes at most {MAX_POLICY}.",
            hint="Shorten the SQL, or split the query.",
        )
    return policy


def _exact(values: Mapping[str, str], *, required: bool) -> list[EnvRule]:
    return [EnvRule(pattern=f"{name}={values[name]}", required=required, strategy="string") for name in sorted(values)]


def _open(patterns: Mapping[str, str]) -> list[EnvRule]:
    return [EnvRule(pattern=f"^{name}={patterns[name]}$", required=False, strategy="re2") for name in sorted(patterns)]


class PodContainer(BaseModel):
    """A container as it is about to start: its whole command line (entry point and arguments), its variables, its image's layers."""

    model_config = ConfigDict(frozen=True)

    command: tuple[str, ...]
    environment: dict[str, str] = {}
    layers: tuple[str, ...]
    working_dir: str = "/"
    privileged: bool = False


def check_pod(policy_rego: str, container: PodContainer) -> list[str]:
    """What keeps ``container`` from being started under the policy; empty when it may.

    As the framework decides (spec/execute.md B3): the layers select candidate rules, one of which must hold entirely. Variables that no
    rule allows are dropped rather than refused (:func:`admitted_environment`), so a changed measured variable shows as missing. Texts begin
    with the framework's own errors (``invalid command`` …).
    """
    try:
        rules = rego.parse(policy_rego)
    except Refused as error:
        return [f"invalid policy: {error.message}"]
    candidates = [rule for rule in rules if rule.layers == container.layers]
    if not candidates:
        return ["no matching containers for overlay: the image's layers are in no rule"]
    return min((_differences(rule, container) for rule in candidates), key=len)


def _differences(rule: ContainerRule, container: PodContainer) -> list[str]:
    found = []
    if rule.command != container.command:
        found.append(f"invalid command: {_first_difference(rule.command, container.command)}")
    pairs = [f"{name}={value}" for name, value in container.environment.items()]
    for wanted in rule.env_rules:
        if wanted.required and not any(wanted.matches(pair) for pair in pairs):
            name = wanted.pattern.partition("=")[0]
            state = "has another value than the policy measures" if name in container.environment else "is missing"
            found.append(f"missing required environment variable: {name} {state}")
    if rule.working_dir != container.working_dir:
        found.append(f"invalid working directory: {container.working_dir!r}, the policy has {rule.working_dir!r}")
    if container.privileged and not rule.allow_elevated:
        found.append("privileged escalation not allowed")
    return found


def _first_difference(wanted: Sequence[str], actual: Sequence[str]) -> str:
    for index, (left, right) in enumerate(zip(wanted, actual, strict=False)):
        if left != right:
            return f"argument {index} is {right!r}, the policy has {left!r}"
    return f"{len(actual)} arguments, the policy has {len(wanted)}"


def admitted_environment(policy_rego: str, container: PodContainer) -> dict[str, str]:
    """The variables that the container starts with: those that a rule for its layers and command allows; the rest is dropped.

    Raises:
        Refused: ``PodPolicyMalformed``.
    """
    rules = [rule for rule in rego.parse(policy_rego) if rule.layers == container.layers and rule.command == container.command]
    return {
        name: value
        for name, value in container.environment.items()
        if any(rule.matches(f"{name}={value}") for container_rule in rules for rule in container_rule.env_rules)
    }
