"""Renders and parses the text of a confidential container policy (CCE policy) in Rego.

A policy of API version 0.10.0 and framework version 0.2.3 is a fixed frame around one JSON array of container rules
(https://github.com/microsoft/hcsshim/tree/main/pkg/securitypolicy, ``docs/facts/spark-applications.md``). Hardware
measures the text: the host data is the SHA-256 of its bytes. Therefore rendering is canonical: sorted keys, no
white space, ASCII only. Parsing accepts only text that rendering could have produced, so no rule can hide outside
of the array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import Refused
from cleanroom.models import FrozenModel

_FRAGMENT_FEED = "mcr.microsoft.com/aci/aci-cc-infra-fragment"
_FRAGMENT_ISSUER = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.3"

_HEAD = """package policy

import future.keywords.every
import future.keywords.in

api_version := "0.10.0"
framework_version := "0.2.3"

"""

_ENFORCEMENT_POINTS = (
    "mount_device",
    "unmount_device",
    "mount_overlay",
    "unmount_overlay",
    "create_container",
    "exec_in_container",
    "exec_external",
    "shutdown_container",
    "signal_container_process",
    "plan9_mount",
    "plan9_unmount",
    "get_properties",
    "dump_stacks",
    "runtime_logging",
    "load_fragment",
    "scratch_mount",
    "scratch_unmount",
)

_TAIL = (
    """
allow_properties_access := true
allow_dump_stacks := false
allow_runtime_logging := false
allow_environment_variable_dropping := true
allow_unencrypted_scratch := false
allow_capability_dropping := true

"""
    + "".join(f"{point} := data.framework.{point}\n" for point in _ENFORCEMENT_POINTS)
    + """
reason := {"errors": data.framework.errors}
"""
)


class EnvRule(FrozenModel):
    """A rule for one environment variable.

    ``string`` compares ``NAME=value`` exactly; ``re2`` matches a pattern. The framework matches a pattern anywhere
    in the text, so patterns here are anchored at both ends.
    """

    pattern: str
    required: bool
    strategy: Literal["string", "re2"]

    def matches(self, pair: str) -> bool:
        """Return whether ``pair`` (``NAME=value``) satisfies the rule."""
        if self.strategy == "string":
            return self.pattern == pair
        # In RE2, $ matches only at the end of the text. In Python it also matches before a trailing newline.
        pattern = self.pattern[:-1] + r"\Z" if self.pattern.endswith("$") else self.pattern
        return re.search(pattern, pair, re.ASCII) is not None


class MountRule(FrozenModel):
    """A mount that a container may have."""

    destination: str
    options: tuple[str, ...]
    source: str
    type: Literal["bind"] = "bind"


class Capabilities(FrozenModel):
    """Linux capabilities of a container, by set; none by default."""

    ambient: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()


class IdName(FrozenModel):
    """A rule for a user or group; any by default."""

    pattern: str = ""
    strategy: Literal["any", "name", "id", "re2"] = "any"


class UserRule(FrozenModel):
    """User, groups and umask of a container."""

    group_idnames: tuple[IdName, ...] = (IdName(),)
    umask: str = "0022"
    user_idname: IdName = IdName()


class ContainerRule(FrozenModel):
    """The required command line, variables, layers, mounts and privileges of one container of the pod."""

    name: str
    id: str
    """The image reference. It is informative; ``layers`` bind the image."""
    command: tuple[str, ...]
    env_rules: tuple[EnvRule, ...]
    layers: tuple[str, ...]
    mounts: tuple[MountRule, ...] = ()
    working_dir: str = "/"
    allow_elevated: bool = False
    allow_stdio_access: bool = True
    capabilities: Capabilities = Capabilities()
    exec_processes: tuple[()] = ()
    no_new_privileges: bool = True
    seccomp_profile_sha256: str = ""
    signals: tuple[int, ...] = ()
    user: UserRule = UserRule()


PAUSE = ContainerRule(
    name="pause-container",
    id="",
    command=("/pause",),
    env_rules=(
        EnvRule(pattern="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", required=True, strategy="string"),
        EnvRule(pattern="TERM=xterm", required=False, strategy="string"),
    ),
    layers=("16b514057a06ad665f92c02863aca074fd5976c755d26bff16365299169e8415",),
    no_new_privileges=False,
)
"""The container of the pod sandbox, which the platform fixes."""

_CONTAINERS = TypeAdapter(tuple[ContainerRule, ...])


def render(containers: Sequence[ContainerRule], *, minimum_svn: int) -> str:
    """Return the policy as Rego.

    Args:
        containers: The container rules, in order.
        minimum_svn: Minimum version of the platform's infrastructure fragment.
    """
    fragments = [
        {"feed": _FRAGMENT_FEED, "includes": ["containers", "fragments"], "issuer": _FRAGMENT_ISSUER, "minimum_svn": str(minimum_svn)}
    ]
    rules = ",".join(_compact(rule.model_dump(mode="json")) for rule in containers)
    return f"{_HEAD}fragments := {_compact(fragments)}\n\ncontainers := [{rules}]\n{_TAIL}"


def parse(text: str) -> tuple[ContainerRule, ...]:
    """Return the container rules of a policy that :func:`render` returned.

    Raises:
        Refused: ``PodPolicyMalformed`` for every other text, including allow-all policies.
    """
    found = re.search(r'"minimum_svn":"(\d{1,9})"\}\]\n\ncontainers := (\[.*\])\n', text)
    if found is None:
        raise Refused("PodPolicyMalformed", "pod policy: not a container policy in the form that the Spark service renders.")
    try:
        containers = _CONTAINERS.validate_json(found[2])
    except ValidationError as error:
        raise Refused("PodPolicyMalformed", f"pod policy: containers: {describe_validation(error)}.") from error
    if render(containers, minimum_svn=int(found[1])) != text:
        raise Refused("PodPolicyMalformed", "pod policy: contains text outside of its container rules.")
    return containers


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
