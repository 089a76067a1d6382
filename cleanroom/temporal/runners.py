"""The workflow runner of workers and replayers: the SDK's sandbox, and what surrounds each workflow task.

A workflow task that fails is repeated forever. The SDK fails the task, and not the workflow, if a workflow is started with too few or
too many arguments, because only a workflow's own code could say which it accepts. :class:`InputRunner` fails such a workflow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from cleanroom.errors import InvalidInput
from cleanroom.temporal.failures import application_error
from cleanroom.temporal.guards import accepts

Activate = Callable[[WorkflowActivation], WorkflowActivationCompletion]
PASSTHROUGH: Final = (
    "cleanroom",
    "activities",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "annotationlib",
    "cryptography",
    "opentelemetry",
    "beartype",
)
"""Modules that the workflow sandbox shares with the process, because workflow code uses only their deterministic parts."""


def sandbox_runner() -> WorkflowRunner:
    """Create the workflow sandbox with :data:`PASSTHROUGH`, in an :class:`InputRunner`."""
    return InputRunner(SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSTHROUGH)))


class WrappingRunner(WorkflowRunner):
    """Runs workflows with another runner, and passes each workflow task through :meth:`activate`."""

    def __init__(self, runner: WorkflowRunner) -> None:
        self._runner = runner

    def prepare_workflow(self, defn: Any) -> None:
        """Delegate; called by the SDK."""
        self._runner.prepare_workflow(defn)

    def set_worker_level_failure_exception_types(self, types: Sequence[type[BaseException]]) -> None:
        """Delegate; called by the SDK."""
        self._runner.set_worker_level_failure_exception_types(types)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Wrap the instance; called by the SDK."""
        instance = self._runner.create_instance(det)
        instance.activate = functools.partial(self.activate, instance.activate, det)  # type: ignore[method-assign]
        return instance

    def activate(self, activate: Activate, det: WorkflowInstanceDetails, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Execute a workflow task with ``activate(act)`` or without, and return what it completes with."""
        raise NotImplementedError


class UnversionedRunner(WrappingRunner):
    """Runs workflows on a worker without a version: the server refuses versioning behaviours from such a worker."""

    def activate(self, activate: Activate, det: WorkflowInstanceDetails, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Execute a workflow task, and remove the versioning behaviour."""
        completion = activate(act)
        if completion.HasField("successful"):
            completion.successful.ClearField("versioning_behavior")
        return completion


class InputRunner(WrappingRunner):
    """Fails a workflow that was started with a number of arguments that it does not accept. Deterministic."""

    def activate(self, activate: Activate, det: WorkflowInstanceDetails, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Execute a workflow task, or fail the workflow in its first one."""
        started = next((job.initialize_workflow for job in act.jobs if job.HasField("initialize_workflow")), None)
        if started is None or accepts(det.defn.run_fn, len(started.arguments) + 1):  # the first one is the workflow itself
            return activate(act)
        error = InvalidInput(
            "WorkflowArgumentsInvalid",
            f"The workflow {det.info.workflow_type} was started with {len(started.arguments)} arguments, which it does not accept.",
            hint="Start it with a `cleanroom` command, which sends what it accepts.",
        )
        completion = WorkflowActivationCompletion()
        if det.defn.versioning_behavior is not None:
            completion.successful.versioning_behavior = det.defn.versioning_behavior.value
        failure = completion.successful.commands.add().fail_workflow_execution.failure
        det.failure_converter_class().to_failure(application_error(error), det.payload_converter_factory(), failure)
        return completion
