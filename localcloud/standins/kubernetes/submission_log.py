"""What ``spark-submit`` prints when the API server refuses the driver pod: the log of a JVM, with the API server's message in it."""

from __future__ import annotations

from localcloud.standins.kubernetes.mounts import API_SERVER
from localcloud.standins.kubernetes.store import ApiFailure

_CALLS = (
    "io.fabric8.kubernetes.client.KubernetesClientException.copyAsCause(KubernetesClientException.java:205)",
    "io.fabric8.kubernetes.client.dsl.internal.OperationSupport.waitForResult(OperationSupport.java:507)",
    "io.fabric8.kubernetes.client.dsl.internal.BaseOperation.handleCreate(BaseOperation.java:340)",
    "org.apache.spark.deploy.k8s.submit.Client.run(KubernetesClientApplication.scala:153)",
    "org.apache.spark.deploy.SparkSubmit.runMain(SparkSubmit.scala:1027)",
    "org.apache.spark.deploy.SparkSubmit.main(SparkSubmit.scala)",
)
_FRAMES = 70


def submission_log(failure: ApiFailure, namespace: str) -> str:
    """Return the log for the API server's answer to the creation of a driver pod."""
    status = failure.status
    message, details = status["message"], status.get("details") or {}
    quoted = (
        f"Status(apiVersion=v1, code={status['code']}, details=StatusDetails(causes=[], group=null, kind={details.get('kind')}, "
        f"name={details.get('name')}, retryAfterSeconds=null, uid=null, additionalProperties={{}}), kind=Status, message={message}, "
        "metadata=ListMeta(_continue=null, remainingItemCount=null, resourceVersion=null, selfLink=null, additionalProperties={}), "
        f"reason={status['reason']}, status=Failure, additionalProperties={{}})"
    )
    frames = "".join(f"\tat {_CALLS[number % len(_CALLS)]}\n" for number in range(_FRAMES))
    return (
        "WARNING: Using incubator modules: jdk.incubator.vector\n"
        "Using Spark's default log4j profile: org/apache/spark/log4j2-defaults.properties\n"
        "26/11/30 09:00:00 INFO SparkKubernetesClientFactory: Auto-configuring K8S client using current context from users K8S config\n"
        '26/11/30 09:00:00 ERROR Client: Please check "kubectl auth can-i create pod" first. It should be yes.\n'
        'Exception in thread "main" io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST at: '
        f"{API_SERVER}/api/v1/namespaces/{namespace}/pods. Message: {message}. Received status: {quoted}.\n{frames}"
        f"Caused by: io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST. Message: {message}. "
        f"Received status: {quoted}.\n{frames}\t... 14 more\n"
    )
