"""The sizes of runs: what they stand for, which of them a deployment offers, and what the pods' policies measure of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import RunSize
from cleanroom.settings import Settings, SizeSettings, SparkSettings, load_settings
from cleanroom.spark.application import build_application
from cleanroom.spark.job import JobConfig, JobParameters
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import SIZES, PodProfile, PodResources, offered_sizes
from localcloud.standins.kubernetes.store import SPARK_APPLICATIONS
from localcloud.standins.kubernetes.validation import validate
from starters.run import Size
from tests.unit.spark_support import make_job, make_measurement

MEMORY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
GIB_PER_CORE = 4


def job_of(size: RunSize | None) -> JobConfig:
    return make_job(parameters={} if size is None else {"size": size})


def application(settings: SparkSettings, size: RunSize | None) -> dict[str, Any]:
    job, profile = job_of(size), PodProfile.deployed(make_measurement(), Settings(spark=settings), size)
    return build_application(job, profile, pod_policies(job, profile), locked_conf={})


def code(settings: SparkSettings, size: RunSize | None) -> str:
    try:
        PodResources.deployed(settings, size)
    except CleanRoomError as error:
        return f"{error.code} of the {error.party}"
    return "offered"


def test_every_size_has_a_name_in_the_command_the_settings_and_the_table() -> None:
    assert get_args(RunSize) == tuple(SIZES) == tuple(Size)


def test_sizes_grow_and_fit_machines_with_four_gib_per_core() -> None:
    for resources in SIZES.values():
        for role in ("driver", "executor"):
            parts = (getattr(resources, f"{role}_{name}") for name in ("memory", "memory_overhead"))
            memory = sum(int(part[:-1]) * MEMORY[part[-1]] for part in parts)
            assert memory < getattr(resources, f"{role}_cores") * GIB_PER_CORE * 2**30, "nothing is left for the sidecar"
    cores = [resources.executor_instances * resources.executor_cores for resources in SIZES.values()]
    assert cores == sorted(set(cores))


@pytest.mark.parametrize("size", get_args(RunSize))
def test_application_requests_the_resources_of_its_size(size: RunSize) -> None:
    spec, wanted = application(SparkSettings(), size)["spec"], SIZES[size]
    found = {f"executor_{name}": spec["executor"][name] for name in ("cores", "memory", "instances")}
    found |= {f"driver_{name}": spec["driver"][name] for name in ("cores", "memory")}
    found |= {f"{role}_memory_overhead": spec[role]["memoryOverhead"] for role in ("driver", "executor")}
    assert found == wanted.model_dump()
    assert validate(SPARK_APPLICATIONS, application(SparkSettings(), size), strict=True) == []


def test_run_without_a_size_has_the_resources_of_the_settings() -> None:
    settings = SparkSettings(driver_memory="3g", executor_cores=3, executor_memory_overhead="1g")
    spec = application(settings, None)["spec"]
    assert (spec["driver"]["memory"], spec["executor"]["cores"], spec["executor"]["memoryOverhead"]) == ("3g", 3, "1g")
    assert "memoryOverhead" not in spec["driver"]


def test_deployment_changes_single_members_of_a_size(tmp_path: Path) -> None:
    file = tmp_path / "cleanroom.toml"
    file.write_text("[default.spark]\nlargest_size = 'medium'\n[default.spark.sizes.medium]\nexecutor_instances = 7\n")
    settings = load_settings(path=file).spark
    assert PodResources.deployed(settings, "medium") == SIZES["medium"].model_copy(update={"executor_instances": 7})
    assert PodResources.deployed(settings, "small") == SIZES["small"]


@pytest.mark.parametrize(
    ("largest", "offered"),
    [("none", ()), ("small", ("small",)), ("medium", ("small", "medium")), ("large", ("small", "medium", "large"))],
)
def test_size_beyond_the_operators_bound_is_refused(largest: Any, offered: tuple[str, ...]) -> None:
    settings = SparkSettings(largest_size=largest)
    assert offered_sizes(settings) == offered
    for size in get_args(RunSize):
        assert code(settings, size) == ("offered" if size in offered else "SizeNotOffered of the operator")
    assert code(settings, None) == "offered"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("executor_memory", "much"),
        ("executor_memory_overhead", "1x"),
        ("driver_memory", "0g"),
        ("executor_instances", 0),
        ("executor_instances", 201),
        ("driver_cores", 65),
    ],
)
def test_size_that_no_pod_can_have_is_an_error_of_the_operator(member: str, value: object) -> None:
    settings = SparkSettings(sizes={"small": SizeSettings(**{member: value})})  # type: ignore[arg-type]
    assert code(settings, "small") == "PodProfileInvalid of the operator"
    assert code(settings, "medium") == "offered"


def test_policies_measure_the_size_that_the_caller_signed_and_not_what_it_stands_for() -> None:
    def host_data(size: RunSize | None, settings: SparkSettings) -> tuple[str, ...]:
        return pod_policies(job_of(size), PodProfile.deployed(make_measurement(), Settings(spark=settings), size)).host_data()

    settings = SparkSettings()
    found = {size: host_data(size, settings) for size in (None, *get_args(RunSize))}
    assert len(set(found.values())) == len(found)
    changed = SparkSettings(sizes={"small": SizeSettings(executor_instances=9)})
    assert host_data("small", changed) == found["small"]


def test_job_without_a_size_has_the_bytes_that_it_had_before_there_were_sizes() -> None:
    assert b'"size"' not in job_of(None).canonical()
    assert "size" not in JobParameters().model_dump()


@pytest.mark.parametrize("name", ["dynamic_allocation", "dynamic_allocation_enabled", "dynamicAllocation", "DYNAMIC_ALLOCATION_MAX"])
def test_dynamic_allocation_is_refused_when_settings_are_loaded(name: str, tmp_path: Path) -> None:
    file = tmp_path / "cleanroom.toml"
    file.write_text(f"[default.spark]\n{name} = true\n")
    with pytest.raises(CleanRoomError, match="dynamic allocation is refused, because Spark would remove idle executors") as caught:
        load_settings(path=file)
    assert caught.value.code == "ConfigInvalid"
