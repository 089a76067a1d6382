"""Translates NetworkPolicy objects into rules of iptables (https://kubernetes.io/docs/concepts/services-networking/network-policies/).

A pod that a policy selects may only open the connections, or only be reached by those, that its policies allow together. Pods that no
policy selects are free, and so is the node: a kubelet must reach its pods. Packets from and to an address of the pod network that
belongs to no known pod are dropped, so that a pod that has just started cannot be faster than its policies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CHAIN = "CLUSTER-POLICY"
"""The chain that every packet of a pod passes through, before the node forwards it or takes it itself."""

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Pod:
    """What policies know of a pod."""

    namespace: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[str, str, int], ...] = ()
    """Name, protocol and number of each named port of its containers."""

    @staticmethod
    def of(item: Mapping[str, Any]) -> Pod | None:
        """Return the pod of an object of the API, or None if it has no address in the pod network."""
        spec, status = item["spec"], item.get("status") or {}
        address = status.get("podIP")
        if not address or spec.get("hostNetwork") or status.get("phase") in _ENDED:
            return None
        ports = [port for container in spec["containers"] for port in container.get("ports") or () if port.get("name")]
        named = tuple((port["name"], port.get("protocol", "TCP"), port["containerPort"]) for port in ports)
        return Pod(item["metadata"]["namespace"], address, item["metadata"].get("labels") or {}, named)


def compile_rules(
    policies: Sequence[Mapping[str, Any]], pods: Sequence[Pod], namespaces: Mapping[str, Mapping[str, str]], pod_network: str
) -> str:
    """Return the input of ``iptables-restore --noflush`` that replaces all rules of :data:`CHAIN`.

    Args:
        policies: NetworkPolicy objects of all namespaces.
        pods: All pods with an address in the pod network.
        namespaces: Labels of each namespace by its name.
        pod_network: The addresses of pods, in CIDR notation.
    """
    peers = _Peers(pods, namespaces)
    chains: dict[str, list[str]] = {}
    jumps = ["-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"]
    for pod in sorted(pods, key=lambda pod: ipaddress.ip_address(pod.address)):
        own = [policy for policy in policies if policy["metadata"]["namespace"] == pod.namespace and _selects(policy, pod)]
        for kind, option in (("Egress", "-s"), ("Ingress", "-d")):
            isolating = [policy for policy in own if kind in _types(policy)]
            if isolating:
                name = f"{kind.upper()}-{pod.address}"
                allowed = [rule for policy in isolating for rule in _allowed(policy, kind, pod, peers)]
                chains[name] = [*(f"{rule} -j RETURN" for rule in dict.fromkeys(allowed)), "-j REJECT --reject-with icmp-admin-prohibited"]
                jumps.append(f"{option} {pod.address}/32 -j {name}")
    gateway = str(next(ipaddress.ip_network(pod_network).hosts()))
    for name, option in (("KNOWN-SOURCE", "-s"), ("KNOWN-DESTINATION", "-d")):
        chains[name] = [*(f"{option} {address}/32 -j RETURN" for address in (gateway, *(pod.address for pod in pods))), "-j DROP"]
        jumps.append(f"{option} {pod_network} -j {name}")
    lines = [f":{name} - [0:0]" for name in (CHAIN, *chains)]
    lines += [f"-A {CHAIN} {rule}" for rule in jumps]
    lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def _types(policy: Mapping[str, Any]) -> tuple[str, ...]:
    spec = policy["spec"]
    return tuple(spec.get("policyTypes") or ("Ingress", *(("Egress",) if spec.get("egress") else ())))


def _selects(policy: Mapping[str, Any], pod: Pod) -> bool:
    return matches(policy["spec"].get("podSelector") or {}, pod.labels)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector of the API selects ``labels``. An empty selector selects everything."""
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(item, labels) for item in selector.get("matchExpressions") or ())


def _expression(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    present, listed = item["key"] in labels, labels.get(item["key"]) in (item.get("values") or ())
    return {"In": listed, "NotIn": not listed, "Exists": present, "DoesNotExist": not present}[item["operator"]]


@dataclass(frozen=True)
class _Peers:
    pods: Sequence[Pod]
    namespaces: Mapping[str, Mapping[str, str]]

    def selected(self, peer: Mapping[str, Any], namespace: str) -> list[Pod]:
        """Return the pods that a peer of a policy in ``namespace`` selects."""
        spaces = {namespace}
        if "namespaceSelector" in peer:
            spaces = {name for name, labels in self.namespaces.items() if matches(peer["namespaceSelector"], labels)}
        return [pod for pod in self.pods if pod.namespace in spaces and matches(peer.get("podSelector") or {}, pod.labels)]


def _allowed(policy: Mapping[str, Any], kind: str, pod: Pod, peers: _Peers) -> Iterator[str]:
    """Yield the matches of what one policy allows ``pod``, without their target."""
    option = "-d" if kind == "Egress" else "-s"
    for rule in policy["spec"].get(kind.lower()) or ():
        sides = rule.get("to" if kind == "Egress" else "from") or ()
        found = [item for side in sides if "ipBlock" not in side for item in peers.selected(side, pod.namespace)]
        networks = [network for side in sides if "ipBlock" in side for network in _networks(side["ipBlock"])]
        where = [f"{option} {address}" for address in (*(f"{item.address}/32" for item in found), *networks)] if sides else [""]
        ports: Sequence[Mapping[str, Any]] = rule.get("ports") or ({},)
        for port in ports:
            if kind == "Egress" and isinstance(port.get("port"), str):
                # The name stands for a port of the pod that is connected to, so each of them may have another number.
                targets = found if sides else peers.pods
                yield from (f"-d {target.address}/32 {_port(item)}" for target in targets for item in _numbered(port, target))
            else:
                yield from (f"{side} {_port(item)}".strip() for side in where for item in _numbered(port, pod))


def _networks(block: Mapping[str, Any]) -> list[str]:
    """Return the addresses of an ``ipBlock`` without its exceptions, as few networks as possible."""
    found: list[Any] = [ipaddress.ip_network(block["cidr"])]
    for text in block.get("except") or ():
        hole: Any = ipaddress.ip_network(text)
        found = [part for network in found for part in (network.address_exclude(hole) if hole.subnet_of(network) else [network])]
    return [str(network) for network in sorted(found)]


def _numbered(port: Mapping[str, Any], pod: Pod) -> list[Mapping[str, Any]]:
    """Return a port of a policy with its number, or nothing if ``pod`` has no port with its name."""
    if not isinstance(port.get("port"), str):
        return [port]
    wanted = (port["port"], port.get("protocol", "TCP"))
    return [{**port, "port": number} for name, protocol, number in pod.ports if (name, protocol) == wanted]


def _port(port: Mapping[str, Any]) -> str:
    if not port:
        return ""
    protocol = f"-p {port.get('protocol', 'TCP').lower()}"
    if "port" not in port:
        return protocol
    last = f":{port['endPort']}" if "endPort" in port else ""
    return f"{protocol} --dport {port['port']}{last}"
