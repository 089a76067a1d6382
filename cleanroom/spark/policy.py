"""Pod policies, which the hardware measures and the utility VM enforces, computed from the job and the pod profile alone.

The computation is pure and reproducible byte for byte. The Spark service computes the policies. The clean room
computes them again and compares before it sets a secret. The utility VM (on one machine, the kubelet's stand-in)
enforces them. The job configuration is measured as an exact string, so every run has its own host data.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, model_validator

from cleanroom.errors import InvalidInput, Refused
from cleanroom.identifiers import HexDigest, canonical_json, sha256_hex
from cleanroom.models import FrozenModel
from cleanroom.spark import rego
from cleanroom.spark.job import JOB_CONFIG_VARIABLE, JobConfig
from cleanroom.spark.profile import PodProfile, Role
from cleanroom.spark.rego import ContainerRule, EnvRule, MountRule

POLICY_ANNOTATION = "microsoft.containerinstance.virtualnode.ccepolicy"
"""Pod annotation that holds the policy in base64 (AKS virtual nodes)."""

SPARK_CONTAINERS: Mapping[Role, str] = MappingProxyType({"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"})
"""Container names that Spark on Kubernetes uses."""

LOCAL_DIR = "/var/data/spark-local-dir-1"
"""Mount path of the scratch volume of both roles. The framework compares mount destinations exactly."""

_SPARK_MOUNTS = (
    ("/etc/resolv.conf", "rw", "resolvconf"),
    ("/var/run/secrets/kubernetes.io/serviceaccount", "ro", "emptydir"),
    ("/opt/spark/conf", "ro", "emptydir"),
    (LOCAL_DIR, "rw", "emptydir"),
)
"""Destination, access and kind of source of the mounts that every Spark container has."""

NODE_MOUNTS = ("/etc/hosts", "/etc/hostname", "/dev/termination-log", "/dev/shm")  # noqa: S108 - paths in a container
"""Files that containerd and the kubelet mount into every container."""

MAX_POLICY = 130_000
"""Maximum length of a policy in base64 characters. The operator passes it to ``spark-submit`` as one argument, and
Linux allows 131,071 bytes per argument (``MAX_ARG_STRLEN``). About 65,000 bytes remain for the job's JSON."""

