"""The proxy does to a request what the name of the fault says, once, and only to the request of the named activity."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from localcloud.launcher.processes import free_ports
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.faults.proxy import FAULTS, KILLS, LABEL, FaultProxy, Request, Rule, template
from tests.patience import PATIENCE

BODY = {"value": "x" * 1000}
PUT = Request("service", "PUT", "/items/*")


class Service:
    """A service that counts the requests that have an effect."""

    def __init__(self) -> None:
        self.effects = 0
        self.acted = threading.Condition()
        self.app = Starlette(routes=[Route("/items/{name}", self._put, methods=["PUT"])])

    async def _put(self, request: HttpRequest) -> JSONResponse:
        assert await request.json() == BODY
        assert LABEL not in request.headers
        with self.acted:
            self.effects += 1
            self.acted.notify_all()
        return JSONResponse(BODY)


@pytest.fixture(scope="module")
def proxied(local_authority: LocalAuthority) -> Iterator[tuple[FaultProxy, Service, str]]:
    service, tls, [port] = Service(), local_authority.issue("proxied"), free_ports(1)
    with FaultProxy().running() as proxy, serving(service.app, "proxied", tls) as url:
        proxy.listen("service", port, tls)
        proxy.forward("service", url)
        yield proxy, service, f"https://localhost:{port}"


def put(url: str, ca: LocalAuthority, label: str = "workflow|write|1", name: str = "item-1") -> Any:
    """Send one request, and return its status or the name of the client's error."""
    tls = ssl.create_default_context(cafile=str(ca.ca_file))
    with httpx.Client(verify=tls, trust_env=False, timeout=httpx.Timeout(20, read=0.5 if "slow" in label else 20)) as client:
        try:
            answer = client.put(f"{url}/items/{name}", json=BODY, headers={LABEL: label} if label else {})
        except httpx.HTTPError as error:
            return type(error).__name__
        return answer.status_code, answer.headers.get("retry-after")


OK = (200, None)
BROKEN = ("ReadError", "RemoteProtocolError", "ConnectError", "WriteError")
EXPECTED = {
    "429": (((429, "1"),), 0),
    "500": (((500, None),), 0),
    "503": (((503, None),), 0),
    "reset": (BROKEN, 0),
    "slow": (("ReadTimeout",), 1),
    "lost": (BROKEN, 1),
    "cut": (BROKEN, 1),
    "twice": ((OK,), 2),
    "late": (BROKEN, 1),
    "service killed before": (BROKEN, 0),
    "service killed after": (BROKEN, 1),
}
"""What the client sees, and how often the service acts."""


def test_every_fault_is_expected() -> None:
    assert set(EXPECTED) == {*FAULTS, *KILLS}


@pytest.mark.parametrize("fault", EXPECTED)
def test_a_request_meets_its_fault_once(proxied: tuple[FaultProxy, Service, str], local_authority: LocalAuthority, fault: str) -> None:
    proxy, service, url = proxied
    answers, effects = EXPECTED[fault]
    killed: list[str] = []
    proxy.kill = killed.append
    activity = f"write {fault}"
    rule = Rule("workflow", activity, PUT, fault)
    proxy.rules = [rule]
    service.effects = 0
    assert put(url, local_authority, "workflow|another|1") == OK
    assert put(url, local_authority, "") == OK
    assert (service.effects, rule.hits) == (2, 0)
    assert put(url, local_authority, f"workflow|{activity}|1") in answers
    with service.acted:
        assert service.acted.wait_for(lambda: service.effects == 2 + effects, PATIENCE)
    assert killed == (["service"] if fault in KILLS else [])
    assert put(url, local_authority, f"workflow|{activity}|2") == OK
    assert (service.effects, rule.hits) == (3 + effects, 1)


def test_calls_are_recorded_with_their_activity(proxied: tuple[FaultProxy, Service, str], local_authority: LocalAuthority) -> None:
    proxy, _, url = proxied
    proxy.rules, proxy.calls = [], []
    put(url, local_authority, "workflow|write|3")
    put(url, local_authority, "")
    assert [(call.workflow, call.activity, call.attempt, call.request) for call in proxy.calls] == [("workflow", "write", 3, PUT)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/app/userdocuments/cell-00001", "/app/userdocuments/*"),
        ("/app/userdocuments/approver-key.0b1c", "/app/userdocuments/approver-key.*"),
        (
            "/apis/sparkoperator.k8s.io/v1beta2/namespaces/analytics/sparkapplications",
            "/apis/*/v1beta2/namespaces/analytics/sparkapplications",
        ),
        ("/api/v1/namespaces/analytics/pods?labelSelector=a%3Db&watch=true", "/api/v1/namespaces/analytics/pods?watch"),
        ("/app/tx?transaction_id=2.17", "/app/tx"),
        ("/app/contracts/flights/events?id=a&from_seqno=1", "/app/contracts/flights/events?from_seqno"),
    ],
)
def test_template_leaves_names_and_numbers_out(target: str, expected: str) -> None:
    assert template(target) == expected
