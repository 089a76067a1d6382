"""The pod profile: the program that runs in the pods of every run, and its resources. Never user input.

The measured part (image digest and layer hashes, entry point, main file, measured variables, sidecars) comes from the
collaboration's trust document and determines the pods' host data together with the job. The unmeasured part (cores, memory,
service account, namespace) comes from the settings and does not.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import HexDigest, canonical_json, sha256_hex
from cleanroom.models import FrozenModel
from cleanroom.settings import Settings

Role = Literal["driver", "executor"]

ImageReference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}$", max_length=255)]
"""An image by digest. A tag can be moved after approval; a digest cannot."""

Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[kmgt]$")]
"""Memory in the JVM's notation, as a SparkApplication expects it."""

LocalFile = Annotated[str, StringConstraints(pattern=r"^local:///[A-Za-z0-9._/-]+$")]
"""A file inside the measured image. The Spark Operator would fetch any other file with its own identity."""

_PATH = "/opt/java/openjdk/bin:/opt/cleanroom/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class PodResources(FrozenModel):
    """Resources requested from Kubernetes. They are not measured, because they do not change the result."""

    driver_cores: int = Field(default=1, ge=1, le=64)
    driver_memory: Memory = "1g"
    executor_cores: int = Field(default=2, ge=1, le=64)
    executor_memory: Memory = "2g"
    executor_instances: int = Field(default=1, ge=1, le=200)


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
    def deployed(measurement: PodMeasurement, settings: Settings) -> PodProfile:
        """Return the profile of a deployment: the measured part from the trust document, the rest from its settings.

        Raises:
            InvalidInput: ``PodProfileInvalid``.
        """
        kubernetes, spark = settings.kubernetes, settings.spark
        try:
            return PodProfile(
                **dict(measurement),
                spark_version=kubernetes.spark_version,
                namespace=kubernetes.namespace,
                service_account=kubernetes.service_account,
                virtual_nodes=kubernetes.virtual_nodes,
                resources=PodResources(
                    driver_cores=spark.driver_cores,
                    driver_memory=spark.driver_memory,
                    executor_cores=spark.executor_cores,
                    executor_memory=spark.executor_memory,
                    executor_instances=spark.executor_instances,
                ),
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
