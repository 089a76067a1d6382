"""NetworkPolicies as rules of iptables, as the test cluster enforces them."""

from __future__ import annotations

from typing import Any

import pytest

from tools.cluster.network_rules import CHAIN, Pod, compile_rules, matches

NETWORK = "10.91.0.0/24"
NAMESPACES = {"runs": {"name": "runs"}, "dns": {"name": "dns"}, "other": {}}
DRIVER = Pod("runs", "10.91.0.2", {"app": "spark", "role": "driver"}, (("blocks", "TCP", 7079),))
EXECUTOR = Pod("runs", "10.91.0.3", {"app": "spark", "role": "executor"}, (("blocks", "TCP", 7080), ("blocks", "UDP", 1)))
NAMES = Pod("dns", "10.91.0.4", {"app": "dns"})
PODS = (DRIVER, EXECUTOR, NAMES)
REJECT = "-j REJECT --reject-with icmp-admin-prohibited"


def policy(selector: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "runs", "name": "p"}, "spec": {"podSelector": selector, **spec}}


def rules(*policies: dict[str, Any]) -> dict[str, list[str]]:
    """The rules of each chain."""
    found: dict[str, list[str]] = {}
    text = compile_rules(policies, PODS, NAMESPACES, NETWORK)
    assert text.startswith("*filter\n")
    assert text.endswith("\nCOMMIT\n")
    for line in text.splitlines()[1:-1]:
        if line.startswith(":"):
            found[line[1:].split()[0]] = []
        else:
            _, chain, rule = line.split(" ", 2)
            found[chain].append(rule.strip())
    return found


def egress(*items: dict[str, Any]) -> list[str]:
    return rules(policy({"matchLabels": {"role": "driver"}}, policyTypes=["Egress"], egress=list(items)))["EGRESS-10.91.0.2"]


def ingress(*items: dict[str, Any]) -> list[str]:
    return rules(policy({"matchLabels": {"role": "driver"}}, policyTypes=["Ingress"], ingress=list(items)))["INGRESS-10.91.0.2"]


def test_without_policies_known_pods_are_free_and_unknown_ones_are_dropped() -> None:
    found = rules()
    assert found[CHAIN] == [
        "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
        f"-s {NETWORK} -j KNOWN-SOURCE",
        f"-d {NETWORK} -j KNOWN-DESTINATION",
    ]
    # The first address is that of the node's bridge.
    known = [f"10.91.0.{number}/32 -j RETURN" for number in (1, 2, 3, 4)]
    assert found["KNOWN-SOURCE"] == [*(f"-s {item}" for item in known), "-j DROP"]
    assert found["KNOWN-DESTINATION"] == [*(f"-d {item}" for item in known), "-j DROP"]


def test_default_deny_rejects_everything_of_its_own_namespace_only() -> None:
    found = rules(policy({}, policyTypes=["Ingress", "Egress"]))
    isolated = {f"{kind}-10.91.0.{number}" for kind in ("EGRESS", "INGRESS") for number in (2, 3)}
    assert {name for name in found if name.partition("-")[0] in ("EGRESS", "INGRESS")} == isolated
    assert all(found[name] == [REJECT] for name in isolated)
    assert "-s 10.91.0.2/32 -j EGRESS-10.91.0.2" in found[CHAIN]
    assert "-d 10.91.0.3/32 -j INGRESS-10.91.0.3" in found[CHAIN]


def test_policies_of_a_pod_add_up() -> None:
    first = policy({}, policyTypes=["Egress"])
    second = policy({"matchLabels": {"app": "spark"}}, policyTypes=["Egress"], egress=[{"ports": [{"port": 443}]}])
    assert rules(first, second)["EGRESS-10.91.0.2"] == ["-p tcp --dport 443 -j RETURN", REJECT]


