"""The pod profile: the program that runs in the pods of every run, and its resources. Never user input.

The measured part (image digest and layer hashes, entry point, main file, measured variables, sidecars) comes from the
collaboration's trust document and determines the pods' host data together with the job. The unmeasured part (cores, memory,
service account, namespace) comes from the settings and does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput, Refused
from cleanroom.identifiers import HexDigest, RunSize, canonical_json, sha256_hex
from cleanroom.models import FrozenModel
from cleanroom.settings import Settings, SizeSettings, SparkSettings

Role = Literal["driver", "executor"]

ImageReference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}$", max_length=255)]
"""An image by digest. A tag can be moved after approval; a digest cannot."""

Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[kmgt]$")]
"""Memory in the JVM's notation, as a SparkApplication expects it."""

LocalFile = Annotated[str, StringConstraints(pattern=r"^local:///[A-Za-z0-9._/-]+$")]
"""A file inside the measured image. The Spark Operator would fetch any other file with its own identity."""

_PATH = "/opt/java/openjdk/bin:/opt/cleanroom/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class PodResources(FrozenModel):
    """Resources requested from Kubernetes. They are not measured, because they do not change the result.

    A pod requests its JVM's memory and the overhead, which its Python processes use; without one, 40 % of the JVM's memory.
    """

    driver_cores: int = Field(default=1, ge=1, le=64)
    driver_memory: Memory = "1g"
    driver_memory_overhead: Memory | None = None
    executor_cores: int = Field(default=2, ge=1, le=64)
    executor_memory: Memory = "2g"
    executor_memory_overhead: Memory | None = None
    executor_instances: int = Field(default=1, ge=1, le=200)

    @staticmethod
    def deployed(settings: SparkSettings, size: RunSize | None = None) -> PodResources:
        """Return the resources of a run: those of the settings, or of the size that its caller has chosen.

        Raises:
            InvalidInput: ``PodProfileInvalid``.
            Refused: ``SizeNotOffered``.
        """
        if size is None:
            where, values = "spark", {name: getattr(settings, name) for name in PodResources.model_fields}
        elif size in offered_sizes(settings):
            changed = settings.sizes.get(size, SizeSettings())
            where, values = f"spark.sizes.{size}", SIZES[size].model_dump() | changed.model_dump(exclude_none=True)
        else:
            raise Refused(
                "SizeNotOffered",
                f"run: size {size!r} is larger than this deployment offers; its largest is {settings.largest_size!r}.",
                hint="Start the run with a smaller --size, or ask the operator to raise spark.largest_size.",
                party="operator",
            )
        try:
            return PodResources(**values)
        except ValidationError as error:
            raise InvalidInput(
                "PodProfileInvalid",
                f"pod profile, {where}: {describe_validation(error)}.",
                hint="Correct this setting of the Spark service.",
                party="operator",
            ) from error

    def __str__(self) -> str:
        driver = f"driver {self.driver_cores} x {_memory(self.driver_memory, self.driver_memory_overhead)}"
        executors = f"{self.executor_cores} x {_memory(self.executor_memory, self.executor_memory_overhead)}"
        return f"{driver}, {self.executor_instances} executors {executors}"


def _memory(heap: str, overhead: str | None) -> str:
    return f"{heap}+{overhead}" if overhead else heap


SIZES: Mapping[RunSize, PodResources] = MappingProxyType(
    {
        "small": PodResources(
            driver_cores=1,
            driver_memory="2g",
            driver_memory_overhead="1g",
            executor_cores=2,
            executor_memory="5g",
            executor_memory_overhead="2g",
            executor_instances=2,
        ),
        "medium": PodResources(
            driver_cores=2,
            driver_memory="5g",
            driver_memory_overhead="2g",
            executor_cores=4,
            executor_memory="10g",
            executor_memory_overhead="5g",
            executor_instances=4,
        ),
        "large": PodResources(
            driver_cores=4,
            driver_memory="10g",
            driver_memory_overhead="5g",
            executor_cores=8,
            executor_memory="20g",
            executor_memory_overhead="11g",
            executor_instances=10,
        ),
    }
)
"""The built-in sizes. With its sidecar, an executor fits 4 GiB per core, the ratio of general-purpose confidential machines."""


