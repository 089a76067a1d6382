"""The pod profile: which program runs in the pods of every run, and with how much room. Frozen configuration, never user input.

The measured part (image by digest and layer hashes, entry point, main file, measured variables, sidecars) decides the pods' host
data together with the job; the unmeasured part (cores, memory, service account, namespace) does not (spec/execute.md B3).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput, PreconditionFailed
from cleanroom.identifiers import HexDigest, canonical_json, sha256_hex
from cleanroom.settings import Settings

Role = Literal["driver", "executor"]

ImageReference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}$", max_length=255)]
"""An image by digest: a tag can be moved after approval, a digest cannot."""

Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[kmgt]$")]
"""Memory in the JVM's notation, as the SparkApplication takes it."""

LocalFile = Annotated[str, StringConstraints(pattern=r"^local:///[A-Za-z0-9._/-]+$")]
"""A file inside the measured image; anything else would be fetched with the operator's identity (users-and-threats.md S10)."""

_PATH = "/opt/java/openjdk/bin:/opt/cleanroom/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PodResources(_Profile):
    """What is asked of Kubernetes. Not measured: more or less room changes no result."""

    driver_cores: int = Field(default=1, ge=1, le=64)
    driver_memory: Memory = "1g"
    executor_cores: int = Field(default=2, ge=1, le=64)
    executor_memory: Memory = "2g"
    executor_instances: int = Field(default=1, ge=1, le=200)


class SidecarProfile(_Profile):
    """A container beside the Spark container that starts before it and is measured like it (the attestation sidecar on Azure)."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    image: ImageReference
    layers: tuple[HexDigest, ...] = Field(min_length=1)
    command: tuple[str, ...] = Field(min_length=1)
    environment: dict[str, str] = {}
    """Measured variables."""


class PodProfile(_Profile):
    """Image, versions, roles and resources of a Spark application's pods.

    ``layers`` are the dm-verity root hashes of the image's layers, bottom first, as the utility VM measures them
    (``az confcom`` prints them); without them a policy would not bind the image at all.
    """

    image: ImageReference
    layers: tuple[HexDigest, ...] = Field(min_length=1)
    entrypoint: tuple[str, ...] = Field(default=("/opt/entrypoint.sh",), min_length=1)
    main_application_file: LocalFile = "local:///opt/cleanroom/sparkapp/__main__.py"
    arguments: tuple[str, ...] = ()
    working_dir: str = "/opt/spark/work-dir"
    image_environment: dict[str, str] = {"PATH": _PATH, "JAVA_HOME": "/opt/java/openjdk", "SPARK_HOME": "/opt/spark", "LANG": "C.UTF-8"}
    """Variables that the image itself sets; measured."""
    sidecars: tuple[SidecarProfile, ...] = ()
    infrastructure_svn: int = Field(default=4, ge=0)
    """Least version of the platform's own fragment (its infrastructure containers)."""
    spark_version: str = "4.0.0"
    namespace: str = "analytics"
    service_account: str = "spark"
    resources: PodResources = PodResources()
    virtual_nodes: bool = False
    """Schedule on confidential virtual nodes (VN2): node selector, toleration and annotations of spec/execute.md B2."""

    @model_validator(mode="after")
    def _distinct(self) -> PodProfile:
        names = [sidecar.name for sidecar in self.sidecars]
        if len(set(names)) != len(names):
            raise ValueError("sidecars: names must be unique")
        return self

    @staticmethod
    def from_settings(settings: Settings) -> PodProfile:
        """The profile that a deployment's settings describe; the clean room and the Spark service must come to the same one.

        Raises:
            PreconditionFailed: ``SparkImageNotConfigured`` without image or layers.
            InvalidInput: ``PodProfileInvalid``.
        """
        kubernetes, spark = settings.kubernetes, settings.spark
        for field, value in (("image", kubernetes.image), ("image_layers", kubernetes.image_layers)):
            if not value:
                raise PreconditionFailed(
                    "SparkImageNotConfigured",
                    f"kubernetes.{field}: not set, so pod policies could not bind the program that the pods run.",
                    hint="Set kubernetes.image (by digest) and kubernetes.image_layers (dm-verity root hashes, bottom first).",
                    party="operator",
                )
        try:
            return PodProfile(
                image=kubernetes.image,
                layers=kubernetes.image_layers,
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
        """The role's whole command line: the image's entry point and what Spark on Kubernetes appends to it."""
        if role == "executor":
            return (*self.entrypoint, "executor")
        return (*self.entrypoint, *driver_arguments(self.main_application_file, self.arguments))

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of everything that is measured, lower-case hex."""
        measured = self.model_dump(mode="json", exclude={"spark_version", "namespace", "service_account", "resources", "virtual_nodes"})
        return sha256_hex(canonical_json(measured))


def driver_arguments(main_application_file: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Arguments that ``spark-submit`` in cluster mode gives to the driver container of a Python application."""
    return (
        "driver",
        "--properties-file",
        "/opt/spark/conf/spark.properties",
        "--class",
        "org.apache.spark.deploy.PythonRunner",
        main_application_file,
        *arguments,
    )
