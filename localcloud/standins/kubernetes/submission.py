"""The objects that ``spark-submit`` in cluster mode creates for a SparkApplication: the driver's pod and ``spark.properties``."""

from __future__ import annotations

import math
import re

from localcloud.standins.kubernetes.mounts import API_SERVER, SERVICE_ACCOUNT
from localcloud.standins.kubernetes.store import Object

APP_LABEL = "sparkoperator.k8s.io/app-name"
DRIVER_CONTAINER = "spark-kubernetes-driver"
MAX_ARGUMENT = 131_071
LOCAL_DIR_VOLUME = "spark-local-dir-"


def driver_pod(application: Object, name: str, submission: str, app_id: str) -> Object:
    """Return the driver pod as ``spark-submit`` in cluster mode creates it."""
    spec, metadata = application["spec"], application["metadata"]
    driver = spec["driver"]
    cores, memory = driver.get("cores", 1), memory_mib(driver.get("memory", "1g"))
    conf_map = f"spark-drv-{app_id.removeprefix('spark-')[:16]}-conf-map"
    overhead = memory_mib(driver["memoryOverhead"]) if "memoryOverhead" in driver else max(384, math.ceil(memory * 0.1))
    quantities = {"cpu": str(cores), "memory": f"{memory + overhead}Mi"}
    container = {
        "name": DRIVER_CONTAINER,
        "image": driver.get("image") or spec.get("image") or "",
        "imagePullPolicy": spec.get("imagePullPolicy", "IfNotPresent"),
        "args": [
            "driver",
            "--properties-file",
            "/opt/spark/conf/spark.properties",
            "--class",
            "org.apache.spark.deploy.PythonRunner",
            spec["mainApplicationFile"],
            *spec.get("arguments", []),
        ],
        "env": [
            *driver.get("env", []),
            {"name": "SPARK_USER", "value": "spark"},
            {"name": "SPARK_APPLICATION_ID", "value": app_id},
            {"name": "SPARK_DRIVER_BIND_ADDRESS", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            {"name": "SPARK_LOCAL_DIRS", "value": "/var/data/spark-local-dir-1"},
            {"name": "SPARK_CONF_DIR", "value": "/opt/spark/conf"},
        ],
        "resources": {"requests": quantities, "limits": {"memory": quantities["memory"]}},
        "volumeMounts": [*driver.get("volumeMounts", []), {"name": "spark-conf-volume-driver", "mountPath": "/opt/spark/conf"}],
        "securityContext": driver.get("securityContext", {}),
    }
    result: Object = {
        "metadata": {
            "name": name,
            "labels": {
                **driver.get("labels", {}),
                APP_LABEL: metadata["name"],
                "sparkoperator.k8s.io/launched-by-spark-operator": "true",
                "sparkoperator.k8s.io/submission-id": submission,
                "spark-role": "driver",
                "spark-app-selector": app_id,
                "spark-version": spec["sparkVersion"],
            },
            "annotations": dict(driver.get("annotations", {})),
            "ownerReferences": [owner_of(application)],
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": driver.get("serviceAccount", "default"),
            "terminationGracePeriodSeconds": driver.get("terminationGracePeriodSeconds", 30),
            "containers": [container, *driver.get("sidecars", [])],
            "volumes": [*spec.get("volumes", []), {"name": "spark-conf-volume-driver", "configMap": {"name": conf_map}}],
            **{key: driver[key] for key in ("initContainers", "nodeSelector", "tolerations") if key in driver},
        },
        "status": {"phase": "Pending"},
    }
    return result


def check_arguments(application: Object) -> None:
    """Check that ``spark-submit`` can be started: the operator passes annotations and variables to it as arguments.

    Linux limits one argument to 131,071 bytes (``MAX_ARG_STRLEN``, see execve(2)).

    Raises:
        ValueError: An argument is longer.
    """
    for role in ("driver", "executor"):
        spec = application["spec"][role]
        annotations = [f"spark.kubernetes.{role}.annotation.{name}={value}" for name, value in spec.get("annotations", {}).items()]
        variables = [f"spark.kubernetes.{role}Env.{item['name']}={item.get('value', '')}" for item in spec.get("env", [])]
        if any(len(argument.encode()) > MAX_ARGUMENT for argument in (*annotations, *variables)):
            raise ValueError("fork/exec /opt/spark/bin/spark-submit: argument list too long")


def spark_properties(application: Object, app_id: str, driver_pod: str | None) -> str:
    """Return ``spark.properties``, which the driver container mounts. With ``driver_pod`` the driver creates executor pods."""
    spec = application["spec"]
    driver, executor = spec["driver"], spec["executor"]
    values = {
        **spec.get("sparkConf", {}),
        "spark.app.id": app_id,
        "spark.app.name": application["metadata"]["name"],
        "spark.driver.memory": driver.get("memory", "1g"),
        "spark.driver.cores": str(driver.get("cores", 1)),
        "spark.executor.cores": str(executor.get("cores", 1)),
        "spark.executor.instances": str(executor.get("instances", 1)),
        "spark.executor.memory": executor.get("memory", "1g"),
        **{
            f"spark.{role}.memoryOverhead": spec[role]["memoryOverhead"]
            for role in ("driver", "executor")
            if "memoryOverhead" in spec[role]
        },
        "spark.kubernetes.container.image": spec.get("image", ""),
        "spark.kubernetes.namespace": application["metadata"]["namespace"],
        "spark.submit.deployMode": "cluster",
        **(_executor_properties(application, driver_pod) if driver_pod else {}),
    }
    return "".join(f"{key}={value}\n" for key, value in sorted(values.items()))


def _executor_properties(application: Object, driver_pod: str) -> dict[str, str]:
    """Return the properties that ``spark-submit`` and the operator add so that a driver can create executor pods."""
    executor, metadata = application["spec"]["executor"], application["metadata"]
    labels = {**executor.get("labels", {}), APP_LABEL: metadata["name"], "sparkoperator.k8s.io/launched-by-spark-operator": "true"}
    # The operator passes volumes of this name to Spark, whose executors then write below their mount paths.
    local = {item["name"]: item["mountPath"] for item in executor.get("volumeMounts", ()) if item["name"].startswith(LOCAL_DIR_VOLUME)}
    return {
        "spark.master": f"k8s://{API_SERVER}",
        "spark.driver.host": "127.0.0.1",
        "spark.kubernetes.driver.master": API_SERVER,
        "spark.kubernetes.driver.pod.name": driver_pod,
        "spark.kubernetes.submitInDriver": "true",
        # Spark's defaults. They are written out so that Mounts.to_local_paths can replace them.
        "spark.kubernetes.authenticate.driver.mounted.oauthTokenFile": f"{SERVICE_ACCOUNT}/token",
        "spark.kubernetes.authenticate.driver.mounted.caCertFile": f"{SERVICE_ACCOUNT}/ca.crt",
        "spark.kubernetes.executor.deleteOnTermination": str(executor.get("deleteOnTermination", True)).lower(),
        **{f"spark.kubernetes.executor.volumes.emptyDir.{name}.mount.path": path for name, path in local.items()},
        **{f"spark.kubernetes.executor.label.{name}": value for name, value in labels.items()},
        **{f"spark.kubernetes.executor.annotation.{name}": value for name, value in executor.get("annotations", {}).items()},
        **{f"spark.executorEnv.{item['name']}": item["value"] for item in executor.get("env", ()) if "value" in item},
    }


def memory_mib(text: str) -> int:
    """Convert JVM notation (``512m``, ``2g``) to MiB, rounded up.

    Raises:
        ValueError: The text is not in JVM notation.
    """
    match = re.fullmatch(r"(\d+)([kmgt])b?", text.lower())
    if match is None:
        raise ValueError(f"Failed to parse byte string: {text}; use a number and one of k, m, g, t, such as 512m")
    return math.ceil(int(match[1]) * {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}[match[2]])


def owner_of(item: Object) -> Object:
    """Return the owner reference to an object."""
    metadata = item["metadata"]
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}