@pytest.mark.parametrize(
    ("spec", "isolated"),
    [({}, ["INGRESS"]), ({"egress": [{}]}, ["EGRESS", "INGRESS"]), ({"policyTypes": ["Egress"]}, ["EGRESS"])],
)
def test_kinds_that_a_policy_does_not_name_follow_from_its_rules(spec: dict[str, Any], isolated: list[str]) -> None:
    found = rules(policy({"matchLabels": {"role": "driver"}}, **spec))
    assert sorted(name.partition("-")[0] for name in found if name.endswith("-10.91.0.2")) == isolated


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({}, [""]),
        ({"ports": [{"protocol": "UDP", "port": 53}, {"port": 53}]}, ["-p udp --dport 53", "-p tcp --dport 53"]),
        ({"ports": [{"protocol": "SCTP"}]}, ["-p sctp"]),
        ({"ports": [{"port": 7000, "endPort": 7099}]}, ["-p tcp --dport 7000:7099"]),
        ({"to": [{"podSelector": {"matchLabels": {"role": "executor"}}}]}, ["-d 10.91.0.3/32"]),
        ({"to": [{"podSelector": {}}], "ports": [{"port": 1}]}, ["-d 10.91.0.2/32 -p tcp --dport 1", "-d 10.91.0.3/32 -p tcp --dport 1"]),
        ({"to": [{"namespaceSelector": {"matchLabels": {"name": "dns"}}}]}, ["-d 10.91.0.4/32"]),
        ({"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "dns"}}}]}, ["-d 10.91.0.4/32"]),
        ({"to": [{"namespaceSelector": {"matchLabels": {"name": "none"}}}]}, []),
        ({"to": [{"ipBlock": {"cidr": "10.0.0.0/30", "except": ["10.0.0.1/32"]}}]}, ["-d 10.0.0.0/32", "-d 10.0.0.2/31"]),
        ({"to": [{"ipBlock": {"cidr": "10.0.0.0/30", "except": ["11.0.0.0/8"]}}]}, ["-d 10.0.0.0/30"]),
        # A port by its name has the number that each peer gives it.
        ({"ports": [{"port": "blocks"}]}, ["-d 10.91.0.2/32 -p tcp --dport 7079", "-d 10.91.0.3/32 -p tcp --dport 7080"]),
        ({"to": [{"podSelector": {"matchLabels": {"role": "executor"}}}], "ports": [{"port": "none"}]}, []),
    ],
)
def test_egress_allows_what_the_rule_names(rule: dict[str, Any], allowed: list[str]) -> None:
    assert egress(rule) == [*(f"{item} -j RETURN".strip() for item in allowed), REJECT]


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (
            {"from": [{"podSelector": {"matchLabels": {"role": "executor"}}}], "ports": [{"port": "blocks"}]},
            ["-s 10.91.0.3/32 -p tcp --dport 7079"],
        ),
        ({"ports": [{"port": "blocks"}]}, ["-p tcp --dport 7079"]),
        ({"from": [{"ipBlock": {"cidr": "10.90.0.1/32"}}]}, ["-s 10.90.0.1/32"]),
    ],
)
def test_ingress_allows_what_the_rule_names(rule: dict[str, Any], allowed: list[str]) -> None:
    assert ingress(rule) == [*(f"{item} -j RETURN" for item in allowed), REJECT]


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ({"operator": "In", "values": ["driver"]}, [True, False, False]),
        ({"operator": "NotIn", "values": ["driver"]}, [False, True, True]),
        ({"operator": "Exists"}, [True, True, False]),
        ({"operator": "DoesNotExist"}, [False, False, True]),
    ],
)
def test_expressions_select_labels(expression: dict[str, Any], selected: list[bool]) -> None:
    selector = {"matchExpressions": [{"key": "role", **expression}]}
    assert [matches(selector, pod.labels) for pod in PODS] == selected


def test_pods_without_an_address_in_the_pod_network_are_left_out() -> None:
    def pod(status: dict[str, Any], **spec: Any) -> Pod | None:
        return Pod.of({"metadata": {"namespace": "runs"}, "spec": {"containers": [], **spec}, "status": status})

    assert pod({"phase": "Running", "podIP": "10.91.0.9"}) == Pod("runs", "10.91.0.9")
    assert pod({"phase": "Pending"}) is None
    assert pod({"phase": "Succeeded", "podIP": "10.91.0.9"}) is None
    assert pod({"phase": "Running", "podIP": "10.90.0.1"}, hostNetwork=True) is None
