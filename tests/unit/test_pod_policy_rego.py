"""Pod policies in a real Rego engine, which must agree with :func:`cleanroom.spark.policy.check_pod`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanroom.spark.policy import PodContainer, admitted_environment, check_pod, measured_environment, pod_policies
from tests.unit.spark_support import make_job, make_profile

regopy = pytest.importorskip("regopy")

FRAMEWORK = """
package framework

import future.keywords.every
import future.keywords.in

env_ok(rule, pair) { rule.strategy == "string"; rule.pattern == pair }
env_ok(rule, pair) { rule.strategy == "re2"; regex.match(rule.pattern, pair) }

candidates := [container | some container in data.policy.containers; container.layers == input.layers; container.command == input.command]

satisfied(container) { every rule in container.env_rules { required_ok(rule) } }
required_ok(rule) { not rule.required }
required_ok(rule) { rule.required; some pair in input.env; env_ok(rule, pair) }

default create_container := false
create_container { some container in candidates; container.working_dir == input.working_dir; satisfied(container) }

admitted := [pair | some pair in input.env; allowed(pair)]
allowed(pair) { some container in candidates; some rule in container.env_rules; env_ok(rule, pair) }
"""
"""The framework's decisions on the creation of a container, including the dropping of variables, in a minimal set of rules."""

PROFILE = make_profile()
POLICIES = pod_policies(make_job(), PROFILE)
MEASURED = measured_environment(make_job())
NAMES = [
    "POD_NAME",
    "POD_UID",
    "SPARK_USER",
    "SPARK_JAVA_OPT_0",
    "CLEANROOM_ATTESTATION_URL",
    "JOB_CONFIG",
    "LD_PRELOAD",
    "PATH",
    "TERM",
    "KUBERNETES_PORT",
]
VALUES = ["", "abc", "xterm", "a b", "https://localhost:8284", "-Dspark.ui.port=1", "-javaagent:x", "0-1", "/a/b", "=", "a=b"]
# The engine's Python binding loses escapes in input and output. test_pod_policy.py covers quotes, backslashes and line breaks.
plain = st.text(alphabet=[chr(code) for code in range(32, 127) if chr(code) not in '"\\'], max_size=12)
environments = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES) | plain, max_size=6)


def engine(rego: str, container: PodContainer) -> Any:
    interpreter = regopy.Interpreter()
    interpreter.add_module("policy", rego)
    interpreter.add_module("framework", FRAMEWORK)
    interpreter.set_input(
        {
            "command": list(container.command),
            "env": [f"{name}={value}" for name, value in container.environment.items()],
            "layers": list(container.layers),
            "working_dir": container.working_dir,
        }
    )
    answer = json.loads(str(interpreter.query("created := data.policy.create_container; admitted := data.framework.admitted")))
    return answer["bindings"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["driver", "executor"]), environments, st.booleans(), st.booleans(), st.booleans())
def test_check_pod_agrees_with_the_rego_engine(role: Any, extra: dict[str, str], measured: bool, command: bool, folder: bool) -> None:
    container = PodContainer(
        command=PROFILE.command(role) if command else ("/bin/sh",),
        environment={**extra, **MEASURED} if measured else extra,
        layers=PROFILE.layers,
        working_dir=PROFILE.working_dir if folder else "/",
    )
    rego = POLICIES.of(role).rego
    found = engine(rego, container)
    assert found["created"] is (check_pod(rego, container) == [])
    assert sorted(found["admitted"]) == sorted(f"{name}={value}" for name, value in admitted_environment(rego, container).items())


def test_rego_engine_allows_the_measured_container_only() -> None:
    interpreter = regopy.Interpreter()
    interpreter.add_module("policy", POLICIES.driver.rego)
    query = ["api_version", "framework_version", "allow_runtime_logging", "allow_dump_stacks", "allow_unencrypted_scratch"]
    values = [json.loads(str(interpreter.query(f"x := data.policy.{name}")))["bindings"]["x"] for name in query]
    assert values == ["0.10.0", "0.2.3", False, False, False]
    containers = json.loads(str(interpreter.query("x := data.policy.containers")))["bindings"]["x"]
    assert [item["name"] for item in containers] == ["spark-kubernetes-driver", "pause-container"]
    assert not any(item["exec_processes"] or item["allow_elevated"] for item in containers)
