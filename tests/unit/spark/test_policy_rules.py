"""The rules of a pod policy, one by one: what is measured, what may vary and how far, and what differs between the roles."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.spark import rego
from cleanroom.spark.policy import PodContainer, PodPolicies, PodPolicy, admitted_environment, check_pod, measured_environment, pod_policies
from cleanroom.spark.profile import SidecarProfile
from tests.unit.spark_support import DIGEST, make_job, make_profile

JOB = make_job()
SIDECAR = SidecarProfile(
    name="skr",
    image=f"localhost/skr@sha256:{DIGEST}",
    layers=("1" * 64, "2" * 64),
    command=("/skr", "-v"),
    environment={"B": "2", "A": "1"},
)
PROFILE, WITH_SIDECAR = make_profile(), make_profile(sidecars=(SIDECAR,))
COMMON = {
    "CLEANROOM_TERMINATION_LOG": (["/dev/termination-log", "/a_b.c/d"], ["", "a", "/a b", "/a\n"]),
    "POD_NAME": (["a-1.b"], ["", "A", "a_b", "a/b"]),
    "POD_NAMESPACE": (["a-1"], ["", "A", "a.b"]),
    "POD_UID": (["0-9a-f"], ["", "g", "A"]),
    "HOSTNAME": (["A-1.b"], ["", "a_b", "a b"]),
    "TERM": (["xterm"], ["", "xterm-color", "vt100"]),
    "KUBERNETES_SERVICE_HOST": (["", "10.0.0.1", "any thing"], ["a\nb"]),
    "KUBERNETES_PORT_443_TCP": (["tcp://10.0.0.1:443"], ["a\n"]),
    "SPARK_USER": (["", "a_1-b"], ["A", "a b"]),
    "SPARK_APPLICATION_ID": (["spark-1_A.b"], ["", "a b", "a/b"]),
    "SPARK_LOCAL_DIRS": (["/a,/b_c.d-e"], ["", "a", "/a;b"]),
    "SPARK_CONF_DIR": (["/opt/spark/conf"], ["", "/tmp", "/opt/spark/conf/x"]),
}
ROLES: dict[str, dict[str, tuple[list[str], list[str]]]] = {
    "driver": COMMON | {"SPARK_DRIVER_BIND_ADDRESS": (["10.0.0.1", "fe80::1"], ["", "host", "10.0.0.1 x"])},
    "executor": COMMON
    | {
        "SPARK_DRIVER_URL": (["spark://CoarseGrainedScheduler@a-b.c:7078"], ["", "http://a", "spark://a b"]),
        "SPARK_EXECUTOR_CORES": (["12"], ["", "a", "1.5"]),
        "SPARK_EXECUTOR_MEMORY": (["512m", "1k", "2g", "3t"], ["", "m", "1p", "1", "1m;"]),
        "SPARK_EXECUTOR_ID": (["1", "EXECID_a"], ["", "a-b", "a b"]),
        "SPARK_EXECUTOR_POD_IP": (["10.0.0.1", "fe80::1"], ["", "host"]),
        "SPARK_EXECUTOR_POD_NAME": (["a-1.b"], ["", "A"]),
        "SPARK_RESOURCE_PROFILE_ID": (["0"], ["", "a"]),
        "SPARK_JAVA_OPT_0": (
            [
                "-Dspark.driver.port=7078",
                "-Dspark.blockManager.port=1",
                "-Dspark.driver.blockManager.port=1",
                "-Dspark.ui.port=4040",
                "-Djava.net.preferIPv6Addresses=true",
                "-Djava.net.preferIPv6Addresses=false",
                "-Djdk.reflect.useDirectMethodHandle=false",
                "-Dio.netty.tryReflectionSetAccessible=true",
                "-XX:+IgnoreUnrecognizedVMOptions",
                "--add-opens=java.base/java.lang=ALL-UNNAMED",
                "--add-modules=jdk.incubator.vector",
                "--add-exports=a/b=c",
                "--enable-native-access=ALL-UNNAMED",
            ],
            [
                "",
                "-Dspark.driver.host=evil",
                "-Dspark.driver.port=a",
                "-Dspark.driver.port=1 -javaagent:x",
                "-Djava.net.preferIPv6Addresses=maybe",
                "-Djdk.reflect.useDirectMethodHandle=true",
                "-XX:OnOutOfMemoryError=sh",
                "-javaagent:/tmp/a.jar",
                "--add-opens=a b",
                "--patch-module=a=/tmp",
            ],
        ),
    },
}


def container(role: Any, policies: PodPolicies, **environment: str) -> tuple[str, PodContainer]:
    item = PodContainer(
        command=PROFILE.command(role),
        environment={**measured_environment(JOB), **environment},
        layers=PROFILE.layers,
        working_dir=PROFILE.working_dir,
    )
    return policies.of(role).rego, item


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, rules in ROLES.items() for name in rules])
def test_unmeasured_variable_has_only_harmless_values(role: str, name: str) -> None:
    policies = pod_policies(JOB, PROFILE)
    kept, dropped = ROLES[role][name]
    for value in (*kept, *dropped):
        policy, item = container(role, policies, **{name: value})
        assert check_pod(policy, item) == []
        assert (name in admitted_environment(policy, item)) is (value in kept), value


@pytest.mark.parametrize("role", ROLES)
def test_no_other_variable_is_kept(role: str) -> None:
    """A name with something before or after it is another name."""
    policies = pod_policies(JOB, PROFILE)
    own = {name: values[0][0] for name, values in ROLES[role].items()} | {"CLEANROOM_ATTESTATION_URL": "http://localhost:8284"}
    other = set().union(*ROLES.values()) - set(own)
    foreign = {name: next(rules[name][0][0] for rules in ROLES.values() if name in rules) for name in other}
    changed = {f"{name}X" if "KUBERNETES" not in name else f"{name}x": value for name, value in own.items()}
    policy, item = container(role, policies, **own, **foreign, **changed, **{f"X{name}": value for name, value in own.items()})
    assert set(admitted_environment(policy, item)) == set(own) | set(measured_environment(JOB))


@pytest.mark.parametrize("role", ROLES)
def test_variables_of_image_and_job_are_exact(role: Any) -> None:
    policies = pod_policies(JOB, PROFILE)
    (rule, _pause) = rego.parse(policies.of(role).rego)
    exact = {each.pattern: each.required for each in rule.env_rules if each.strategy == "string"}
    image = {f"{name}={value}": False for name, value in PROFILE.image_environment.items()}
    assert exact == {f"JOB_CONFIG={JOB.encode()}": True} | image
    policy, item = container(role, policies, PATH="/tmp")
    assert "PATH" not in admitted_environment(policy, item)
    patterns = [each for each in rule.env_rules if each.strategy == "re2"]
    assert all(each.pattern.startswith("^") and each.pattern.endswith("$") and not each.required for each in patterns)
    assert [each.pattern for each in patterns] == sorted(each.pattern for each in patterns)


@pytest.mark.parametrize("role", ROLES)
def test_container_has_exactly_the_mounts_of_spark(role: Any) -> None:
    (rule, pause) = rego.parse(pod_policies(JOB, PROFILE).of(role).rego)
    empty = "sandbox:///tmp/atlas/emptydir/.+"
    found = [(mount.destination, mount.options, mount.source, mount.type) for mount in rule.mounts]
    assert found[:8] == [
        (destination, ("rbind", propagation, access), source, "bind")
        for destination, access, source in (
            ("/etc/resolv.conf", "rw", "sandbox:///tmp/atlas/resolvconf/.+"),
            ("/var/run/secrets/kubernetes.io/serviceaccount", "ro", empty),
            ("/opt/spark/conf", "ro", empty),
            ("/var/data/spark-local-dir-1", "rw", empty),
        )
        for propagation in ("rshared", "rprivate")
    ]
    # containerd 1.6 mounts these files into every container, privately.
    assert found[8:] == [
        (destination, ("rbind", "rprivate", "rw"), "sandbox:///tmp/atlas/node/.+", "bind")
        for destination in ("/etc/hosts", "/etc/hostname", "/dev/termination-log", "/dev/shm")
    ]
    assert (rule.name, rule.id, rule.command) == (f"spark-kubernetes-{role}", PROFILE.image, PROFILE.command(role))
    assert (rule.layers, rule.working_dir) == (PROFILE.layers, PROFILE.working_dir)
    assert (rule.allow_elevated, rule.allow_stdio_access, rule.no_new_privileges) == (False, True, True)
    assert (rule.exec_processes, rule.signals, rule.capabilities, rule.user) == ((), (), rego.Capabilities(), rego.UserRule())
    assert pause == rego.PAUSE


def test_sidecar_is_measured_next_to_the_spark_container() -> None:
    for role in ("driver", "executor"):
        spark, sidecar, pause = rego.parse(pod_policies(JOB, WITH_SIDECAR).of(role).rego)  # type: ignore[arg-type]
        assert (spark.name, pause) == (f"spark-kubernetes-{role}", rego.PAUSE)
        assert (sidecar.name, sidecar.id, sidecar.command, sidecar.layers) == ("skr", SIDECAR.image, ("/skr", "-v"), SIDECAR.layers)
        assert (sidecar.mounts, sidecar.working_dir, sidecar.allow_elevated) == ((), "/", False)
        assert [(rule.pattern, rule.required, rule.strategy) for rule in sidecar.env_rules] == [
            ("A=1", True, "string"),
            ("B=2", True, "string"),
            ("^HOSTNAME=[A-Za-z0-9.-]+$", False, "re2"),
            ("^PATH=[A-Za-z0-9._/:-]+$", False, "re2"),
        ]
        assert not any("CLEANROOM_ATTESTATION_URL" in rule.pattern for rule in spark.env_rules)


def test_policies_are_known_by_role_host_data_and_digest() -> None:
    policies = pod_policies(JOB, PROFILE)
    assert policies.of("driver") == policies.driver != policies.executor == policies.of("executor")
    assert policies.host_data() == (policies.driver.host_data, policies.executor.host_data)
    swapped = PodPolicies(driver=policies.executor, executor=policies.driver)
    same = PodPolicies(driver=policies.driver, executor=policies.driver)
    assert same.host_data() == (policies.driver.host_data,)
    assert len({each.digest() for each in (policies, swapped, same)}) == 3
    assert base64.b64decode(policies.driver.rego_base64).decode() == policies.driver.rego


def test_longest_policy_has_130000_characters() -> None:
    """``spark-submit`` gets it as one argument."""
    # A text without repetitions, which packing cannot shorten.
    text = base64.b64encode(b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(3_000))).decode()

    def longest(size: int, more: int = 0) -> PodPolicies:
        job = make_job(segments=[{"executionSequence": 1, "sql": text[:size], "sourceDigest": DIGEST}])
        return pod_policies(job, make_profile(f"registry.example/{'a' * (1 + more)}@sha256:{DIGEST}"))

    room = 130_000 // 4 * 3
    # The job's JSON is in base64 within the policy. The image's name gives the last bytes.
    size = 64_000 + (room - len(longest(64_000).executor.rego)) // 4 * 3 - 60
    more = room - len(longest(size).executor.rego)
    assert len(longest(size, more).executor.rego_base64) == 130_000
    with pytest.raises(CleanRoomError, match="executor policy of 130004; a pod accepts at most 130000") as caught:
        longest(size, more + 1)
    assert caught.value.code == "JobConfigTooLarge"


# ---------------------------------------------------------------------- the reasons of a refusal


def reasons(role: Any = "driver", policies: PodPolicies | None = None, **changes: Any) -> list[str]:
    policy, item = container(role, policies or pod_policies(JOB, PROFILE))
    return check_pod(policy, item.model_copy(update=changes))


def test_every_difference_has_its_reason() -> None:
    command = PROFILE.command("driver")
    measured = measured_environment(JOB)
    assert reasons() == []
    assert reasons(command=(*command, "x")) == [f"invalid command: {len(command) + 1} arguments, the policy has {len(command)}"]
    assert reasons(command=command[:-1]) == [f"invalid command: {len(command) - 1} arguments, the policy has {len(command)}"]
    assert reasons(command=("/bin/sh", *command[1:])) == [f"invalid command: argument 0 is '/bin/sh', the policy has {command[0]!r}"]
    assert reasons(environment={}) == ["missing required environment variable: JOB_CONFIG is missing"]
    assert reasons(environment={"JOB_CONFIG": "x"}) == [
        "missing required environment variable: JOB_CONFIG has another value than the policy measures"
    ]
    assert reasons(working_dir="/tmp") == [f"invalid working directory: '/tmp', the policy has {PROFILE.working_dir!r}"]
    assert reasons(privileged=True) == ["privileged escalation not allowed"]
    assert reasons(layers=("1" * 64,)) == ["no matching containers for overlay: no rule has the image's layers"]
    assert len(reasons(command=(), environment={}, working_dir="/", privileged=True)) == 4
    assert reasons(environment=measured | {"MORE": "x"}) == []


def test_candidate_with_the_fewest_differences_is_explained() -> None:
    """Two containers with the same layers, of which the second is nearer."""
    (rule, pause) = rego.parse(pod_policies(JOB, PROFILE).driver.rego)
    near = rule.model_copy(update={"working_dir": "/near"})
    far = rule.model_copy(update={"working_dir": "/far", "command": ("/far",)})
    text = rego.render([far, near, pause], minimum_svn=4)
    policies = PodPolicies(driver=PodPolicy.of(text), executor=PodPolicy.of(text))
    assert reasons(policies=policies) == [f"invalid working directory: {PROFILE.working_dir!r}, the policy has '/near'"]


def test_elevated_container_is_allowed_only_by_a_rule_that_says_so() -> None:
    (rule, pause) = rego.parse(pod_policies(JOB, PROFILE).driver.rego)
    text = rego.render([rule.model_copy(update={"allow_elevated": True}), pause], minimum_svn=4)
    policies = PodPolicies(driver=PodPolicy.of(text), executor=PodPolicy.of(text))
    assert reasons(policies=policies, privileged=True) == []


def test_variables_are_admitted_only_for_the_layers_and_command_of_their_container() -> None:
    policy, item = container("driver", pod_policies(JOB, PROFILE), HOSTNAME="a")
    assert "HOSTNAME" in admitted_environment(policy, item)
    for changes in ({"command": ("/bin/sh",)}, {"layers": ("1" * 64,)}):
        assert admitted_environment(policy, item.model_copy(update=changes)) == {}
    with pytest.raises(CleanRoomError, match="PodPolicyMalformed"):
        admitted_environment("package policy\n", item)