def offered_sizes(settings: SparkSettings) -> tuple[RunSize, ...]:
    """Return the sizes that a caller may choose."""
    names = tuple(SIZES)
    return names[: names.index(settings.largest_size) + 1] if settings.largest_size != "none" else ()


class SidecarProfile(FrozenModel):
    """A measured container that starts before the Spark container and runs next to it (on Azure, the attestation sidecar)."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    image: ImageReference
    layers: tuple[HexDigest, ...] = Field(min_length=1)
    command: tuple[str, ...] = Field(min_length=1)
    environment: dict[str, str] = {}
    """Measured variables."""


class PodMeasurement(FrozenModel):
    """What the pods' policies measure of the program: image, command line, variables and sidecars.

    ``layers`` are the dm-verity root hashes of the image's layers, bottom first, as the utility VM measures them
    (``az confcom`` prints them). Only the layers bind the image to a policy.
    """

    image: ImageReference
    layers: tuple[HexDigest, ...] = Field(min_length=1)
    entrypoint: tuple[str, ...] = Field(default=("/opt/entrypoint.sh",), min_length=1)
    main_application_file: LocalFile = "local:///opt/cleanroom/sparkapp/__main__.py"
    arguments: tuple[str, ...] = ()
    working_dir: str = "/opt/spark/work-dir"
    image_environment: dict[str, str] = {"PATH": _PATH, "JAVA_HOME": "/opt/java/openjdk", "SPARK_HOME": "/opt/spark", "LANG": "C.UTF-8"}
    """Variables that the image sets."""
    sidecars: tuple[SidecarProfile, ...] = ()
    """The attestation sidecar, and others. With a sidecar, the pod requests its reports at ``http://localhost:8284`` only."""
    infrastructure_svn: int = Field(default=4, ge=0)
    """Minimum version of the platform's fragment of infrastructure containers."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [sidecar.name for sidecar in self.sidecars]
        if len(set(names)) != len(names):
            raise ValueError("sidecars: names must be unique")
        return self


class PodProfile(PodMeasurement):
    """The measured part, and what Kubernetes needs in addition: versions, names and resources, which decide nothing."""

    spark_version: str = "4.0.0"
    namespace: str = "analytics"
    service_account: str = "spark"
    resources: PodResources = PodResources()
    virtual_nodes: bool = False
    """Schedule pods on confidential virtual nodes of AKS (https://github.com/microsoft/virtualnodesOnAzureContainerInstances)."""

    @staticmethod
    def deployed(measurement: PodMeasurement, settings: Settings, size: RunSize | None = None) -> PodProfile:
        """Return the profile of a run: the measured part from the trust document, the rest from the deployment's settings.

        Args:
            measurement: The measured part.
            settings: The deployment's settings.
            size: The size that the run's caller has chosen, which the job contains.

        Raises:
            InvalidInput: ``PodProfileInvalid``.
            Refused: ``SizeNotOffered``.
        """
        kubernetes, resources = settings.kubernetes, PodResources.deployed(settings.spark, size)
        try:
            return PodProfile(
                **dict(measurement),
                spark_version=kubernetes.spark_version,
                namespace=kubernetes.namespace,
                service_account=kubernetes.service_account,
                virtual_nodes=kubernetes.virtual_nodes,
                resources=resources,
            )
        except ValidationError as error:
            raise InvalidInput("PodProfileInvalid", f"pod profile: {describe_validation(error)}.", party="operator") from error

    def command(self, role: Role) -> tuple[str, ...]:
        """Return the whole command line of ``role``: the image's entry point and the arguments that Spark on Kubernetes appends."""
        if role == "executor":
            return (*self.entrypoint, "executor")
        return (*self.entrypoint, *driver_arguments(self.main_application_file, self.arguments))

    def digest(self) -> str:
        """Return the SHA-256 over the canonical JSON of the measured part, in lower-case hex."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", include=set(PodMeasurement.model_fields))))


def driver_arguments(main_application_file: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments that ``spark-submit`` in cluster mode passes to the driver container of a Python application."""
    return (
        "driver",
        "--properties-file",
        "/opt/spark/conf/spark.properties",
        "--class",
        "org.apache.spark.deploy.PythonRunner",
        main_application_file,
        *arguments,
    )