# Variables that Kubernetes, Spark or the guest set when a pod starts: name pattern to value pattern (RE2).
# A false pod name can deny service, but cannot disclose a secret.
_COMMON_UNMEASURED = {
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
_ROLE_UNMEASURED: Mapping[Role, dict[str, str]] = {
    "driver": {"SPARK_DRIVER_BIND_ADDRESS": r"[0-9a-f.:]+"},
    "executor": {
        "SPARK_DRIVER_URL": r"spark://[A-Za-z0-9.@:_-]+",
        "SPARK_EXECUTOR_CORES": r"[0-9]+",
        "SPARK_EXECUTOR_MEMORY": r"[0-9]+[kmgt]",
        "SPARK_EXECUTOR_ID": r"[A-Za-z0-9_]+",
        "SPARK_EXECUTOR_POD_IP": r"[0-9a-f.:]+",
        "SPARK_EXECUTOR_POD_NAME": r"[a-z0-9.-]+",
        "SPARK_RESOURCE_PROFILE_ID": r"[0-9]+",
        # Only these forms, because other JVM options can run code (-XX:OnOutOfMemoryError, -javaagent).
        r"SPARK_JAVA_OPT_[0-9]+": (
            r"(-Dspark\.(driver|blockManager|driver\.blockManager|ui)\.port=[0-9]+|-Djava\.net\.preferIPv6Addresses=(true|false)"
            r"|-Djdk\.reflect\.useDirectMethodHandle=false|-Dio\.netty\.tryReflectionSetAccessible=true|-XX:\+IgnoreUnrecognizedVMOptions"
            r"|--(add-opens|add-modules|add-exports|enable-native-access)=[A-Za-z0-9._/=,-]+)"
        ),
    },
}
_LOCAL_ATTESTATION = {"CLEANROOM_ATTESTATION_URL": r"https?://(localhost|127\.0\.0\.1):[0-9]+(/[A-Za-z0-9._-]+)*"}
"""Only for a profile without sidecars, which trust documents for development alone may have: the hardware stand-in of this machine.
With a sidecar the variable is dropped, and pods use the measured sidecar's address, which is a constant of the program."""


class PodPolicy(FrozenModel):
    """One role's policy. ``host_data`` is the SHA-256 of the UTF-8 bytes of ``rego`` in lower-case hex, as in the pod's report."""

    rego: str
    host_data: HexDigest

    @model_validator(mode="after")
    def _bound(self) -> PodPolicy:
        if sha256_hex(self.rego.encode("utf-8")) != self.host_data:
            raise ValueError("host_data is not the SHA-256 of rego")
        return self

    @property
    def rego_base64(self) -> str:
        """The value of the pod's annotation."""
        return base64.b64encode(self.rego.encode("utf-8")).decode("ascii")

    @staticmethod
    def of(text: str) -> PodPolicy:
        """Return the policy with the Rego ``text``."""
        return PodPolicy(rego=text, host_data=sha256_hex(text.encode("utf-8")))


class PodPolicies(FrozenModel):
    """The policies of both roles of one run."""

    driver: PodPolicy
    executor: PodPolicy

    def host_data(self) -> tuple[str, ...]:
        """Return the host data of driver and executor, in this order, without duplicates."""
        return tuple(dict.fromkeys((self.driver.host_data, self.executor.host_data)))

    def digest(self) -> str:
        """Return the SHA-256 over the canonical JSON of both host data, which identifies the pair."""
        return sha256_hex(canonical_json({"driver": self.driver.host_data, "executor": self.executor.host_data}))

    def of(self, role: Role) -> PodPolicy:
        """Return the policy of ``role``."""
        return self.driver if role == "driver" else self.executor


def measured_environment(job: JobConfig) -> dict[str, str]:
    """Return the environment variables that both roles must have with exactly these values."""
    return {JOB_CONFIG_VARIABLE: job.encode()}


def pod_policies(job: JobConfig, profile: PodProfile) -> PodPolicies:
    """Return the policies of a run's pods. The same job and profile yield the same bytes everywhere.

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
            env_rules=(
                *_exact_rules(measured, required=True),
                *_exact_rules(profile.image_environment, required=False),
                *_pattern_rules(_COMMON_UNMEASURED | _ROLE_UNMEASURED[role] | ({} if profile.sidecars else _LOCAL_ATTESTATION)),
            ),
            layers=profile.layers,
            mounts=_mount_rules(),
            working_dir=profile.working_dir,
        )
    ]
    containers += [
        ContainerRule(
            name=sidecar.name,
            id=sidecar.image,
            command=sidecar.command,
            env_rules=(
                *_exact_rules(sidecar.environment, required=True),
                *_pattern_rules({"PATH": r"[A-Za-z0-9._/:-]+", "HOSTNAME": r"[A-Za-z0-9.-]+"}),
            ),
            layers=sidecar.layers,
        )
        for sidecar in profile.sidecars
    ]
    policy = PodPolicy.of(rego.render([*containers, rego.PAUSE], minimum_svn=profile.infrastructure_svn))
    if len(policy.rego_base64) > MAX_POLICY:
        raise InvalidInput(
            "JobConfigTooLarge",
            f"{JOB_CONFIG_VARIABLE}: {len(measured[JOB_CONFIG_VARIABLE])} characters make a {role} policy of {len(policy.rego_base64)}; "
            f"a pod accepts at most {MAX_POLICY}.",
            hint="Shorten the SQL, or split the query.",
        )
    return policy


def _mount_rules() -> tuple[MountRule, ...]:
    """Return the mounts of a Spark container, all of them inside of the utility VM.

    Container groups of Azure share mounts with their host namespace (``rshared``); containerd keeps them private. A node
    with containerd also mounts the files of :data:`NODE_MOUNTS` into each container.
    """
    rules = [
        MountRule(destination=destination, options=("rbind", propagation, access), source=f"sandbox:///tmp/atlas/{kind}/.+")
        for destination, access, kind in _SPARK_MOUNTS
        for propagation in ("rshared", "rprivate")
    ]
    return (
        *rules,
        *(MountRule(destination=path, options=("rbind", "rprivate", "rw"), source="sandbox:///tmp/atlas/node/.+") for path in NODE_MOUNTS),
    )


def _exact_rules(values: Mapping[str, str], *, required: bool) -> list[EnvRule]:
    return [EnvRule(pattern=f"{name}={values[name]}", required=required, strategy="string") for name in sorted(values)]


def _pattern_rules(patterns: Mapping[str, str]) -> list[EnvRule]:
    return [EnvRule(pattern=f"^{name}={patterns[name]}$", required=False, strategy="re2") for name in sorted(patterns)]


class PodMount(FrozenModel):
    """A mount of a container, with its source as the utility VM sees it."""

    destination: str
    source: str
    options: tuple[str, ...]
    type: str = "bind"


class PodContainer(BaseModel):
    """A container before its start: its whole command line (entry point and arguments), its variables, layers and bind mounts."""

    model_config = ConfigDict(frozen=True)

    command: tuple[str, ...]
    environment: dict[str, str] = {}
    layers: tuple[str, ...]
    working_dir: str = "/"
    privileged: bool = False
    mounts: tuple[PodMount, ...] = ()


def check_pod(policy_rego: str, container: PodContainer) -> list[str]:
    """Return the reasons why the policy denies ``container``, or an empty list if it allows the container.

    As in the framework, the layers select candidate rules, and one candidate must match completely. The framework
    drops variables that no rule allows (:func:`admitted_environment`), so a changed measured variable appears as
    missing. The reasons begin with the framework's own error texts (``invalid command`` ...).
    """
    try:
        rules = rego.parse(policy_rego)
    except Refused as error:
        return [f"invalid policy: {error.message}"]
    candidates = [rule for rule in rules if rule.layers == container.layers]
    if not candidates:
        return ["no matching containers for overlay: no rule has the image's layers"]
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
    for mount in container.mounts:
        if not any(_allows(allowed, mount) for allowed in rule.mounts):
            found.append(f"invalid mount list: no rule for {mount.destination} from {mount.source} ({', '.join(mount.options)})")
    if container.privileged and not rule.allow_elevated:
        found.append("privileged escalation not allowed")
    return found


def _allows(rule: MountRule, mount: PodMount) -> bool:
    return (
        (rule.destination, rule.type) == (mount.destination, mount.type)
        and set(rule.options) == set(mount.options)
        and re.search(rule.source, mount.source) is not None
    )


def _first_difference(wanted: Sequence[str], actual: Sequence[str]) -> str:
    for index, (left, right) in enumerate(zip(wanted, actual, strict=False)):
        if left != right:
            return f"argument {index} is {right!r}, the policy has {left!r}"
    return f"{len(actual)} arguments, the policy has {len(wanted)}"


def admitted_environment(policy_rego: str, container: PodContainer) -> dict[str, str]:
    """Return the variables that a rule for the container's layers and command allows. The framework drops the others.

    Raises:
        Refused: ``PodPolicyMalformed``.
    """
    rules = [rule for rule in rego.parse(policy_rego) if rule.layers == container.layers and rule.command == container.command]
    return {
        name: value
        for name, value in container.environment.items()
        if any(rule.matches(f"{name}={value}") for container_rule in rules for rule in container_rule.env_rules)
    }
