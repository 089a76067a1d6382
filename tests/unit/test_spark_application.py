"""The SparkApplication: deterministic, complete, without secrets, and nothing of it chosen by a user."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.errors import InvalidInput
from cleanroom.identifiers import job_name
from cleanroom.spark.application import build_application, spark_configuration
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import POLICY_ANNOTATION, pod_policies
from cleanroom.spark.profile import SidecarProfile
from localcloud.standins.kubernetes.store import SPARK_APPLICATIONS
from localcloud.standins.kubernetes.validation import validate
from tests.unit.spark_support import DIGEST, make_job, make_profile


def build(**profile: object) -> dict:  # type: ignore[type-arg]
    job, made = make_job(), make_profile(**profile)
    return build_application(job, made, pod_policies(job, made), locked_conf={})


def test_same_job_yields_the_same_application() -> None:
    assert json.dumps(build()) == json.dumps(build())


def test_application_names_the_run_and_never_restarts() -> None:
    job, item = make_job(), build()
    policies = pod_policies(job, make_profile())
    assert (item["apiVersion"], item["kind"]) == ("sparkoperator.k8s.io/v1beta2", "SparkApplication")
    assert item["metadata"]["name"] == job_name("flights", "totals", "run-1")
    assert item["metadata"]["labels"]["cleanroom/run"] == "run-1"
    assert item["metadata"]["annotations"]["cleanroom/job-digest"] == job.digest()
    assert item["metadata"]["annotations"]["cleanroom/policy-digest"] == policies.digest()
    spec = item["spec"]
    assert spec["restartPolicy"] == {"type": "Never"}
    assert spec["timeToLiveSeconds"] > 0
    assert spec["mainApplicationFile"].startswith("local:///")
    for role in ("driver", "executor"):
        assert spec[role]["annotations"][POLICY_ANNOTATION] == policies.of(role).rego_base64
        variables = {entry["name"]: entry.get("value") for entry in spec[role]["env"]}
        assert JobConfig.decode(variables["JOB_CONFIG"] or "") == job
        assert spec[role]["securityContext"]["privileged"] is False


def test_every_field_is_in_the_operators_schema() -> None:
    sidecar = SidecarProfile(
        name="skr", image=f"r.example/skr@sha256:{DIGEST}", layers=(DIGEST,), command=("/skr",), environment={"A": "b"}
    )
    assert validate(SPARK_APPLICATIONS, build(sidecars=(sidecar,), virtual_nodes=True), strict=True) == []


def test_sidecar_is_a_native_measured_container() -> None:
    sidecar = SidecarProfile(
        name="skr", image=f"r.example/skr@sha256:{DIGEST}", layers=("2" * 64,), command=("/skr",), environment={"A": "b"}
    )
    item = build(sidecars=(sidecar,))
    for role in ("driver", "executor"):
        (container,) = item["spec"][role]["initContainers"]
        assert (container["restartPolicy"], container["env"]) == ("Always", [{"name": "A", "value": "b"}])
        policy = base64.b64decode(item["spec"][role]["annotations"][POLICY_ANNOTATION]).decode()
        assert '"command":["/skr"]' in policy


@pytest.mark.parametrize(
    "key",
    [
        "spark.kubernetes.authenticate.driver.serviceAccountName",
        "spark.jars",
        "spark.driver.extraJavaOptions",
        "spark.hadoop.fs.s3a.access.key",
    ],
)
def test_spark_property_outside_of_the_allowlist_is_rejected(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        spark_configuration({key: "x"})
    assert caught.value.code == "SparkConfigurationRefused"


def test_locked_configuration_overrides_the_base() -> None:
    assert spark_configuration({"spark.sql.session.timeZone": "Europe/Paris"})["spark.sql.session.timeZone"] == "Europe/Paris"
    assert spark_configuration({})["spark.network.crypto.enabled"] == "true"


TEXT = st.text(alphabet="aA9-_./é ", max_size=90)


@given(TEXT, TEXT, TEXT, st.sampled_from(["case", "tail", "symbol", "join"]))
def test_application_name_is_a_label_and_unique(collaboration: str, query: str, run: str, change: str) -> None:
    other = {
        "case": (collaboration, query, run.swapcase() + "x"),
        "tail": (collaboration, query, run + "-" * 63 + "tail"),
        "symbol": (collaboration, query, run + "_"),
        "join": (collaboration + query + "x", "", run),
    }[change]
    names = [job_name(*key) for key in ((collaboration, query, run), other)]
    assert names[0] != names[1]
    for name in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        # The driver pod is called <name>-driver, and its name is a label of at most 63 too.
        assert len(name) + len("-driver") <= 63


def test_run_ids_that_differ_in_case_or_at_the_end_have_different_names() -> None:
    runs = ["Run_42/A", "run-42-a", "RUN-42-A", "r" * 63, "r" * 64, "r" * 63 + "x", "run-42-a-", "run--42-a"]
    assert len({job_name("flights", "totals", run) for run in runs}) == len(runs)
