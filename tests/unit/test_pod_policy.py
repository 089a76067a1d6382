"""Pod policies: reproducible byte for byte, sensitive to every measured setting, and enforced on containers."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.errors import InvalidInput, Refused
from cleanroom.settings import KubernetesSettings, Settings, SparkSettings
from cleanroom.spark import rego
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import (
    POLICY_ANNOTATION,
    PodContainer,
    PodPolicy,
    admitted_environment,
    check_pod,
    measured_environment,
    pod_policies,
)
from cleanroom.spark.profile import PodProfile, PodResources, SidecarProfile
from tests.unit.spark_support import DIGEST, make_job, make_measurement, make_profile

OTHER = "1" * 64
names = st.from_regex(r"[a-z0-9]{1,12}(-[a-z0-9]{1,8})?", fullmatch=True)
texts = st.text(max_size=200)


@st.composite
def jobs(draw: st.DrawFn) -> JobConfig:
    job = make_job(draw(names))
    segment = {"executionSequence": 1, "sql": draw(texts), "sourceDigest": DIGEST}
    columns = draw(st.dictionaries(st.text(min_size=1, max_size=10), st.sampled_from(["string", "long", "date"]), min_size=1, max_size=6))
    values = job.model_dump(mode="json", by_alias=True)
    values["segments"] = [segment]
    values["datasets"][0]["schema"] = [[name, kind] for name, kind in columns.items()]
    values["contractId"] = draw(texts)
    return JobConfig.model_validate(values)


@given(jobs())
def test_policy_is_reproducible_from_the_wire_form_of_the_job(job: JobConfig) -> None:
    profile = make_profile()
    again = JobConfig.decode(job.encode())
    assert again == job
    assert list(again.datasets[0].schema_fields) == list(job.datasets[0].schema_fields)
    assert pod_policies(again, make_profile()) == pod_policies(job, profile)


@given(jobs())
def test_rendered_policy_parses_to_the_same_rules(job: JobConfig) -> None:
    profile = make_profile()
    for role in ("driver", "executor"):
        policy = pod_policies(job, profile).of(role)
        rules = rego.parse(policy.rego)
        assert rego.render(rules, minimum_svn=profile.infrastructure_svn) == policy.rego
        assert policy.rego.isascii()
        assert hashlib.sha256(base64.b64decode(policy.rego_base64)).hexdigest() == policy.host_data
        assert rules[0].command == profile.command(role)
        assert f"JOB_CONFIG={job.encode()}" in [rule.pattern for rule in rules[0].env_rules if rule.required]


def test_host_data_depends_on_measured_settings_only() -> None:
    base = pod_policies(make_job(), make_profile())
    sidecar = SidecarProfile(name="skr", image=f"registry.example/skr@sha256:{DIGEST}", layers=(DIGEST,), command=("/skr",))
    other_sql = [{"executionSequence": 1, "sql": "SELECT 2", "sourceDigest": DIGEST}]
    measured = [
        pod_policies(make_job("run-2"), make_profile()),
        pod_policies(make_job(queryDigest=OTHER), make_profile()),
        pod_policies(make_job(parameters={"startDate": "2026-01-01", "endDate": "2026-01-02"}), make_profile()),
        pod_policies(make_job(segments=other_sql), make_profile()),
        pod_policies(make_job(), make_profile(layers=(OTHER,))),
        pod_policies(make_job(), make_profile(image=f"registry.example/app@sha256:{OTHER}")),
        pod_policies(make_job(), make_profile(main_application_file="local:///opt/other.py")),
        pod_policies(make_job(), make_profile(sidecars=(sidecar,))),
        pod_policies(make_job(), make_profile(infrastructure_svn=5)),
    ]
    assert len({policies.driver.host_data for policies in [base, *measured]}) == len(measured) + 1
    big = PodResources(driver_cores=8, driver_memory="16g", executor_cores=8, executor_memory="32g", executor_instances=9)
    unmeasured = make_profile(resources=big, namespace="other", service_account="other", spark_version="4.9.9")
    assert pod_policies(make_job(), unmeasured) == base
    assert unmeasured.digest() == make_profile().digest()
    assert base.driver.host_data != base.executor.host_data
    assert len(base.host_data()) == 2


def test_profile_requires_image_digest_and_layers() -> None:
    with pytest.raises(ValueError, match="image"):
        make_profile(image="registry.example/app:latest")
    with pytest.raises(ValueError, match="layers"):
        make_profile(layers=())
    with pytest.raises(ValueError, match="main_application_file"):
        make_profile(main_application_file="https://evil.example/x.py")


def test_deployed_profile_takes_the_measured_part_from_the_trust_document() -> None:
    measurement = make_measurement()
    profile = PodProfile.deployed(measurement, Settings(kubernetes=KubernetesSettings(namespace="ns")))
    assert (profile.image, profile.namespace) == (measurement.image, "ns")
    assert profile.digest() == PodProfile(**dict(measurement)).digest()
    with pytest.raises(InvalidInput) as caught:
        PodProfile.deployed(measurement, Settings(spark=SparkSettings(driver_memory="much")))
    assert caught.value.code == "PodProfileInvalid"


def test_job_that_makes_the_policy_too_long_is_rejected() -> None:
    # A text without repetitions, which packing cannot shorten.
    text = base64.b64encode(b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(2_000))).decode()

    def sized(size: int) -> JobConfig:
        return make_job(segments=[{"executionSequence": 1, "sql": text[:size], "sourceDigest": DIGEST}])

    largest = pod_policies(sized(64_000), make_profile())
    assert len(f"spark.kubernetes.driver.annotation.{POLICY_ANNOTATION}={largest.driver.rego_base64}") <= 131_071
    with pytest.raises(InvalidInput) as caught:
        pod_policies(sized(70_000), make_profile())
    assert caught.value.code == "JobConfigTooLarge"


def container(**changes: object) -> PodContainer:
    profile = make_profile()
    values = {
        "command": profile.command("driver"),
        "environment": measured_environment(make_job()),
        "layers": profile.layers,
        "working_dir": profile.working_dir,
    }
    return PodContainer.model_validate(values | changes)


DRIVER = pod_policies(make_job(), make_profile()).driver.rego


def test_measured_container_is_allowed() -> None:
    assert check_pod(DRIVER, container()) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"command": (*make_profile().command("driver"), "--debug")}, "invalid command"),
        ({"command": ("/bin/sh", "-c", "cat /secrets")}, "invalid command"),
        ({"environment": {}}, "JOB_CONFIG is missing"),
        ({"environment": measured_environment(make_job("run-2"))}, "JOB_CONFIG has another value"),
        ({"layers": (OTHER,)}, "no matching containers"),
        ({"layers": (DIGEST, DIGEST)}, "no matching containers"),
        ({"working_dir": "/tmp"}, "invalid working directory"),
        ({"privileged": True}, "privileged escalation"),
    ],
)
def test_changed_container_is_denied(changes: dict[str, object], error: str) -> None:
    differences = check_pod(DRIVER, container(**changes))
    assert any(error in text for text in differences)


SANDBOX = "sandbox:///tmp/atlas"


def mount(destination: str, source: str, access: str = "rw", propagation: str = "rprivate", kind: str = "bind") -> dict[str, object]:
    return {"destination": destination, "source": source, "options": ("rbind", propagation, access), "type": kind}


def test_mounts_of_containerd_and_of_azure_are_allowed() -> None:
    """The first list is what containerd 1.6 made for a driver under a kubelet, with the sources inside of the VM."""
    containerd = [mount(path, f"{SANDBOX}/node{path}") for path in ("/etc/hosts", "/dev/termination-log", "/etc/hostname", "/dev/shm")]
    for propagation in ("rprivate", "rshared"):
        spark = [
            mount("/etc/resolv.conf", f"{SANDBOX}/resolvconf/resolv.conf", propagation=propagation),
            mount("/var/data/spark-local-dir-1", f"{SANDBOX}/emptydir/a", propagation=propagation),
            mount("/opt/spark/conf", f"{SANDBOX}/emptydir/b", "ro", propagation),
            mount("/var/run/secrets/kubernetes.io/serviceaccount", f"{SANDBOX}/emptydir/c", "ro", propagation),
        ]
        assert check_pod(DRIVER, container(mounts=[*spark, *(containerd if propagation == "rprivate" else [])])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        mount("/opt/cleanroom", f"{SANDBOX}/emptydir/a"),
        mount("/opt/spark/conf", f"{SANDBOX}/emptydir/a", "rw"),
        mount("/opt/spark/conf", "/home/operator/conf", "ro"),
        mount("/dev/shm", "/run/containerd/shm"),
        mount("/dev/shm", f"{SANDBOX}/node/shm", propagation="rshared"),
        mount("/etc/hosts", f"{SANDBOX}/node/etc/hosts", kind="tmpfs"),
        mount("/var/data/spark-local-dir-2", f"{SANDBOX}/emptydir/a"),
    ],
    ids=["program", "writable", "of the node", "shared memory of the node", "shared", "type", "another folder"],
)
def test_other_mount_is_denied(wrong: dict[str, object]) -> None:
    (difference,) = check_pod(DRIVER, container(mounts=[wrong]))
    assert difference.startswith(f"invalid mount list: no rule for {wrong['destination']} from {wrong['source']}")


def test_executor_policy_denies_the_driver() -> None:
    executor = pod_policies(make_job(), make_profile()).executor.rego
    assert any("invalid command" in text for text in check_pod(executor, container()))


@pytest.mark.parametrize(
    ("pair", "kept"),
    [
        ("CLEANROOM_ATTESTATION_URL=http://localhost:8284", True),
        ("CLEANROOM_ATTESTATION_URL=http://attacker.example:8284", False),
        ("CLEANROOM_ATTESTATION_URL=http://localhost:8284@attacker.example", False),
        ("CLEANROOM_ATTESTATION_URL=file:///etc/passwd", False),
        ("POD_NAME=cr-x-driver", True),
        ("POD_NAME=cr-x-driver\nLD_PRELOAD=/x", False),
        ("LD_PRELOAD=/tmp/evil.so", False),
        ("PYTHONPATH=/tmp/evil", False),
        ("JAVA_TOOL_OPTIONS=-javaagent:/tmp/evil.jar", False),
        ("PYSPARK_SUBMIT_ARGS=--conf spark.jars=x", False),
        ("XPOD_NAME=a", False),
        ("SPARK_JAVA_OPT_0=-XX:OnOutOfMemoryError=sh", False),
        ("JAVA_HOME=/opt/java/openjdk", True),
        ("JAVA_HOME=/tmp/java", False),
    ],
)
def test_variable_without_a_rule_is_dropped(pair: str, kept: bool) -> None:
    name, _, value = pair.partition("=")
    item = container(environment={**measured_environment(make_job()), name: value})
    assert check_pod(DRIVER, item) == []
    assert (name in admitted_environment(DRIVER, item)) is kept


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ("-Dspark.driver.port=7078", True),
        ("--add-opens=java.base/java.lang=ALL-UNNAMED", True),
        ("-XX:OnOutOfMemoryError=sh -c id", False),
        ("-javaagent:/tmp/a.jar", False),
        ("-Dspark.driver.port=7078 -javaagent:x", False),
    ],
)
def test_executor_java_option_that_runs_a_command_is_dropped(option: str, kept: bool) -> None:
    policies = pod_policies(make_job(), make_profile())
    environment = {**measured_environment(make_job()), "SPARK_JAVA_OPT_3": option}
    item = container(command=make_profile().command("executor"), environment=environment)
    assert ("SPARK_JAVA_OPT_3" in admitted_environment(policies.executor.rego, item)) is kept


ALLOW_ALL = 'package policy\n\napi_svn := "0.10.0"\n\ncreate_container := {"allowed": true, "env_list": null, "allow_stdio_access": true}\n'


@pytest.mark.parametrize(
    "text",
    [
        ALLOW_ALL,
        "",
        DRIVER + '\ncreate_container := {"allowed": true}\n',
        DRIVER.replace("allow_runtime_logging := false", "allow_runtime_logging := true"),
        DRIVER.replace("create_container := data.framework.create_container", 'create_container := {"allowed": true}'),
        DRIVER.replace('"allow_elevated":false', '"allow_elevated": false', 1),
    ],
)
def test_policy_of_another_form_denies_every_container(text: str) -> None:
    with pytest.raises(Refused) as caught:
        rego.parse(text)
    assert caught.value.code == "PodPolicyMalformed"
    assert check_pod(text, container())[0].startswith("invalid policy")


def test_policy_with_host_data_of_another_text_is_rejected() -> None:
    policy = PodPolicy.of(DRIVER)
    with pytest.raises(ValueError, match="host_data"):
        PodPolicy.model_validate(json.loads(policy.model_dump_json()) | {"rego": DRIVER + " "})


def test_attestation_address_is_no_variable_of_a_pod_with_a_measured_sidecar() -> None:
    sidecar = SidecarProfile(name="attestation", image=f"localhost/skr@sha256:{DIGEST}", layers=("1" * 64,), command=("/bin/skr",))
    policy = pod_policies(make_job(), make_profile(sidecars=(sidecar,))).driver.rego
    item = container(environment={**measured_environment(make_job()), "CLEANROOM_ATTESTATION_URL": "http://localhost:9999"})
    assert check_pod(policy, item) == []
    assert "CLEANROOM_ATTESTATION_URL" not in admitted_environment(policy, item)
